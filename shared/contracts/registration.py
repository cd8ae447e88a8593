"""What registration says: who the volunteers, units and roles are, and who sits where (domain.md 6.2).

These names and shapes are what the log keeps for ever; change one only as CONTRIBUTING.md ("change an event") says.
"""

from datetime import date, datetime
from typing import Annotated, ClassVar, Final, Literal
from uuid import UUID

from shared.contracts.event import Event, Json, Part, Personal, PersonalText, Upcaster

ConsentKind = Literal["register", "be_named"]
"""What a volunteer agreed to: to be registered, or (separately, PIPL art. 25) to be named in public."""

UnitKind = Literal["bureau", "subordinate_unit", "office"]

Difference = Literal["new", "changed", "same"]
"""How a unit of a proposed programme differs from what was last said of it."""

ProgrammeDeclineReason = Literal["taken_back", "rejected"]

WithdrawalReason = Literal["volunteer_withdrew", "organiser_removed", "left_programme", "consent_withdrawn"]
"""The last two are the service's own: who leaves, or no longer agrees to be registered, gives back every seat."""


class Carrier(Part):
    """活动载体: one of the fields of service that the programme names, as data."""

    code: str
    name_zh: str
    name_en: str


class TargetGroup(Part):
    """重点群体: a group the programme wants served, never a person."""

    code: str
    name_zh: str
    name_en: str


class Occasion(Part):
    """时间节点: a day of the year that proposes activities, such as World Water Day; month and day in the civil calendar."""

    code: str
    name_zh: str
    name_en: str
    month: int
    day: int


class ProgrammeAdopted(Event):
    """年度活动方案已制定: one year's programme with its theme, carriers, target groups and occasions."""

    TYPE: ClassVar[str] = "registration.programme_adopted"

    programme_id: UUID
    year: int
    title: str
    theme: str
    purpose: str
    issuing_body: str
    document_reference: str
    issued_on: date
    starts_on: date
    ends_on: date
    carriers: tuple[Carrier, ...]
    target_groups: tuple[TargetGroup, ...]
    occasions: tuple[Occasion, ...]


class UnitRegistered(Event):
    """单位已登记: a bureau, a subordinate unit or an office, as the programme of `year` says; tokens and files name it by `code`."""

    TYPE: ClassVar[str] = "registration.unit_registered"

    unit_id: UUID
    year: int
    code: str
    name: str
    kind: UnitKind
    parent_code: str | None
    aliases: tuple[str, ...]
    valid_from: date
    planned_activities_per_month: int
    """What the unit's plan for that year promises (notice 七(四)), for plan against held."""


class ProgrammeProposed(Event):
    """方案已提交: a file was read whole and found right; until another person approves it, nothing of it counts.

    What is to be said of the units follows, one `UnitProposed` each. `words_...` and `units_gone` are codes (`carrier/tree-planting`,
    `general-office`), held against the programme of `compared_with`, the newest that is adopted; None where there is none.
    """

    TYPE: ClassVar[str] = "registration.programme_proposed"

    proposal_id: UUID
    year: int
    proposed_by: UUID
    file_digest: str
    """SHA-256 of the file's text in UTF-8, in hexadecimal digits; `proposal_id` follows from it."""
    expires_at: datetime
    programme: ProgrammeAdopted | None
    """What is said when it is approved; None where the year is adopted already and only units follow."""
    units: int
    """How many units follow."""
    compared_with: int | None
    words_new: tuple[str, ...]
    words_changed: tuple[str, ...]
    words_gone: tuple[str, ...]
    units_gone: tuple[str, ...]


class UnitProposed(Event):
    """单位已提交: one unit of a proposed programme, as it is registered when the programme is approved."""

    TYPE: ClassVar[str] = "registration.unit_proposed"

    proposal_id: UUID
    unit: UnitRegistered
    difference: Difference


class ProgrammeApproved(Event):
    """方案已批准: a second person approved what was proposed; programme and units are said in the same decision, after this."""

    TYPE: ClassVar[str] = "registration.programme_approved"

    proposal_id: UUID
    year: int
    approved_by: UUID


class ProgrammeDeclined(Event):
    """方案未批准: who proposed it took it back, or another person rejected it; the file may be proposed again."""

    TYPE: ClassVar[str] = "registration.programme_declined"

    proposal_id: UUID
    year: int
    reason_code: ProgrammeDeclineReason


class ProgrammeLapsed(Event):
    """方案提交失效: nobody approved it in time; the file may be proposed again."""

    TYPE: ClassVar[str] = "registration.programme_lapsed"

    proposal_id: UUID
    year: int


class RoleGranted(Event):
    """已授权: a person may act in a role for a unit."""

    TYPE: ClassVar[str] = "registration.role_granted"

    person_id: UUID
    role: str
    unit_code: str


class RoleWithdrawn(Event):
    """已撤权: from this position on the role of that unit is no longer the person's."""

    TYPE: ClassVar[str] = "registration.role_withdrawn"

    person_id: UUID
    role: str
    unit_code: str
    reason: Annotated[str | None, Personal("person_id")]


DeviceLoss = Literal["lost", "replaced", "retired"]


class DeviceKeyIssued(Event):
    """已发设备密钥: a device of a unit may check people in and out until the key expires. The key itself is known to the device alone."""

    TYPE: ClassVar[str] = "registration.device_key_issued"

    device_id: UUID
    unit_code: str
    name: str
    """What the device is called, such as where it stands; never a person's name."""
    key_digest: str
    """SHA-256 of the key, in hexadecimal digits: 256 random bits cannot be found from it."""
    expires_at: datetime
    networks: tuple[str, ...] = ()
    """From where the key counts, as `10.20.0.0/16` or `2001:db8:1::/48`; from anywhere where none is named, as of old."""


class DeviceKeyRevoked(Event):
    """已吊销设备密钥: from this position on the device's key opens nothing."""

    TYPE: ClassVar[str] = "registration.device_key_revoked"

    device_id: UUID
    unit_code: str
    reason_code: DeviceLoss


class VolunteerRegistered(Event):
    """已注册: a natural person who consented is a volunteer. Personal fields are sealed from this first event on (D12)."""

    TYPE: ClassVar[str] = "registration.volunteer_registered"

    volunteer_id: UUID
    number: str
    """志愿者编号: the unified number, public; never the ID number (domain.md 1.2)."""
    unit_code: str
    name: PersonalText
    id_number: PersonalText
    phone: PersonalText
    is_minor: bool
    skills: PersonalText
    """One skill a line, in the words of who registered."""
    is_place_known: bool = True
    """Whether the ID number begins with the code of a place; a warning and no error, for codes come and go (GB 11643)."""


class ConsentGiven(Event):
    """已同意: the person (or guardian) agreed to one thing."""

    TYPE: ClassVar[str] = "registration.consent_given"

    volunteer_id: UUID
    consent: ConsentKind
    text_version: str


class GuardianConsentRecorded(Event):
    """监护人已同意: a minor's guardian agreed; the guardian's name is personal data of the minor's record."""

    TYPE: ClassVar[str] = "registration.guardian_consent_recorded"

    volunteer_id: UUID
    guardian_name: PersonalText


class ConsentWithdrawn(Event):
    """已撤回: the person no longer agrees to one thing."""

    TYPE: ClassVar[str] = "registration.consent_withdrawn"

    volunteer_id: UUID
    consent: ConsentKind


class VolunteerDeregistered(Event):
    """已注销: the person left the programme; hours and honours stay."""

    TYPE: ClassVar[str] = "registration.volunteer_deregistered"

    volunteer_id: UUID


ErasureDeclineReason = Literal["taken_back", "identity_not_proven", "kept_by_law"]
"""Why a person's data are not erased: the person took the request back, was not who they said, or a law demands that the data be kept."""


class ErasureRequested(Event):
    """已申请删除个人信息: the person, or somebody for them, wants their data erased; another person has to approve it."""

    TYPE: ClassVar[str] = "registration.erasure_requested"

    volunteer_id: UUID
    requested_by: UUID
    reason: PersonalText


class ErasureDeclined(Event):
    """未删除个人信息: the request was taken back or refused; it may be made again."""

    TYPE: ClassVar[str] = "registration.erasure_declined"

    volunteer_id: UUID
    reason_code: ErasureDeclineReason


class PersonalDataErased(Event):
    """个人信息已删除: a second person approved it, and the person's keys are to be destroyed in every service (D8, D12)."""

    TYPE: ClassVar[str] = "registration.personal_data_erased"

    volunteer_id: UUID
    id_number: PersonalText = None
    """Said once more, sealed, so that the claim on it is given back as a function of this event; it reads None once the key is gone."""


class ErasureReceiptRecorded(Event):
    """已收到删除回执: one service has destroyed the person's key and emptied what it showed of them.

    `receipt_position` is where it says so in its own log; for registration itself that of the erasure.
    """

    TYPE: ClassVar[str] = "registration.erasure_receipt_recorded"

    volunteer_id: UUID
    service: str
    receipt_position: int
    sign_in_destroyed: bool = False
    """Said by the service that people sign in at: of login, password, links and sessions of the person nothing is left."""


class ErasureCompleted(Event):
    """删除已完成: every service has said so; this is the end of it, and the proof."""

    TYPE: ClassVar[str] = "registration.erasure_completed"

    volunteer_id: UUID


class Position(Part):
    """志愿服务岗位: a role within an activity and how many it needs."""

    code: str
    name: str
    capacity: int
    duties: str


class ActivityPublished(Event):
    """已发布: a dated occurrence with positions; the consistency boundary for its seats.

    Version 1 knew one `capacity` for the whole activity; version 2 has positions.
    """

    TYPE: ClassVar[str] = "registration.activity_published"
    VERSION: ClassVar[int] = 2

    activity_id: UUID
    unit_code: str
    title: str
    carrier: str
    target_group: str | None
    occasion: str | None
    place: str
    starts_at: datetime
    ends_at: datetime
    positions: tuple[Position, ...]
    wait_list_max: int
    risk_note: str
    has_risk: bool
    insurance: str | None
    """保险单号或说明; required before a risk activity (条例 art. 17)."""


class CapacityChanged(Event):
    """名额已调整: one position now has another number of seats, never fewer than are taken or on offer."""

    TYPE: ClassVar[str] = "registration.capacity_changed"

    activity_id: UUID
    position: str
    capacity: int


class EnrollmentAccepted(Event):
    """已录用: the person has a seat."""

    TYPE: ClassVar[str] = "registration.enrollment_accepted"

    activity_id: UUID
    volunteer_id: UUID
    position: str


class EnrollmentWaitlisted(Event):
    """已候补: no seat was free; first come, first offered."""

    TYPE: ClassVar[str] = "registration.enrollment_waitlisted"

    activity_id: UUID
    volunteer_id: UUID
    position: str


class EnrollmentWithdrawn(Event):
    """已取消报名: the seat, the offer or the place on the wait-list is given up."""

    TYPE: ClassVar[str] = "registration.enrollment_withdrawn"

    activity_id: UUID
    volunteer_id: UUID
    position: str
    reason: WithdrawalReason


class SeatOffered(Event):
    """已通知递补: one freed seat is held for one person until `expires_at`."""

    TYPE: ClassVar[str] = "registration.seat_offered"

    activity_id: UUID
    volunteer_id: UUID
    position: str
    expires_at: datetime


class OfferAccepted(Event):
    """已确认递补: the person took the offered seat."""

    TYPE: ClassVar[str] = "registration.offer_accepted"

    activity_id: UUID
    volunteer_id: UUID
    position: str


class OfferExpired(Event):
    """递补失效: the deadline passed without an answer; the person is off the list."""

    TYPE: ClassVar[str] = "registration.offer_expired"

    activity_id: UUID
    volunteer_id: UUID
    position: str


class ClashOverridden(Event):
    """冲突特批: a coordinator let a person enrol although the times overlap."""

    TYPE: ClassVar[str] = "registration.clash_overridden"

    activity_id: UUID
    volunteer_id: UUID
    clashes_with: UUID
    reason: PersonalText


class ActivityHeld(Event):
    """已举办: the activity took place; `result` is what came of it (notice 七(二))."""

    TYPE: ClassVar[str] = "registration.activity_held"

    activity_id: UUID
    unit_code: str
    result: str


class ActivityCancelled(Event):
    """已取消: it will not take place."""

    TYPE: ClassVar[str] = "registration.activity_cancelled"

    activity_id: UUID
    unit_code: str
    reason: str


EVENTS: Final[tuple[type[Event], ...]] = (
    ProgrammeProposed,
    UnitProposed,
    ProgrammeApproved,
    ProgrammeDeclined,
    ProgrammeLapsed,
    ProgrammeAdopted,
    UnitRegistered,
    RoleGranted,
    RoleWithdrawn,
    DeviceKeyIssued,
    DeviceKeyRevoked,
    VolunteerRegistered,
    ConsentGiven,
    GuardianConsentRecorded,
    ConsentWithdrawn,
    VolunteerDeregistered,
    ErasureRequested,
    ErasureDeclined,
    PersonalDataErased,
    ErasureReceiptRecorded,
    ErasureCompleted,
    ActivityPublished,
    CapacityChanged,
    EnrollmentAccepted,
    EnrollmentWaitlisted,
    EnrollmentWithdrawn,
    SeatOffered,
    OfferAccepted,
    OfferExpired,
    ClashOverridden,
    ActivityHeld,
    ActivityCancelled,
)


def activity_published_v1_to_v2(body: Json) -> Json:
    """One unnamed kind of seat becomes one position called `general`; the rest was always true of old activities."""
    rest = {name: value for name, value in body.items() if name != "capacity"}
    general = {"code": "general", "name": "志愿者", "capacity": body["capacity"], "duties": ""}
    return rest | {"positions": [general]}


UPCASTERS: Final[dict[tuple[str, int], Upcaster]] = {(ActivityPublished.TYPE, 1): activity_published_v1_to_v2}
