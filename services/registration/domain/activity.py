"""Activity: a dated occurrence with positions. All its seats are one stream, so no interleaving of commands oversells them.

For each position, seats taken and seats on offer together are never more than its capacity. A freed seat is offered to the head of the
wait-list in the decision that frees it. Once no offer can be made any more (two hours before the start), a free seat is for whoever asks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import reduce
from typing import Final, Literal
from uuid import UUID

from shared.contracts.event import Refusal
from shared.contracts.registration import (
    ActivityCancelled,
    ActivityHeld,
    ActivityPublished,
    CapacityChanged,
    ClashOverridden,
    EnrollmentAccepted,
    EnrollmentWaitlisted,
    EnrollmentWithdrawn,
    OfferAccepted,
    OfferExpired,
    SeatOffered,
    WithdrawalReason,
)
from shared.permissions import Actor, Resource, barred

OFFERS_END_BEFORE_START: Final = timedelta(hours=2)
"""An offer stands until the end of the next working day, but never later than this long before the start."""

ACTIVITY_LENGTH_MAX: Final = timedelta(hours=24)
"""An activity is one occurrence; what goes on for days is several."""

ActivityEvent = (
    ActivityPublished
    | CapacityChanged
    | EnrollmentAccepted
    | EnrollmentWaitlisted
    | EnrollmentWithdrawn
    | SeatOffered
    | OfferAccepted
    | OfferExpired
    | ClashOverridden
    | ActivityHeld
    | ActivityCancelled
)
Decision = Sequence[ActivityEvent] | Refusal

WordKind = Literal["carrier", "target_group", "occasion"]


@dataclass(frozen=True, slots=True)
class SeatElsewhere:
    """A seat that a person has in another activity, and its time."""

    activity_id: UUID
    starts_at: datetime
    ends_at: datetime


@dataclass(frozen=True, slots=True)
class Person:
    """What the look-ups know of a volunteer who wants a seat."""

    unit_code: str
    standing: Literal["registered", "left", "erased"]
    is_minor: bool
    has_consented: bool
    seats: Sequence[SeatElsewhere]
    has_parked_seats: bool = False
    """What was said of a seat of theirs is parked: whether times overlap is not known."""


@dataclass(frozen=True, slots=True)
class PublishActivity:
    """`activity` is what is to be said; `words` are those that the programme of its year knows, by kind."""

    activity: ActivityPublished
    asker: Actor
    now: datetime
    is_unit_known: bool
    words: Mapping[WordKind, frozenset[str]]


@dataclass(frozen=True, slots=True)
class ChangeCapacity:
    """`reply_by` is, here and below, the end of the next working day: until when an offer made now may stand."""

    position: str
    capacity: int
    asker: Actor
    now: datetime
    reply_by: datetime


@dataclass(frozen=True, slots=True)
class HoldActivity:
    """The activity took place."""

    result: str
    asker: Actor
    now: datetime


@dataclass(frozen=True, slots=True)
class CancelActivity:
    """It will not take place."""

    reason: str
    asker: Actor


@dataclass(frozen=True, slots=True)
class Enroll:
    """A seat, or a place on the wait-list. `override_reason` lets a coordinator enrol somebody although the times overlap."""

    volunteer_id: UUID
    person: Person | None
    position: str
    override_reason: str | None
    asker: Actor
    now: datetime


@dataclass(frozen=True, slots=True)
class AcceptOffer:
    """Takes the seat on offer."""

    volunteer_id: UUID
    person: Person | None
    override_reason: str | None
    asker: Actor
    now: datetime


@dataclass(frozen=True, slots=True)
class WithdrawEnrollment:
    """Gives up the seat, the offer or the place on the wait-list."""

    volunteer_id: UUID
    person: Person | None
    reason: WithdrawalReason
    asker: Actor
    now: datetime
    reply_by: datetime


@dataclass(frozen=True, slots=True)
class ReleaseSeat:
    """The service itself gives up what somebody has who may not have it any more."""

    volunteer_id: UUID
    reason: WithdrawalReason
    now: datetime
    reply_by: datetime


@dataclass(frozen=True, slots=True)
class ExpireOffer:
    """A deadline: the offer lapses if it is due by `now`, and the seat is offered on."""

    volunteer_id: UUID
    now: datetime
    reply_by: datetime


ActivityCommand = (
    PublishActivity | ChangeCapacity | HoldActivity | CancelActivity | Enroll | AcceptOffer | WithdrawEnrollment | ReleaseSeat | ExpireOffer
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A live enrolment. `expires_at` is set while a seat is on offer."""

    position: str
    standing: Literal["waiting", "offered", "seated"]
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Activity:
    """What rules read. `entries` are in order of arrival, so the wait-list is too."""

    activity_id: UUID
    unit_code: str
    starts_at: datetime
    ends_at: datetime
    has_risk: bool
    wait_list_max: int
    capacity: Mapping[str, int]
    entries: Mapping[UUID, Entry] = field(default_factory=dict)
    outcome: Literal["open", "held", "cancelled"] = "open"

    def free(self, position: str) -> int:
        """Seats of a position that are neither taken nor on offer."""
        given = sum(each.position == position and each.standing != "waiting" for each in self.entries.values())
        return self.capacity[position] - given

    def waiting(self, position: str) -> list[UUID]:
        """The wait-list of a position, first come first."""
        return [who for who, each in self.entries.items() if each.position == position and each.standing == "waiting"]


def decide(activity: Activity | None, command: ActivityCommand) -> Decision:
    """`activity` is None before it is published. Which seats change is decided here and nowhere else."""
    if isinstance(command, PublishActivity):
        return [] if activity is not None else _publish(command)
    if activity is None:
        return Refusal("activity_unknown")
    if isinstance(command, ExpireOffer):
        return _expire_offer(activity, command)
    refused = None if isinstance(command, ReleaseSeat) else _barred(activity, command)
    if refused is not None:
        return refused
    if activity.outcome != "open":
        return Refusal("activity_over" if activity.outcome == "held" else "activity_cancelled")
    match command:
        case HoldActivity(result, _, now):
            if now < activity.starts_at:
                return Refusal("activity_not_started", {"starts_at": activity.starts_at.isoformat()})
            return [ActivityHeld(activity_id=activity.activity_id, unit_code=activity.unit_code, result=result)]
        case CancelActivity(reason):
            return [ActivityCancelled(activity_id=activity.activity_id, unit_code=activity.unit_code, reason=reason)]
        case ChangeCapacity() | Enroll() | AcceptOffer() | WithdrawEnrollment() | ReleaseSeat():
            return _before_start(activity, command)


def _before_start(activity: Activity, command: ChangeCapacity | Enroll | AcceptOffer | WithdrawEnrollment | ReleaseSeat) -> Decision:
    if command.now >= activity.starts_at:
        return Refusal("activity_over" if command.now >= activity.ends_at else "activity_started")
    match command:
        case ChangeCapacity():
            return _change_capacity(activity, command)
        case Enroll():
            return _enroll(activity, command)
        case AcceptOffer():
            return _accept_offer(activity, command)
        case WithdrawEnrollment() | ReleaseSeat():
            return _withdraw(activity, command)


def _publish(command: PublishActivity) -> Decision:
    activity = command.activity
    refused = barred(command.asker, Resource(unit=activity.unit_code))
    if refused is not None:
        return refused
    if not command.is_unit_known:
        return Refusal("unit_unknown")
    if activity.ends_at <= activity.starts_at:
        return Refusal("end_before_start")
    if activity.ends_at - activity.starts_at > ACTIVITY_LENGTH_MAX:
        return Refusal("activity_too_long", {"hours_max": ACTIVITY_LENGTH_MAX // timedelta(hours=1)})
    if activity.starts_at <= command.now:
        return Refusal("start_in_past")
    named: Mapping[WordKind, str | None] = {
        "carrier": activity.carrier,
        "target_group": activity.target_group,
        "occasion": activity.occasion,
    }
    for kind, code in named.items():
        if code is not None and code not in command.words[kind]:
            return Refusal("programme_word_unknown", {"kind": kind})
    codes = [position.code for position in activity.positions]
    if len(set(codes)) < len(codes):
        return Refusal("position_doubled")
    if activity.has_risk and activity.insurance is None:
        return Refusal("insurance_missing")
    return [activity]


def _barred(
    activity: Activity, command: ChangeCapacity | HoldActivity | CancelActivity | Enroll | AcceptOffer | WithdrawEnrollment
) -> Refusal | None:
    """What the organiser does is for the activity's unit; what a person does is for them, or for their own unit on their behalf."""
    if isinstance(command, ChangeCapacity | HoldActivity | CancelActivity):
        return barred(command.asker, Resource(unit=activity.unit_code))
    if command.person is None:
        return Refusal("volunteer_unknown")
    if isinstance(command, WithdrawEnrollment) and command.reason == "organiser_removed":
        return barred(command.asker, Resource(unit=activity.unit_code))
    return barred(command.asker, Resource(unit=command.person.unit_code, subject=command.volunteer_id))


def _change_capacity(activity: Activity, command: ChangeCapacity) -> Decision:
    before = activity.capacity.get(command.position)
    if before is None:
        return Refusal("position_unknown")
    if before == command.capacity:
        return []
    given = before - activity.free(command.position)
    if command.capacity < given:
        return Refusal("capacity_below_seats_given", {"seats_given": given})
    changed = CapacityChanged(activity_id=activity.activity_id, position=command.position, capacity=command.capacity)
    return _with_offers(activity, [changed], command.position, command.now, command.reply_by)


def _enroll(activity: Activity, command: Enroll) -> Decision:
    who, position = command.volunteer_id, command.position
    if position not in activity.capacity:
        return Refusal("position_unknown")
    clash = _clash(activity, command)
    if isinstance(clash, Refusal):
        return clash
    entry = activity.entries.get(who)
    is_seat_open = activity.free(position) > 0
    if entry is not None and not (entry == Entry(position, "waiting") and is_seat_open):
        return Refusal("already_enrolled", {"standing": entry.standing, "position": entry.position})
    if is_seat_open:
        return [*clash, EnrollmentAccepted(activity_id=activity.activity_id, volunteer_id=who, position=position)]
    if sum(each.standing == "waiting" for each in activity.entries.values()) >= activity.wait_list_max:
        return Refusal("activity_full", {"capacity": activity.capacity[position], "wait_list_max": activity.wait_list_max})
    return [*clash, EnrollmentWaitlisted(activity_id=activity.activity_id, volunteer_id=who, position=position)]


def _accept_offer(activity: Activity, command: AcceptOffer) -> Decision:
    entry = activity.entries.get(command.volunteer_id)
    if entry is None or entry.expires_at is None:
        return Refusal("no_offer")
    if command.now >= entry.expires_at:  # The deadline may not have fired yet; what counts is the clock of this decision.
        return Refusal("offer_expired", {"expired_at": entry.expires_at.isoformat()})
    clash = _clash(activity, command)
    if isinstance(clash, Refusal):
        return clash
    return [*clash, OfferAccepted(activity_id=activity.activity_id, volunteer_id=command.volunteer_id, position=entry.position)]


def _clash(activity: Activity, command: Enroll | AcceptOffer) -> Sequence[ClashOverridden] | Refusal:
    """Whether the person may sit here at all; what a coordinator overrides is said first."""
    person = command.person
    assert person is not None  # `_barred` has seen to it.
    if person.standing != "registered":
        return Refusal("person_erased" if person.standing == "erased" else "volunteer_left")
    if not person.has_consented:
        return Refusal("no_consent", {"consent": "register"})
    if activity.has_risk and person.is_minor:
        return Refusal("minor_in_risk_activity")
    clashing = [
        each.activity_id
        for each in person.seats
        if each.activity_id != activity.activity_id and each.starts_at < activity.ends_at and activity.starts_at < each.ends_at
    ]
    if not clashing:
        return []
    if command.override_reason is None:
        return Refusal("time_clash", {"clashes_with": str(clashing[0])})
    if command.asker.reach == "own":
        return Refusal("override_not_allowed")
    return [
        ClashOverridden(
            activity_id=activity.activity_id, volunteer_id=command.volunteer_id, clashes_with=other, reason=command.override_reason
        )
        for other in clashing
    ]


def _withdraw(activity: Activity, command: WithdrawEnrollment | ReleaseSeat) -> Decision:
    entry = activity.entries.get(command.volunteer_id)
    if entry is None:
        return Refusal("not_enrolled")
    withdrawn = EnrollmentWithdrawn(
        activity_id=activity.activity_id, volunteer_id=command.volunteer_id, position=entry.position, reason=command.reason
    )
    return _with_offers(activity, [withdrawn], entry.position, command.now, command.reply_by)


def _expire_offer(activity: Activity, command: ExpireOffer) -> Decision:
    entry = activity.entries.get(command.volunteer_id)
    if activity.outcome != "open" or entry is None or entry.expires_at is None or command.now < entry.expires_at:
        return []
    expired = OfferExpired(activity_id=activity.activity_id, volunteer_id=command.volunteer_id, position=entry.position)
    return _with_offers(activity, [expired], entry.position, command.now, command.reply_by)


def _with_offers(activity: Activity, facts: Sequence[ActivityEvent], position: str, now: datetime, reply_by: datetime) -> Decision:
    """`facts`, then the offers of the seats that they free, first come first offered."""
    expires_at = min(reply_by, activity.starts_at - OFFERS_END_BEFORE_START)
    if expires_at <= now:
        return facts
    after = reduce(evolve_known, facts, activity)
    heads = after.waiting(position)[: max(after.free(position), 0)]
    return [
        *facts,
        *(SeatOffered(activity_id=activity.activity_id, volunteer_id=who, position=position, expires_at=expires_at) for who in heads),
    ]


def evolve(activity: Activity | None, event: ActivityEvent) -> Activity | None:
    """The fold of the stream, which begins with the publication."""
    if isinstance(event, ActivityPublished):
        return Activity(
            activity_id=event.activity_id,
            unit_code=event.unit_code,
            starts_at=event.starts_at,
            ends_at=event.ends_at,
            has_risk=event.has_risk,
            wait_list_max=event.wait_list_max,
            capacity={position.code: position.capacity for position in event.positions},
        )
    return None if activity is None else evolve_known(activity, event)


def evolve_known(activity: Activity, event: ActivityEvent) -> Activity:
    """The fold after the publication."""
    match event:
        case CapacityChanged(position=position, capacity=capacity):
            return replace(activity, capacity={**activity.capacity, position: capacity})
        case EnrollmentAccepted(volunteer_id=who, position=position) | OfferAccepted(volunteer_id=who, position=position):
            return replace(activity, entries={**activity.entries, who: Entry(position, "seated")})
        case EnrollmentWaitlisted(volunteer_id=who, position=position):
            return replace(activity, entries={**activity.entries, who: Entry(position, "waiting")})
        case SeatOffered(volunteer_id=who, position=position, expires_at=expires_at):
            return replace(activity, entries={**activity.entries, who: Entry(position, "offered", expires_at)})
        case EnrollmentWithdrawn(volunteer_id=who) | OfferExpired(volunteer_id=who):
            return replace(activity, entries={other: entry for other, entry in activity.entries.items() if other != who})
        case ActivityHeld():
            return replace(activity, outcome="held")
        case ActivityCancelled():
            return replace(activity, outcome="cancelled")
        case ClashOverridden() | ActivityPublished():
            return activity
