"""The sample year before it is played: its plan fits any end, and what it knows of the services is so."""

from datetime import date, timedelta
from typing import Any

import pytest

from deploy.sample.player import REACTING
from deploy.sample.tally import ZONE
from deploy.sample.year import Year, id_number
from services.hours.inbox import REACTIONS as HOURS
from services.recognition.inbox import REACTIONS as RECOGNITION
from services.registration.domain.volunteer import birth_date
from services.registration.inbox import REACTIONS as REGISTRATION

ENDS = [date(2026, 11, 23) - timedelta(days=37 * number) for number in range(11)]


def planned(ends_on: date) -> Year:
    nobody: Any = None
    return Year(nobody, ends_on, lambda _told: None)


@pytest.mark.parametrize("ends_on", ENDS, ids=str)
def test_a_year_that_ends_on_any_day_has_few_instants_and_stays_within_itself(ends_on: date) -> None:
    year = planned(ends_on)
    instants = sorted({instant for instant, _ in year._steps})
    assert 80 <= len(instants) <= 150
    assert instants[0].astimezone(ZONE).date() == year.starts_on
    assert instants[-1].astimezone(ZONE).date() <= ends_on


@pytest.mark.parametrize("ends_on", ENDS, ids=str)
def test_no_activity_day_is_planned_before_the_one_before_is_closed(ends_on: date) -> None:
    days = [day for day, _ in planned(ends_on)._activity_days()]
    assert all((later - earlier).days >= 6 for earlier, later in zip(days, days[1:], strict=False))


def test_invented_id_numbers_pass_the_check_of_registration() -> None:
    born = date(1990, 2, 28)
    assert all(birth_date(id_number(born, number)) == born for number in range(1, 60))


def test_the_player_waits_for_every_log_that_a_service_reacts_to() -> None:
    told = {"registration": REGISTRATION, "hours": HOURS, "recognition": RECOGNITION}
    assert {name: {each.source for each in reactions} for name, reactions in told.items()} == REACTING
