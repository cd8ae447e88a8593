"""A star is granted on application from confirmed minutes, and goes by itself when they are gone."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import reduce
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.recognition.domain.star import ApplyForStar, Confirmed, Person, StarEvent, Stars, apply_for_star, evolve, reassess
from shared.codec import Codec
from shared.contracts import recognition
from shared.contracts.event import Event, Refusal
from shared.contracts.recognition import StarDeclined, StarGranted, StarPolicyAdopted, StarWithdrawn
from shared.envelope import Record, Stream
from shared.permissions import Actor, Role

WHO = UUID("0197f3a4-5c00-7000-8000-000000000001")
UNIT = "water-saving-office"
LADDER = StarPolicyAdopted(version="2012", effective_from=date(2017, 1, 1), thresholds_minutes=(6000, 18000, 36000))
APPLICATION = ApplyForStar(WHO, None, Person("registered", UNIT), Actor(WHO, Role.VOLUNTEER, UNIT), Confirmed(6000, 41), LADDER)

FIGURES: dict[str, Any] = {"volunteer_id": WHO, "unit_code": UNIT, "policy_version": "2012"}
ONE_STAR = StarGranted(stars=1, confirmed_minutes=6000, threshold_minutes=6000, hours_position=41, **FIGURES)
TWO_STARS = StarGranted(stars=2, confirmed_minutes=18000, threshold_minutes=18000, hours_position=90, **FIGURES)


def after(*events: StarEvent) -> Stars:
    return reduce(evolve, events, Stars())


def with_minutes(minutes: int) -> ApplyForStar:
    return replace(APPLICATION, confirmed=Confirmed(minutes, 90))


def code_of(decided: Sequence[Event] | Refusal) -> str:
    assert isinstance(decided, Refusal)
    return decided.code


def test_enough_minutes_grant_the_first_star() -> None:
    assert apply_for_star(after(), APPLICATION) == [ONE_STAR]


def test_a_minute_too_few_declines_it_and_says_what_is_missing() -> None:
    declined = StarDeclined(stars=1, reason="too_few_hours", confirmed_minutes=5999, threshold_minutes=6000, hours_position=90, **FIGURES)
    assert apply_for_star(after(), with_minutes(5999)) == [declined]


def test_a_declined_application_can_be_made_again() -> None:
    declined = StarDeclined(stars=1, reason="too_few_hours", confirmed_minutes=5999, threshold_minutes=6000, hours_position=40, **FIGURES)
    assert apply_for_star(after(declined), APPLICATION) == [ONE_STAR]


def test_the_next_star_follows_those_held() -> None:
    assert apply_for_star(after(ONE_STAR), with_minutes(18000)) == [TWO_STARS]


def test_many_hours_do_not_skip_a_star() -> None:
    (granted,) = list(apply_for_star(after(), with_minutes(40000)))  # type: ignore[arg-type]
    assert isinstance(granted, StarGranted)
    assert granted.stars == 1


def test_a_star_that_is_held_is_not_granted_twice() -> None:
    assert code_of(apply_for_star(after(ONE_STAR), replace(APPLICATION, wanted=1))) == "star_already_held"


def test_beyond_the_highest_star_there_is_none() -> None:
    three = StarGranted(stars=3, confirmed_minutes=36000, threshold_minutes=36000, hours_position=99, **FIGURES)
    assert code_of(apply_for_star(after(ONE_STAR, TWO_STARS, three), with_minutes(99999))) == "star_already_held"


def test_stars_are_asked_for_in_order() -> None:
    decided = apply_for_star(after(), replace(APPLICATION, wanted=2))
    assert decided == Refusal("star_out_of_order", {"next": 1})


@pytest.mark.parametrize("person", [Person(), Person("unknown", UNIT)], ids=["never registered", "left"])
def test_only_volunteers_are_decided_about(person: Person) -> None:
    assert code_of(apply_for_star(after(), replace(APPLICATION, person=person))) == "not_a_volunteer"


@pytest.mark.parametrize("person", [Person("erased", UNIT), Person("erased")], ids=["known", "not heard of otherwise"])
@pytest.mark.parametrize("role", [Role.VOLUNTEER, Role.UNIT_ADMIN, Role.BUREAU_ADMIN])
def test_who_was_erased_is_given_no_star_whoever_asks_and_whatever_else_holds(role: Role, person: Person) -> None:
    asker = Actor(WHO if role is Role.VOLUNTEER else UUID(int=99), role, UNIT)
    for policy, confirmed in ((LADDER, Confirmed(99999, 90)), (LADDER, Confirmed()), (None, Confirmed())):
        asked = replace(APPLICATION, person=person, asker=asker, policy=policy, confirmed=confirmed)
        assert code_of(apply_for_star(after(ONE_STAR), asked)) == "person_erased"


def test_the_stars_of_who_was_erased_still_rest_on_their_minutes() -> None:
    """They are nobody's in particular, and not paid for all the same once the minutes are gone."""
    assert [type(each) for each in reassess(after(ONE_STAR), WHO, Confirmed(0, 91))] == [StarWithdrawn]


@pytest.mark.parametrize(
    ("role", "unit_code", "code"),
    [
        (Role.VOLUNTEER, None, "not_own_record"),
        (Role.UNIT_ADMIN, "another-office", "wrong_unit"),
        (Role.UNIT_ADMIN, None, "not_a_volunteer"),
        (Role.BUREAU_ADMIN, None, "not_a_volunteer"),
    ],
)
def test_who_may_not_ask_learns_nothing_else(role: Role, unit_code: str | None, code: str) -> None:
    asker = Actor(UUID(int=99), role, UNIT)
    person = Person() if unit_code is None else Person("erased", unit_code)
    assert code_of(apply_for_star(after(), replace(APPLICATION, asker=asker, person=person))) == code


def test_without_a_policy_nothing_is_decided() -> None:
    assert code_of(apply_for_star(after(), replace(APPLICATION, policy=None))) == "no_star_policy"


def test_a_correction_below_the_threshold_withdraws_the_star() -> None:
    withdrawn = StarWithdrawn(
        stars=1, reason="hours_corrected", confirmed_minutes=5940, threshold_minutes=6000, hours_position=50, **FIGURES
    )
    assert reassess(after(ONE_STAR), WHO, Confirmed(5940, 50, "hours_corrected")) == [withdrawn]


def test_every_star_that_is_no_longer_met_goes_the_highest_first() -> None:
    decided = reassess(after(ONE_STAR, TWO_STARS), WHO, Confirmed(0, 95, "hours_reversed"))
    assert [(each.stars, each.reason) for each in decided if isinstance(each, StarWithdrawn)] == [
        (2, "hours_reversed"),
        (1, "hours_reversed"),
    ]


def test_minutes_that_still_suffice_withdraw_nothing() -> None:
    assert reassess(after(ONE_STAR, TWO_STARS), WHO, Confirmed(18000, 95, "hours_corrected")) == []


def test_a_star_keeps_the_threshold_it_was_granted_under() -> None:
    dearer = replace(with_minutes(6000), policy=LADDER.model_copy(update={"thresholds_minutes": (9000, 18000)}))
    assert reassess(after(ONE_STAR), WHO, dearer.confirmed) == []
    (declined,) = list(apply_for_star(after(ONE_STAR), dearer))  # type: ignore[arg-type]
    assert isinstance(declined, StarDeclined)
    assert declined.stars == 2


def test_a_withdrawn_star_can_be_earned_again() -> None:
    withdrawn = StarWithdrawn(stars=1, reason="hours_reversed", confirmed_minutes=0, threshold_minutes=6000, hours_position=50, **FIGURES)
    assert apply_for_star(after(ONE_STAR, withdrawn), APPLICATION) == [ONE_STAR]


def test_of_two_reassessments_the_second_finds_nothing_to_do() -> None:
    stars, fewer = after(ONE_STAR, TWO_STARS), Confirmed(100, 95, "hours_corrected")
    left = reduce(evolve, reassess(stars, WHO, fewer), stars)
    assert reassess(left, WHO, fewer) == []


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 50000)), max_size=30))
def test_whatever_happens_the_stars_held_are_paid_for_and_without_a_gap(steps: list[tuple[bool, int]]) -> None:
    stars = Stars()
    for applies, minutes in steps:
        confirmed = Confirmed(minutes, 1, "hours_corrected")
        decided = reassess(stars, WHO, confirmed)
        stars = reduce(evolve, decided, stars)
        if applies:
            answered = apply_for_star(stars, replace(APPLICATION, confirmed=confirmed))
            stars = stars if isinstance(answered, Refusal) else reduce(evolve, answered, stars)
        assert all(held.threshold_minutes <= minutes for held in stars.held.values())
        assert sorted(stars.held) == list(range(1, len(stars.held) + 1))


@pytest.mark.parametrize(
    "event",
    [
        LADDER,
        ONE_STAR,
        StarDeclined(stars=1, reason="too_few_hours", confirmed_minutes=1, threshold_minutes=6000, hours_position=0, **FIGURES),
        StarWithdrawn(stars=1, reason="hours_reversed", confirmed_minutes=1, threshold_minutes=6000, hours_position=7, **FIGURES),
    ],
)
def test_every_event_survives_the_codec(event: Event) -> None:
    codec, event_id = Codec(recognition.EVENTS, recognition.UPCASTERS), uuid4()
    record = Record(
        service="recognition",
        log_id=uuid4(),
        position=1,
        stream=Stream("star", WHO),
        version=1,
        event_id=event_id,
        type=event.TYPE,
        schema_version=event.VERSION,
        time=datetime(2017, 3, 5, tzinfo=UTC),
        command_id=uuid4(),
        correlation_id=uuid4(),
        causation_id=None,
        actor="volunteer:x",
        partition_key=str(WHO),
        traceparent=None,
        payload=codec.encode(event, event_id),
    )
    assert codec.decode(record) == event
