"""A log is closed and opened, and a role held back and let go, by command; who did it and why is kept."""

from typing import Any

import httpx
import pytest

from tests.integration.recover.conftest import SERVICE, Site
from tests.integration.relay.conftest import until
from tests.loopback import NO_TLS

WORKER = f"{SERVICE}-worker"
VIEWS = 'role="views"'
WHY = ("--reason", "the disk is changed", "--by", "操作员")


@pytest.fixture(scope="module")
async def running(site: Site) -> Site:
    """At work, with the programme adopted."""
    site.start_service()
    await site.adopt()
    return site


def figure(site: Site, name: str, *labels: str) -> float:
    """A gauge of the worker."""
    lines = httpx.get(f"{site.url(WORKER)}/metrics", timeout=5, verify=NO_TLS).text.splitlines()
    found = [line for line in lines if line.startswith(f"leifeng_{name}{{") and all(label in line for label in labels)]
    return float(found[0].rpartition(" ")[2])


async def last_changes(site: Site, count: int) -> list[tuple[Any, ...]]:
    found = await site.sql(SERVICE, "SELECT subject, was, becomes, who, reason FROM es.log_change ORDER BY number DESC LIMIT $1", count)
    return [tuple(row.values()) for row in reversed(found)]


async def test_a_read_only_log_answers_503_log_closed_and_opens_again(running: Site) -> None:
    person = running.person()
    ran = await running.run("log", "read-only", *WHY)
    assert ran.code == 0, ran.out
    assert "state=read-only" in ran.out
    closed = await running.register(person)
    assert (closed.status_code, closed.json()["code"]) == (503, "log_closed")
    await until(lambda: figure(running, "log_read_only") == 1)
    assert (await running.run("log", "open", *WHY)).code == 0
    assert (await running.register(person)).status_code == 200
    await until(lambda: figure(running, "log_read_only") == 0)
    assert await last_changes(running, 2) == [
        ("log", "open", "read-only", "操作员", "the disk is changed"),
        ("log", "read-only", "open", "操作员", "the disk is changed"),
    ]
    status = await running.run("log", "status")
    assert "log: open -> read-only  by 操作员: the disk is changed" in status.out


async def test_a_paused_role_is_given_up_within_seconds_and_taken_again(running: Site) -> None:
    await until(lambda: figure(running, "worker_role_held", VIEWS) == 1)
    assert (await running.run("role", "pause", "views", *WHY)).code == 0
    await until(lambda: figure(running, "worker_role_held", VIEWS) == 0, within=8)
    position = await _position(running)
    assert (await running.register(running.person())).status_code == 200
    await until(lambda: figure(running, "worker_role_paused", VIEWS) == 1)
    assert await _position(running) == position, "nobody projects while the role is paused"
    ran = await running.run("role", "resume", "views", *WHY)
    assert "paused=none" in ran.out
    await running.caught_up()
    assert await _position(running) > position
    assert await last_changes(running, 2) == [
        ("views", "running", "paused", "操作员", "the disk is changed"),
        ("views", "paused", "running", "操作员", "the disk is changed"),
    ]


async def test_why_must_be_said_and_what_does_not_exist_is_refused(running: Site) -> None:
    assert (await running.run("log", "read-only")).code == 2
    unknown = await running.run("role", "pause", "nobody", *WHY)
    assert unknown.code == 1
    assert "there are relay, views, inbox, withdrawals" in unknown.out


async def test_a_log_that_waits_for_recover_is_not_opened_by_hand(running: Site) -> None:
    await running.sql(SERVICE, "UPDATE es.log SET state = 'recovering'")
    try:
        for command in ("open", "read-only"):
            refused = await running.run("log", command, *WHY)
            assert (refused.code, "recover" in refused.out) == (1, True)
    finally:
        await running.sql(SERVICE, "UPDATE es.log SET state = 'open'")
    assert [row[3:] for row in await last_changes(running, 1)] == [("admin", "by hand")]


async def test_what_was_changed_cannot_be_unsaid(running: Site) -> None:
    with pytest.raises(Exception, match="append-only"):
        await running.sql(SERVICE, "DELETE FROM es.log_change")


async def _position(site: Site) -> int:
    rows = await site.sql(SERVICE, "SELECT applied FROM consumer.position WHERE consumer = 'views' AND log = 'registration'")
    return int(rows[0]["applied"])
