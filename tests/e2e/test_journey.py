"""A volunteer registers, enrols, is checked in and out; the hours count; a star is granted, and goes when a correction takes the hours."""

import json
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.e2e.stack import Stack, command
from tests.e2e.stage import Stage, Volunteer, accepted, on, rows


@dataclass(frozen=True)
class Journey:
    """What came of it."""

    volunteer: Volunteer
    entry: dict[str, Any]
    confirmed: dict[str, Any]
    star: dict[str, Any]
    correlation: UUID


@pytest.fixture(scope="module")
async def played(stage: Stage) -> Journey:
    """The journey, played once; the tests look at what came of it."""
    correlation = uuid4()
    same = {"X_Correlation_Id": str(correlation)}
    day = await stage.day(not_before=date(2017, 3, 5))
    volunteer = await stage.volunteer("赵大山", **same)
    activity = await stage.activity(on(day, "09:00"), on(day, "12:00"), **same)
    entry = await stage.served(volunteer, activity, on(day, "08:50"), on(day, "11:30"), **same)
    confirmed = await stage.confirm(entry, **same)
    applicant = stage.self_("recognition", volunteer.id)
    star = accepted(await command(applicant, f"/volunteers/{volunteer.id}/stars", {}, After=confirmed["position"], **same))
    return Journey(volunteer, entry, confirmed, star, correlation)


async def test_early_arrival_counts_from_the_start_and_the_star_is_granted(played: Journey) -> None:
    assert played.entry["minutes"] == 150
    assert [each["type"] for each in played.star["events"]] == ["recognition.star_granted"]


async def test_an_admin_sees_the_person_across_the_three_services(stage: Stage, played: Journey) -> None:
    after = f"{played.confirmed['position']}, {played.star['position']}"
    seen = await rows(stage.bureau("registration"), "/volunteer-overview", after)
    [row] = [each for each in seen if each["volunteer_id"] == str(played.volunteer.id)]
    assert (row["timed_minutes"], row["stars"]) == (150, 1)


async def test_the_star_goes_by_itself_when_the_hours_are_reversed(stage: Stage, played: Journey) -> None:
    path = f"/accounts/{played.volunteer.id}/entries/{played.entry['entry_id']}/reverse"
    said = {"served_on": played.entry["served_on"], "reason": "false_record", "requester_id": str(played.volunteer.id)}
    after = accepted(await command(stage.leader("hours"), path, said))["position"]  # Another service follows it through its reactions.
    history = await rows(stage.bureau("recognition"), "/star-history", after, volunteer=str(played.volunteer.id))
    assert [each["outcome"] for each in history] == ["withdrawn", "granted"]


async def test_one_correlation_id_stands_in_the_events_and_the_logs_of_all_three(stack: Stack, played: Journey) -> None:
    for service in ("registration", "hours", "recognition"):
        found = await stack.sql(service, "SELECT count(*) AS n FROM es.event WHERE correlation_id = $1", played.correlation)
        assert found[0]["n"] > 0
        lines = [json.loads(line) for line in (stack.folder / f"{service}-api.log").read_text().splitlines() if line.startswith("{")]
        assert any(line.get("correlation_id") == str(played.correlation) for line in lines)


async def test_names_and_numbers_stand_nowhere_in_the_clear(stack: Stack, played: Journey) -> None:
    for service in ("registration", "hours", "recognition"):
        for clear in (played.volunteer.name, played.volunteer.id_number, played.volunteer.phone):
            found = await stack.sql(
                service, "SELECT count(*) AS n FROM es.event WHERE position(convert_to($1, 'UTF8') IN payload) > 0", clear
            )
            assert found[0]["n"] == 0
            assert clear not in (stack.folder / f"{service}-api.log").read_text()
            assert clear not in (stack.folder / f"{service}-worker.log").read_text()
