"""Volunteer: a natural person who consented (条例 art. 25: nobody is registered against their will)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Final
from uuid import UUID

from shared.contracts.event import Refusal
from shared.contracts.registration import (
    ConsentGiven,
    ConsentKind,
    ConsentWithdrawn,
    ErasureCompleted,
    ErasureDeclined,
    ErasureDeclineReason,
    ErasureReceiptRecorded,
    ErasureRequested,
    GuardianConsentRecorded,
    PersonalDataErased,
    VolunteerDeregistered,
    VolunteerRegistered,
)
from shared.permissions import Actor, Resource, barred

ADULT_YEARS: Final = 18
"""Below this age a guardian has to agree (domain.md 1.9, `minor.selfRegisterAge`)."""
NAMED_YEARS: Final = 14
"""Below this age nobody is named in public, whoever agrees (PIPL art. 28, 31)."""

VolunteerEvent = (
    VolunteerRegistered
    | ConsentGiven
    | GuardianConsentRecorded
    | ConsentWithdrawn
    | VolunteerDeregistered
    | ErasureRequested
    | ErasureDeclined
    | PersonalDataErased
    | ErasureReceiptRecorded
    | ErasureCompleted
)

_ID_NUMBER: Final = re.compile(r"[1-9][0-9]{16}[0-9X]")
_ID_WEIGHTS: Final = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_CHECKS: Final = "10X98765432"
_PLACES: Final = frozenset(
    map(str, [*range(11, 16), *range(21, 24), *range(31, 38), *range(41, 47), *range(50, 55), *range(61, 66), 71, 81, 82, 83])
)
"""The first two digits: provinces, and 81, 82, 83 of who has a residence permit from Hong Kong, Macao or Taiwan (rules of 2018)."""
_PHONE: Final = re.compile(r"1[3-9][0-9]{9}|0[0-9]{2,3}-?[0-9]{7,8}")


@dataclass(frozen=True, slots=True)
class RegisterVolunteer:
    """A person registers, or is registered by proxy on their consent (notice 七(二): those without a phone can take part).

    `today` is the civil day; `number` is the public number to be given.
    """

    volunteer_id: UUID
    asker: Actor
    number: str
    unit_code: str
    is_unit_known: bool
    name: str
    id_number: str
    phone: str | None
    skills: tuple[str, ...]
    consents: frozenset[ConsentKind]
    text_version: str
    guardian_name: str | None
    today: date


@dataclass(frozen=True, slots=True)
class GiveConsent:
    """Agrees to one more thing; for a minor the guardian does."""

    volunteer_id: UUID
    asker: Actor
    consent: ConsentKind
    text_version: str
    guardian_name: str | None
    today: date


@dataclass(frozen=True, slots=True)
class WithdrawConsent:
    """No longer agrees to one thing. Without consent to `register` nobody enrols."""

    volunteer_id: UUID
    asker: Actor
    consent: ConsentKind


@dataclass(frozen=True, slots=True)
class LeaveProgramme:
    """Leaves; hours and honours stay."""

    volunteer_id: UUID
    asker: Actor


@dataclass(frozen=True, slots=True)
class RequestErasure:
    """Wants everything that says who the person was to become unreadable (PIPL art. 47), and why, if that is said."""

    volunteer_id: UUID
    asker: Actor
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ApproveErasure:
    """The second person: what was asked is done. It cannot be undone, so it is neither who asked nor whose data it is."""

    volunteer_id: UUID
    asker: Actor


@dataclass(frozen=True, slots=True)
class DeclineErasure:
    """It is not done. The person may take back what was asked; only the bureau declines it for another reason."""

    volunteer_id: UUID
    asker: Actor
    reason_code: ErasureDeclineReason


@dataclass(frozen=True, slots=True)
class RecordReceipt:
    """One of `services` has done its part of an erasure, as it says at `position` of its own log."""

    volunteer_id: UUID
    asker: Actor
    service: str
    position: int
    services: frozenset[str]
    sign_in_destroyed: bool = False


VolunteerCommand = (
    RegisterVolunteer | GiveConsent | WithdrawConsent | LeaveProgramme | RequestErasure | ApproveErasure | DeclineErasure | RecordReceipt
)


@dataclass(frozen=True, slots=True)
class Volunteer:
    """What rules read of one person; `number` and `unit_code` are None before the registration. An erasure leaves nothing personal."""

    number: str | None = None
    unit_code: str | None = None
    is_minor: bool = False
    consents: frozenset[ConsentKind] = frozenset()
    has_left: bool = False
    is_erased: bool = False
    id_number: str | None = None
    erasure_requested_by: UUID | None = None
    receipts: frozenset[str] = frozenset()


def decide(volunteer: Volunteer, command: VolunteerCommand) -> Sequence[VolunteerEvent] | Refusal:
    """Rights first, then what the record says, then the command itself."""
    # Who has a record belongs to its unit: another unit's admin does not take them over by registering them anew.
    units = [volunteer.unit_code, command.unit_code] if isinstance(command, RegisterVolunteer) else [volunteer.unit_code]
    concerned = [each for each in units if each is not None]
    if not concerned:
        return Refusal("volunteer_unknown")
    for unit_code in concerned:
        refused = barred(command.asker, Resource(unit=unit_code, subject=command.volunteer_id))
        if refused is not None:
            return refused
    if isinstance(command, RecordReceipt):
        return _record_receipt(volunteer, command)
    if volunteer.is_erased:
        return Refusal("person_erased")
    match command:
        case RegisterVolunteer():
            return _register(volunteer, command)
        case RequestErasure() | ApproveErasure() | DeclineErasure():
            return _decide_erasure(volunteer, command)
        case LeaveProgramme(volunteer_id):
            return [] if volunteer.has_left else [VolunteerDeregistered(volunteer_id=volunteer_id)]
        case WithdrawConsent(volunteer_id, _, consent):
            return [ConsentWithdrawn(volunteer_id=volunteer_id, consent=consent)] if consent in volunteer.consents else []
        case GiveConsent():
            return _give_consent(volunteer, command)


def _register(volunteer: Volunteer, command: RegisterVolunteer) -> Sequence[VolunteerEvent] | Refusal:
    if volunteer.number is not None and not volunteer.has_left:
        return Refusal("already_registered")
    if not command.is_unit_known:
        return Refusal("unit_unknown")
    id_number = command.id_number.upper()
    born_on = birth_date(id_number)
    if born_on is None or born_on > command.today:
        return Refusal("id_number_invalid")
    if volunteer.id_number not in (None, id_number):  # The first number's claim would be kept for ever, and nobody could register with it.
        return Refusal("id_number_differs")
    if command.phone is not None and not _PHONE.fullmatch(command.phone):
        return Refusal("phone_invalid")
    if "register" not in command.consents:
        return Refusal("no_consent", {"consent": "register"})
    years = age(born_on, command.today)
    is_minor = years < ADULT_YEARS
    if is_minor and command.guardian_name is None:
        return Refusal("no_consent", {"consent": "guardian"})
    if years < NAMED_YEARS and "be_named" in command.consents:
        return Refusal("too_young_to_be_named", {"years": NAMED_YEARS})
    who = command.volunteer_id
    registered = VolunteerRegistered(
        volunteer_id=who,
        number=volunteer.number or command.number,  # Who comes back keeps the number.
        unit_code=command.unit_code,
        name=command.name,
        id_number=id_number,
        phone=command.phone,
        is_minor=is_minor,
        skills="\n".join(command.skills) or None,
        is_place_known=is_place_known(id_number),
    )
    named = sorted(command.consents, reverse=True)  # The consent to register comes first.
    consents = [ConsentGiven(volunteer_id=who, consent=each, text_version=command.text_version) for each in named]
    guardian = [GuardianConsentRecorded(volunteer_id=who, guardian_name=command.guardian_name)] if is_minor else []
    return [registered, *consents, *guardian]


def _give_consent(volunteer: Volunteer, command: GiveConsent) -> Sequence[VolunteerEvent] | Refusal:
    if volunteer.has_left:
        return Refusal("volunteer_left")
    if command.consent in volunteer.consents:
        return []
    born_on = None if volunteer.id_number is None else birth_date(volunteer.id_number)
    # Whose number went with a lost key is as old as when they registered.
    is_minor = volunteer.is_minor if born_on is None else age(born_on, command.today) < ADULT_YEARS
    if is_minor and command.guardian_name is None:
        return Refusal("no_consent", {"consent": "guardian"})
    if command.consent == "be_named" and is_minor and (born_on is None or age(born_on, command.today) < NAMED_YEARS):
        return Refusal("too_young_to_be_named", {"years": NAMED_YEARS})
    who = command.volunteer_id
    given = ConsentGiven(volunteer_id=who, consent=command.consent, text_version=command.text_version)
    return [given, GuardianConsentRecorded(volunteer_id=who, guardian_name=command.guardian_name)] if is_minor else [given]


def _decide_erasure(volunteer: Volunteer, command: RequestErasure | ApproveErasure | DeclineErasure) -> Sequence[VolunteerEvent] | Refusal:
    match command:
        case RequestErasure(volunteer_id, asker, reason):
            requested = ErasureRequested(volunteer_id=volunteer_id, requested_by=asker.person_id, reason=reason)
            return [requested] if volunteer.erasure_requested_by is None else []
        case ApproveErasure():
            return _approve_erasure(volunteer, command)
        case DeclineErasure():
            return _decline_erasure(volunteer, command)


def _approve_erasure(volunteer: Volunteer, command: ApproveErasure) -> Sequence[VolunteerEvent] | Refusal:
    requester, who = volunteer.erasure_requested_by, command.volunteer_id
    if requester is None:
        return Refusal("erasure_not_requested")
    refused = barred(command.asker, Resource(unit=volunteer.unit_code, subject=who, requesters=(requester,)), "approver")
    if refused is not None:
        return refused
    left = [] if volunteer.has_left else [VolunteerDeregistered(volunteer_id=who)]
    return [*left, PersonalDataErased(volunteer_id=who, id_number=volunteer.id_number)]


def _decline_erasure(volunteer: Volunteer, command: DeclineErasure) -> Sequence[VolunteerEvent] | Refusal:
    if volunteer.erasure_requested_by is None:
        return Refusal("erasure_not_requested")
    if command.asker.reach == "own" and command.reason_code != "taken_back":
        return Refusal("not_own_decision")
    return [ErasureDeclined(volunteer_id=command.volunteer_id, reason_code=command.reason_code)]


def _record_receipt(volunteer: Volunteer, command: RecordReceipt) -> Sequence[VolunteerEvent] | Refusal:
    """Of an erasure that this log does not hold nothing is recorded: it was lost with an older copy, and is asked again."""
    if not volunteer.is_erased or command.service in volunteer.receipts:
        return []
    receipt = ErasureReceiptRecorded(
        volunteer_id=command.volunteer_id,
        service=command.service,
        receipt_position=command.position,
        sign_in_destroyed=command.sign_in_destroyed,
    )
    is_whole = volunteer.receipts | {command.service} >= command.services
    return [receipt, ErasureCompleted(volunteer_id=command.volunteer_id)] if is_whole else [receipt]


def evolve(volunteer: Volunteer, event: VolunteerEvent) -> Volunteer:
    """The fold of the stream."""
    match event:
        case VolunteerRegistered(number=number, unit_code=unit_code, is_minor=is_minor, id_number=id_number):
            return Volunteer(number=number, unit_code=unit_code, is_minor=is_minor, id_number=id_number)
        case ConsentGiven(consent=consent):
            return replace(volunteer, consents=volunteer.consents | {consent})
        case ConsentWithdrawn(consent=consent):
            return replace(volunteer, consents=volunteer.consents - {consent})
        case VolunteerDeregistered():
            return replace(volunteer, has_left=True, consents=frozenset())
        case ErasureRequested(requested_by=requested_by):
            return replace(volunteer, erasure_requested_by=requested_by)
        case ErasureDeclined():
            return replace(volunteer, erasure_requested_by=None)
        case PersonalDataErased():
            return replace(volunteer, is_erased=True, id_number=None)
        case ErasureReceiptRecorded(service=service):
            return replace(volunteer, receipts=volunteer.receipts | {service})
        case GuardianConsentRecorded() | ErasureCompleted():
            return volunteer


def birth_date(id_number: str) -> date | None:
    """The birth date in a resident's ID number of 18 ASCII characters; None when the number is not one (GB 11643: date and check digit)."""
    if not _ID_NUMBER.fullmatch(id_number):
        return None
    total = sum(weight * int(digit) for weight, digit in zip(_ID_WEIGHTS, id_number[:17], strict=True))
    if id_number[17] != _ID_CHECKS[total % 11]:
        return None
    try:
        return date(int(id_number[6:10]), int(id_number[10:12]), int(id_number[12:14]))
    except ValueError:
        return None


def is_place_known(id_number: str) -> bool:
    """Whether an ID number begins with the code of a place."""
    return id_number[:2] in _PLACES


def age(born_on: date, today: date) -> int:
    """Full years on `today`; one born on 29 February is a year older from 1 March."""
    return today.year - born_on.year - ((today.month, today.day) < (born_on.month, born_on.day))
