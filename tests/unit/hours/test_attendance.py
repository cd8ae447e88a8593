"""Who may be checked in and out, by whom, when, and what of it counts."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from services.hours.domain import attendance
from services.hours.domain.attendance import MissCheckOut
from shared.contracts.event import Event, Refusal
from shared.contracts.hours import CheckedIn, CheckOutMissed
from shared.permissions import Actor, Role
from tests.unit.hours.scenes import (
    ACTIVITY,
    KIOSK,
    LEADER,
    POLICY,
    SLOT,
    UNIT,
    VOLUNTEER,
    at,
    attended,
    check_in,
    check_out,
    checked_in,
    checked_out,
    survived,
)


def single(answer: Sequence[Event] | Refusal) -> Any:
    """The one event of an answer."""
    assert not isinstance(answer, Refusal)
    (event,) = answer
    return survived(event)


def refused(answer: object) -> str | None:
    return answer.code if isinstance(answer, Refusal) else None


def test_an_early_arrival_counts_from_the_scheduled_start() -> None:
    assert attendance.check_in(attended(), check_in(at(8, 20))) == [checked_in(at(8, 20))]
    assert checked_in(at(8, 20)).counts_from == at(9)


def test_a_late_arrival_counts_from_when_it_was() -> None:
    event = single(attendance.check_in(attended(), check_in(at(9, 40))))
    assert isinstance(event, CheckedIn)
    assert event.counts_from == at(9, 40)


@pytest.mark.parametrize(
    ("code", "others"),
    [
        ("activity_unknown", {"activity": None}),
        ("volunteer_unknown", {"standing": "unknown", "is_enrolled": False}),
        ("person_erased", {"standing": "erased"}),
        ("person_erased", {"standing": "erased", "is_enrolled": False}),
        ("not_enrolled", {"is_enrolled": False}),
        ("activity_cancelled", {"activity": replace(SLOT, state="cancelled")}),
        ("activity_over", {"activity": replace(SLOT, state="held")}),
        ("activity_over", {"activity": replace(SLOT, ends_at=at(9, 30))}),
        ("recorder_is_subject", {"recorder": Actor(VOLUNTEER, Role.KIOSK, UNIT)}),
        ("wrong_unit", {"recorder": Actor(LEADER, Role.KIOSK, "water-saving-office")}),
        ("too_early", {"activity": replace(SLOT, starts_at=at(10, 31), ends_at=at(12))}),
        ("no_hours_policy", {"policy": None}),
    ],
)
def test_a_check_in_is_refused(code: str, others: dict[str, Any]) -> None:
    assert refused(attendance.check_in(attended(), check_in(at(9, 30), **others))) == code


def test_the_door_opens_at_the_minute_that_the_policy_says() -> None:
    assert refused(attendance.check_in(attended(), check_in(at(7, 59, 59)))) == "too_early"
    assert refused(attendance.check_in(attended(), check_in(at(8)))) is None


def test_nobody_is_checked_in_twice() -> None:
    assert refused(attendance.check_in(attended(checked_in(at(9))), check_in(at(9, 1)))) == "already_checked_in"


def test_so_many_pairs_a_day_and_no_more() -> None:
    events: list[Event] = []
    for pair in range(1, POLICY.pairs_per_activity_day_max + 1):
        came = checked_in(at(9, pair * 10), pair)
        assert attendance.check_in(attended(*events), check_in(at(9, pair * 10))) == [came]
        events += [came, checked_out(came, at(9, pair * 10 + 5))]
    assert refused(attendance.check_in(attended(*events), check_in(at(10)))) == "too_many_pairs"


def test_pairs_are_counted_by_civil_day_and_numbered_over_all_days() -> None:
    two_days = replace(SLOT, ends_at=at(12, day=date(2017, 3, 23)))
    events: list[Event] = []
    for pair in range(1, 4):
        came = checked_in(at(23, pair * 10), pair, two_days)
        events += [came, checked_out(came, at(23, pair * 10 + 5))]
    assert refused(attendance.check_in(attended(*events), check_in(at(23, 59), activity=two_days))) == "too_many_pairs"
    midnight = datetime(2017, 3, 22, 16, tzinfo=UTC)
    assert attendance.check_in(attended(*events), check_in(midnight, activity=two_days)) == [checked_in(midnight, 4, two_days)]


def test_a_check_out_closes_the_pair() -> None:
    came = checked_in(at(8, 30))
    assert attendance.check_out(attended(came), check_out(at(12, 10))) == [checked_out(came, at(12, 10))]


def test_who_leaves_before_the_scheduled_start_has_served_nothing() -> None:
    event = single(attendance.check_out(attended(checked_in(at(8, 30))), check_out(at(8, 50))))
    assert (event.counts_from, event.at) == (at(8, 50), at(8, 50))


@pytest.mark.parametrize("closed", [False, True])
def test_a_check_out_without_an_open_check_in_is_refused(closed: bool) -> None:
    came = checked_in(at(9))
    before = [came, checked_out(came, at(10))] if closed else []
    assert refused(attendance.check_out(attended(*before), check_out(at(11)))) == "not_checked_in"


@pytest.mark.parametrize(
    ("code", "now", "others"),
    [
        ("recorder_is_subject", at(10), {"recorder": Actor(VOLUNTEER, Role.KIOSK, UNIT)}),
        ("wrong_unit", at(10), {"recorder": Actor(KIOSK, Role.KIOSK, "water-saving-office")}),
        ("ends_before_start", at(9), {}),
        ("ends_before_start", at(8, 59), {}),
        ("check_out_missed", at(14), {}),
    ],
)
def test_a_check_out_is_refused(code: str, now: datetime, others: dict[str, Any]) -> None:
    assert refused(attendance.check_out(attended(checked_in(at(9))), check_out(now, **others))) == code


def test_a_pair_is_given_up_at_its_deadline_and_not_before() -> None:
    miss = MissCheckOut(VOLUNTEER, ACTIVITY, 1, at(14))
    open_pair = attended(checked_in(at(8, 30)))
    assert attendance.miss_check_out(open_pair, replace(miss, now=at(14) - timedelta(microseconds=1))) == []
    event = single(attendance.miss_check_out(open_pair, miss))
    assert isinstance(event, CheckOutMissed)
    assert (event.checked_in_at, event.counts_from, event.checked_in_by) == (at(8, 30), at(9), KIOSK)


def test_the_last_instant_of_check_out_and_the_first_of_the_deadline_leave_no_gap() -> None:
    """The clock may stand still on the deadline itself: exactly one of the two is possible there."""
    open_pair = attended(checked_in(at(9)))
    assert refused(attendance.check_out(open_pair, check_out(at(14)))) == "check_out_missed"
    assert attendance.miss_check_out(open_pair, MissCheckOut(VOLUNTEER, ACTIVITY, 1, at(14))) != []


def test_a_deadline_of_a_pair_that_is_closed_or_of_an_earlier_one_does_nothing() -> None:
    came = checked_in(at(9))
    again = checked_in(at(11), 2)
    late = at(15)
    assert attendance.miss_check_out(attended(came, checked_out(came, at(10))), MissCheckOut(VOLUNTEER, ACTIVITY, 1, late)) == []
    assert attendance.miss_check_out(attended(came, checked_out(came, at(10)), again), MissCheckOut(VOLUNTEER, ACTIVITY, 1, late)) == []
