"""What the stores and Kafka really hold, read by other means than the project's own, and what was answered held against it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import UUID

import asyncpg

from deploy.local.environment import SERVICES
from tests.faults import invariants
from tests.faults.clients import Asked, Clients
from tests.faults.invariants import (
    FOLDS,
    READERS,
    Fold,
    Hours,
    Log,
    Reader,
    Stored,
    check_authors,
    check_private,
    check_reactions,
    check_reader,
    need,
)
from tests.faults.system import ABSENT, System
from tests.faults.tap import Tap, read_to_the_end

CONNECT_WITHIN_S = 10.0
FOUND_WITHIN_S = 120.0
READS: Mapping[tuple[str, str], Sequence[str]] = {
    ("registration", "views"): ("registration", "hours", "recognition"),
    ("registration", "inbox"): ("registration",),
    ("hours", "views"): ("hours", "registration"),
    ("hours", "inbox"): ("hours", "registration"),
    ("recognition", "views"): ("recognition", "registration"),
    ("recognition", "inbox"): ("recognition", "hours", "registration"),
    **{(service, "withdrawals"): ("registration",) for service in SERVICES},
}
"""Which logs each consumer must have read."""
REACTS: Mapping[str, Sequence[str]] = {"registration": ("registration",), "hours": ("hours",), "recognition": ("hours", "recognition")}
"""On which of them the inbox reacts."""


async def stored(system: System, service: str, after: int = 0) -> list[Stored]:
    """The log after a position."""
    return [
        Stored(
            row["position"],
            f"{row['category']}-{row['stream_id']}",
            row["version"],
            row["event_id"],
            row["type"],
            row["command_id"],
            row["actor"],
            row["payload"],
        )
        for row in await system.sql(service, _EVENTS, after)
    ]


def check_dense(events: Sequence[Stored]) -> None:
    """Positions 1 to n, versions 1 to n in each stream, every id once (I4)."""
    Log("the log").take(events)


def check_answers(events: Sequence[Stored], history: Sequence[Asked]) -> None:
    """What was accepted is there exactly as answered, what was refused left nothing, and nobody else wrote (I1, I2)."""
    log = Log("the log")
    log.take(events)
    invariants.check_answers(log, history)
    check_authors(events, {each.command_id: each for each in history})


async def check_published(system: System, service: str, events: Sequence[Stored]) -> Tap:
    """Kafka holds the log, whole and in order, for whoever reads it next (I5)."""
    log = Log(service)
    log.take(events)
    read = await read_to_the_end(system, service)
    invariants.check_published(log, read.events)
    need(read.position == log.head, "I5", f"the next reader of {service} gets as far as {read.position} of {log.head}")
    return read


async def by_person(system: System, service: str, statement: str) -> Mapping[UUID, Any]:
    """The rows of a statement by their first column."""
    return {row[0]: tuple(row)[1:] for row in await system.sql(service, statement)}


@asynccontextmanager
async def snapshot(system: System, service: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """One state of a service's database, as the superuser."""
    connection = await asyncpg.connect(system.dsn(service, "admin"), timeout=CONNECT_WITHIN_S)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            yield connection
    finally:
        await connection.close(timeout=5)


@dataclass(frozen=True)
class Places:
    """Where the consumers of a service stand: (consumer, log) to applied and reacted, with their hashes."""

    applied: Mapping[tuple[str, str], tuple[int, bytes]]
    reacted: Mapping[tuple[str, str], tuple[int, bytes]]

    @classmethod
    async def of(cls, connection: "asyncpg.Connection[asyncpg.Record]", service: str) -> "Places":
        """What the database says now."""
        rows = {(row["consumer"], row["log"]): row for row in await connection.fetch(_PLACES)}
        read = [(consumer, log) for (owner, consumer), logs in READS.items() if owner == service for log in logs]
        return cls(
            {key: (rows[key]["applied"], rows[key]["applied_hash"]) if key in rows else (0, b"") for key in read},
            {
                key: (rows[key]["reacted"], rows[key]["reacted_hash"]) if key in rows else (0, b"")
                for key in (("inbox", log) for log in REACTS[service])
            },
        )


@dataclass
class _Looked:
    """What one look at a service's database has found."""

    places: Places
    readers: Mapping[Reader, tuple[int, int, int]]
    """Position, rows and digest; nothing of what waits behind parked keys."""
    seals: Sequence[tuple[int, int, bytes]]
    blocked: int
    """Logs of consumers that have parked keys."""


@dataclass
class Witness:
    """Holds against one another what was asked, stored, published and read: each look takes up where the last one ended."""

    system: System
    clients: Clients
    taps: Mapping[str, Tap]
    happened: Counter[str] = field(default_factory=Counter)
    logs: dict[str, Log] = field(default_factory=lambda: {service: Log(service) for service in SERVICES})

    def __post_init__(self) -> None:
        self._folds: dict[str, Fold] = {service: FOLDS[service]() for service in SERVICES}
        self._at: dict[Reader, Fold] = {}
        self._answered = 0
        self._compared = dict.fromkeys(SERVICES, 0)
        self._sealed = dict.fromkeys(SERVICES, 0)
        self._logs_read = Counter[Path]()

    async def look(self) -> None:
        """All invariants but the digests, up to where everything stands now. Raises BrokenError.

        What it asks of them holds at every instant, so the next fault may strike meanwhile: a database that is away is waited for.
        """
        answered = self.clients.history[self._answered :]
        tapped, looked, more = await self._read()
        self._answered += len(answered)
        for service in SERVICES:
            self._take(service, more[service])
            await asyncio.sleep(0)
        self._check_logs()
        for service, found in looked.items():
            log, tap = self.logs[service], self.taps[service]
            self.happened["parked key"] += found.blocked
            invariants.check_answers(log, [each for each in answered if each.service == service])
            self._compared[service] = invariants.check_published(log, tap.events[: tapped[service]], self._compared[service])
            self._check_seals(service, found.seals)
            self._check_places(service, found.places)
            for reader, (position, rows, digest) in found.readers.items():
                check_reader(reader, self._fold_at(reader, position), rows, digest)
            await asyncio.sleep(0)

    async def _read(self) -> tuple[Mapping[str, int], Mapping[str, _Looked], Mapping[str, Sequence[Stored]]]:
        """How far each topic is read, what each database says, and the events that came since the last look."""
        ends = monotonic() + FOUND_WITHIN_S
        while True:
            tapped = {service: tap.position for service, tap in self.taps.items()}
            try:  # Consumers first: their logs are at least as long.
                looked = {service: await self._look_at(service) for service in SERVICES}
                return tapped, looked, {service: await stored(self.system, service, self.logs[service].head) for service in SERVICES}
            except ABSENT:
                if monotonic() > ends:
                    raise
                await asyncio.sleep(0.2)

    async def _look_at(self, service: str) -> _Looked:
        async with snapshot(self.system, service) as connection:
            places = await Places.of(connection, service)
            views = await connection.fetchval("SELECT schema FROM consumer.views WHERE live")
            blocked = {
                (row["consumer"], row["log"]) for row in await connection.fetch("SELECT DISTINCT consumer, log FROM consumer.blocked")
            }
            found: dict[Reader, tuple[int, int, int]] = {}
            for reader in READERS:
                if reader.service == service and (reader.consumer, reader.log) not in blocked:
                    row = await connection.fetchrow(invariants.DIGEST.format(rows=reader.rows.format(views=views)))
                    assert row is not None
                    found[reader] = places.applied[reader.consumer, reader.log][0], row["n"], row["digest"]
            seals = [tuple(row) for row in await connection.fetch(_SEALS, self._sealed[service])]
            await self._audit(connection, service)
        return _Looked(places, found, seals, len(blocked))

    async def _audit(self, connection: "asyncpg.Connection[asyncpg.Record]", service: str) -> None:
        """One record for each change, with who, why and under which key (I17); nothing that was seen is gone (I1)."""
        log = self.logs[service]
        if log.events:
            last = await connection.fetchval("SELECT event_id FROM es.event WHERE position = $1", log.head)
            need(last == log.events[-1].event_id, "I1", f"{service} {log.head} was there and is gone")
        odd = await connection.fetchval(_ODD_COMMANDS, log.head)
        need(odd == 0, "I17", f"{odd} events of {service} have no command that answers for them")
        silent = await connection.fetchval(_SILENT_REFUSALS)
        need(silent == 0, "I17", f"{silent} refusals of {service} do not say of whom")
        stands: dict[str, str] = {}
        for row in await connection.fetch("SELECT subject, was, becomes, who, reason FROM es.log_change ORDER BY number"):
            need(bool(row["who"].strip() and row["reason"].strip()), "I17", f"a change of {service} without who or why: {dict(row)}")
            need(stands.get(row["subject"], row["was"]) == row["was"], "I17", f"a change of {service} is missing before {dict(row)}")
            stands[row["subject"]] = row["becomes"]

    def _take(self, service: str, events: Sequence[Stored]) -> None:
        log = self.logs[service]
        log.take(events)
        check_authors(events, self.clients.asked)
        for each in events:
            check_private(f"{service} {each.position}", each.payload)
        self._folds[service].reach(log, log.head)
        self.taps[service].wanted = log.head

    def _check_logs(self) -> None:
        """What our processes and the database servers have written since the last look."""
        for file in (*self.system.folder.glob("*.log"), *self.system.folder.glob("postgres*/*.log")):
            with file.open("rb") as log:
                log.seek(self._logs_read[file])
                text = log.read()
            whole = text[: text.rfind(b"\n") + 1]
            check_private(file.name, whole)
            self._logs_read[file] += len(whole)

    def _check_seals(self, service: str, seals: Sequence[tuple[int, int, bytes]]) -> None:
        """The chain of the log, in the database and in Kafka, is one (I4)."""
        tap = self.taps[service]
        for position, previous, said in seals:
            if position > tap.position:
                break
            need(
                previous == self._sealed[service], "I4", f"{service}: a seal at {position} follows {previous}, not {self._sealed[service]}"
            )
            need(said == tap.hashes[position - 1], "I4", f"{service}: sealed at {position} as another than was published")
            self._sealed[service] = position

    def _check_places(self, service: str, places: Places) -> None:
        """A position with the hash of the chain there says that every event up to it was met, in order (I13)."""
        for said in (places.applied, places.reacted):
            for (consumer, log), (position, chain_hash) in said.items():
                if 0 < position <= self.taps[log].position:
                    at = self.taps[log].hashes[position - 1]
                    need(chain_hash == at, "I13", f"{service} {consumer} stands at {position} of another {log}")
        if service == "hours":
            hours = self._folds["hours"]
            assert isinstance(hours, Hours)
            check_reactions(hours, places.reacted["inbox", "hours"][0])

    def _fold_at(self, reader: Reader, position: int) -> Fold:
        fold = self._at.get(reader)
        if fold is None or fold.position > position:  # A rebuild swapped in, or a failover, may stand a little further back.
            fold = self._at[reader] = FOLDS[reader.log]()
        fold.reach(self.logs[reader.log], position)
        return fold


_EVENTS = """
    SELECT position, category, stream_id, version, event_id, type, command_id, actor, payload FROM es.event
    WHERE position > $1 ORDER BY position
"""
_PLACES = "SELECT consumer, log, applied, applied_hash, reacted, reacted_hash FROM consumer.position WHERE consumer NOT LIKE '%@%'"
_SEALS = "SELECT position, previous, hash FROM es.seal WHERE position > $1 ORDER BY position"
_ODD_COMMANDS = """
    SELECT count(*) FROM es.event LEFT JOIN es.command AS command USING (command_id)
    WHERE event.position > $1 AND (
        command.outcome IS DISTINCT FROM 'accepted'
        OR event.position NOT BETWEEN command.position AND command.position + command.event_count - 1
    )
"""
_SILENT_REFUSALS = """
    SELECT count(*) FROM es.command WHERE outcome = 'refused' AND (actor IS NULL OR correlation_id IS NULL OR refusal IS NULL)
"""
