"""`verify`: holds the log in the database, its seals and its copy in Kafka against one another, byte by byte, and changes nothing.

Each event is hashed onto the chain as the relay did. Where the two copies of an event differ, the hash that the record in Kafka carries
and the next seal say which of them is not what it was. Of the topic that is taken which a reader would take: what lies there twice, or is
damaged and was published again, is only counted.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from time import monotonic
from typing import Any, Final, Literal
from uuid import UUID

from aiokafka import AIOKafkaConsumer

from shared import kafka
from shared.audit import Chain, check
from shared.audit.heads import ChainHead
from shared.envelope import Record, chain_hash, headers_of, record_of
from shared.eventstore.store import record_from_row
from shared.postgres import Connection
from shared.recover import last_word
from shared.relay.readback import read, reading
from shared.relay.steps import START, Found, Link, Verdict, judge, said_by
from shared.settings import Servers

PAGE_ROWS_MAX: Final = 1000
DIFFERENCES_MAX: Final = 20
"""After so many the rest is not looked at: something is wrong as a whole."""
PARTS_OF_ONE_RECORD_MAX: Final = 2
"""A record that differs from an event in more parts than this is another event, and not that one damaged."""
PROGRESS_SECONDS: Final = 2.0

Side = Literal["store", "Kafka", "seal", "both"]


@dataclass(frozen=True, slots=True)
class Difference:
    """What is not as it was sealed: at which position, on which side, and which part. `offset` is the record's in Kafka."""

    position: int
    side: Side
    what: str
    offset: int | None = None

    def __str__(self) -> str:
        at = "" if self.offset is None else f" (offset {self.offset})"
        return f"position {self.position}: {self.side}{at}: {self.what}"


@dataclass(slots=True)
class Verified:
    """What was found. `notes` are no differences: what a reader passes over, and what has not been published yet."""

    events: int = 0
    records: int = 0
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    reads: Chain | None = None


class _EnoughError(Exception):
    """More differences than anybody wants to read."""


async def verify(
    connection: Connection, service: str, servers: Servers, prefix: str, say: Callable[[str], None], reads: Iterable[ChainHead] = ()
) -> Verified:
    """Reads the whole log and the whole topic once, and a stretch of the topic again for each difference. `say` is told of progress.

    `reads` is what was published of the head of the chain of reads elsewhere than on Kafka.
    Raises kafka.LOST_ERRORS and what the database raises: then nothing is known.
    """
    log_id: UUID = await connection.fetchval("SELECT log_id FROM es.log WHERE service = $1", service)
    if log_id is None:
        raise ValueError(f"the database does not hold the log of {service}")
    word = await last_word(servers, prefix, service, log_id)
    published = max(word.published, await connection.fetchval("SELECT coalesce(max(position), 0) FROM es.relay_mark"))
    topic = kafka.topic_name(prefix, f"{service}.events")
    async with reading(servers, topic, "verify") as consumer:
        first, end = await kafka.offsets(consumer, topic)  # Before the head: what was published before was appended before.
        head: int = await connection.fetchval("SELECT coalesce(max(position), 0) FROM es.event")
        checker = _Checker(connection, service, log_id, head, say)
        try:
            await _Topic(checker, consumer, topic, log_id, first, end).read(published)
            await checker.finish()
        except _EnoughError:
            checker.found.notes.append(f"stopped after {DIFFERENCES_MAX} differences")
    if await connection.fetchval("SELECT to_regclass('audit.read') IS NOT NULL"):
        checker.found.reads = await check(connection, [*reads, *word.reads])
    return checker.found


class _Checker:
    """Goes through the log from its start; `link` is what is taken to be the truth so far."""

    def __init__(self, connection: Connection, service: str, log_id: UUID, head: int, say: Callable[[str], None]) -> None:
        self.link = START
        self.head = head
        self.found = Verified()
        self.is_cut = False
        self._connection = connection
        self._rows = _Rows(connection, service, log_id)
        self._seals = _Seals(connection)
        self._own = START.hash
        self._since_seal = 0
        self._recorded_at: datetime | None = None
        self._run: list[Any] | None = None
        self._runs: list[list[Any]] = []
        self._say = say
        self._began_at = self._told_at = monotonic()

    async def event(self) -> Record | None:
        """The store's event after `link`, if it is there."""
        return await self._rows.at(self.link.position + 1)

    async def take(self, found: Found, link: Link) -> None:
        """Holds a record of the topic that follows `link` against the store's event."""
        record = await self.event()
        truth = record
        if record is None:
            truth = record_of(found.headers, found.value)
            self.differ(link.position, "store", "the event is missing", found.offset)
        elif chain_hash(self.link.hash, headers_of(record), record.payload) != link.hash:
            truth = record_of(found.headers, found.value)
            self.differ(link.position, "store", ", ".join(_parts(truth, headers_of(record), record.payload)) or "the event", found.offset)
        if truth is not None and found.key != truth.partition_key.encode():
            self.differ(link.position, "Kafka", "the record's key", found.offset)
        await self._advance(link, record, truth)

    async def pass_over(self, suspect: Found | None, what: Sequence[str], said: Link | None) -> None:
        """Goes on after an event that the topic does not hold as it was sealed, or not at all (no suspect, and nothing to be said)."""
        record = await self.event()
        position = self.link.position + 1
        if record is None:
            self.differ(position, "both", "the event is in neither copy")
            raise _EnoughError
        link = Link(position, chain_hash(self.link.hash, headers_of(record), record.payload))
        if suspect is not None:
            headers = [(name, value) for name, value in suspect.headers if value is not None]
            same = chain_hash(self.link.hash, headers, suspect.value or b"") == link.hash
            if same:
                what = ["header ce_chainhash"]
            both = not same and said is not None and said.position == position and said.hash != link.hash
            self.differ(position, "both" if both else "Kafka", ", ".join(what), suspect.offset)
            link = said if both and said is not None else link
        await self._advance(link, record, record)

    async def finish(self) -> None:
        """The rest of the log, which Kafka does not have yet."""
        if self.link.position > await self._connection.fetchval("SELECT coalesce(max(position), 0) FROM es.seal"):
            self.differ(self.link.position, "seal", "Kafka holds events that were never sealed here")
        waiting = self.head - self.link.position
        if waiting > 0:
            self.found.notes.append(f"{waiting} events after position {self.link.position} are not in Kafka yet")
        while self.link.position < self.head:
            record = await self.event()
            if record is None:
                self.differ(self.link.position + 1, "store", "the event is missing")
                break
            await self._advance(Link(record.position, chain_hash(self.link.hash, headers_of(record), record.payload)), record, record)
        await self._check_answers(last=not self.is_cut)

    def differ(self, position: int, side: Side, what: str, offset: int | None = None) -> None:
        """Notes a difference. Raises _EnoughError."""
        self.found.differences.append(Difference(position, side, what, offset))
        if len(self.found.differences) >= DIFFERENCES_MAX:
            raise _EnoughError

    async def _advance(self, link: Link, record: Record | None, truth: Record | None) -> None:
        if record is not None:
            self._own = chain_hash(self._own, headers_of(record), record.payload)
            recorded_at = self._rows.recorded_at
            if self._recorded_at is not None and recorded_at < self._recorded_at:
                self.differ(link.position, "store", "recorded_at is before that of the event before")
            self._recorded_at = recorded_at
            self.found.events += 1
        seal = await self._seals.at(link.position)
        if seal is not None:
            link = self._hold_against(seal, link)
            self._own, self._since_seal = link.hash, len(self.found.differences)
            if seal.previous != self._seals.last:
                self.differ(link.position, "seal", f"es.seal says that it follows {seal.previous}, it follows {self._seals.last}")
            self._seals.last = link.position
        self.link = link
        if truth is not None:
            await self._note_command(truth)
        if monotonic() - self._told_at > PROGRESS_SECONDS:
            self._told_at = monotonic()
            self._say(f"{link.position} of {self.head}, {link.position / (self._told_at - self._began_at):.0f}/s")

    def _hold_against(self, seal: "_Seal", link: Link) -> Link:
        if seal.hash == link.hash:
            return link
        if seal.hash == self._own:  # The store is what was sealed, so Kafka was rewritten so that it fits itself.
            since = self.found.differences[self._since_seal :]
            turned = [replace(each, side="Kafka") if each.side == "store" else each for each in since]
            self.found.differences[self._since_seal :] = turned
            return Link(link.position, seal.hash)
        if not any(each.side == "both" for each in self.found.differences[self._since_seal :]):
            self.differ(link.position, "seal", "es.seal has another hash than the events since the last seal")
        return link

    async def _note_command(self, record: Record) -> None:
        if self._run is not None and self._run[0] == record.command_id:
            self._run[2] += 1
            return
        if self._run is not None:
            self._runs.append(self._run)
        self._run = [record.command_id, record.position, 1]
        if len(self._runs) >= PAGE_ROWS_MAX:
            await self._check_answers(last=False)

    async def _check_answers(self, *, last: bool) -> None:
        """The answer that a repeat would get is that of the events."""
        runs, self._runs = self._runs + ([self._run] if last and self._run is not None else []), []
        kept = {row["command_id"]: row for row in await self._connection.fetch(_ANSWERS, [run[0] for run in runs])}
        for command_id, first, count in runs:
            row = kept.get(command_id)
            if row is None:
                self.differ(first, "store", f"es.command has no answer to command {command_id}")
            elif (row["outcome"], row["position"], row["event_count"]) != ("accepted", first, count):
                self.differ(first, "store", f"es.command has another answer to command {command_id} than its {count} events here")


class _Topic:
    """Reads the topic as a reader would: the next position is taken, the rest is dropped; what never comes is looked at more closely."""

    def __init__(self, checker: _Checker, consumer: AIOKafkaConsumer, topic: str, log_id: UUID, first: int, end: int) -> None:
        self._checker = checker
        self._consumer = consumer
        self._topic = topic
        self._log_id = log_id
        self._end = end
        self._taken_offset = first - 1
        self._dropped: Counter[Verdict] = Counter()
        self._best: tuple[Sequence[str], Found] | None = None
        self._later: int | None = None

    async def read(self, published: int) -> None:
        """Takes all that the topic has; what was published up to there and is missing is a difference."""
        self._begin_again()
        first_time = True
        while True:
            while found := await read(self._consumer, self._topic, self._end):
                for record in found:
                    if record.offset >= self._end:
                        break  # It came while this was being read: the log goes on, too.
                    self._checker.found.records += first_time
                    if not await self._look(record, first_time=first_time):
                        return
            first_time = False
            if not await self._pass_over(published):
                break
            self._begin_again()
        for verdict, count in self._dropped.items():
            self._checker.found.notes.append(f"{count} records of the topic that readers pass over ({verdict.name.lower()})")

    def _begin_again(self) -> None:
        self._best, self._later = None, None
        self._consumer.seek(kafka.only_partition(self._topic), self._taken_offset + 1)

    async def _look(self, record: Found, *, first_time: bool) -> bool:
        """False where the store ends and the topic goes on."""
        verdict, link = judge(self._checker.link, self._log_id, record)
        if verdict is Verdict.NEXT:
            self._taken_offset, self._best, self._later = record.offset, None, None
            if link.position > self._checker.head:
                why = "the log ends before this event: an older copy was restored (see `recover`), or rows were taken out"
                self._checker.is_cut = True  # Its last command may be, too.
                self._checker.differ(link.position, "store", why, record.offset)
                return False
            await self._checker.take(record, link)
            return True
        self._dropped[verdict] += first_time
        said = said_by(self._log_id, record)
        if verdict is Verdict.LATER and said is not None:
            self._later = said.position if self._later is None else min(self._later, said.position)
        event = await self._checker.event()
        if event is None:
            return True
        parts = ["headers cannot be read"] if not record.headers and record.value is None else _parts(event, record.headers, record.value)
        if len(parts) <= PARTS_OF_ONE_RECORD_MAX and (self._best is None or len(parts) < len(self._best[0])):
            self._best = parts, record
        return True

    async def _pass_over(self, published: int) -> bool:
        """Whether something is missing that must be there; it is noted, and the checker goes past it."""
        checker = self._checker
        position = checker.link.position + 1
        if self._best is not None:
            parts, suspect = self._best
            await checker.pass_over(suspect, parts, said_by(self._log_id, suspect))
            return True
        until = min(checker.head, self._later - 1 if self._later is not None else published)
        if until < position:
            return False
        checker.differ(position, "Kafka", "the event is missing" if until == position else f"the events up to {until} are missing")
        while checker.link.position < until:
            await checker.pass_over(None, (), None)
        return True


class _Rows:
    """The store's events in order of position, page by page."""

    def __init__(self, connection: Connection, service: str, log_id: UUID) -> None:
        self._connection = connection
        self._service = service
        self._log_id = log_id
        self._kept: deque[Any] = deque()
        self._read_to = 0
        self.recorded_at: datetime

    async def at(self, position: int) -> Record | None:
        """The event at `position`, which never goes back."""
        while True:
            while self._kept and self._kept[0]["position"] < position:
                self._kept.popleft()
            if self._kept or self._read_to < 0:
                break
            rows = await self._connection.fetch(_EVENTS, max(self._read_to, position - 1), PAGE_ROWS_MAX)
            self._kept.extend(rows)
            self._read_to = rows[-1]["position"] if rows else -1
        if not self._kept or self._kept[0]["position"] != position:
            return None
        self.recorded_at = self._kept[0]["recorded_at"]
        return record_from_row(self._kept[0], self._service, self._log_id)


@dataclass(frozen=True, slots=True)
class _Seal:
    position: int
    previous: int
    hash: bytes


class _Seals:
    """The seals in order, page by page. `last` is the position of the one before."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._kept: deque[_Seal] = deque()
        self._read_to = 0
        self.last = 0

    async def at(self, position: int) -> _Seal | None:
        """The seal at `position`, which never goes back."""
        while self._kept and self._kept[0].position < position:
            self._kept.popleft()
        if not self._kept and self._read_to >= 0:
            rows = await self._connection.fetch(_SEALS, max(self._read_to, position - 1), PAGE_ROWS_MAX)
            self._kept.extend(_Seal(*row) for row in rows)
            self._read_to = self._kept[-1].position if rows else -1
        return self._kept[0] if self._kept and self._kept[0].position == position else None


def _parts(record: Record, headers: Sequence[tuple[str, bytes | None]], payload: bytes | None) -> list[str]:
    """In which parts headers and a payload differ from those of `record`; the chain hash left out."""
    expected = dict(headers_of(record))
    given = dict(headers)
    names = Counter(name for name, _ in headers)
    given.pop("ce_chainhash", None)
    parts = [f"header {name[:40]!r} is doubled" for name, times in names.items() if times > 1]
    parts += [f"header {name}" for name, value in expected.items() if name in given and given[name] != value]
    parts += [f"header {name} is missing" for name in expected if name not in given]
    parts += [f"header {name[:40]!r} is not one of ours" for name in given if name not in expected]
    if payload != record.payload:
        parts.append(_payload_part(record.payload, payload))
    return parts


def _payload_part(expected: bytes, given: bytes | None) -> str:
    if given is None:
        return "the payload is missing"
    at = next(
        (place for place, (one, other) in enumerate(zip(expected, given, strict=False)) if one != other), min(len(expected), len(given))
    )
    return f"payload from byte {at} on" if len(expected) != len(given) else f"payload at byte {at}"


_EVENTS: Final = """
    SELECT position, category, stream_id, version, event_id, type, schema_version, time, command_id, correlation_id, causation_id,
        actor, partition_key, traceparent, payload, recorded_at
    FROM es.event WHERE position > $1 ORDER BY position LIMIT $2
"""
_SEALS: Final = "SELECT position, previous, hash FROM es.seal WHERE position > $1 ORDER BY position LIMIT $2"
_ANSWERS: Final = "SELECT command_id, outcome, position, event_count FROM es.command WHERE command_id = ANY($1::uuid[])"
