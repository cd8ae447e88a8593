"""What the services count of one another's logs is the same, and where it is not, an operator is told."""

import asyncio
from typing import Final

import pytest

from deploy.local.environment import SERVICES
from tests.e2e.stack import Stack, command
from tests.e2e.stage import Stage, accepted, on
from tests.integration.recover.conftest import Ran, run

COMPARED: Final = {
    ("registration", "minutes"), ("registration", "stars"), ("hours", "volunteers"),
    ("recognition", "volunteers"), ("recognition", "minutes"),
}  # fmt: skip

_MINUTES: Final = (
    "UPDATE lookup.confirmed_minutes SET minutes = minutes {} 7 "
    "WHERE volunteer_id::text = (SELECT min(volunteer_id::text) FROM {views}.stars)"
)
_VOLUNTEERS: Final = "UPDATE lookup.volunteers SET volunteer_id = translate(volunteer_id::text, '0a', 'a0')::uuid"
CHANGES: Final = {"recognition": (_MINUTES, "-", "+"), "hours": (_VOLUNTEERS, "", "")}
"""What is planted, and the signs by which it is done and undone."""


@pytest.fixture(scope="module")
async def at_rest(stage: Stage) -> Stack:
    """Somebody served for a star, and everybody has heard of it."""
    day = await stage.day()
    volunteer, activity = await stage.volunteer("核对人"), await stage.activity(on(day, "09:00"), on(day, "12:00"))
    confirmed = await stage.confirm(await stage.served(volunteer, activity, on(day, "09:00"), on(day, "12:00")))
    applicant, after = stage.self_("recognition", volunteer.id), f"{volunteer.after}, {confirmed['position']}"
    accepted(await command(applicant, f"/volunteers/{volunteer.id}/stars", {"stars": 1}, After=after))
    await stage.stack.settled()
    return stage.stack


async def reconcile(stack: Stack, service: str) -> tuple[Ran, dict[str, list[str]]]:
    """What the command said, and its rows by figure: of, position, here, there, result."""
    ran = await run(service, stack.environment(service), "reconcile")
    return ran, {words[0]: words[1:] for line in ran.out.splitlines()[1:] if (words := line.split())}


async def change(stack: Stack, sign: int) -> None:
    """In the read models that are live: others of these tests may have built them anew."""
    for service, change in CHANGES.items():
        ((views,),) = await stack.sql(service, "SELECT schema FROM consumer.views WHERE live")
        await stack.sql(service, change[0].format(change[sign], views=views))


async def test_what_each_service_counts_of_the_others_is_what_they_count_themselves(at_rest: Stack) -> None:
    found = dict(zip(SERVICES, await asyncio.gather(*(reconcile(at_rest, service) for service in SERVICES)), strict=True))
    assert {service: ran.code for service, (ran, _) in found.items()} == dict.fromkeys(SERVICES, 0), found
    rows = {(service, figure): row for service, (_, table) in found.items() for figure, row in table.items()}
    assert rows.keys() == COMPARED
    for _, _, here, there, result in rows.values():
        assert int(here) == int(there) > 0
        assert result == "same"
    assert rows["registration", "minutes"] == rows["recognition", "minutes"]
    assert rows["hours", "volunteers"] == rows["recognition", "volunteers"]


async def test_minutes_that_are_missing_behind_a_star_and_a_volunteer_who_is_another_are_told(at_rest: Stack) -> None:
    await change(at_rest, 1)
    try:
        (stars, minutes), (door, volunteers) = await asyncio.gather(reconcile(at_rest, "recognition"), reconcile(at_rest, "hours"))
    finally:
        await change(at_rest, 2)
    assert (stars.code, minutes["minutes"][4:], minutes["volunteers"][4:]) == (1, ["DIFFERS", "by", "7"], ["same"])
    assert int(minutes["minutes"][2]) == int(minutes["minutes"][3]) - 7
    assert (door.code, volunteers["volunteers"][4:]) == (1, ["DIFFERS", "by", "1"])
    assert volunteers["volunteers"][2] == volunteers["volunteers"][3]
