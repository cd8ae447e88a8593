"""A log in a real database, its topic on a real broker, and hands to spoil the topic with."""

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.structs import ConsumerRecord

from deploy.local.kafka import LocalKafka
from shared import eventstore, kafka
from shared.contracts.topics import TOPICS
from shared.envelope import Stream
from shared.eventstore.store import PostgresStore, ensure_log, open_store
from shared.eventstore.values import Answer, AppendRequest, NewEvent
from shared.metrics import Metrics
from shared.migrate import migrate, roles_of
from shared.postgres import STATEMENT_SECONDS_MAX, Pool, connect, open_pool
from shared.relay import Relay
from shared.relay.publisher import Publish
from shared.relay.readback import read, reading
from shared.relay.steps import START, Verdict, judge
from tests.conftest import Databases

SERVICE = "hours"
TOPIC = "hours.events"

Raw = tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes]]]
"""Key, value and headers of a record."""


async def until(true: Callable[[], Awaitable[bool]] | Callable[[], bool], within: float = 20.0) -> None:
    """Returns as soon as the condition holds."""
    end = monotonic() + within
    while True:
        found = true()
        if found if isinstance(found, bool) else await found:
            return
        assert monotonic() < end, "it did not come true in time"
        await asyncio.sleep(0.02)


@dataclass
class Log:
    """One service's log and what stands of it in Kafka."""

    dsn: str
    servers: str
    prefix: str
    pool: Pool
    store: PostgresStore
    log_id: UUID

    @property
    def topic(self) -> str:
        return f"{self.prefix}{TOPIC}"

    async def append(self, count: int, *, size: int = 40) -> None:
        """Appends `count` events, each of `size` bytes or a little more."""
        for first in range(0, count, 500):
            stream = Stream("attendance", uuid4())
            events = [
                NewEvent(
                    uuid4(), "hours.volunteer_checked_in", 1, json.dumps({"n": number, "filler": secrets.token_hex(size // 2)}).encode()
                )
                for number in range(first, min(first + 500, count))
            ]
            answer = await self.store.append(
                AppendRequest(
                    uuid4(), None, stream, 0, events, None, (), (), datetime.now(UTC), uuid4(), None, "kiosk:1", str(stream.id), None
                )
            )
            assert isinstance(answer, Answer)

    def relay(self, metrics: Metrics | None = None, publish: Publish | None = None) -> Relay:
        return Relay(self.store, self.pool, self.dsn, self.servers, self.prefix, metrics or Metrics(SERVICE, "test"), publish=publish)

    @contextlib.asynccontextmanager
    async def relaying(self, metrics: Metrics | None = None, publish: Publish | None = None) -> AsyncIterator[asyncio.Task[None]]:
        """A relay at work for the time of the block."""
        stop = asyncio.Event()
        task = asyncio.create_task(self.relay(metrics, publish).run(stop))
        try:
            yield task
        finally:
            stop.set()
            async with asyncio.timeout(6.0):
                await asyncio.wait({task})
        if task.exception() is None:
            task.result()

    async def records(self, topic: str | None = None) -> list[ConsumerRecord]:
        """All records of the topic, as they lie there."""
        topic = topic or self.topic
        consumer = await kafka.start_consumer(self.servers, "test", topic)
        found: list[ConsumerRecord] = []
        try:
            first, end = await kafka.offsets(consumer, topic)
            if first < end:
                while not found or found[-1].offset < end - 1:
                    for batch in (await consumer.getmany(timeout_ms=200)).values():
                        found += batch
        finally:
            await kafka.stop(consumer)
        return found

    async def positions(self) -> list[int]:
        """Positions as they lie in the topic; 0 for a record of another log."""
        return [position_of(record, self.log_id) for record in await self.records()]

    async def read(self) -> list[int]:
        """The positions that a reader gets, which takes a verified n+1 and drops the rest, in one pass."""
        link, got = START, []
        async with reading(self.servers, self.topic, "test") as consumer:
            _, end = await kafka.offsets(consumer, self.topic)
            while found := await read(consumer, self.topic, end):
                for record in found:
                    verdict, link = judge(link, self.log_id, record)
                    if verdict is Verdict.NEXT:
                        got.append(link.position)
        return got

    async def is_whole(self, head: int) -> bool:
        with contextlib.suppress(TimeoutError):  # While the topic is being made.
            return await self.read() == list(range(1, head + 1))
        return False

    def rewrite(self, records: Sequence[Raw]) -> None:
        """Makes the topic anew with these records in it."""

        async def work() -> None:
            await self._delete(self.topic)
            await self.ensure_topics()
            await self.put(records)

        while_others_stand_still(work())

    def delete(self, *topics: str) -> None:
        """Deletes topics with all that they hold."""
        while_others_stand_still(self._delete(*topics))

    async def _delete(self, *topics: str) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.servers)
        await admin.start()
        try:
            await admin.delete_topics(topics)
            for topic in topics:
                await until(lambda topic=topic: _is_gone(admin, topic))
        finally:
            await admin.close()

    async def ensure_topics(self) -> None:
        """The topic may take a moment to be really gone."""
        await kafka.ensure_topics(self.servers, self.prefix, [TOPICS[TOPIC], TOPICS["hours.heads"]])

    async def put(self, records: Sequence[Raw]) -> None:
        """Writes into the topic, as somebody who is no relay."""
        producer = await kafka.start_producer(self.servers, "test")
        try:
            sent = [await producer.send(self.topic, value, key, partition=0, headers=list(headers)) for key, value, headers in records]
            await asyncio.gather(*sent)
        finally:
            await kafka.stop(producer)


def while_others_stand_still(work: Coroutine[Any, Any, None]) -> None:
    """Does it in a loop of its own while this one has no turn: a relay in it would make and fill a topic that has just been deleted."""
    with ThreadPoolExecutor(1) as apart:
        apart.submit(asyncio.run, work).result()


async def _is_gone(admin: Any, topic: str) -> bool:
    return topic not in await admin.list_topics()


def position_of(record: ConsumerRecord, log_id: UUID) -> int:
    headers = dict(record.headers)
    return int(headers["ce_sequence"]) if headers.get("ce_logid") == str(log_id).encode() else 0


def raw(record: ConsumerRecord) -> Raw:
    return record.key, record.value, record.headers


def sample(metrics: Metrics, name: str) -> float:
    """The sum of a metric's samples in what Prometheus would read."""
    lines = [line for line in metrics.render().decode().splitlines() if line.startswith((f"leifeng_{name}{{", f"leifeng_{name} "))]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def finding(metrics: Metrics, cause: str) -> float:
    return float(metrics.topic_findings_total.labels(cause)._value.get())


async def noticed(metrics: Metrics, *causes: str) -> None:
    """Loss is noticed and told by a metric: within five seconds on a machine that has time, which the faults measure."""
    await until(lambda: any(finding(metrics, each) for each in causes))


@contextlib.asynccontextmanager
async def opened(dsn: str, servers: str, prefix: str, *, statement_seconds: float = STATEMENT_SECONDS_MAX) -> AsyncIterator[Log]:
    """The log in a database, made if there is none."""
    connection = await connect(dsn, "test")
    try:
        await migrate(connection, [eventstore.MIGRATIONS])
        log_id = await ensure_log(connection, SERVICE, "system")
        roles = await roles_of(connection)
    finally:
        await connection.close()
    async with open_pool(dsn, "test", 8, role=roles.app, statement_seconds=statement_seconds) as pool:
        store = await open_store(pool, SERVICE, Metrics(SERVICE, "test"))
        try:
            yield Log(dsn, servers, prefix, pool, store, log_id)
        finally:
            await store.close()


@pytest.fixture(scope="session")
async def migrated(database: Databases) -> str:
    """A database to copy, in which no log was made yet."""
    dsn = database()
    connection = await connect(dsn, "migrate")
    await migrate(connection, [eventstore.MIGRATIONS])
    await connection.close()
    return dsn


@pytest.fixture
async def log(migrated: str, database: Databases, kafka_server: LocalKafka, topic_prefix: str) -> AsyncIterator[Log]:
    """A log without events, on the shared servers."""
    async with opened(database(migrated), kafka_server.servers, topic_prefix) as made:
        yield made
