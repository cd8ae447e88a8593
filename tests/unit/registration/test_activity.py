"""Seats are decided in one stream: never oversold, first come first offered, and no seat for who may not have one."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.registration.domain.activity import (
    AcceptOffer,
    Activity,
    ActivityCommand,
    ActivityEvent,
    CancelActivity,
    ChangeCapacity,
    Enroll,
    ExpireOffer,
    HoldActivity,
    Person,
    PublishActivity,
    SeatElsewhere,
    WithdrawEnrollment,
    decide,
    evolve,
    evolve_known,
)
from shared.contracts.event import Event, Refusal
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
    Position,
    SeatOffered,
)
from tests.unit.registration.people import (
    ALICE,
    BOB,
    CAROL,
    DAVE,
    EVE,
    STRANGE_ADMIN,
    UNIT,
    UNIT_ADMIN,
    code_of,
    events_of,
    herself,
)

RIVER = UUID(int=500)
START = datetime(2017, 3, 22, 1, tzinfo=UTC)
END = START + timedelta(hours=3)
NOW = START - timedelta(days=10)
TOMORROW = NOW + timedelta(days=1)
PUBLISHED = ActivityPublished(
    activity_id=RIVER, unit_code=UNIT, title="世界水日巡河", carrier="caring-for-nature", target_group=None, occasion="world-water-day",
    place="河道三号段", starts_at=START, ends_at=END, positions=(Position(code="guide", name="引导员", capacity=1, duties="引导"),
    Position(code="sweeper", name="保洁员", capacity=2, duties="捡拾")), wait_list_max=2, risk_note="", has_risk=False, insurance=None,
)  # fmt: skip
PUBLISH = PublishActivity(
    PUBLISHED,
    UNIT_ADMIN,
    NOW,
    is_unit_known=True,
    words={"carrier": frozenset({"caring-for-nature"}), "target_group": frozenset(), "occasion": frozenset({"world-water-day"})},
)
ANYBODY = Person(unit_code=UNIT, standing="registered", is_minor=False, has_consented=True, seats=())


def enroll(who: UUID, person: Person | None = ANYBODY, position: str = "guide", now: datetime = NOW) -> Enroll:
    return Enroll(who, person, position, None, herself(who), now)


def accept(who: UUID, now: datetime = NOW, person: Person = ANYBODY) -> AcceptOffer:
    return AcceptOffer(who, person, None, herself(who), now)


def withdraw(who: UUID, now: datetime = NOW) -> WithdrawEnrollment:
    return WithdrawEnrollment(who, ANYBODY, "volunteer_withdrew", herself(who), now, now + timedelta(days=1))


def expire(who: UUID, now: datetime) -> ExpireOffer:
    return ExpireOffer(who, now, now + timedelta(days=1))


def seats(position: str, capacity: int, now: datetime = NOW) -> ChangeCapacity:
    return ChangeCapacity(position, capacity, UNIT_ADMIN, now, now + timedelta(days=1))


def after(*commands: ActivityCommand, published: ActivityPublished = PUBLISHED) -> Activity:
    activity = evolve(None, published)
    assert activity is not None
    for command in commands:
        decided = decide(activity, command)
        assert not isinstance(decided, Refusal), decided
        activity = reduce(evolve_known, decided, activity)
    return activity


def happens(activity: Activity | None, command: ActivityCommand) -> Sequence[Event]:
    return events_of(decide(activity, command))


def refused(activity: Activity | None, command: ActivityCommand) -> str:
    return code_of(decide(activity, command))


ON_GUIDE: dict[str, Any] = {"activity_id": RIVER, "position": "guide"}


def test_a_complete_plan_is_published() -> None:
    assert happens(None, PUBLISH) == [PUBLISHED]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (replace(PUBLISH, asker=STRANGE_ADMIN), "wrong_unit"),
        (replace(PUBLISH, is_unit_known=False), "unit_unknown"),
        (replace(PUBLISH, activity=PUBLISHED.model_copy(update={"ends_at": START})), "end_before_start"),
        (replace(PUBLISH, activity=PUBLISHED.model_copy(update={"ends_at": START + timedelta(hours=25)})), "activity_too_long"),
        (replace(PUBLISH, now=START), "start_in_past"),
        (replace(PUBLISH, activity=PUBLISHED.model_copy(update={"carrier": "banquets"})), "programme_word_unknown"),
        (replace(PUBLISH, activity=PUBLISHED.model_copy(update={"target_group": "elders"})), "programme_word_unknown"),
        (replace(PUBLISH, activity=PUBLISHED.model_copy(update={"positions": PUBLISHED.positions * 2})), "position_doubled"),
        (replace(PUBLISH, activity=PUBLISHED.model_copy(update={"has_risk": True})), "insurance_missing"),
    ],
)
def test_an_incomplete_plan_is_refused(command: PublishActivity, code: str) -> None:
    assert refused(None, command) == code


def test_a_free_seat_is_taken_at_once() -> None:
    assert happens(after(), enroll(ALICE)) == [EnrollmentAccepted(volunteer_id=ALICE, **ON_GUIDE)]


def test_without_a_free_seat_one_waits_and_at_last_nobody_can() -> None:
    full = after(enroll(ALICE))
    assert happens(full, enroll(BOB)) == [EnrollmentWaitlisted(volunteer_id=BOB, **ON_GUIDE)]
    assert refused(after(enroll(ALICE), enroll(BOB), enroll(CAROL)), enroll(DAVE)) == "activity_full"


def test_positions_have_seats_of_their_own() -> None:
    assert happens(after(enroll(ALICE)), enroll(BOB, position="sweeper"))[0] == EnrollmentAccepted(
        activity_id=RIVER, volunteer_id=BOB, position="sweeper"
    )
    assert refused(after(), enroll(ALICE, position="singer")) == "position_unknown"


def test_one_person_has_one_live_enrolment() -> None:
    assert refused(after(enroll(ALICE)), enroll(ALICE)) == "already_enrolled"
    assert refused(after(enroll(ALICE)), enroll(ALICE, position="sweeper")) == "already_enrolled"
    assert refused(after(enroll(ALICE), enroll(BOB)), enroll(BOB)) == "already_enrolled"


def test_a_freed_seat_is_offered_to_the_head_of_the_wait_list_in_the_same_decision() -> None:
    waiting = after(enroll(ALICE), enroll(BOB), enroll(CAROL))
    assert happens(waiting, withdraw(ALICE)) == [
        EnrollmentWithdrawn(volunteer_id=ALICE, reason="volunteer_withdrew", **ON_GUIDE),
        SeatOffered(volunteer_id=BOB, expires_at=TOMORROW, **ON_GUIDE),
    ]


def test_a_seat_on_offer_is_nobody_elses() -> None:
    offered = after(enroll(ALICE), enroll(BOB), withdraw(ALICE))
    assert happens(offered, enroll(DAVE)) == [EnrollmentWaitlisted(volunteer_id=DAVE, **ON_GUIDE)]
    assert happens(offered, accept(BOB)) == [OfferAccepted(volunteer_id=BOB, **ON_GUIDE)]
    assert refused(offered, accept(DAVE)) == "no_offer"


def test_an_offer_that_is_given_up_goes_to_the_next() -> None:
    offered = after(enroll(ALICE), enroll(BOB), enroll(CAROL), withdraw(ALICE))
    assert happens(offered, withdraw(BOB))[1] == SeatOffered(volunteer_id=CAROL, expires_at=TOMORROW, **ON_GUIDE)


def test_leaving_the_wait_list_frees_no_seat() -> None:
    waiting = after(enroll(ALICE), enroll(BOB), enroll(CAROL))
    assert happens(waiting, withdraw(BOB)) == [EnrollmentWithdrawn(volunteer_id=BOB, reason="volunteer_withdrew", **ON_GUIDE)]


def test_an_offer_lapses_at_its_deadline_and_not_before() -> None:
    offered = after(enroll(ALICE), enroll(BOB), enroll(CAROL), withdraw(ALICE))
    assert happens(offered, expire(BOB, TOMORROW - timedelta(microseconds=1))) == []
    assert happens(offered, expire(BOB, TOMORROW)) == [
        OfferExpired(volunteer_id=BOB, **ON_GUIDE),
        SeatOffered(volunteer_id=CAROL, expires_at=TOMORROW + timedelta(days=1), **ON_GUIDE),
    ]


def test_a_decision_does_not_trust_that_the_deadline_has_fired() -> None:
    assert refused(after(enroll(ALICE), enroll(BOB), withdraw(ALICE)), accept(BOB, TOMORROW)) == "offer_expired"


def test_a_deadline_of_an_offer_that_was_taken_does_nothing() -> None:
    taken = after(enroll(ALICE), enroll(BOB), withdraw(ALICE), accept(BOB))
    assert happens(taken, expire(BOB, TOMORROW)) == []
    assert happens(after(CancelActivity("大雨", UNIT_ADMIN)), expire(BOB, TOMORROW)) == []


def test_no_offer_stands_later_than_two_hours_before_the_start() -> None:
    late = START - timedelta(hours=5)
    offer = happens(after(enroll(ALICE), enroll(BOB)), withdraw(ALICE, late))[1]
    assert isinstance(offer, SeatOffered)
    assert offer.expires_at == START - timedelta(hours=2)


def test_in_the_last_two_hours_a_free_seat_is_for_whoever_asks() -> None:
    late = START - timedelta(hours=2)
    free = after(enroll(ALICE), enroll(BOB), withdraw(ALICE, late))
    assert free.free("guide") == 1
    assert happens(free, enroll(BOB, now=late)) == [EnrollmentAccepted(volunteer_id=BOB, **ON_GUIDE)]
    assert happens(free, enroll(CAROL, now=late)) == [EnrollmentAccepted(volunteer_id=CAROL, **ON_GUIDE)]


def test_more_seats_are_offered_to_those_who_wait() -> None:
    waiting = after(enroll(ALICE), enroll(BOB), enroll(CAROL))
    assert happens(waiting, seats("guide", 3)) == [
        CapacityChanged(capacity=3, **ON_GUIDE),
        SeatOffered(volunteer_id=BOB, expires_at=TOMORROW, **ON_GUIDE),
        SeatOffered(volunteer_id=CAROL, expires_at=TOMORROW, **ON_GUIDE),
    ]


def test_seats_are_never_cut_below_those_taken_or_on_offer() -> None:
    given_away = after(enroll(ALICE), enroll(BOB), seats("guide", 2))
    assert refused(given_away, seats("guide", 1)) == "capacity_below_seats_given"
    assert happens(given_away, seats("guide", 2)) == []
    assert refused(given_away, seats("singer", 1)) == "position_unknown"


def test_overlapping_service_is_refused_unless_a_coordinator_overrides_it() -> None:
    busy = replace(ANYBODY, seats=(SeatElsewhere(UUID(int=501), START - timedelta(hours=2), START + timedelta(minutes=1)),))
    assert refused(after(), enroll(ALICE, busy)) == "time_clash"
    assert refused(after(), replace(enroll(ALICE, busy), override_reason="只去半程")) == "override_not_allowed"
    assert happens(after(), replace(enroll(ALICE, busy), override_reason="只去半程", asker=UNIT_ADMIN)) == [
        ClashOverridden(activity_id=RIVER, volunteer_id=ALICE, clashes_with=UUID(int=501), reason="只去半程"),
        EnrollmentAccepted(volunteer_id=ALICE, **ON_GUIDE),
    ]
    assert refused(after(enroll(BOB), enroll(ALICE), withdraw(BOB)), accept(ALICE, person=busy)) == "time_clash"


def test_service_that_only_touches_does_not_overlap() -> None:
    neighbours = (
        SeatElsewhere(UUID(int=501), START - timedelta(hours=1), START),
        SeatElsewhere(UUID(int=502), END, END + timedelta(hours=1)),
    )
    assert len(happens(after(), enroll(ALICE, replace(ANYBODY, seats=neighbours)))) == 1


@pytest.mark.parametrize(
    ("person", "code"),
    [
        (None, "volunteer_unknown"),
        (replace(ANYBODY, standing="left"), "volunteer_left"),
        (replace(ANYBODY, standing="erased"), "person_erased"),
        (replace(ANYBODY, has_consented=False), "no_consent"),
    ],
)
def test_who_is_no_volunteer_gets_no_seat(person: Person | None, code: str) -> None:
    assert refused(after(), enroll(ALICE, person)) == code


def test_minors_stay_away_from_risks() -> None:
    risky = PUBLISHED.model_copy(update={"has_risk": True, "insurance": "保单 1"})
    minor = replace(ANYBODY, is_minor=True)
    assert refused(after(published=risky), enroll(ALICE, minor)) == "minor_in_risk_activity"
    assert len(happens(after(), enroll(ALICE, minor))) == 1


def test_rights_end_at_the_own_record_and_the_own_unit() -> None:
    assert refused(after(), replace(enroll(ALICE), asker=herself(BOB))) == "not_own_record"
    assert refused(after(), replace(enroll(ALICE), asker=STRANGE_ADMIN)) == "wrong_unit"
    assert refused(after(), replace(seats("guide", 2), asker=STRANGE_ADMIN)) == "wrong_unit"
    assert refused(after(enroll(ALICE)), replace(withdraw(ALICE), reason="organiser_removed")) == "wrong_unit"
    assert len(happens(after(enroll(ALICE)), replace(withdraw(ALICE), reason="organiser_removed", asker=UNIT_ADMIN))) == 1


def test_an_unknown_activity_is_said() -> None:
    for command in (enroll(ALICE), accept(ALICE), withdraw(ALICE), seats("guide", 1), expire(ALICE, NOW), CancelActivity("x", UNIT_ADMIN)):
        assert refused(None, command) == "activity_unknown"


def test_seats_are_settled_when_it_starts() -> None:
    for command in (enroll(ALICE, now=START), withdraw(ALICE, START), accept(ALICE, START), seats("guide", 5, START)):
        assert refused(after(), command) == "activity_started"
        assert refused(after(), replace(command, now=END)) == "activity_over"
    assert refused(after(), withdraw(ALICE)) == "not_enrolled"


def test_what_has_started_can_be_recorded_as_held_once() -> None:
    held = HoldActivity("清理两公里", UNIT_ADMIN, START)
    assert refused(after(), replace(held, now=START - timedelta(seconds=1))) == "activity_not_started"
    assert happens(after(), held) == [ActivityHeld(activity_id=RIVER, unit_code=UNIT, result="清理两公里")]
    for command in (held, CancelActivity("x", UNIT_ADMIN), enroll(ALICE)):
        assert refused(after(held), command) == "activity_over"


def test_what_is_cancelled_stays_cancelled() -> None:
    cancel = CancelActivity("大雨", UNIT_ADMIN)
    assert happens(after(), cancel) == [ActivityCancelled(activity_id=RIVER, unit_code=UNIT, reason="大雨")]
    for command in (cancel, HoldActivity("x", UNIT_ADMIN, START), enroll(ALICE), seats("guide", 5)):
        assert refused(after(cancel), command) == "activity_cancelled"


PEOPLE = (ALICE, BOB, CAROL, DAVE, EVE)
Step = tuple[Literal["enroll", "accept", "withdraw", "expire", "seats"], UUID, str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(("enroll", "accept", "withdraw", "expire", "seats")),
        st.sampled_from(PEOPLE),
        st.sampled_from(("guide", "sweeper")),
        st.integers(0, 3),
        st.integers(0, 20),
    ),
    max_size=40,
)


def _command(step: Step, now: datetime) -> ActivityCommand:
    what, who, position, capacity, _ = step
    match what:
        case "enroll":
            return enroll(who, position=position, now=now)
        case "accept":
            return accept(who, now)
        case "withdraw":
            return withdraw(who, now)
        case "expire":
            return expire(who, now)
        case "seats":
            return seats(position, capacity, now)


@given(STEPS)
def test_no_order_of_commands_oversells_or_jumps_the_queue(steps: list[Step]) -> None:
    activity, now = after(), NOW
    for step in steps:
        now += timedelta(hours=step[4])
        command = _command(step, now)
        queues = {position: activity.waiting(position) for position in activity.capacity}
        decided = decide(activity, command)
        if isinstance(decided, Refusal):
            continue
        for event in decided:
            _in_turn(event, queues, now)
        activity = reduce(evolve_known, decided, activity)
        for position in activity.capacity:
            assert activity.free(position) >= 0
            if now < START - timedelta(hours=2):
                assert not (activity.free(position) and activity.waiting(position)), "a free seat stands idle beside a wait-list"
        again = decide(activity, command)
        assert isinstance(again, Refusal) or not again, "the same command again does something again"


def _in_turn(event: ActivityEvent, queues: dict[str, list[UUID]], now: datetime) -> None:
    """Offers go to the head of the wait-list as it was, less who gave up."""
    match event:
        case EnrollmentWithdrawn(volunteer_id=who, position=position) if who in queues[position]:
            queues[position].remove(who)
        case SeatOffered(volunteer_id=who, position=position):
            assert queues[position].pop(0) == who
        case EnrollmentAccepted(position=position):
            assert not queues[position] or now >= START - timedelta(hours=2)
        case _:
            pass
