"""A role has one owner: a standby takes over when the owner ends, is killed, or sleeps too long."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from time import monotonic

import asyncpg

from shared.metrics import Metrics
from shared.worker import IDLE_SECONDS, LOCK_SPACE, WorkerRole, stand_for
from tests.conftest import Databases
from tests.integration.eventstore.conftest import migrated

OWNER = """
    import asyncio, sys
    from shared.metrics import Metrics
    from shared.worker import WorkerRole, stand_for

    async def work(enough):
        print("held", flush=True)
        await enough.wait()

    asyncio.run(stand_for(WorkerRole("views", work), sys.argv[1], Metrics("hours", "0"), asyncio.Event()))
"""


HELD = """
    SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database
    WHERE locktype = 'advisory' AND classid = $1 AND granted AND datname = current_database()
"""


class Standby:
    """A worker of this process, and what it did."""

    def __init__(self, dsn: str) -> None:
        self.metrics = Metrics("hours", "0")
        self.held = asyncio.Event()
        self.given_up = asyncio.Event()
        self.stop = asyncio.Event()
        self.task = asyncio.create_task(stand_for(WorkerRole("views", self.work), dsn, self.metrics, self.stop))

    async def work(self, enough: asyncio.Event) -> None:
        self.held.set()
        await enough.wait()
        self.given_up.set()

    def figure(self, name: str) -> float:
        return sum(float(line.split()[-1]) for line in self.metrics.render().decode().splitlines() if line.startswith(f"leifeng_{name}{{"))

    async def end(self) -> None:
        self.stop.set()
        await asyncio.wait_for(self.task, 10)


def owner_process(dsn: str) -> "subprocess.Popen[str]":
    owner = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(OWNER), dsn], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert owner.stdout is not None
    assert any(line.strip() == "held" for line in owner.stdout)
    return owner


async def seconds_until(event: asyncio.Event, within: float) -> float:
    begin = monotonic()
    await asyncio.wait_for(event.wait(), within)
    return monotonic() - begin


async def taken_over_after(database: Databases, do: Callable[["subprocess.Popen[str]"], None], within: float) -> float:
    dsn = await migrated(database())
    owner = await asyncio.to_thread(owner_process, dsn)
    standby = Standby(dsn)
    try:
        await asyncio.sleep(0)
        assert not standby.held.is_set()
        do(owner)
        return await seconds_until(standby.held, within)
    finally:
        await standby.end()
        owner.send_signal(signal.SIGCONT)
        owner.kill()
        owner.wait(10)


async def test_a_standby_takes_over_at_once_when_the_owner_is_killed(database: Databases) -> None:
    assert await taken_over_after(database, lambda owner: owner.kill(), within=5) < 3


async def test_a_standby_takes_over_from_an_owner_that_sleeps(database: Databases) -> None:
    waited = await taken_over_after(database, lambda owner: os.kill(owner.pid, signal.SIGSTOP), within=IDLE_SECONDS + 6)
    assert waited > 1


async def test_an_owner_that_slept_past_its_lock_stands_for_the_role_again(database: Databases) -> None:
    dsn = await migrated(database())
    owner = await asyncio.to_thread(owner_process, dsn)
    standby = Standby(dsn)
    try:
        os.kill(owner.pid, signal.SIGSTOP)
        await asyncio.wait_for(standby.held.wait(), IDLE_SECONDS + 6)
        os.kill(owner.pid, signal.SIGCONT)
        await standby.end()
        looker = await asyncpg.connect(dsn)
        async with asyncio.timeout(20):
            while not await looker.fetchval(HELD, LOCK_SPACE):  # noqa: ASYNC110  # Another process takes it; no event tells.
                await asyncio.sleep(0.1)
        await looker.close()
        assert owner.poll() is None
    finally:
        owner.send_signal(signal.SIGCONT)
        owner.kill()
        owner.wait(10)


async def test_only_one_of_two_does_the_work(database: Databases) -> None:
    dsn = await migrated(database())
    one, two = Standby(dsn), Standby(dsn)
    done, _ = await asyncio.wait(
        {asyncio.create_task(each.held.wait()) for each in (one, two)}, return_when=asyncio.FIRST_COMPLETED, timeout=5
    )
    assert len(done) == 1
    first, second = (one, two) if one.held.is_set() else (two, one)
    assert first.figure("worker_role_held") == 1
    assert not second.held.is_set()
    await first.end()
    assert first.given_up.is_set()
    await asyncio.wait_for(second.held.wait(), 5)
    assert first.figure("worker_role_held") == 0
    assert first.figure("role_changes_total") == 2
    await second.end()


async def test_work_that_fails_gives_the_role_up_and_it_is_taken_again(database: Databases) -> None:
    tries = 0
    again, stop = asyncio.Event(), asyncio.Event()

    async def fail_once(enough: asyncio.Event) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise RuntimeError
        again.set()
        await enough.wait()

    task = asyncio.create_task(stand_for(WorkerRole("relay", fail_once), await migrated(database()), Metrics("hours", "0"), stop))
    await asyncio.wait_for(again.wait(), 10)
    stop.set()
    await asyncio.wait_for(task, 10)
    assert tries == 2
