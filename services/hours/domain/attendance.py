"""Attendance: one person at one activity, in pairs of check-in and check-out. No clock, no IO.

Somebody else records it, a kiosk or who leads the activity, never the person served for: the first of three different persons
(recorder, subject, approver) that it takes to make a minute count.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal, assert_never
from uuid import UUID, uuid5

from services.hours.domain.day import CivilDay
from shared.contracts.event import Event, Refusal
from shared.contracts.hours import CheckedIn, CheckedOut, CheckOutMissed, HoursPolicyAdopted
from shared.permissions import Actor, Resource, barred

AttendanceEvent = CheckedIn | CheckedOut | CheckOutMissed

Standing = Literal["registered", "unknown", "erased"]
"""What hours has heard of somebody: `unknown` never registered, or has left. Who was erased begins no service; what they had begun is
checked out, and entries are confirmed, corrected and reversed as anybody's: the minutes are the unit's too, and of nobody in particular.
"""


def attendance_id(activity_id: UUID, volunteer_id: UUID) -> UUID:
    """The stream of one person at one activity."""
    return uuid5(activity_id, str(volunteer_id))


@dataclass(frozen=True, slots=True)
class Activity:
    """What is known of an activity: whose it is, its time slot, and whether it will take place or has."""

    unit_code: str
    starts_at: datetime
    ends_at: datetime
    state: Literal["published", "held", "cancelled"]


@dataclass(frozen=True, slots=True)
class OpenPair:
    """A check-in without a check-out."""

    pair: int
    unit_code: str
    at: datetime
    counts_from: datetime
    slot_starts_at: datetime
    check_out_by: datetime
    recorder_id: UUID


@dataclass(frozen=True, slots=True)
class Attendance:
    """When the person came, and the pair that is open now."""

    checked_in_at: tuple[datetime, ...] = ()
    open: OpenPair | None = None


@dataclass(frozen=True, slots=True)
class CheckIn:
    """签到. `activity` None: no such activity is known. `policy` is the version in force today. Of whom see `Standing`."""

    volunteer_id: UUID
    activity_id: UUID
    activity: Activity | None
    standing: Standing
    is_enrolled: bool
    recorder: Actor
    policy: HoursPolicyAdopted | None
    now: datetime
    today: CivilDay


@dataclass(frozen=True, slots=True)
class CheckOut:
    """签退."""

    volunteer_id: UUID
    activity_id: UUID
    recorder: Actor
    now: datetime


@dataclass(frozen=True, slots=True)
class MissCheckOut:
    """The deadline of one pair has come."""

    volunteer_id: UUID
    activity_id: UUID
    pair: int
    now: datetime


def check_in(attendance: Attendance, command: CheckIn) -> Sequence[Event] | Refusal:
    """Opens a pair. An early arrival counts from the scheduled start, a late one from when it was (domain.md 1.3)."""
    activity, policy, now = command.activity, command.policy, command.now
    if activity is None:
        return Refusal("activity_unknown")
    refusal = _refuse_recorder(command.recorder, command.volunteer_id, activity.unit_code) or _refuse_arrival(attendance, command, activity)
    if refusal is not None:
        return refusal
    if policy is None:
        return Refusal("no_hours_policy", {"day": command.today.on.isoformat()})
    opens_at = activity.starts_at - timedelta(minutes=policy.check_in_early_minutes)
    if now < opens_at:
        return Refusal("too_early", {"opens_at": opens_at.isoformat()})
    today = [each for each in attendance.checked_in_at if command.today.begins <= each < command.today.ends]
    if len(today) >= policy.pairs_per_activity_day_max:
        return Refusal("too_many_pairs", {"pairs_max": policy.pairs_per_activity_day_max})
    return [
        CheckedIn(
            volunteer_id=command.volunteer_id,
            activity_id=command.activity_id,
            unit_code=activity.unit_code,
            pair=len(attendance.checked_in_at) + 1,
            at=now,
            counts_from=max(now, activity.starts_at),
            slot_starts_at=activity.starts_at,
            check_out_by=activity.ends_at + timedelta(minutes=policy.missed_check_out_after_minutes),
            recorder_id=command.recorder.person_id,
        )
    ]


def check_out(attendance: Attendance, command: CheckOut) -> Sequence[Event] | Refusal:
    """Closes the open pair. It may come late, until the deadline; from then on only a correction can say what was served."""
    pair, now = attendance.open, command.now
    if pair is None:
        return Refusal("not_checked_in")
    refusal = _refuse_recorder(command.recorder, command.volunteer_id, pair.unit_code)
    if refusal is not None:
        return refusal
    if now <= pair.at:
        return Refusal("ends_before_start", {"checked_in_at": pair.at.isoformat()})
    if now >= pair.check_out_by:  # Also while the deadline has not fired yet: a decision compares its own now.
        return Refusal("check_out_missed", {"check_out_by": pair.check_out_by.isoformat()})
    return [
        CheckedOut(
            volunteer_id=command.volunteer_id,
            activity_id=command.activity_id,
            unit_code=pair.unit_code,
            pair=pair.pair,
            counts_from=min(pair.counts_from, now),  # Gone before the scheduled start: it happened, and counts nothing.
            at=now,
            recorder_id=command.recorder.person_id,
            checked_in_by=pair.recorder_id,
            slot_starts_at=pair.slot_starts_at,
            check_out_by=pair.check_out_by,
        )
    ]


def miss_check_out(attendance: Attendance, command: MissCheckOut) -> Sequence[Event]:
    """Gives a pair up that is still open after its deadline; nothing when it was closed, or when it is not due yet."""
    pair = attendance.open
    if pair is None or pair.pair != command.pair or command.now < pair.check_out_by:
        return []
    return [
        CheckOutMissed(
            volunteer_id=command.volunteer_id,
            activity_id=command.activity_id,
            unit_code=pair.unit_code,
            pair=pair.pair,
            checked_in_at=pair.at,
            counts_from=pair.counts_from,
            checked_in_by=pair.recorder_id,
            slot_starts_at=pair.slot_starts_at,
            check_out_by=pair.check_out_by,
        )
    ]


def evolve(attendance: Attendance, event: AttendanceEvent) -> Attendance:
    """Folds the stream `attendance`."""
    match event:
        case CheckedIn():
            opened = OpenPair(
                event.pair, event.unit_code, event.at, event.counts_from, event.slot_starts_at, event.check_out_by, event.recorder_id
            )
            return Attendance((*attendance.checked_in_at, event.at), opened)
        case CheckedOut() | CheckOutMissed():
            return replace(attendance, open=None)
        case _:
            assert_never(event)


def _refuse_recorder(recorder: Actor, volunteer_id: UUID, unit_code: str) -> Refusal | None:
    return barred(recorder, Resource(unit=unit_code, subject=volunteer_id), "recorder")


def _refuse_arrival(attendance: Attendance, command: CheckIn, activity: Activity) -> Refusal | None:
    if command.standing != "registered":
        return Refusal("person_erased" if command.standing == "erased" else "volunteer_unknown")
    if activity.state == "cancelled":
        return Refusal("activity_cancelled")
    if activity.state == "held" or command.now >= activity.ends_at:
        return Refusal("activity_over", {"ended_at": activity.ends_at.isoformat()})
    if not command.is_enrolled:
        return Refusal("not_enrolled")
    if attendance.open is not None:
        return Refusal("already_checked_in", {"checked_in_at": attendance.open.at.isoformat()})
    return None
