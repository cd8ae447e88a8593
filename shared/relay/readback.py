"""Reads the topic back, from where it was last found whole to its end, and holds it against the chain and the seals (D4).

A reader of the topic takes the next position and drops the rest; so does this one. What it still misses at the end, although it was
published, is missing for everybody: the relay publishes again from there.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Final
from uuid import UUID

from aiokafka import AIOKafkaConsumer

from shared import kafka, logs
from shared.credentials import stamp
from shared.lifecycle import pause
from shared.metrics import Metrics
from shared.postgres import Pool
from shared.relay.steps import START, Found, Link, Verdict, judge, said_by
from shared.settings import Servers

READ_BACK_SECONDS: Final = 1.0
END_SECONDS_MAX: Final = 2.0
"""For the topic's end: it may have been deleted a moment ago, and loss is to be noticed within five seconds."""
SAVE_SECONDS: Final = 5.0
"""How often the mark is written while a long topic is read."""
READ_RECORDS_MAX: Final = 1000

_MARK: Final = "SELECT first_offset, record_offset, position, hash FROM es.relay_mark"
_SET_MARK: Final = """
    INSERT INTO es.relay_mark (first_offset, record_offset, position, hash) VALUES ($1, $2, $3, $4)
    ON CONFLICT (one) DO UPDATE SET first_offset = excluded.first_offset, record_offset = excluded.record_offset,
        position = excluded.position, hash = excluded.hash
"""
_SEALS: Final = """
    SELECT hash, position FROM es.seal WHERE position > $1 AND position <= $2
    UNION ALL SELECT ''::bytea, coalesce(max(position), 0) FROM es.seal
"""
"""Those of a range; and, with an empty hash, how far is sealed."""

_log = logs.logger()


@dataclass(slots=True)
class Board:
    """What publishing and reading back tell each other. Both run in one event loop."""

    log_id: UUID = field(default_factory=lambda: UUID(int=0))
    published: Link | None = None
    """Up to where the topic is taken to be complete; None while that is not known."""
    hole: Link | None = None
    """The last link before something that was published and is missing."""
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    read_back_due: asyncio.Event = field(default_factory=asyncio.Event)


class Findings:
    """Says what the topic has that the log has not, or the reverse: a metric to alert on, and a line."""

    def __init__(self, metrics: Metrics, topic: str) -> None:
        self._metrics = metrics
        self._topic = topic

    def add(self, cause: str, *, count: int = 1, position: int = 0, offset: int = 0) -> None:
        """`cause` as in the metric `topic_findings_total`."""
        if count:
            self._metrics.topic_findings_total.labels(cause).inc(count)
            _log.error("topic_is_not_the_log", cause=cause, topic=self._topic, count=count, position=position, offset=offset)


@contextlib.asynccontextmanager
async def reading(servers: Servers, topic: str, client_id: str) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer of the topic for the time of a block; it stands at offset 0 and rests until `read`. Raises kafka.LOST_ERRORS.

    So nothing is under way when somebody seeks, see kafka.LOOK_MILLISECONDS.
    """
    consumer = await kafka.start_consumer(servers, client_id, topic)
    consumer.pause(kafka.only_partition(topic))
    consumer.seek(kafka.only_partition(topic), 0)
    try:
        yield consumer
    finally:
        await kafka.stop(consumer)


async def read(consumer: AIOKafkaConsumer, topic: str, end: int) -> list[Found]:
    """The next records, none when the consumer stands at `end`; what cannot be read comes empty. Raises kafka.LOST_ERRORS.

    At `end` it rests until it is to read again: nobody waits for more, and a fetch that the broker holds lets no question by.
    """
    partition = kafka.only_partition(topic)
    consumer.resume(partition)
    give_up_at = monotonic() + kafka.REQUEST_SECONDS_MAX
    getmany = kafka.passing_over(consumer, partition)
    while await consumer.position(partition) < end:
        fetched = await getmany(partition, timeout_ms=500, max_records=READ_RECORDS_MAX)  # Never cancelled by a deadline.
        if partition in fetched:
            if await consumer.position(partition) >= end:
                consumer.pause(partition)  # Before anything else has its turn, so that no further fetch is sent.
            return [Found(each.offset, each.headers, each.value, each.key, each.timestamp) for each in fetched[partition]]
        if monotonic() > give_up_at:
            raise TimeoutError
    consumer.pause(partition)
    return []


async def wait(event: asyncio.Event, seconds: float) -> None:
    """Waits for `event`, `seconds` at most, and clears it."""
    await pause(event, seconds)
    event.clear()


@dataclass(frozen=True, slots=True)
class Place:
    """How far the topic was found whole: `link` came at `link_offset` (None before the first), and `next_offset` is read next."""

    first_offset: int
    next_offset: int
    link: Link = START
    link_offset: int | None = None


class ReadBack:
    """Reads one topic back, pass by pass."""

    def __init__(
        self,
        pool: Pool,
        servers: Servers,
        topic: str,
        client_id: str,
        board: Board,
        findings: Findings,
        diverged: Callable[[int], Awaitable[None]],
    ) -> None:
        """`diverged` is called with a position at which the topic's chain is sound and not the store's."""
        self._pool = pool
        self._servers = servers
        self._topic = topic
        self._client_id = client_id
        self._board = board
        self._findings = findings
        self._diverged = diverged
        self._saved: Place | None = None
        self._saved_at = 0.0

    async def run(self) -> None:
        """Reads for ever. Raises kafka.LOST_ERRORS and what the database raises; may be called again."""
        while self._board.published is None:
            await wait(self._board.read_back_due, READ_BACK_SECONDS)
        place: Place | None = None
        while True:
            made_with = stamp(self._servers)
            async with reading(self._servers, self._topic, self._client_id) as consumer:
                while stamp(self._servers) == made_with:
                    published = self._board.published  # Before the topic's end is asked for: all of it lies before that end.
                    if published is not None:
                        place = await self._pass(consumer, place, published)
                    await wait(self._board.read_back_due, READ_BACK_SECONDS)

    async def _pass(self, consumer: AIOKafkaConsumer, place: Place | None, published: Link) -> Place | None:
        if not await self._is_there(consumer):
            self._findings.add("lost_tail", position=1)
            self._board.published = None
            self._board.wake.set()
            return place
        async with asyncio.timeout(END_SECONDS_MAX):
            first, end = await kafka.offsets(consumer, self._topic)
        place = place or await self._marked() or Place(first, first)
        found = await self._go_on(consumer, place, first, end)
        if found is None:
            self._findings.add("rewritten", position=place.link.position, offset=end)
            place = Place(first, first)
            consumer.seek(kafka.only_partition(self._topic), first)
            found = await read(consumer, self._topic, end)
        later = False
        while found:
            if found[0].offset < place.next_offset:  # Made anew under our hands; the next pass begins with it.
                return Place(found[0].offset, found[0].offset)
            after = place.link.position
            # After the read: what a relay has published was sealed before.
            seals = {row["hash"]: row["position"] for row in await self._pool.fetch(_SEALS, after, after + len(found))}
            place, links, verdicts = self._judge(place, found, sealed=seals.pop(b""))
            later = later or Verdict.LATER in verdicts
            self._findings.add("foreign", count=verdicts.count(Verdict.FOREIGN), offset=place.next_offset)
            self._findings.add("changed", count=verdicts.count(Verdict.CHANGED), position=place.link.position + 1)
            for hash_, position in seals.items():
                if links.get(position, hash_) != hash_:
                    await self._diverged(position)
                    return Place(first, first)
            if monotonic() - self._saved_at > SAVE_SECONDS:
                await self._save(place)
            found = await read(consumer, self._topic, end)
        if place.link.position < published.position and self._board.hole is None:
            self._findings.add("hole" if later else "lost_tail", position=place.link.position + 1, offset=place.next_offset)
            self._board.hole = place.link
            self._board.wake.set()
        await self._save(place)
        return place

    async def _is_there(self, consumer: AIOKafkaConsumer) -> bool:
        """Asked first: for the end of a topic that was deleted one waits in vain."""
        async with asyncio.timeout(kafka.REQUEST_SECONDS_MAX):
            return await kafka.is_there(consumer, self._topic)

    def _judge(self, place: Place, found: list[Found], sealed: int) -> tuple[Place, dict[int, bytes], list[Verdict]]:
        link, link_offset = place.link, place.link_offset
        links: dict[int, bytes] = {}
        verdicts: list[Verdict] = []
        for record in found:
            verdict, after = judge(link, self._board.log_id, record)
            if verdict is Verdict.NEXT and after.position > sealed:
                verdict = Verdict.CHANGED  # It fits, and no relay published it.
            verdicts.append(verdict)
            if verdict is Verdict.NEXT:
                link, link_offset = after, record.offset
                links[link.position] = link.hash
        return Place(place.first_offset, found[-1].offset + 1, link, link_offset), links, verdicts

    async def _marked(self) -> Place | None:
        row = await self._pool.fetchrow(_MARK)
        if row is None:
            return None
        return Place(row["first_offset"], row["record_offset"] + 1, Link(row["position"], row["hash"]), row["record_offset"])

    async def _go_on(self, consumer: AIOKafkaConsumer, place: Place, first: int, end: int) -> list[Found] | None:
        """What follows the place; None when the topic begins elsewhere, is shorter, or has another record where the link came.

        Read in one go with that record: on a busy machine each question to Kafka may take half a second, and loss is to be noticed in five.
        """
        if place.first_offset != first or end < place.next_offset:
            return None
        partition = kafka.only_partition(self._topic)
        consumer.seek(partition, place.next_offset if place.link_offset is None else place.link_offset)
        found = await read(consumer, self._topic, end)
        if place.link_offset is None:
            return found
        if not found or found[0].offset != place.link_offset or said_by(self._board.log_id, found[0]) != place.link:
            return None
        fresh = [each for each in found if each.offset >= place.next_offset]
        if fresh or found[-1].offset + 1 >= end:
            return fresh
        consumer.seek(partition, place.next_offset)  # Much lies between that is not ours.
        return await read(consumer, self._topic, end)

    async def _save(self, place: Place) -> None:
        if place.link_offset is not None and (self._saved is None or self._saved.link != place.link):
            await self._pool.execute(_SET_MARK, place.first_offset, place.link_offset, place.link.position, place.link.hash)
            self._saved = place
        self._saved_at = monotonic()
