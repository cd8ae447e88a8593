"""The sample year before it is played: its plan fits any end, and what it knows of the services is so."""

from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import pytest

from deploy.sample.player import REACTING, SampleError
from deploy.sample.tally import ZONE, Stretch, Tally, compare, stretches
from deploy.sample.year import Year, id_number
from services.hours.inbox import REACTIONS as HOURS
from services.recognition.inbox import REACTIONS as RECOGNITION
from services.registration.domain.volunteer import birth_date
from services.registration.inbox import REACTIONS as REGISTRATION

ENDS = [date(2026, 11, 23) - timedelta(days=29 * number) for number in range(25)]
"""Two years of yesterdays."""


def planned(ends_on: date) -> Year:
    nobody: Any = None
    return Year(nobody, ends_on, lambda _told: None)


def test_a_year_that_ends_on_any_day_has_few_instants_and_stays_within_itself() -> None:
    for ends_on in ENDS:
        year = planned(ends_on)
        instants = sorted({instant for instant, _ in year._steps})
        assert 80 <= len(instants) <= 150
        assert instants[0].astimezone(ZONE).date() == year.starts_on, ends_on
        assert instants[-1].astimezone(ZONE).date() <= ends_on
        assert year._popular_days, ends_on


def test_no_activity_day_is_planned_before_the_one_before_is_closed() -> None:
    for ends_on in ENDS:
        days = [day for day, _ in planned(ends_on)._activity_days()]
        assert all((later - earlier).days >= 6 for earlier, later in pairwise(days)), ends_on


def test_invented_id_numbers_pass_the_check_of_registration() -> None:
    born = date(1990, 2, 28)
    assert all(birth_date(id_number(born, number)) == born for number in range(1, 60))


def test_the_player_waits_for_every_log_that_a_service_reacts_to() -> None:
    told = {"registration": REGISTRATION, "hours": HOURS, "recognition": RECOGNITION}
    assert {name: {each.source for each in reactions} for name, reactions in told.items()} == REACTING


WHO, WHERE = uuid4(), uuid4()


def stretch(begins: str, ends: str, where: UUID = WHERE) -> Stretch:
    (one,) = stretches(WHO, where, datetime.fromisoformat(begins), datetime.fromisoformat(ends))
    return one


def test_the_count_cuts_a_night_at_midnight_of_the_bureau() -> None:
    night = list(stretches(WHO, WHERE, datetime.fromisoformat("2026-07-21T22:00+08:00"), datetime.fromisoformat("2026-07-22T02:10+08:00")))
    assert [(each.on.isoformat(), each.minutes) for each in night] == [("2026-07-21", 120), ("2026-07-22", 130)]


def test_the_count_caps_a_day_and_keeps_what_lies_above() -> None:
    tally = Tally()
    tally.count(stretch("2026-05-01T09:00+08:00", "2026-05-01T16:35+08:00"))
    tally.count(evening := stretch("2026-05-01T17:00+08:00", "2026-05-01T20:05+08:00", uuid4()))
    assert (tally.credited(WHO), tally.over_cap(WHO)) == (480, 160)
    tally.drop(evening)
    assert (tally.credited(WHO), tally.over_cap(WHO)) == (455, 0)


def test_the_count_lets_a_star_go_with_its_hours() -> None:
    tally = Tally()
    days = [stretch(f"2026-05-{day:02d}T08:00+08:00", f"2026-05-{day:02d}T16:00+08:00", uuid4()) for day in range(1, 14)]
    for each in days:
        assert not tally.may_have_star(WHO)
        tally.count(each)
    assert tally.may_have_star(WHO)
    tally.held[WHO] = 1
    tally.drop(days[0])
    assert tally.held == {}
    assert tally.star_outcomes["withdrawn"] == 1


async def test_a_figure_that_differs_is_an_error_that_names_it() -> None:
    tally = Tally()
    tally.count(stretch("2026-05-01T09:00+08:00", "2026-05-01T10:00+08:00"))
    shown = {"volunteer_id": str(WHO), "timed_minutes": 60, "back_entered_minutes": 0, "transferred_minutes": 0, "over_cap_minutes": 0}

    async def rows(_service: str, path: str) -> list[dict[str, Any]]:
        return [shown] if path == "/balances" else []

    assert (await compare(tally, rows))["hours"] == 1
    shown["timed_minutes"] = 61
    with pytest.raises(SampleError, match=f"minutes of {WHO}: the service shows 61, the count is 60"):
        await compare(tally, rows)
