"""A database that dies, freezes and comes back, under a process that is not restarted."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from time import monotonic

import asyncpg
import httpx
import pytest

from deploy.local.postgres import LocalPostgres
from shared.http.api import Api
from shared.http.app import build_app
from tests.integration.http.conftest import SCHEMA
from tests.integration.http.test_commands import check_problem


@pytest.fixture
def server(own_postgres: Callable[..., LocalPostgres]) -> LocalPostgres:
    """A server of this test alone, with the views."""
    made = own_postgres()
    made.ensure_role("scratch_owner", "secret")
    made.ensure_database("outage", "scratch_owner")
    made.execute(SCHEMA, "outage")
    return made


@pytest.fixture
async def reader(api: Api, server: LocalPostgres) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody who reads the public list."""
    pool = await asyncpg.create_pool(server.dsn("outage", "scratch_owner", "secret"), min_size=1, max_size=3, timeout=2)
    app = build_app(replace(api, views=replace(api.views, pool=pool)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://leifeng", timeout=10) as client:
        yield client
    pool.terminate()


def server_and_backends(server: LocalPostgres) -> list[int]:
    """Every process of the server."""
    (postmaster,) = server.pids
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text("ascii").split()
    return [postmaster, *map(int, children)]


async def reads_again(reader: httpx.AsyncClient) -> None:
    """Until the list is answered again."""
    async with asyncio.timeout(20):
        while (await reader.get("/api/v1/balances")).status_code != 200:  # noqa: ASYNC110  # Another process comes back; no event tells.
            await asyncio.sleep(0.05)


async def test_a_killed_database_is_a_503_at_once_and_its_return_needs_no_restart(reader: httpx.AsyncClient, server: LocalPostgres) -> None:
    assert (await reader.get("/api/v1/balances")).status_code == 200
    server.kill()
    asked = monotonic()
    answer = await reader.get("/api/v1/balances")
    check_problem(answer, 503, "store_unavailable")
    assert "retry-after" in answer.headers
    assert monotonic() - asked < 5
    assert (await reader.get("/")).status_code == 503
    server.start()
    await reads_again(reader)


async def test_a_frozen_database_is_a_503_within_five_seconds_and_its_thaw_needs_no_restart(
    reader: httpx.AsyncClient, server: LocalPostgres
) -> None:
    assert (await reader.get("/api/v1/balances")).status_code == 200
    frozen = server_and_backends(server)
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        asked = monotonic()
        answers = await asyncio.gather(*[reader.get("/api/v1/balances") for _ in range(5)])
        assert monotonic() - asked < 5
        for answer in answers:
            check_problem(answer, 503, "store_unavailable")
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    await reads_again(reader)
