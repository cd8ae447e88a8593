"""The commands of registration, as one table: who may, which stream, what must be known, and what decides."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Annotated, Any, Final, Literal, Protocol
from uuid import UUID, uuid5

from pydantic import AfterValidator, AwareDatetime, BaseModel, Field, StringConstraints

from services.registration.domain import activity, device, programme, role, volunteer
from services.registration.programme_file import CODE, FILE_CHARACTERS_MAX, NAMESPACE, read_programme
from shared.application import AcknowledgeErasure, Aggregate, Asked, Claim, Claims, Nothing, Plan, UseCase, acknowledging_erasure
from shared.calendar import working_day_after
from shared.clock import civil_date, civil_midnight
from shared.contracts.event import Event, Refusal, RefusalText
from shared.contracts.registration import (
    ActivityPublished,
    ConsentKind,
    DeviceKeyIssued,
    DeviceLoss,
    ErasureDeclineReason,
    PersonalDataErased,
    Position,
    RoleGranted,
    RoleWithdrawn,
    VolunteerRegistered,
)
from shared.contracts.topics import SERVICES
from shared.envelope import Stream
from shared.networks import read_network
from shared.permissions import Role

Line = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"\S")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=r"\S")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"\S")]
Instant = Annotated[
    AwareDatetime,
    Field(ge=datetime(2000, 1, 1, tzinfo=UTC), lt=datetime(2200, 1, 1, tzinfo=UTC)),
    AfterValidator(lambda instant: instant.astimezone(UTC)),
]
Code = Annotated[str, StringConstraints(max_length=60, pattern=CODE)]
NetworkText = Annotated[str, StringConstraints(max_length=43), AfterValidator(read_network)]
RoleName = Literal["bureau_admin", "unit_admin", "activity_leader", "volunteer", "kiosk", "auditor", "ops"]


class LookUps(Protocol):
    """What must be known before deciding; `services.registration.inbox.LookUps` reads it."""

    async def is_unit_known(self, code: str) -> bool:
        """Whether a unit of this code is registered."""

    async def words(self, year: int) -> Mapping[activity.WordKind, frozenset[str]]:
        """The codes that the programme of a year names, by kind; none when there is no programme."""

    async def person(self, volunteer_id: UUID) -> activity.Person | Literal["parked"] | None:
        """What is known of a volunteer who wants a seat; None for somebody who never registered, `parked` while nobody knows."""

    async def live_enrollments(self, volunteer_id: UUID) -> Sequence[UUID]:
        """The activities in which a person has a seat, an offer or a place on the wait-list, and that are still to be held."""


class ProposeProgramme(BaseModel):
    """A programme file, as text; it counts once another person has approved it."""

    file: Annotated[str, StringConstraints(min_length=1, max_length=FILE_CHARACTERS_MAX)] = Field(
        description="the YAML file, whole; see deploy/sample/programme-2017.yaml"
    )


class GrantRole(BaseModel):
    """A role for one unit."""

    role: RoleName
    unit_code: Code


class WithdrawRole(BaseModel):
    """The role that is no longer the person's, and why; the reason is not kept of a person whose data was erased."""

    role: RoleName
    unit_code: Code
    reason: Line


class IssueDeviceKey(BaseModel):
    """A device's key, by its digest: the device makes 32 random bytes itself and gives out nothing else."""

    unit_code: Code
    name: Line = Field(description="what the device is called, such as where it stands; no person's name")
    key_digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] = Field(
        description="SHA-256 of the key as the device sends it (`lfd_` and 43 characters), in hexadecimal digits"
    )
    networks: Annotated[tuple[NetworkText, ...], Field(min_length=1, max_length=20)] = Field(
        description="from where the key counts: networks as `10.20.0.0/16` or `2001:db8:1::/48`, or single addresses"
    )


class RevokeDeviceKey(BaseModel):
    """Why the key is to open nothing any more."""

    reason: DeviceLoss


class RegisterVolunteer(BaseModel):
    """Who registers. A volunteer registers themself; an admin of the unit may do it for them, on their consent."""

    volunteer_id: UUID | None = Field(default=None, description="by proxy: the person's id where they have one already")
    unit_code: Code
    name: Name
    id_number: Annotated[str, StringConstraints(min_length=18, max_length=18)] = Field(description="resident's ID number, GB 11643")
    phone: Annotated[str, StringConstraints(max_length=20)] | None = None
    skills: Annotated[tuple[Line, ...], Field(max_length=20)] = ()
    consents: Annotated[tuple[ConsentKind, ...], Field(max_length=2)] = Field(description="`register` is needed, `be_named` is separate")
    consent_text_version: Line
    guardian_name: Name | None = Field(default=None, description="the guardian who agreed, for a person under 18")


class GiveConsent(BaseModel):
    """One thing that the person agrees to; for a minor the guardian is named."""

    consent: ConsentKind
    text_version: Line
    guardian_name: Name | None = None


class WithdrawConsent(BaseModel):
    """One thing that the person no longer agrees to."""

    consent: ConsentKind


class RequestErasure(BaseModel):
    """Why the person's data are to be erased; it goes with them."""

    reason: Line | None = None


class DeclineErasure(BaseModel):
    """Why they are not erased."""

    reason_code: ErasureDeclineReason


class RecordErasureReceipt(BaseModel):
    """Another service says that it has done its part, at this position of its log."""

    service: Literal["hours", "recognition"]
    position: int


class PositionAsked(BaseModel):
    """A position of an activity and how many it needs."""

    code: Code
    name: Line
    capacity: int = Field(ge=1, le=10_000)
    duties: Annotated[str, StringConstraints(max_length=2000)] = ""


class PublishActivity(BaseModel):
    """A complete plan: time, place, positions, risk (notice 七(一))."""

    unit_code: Code
    title: Line
    carrier: Code = Field(description="a carrier of the programme of the year in which it starts")
    target_group: Code | None = None
    occasion: Code | None = None
    place: Line
    starts_at: Instant
    ends_at: Instant
    positions: Annotated[tuple[PositionAsked, ...], Field(min_length=1, max_length=50)]
    wait_list_max: int = Field(default=20, ge=0, le=10_000)
    risk_note: Annotated[str, StringConstraints(max_length=2000)] = ""
    has_risk: bool = False
    insurance: Line | None = None


class ChangeCapacity(BaseModel):
    """Another number of seats for one position."""

    position: Code
    capacity: int = Field(ge=0, le=10_000)


class HoldActivity(BaseModel):
    """What came of it (notice 七(二))."""

    result: Text


class CancelActivity(BaseModel):
    """Why it will not take place."""

    reason: Text


class Enroll(BaseModel):
    """Who wants to serve where."""

    volunteer_id: UUID
    position: Code
    override_reason: Line | None = Field(default=None, description="a coordinator's reason to allow overlapping times")


class AcceptOffer(BaseModel):
    """Takes the seat on offer."""

    override_reason: Line | None = Field(default=None, description="a coordinator's reason to allow overlapping times")


class WithdrawEnrollment(BaseModel):
    """Gives up a seat, an offer or a place on the wait-list."""

    reason: Literal["volunteer_withdrew", "organiser_removed"] = "volunteer_withdrew"


class ReleaseSeat(BaseModel):
    """Whose seat, offer or place on the wait-list is given back, and why they may not have it any more."""

    volunteer_id: UUID
    reason: Literal["left_programme", "consent_withdrawn"]


class ExpireOffer(BaseModel):
    """Whose offer is due to lapse."""

    volunteer_id: UUID


PROGRAMME: Final = Aggregate("programme", programme.Programmes(), programme.evolve)
ROLE: Final = Aggregate("role", role.Roles(), role.evolve)
DEVICE: Final = Aggregate("device", device.Device(), device.evolve)
VOLUNTEER: Final = Aggregate("volunteer", volunteer.Volunteer(), volunteer.evolve)
ACTIVITY: Final[Aggregate[activity.Activity | None]] = Aggregate("activity", None, activity.evolve)

PROPOSAL_WORKING_DAYS: Final = 5
"""So long a proposed programme waits for a second person, to the end of the last of these days."""

PROGRAMME_STREAM: Final = Stream("programme", uuid5(NAMESPACE, "programme"))


def volunteer_number(command_id: UUID) -> str:
    """A public number, drawn from the command and not from the person, so that a new attempt draws another one if it is taken."""
    return f"V{int.from_bytes(sha256(command_id.bytes).digest()) % 10**12:012d}"


def reply_by(now: datetime) -> datetime:
    """Until when an offer made at `now` may stand: the end of the bureau's next working day."""
    return civil_midnight(working_day_after(civil_date(now), 1) + timedelta(days=1))


def approve_by(now: datetime) -> datetime:
    """Until when a programme proposed at `now` may be approved."""
    return civil_midnight(working_day_after(civil_date(now), PROPOSAL_WORKING_DAYS) + timedelta(days=1))


def _on_programmes(command: programme.ProgrammeCommand, *, keep_answer: bool = True) -> Plan[programme.Programmes]:
    return Plan(PROGRAMME_STREAM, PROGRAMME, lambda state: programme.decide(state, command), keep_answer)


async def _propose_programme(asked: Asked[ProposeProgramme], _lookups: LookUps) -> Plan[programme.Programmes]:
    file = await asyncio.to_thread(read_programme, asked.body.file)  # A large file takes a while; others are served meanwhile.
    if isinstance(file, Refusal):
        return Plan(PROGRAMME_STREAM, PROGRAMME, lambda _: file)
    return _on_programmes(programme.ProposeProgramme(file, asked.actor, asked.now, approve_by(asked.now)))


async def _approve_programme(asked: Asked[Nothing], _lookups: LookUps) -> Plan[programme.Programmes]:
    return _on_programmes(programme.ApproveProgramme(asked.ids["proposal_id"], asked.actor, asked.now))


async def _decline_programme(asked: Asked[Nothing], _lookups: LookUps) -> Plan[programme.Programmes]:
    return _on_programmes(programme.DeclineProgramme(asked.ids["proposal_id"], asked.actor))


async def _lapse_programme(asked: Asked[Nothing], _lookups: LookUps) -> Plan[programme.Programmes]:
    return _on_programmes(programme.LapseProgramme(asked.ids["proposal_id"], asked.now), keep_answer=False)  # As with an offer (D10).


async def _grant_role(asked: Asked[GrantRole], lookups: LookUps) -> Plan[role.Roles]:
    person_id, body = asked.ids["person_id"], asked.body
    # The first roles are given in the service's own name, before there are units.
    is_unit_known = asked.actor.role is Role.SYSTEM or await lookups.is_unit_known(body.unit_code)
    person = await lookups.person(person_id)
    is_erased = person is not None and person != "parked" and person.standing == "erased"
    fact = RoleGranted(person_id=person_id, role=body.role, unit_code=body.unit_code)

    def decide(roles: role.Roles) -> Sequence[Event] | Refusal:
        if is_erased:
            return Refusal("person_erased")
        return role.grant(roles, fact) if is_unit_known else Refusal("unit_unknown")

    return Plan(Stream("role", person_id), ROLE, decide)


async def _withdraw_role(asked: Asked[WithdrawRole], lookups: LookUps) -> Plan[role.Roles]:
    person_id, body = asked.ids["person_id"], asked.body
    person = await lookups.person(person_id)
    # Of a person who was erased, or may have been, no text can be sealed; the role goes all the same.
    may_seal = person is None or (person != "parked" and person.standing != "erased")
    reason = body.reason if may_seal else None
    fact = RoleWithdrawn(person_id=person_id, role=body.role, unit_code=body.unit_code, reason=reason)
    return Plan(Stream("role", person_id), ROLE, lambda roles: role.withdraw(roles, fact))


async def _issue_device_key(asked: Asked[IssueDeviceKey], lookups: LookUps) -> Plan[device.Device]:
    body, device_id = asked.body, uuid5(asked.command_id, "device")
    command = device.IssueDeviceKey(
        device_id=device_id,
        asker=asked.actor,
        unit_code=body.unit_code,
        is_unit_known=await lookups.is_unit_known(body.unit_code),
        name=body.name,
        key_digest=body.key_digest,
        networks=body.networks,
        now=asked.now,
    )
    return Plan(Stream("device", device_id), DEVICE, lambda state: device.decide(state, command))


async def _revoke_device_key(asked: Asked[RevokeDeviceKey], _lookups: LookUps) -> Plan[device.Device]:
    device_id = asked.ids["device_id"]
    command = device.RevokeDeviceKey(device_id, asked.actor, asked.body.reason)
    return Plan(Stream("device", device_id), DEVICE, lambda state: device.decide(state, command))


def _on_volunteer(volunteer_id: UUID, command: volunteer.VolunteerCommand) -> Plan[volunteer.Volunteer]:
    return Plan(Stream("volunteer", volunteer_id), VOLUNTEER, lambda state: volunteer.decide(state, command))


async def _register_volunteer(asked: Asked[RegisterVolunteer], lookups: LookUps) -> Plan[volunteer.Volunteer]:
    body, asker = asked.body, asked.actor
    own = asked.actor.person_id if asker.reach == "own" else uuid5(asked.command_id, "volunteer")
    volunteer_id = body.volunteer_id or own
    command = volunteer.RegisterVolunteer(
        volunteer_id=volunteer_id,
        asker=asker,
        number=volunteer_number(asked.command_id),
        unit_code=body.unit_code,
        is_unit_known=await lookups.is_unit_known(body.unit_code),
        name=body.name,
        id_number=body.id_number,
        phone=body.phone,
        skills=body.skills,
        consents=frozenset(body.consents),
        text_version=body.consent_text_version,
        guardian_name=body.guardian_name,
        today=civil_date(asked.now),
    )
    return _on_volunteer(volunteer_id, command)


async def _give_consent(asked: Asked[GiveConsent], _lookups: LookUps) -> Plan[volunteer.Volunteer]:
    volunteer_id, body = asked.ids["volunteer_id"], asked.body
    command = volunteer.GiveConsent(volunteer_id, asked.actor, body.consent, body.text_version, body.guardian_name, civil_date(asked.now))
    return _on_volunteer(volunteer_id, command)


async def _withdraw_consent(asked: Asked[WithdrawConsent], _lookups: LookUps) -> Plan[volunteer.Volunteer]:
    volunteer_id = asked.ids["volunteer_id"]
    return _on_volunteer(volunteer_id, volunteer.WithdrawConsent(volunteer_id, asked.actor, asked.body.consent))


async def _leave_programme(asked: Asked[Nothing], _lookups: LookUps) -> Plan[volunteer.Volunteer]:
    volunteer_id = asked.ids["volunteer_id"]
    return _on_volunteer(volunteer_id, volunteer.LeaveProgramme(volunteer_id, asked.actor))


async def _request_erasure(asked: Asked[RequestErasure], _lookups: LookUps) -> Plan[volunteer.Volunteer]:
    volunteer_id = asked.ids["volunteer_id"]
    return _on_volunteer(volunteer_id, volunteer.RequestErasure(volunteer_id, asked.actor, asked.body.reason))


async def _approve_erasure(asked: Asked[Nothing], _lookups: LookUps) -> Plan[volunteer.Volunteer]:
    volunteer_id = asked.ids["volunteer_id"]
    return _on_volunteer(volunteer_id, volunteer.ApproveErasure(volunteer_id, asked.actor))


async def _decline_erasure(asked: Asked[DeclineErasure], _lookups: LookUps) -> Plan[volunteer.Volunteer]:
    volunteer_id = asked.ids["volunteer_id"]
    return _on_volunteer(volunteer_id, volunteer.DeclineErasure(volunteer_id, asked.actor, asked.body.reason_code))


async def _acknowledge_erasure(asked: Asked[AcknowledgeErasure], _lookups: LookUps) -> Plan[volunteer.Volunteer]:
    body = asked.body
    return _on_receipt(asked, "registration", body.erased_position, sign_in_destroyed=body.sign_in_destroyed)


async def _record_erasure_receipt(asked: Asked[RecordErasureReceipt], _lookups: LookUps) -> Plan[volunteer.Volunteer]:
    return _on_receipt(asked, asked.body.service, asked.body.position)


def _on_receipt(asked: Asked[Any], service: str, position: int, *, sign_in_destroyed: bool = False) -> Plan[volunteer.Volunteer]:
    volunteer_id = asked.ids["volunteer_id"]
    command = volunteer.RecordReceipt(volunteer_id, asked.actor, service, position, frozenset(SERVICES), sign_in_destroyed)
    return _on_volunteer(volunteer_id, command)


async def _withdraw_roles_of_erased(asked: Asked[Nothing], _lookups: LookUps) -> Plan[role.Roles]:
    person_id = asked.ids["person_id"]
    return Plan(Stream("role", person_id), ROLE, lambda roles: role.withdraw_all(roles, person_id))


def _on_activity(activity_id: UUID, command: activity.ActivityCommand, *, keep_answer: bool = True) -> Plan[activity.Activity | None]:
    return Plan(Stream("activity", activity_id), ACTIVITY, lambda state: activity.decide(state, command), keep_answer)


async def _publish_activity(asked: Asked[PublishActivity], lookups: LookUps) -> Plan[activity.Activity | None]:
    body, activity_id = asked.body, uuid5(asked.command_id, "activity")
    positions = tuple(Position(code=each.code, name=each.name, capacity=each.capacity, duties=each.duties) for each in body.positions)
    published = ActivityPublished(
        activity_id=activity_id,
        unit_code=body.unit_code,
        title=body.title,
        carrier=body.carrier,
        target_group=body.target_group,
        occasion=body.occasion,
        place=body.place,
        starts_at=body.starts_at,
        ends_at=body.ends_at,
        positions=positions,
        wait_list_max=body.wait_list_max,
        risk_note=body.risk_note,
        has_risk=body.has_risk,
        insurance=body.insurance,
    )
    command = activity.PublishActivity(
        activity=published,
        asker=asked.actor,
        now=asked.now,
        is_unit_known=await lookups.is_unit_known(body.unit_code),
        words=await lookups.words(civil_date(body.starts_at).year),
    )
    return _on_activity(activity_id, command)


async def _change_capacity(asked: Asked[ChangeCapacity], _lookups: LookUps) -> Plan[activity.Activity | None]:
    body = asked.body
    command = activity.ChangeCapacity(body.position, body.capacity, asked.actor, asked.now, reply_by(asked.now))
    return _on_activity(asked.ids["activity_id"], command)


async def _hold_activity(asked: Asked[HoldActivity], _lookups: LookUps) -> Plan[activity.Activity | None]:
    return _on_activity(asked.ids["activity_id"], activity.HoldActivity(asked.body.result, asked.actor, asked.now))


async def _cancel_activity(asked: Asked[CancelActivity], _lookups: LookUps) -> Plan[activity.Activity | None]:
    return _on_activity(asked.ids["activity_id"], activity.CancelActivity(asked.body.reason, asked.actor))


def _on_seat(
    asked: Asked[Any],
    person: activity.Person | Literal["parked"] | None,
    command: Callable[[activity.Person | None], activity.ActivityCommand],
    *,
    may_clash: bool,
) -> Plan[activity.Activity | None]:
    """What concerns a person's seat, unless what must be known of the person is parked: then nothing is decided, nor kept as an answer."""
    activity_id = asked.ids["activity_id"]
    if person == "parked" or (may_clash and person is not None and person.has_parked_seats):
        return Plan(Stream("activity", activity_id), ACTIVITY, lambda _: Refusal("record_parked"), keep_answer=False)
    return _on_activity(activity_id, command(person))


async def _enroll(asked: Asked[Enroll], lookups: LookUps) -> Plan[activity.Activity | None]:
    body, asker = asked.body, asked.actor
    return _on_seat(
        asked,
        await lookups.person(body.volunteer_id),
        lambda person: activity.Enroll(body.volunteer_id, person, body.position, body.override_reason, asker, asked.now),
        may_clash=True,
    )


async def _accept_offer(asked: Asked[AcceptOffer], lookups: LookUps) -> Plan[activity.Activity | None]:
    volunteer_id, body, asker = asked.ids["volunteer_id"], asked.body, asked.actor
    return _on_seat(
        asked,
        await lookups.person(volunteer_id),
        lambda person: activity.AcceptOffer(volunteer_id, person, body.override_reason, asker, asked.now),
        may_clash=True,
    )


async def _withdraw_enrollment(asked: Asked[WithdrawEnrollment], lookups: LookUps) -> Plan[activity.Activity | None]:
    volunteer_id, body, asker = asked.ids["volunteer_id"], asked.body, asked.actor
    return _on_seat(
        asked,
        await lookups.person(volunteer_id),
        lambda person: activity.WithdrawEnrollment(volunteer_id, person, body.reason, asker, asked.now, reply_by(asked.now)),
        may_clash=False,
    )


async def _release_seat(asked: Asked[ReleaseSeat], _lookups: LookUps) -> Plan[activity.Activity | None]:
    body = asked.body
    return _on_activity(asked.ids["activity_id"], activity.ReleaseSeat(body.volunteer_id, body.reason, asked.now, reply_by(asked.now)))


async def _expire_offer(asked: Asked[ExpireOffer], _lookups: LookUps) -> Plan[activity.Activity | None]:
    command = activity.ExpireOffer(asked.body.volunteer_id, asked.now, reply_by(asked.now))
    return _on_activity(asked.ids["activity_id"], command, keep_answer=False)  # "Not due" is never kept as an answer (D10).


_BUREAU: Final = frozenset({Role.BUREAU_ADMIN})
_ORGANISERS: Final = frozenset({Role.BUREAU_ADMIN, Role.UNIT_ADMIN})
_LEADERS: Final = frozenset({Role.BUREAU_ADMIN, Role.UNIT_ADMIN, Role.ACTIVITY_LEADER})
_PERSONS: Final = frozenset({Role.BUREAU_ADMIN, Role.UNIT_ADMIN, Role.VOLUNTEER})
_ERASERS: Final = frozenset({Role.BUREAU_ADMIN, Role.VOLUNTEER})
"""An erasure cannot be undone: no unit's admin decides on one."""
_SYSTEM: Final = frozenset({Role.SYSTEM})

_RECORD: Final = ("volunteer_unknown", "not_own_record", "wrong_unit", "person_erased")
_SEATS: Final = ("activity_unknown", "activity_cancelled", "activity_over", "activity_started", "wrong_unit")
_PERSON: Final = ("volunteer_unknown", "not_own_record", "person_erased", "volunteer_left", "no_consent", "minor_in_risk_activity")
_CLASH: Final = ("record_parked", "time_clash", "override_not_allowed")


GRANT_ROLE: Final[UseCase[GrantRole, LookUps]] = UseCase(
    "grant_role", "/people/{person_id}/roles", GrantRole, _BUREAU, _grant_role, ("unit_unknown", "person_erased"), "授权", "Grant a role"
)

WITHDRAW_ROLES_OF_ERASED: Final[UseCase[Nothing, LookUps]] = UseCase(
    "withdraw_roles_of_erased",
    None,
    Nothing,
    _SYSTEM,
    _withdraw_roles_of_erased,
    (),
    "撤销已删除者的角色",
    "Withdraw the roles of who was erased",
)

_ERASURE: Final = (*_RECORD, "erasure_not_requested")

ACKNOWLEDGE_ERASURE: Final[UseCase[AcknowledgeErasure, LookUps]] = acknowledging_erasure(_acknowledge_erasure, ("volunteer_unknown",))

RECORD_ERASURE_RECEIPT: Final[UseCase[RecordErasureReceipt, LookUps]] = UseCase(
    "record_erasure_receipt", None, RecordErasureReceipt, _SYSTEM, _record_erasure_receipt, ("volunteer_unknown",),
    "登记删除回执", "Record another service's receipt of an erasure",
)  # fmt: skip

RELEASE_SEAT: Final[UseCase[ReleaseSeat, LookUps]] = UseCase(
    "release_seat", None, ReleaseSeat, _SYSTEM, _release_seat, (*_SEATS, "not_enrolled"), "收回名额", "Give back a seat"
)

LAPSE_PROGRAMME: Final[UseCase[Nothing, LookUps]] = UseCase(
    "lapse_programme", None, Nothing, _SYSTEM, _lapse_programme, (), "方案提交到期", "Let a proposed programme lapse"
)

EXPIRE_OFFER: Final[UseCase[ExpireOffer, LookUps]] = UseCase(
    "expire_offer", None, ExpireOffer, _SYSTEM, _expire_offer, ("activity_unknown",), "递补到期", "Let an offer lapse"
)

USE_CASES: Final[tuple[UseCase[Any, LookUps], ...]] = (
    UseCase(
        "propose_programme", "/programmes", ProposeProgramme, _BUREAU, _propose_programme,
        ("programme_file_invalid", "programme_already_adopted", "programme_already_proposed", "unit_already_registered"),
        "提交年度活动方案", "Propose a year's programme and its units from a file",
    ),
    UseCase(
        "approve_programme", "/programmes/{proposal_id}/approve", Nothing, _BUREAU, _approve_programme,
        ("programme_not_proposed", "approver_is_requester", "proposal_lapsed"),
        "批准年度活动方案", "Adopt what was proposed, as the second person",
    ),
    UseCase(
        "decline_programme", "/programmes/{proposal_id}/decline", Nothing, _BUREAU, _decline_programme,
        ("programme_not_proposed",), "不予批准年度活动方案", "Reject what was proposed, or take it back",
    ),
    LAPSE_PROGRAMME,
    GRANT_ROLE,
    UseCase("withdraw_role", "/people/{person_id}/roles/withdraw", WithdrawRole, _BUREAU, _withdraw_role, (), "撤权", "Withdraw a role"),
    UseCase(
        "issue_device_key", "/devices", IssueDeviceKey, _ORGANISERS, _issue_device_key,
        ("wrong_unit", "unit_unknown", "device_key_used"), "登记设备密钥", "Let a device check people in, by its key",
    ),
    UseCase(
        "revoke_device_key", "/devices/{device_id}/revoke", RevokeDeviceKey, _ORGANISERS, _revoke_device_key,
        ("device_unknown", "wrong_unit"), "吊销设备密钥", "Revoke a device's key",
    ),
    UseCase(
        "register_volunteer", "/volunteers", RegisterVolunteer, _PERSONS, _register_volunteer,
        (*_RECORD, "already_registered", "unit_unknown", "id_number_invalid", "id_number_differs", "phone_invalid", "no_consent",
         "too_young_to_be_named",
         "id_number_taken", "volunteer_number_taken"),
        "志愿者注册", "Register a volunteer, by consent",
    ),
    UseCase(
        "give_consent", "/volunteers/{volunteer_id}/consents", GiveConsent, _PERSONS, _give_consent,
        (*_RECORD, "volunteer_left", "no_consent", "too_young_to_be_named"), "同意", "Give a consent",
    ),
    UseCase(
        "withdraw_consent", "/volunteers/{volunteer_id}/consents/withdraw", WithdrawConsent, _PERSONS, _withdraw_consent,
        _RECORD, "撤回同意", "Withdraw a consent",
    ),
    UseCase("leave_programme", "/volunteers/{volunteer_id}/leave", Nothing, _PERSONS, _leave_programme, _RECORD, "退出", "Leave"),
    UseCase(
        "request_erasure", "/volunteers/{volunteer_id}/erasure", RequestErasure, _ERASERS, _request_erasure,
        _RECORD, "申请删除个人信息", "Ask for the erasure of a person's data",
    ),
    UseCase(
        "approve_erasure", "/volunteers/{volunteer_id}/erasure/approve", Nothing, _BUREAU, _approve_erasure,
        (*_ERASURE, "approver_is_subject", "approver_is_requester"), "批准删除个人信息", "Approve an erasure, as the second person",
    ),
    UseCase(
        "decline_erasure", "/volunteers/{volunteer_id}/erasure/decline", DeclineErasure, _ERASERS, _decline_erasure,
        (*_ERASURE, "not_own_decision"), "不予删除个人信息", "Decline an erasure, or take the request back",
    ),
    ACKNOWLEDGE_ERASURE,
    RECORD_ERASURE_RECEIPT,
    UseCase(
        "publish_activity", "/activities", PublishActivity, _ORGANISERS, _publish_activity,
        ("wrong_unit", "unit_unknown", "end_before_start", "activity_too_long", "start_in_past", "programme_word_unknown",
         "position_doubled", "insurance_missing"),
        "发布活动", "Publish an activity",
    ),
    UseCase(
        "change_capacity", "/activities/{activity_id}/capacity", ChangeCapacity, _ORGANISERS, _change_capacity,
        (*_SEATS, "position_unknown", "capacity_below_seats_given"), "调整名额", "Change a position's seats",
    ),
    UseCase(
        "hold_activity", "/activities/{activity_id}/hold", HoldActivity, _LEADERS, _hold_activity,
        ("activity_unknown", "activity_cancelled", "activity_over", "activity_not_started", "wrong_unit"),
        "登记已举办", "Record that an activity was held",
    ),
    UseCase(
        "cancel_activity", "/activities/{activity_id}/cancel", CancelActivity, _ORGANISERS, _cancel_activity,
        ("activity_unknown", "activity_cancelled", "activity_over", "wrong_unit"), "取消活动", "Cancel an activity",
    ),
    UseCase(
        "enroll", "/activities/{activity_id}/enrollments", Enroll, _PERSONS, _enroll,
        (*_SEATS, *_PERSON, *_CLASH, "position_unknown", "already_enrolled", "activity_full"), "报名", "Enrol",
    ),
    UseCase(
        "accept_offer", "/activities/{activity_id}/enrollments/{volunteer_id}/accept", AcceptOffer, _PERSONS, _accept_offer,
        (*_SEATS, *_PERSON, *_CLASH, "no_offer", "offer_expired"), "确认递补", "Accept an offered seat",
    ),
    UseCase(
        "withdraw_enrollment", "/activities/{activity_id}/enrollments/{volunteer_id}/withdraw", WithdrawEnrollment,
        _PERSONS, _withdraw_enrollment, (*_SEATS, "record_parked", "volunteer_unknown", "not_own_record", "not_enrolled"),
        "取消报名", "Withdraw an enrolment",
    ),
    RELEASE_SEAT,
    WITHDRAW_ROLES_OF_ERASED,
    EXPIRE_OFFER,
)  # fmt: skip


REFUSALS: Final[Mapping[str, RefusalText]] = {
    "programme_file_invalid": RefusalText(422, "方案文件有错误, 未导入任何内容", "The programme file has errors; nothing was imported"),
    "programme_already_proposed": RefusalText(409, "该年度另有方案待批准", "Another file of that year waits: `proposal_id`"),
    "programme_not_proposed": RefusalText(404, "没有待批准的此方案", "No programme of this id waits for approval"),
    "proposal_lapsed": RefusalText(409, "已过批准期限, 请重新提交", "It is too late to approve it; propose the file again"),
    "programme_already_adopted": RefusalText(409, "该年度方案已制定, 内容不同", "The year's programme was adopted with another content"),
    "unit_already_registered": RefusalText(409, "该单位已登记, 内容不同", "The unit was registered with another content"),
    "unit_unknown": RefusalText(422, "没有此单位", "There is no such unit"),
    "wrong_unit": RefusalText(403, "只能办理本单位的事项", "The token's unit is not the one that this belongs to"),
    "not_own_record": RefusalText(403, "只能办理本人的事项", "A volunteer acts for themself only"),
    "device_unknown": RefusalText(404, "没有此设备", "There is no such device"),
    "device_key_used": RefusalText(409, "该密钥已登记过, 请另生成一个", "This key was given before: a device makes a new one"),
    "volunteer_unknown": RefusalText(404, "没有此志愿者", "There is no such volunteer"),
    "volunteer_left": RefusalText(409, "该志愿者已退出", "The volunteer has left the programme"),
    "person_erased": RefusalText(410, "该人的个人信息已删除", "The person's data was erased"),
    "erasure_not_requested": RefusalText(409, "没有待批准的删除申请", "No erasure of this person's data waits for anybody"),
    "approver_is_subject": RefusalText(403, "不得批准本人的删除申请", "Whose data it is does not approve their erasure"),
    "approver_is_requester": RefusalText(403, "申请人不得批准", "Who asked for it does not approve it"),
    "not_own_decision": RefusalText(403, "本人只能撤回申请", "The person may take the request back; only the bureau declines it"),
    "too_young_to_be_named": RefusalText(422, "未满十四周岁不得公开姓名", "Nobody under 14 is named in public, whoever consents"),
    "record_parked": RefusalText(409, "该志愿者的记录待人工处理", "The volunteer's record is parked; nothing can be decided on it now"),
    "already_registered": RefusalText(409, "已注册为志愿者", "The person is a volunteer already"),
    "id_number_invalid": RefusalText(422, "身份证号不正确", "The ID number is not one: its date or check digit is wrong"),
    "id_number_taken": RefusalText(409, "该身份证号已注册", "Somebody is registered with this ID number"),
    "id_number_differs": RefusalText(409, "与原登记的身份证号不符", "Who comes back has the ID number that they left with"),
    "volunteer_number_taken": RefusalText(409, "编号已被占用, 请换 Idempotency-Key 重试", "The number drawn is taken; use a new key"),
    "phone_invalid": RefusalText(422, "电话号码格式不对", "The phone number has another form than a mobile or landline of the mainland"),
    "no_consent": RefusalText(422, "缺少本人或监护人的同意", "The person, or a minor's guardian, has not consented"),
    "end_before_start": RefusalText(422, "结束时间须晚于开始时间", "The activity ends before it starts"),
    "activity_too_long": RefusalText(422, "一次活动不得超过一天", "One activity lasts a day at most"),
    "start_in_past": RefusalText(422, "只能发布尚未举办的活动", "Only activities that are still to come can be published"),
    "programme_word_unknown": RefusalText(422, "该年度方案中没有此代码", "The programme of that year does not name this code"),
    "position_doubled": RefusalText(422, "岗位代码重复", "Two positions have the same code"),
    "insurance_missing": RefusalText(422, "有风险的活动须先办理保险", "An activity with risks needs insurance first"),
    "activity_unknown": RefusalText(404, "没有此活动", "There is no such activity"),
    "activity_cancelled": RefusalText(409, "活动已取消", "The activity is cancelled"),
    "activity_not_started": RefusalText(409, "活动尚未开始", "The activity has not started"),
    "activity_started": RefusalText(409, "活动已开始", "The activity has started"),
    "activity_over": RefusalText(409, "活动已结束", "The activity is over"),
    "position_unknown": RefusalText(422, "活动中没有此岗位", "The activity has no such position"),
    "capacity_below_seats_given": RefusalText(409, "名额不能少于已录用和已通知的人数", "Fewer seats than are taken or on offer"),
    "minor_in_risk_activity": RefusalText(409, "未成年人不得参加有风险的活动", "Minors do not serve in activities with risks"),
    "time_clash": RefusalText(409, "与已录用的其他活动时间冲突", "The person has a seat in another activity at that time"),
    "override_not_allowed": RefusalText(403, "时间冲突只能由管理人员特批", "Only a coordinator overrides a clash"),
    "already_enrolled": RefusalText(409, "已报名此活动", "The person is enrolled in this activity already"),
    "activity_full": RefusalText(409, "名额和候补均已满", "Seats and wait-list are full"),
    "not_enrolled": RefusalText(409, "未报名此活动", "The person is not enrolled in this activity"),
    "no_offer": RefusalText(409, "没有待确认的递补", "No seat is on offer to this person"),
    "offer_expired": RefusalText(409, "递补已失效", "The offer has expired"),
}  # fmt: skip


def _claims_of(event: Event, blind: Callable[[str, str], str]) -> tuple[Sequence[Claim], Sequence[Claim]]:
    match event:
        case VolunteerRegistered(number=number, id_number=id_number):
            claims = [Claim("volunteer_number", number)]
            return [*claims, Claim("id_number", blind("id_number", id_number))] if id_number else claims, []
        case DeviceKeyIssued(key_digest=key_digest):
            return [Claim("device_key", key_digest)], []
        case PersonalDataErased(id_number=str(id_number)):
            return [], [Claim("id_number", blind("id_number", id_number))]
        case _:
            return [], []


CLAIMS: Final = Claims(
    _claims_of, {"id_number": "id_number_taken", "volunteer_number": "volunteer_number_taken", "device_key": "device_key_used"}
)
"""One registration per ID number, until it is erased; a public number is never given twice, nor a device's key."""

IMPORTS: Final = frozenset({"propose_programme"})
