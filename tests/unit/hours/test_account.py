"""Which minutes of an account count: confirmed, corrected and reversed, under the day's cap, and none twice."""

from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from services.hours.domain import account
from services.hours.domain.account import CAP_RECOUNTED, Account, Propose, account_id, entry_id
from shared.contracts.event import Event, Refusal
from shared.contracts.hours import Posting, ServiceTimeConfirmed, ServiceTimeCorrected, ServiceTimeReversed
from shared.permissions import Actor, Role
from tests.unit.hours.scenes import (
    ACTIVITY,
    ADMIN,
    CHIEF,
    DAY,
    KIOSK,
    LEADER,
    OTHER_ACTIVITY,
    POLICY,
    UNIT,
    VOLUNTEER,
    at,
    booked,
    confirm,
    correct,
    entry,
    proposed,
    reverse,
    survived,
)

MORNING = proposed(at(9), at(12), 1)
AFTERNOON = proposed(at(13), at(19), 2)
NOON = proposed(at(11, 30), at(13, 30), 3, activity_id=OTHER_ACTIVITY)
MISSED = proposed(at(9), at(9), 4)
DECISIONS = {"confirm": confirm(), "correct": correct(at(9), at(11)), "reverse": reverse()}


def decide(state: Account, command: Any) -> Any:
    match command:
        case account.Confirm():
            return account.confirm(state, command)
        case account.Correct():
            return account.correct(state, command)
        case _:
            return account.reverse(state, command)


def done(state: Account, command: Any) -> tuple[Account, list[Any]]:
    """The account after a command that must be accepted, and what it said."""
    events = decide(state, command)
    assert not isinstance(events, Refusal), events
    for event in events:
        state = account.evolve(state, survived(event))
    return state, list(events)


def after(*steps: Any) -> Account:
    """An account after entries and accepted commands."""
    state = Account()
    for step in steps:
        state = account.evolve(state, survived(step)) if isinstance(step, Event) else done(state, step)[0]
    return state


def refused(answer: Any) -> str | None:
    return answer.code if isinstance(answer, Refusal) else None


def lines(event: Any) -> dict[str, int]:
    found = {each.account: each.minutes for each in event.postings}
    assert sum(found.values()) == 0
    return found


def test_a_proposal_is_made_once() -> None:
    command = Propose(VOLUNTEER, entry(1), ACTIVITY, UNIT, DAY, at(9), at(12), KIOSK, LEADER, MORNING.not_before, MORNING.not_after)
    assert account.propose(Account(), command) == [MORNING]
    assert account.propose(booked(MORNING), command) == []


def test_a_confirmation_credits_what_was_served() -> None:
    _, (event,) = done(booked(MORNING), confirm())
    assert isinstance(event, ServiceTimeConfirmed)
    assert (event.credited_minutes, event.over_cap_minutes, event.policy_version) == (180, 0, "2017")
    assert lines(event) == {"served": -180, "timed": 180}
    assert (event.recorder_id, event.approver_id) == (KIOSK, ADMIN)


def test_what_lies_above_the_daily_cap_is_posted_to_over_cap() -> None:
    _, (event,) = done(after(MORNING, AFTERNOON, confirm(1)), confirm(2))
    assert lines(event) == {"served": -360, "timed": 300, "over_cap": 60}


def test_a_day_that_is_full_takes_all_of_it_over_the_cap() -> None:
    low = POLICY.model_copy(update={"daily_cap_minutes": 180})
    _, (event,) = done(after(MORNING, AFTERNOON, confirm(1, policy=low)), confirm(2, policy=low))
    assert lines(event) == {"served": -360, "over_cap": 360}


def test_the_cap_is_that_of_a_civil_day() -> None:
    next_day = DAY + timedelta(days=1)
    tomorrow = proposed(at(0, day=next_day), at(8, day=next_day), 5)
    _, (event,) = done(after(MORNING, AFTERNOON, confirm(1), confirm(2), tomorrow), confirm(5, served_on=next_day))
    assert event.credited_minutes == 480


@pytest.mark.parametrize("command", DECISIONS.values(), ids=DECISIONS)
@pytest.mark.parametrize(
    ("code", "others"),
    [
        ("approver_is_subject", {"approver": Actor(VOLUNTEER, Role.UNIT_ADMIN, UNIT)}),
        ("approver_is_recorder", {"approver": Actor(KIOSK, Role.UNIT_ADMIN, UNIT)}),
        ("approver_is_recorder", {"approver": Actor(LEADER, Role.BUREAU_ADMIN, "bureau")}),  # Who recorded the check-in is a recorder, too.
        ("wrong_unit", {"approver": Actor(ADMIN, Role.UNIT_ADMIN, "water-saving-office")}),
        ("no_hours_policy", {"policy": None}),
        ("entry_unknown", {"entry_id": entry(99)}),
    ],
)
def test_a_decision_needs_the_right_person_and_a_known_entry(command: Any, code: str, others: dict[str, Any]) -> None:
    assert refused(decide(booked(MORNING), replace(command, **others))) == code


@pytest.mark.parametrize("name", ["correct", "reverse"])
def test_who_asked_for_a_change_does_not_approve_it(name: str) -> None:
    command = replace(DECISIONS[name], requester_id=ADMIN)  # type: ignore[type-var]
    assert refused(decide(booked(MORNING), command)) == "approver_is_requester"


@pytest.mark.parametrize("name", ["correct", "reverse"])
def test_nobody_is_named_as_who_asked_but_the_volunteer_and_those_who_recorded(name: str) -> None:
    def answer(requester_id: UUID) -> str | None:
        return refused(decide(booked(MORNING), replace(DECISIONS[name], requester_id=requester_id)))  # type: ignore[type-var]

    assert [answer(each) for each in (VOLUNTEER, KIOSK, LEADER)] == [None, None, None]
    assert [answer(each) for each in (CHIEF, UUID(int=99))] == ["requester_unknown", "requester_unknown"]


def test_the_bureau_approves_for_every_unit() -> None:
    assert refused(account.confirm(booked(MORNING), confirm(approver=Actor(CHIEF, Role.BUREAU_ADMIN, "bureau")))) is None


def test_an_entry_is_found_by_the_day_it_names() -> None:
    assert refused(account.confirm(booked(MORNING), confirm(served_on=DAY + timedelta(days=1)))) == "entry_unknown"


def test_an_entry_is_confirmed_once() -> None:
    assert (
        refused(account.confirm(after(MORNING, confirm()), confirm(approver=Actor(CHIEF, Role.BUREAU_ADMIN, "bureau"))))
        == "already_confirmed"
    )


def test_a_minute_is_not_credited_twice() -> None:
    answer = account.confirm(after(MORNING, NOON, confirm(1)), confirm(3))
    assert answer == Refusal("overlapping_service", {"other_entry_id": str(entry(1)), "other_activity_id": str(ACTIVITY)})


def test_what_only_waits_blocks_nothing_and_touching_intervals_do_not_overlap() -> None:
    noon = proposed(at(12), at(13), 3)
    assert refused(account.confirm(booked(MORNING, NOON), confirm(3))) is None
    assert refused(account.confirm(after(MORNING, AFTERNOON, noon, confirm(1), confirm(2)), confirm(3))) is None


def test_a_missed_check_out_counts_nothing_until_a_correction_says_what_was_served() -> None:
    assert refused(account.confirm(booked(MISSED), confirm(4))) == "nothing_to_confirm"
    _, (event,) = done(booked(MISSED), correct(at(9), at(11, 30), 4, reason_code="check_out_missed"))
    assert isinstance(event, ServiceTimeCorrected)
    assert lines(event) == {"served": -150, "timed": 150}
    assert (event.old_credited_minutes, event.reason_code, event.requester_id) == (0, "check_out_missed", VOLUNTEER)


def test_a_correction_says_old_and_new_and_posts_the_difference() -> None:
    state, (event,) = done(after(MORNING, confirm()), correct(at(9), at(10)))
    assert (event.old_starts_at, event.old_ends_at, event.old_credited_minutes) == (at(9), at(12), 180)
    assert (event.starts_at, event.ends_at, event.credited_minutes) == (at(9), at(10), 60)
    assert lines(event) == {"served": 120, "timed": -120}
    assert state.entries[entry(1)].credited_minutes == 60


def test_a_correction_to_what_is_so_already_says_nothing() -> None:
    assert account.correct(after(MORNING, confirm()), correct(at(9), at(12))) == []


@pytest.mark.parametrize(
    ("code", "starts_at", "ends_at"),
    [
        ("ends_before_start", at(10), at(9)),
        ("ends_before_start", at(10), at(10, 0, 59)),
        ("interval_outside_day", at(23), at(0, 30, day=date(2017, 3, 23))),
        ("interval_outside_day", at(9, day=date(2017, 3, 21)), at(10, day=date(2017, 3, 21))),
        ("overlapping_service", at(9), at(13, 30)),
    ],
)
def test_a_correction_stays_within_its_day_and_off_what_counts(code: str, starts_at: datetime, ends_at: datetime) -> None:
    state = after(MORNING, AFTERNOON, confirm(1), confirm(2))
    assert refused(account.correct(state, correct(starts_at, ends_at))) == code


def test_a_correction_does_not_reach_beyond_what_the_activity_lasted_nor_into_the_future() -> None:
    slot = proposed(at(9), at(10), 1, not_before=at(9), not_after=at(14))
    assert refused(account.correct(booked(slot), correct(at(8, 59), at(10)))) == "interval_outside_activity"
    assert refused(account.correct(booked(slot), correct(at(9), at(14, 1)))) == "interval_outside_activity"
    assert refused(account.correct(booked(slot), correct(at(9), at(14)))) is None
    assert refused(account.correct(booked(slot), correct(at(9), at(14), now=at(13, 59)))) == "ends_in_future"


def test_a_reversal_undoes_what_an_entry_had_and_ends_it() -> None:
    state, (event,) = done(after(MORNING, confirm()), reverse())
    assert isinstance(event, ServiceTimeReversed)
    assert lines(event) == {"served": 180, "timed": -180}
    for command in DECISIONS.values():
        assert refused(decide(state, command)) == "entry_reversed"
    assert refused(account.confirm(account.evolve(state, NOON), confirm(3))) is None


def test_an_entry_that_waits_is_turned_down_by_a_reversal_without_postings() -> None:
    _, (event,) = done(booked(MORNING), reverse(reason_code="turned_down"))
    assert (event.postings, event.credited_minutes) == ((), 0)


@pytest.mark.parametrize("command", [reverse(1), correct(at(9), at(10))], ids=["reversed", "corrected"])
def test_room_that_becomes_free_under_the_cap_goes_to_the_other_entries_of_the_day(command: Any) -> None:
    state, events = done(after(MORNING, AFTERNOON, confirm(1), confirm(2)), command)
    moved = events[1]
    assert isinstance(moved, ServiceTimeCorrected)
    assert (moved.entry_id, moved.reason_code) == (entry(2), CAP_RECOUNTED)
    assert (moved.old_starts_at, moved.old_ends_at) == (moved.starts_at, moved.ends_at)
    assert moved.postings == (Posting(account="timed", minutes=60), Posting(account="over_cap", minutes=-60))
    assert state.entries[entry(2)].over_cap_minutes == 0


def test_a_shorter_entry_frees_no_more_room_than_it_gave_up() -> None:
    state, events = done(after(MORNING, AFTERNOON, confirm(1), confirm(2)), correct(at(9), at(11, 30)))
    assert [event.credited_minutes for event in events] == [150, 330]
    assert state.entries[entry(2)].over_cap_minutes == 30


def test_a_longer_entry_takes_only_the_room_that_is_left() -> None:
    _, events = done(after(proposed(at(9), at(10), 1), AFTERNOON, confirm(1), confirm(2)), correct(at(8), at(12)))
    (event,) = events
    assert (event.credited_minutes, event.over_cap_minutes) == (120, 120)


def test_a_year_is_an_account_and_a_day_of_a_pair_an_entry() -> None:
    assert account_id(VOLUNTEER, 2017) != account_id(VOLUNTEER, 2018)
    one = entry_id(ACTIVITY, 1, date(2017, 12, 31))
    assert len({one, entry_id(ACTIVITY, 1, date(2018, 1, 1)), entry_id(ACTIVITY, 2, date(2017, 12, 31))}) == 3
    assert one == entry_id(ACTIVITY, 1, date(2017, 12, 31))
