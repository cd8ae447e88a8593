"""What a process that serves nothing else says of itself."""

import asyncio
from collections.abc import Callable

import httpx
import pytest

from shared.http import probes
from shared.http.probes import is_ready
from shared.metrics import Metrics


def asking(*, alive: bool, ready: Callable[[], object]) -> httpx.AsyncClient:
    """A client of the probes."""

    async def is_it() -> bool:
        return bool(ready())

    app = probes.probes(Metrics("hours", "1"), alive=lambda: alive, ready=is_it)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://leifeng")


async def test_a_process_that_works_is_alive_and_ready_and_counts() -> None:
    async with asking(alive=True, ready=lambda: True) as client:
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/readyz")).status_code == 200
        metrics = await client.get("/metrics")
        assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert "leifeng_build_info{" in metrics.text
        assert (await client.get("/nowhere")).status_code == 404


async def test_a_dependency_that_is_away_makes_it_unready_and_leaves_it_alive() -> None:
    async with asking(alive=True, ready=lambda: 1 / 0) as client:
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/readyz")).status_code == 503


async def test_a_loop_that_no_longer_turns_is_not_alive() -> None:
    async with asking(alive=False, ready=lambda: True) as client:
        assert (await client.get("/livez")).status_code == 503


async def test_a_dependency_that_says_nothing_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent() -> bool:
        await asyncio.Event().wait()
        return True

    monkeypatch.setattr(probes, "READY_SECONDS_MAX", 0.02)
    assert not await is_ready(silent)
