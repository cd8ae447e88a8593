"""Invented people, one activity on one day in March, and the events that tests of hours begin with."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid5

from services.hours.domain import account, attendance
from services.hours.domain.account import Account
from services.hours.domain.attendance import Activity, Attendance, CheckIn, CheckOut
from services.hours.domain.day import civil_day, day_of
from shared.clock import CIVIL_ZONE
from shared.codec import Codec
from shared.contracts.event import Event
from shared.contracts.hours import EVENTS, UPCASTERS, CheckedIn, CheckedOut, HoursPolicyAdopted, ServiceTimeProposed
from shared.envelope import Record, Stream
from shared.permissions import Actor, Role

VOLUNTEER, KIOSK, LEADER, ADMIN, CHIEF = (UUID(int=number) for number in range(11, 16))
ACTIVITY, OTHER_ACTIVITY = UUID(int=31), UUID(int=32)
UNIT = "reservoir-station"
DAY = date(2017, 3, 22)
"""World Water Day, a Wednesday."""

POLICY = HoursPolicyAdopted(
    version="2017",
    effective_from=date(2017, 1, 1),
    daily_cap_minutes=480,
    pairs_per_activity_day_max=3,
    check_in_early_minutes=60,
    missed_check_out_after_minutes=120,
)
SLOT = Activity(UNIT, datetime(2017, 3, 22, 1, tzinfo=UTC), datetime(2017, 3, 22, 4, tzinfo=UTC), "published")
"""From nine to noon in Asia/Shanghai."""


CODEC = Codec(EVENTS, UPCASTERS)


def at(hour: int, minute: int = 0, second: int = 0, *, day: date = DAY) -> datetime:
    """A wall clock's instant in Asia/Shanghai."""
    return datetime(day.year, day.month, day.day, hour, minute, second, tzinfo=CIVIL_ZONE).astimezone(UTC)


S = TypeVar("S")


def folded(evolve: Callable[[S, Any], S], state: S, events: Sequence[Event]) -> S:
    """The state after `events`, each as it comes back from the log."""
    for event in events:
        state = evolve(state, survived(event))
    return state


def survived(event: Event) -> Any:
    """The event after a trip through the codec, which must not change it."""
    payload = CODEC.encode(event, UUID(int=0))
    record = Record(
        service="hours",
        log_id=UUID(int=1),
        position=1,
        stream=Stream("account", UUID(int=2)),
        version=1,
        event_id=UUID(int=0),
        type=event.TYPE,
        schema_version=event.VERSION,
        time=at(12),
        command_id=UUID(int=3),
        correlation_id=UUID(int=4),
        causation_id=None,
        actor="kiosk:1",
        partition_key="k",
        traceparent=None,
        payload=payload,
    )
    found = CODEC.decode(record)
    assert found == event
    return found


def attended(*events: Event) -> Attendance:
    """An attendance after events."""
    return folded(attendance.evolve, Attendance(), events)


def booked(*events: Event) -> Account:
    """An account after events."""
    return folded(account.evolve, Account(), events)


def check_in(now: datetime, **others: Any) -> CheckIn:
    """A check-in in order; `others` makes it another one."""
    asked = CheckIn(
        volunteer_id=VOLUNTEER,
        activity_id=ACTIVITY,
        activity=SLOT,
        standing="registered",
        is_enrolled=True,
        recorder=Actor(KIOSK, Role.KIOSK, UNIT),
        policy=POLICY,
        now=now,
        today=day_of(now, CIVIL_ZONE),
    )
    return replace(asked, **others)


def check_out(now: datetime, **others: Any) -> CheckOut:
    """A check-out in order."""
    return replace(CheckOut(VOLUNTEER, ACTIVITY, Actor(KIOSK, Role.KIOSK, UNIT), now), **others)


def checked_in(when: datetime, pair: int = 1, slot: Activity = SLOT) -> CheckedIn:
    """The event of a check-in."""
    return CheckedIn(
        volunteer_id=VOLUNTEER,
        activity_id=ACTIVITY,
        unit_code=UNIT,
        pair=pair,
        at=when,
        counts_from=max(when, slot.starts_at),
        slot_starts_at=slot.starts_at,
        check_out_by=slot.ends_at + timedelta(hours=2),
        recorder_id=KIOSK,
    )


def checked_out(came: CheckedIn, when: datetime) -> CheckedOut:
    """The event of the check-out that follows `came`."""
    return CheckedOut(
        volunteer_id=came.volunteer_id,
        activity_id=came.activity_id,
        unit_code=came.unit_code,
        pair=came.pair,
        counts_from=min(came.counts_from, when),
        at=when,
        recorder_id=KIOSK,
        checked_in_by=came.recorder_id,
        slot_starts_at=came.slot_starts_at,
        check_out_by=came.check_out_by,
    )


def proposed(starts_at: datetime, ends_at: datetime, number: int = 1, **others: Any) -> ServiceTimeProposed:
    """An entry of `number` that waits; it may be corrected all over its day."""
    day = day_of(starts_at, CIVIL_ZONE)
    said: dict[str, Any] = {
        "volunteer_id": VOLUNTEER,
        "entry_id": entry(number),
        "activity_id": ACTIVITY,
        "unit_code": UNIT,
        "hour_class": "timed",
        "served_on": day.on,
        "starts_at": starts_at,
        "ends_at": ends_at,
        "minutes": (ends_at - starts_at) // timedelta(minutes=1),
        "recorder_id": KIOSK,
        "checked_in_by": LEADER,
        "not_before": day.begins,
        "not_after": day.ends,
    }
    return ServiceTimeProposed.model_validate(said | others)


def entry(number: int) -> UUID:
    """The id of an entry of these tests."""
    return uuid5(ACTIVITY, f"entry {number}")


def confirm(number: int = 1, **others: Any) -> account.Confirm:
    """A confirmation in order, by the unit's administrator."""
    return replace(account.Confirm(VOLUNTEER, entry(number), DAY, Actor(ADMIN, Role.UNIT_ADMIN, UNIT), POLICY), **others)


def correct(starts_at: datetime, ends_at: datetime, number: int = 1, **others: Any) -> account.Correct:
    """A correction in order, asked for by the volunteer."""
    asked = account.Correct(
        volunteer_id=VOLUNTEER,
        entry_id=entry(number),
        day=civil_day(DAY, CIVIL_ZONE),
        starts_at=starts_at,
        ends_at=ends_at,
        reason_code="wrong_time",
        requester_id=VOLUNTEER,
        approver=Actor(ADMIN, Role.UNIT_ADMIN, UNIT),
        policy=POLICY,
        now=at(12, day=DAY + timedelta(days=2)),
    )
    return replace(asked, **others)


def reverse(number: int = 1, **others: Any) -> account.Reverse:
    """A reversal in order, asked for by the leader."""
    asked = account.Reverse(VOLUNTEER, entry(number), DAY, "false_record", LEADER, Actor(ADMIN, Role.UNIT_ADMIN, UNIT), POLICY)
    return replace(asked, **others)
