"""http-command: one real api process, called from another process, beside the reference apps."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final
from uuid import uuid4

import httpx
import psutil

from deploy.local.children import Child, last_lines, wait_for
from deploy.local.environment import HOST
from deploy.local.kafka import free_ports
from deploy.local.places import CHECKOUT
from shared.postgres import connect
from tests.bench import rig
from tests.bench.measure import Effort, Figure, Outcome, Slice, Work, contest
from tests.bench.place import Place
from tests.loopback import NO_TLS

REFERENCE: Final = "reference: FastAPI, pydantic, guarded insert"
ANSWERS: Final = "bound: plain ASGI that only answers"
_MIB: Final = 1024 * 1024


class _Reference:
    """One of the reference apps, running."""

    def __init__(self, place: Place, name: str, dsn: str) -> None:
        (self.port,) = free_ports(1)
        self._log = place.folder / f"reference-{name}-{uuid4().hex[:8]}.log"
        command = [sys.executable, "-m", "tests.bench.reference", name, str(self.port)]
        self.child = Child(f"reference {name}", command, log=self._log, environment={**os.environ, "BENCH_DSN": dsn}, directory=CHECKOUT)
        self.asked = 0
        if not wait_for(self._answers, 60, 0.05):
            raise AssertionError(last_lines(self._log, 20))

    def _answers(self) -> bool:
        try:
            httpx.get(f"http://{HOST}:{self.port}/", timeout=2, verify=NO_TLS)
        except httpx.HTTPError:
            return False
        return True


async def http_command(place: Place, effort: Effort) -> Outcome:
    """`confirm` over HTTP on accounts of 20 events, a closed loop of 16, then of 64 connections. The worker is stopped meanwhile."""
    dsn = place.databases()
    async with rig.hours(place, 200 if effort.small else 8_000) as made:
        made.stack.processes["hours-worker"].stop()
        apps = {"guarded": _Reference(place, "guarded", dsn), "answers": _Reference(place, "answers", dsn)}
        try:
            figures = [await _contest(place, effort, made, apps, connections) for connections in ((16,) if effort.small else (16, 64))]
            rss = psutil.Process(made.pid("hours-api")).memory_info().rss / _MIB
        finally:
            for app in apps.values():
                app.child.stop()
        owner = await connect(dsn, "bench")
        stored = await owner.fetchval("SELECT count(*) FROM event")
        await owner.close()
        assert stored == apps["guarded"].asked, (stored, apps["guarded"].asked)
        assert not made.problems, made.problems[:3]
        kept = await made.confirmed()
        head = await made.log.owner.fetchrow("SELECT count(*) AS events, max(position) AS head FROM es.event")
        assert head is not None
        assert head["events"] == head["head"]
        checked = [
            f"{kept} confirmations answered 200 and in the log, which is dense",
            f"{stored} answers of the reference app, and as many rows",
        ]
    goal = figures[0].beside[REFERENCE].ratio.median
    notes = [f"RSS of the api process at the end: {rss:.0f} MiB", "uvicorn with httptools everywhere; the reference authenticates nobody"]
    return Outcome(figures, checked, {"G5": (goal, figures[0])}, notes)


async def _contest(place: Place, effort: Effort, made: rig.Rig, apps: Mapping[str, _Reference], connections: int) -> Figure:
    seconds = effort.slice_seconds
    api = place.cpu(made.pid("hours-api"), own=False)

    async def ours() -> Slice:
        await made.fill(round(rig.RATE_MAX * seconds) + 1)
        before = api.start()
        took, calls = await made.confirm(connections=connections, seconds=seconds)
        return _slice(took, calls, api.since(before))

    def theirs(app: _Reference) -> Work:
        cpu = place.cpu(app.child.pid, own=False)

        async def run() -> Slice:
            body = '{"served_on": "2017-03-22"}'
            posts = [(f"/api/v1/accounts/{uuid4()}/entries/{uuid4()}/confirm", body) for _ in range(round(rig.RATE_MAX * seconds) + 1)]
            before = cpu.start()
            took, calls = await rig.call(place.folder, app.port, made.head(), posts, connections=connections, seconds=seconds)
            assert all(each.problem is None for each in calls), calls[:3]
            app.asked += len(calls)
            return _slice(took, calls, cpu.since(before))

        return run

    return await contest(
        f"{connections} connections",
        "requests/s",
        ours,
        {REFERENCE: theirs(apps["guarded"]), ANSWERS: theirs(apps["answers"])},
        effort,
    )


def _slice(took: float, calls: Sequence[rig.Call], cpu_seconds: float) -> Slice:
    return Slice(len(calls), took, [each.answered - each.scheduled for each in calls], cpu_seconds)
