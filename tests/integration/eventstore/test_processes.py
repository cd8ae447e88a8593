"""Several processes on one log: nothing is lost, doubled or out of order, and nobody waits for one that was stopped."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil

from shared.envelope import Record
from shared.eventstore.values import Answer
from tests.integration.eventstore.conftest import Log
from tests.integration.eventstore.decided import activity, decided

ROOT = Path(__file__).parents[3]
RACE_SECONDS = 30
PROCESSES = 3
APPENDERS_EACH = 8
STOPS = 50
STOPPED_WAIT_SECONDS_MAX = 1.0
PAGE = 500


@asynccontextmanager
async def appending(log: Log, orders: Mapping[str, Any]) -> AsyncIterator[Process]:
    """A process of appenders; killed at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.integration.eventstore.appender",
        cwd=ROOT,
        stdin=PIPE,
        stdout=PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        limit=2**28,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        said = {"dsn": log.dsn, "role": log.roles.app, **orders}
        process.stdin.write(json.dumps(said).encode() + b"\n")  # Not on a command line: the address holds a password.
        await process.stdin.drain()
        async with asyncio.timeout(20):
            assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def answers_of(process: Process) -> list[Any]:
    """What the process says at its end."""
    assert process.stdout is not None
    said = await process.stdout.read()
    assert await process.wait() == 0
    answers: list[Any] = json.loads(said)
    return answers


async def subscribe(log: Log, finished: asyncio.Event) -> list[Record]:
    """Reads the log from its start in pages, as it grows, to its end."""
    seen: list[Record] = []
    while True:
        over = finished.is_set()
        page = await log.store.read_page(seen[-1].position if seen else 0, PAGE)
        seen += page
        if not page and over:
            return seen
        if len(page) < PAGE:
            await asyncio.sleep(0.002)


async def test_24_appenders_in_three_processes_race_and_a_subscriber_misses_nothing(log: Log) -> None:
    shared = [str(uuid4()) for _ in range(4)]
    finished = asyncio.Event()
    subscriber = asyncio.create_task(subscribe(log, finished))
    async with AsyncExitStack() as running:
        orders = {"appenders": APPENDERS_EACH, "seconds": RACE_SECONDS, "shared": shared}
        processes = [await running.enter_async_context(appending(log, orders)) for _ in range(PROCESSES)]
        said = await asyncio.gather(*(answers_of(each) for each in processes))
    finished.set()
    seen = await subscriber
    answers = [answer for each in said for answer in each]
    assert min(len(each) for each in said) > 100  # All three took part.

    assert [each.position for each in seen] == list(range(1, len(seen) + 1)), "positions are dense, in order, none doubled"
    versions = Counter[str]()
    for record in seen:
        versions[str(record.stream)] += 1
        assert record.version == versions[str(record.stream)], "each stream in order, none lost, none doubled"
    assert len({each.event_id for each in seen}) == len(seen)
    assert sum(count for *_, count in answers) == len(seen), "what was acknowledged is there, and nothing else"
    for command_id, stream, expected, first_position, count in answers:
        for index in range(count):
            record = seen[first_position - 1 + index]
            assert (str(record.command_id), str(record.stream), record.version) == (command_id, stream, expected + index + 1)
    recorded = [row["recorded_at"] for row in await log.owner.fetch("SELECT recorded_at FROM es.event ORDER BY position")]
    assert recorded == sorted(recorded)
    assert len(set(versions) & {f"activity-{each}" for each in shared}) == len(shared)


async def test_a_client_that_is_stopped_in_the_middle_holds_up_nobody(log: Log) -> None:
    """Stopped at any moment of its appends: the longest that another process ever waits is a fraction of what the client sleeps."""
    loop = asyncio.get_running_loop()
    longest = 0.0
    async with appending(log, {"appenders": 8, "seconds": 60, "shared": [str(uuid4())]}) as client:
        for _ in range(STOPS):
            client.send_signal(signal.SIGSTOP)
            await until(lambda: psutil.Process(client.pid).status() == psutil.STATUS_STOPPED)
            for _ in range(5):
                began = loop.time()
                assert isinstance(await log.store.append(decided(activity(), 0)), Answer)
                longest = max(longest, loop.time() - began)
            client.send_signal(signal.SIGCONT)
            head = await log.store.head()
            async with asyncio.timeout(5):
                while await log.store.head() == head:  # noqa: ASYNC110  # Until it is at work again.
                    await asyncio.sleep(0.002)
    assert longest < STOPPED_WAIT_SECONDS_MAX


async def until(is_so: Callable[[], bool]) -> None:
    """Polls, 5 s at most."""
    async with asyncio.timeout(5):
        while not is_so():  # noqa: ASYNC110  # A process has no event for it.
            await asyncio.sleep(0.002)
