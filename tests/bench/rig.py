"""The service `hours` as real processes on the run's servers, with entries that wait to be confirmed, and a caller in front of it."""

import asyncio
import json
import sys
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from time import monotonic
from typing import Any, Final
from uuid import uuid4

from deploy.local.environment import HOST
from deploy.local.places import CHECKOUT
from tests.bench import work
from tests.bench.place import Log, Place
from tests.e2e.stack import Stack

LENGTH: Final = 20
RATE_MAX: Final = 5_000
"""No closed loop here is faster; so many posts a second are prepared for it."""
FOLLOWED_WITHIN_SECONDS: Final = 120.0
_POSITIONS: Final = (
    "SELECT coalesce(min(applied), 0) FROM consumer.position WHERE log = 'hours' AND consumer IN ('views', 'inbox') HAVING count(*) = 2"
)
_APPOINT: Final = "INSERT INTO consumer.withdrawn (subject, kind, given_position) VALUES ($1, $2, 0)"
_CONFIRMED: Final = "SELECT count(*) FROM es.event WHERE type = 'hours.service_time_confirmed'"

Post = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Call:
    """One answered request; `problem` is what was said when it was not accepted: what became of it then is not known."""

    scheduled: float
    answered: float
    position: int
    problem: str | None


async def call(
    folder: Path, port: int, head: str, posts: Sequence[Post], *, connections: int, seconds: float, rate: float | None = None
) -> tuple[float, list[Call]]:
    """Runs a caller; how long it took, and its calls. Raises AssertionError when the caller fails."""
    plan, result = folder / f"plan-{uuid4().hex}.json", folder / f"result-{uuid4().hex}.json"
    asked = {"host": HOST, "port": port, "head": head, "connections": connections, "seconds": seconds, "rate": rate, "posts": posts}
    plan.write_text(json.dumps(asked), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.bench.caller", plan, result, cwd=CHECKOUT)
    try:
        assert await asyncio.wait_for(process.wait(), 60 + 10 * seconds) == 0, "the caller failed"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    said: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    plan.unlink()
    result.unlink()
    return said["seconds"], [_call(*each) for each in said["calls"]]


def _call(scheduled: float, answered: float, status: int, text: str) -> Call:
    if status == HTTPStatus.OK:
        return Call(scheduled, answered, int(text.rpartition(":")[2] or 0), None)
    return Call(scheduled, answered, 0, f"{status}: {text[:300]}")


class Rig:
    """`api` and `worker` of hours. Made by `hours`."""

    def __init__(self, stack: Stack, log: Log, ids: work.Ids) -> None:
        self.stack = stack
        self.log = log
        self.accepted = 0
        self.problems: list[str] = []
        self._ids = ids
        self._waiting: deque[Post] = deque()

    @property
    def port(self) -> int:
        """Of the api."""
        return self.stack.ports.api["hours"]

    def pid(self, name: str) -> int:
        """Of one process."""
        return self.stack.processes[name].pid

    def head(self) -> str:
        """Header lines of a unit's leader, good for 15 minutes."""
        return f"Authorization: {self.stack.token(work.APPROVER.person_id, 'unit_admin', work.UNIT)}\r\n"

    async def fill(self, posts: int) -> None:
        """Sees to it that so many entries wait."""
        while len(self._waiting) < posts:
            entries = await work.seed_accounts(self.log, self._ids, max((posts - len(self._waiting)) // LENGTH + 1, 100), LENGTH)
            for each in work.each_account_in_turn(entries, LENGTH, LENGTH):
                path = f"/api/v1/accounts/{each.volunteer}/entries/{each.entry}/confirm"
                self._waiting.append((path, json.dumps({"served_on": each.served_on.isoformat()})))

    async def confirm(self, *, connections: int, seconds: float, rate: float | None = None) -> tuple[float, list[Call]]:
        """Confirms entries over HTTP, each once; how long it took, and the calls."""
        wanted = round(rate * seconds) if rate else round(RATE_MAX * seconds) + 1
        await self.fill(wanted)
        posts = [self._waiting[number] for number in range(wanted)]
        took, calls = await call(self.stack.folder, self.port, self.head(), posts, connections=connections, seconds=seconds, rate=rate)
        assert rate is None or len(calls) == wanted, f"{len(calls)} of {wanted} scheduled calls were made"
        for _ in calls:  # Those at the front were sent, the others still wait.
            self._waiting.popleft()
        self.accepted += sum(each.problem is None for each in calls)
        self.problems += [each.problem for each in calls if each.problem is not None]
        return took, calls

    async def confirmed(self) -> int:
        """How many confirmations the log holds: every accepted one, and of those with a problem perhaps some."""
        found: int = await self.log.owner.fetchval(_CONFIRMED)
        assert self.accepted <= found <= self.accepted + len(self.problems), (self.accepted, found, self.problems[:3])
        return found

    async def followed(self, within: float = FOLLOWED_WITHIN_SECONDS) -> None:
        """Waits until views and look-ups have applied the whole log."""
        end = monotonic() + within
        head = (await self.log.store.head()).position
        while (await self.log.owner.fetchval(_POSITIONS) or 0) < head:
            assert monotonic() < end, "the worker does not follow"
            await asyncio.sleep(0.02)


@asynccontextmanager
async def hours(place: Place, entries: int, *processes: str) -> AsyncIterator[Rig]:
    """Migrates, seeds a policy and entries, starts the processes (the two of hours if none is named), waits until hours has followed."""
    folder = place.folder / f"stack-{uuid4().hex[:8]}"
    folder.mkdir(parents=True)
    stack = Stack(folder, place.postgres, place.kafka, forked=False)
    stack.migrate()
    try:
        async with place.opened(stack.dsn("hours")) as log:
            rig = Rig(stack, log, work.Ids("rig"))
            await work.say_policy(log, work.Ids("policy"))
            await rig.fill(entries)
            # As if registration, which does not run here, had said so.
            await log.owner.execute(_APPOINT, work.APPROVER.person_id, f"role:{work.APPROVER.role}:{work.UNIT}")
            stack.start(*(processes or ("hours-api", "hours-worker")))
            await rig.followed()
            yield rig
    finally:
        stack.stop()
