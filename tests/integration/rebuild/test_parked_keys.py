"""A key that is parked in a running system: readers are told, withdrawals pass it, and what was given up stays so in a rebuild."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any
from uuid import UUID

import httpx
import pytest

from tests.e2e.stack import command
from tests.e2e.stage import UNIT, Volunteer, accepted
from tests.integration.rebuild.conftest import Operator, Scene, until
from tests.loopback import NO_TLS

SERVICE = "registration"
WITHDRAWN_WITHIN_SECONDS = 60.0
pytestmark = pytest.mark.timeout(300)


@asynccontextmanager
async def unlucky(scene: Scene, operator: Operator, person: UUID) -> AsyncIterator[None]:
    """Meanwhile the live read models refuse what comes of this person, as a fault of the code would."""
    table = f"{await operator.live(SERVICE)}.volunteers"
    await scene.stage.stack.sql(SERVICE, f"ALTER TABLE {table} ADD CONSTRAINT unlucky CHECK (volunteer_id <> '{person}') NOT VALID")
    try:
        yield
    finally:
        await scene.stage.stack.sql(SERVICE, f"ALTER TABLE {table} DROP CONSTRAINT unlucky")


async def be_named(scene: Scene, volunteer: Volunteer) -> str:
    """They consent to be named in public; where it stands in the log."""
    body = {"consent": "be_named", "text_version": "2017-1"}
    asking = scene.stage.self_(SERVICE, volunteer.id)
    return str(accepted(await command(asking, f"/volunteers/{volunteer.id}/consents", body, After=volunteer.after))["position"])


async def withdraw(scene: Scene, volunteer: Volunteer, kind: str) -> str:
    """They do not consent any more; where it stands in the log."""
    asking = scene.stage.self_(SERVICE, volunteer.id)
    return str(accepted(await command(asking, f"/volunteers/{volunteer.id}/consents/withdraw", {"consent": kind}))["position"])


async def shown(scene: Scene, person: UUID, after: str | None = None) -> tuple[dict[str, Any], httpx.Response]:
    """How a list of volunteers shows somebody, and the whole answer."""
    headers = {"After": after} if after else {}
    answer = await scene.stage.bureau(SERVICE).get("/api/v1/volunteers?limit=200", headers=headers)
    assert answer.status_code == 200, answer.text
    [row] = [each for each in answer.json()["items"] if each["volunteer_id"] == str(person)]
    return row, answer


async def parked_types(scene: Scene, person: UUID) -> list[str]:
    rows = await scene.stage.stack.sql(
        SERVICE, "SELECT type FROM consumer.parked WHERE consumer = 'views' AND key = $1 ORDER BY position", str(person)
    )
    return [row["type"].partition(".")[2] for row in rows]


async def test_a_query_says_parked_and_withdrawals_of_consent_and_of_a_role_pass_the_parked_key(scene: Scene, operator: Operator) -> None:
    await operator.alone(SERVICE)
    stage, volunteer = scene.stage, await scene.stage.volunteer("李小河")
    await stage.volunteer("赵小潭")
    bureau, leader = stage.bureau(SERVICE), stage.client(SERVICE, volunteer.id, "unit_admin", UNIT)
    role = {"role": "unit_admin", "unit_code": UNIT}
    granted = await command(bureau, f"/people/{volunteer.id}/roles", role, After=stage.programme_at)
    accepted(granted)
    at = await be_named(scene, volunteer)
    await stage.stack.settled()
    assert (await shown(scene, volunteer.id, at))[0]["may_be_named"] is True
    assert (await leader.get("/api/v1/volunteers?limit=1")).status_code == 200
    async with unlucky(scene, operator, volunteer.id):
        at = await withdraw(scene, volunteer, "register")
        _, answer = await shown(scene, volunteer.id, at)
        assert answer.json()["parked"] == [str(volunteer.id)]
        first = (await bureau.get("/api/v1/volunteers?limit=1")).json()
        second = (await bureau.get("/api/v1/volunteers", params={"limit": 1, "cursor": first["next"]})).json()
        for page in (first, second):
            shown_ids = [each["volunteer_id"] for each in page["items"]]
            assert page["parked"] == [each for each in shown_ids if each == str(volunteer.id)], "rows of other keys are not parked"

        began = monotonic()
        await withdraw(scene, volunteer, "be_named")
        accepted(await command(bureau, f"/people/{volunteer.id}/roles/withdraw", {**role, "reason": "调岗"}))

        async def is_out() -> bool:
            refused = [
                (await client.get(path)).json().get("code")
                for client, path in (
                    (leader, "/api/v1/volunteers?limit=1"),
                    (stage.client("hours", volunteer.id, "unit_admin", UNIT), "/api/v1/confirm-queue?limit=1"),
                )
            ]
            row, _ = await shown(scene, volunteer.id)
            return refused == ["role_withdrawn"] * 2 and row["may_be_named"] is False

        await until(is_out, within=WITHDRAWN_WITHIN_SECONDS)
        assert monotonic() - began < WITHDRAWN_WITHIN_SECONDS
        await stage.stack.settled()
        assert await parked_types(scene, volunteer.id) == ["consent_withdrawn", "consent_withdrawn", "role_withdrawn"]
    released = await operator.done(SERVICE, "parked", "retry", str(volunteer.id))
    assert "views registration: 3 released" in released
    row, answer = await shown(scene, volunteer.id)
    assert (row["may_be_named"], answer.json()["parked"]) == (False, [])


async def test_what_two_persons_gave_up_stays_given_up_in_a_rebuild_that_could_read_it(scene: Scene, operator: Operator) -> None:
    await operator.alone(SERVICE)
    stage, volunteer = scene.stage, await scene.stage.volunteer("王小溪")
    stack, key = stage.stack, str(volunteer.id)
    await stack.settled()
    async with unlucky(scene, operator, volunteer.id):
        await be_named(scene, volunteer)
        await stack.settled()
        explained = await operator.done(SERVICE, "parked", "explain", key)
        assert "consent_given  applied: fails: CheckViolationError volunteers unlucky at " in explained
        assert await parked_types(scene, volunteer.id) == ["consent_given"]
    why = ("--reason", "told anew")
    await operator.done(SERVICE, "parked", "discard", key, *why, "--by", "张一")
    alone = await operator.run(SERVICE, "parked", "approve", key, *why, "--by", "张一")
    assert (alone.code, "another person approves" in alone.out) == (1, True)
    approved = await operator.done(SERVICE, "parked", "approve", key, *why, "--by", "李二")
    assert "asked_by=张一" in approved
    row, answer = await shown(scene, volunteer.id)
    assert (row["may_be_named"], answer.json()["parked"]) == (False, [])
    assert answer.json()["freshness"][SERVICE]["discarded"] == 1
    live = await operator.digest(SERVICE)
    for origin in ("kafka", "store"):
        await operator.alone(SERVICE)
        await operator.done(SERVICE, "rebuild", "--from", origin)
        assert await operator.digest(SERVICE) == live, origin
    assert (await shown(scene, volunteer.id))[0]["may_be_named"] is False
    page = (await stage.bureau(SERVICE).get("/?lang=en")).text
    assert ", 1 discarded" in page

    async def is_counted() -> bool:
        async with httpx.AsyncClient(verify=NO_TLS) as client:
            text = (await client.get(f"{stack.url(f'{SERVICE}-worker')}/metrics")).text
        return 'leifeng_discarded_messages{consumer="views",service="registration"} 1.0' in text

    await until(is_counted)
