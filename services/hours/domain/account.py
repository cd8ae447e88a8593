"""ServiceTimeAccount: which minutes of one volunteer count in one civil year. A double-entry ledger in integer minutes. No clock, no IO.

The account holds every credited interval of its year, so it is here, and nowhere else, that a minute is kept from counting twice. What
was served across midnight arrives as one entry for each civil day; so an entry lies within a day, a day within an account, and neither
overlap nor cap ever looks into another one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Literal, assert_never
from uuid import UUID, uuid5

from services.hours.domain.day import CivilDay, minutes_between
from shared.contracts.event import Event, Refusal
from shared.contracts.hours import (
    HourClass,
    HoursPolicyAdopted,
    LedgerAccount,
    Posting,
    ServiceTimeConfirmed,
    ServiceTimeCorrected,
    ServiceTimeProposed,
    ServiceTimeReversed,
)
from shared.permissions import Actor, Resource, barred

AccountEvent = ServiceTimeProposed | ServiceTimeConfirmed | ServiceTimeCorrected | ServiceTimeReversed

CAP_RECOUNTED = "daily_cap_recounted"
"""The reason of a correction that follows from another one: room under the daily cap became free."""


def account_id(volunteer_id: UUID, year: int) -> UUID:
    """The stream of a volunteer's account of one civil year."""
    return uuid5(volunteer_id, str(year))


def entry_id(attendance: UUID, pair: int, served_on: date) -> UUID:
    """The entry for what one pair of one attendance served on one day."""
    return uuid5(attendance, f"{pair}/{served_on.isoformat()}")


@dataclass(frozen=True, slots=True)
class Entry:
    """What was served at one stretch on one day. Pending it waits for approval, counted it holds its interval, reversed it is void."""

    activity_id: UUID
    unit_code: str
    hour_class: HourClass
    served_on: date
    starts_at: datetime
    ends_at: datetime
    recorders: frozenset[UUID]
    recorder_id: UUID
    not_before: datetime
    not_after: datetime
    state: Literal["pending", "counted", "reversed"] = "pending"
    credited_minutes: int = 0
    over_cap_minutes: int = 0

    def overlaps(self, starts_at: datetime, ends_at: datetime) -> bool:
        """Whether an interval shares an instant with this one; touching ends do not."""
        return self.starts_at < ends_at and starts_at < self.ends_at


@dataclass(frozen=True, slots=True)
class Account:
    """The entries of the year."""

    entries: Mapping[UUID, Entry] = field(default_factory=dict)

    def counted_on(self, day: date, *, without: UUID) -> Mapping[UUID, Entry]:
        """The other entries that count on a day."""
        return {
            each: entry for each, entry in self.entries.items() if entry.state == "counted" and entry.served_on == day and each != without
        }


@dataclass(frozen=True, slots=True)
class Propose:
    """What an attendance served on one day, to be approved."""

    volunteer_id: UUID
    entry_id: UUID
    activity_id: UUID
    unit_code: str
    served_on: date
    starts_at: datetime
    ends_at: datetime
    recorder_id: UUID
    checked_in_by: UUID
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class Confirm:
    """确认时长. `policy` is the version in force on the day served."""

    volunteer_id: UUID
    entry_id: UUID
    served_on: date
    approver: Actor
    policy: HoursPolicyAdopted | None


@dataclass(frozen=True, slots=True)
class Correct:
    """更正: what was served is another interval of the same day, within the activity's slot and its grace."""

    volunteer_id: UUID
    entry_id: UUID
    day: CivilDay
    starts_at: datetime
    ends_at: datetime
    reason_code: str
    requester_id: UUID
    approver: Actor
    policy: HoursPolicyAdopted | None
    now: datetime


@dataclass(frozen=True, slots=True)
class Reverse:
    """冲销: an entry is void. One that still waits is turned down this way."""

    volunteer_id: UUID
    entry_id: UUID
    served_on: date
    reason_code: str
    requester_id: UUID
    approver: Actor
    policy: HoursPolicyAdopted | None


def propose(account: Account, command: Propose) -> Sequence[Event]:
    """Puts an entry before those who may approve it; once."""
    if command.entry_id in account.entries:
        return []
    return [
        ServiceTimeProposed(
            volunteer_id=command.volunteer_id,
            entry_id=command.entry_id,
            activity_id=command.activity_id,
            unit_code=command.unit_code,
            hour_class="timed",
            served_on=command.served_on,
            starts_at=command.starts_at,
            ends_at=command.ends_at,
            minutes=minutes_between(command.starts_at, command.ends_at),
            recorder_id=command.recorder_id,
            checked_in_by=command.checked_in_by,
            not_before=command.not_before,
            not_after=command.not_after,
        )
    ]


def confirm(account: Account, command: Confirm) -> Sequence[Event] | Refusal:
    """Credits a pending entry up to the daily cap; what lies above is posted to `over_cap`. An overlap with what counts is refused."""
    entry = _approvable(account, command)
    if isinstance(entry, Refusal):
        return entry
    if entry.state != "pending":
        return Refusal("already_confirmed")
    minutes = minutes_between(entry.starts_at, entry.ends_at)
    if minutes == 0:
        return Refusal("nothing_to_confirm")
    if command.policy is None:
        return Refusal("no_hours_policy", {"day": entry.served_on.isoformat()})
    others = account.counted_on(entry.served_on, without=command.entry_id)
    overlap = _refuse_overlap(others, entry.starts_at, entry.ends_at)
    if overlap is not None:
        return overlap
    credited = min(minutes, _room(others, command.policy))
    return [
        ServiceTimeConfirmed(
            volunteer_id=command.volunteer_id,
            entry_id=command.entry_id,
            activity_id=entry.activity_id,
            unit_code=entry.unit_code,
            hour_class=entry.hour_class,
            served_on=entry.served_on,
            starts_at=entry.starts_at,
            ends_at=entry.ends_at,
            credited_minutes=credited,
            over_cap_minutes=minutes - credited,
            postings=_postings(entry.hour_class, credited, minutes - credited),
            policy_version=command.policy.version,
            recorder_id=entry.recorder_id,
            approver_id=command.approver.person_id,
        )
    ]


def correct(account: Account, command: Correct) -> Sequence[Event] | Refusal:
    """Gives an entry another interval of its day, and counts the day's cap again. A pending one (a missed check-out) counts from then on.

    Minutes never move to another day or account by a correction: that is a reversal here and an entry there.
    """
    entry = _approvable(account, command)
    if isinstance(entry, Refusal):
        return entry
    if entry.state == "counted" and (entry.starts_at, entry.ends_at) == (command.starts_at, command.ends_at):
        return []
    others = account.counted_on(entry.served_on, without=command.entry_id)
    refusal = _refuse_interval(entry, command) or _refuse_overlap(others, command.starts_at, command.ends_at)
    if refusal is not None:
        return refusal
    if command.policy is None:
        return Refusal("no_hours_policy", {"day": entry.served_on.isoformat()})
    minutes = minutes_between(command.starts_at, command.ends_at)
    credited = min(minutes, _room(others, command.policy))
    corrected = replace(
        entry,
        state="counted",
        starts_at=command.starts_at,
        ends_at=command.ends_at,
        credited_minutes=credited,
        over_cap_minutes=minutes - credited,
    )
    return [
        _correction(command, command.entry_id, entry, corrected, command.reason_code, command.policy),
        *_recounted(command, others, command.policy, taken=credited),
    ]


def reverse(account: Account, command: Reverse) -> Sequence[Event] | Refusal:
    """Takes an entry out of the account; what it had counts no more, and others of the day move up under the cap."""
    entry = _approvable(account, command)
    if isinstance(entry, Refusal):
        return entry
    if command.policy is None:
        return Refusal("no_hours_policy", {"day": entry.served_on.isoformat()})
    reversal = ServiceTimeReversed(
        volunteer_id=command.volunteer_id,
        entry_id=command.entry_id,
        activity_id=entry.activity_id,
        unit_code=entry.unit_code,
        hour_class=entry.hour_class,
        served_on=entry.served_on,
        credited_minutes=entry.credited_minutes,
        over_cap_minutes=entry.over_cap_minutes,
        postings=_postings(entry.hour_class, -entry.credited_minutes, -entry.over_cap_minutes),
        reason_code=command.reason_code,
        requester_id=command.requester_id,
        approver_id=command.approver.person_id,
    )
    others = account.counted_on(entry.served_on, without=command.entry_id)
    return [reversal, *_recounted(command, others, command.policy, taken=0)]


def evolve(account: Account, event: AccountEvent) -> Account:
    """Folds the stream `account`."""
    match event:
        case ServiceTimeProposed():
            entry = Entry(
                activity_id=event.activity_id,
                unit_code=event.unit_code,
                hour_class=event.hour_class,
                served_on=event.served_on,
                starts_at=event.starts_at,
                ends_at=event.ends_at,
                recorders=frozenset({event.recorder_id, event.checked_in_by}),
                recorder_id=event.recorder_id,
                not_before=event.not_before,
                not_after=event.not_after,
            )
        case ServiceTimeConfirmed() | ServiceTimeCorrected():
            entry = replace(
                account.entries[event.entry_id],
                state="counted",
                starts_at=event.starts_at,
                ends_at=event.ends_at,
                credited_minutes=event.credited_minutes,
                over_cap_minutes=event.over_cap_minutes,
            )
        case ServiceTimeReversed():
            entry = replace(account.entries[event.entry_id], state="reversed", credited_minutes=0, over_cap_minutes=0)
        case _:
            assert_never(event)
    return Account({**account.entries, event.entry_id: entry})


def _approvable(account: Account, command: Confirm | Correct | Reverse) -> Entry | Refusal:
    """The entry, when this approver may decide on it: neither recorder nor subject nor who asked for it, and of the entry's unit.

    A change is asked for by somebody who was there: the volunteer, or who recorded the attendance.
    """
    entry = account.entries.get(command.entry_id)
    served_on = command.day.on if isinstance(command, Correct) else command.served_on
    if entry is None or entry.served_on != served_on:
        return Refusal("entry_unknown", {"served_on": served_on.isoformat()})
    requesters = () if isinstance(command, Confirm) else (command.requester_id,)
    matter = Resource(unit=entry.unit_code, subject=command.volunteer_id, recorders=entry.recorders, requesters=requesters)
    refused = barred(command.approver, matter, "approver")
    if refused is not None:
        return refused
    if not isinstance(command, Confirm) and command.requester_id not in {command.volunteer_id, *entry.recorders}:
        return Refusal("requester_unknown")  # Who was there can ask; a name made up by the approver would be no second person.
    if entry.state == "reversed":
        return Refusal("entry_reversed")
    return entry


def _refuse_interval(entry: Entry, command: Correct) -> Refusal | None:
    if minutes_between(command.starts_at, command.ends_at) == 0:
        return Refusal("ends_before_start")
    if not command.day.holds(command.starts_at, command.ends_at):
        return Refusal("interval_outside_day", {"served_on": command.day.on.isoformat()})
    if command.ends_at > command.now:
        return Refusal("ends_in_future")
    if command.starts_at < entry.not_before or command.ends_at > entry.not_after:
        limits = {"not_before": entry.not_before.isoformat(), "not_after": entry.not_after.isoformat()}
        return Refusal("interval_outside_activity", limits)
    return None


def _refuse_overlap(others: Mapping[UUID, Entry], starts_at: datetime, ends_at: datetime) -> Refusal | None:
    for other_id, other in others.items():
        if other.overlaps(starts_at, ends_at):
            return Refusal("overlapping_service", {"other_entry_id": str(other_id), "other_activity_id": str(other.activity_id)})
    return None


def _room(others: Mapping[UUID, Entry], policy: HoursPolicyAdopted) -> int:
    """Minutes of the day that may still be credited."""
    return max(policy.daily_cap_minutes - sum(each.credited_minutes for each in others.values()), 0)


def _recounted(
    command: Correct | Reverse, others: Mapping[UUID, Entry], policy: HoursPolicyAdopted, *, taken: int
) -> list[ServiceTimeCorrected]:
    """What the day's other entries get of the room that has become free, the earliest first: a day credits all that its cap allows."""
    room = _room(others, policy) - taken
    moved = []
    for other_id, other in sorted(others.items(), key=lambda item: item[1].starts_at):
        gained = min(room, other.over_cap_minutes)
        if gained <= 0:
            continue
        room -= gained
        after = replace(other, credited_minutes=other.credited_minutes + gained, over_cap_minutes=other.over_cap_minutes - gained)
        moved.append(_correction(command, other_id, other, after, CAP_RECOUNTED, policy))
    return moved


def _correction(
    command: Correct | Reverse, entry: UUID, before: Entry, after: Entry, reason_code: str, policy: HoursPolicyAdopted
) -> ServiceTimeCorrected:
    return ServiceTimeCorrected(
        volunteer_id=command.volunteer_id,
        entry_id=entry,
        activity_id=before.activity_id,
        unit_code=before.unit_code,
        hour_class=before.hour_class,
        served_on=before.served_on,
        old_starts_at=before.starts_at,
        old_ends_at=before.ends_at,
        old_credited_minutes=before.credited_minutes,
        old_over_cap_minutes=before.over_cap_minutes,
        starts_at=after.starts_at,
        ends_at=after.ends_at,
        credited_minutes=after.credited_minutes,
        over_cap_minutes=after.over_cap_minutes,
        postings=_postings(
            before.hour_class,
            after.credited_minutes - before.credited_minutes,
            after.over_cap_minutes - before.over_cap_minutes,
        ),
        policy_version=policy.version,
        reason_code=reason_code,
        requester_id=command.requester_id,
        approver_id=command.approver.person_id,
    )


def _postings(hour_class: HourClass, credited: int, over_cap: int) -> tuple[Posting, ...]:
    """A group that sums to zero: what the volunteer's accounts gain, `served` gives. Lines of zero are left out."""
    lines: tuple[tuple[LedgerAccount, int], ...] = (("served", -credited - over_cap), (hour_class, credited), ("over_cap", over_cap))
    return tuple(Posting(account=account, minutes=minutes) for account, minutes in lines if minutes)
