"""relay-drain and project-live: the relay and the read models of `hours`, each alone, in this process."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

from services.hours.main import SERVICE
from shared import kafka
from shared.codec import Codec
from shared.consumer import Kafka, Setting
from shared.consumer.apply import Consumer, follow
from shared.consumer.apply import Place as Standing
from shared.consumer.shell import RECORDS_MAX
from shared.consumer.views import parts
from shared.contracts.hours import ServiceTimeConfirmed, ServiceTimeProposed
from shared.contracts.topics import EVENTS, TOPICS, UPCASTERS
from shared.envelope import Record
from shared.relay import Relay
from shared.relay.readback import read, reading
from shared.relay.steps import START, Outgoing, chained
from tests.bench import work
from tests.bench.beside import with_library
from tests.bench.measure import Effort, Outcome, Slice, contest
from tests.bench.place import Log, Place

BACKLOG: Final = 20_000
PROJECTED: Final = 20_000
VOLUNTEERS: Final = 5_000
LARGE_BATCH: Final = 5_000
DRAIN_SECONDS_MAX: Final = 120.0
_TOPIC: Final = "hours.events"
TABLES: Final = ("entries", "entry_changes", "credited_intervals", "postings", "balances")


@dataclass(frozen=True, slots=True)
class Message:
    """A record as a consumer gets it."""

    offset: int
    headers: Sequence[tuple[str, bytes]]
    value: bytes


async def relay_drain(place: Place, effort: Effort) -> Outcome:
    """A backlog is sealed and published; every drain has a copy of the log and a topic of its own. Counted from the first page on."""
    backlog, ids = 3_000 if effort.small else BACKLOG, work.Ids("backlog")  # Several pages of the relay.
    template = place.databases(await place.migrated())
    async with place.opened(template) as log:
        await work.seed_accounts(log, ids, backlog // 20, 20)
        page = await log.store.read_page(0, backlog)
    outgoing = chained(START, page)
    cpu = place.cpu()

    async def drain() -> Slice:
        async with place.log(template) as log, _drained(place, log, backlog) as done:
            return done

    async def produce() -> Slice:
        topic = await _topic(place)
        producer = await kafka.start_producer(place.kafka.servers, "bench")
        try:
            before, began = cpu.start(), perf_counter()
            batch, sent = producer.create_batch(), []
            for number, each in enumerate(outgoing, 1):
                if batch.append(timestamp=None, key=each.key, value=each.value, headers=each.headers) is None:
                    sent.append(await producer.send_batch(batch, topic, partition=0))
                    batch = producer.create_batch()
                    batch.append(timestamp=None, key=each.key, value=each.value, headers=each.headers)
                if number == len(outgoing):
                    sent.append(await producer.send_batch(batch, topic, partition=0))
            await asyncio.gather(*sent)
            return Slice(len(outgoing), perf_counter() - began, cpu_seconds=cpu.since(before))
        finally:
            await kafka.stop(producer)

    async def produce_by_c() -> Slice:
        topic = await _topic(place)
        producer = await asyncio.to_thread(_producer_in_c, place.kafka.servers, topic)
        before, began = cpu.start(), perf_counter()
        await asyncio.to_thread(_produce_by_c, producer, topic, outgoing)
        return Slice(len(outgoing), perf_counter() - began, cpu_seconds=cpu.since(before))

    by_c, absent = with_library("confluent-kafka", {"bound: confluent-kafka alone, records ready, acks=all": produce_by_c})

    async def copy_out() -> Slice:
        async with place.opened(template) as log:

            async def sink(_data: bytes) -> None:
                return

            before, began = cpu.start(), perf_counter()
            said = await log.owner.copy_from_query("SELECT * FROM es.event ORDER BY position", output=sink, format="binary")
            assert said == f"COPY {backlog}"
            return Slice(backlog, perf_counter() - began, cpu_seconds=cpu.since(before))

    try:
        figure = await contest(
            f"backlog of {backlog}",
            "events/s",
            drain,
            {"bound: aiokafka alone, records ready, acks=all": produce, **by_c, "bound: COPY OUT of the same rows": copy_out},
            effort,
            absent,
        )
        async with place.log(template) as log:
            checked = await _check_topic(place, log, backlog)
    finally:
        place.drop(template)
    return Outcome([figure], [checked])


def _producer_in_c(servers: str, topic: str) -> Any:
    """Idempotent and compressed as ours, and connected."""
    import confluent_kafka

    producer = confluent_kafka.Producer(
        {"bootstrap.servers": servers, "enable.idempotence": True, "compression.type": "zstd", "queue.buffering.max.messages": 1_000_000}
    )
    producer.list_topics(topic, timeout=10)
    return producer


def _produce_by_c(producer: Any, topic: str, outgoing: Sequence[Outgoing]) -> None:
    """Raises AssertionError when a record was not taken."""
    refused: list[object] = []

    def taken(error: object, _record: object) -> None:
        if error is not None:
            refused.append(error)

    for each in outgoing:
        producer.produce(topic, each.value, each.key, partition=0, headers=list(each.headers), on_delivery=taken)
        producer.poll(0)
    assert producer.flush(60) == 0
    assert not refused, refused[:3]


@contextlib.asynccontextmanager
async def _drained(place: Place, log: Log, backlog: int, prefix: str | None = None) -> AsyncIterator[Slice]:
    cpu, stop = place.cpu(), asyncio.Event()
    relay = Relay(log.store, log.pool, log.dsn, place.kafka.servers, prefix or place.topic_prefix(), log.metrics)
    running = asyncio.create_task(relay.run(stop))
    try:
        first, began, used = 0, 0.0, 0.0
        give_up_at = perf_counter() + DRAIN_SECONDS_MAX
        while (count := int(log.metrics.relay_published_total._value.get())) < backlog:
            if count and not first:
                first, used, began = count, cpu.start(), perf_counter()
            assert perf_counter() < give_up_at, f"{count} of {backlog} published"
            assert not running.done(), running.exception()
            await asyncio.sleep(0.001)
        assert first, "the backlog went in one page"
        yield Slice(backlog - first, perf_counter() - began, cpu_seconds=cpu.since(used))
    finally:
        stop.set()
        await running


async def _check_topic(place: Place, log: Log, backlog: int) -> str:
    """Drains once more, and reads the topic as a consumer does: every position, verified by the chain."""
    prefix = place.topic_prefix()
    async with _drained(place, log, backlog, prefix):
        pass
    topic, standing, found = kafka.topic_name(prefix, _TOPIC), Standing(), 0
    async with reading(place.kafka.servers, topic, "bench") as consumer:
        _, end = await kafka.offsets(consumer, topic)
        while records := await read(consumer, topic, end):
            run = follow("hours", standing, records)
            assert (run.missing, run.repeated) == (0, 0)
            found, standing = found + len(run.entries), run.entries[-1].place
    sealed = await log.owner.fetchrow("SELECT position, hash FROM es.seal ORDER BY position DESC LIMIT 1")
    assert sealed is not None
    assert found == standing.position == sealed["position"] == backlog
    assert standing.hash == sealed["hash"]
    return f"the topic holds {found} records, each once, and its chain ends in the last seal's hash"


async def _topic(place: Place) -> str:
    prefix = place.topic_prefix()
    await kafka.ensure_topics(place.kafka.servers, prefix, [TOPICS[_TOPIC]])
    return kafka.topic_name(prefix, _TOPIC)


async def project_live(place: Place, effort: Effort) -> Outcome:
    """Records become rows of all read models of `hours`, with the position in the transaction; every slice on an empty database."""
    messages = _messages(effort)
    cpu = place.cpu()
    confirmed = len(messages) // 2
    rows: dict[str, Sequence[tuple[object, ...]]] = {}
    checked: list[str] = []

    async def applied(size: int) -> Slice:
        async with place.log() as log:
            consumer = await views_consumer(log)
            before, began = cpu.start(), perf_counter()
            for begin in range(0, len(messages), size):
                assert not await consumer.take(messages[begin : begin + size])
            done = Slice(len(messages), perf_counter() - began, cpu_seconds=cpu.since(before))
            assert consumer.position == len(messages)
            checked[:] = [await work.check_balances(log.owner, confirmed)]
            if not rows:
                rows.update(await read_rows(log, "views_1"))
            return done

    async def copied() -> Slice:
        async with place.log() as log:
            before = cpu.start()
            done = Slice(len(messages), await copy_rows(log, rows), cpu_seconds=cpu.since(before))
            await work.check_balances(log.owner, confirmed)
            return done

    figure = await contest(
        f"{len(messages)} events, batches of {RECORDS_MAX}",
        "events/s",
        lambda: applied(RECORDS_MAX),
        {"bound: COPY of the same rows, all at once": copied, f"the same in batches of {LARGE_BATCH}": lambda: applied(LARGE_BATCH)},
        effort,
    )
    goal = figure.beside["bound: COPY of the same rows, all at once"].ratio.median
    notes = [f"{sum(map(len, rows.values()))} rows in {len(rows)} tables"]
    return Outcome([figure], checked, {"G6": (goal, figure)}, notes)


Rows = Mapping[str, Sequence[tuple[object, ...]]]
"""Of the read models of hours, by table."""


async def read_rows(log: Log, schema: str) -> Rows:
    """All of them."""
    return {table: [tuple(row) for row in await log.owner.fetch(f"SELECT * FROM {schema}.{table}")] for table in TABLES}


async def copy_rows(log: Log, rows: Rows) -> float:
    """Into empty read models, in one transaction, by COPY; how long that took, in seconds."""
    began = perf_counter()
    async with log.owner.transaction():
        await log.owner.execute("SET LOCAL synchronous_commit = off")
        for table, records in rows.items():  # COPY does not go into what its own role is kept from by policies.
            await log.owner.execute(f"ALTER TABLE views_1.{table} NO FORCE ROW LEVEL SECURITY")
            await log.owner.copy_records_to_table(table, schema_name="views_1", records=records, timeout=600)
    return perf_counter() - began


async def views_consumer(log: Log) -> Consumer:
    """What makes the read models of `hours` from its own log, where it stands."""
    setting = Setting(consumers=SERVICE.consumers, pool=log.pool, kafka=Kafka("", ""), codec=log.codec, keys=log.keys, metrics=log.metrics)
    consumer = Consumer(next(each for each in parts(setting) if each.source == "hours"), log.pool, log.metrics)
    await consumer.begin()
    return consumer


class Published:
    """Events of accounts, one after the other, as the relay publishes them."""

    def __init__(self, salt: str) -> None:
        self._codec, self._ids = Codec(EVENTS, UPCASTERS), work.Ids(salt)
        self._log_id = work.Ids("log")()
        self._link, self._position = START, 0

    def message(self, said: ServiceTimeProposed | ServiceTimeConfirmed, version: int) -> Message:
        """The next one."""
        volunteer = said.volunteer_id
        made = work.request(self._codec, self._ids, work.account_of(volunteer), 0, [said], str(volunteer))
        self._position += 1
        record = Record(
            service="hours",
            log_id=self._log_id,
            position=self._position,
            stream=made.stream,
            version=version,
            event_id=made.events[0].event_id,
            type=said.TYPE,
            schema_version=said.VERSION,
            time=made.time,
            command_id=made.command_id,
            correlation_id=made.correlation_id,
            causation_id=None,
            actor=made.actor,
            partition_key=made.partition_key,
            traceparent=made.traceparent,
            payload=made.events[0].payload,
        )
        (outgoing,) = chained(self._link, [record])
        self._link = outgoing.link
        return Message(self._position - 1, outgoing.headers, outgoing.value)


def _messages(effort: Effort) -> list[Message]:
    """Every volunteer's entry of a day is proposed, then every one is confirmed, then comes the next day."""
    published, ids = Published("project"), work.Ids("projected")
    people = [ids() for _ in range(effort.events(VOLUNTEERS))]
    messages: list[Message] = []
    for day in range(effort.events(PROJECTED) // (2 * len(people)) or 1):
        proposals = [work.proposed(ids, volunteer, day) for volunteer in people]
        messages += [published.message(each, 2 * day + 1) for each in proposals]
        messages += [published.message(work.confirmed(each), 2 * day + 2) for each in proposals]
    return messages
