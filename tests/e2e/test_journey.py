"""A volunteer registers, enrols, is checked in and out; the hours count; a star is granted, and goes when a correction takes the hours."""

import json
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from deploy.local.keys import person_id
from shared.clock import CIVIL_ZONE
from tests.e2e.stack import Stack, command

SAMPLE = Path(__file__).parents[2] / "deploy" / "sample"
UNIT = "water-saving-office"
STAR_POLICY = """
version: "e2e"
effective_from: 2017-01-01
thresholds_hours: [2, 100, 200, 300, 400]
"""


def civil(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=CIVIL_ZONE)


async def accepted(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def rows(client: httpx.AsyncClient, path: str, after: str | None = None, **filters: str) -> list[dict[str, Any]]:
    answer = await client.get(f"/api/v1{path}", params=filters, headers={"After": after} if after else {})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["items"]
    return found


@pytest.fixture(scope="module")
async def played(stack: Stack) -> AsyncIterator[Mapping[str, Any]]:
    """The journey, played once; the tests look at what came of it."""
    volunteer, correlation = person_id("志愿者丁"), uuid4()
    await stack.travel(civil("2016-12-20T09:00"))
    bureau, hours_bureau, stars_bureau = (stack.client(service) for service in ("registration", "hours", "recognition"))
    leader = stack.client("registration", "科长乙", "unit_admin", UNIT)
    person = stack.client("registration", "志愿者丁", "volunteer", UNIT)
    kiosk = stack.client("hours", "签到机一", "kiosk", UNIT)
    approver = stack.client("hours", "科长乙", "unit_admin", UNIT)
    applicant = stack.client("recognition", "志愿者丁", "volunteer", UNIT)
    answers: dict[str, dict[str, Any]] = {}
    same = {"X_Correlation_Id": str(correlation)}

    programme = {"file": (SAMPLE / "programme-2017.yaml").read_text()}
    answers["programme"] = await accepted(await command(bureau, "/programmes", programme))
    await accepted(await command(hours_bureau, "/hours-policies", {"file": (SAMPLE / "hours-policy.yaml").read_text()}))
    await accepted(await command(stars_bureau, "/star-policies", {"file": STAR_POLICY}))
    await stack.travel(civil("2017-02-20T09:00"))
    answers["registered"] = await accepted(
        await command(
            person,
            "/volunteers",
            {
                "unit_code": UNIT,
                "name": "赵大山",
                "id_number": "370305199003072513",
                "phone": "13800000000",
                "consents": ["register"],
                "consent_text_version": "2017-1",
            },
            After=answers["programme"]["position"],
            **same,
        )
    )
    answers["published"] = await accepted(
        await command(
            leader,
            "/activities",
            {
                "unit_code": UNIT,
                "title": "清洁河道",
                "carrier": "caring-for-nature",
                "place": "淄河岸边",
                "starts_at": civil("2017-03-05T09:00").isoformat(),
                "ends_at": civil("2017-03-05T12:00").isoformat(),
                "positions": [{"code": "cleaner", "name": "清洁员", "capacity": 2}],
            },
            After=answers["programme"]["position"],
            **same,
        )
    )
    activity = UUID(answers["published"]["stream"].partition("-")[2])
    answers["enrolled"] = await accepted(
        await command(
            person,
            f"/activities/{activity}/enrollments",
            {"volunteer_id": str(volunteer), "position": "cleaner"},
            After=f"{answers['registered']['position']}, {answers['published']['position']}",
            **same,
        )
    )
    await stack.travel(civil("2017-03-05T08:50"))
    door = f"/activities/{activity}/attendance/{volunteer}"
    answers["in"] = await accepted(await command(kiosk, f"{door}/check-in", {}, After=answers["enrolled"]["position"], **same))
    await stack.travel(civil("2017-03-05T11:30"))
    answers["out"] = await accepted(await command(kiosk, f"{door}/check-out", {}, **same))
    await stack.settled()
    [entry] = await rows(approver, "/confirm-queue", answers["out"]["position"])
    answers["confirmed"] = await accepted(
        await command(approver, f"/accounts/{volunteer}/entries/{entry['entry_id']}/confirm", {"served_on": "2017-03-05"}, **same)
    )
    answers["star"] = await accepted(
        await command(applicant, f"/volunteers/{volunteer}/stars", {}, After=answers["confirmed"]["position"], **same)
    )
    yield {
        "volunteer": volunteer,
        "activity": activity,
        "entry": entry,
        "answers": answers,
        "correlation": correlation,
        "clients": {"bureau": bureau, "hours": hours_bureau, "stars": stars_bureau, "approver": approver, "person": person},
    }
    for client in (bureau, hours_bureau, stars_bureau, leader, person, kiosk, approver, applicant):
        await client.aclose()


async def test_early_arrival_counts_from_the_start_and_the_star_is_granted(played: Mapping[str, Any]) -> None:
    assert played["entry"]["minutes"] == 150
    assert [each["type"] for each in played["answers"]["star"]["events"]] == ["recognition.star_granted"]


async def test_an_admin_sees_the_person_across_the_three_services(stack: Stack, played: Mapping[str, Any]) -> None:
    await stack.settled()
    answers = played["answers"]
    [seen] = await rows(
        played["clients"]["bureau"], "/volunteer-overview", f"{answers['confirmed']['position']}, {answers['star']['position']}"
    )
    assert seen["volunteer_id"] == str(played["volunteer"])
    assert seen["stars"] == 1
    assert 150 in seen.values()


async def test_one_correlation_id_stands_in_the_events_and_the_logs_of_all_three(stack: Stack, played: Mapping[str, Any]) -> None:
    for service in ("registration", "hours", "recognition"):
        found = await stack.sql(service, "SELECT count(*) AS n FROM es.event WHERE correlation_id = $1", played["correlation"])
        assert found[0]["n"] > 0
        lines = [json.loads(line) for line in (stack.folder / f"{service}-api.log").read_text().splitlines() if line.startswith("{")]
        assert any(line.get("correlation_id") == str(played["correlation"]) for line in lines)
        assert "赵大山" not in (stack.folder / f"{service}-api.log").read_text()


async def test_names_and_numbers_stand_nowhere_in_the_clear(stack: Stack, played: Mapping[str, Any]) -> None:
    for service in ("registration", "hours", "recognition"):
        for clear in ("赵大山", "370305199003072513", "13800000000"):
            found = await stack.sql(
                service, "SELECT count(*) AS n FROM es.event WHERE position(convert_to($1, 'UTF8') IN payload) > 0", clear
            )
            assert found[0]["n"] == 0
