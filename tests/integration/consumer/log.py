"""A log of another service, as the relay would publish it, and folds whose effects can be counted."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import ClassVar
from uuid import UUID, uuid4, uuid5

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from shared.codec import Codec
from shared.consumer.apply import Part
from shared.consumer.values import Fact
from shared.contracts.event import Event, PersonalText
from shared.envelope import CHAIN_START, Record, Stream, chain_hash, headers_of
from shared.errors import InvariantError
from shared.postgres import Connection

NOON = datetime(2017, 3, 22, 4, 0, tzinfo=UTC)

POISON = 13
"""A number that the fold refuses, as long as `superstitious`."""


class Counted(Event):
    """Somebody counted something."""

    TYPE: ClassVar[str] = "seats.counted"
    number: int


class Noted(Event):
    """Somebody noted something about a person."""

    TYPE: ClassVar[str] = "seats.noted"
    volunteer_id: UUID
    note: PersonalText = None


class Ignored(Event):
    """Nobody here subscribes to it."""

    TYPE: ClassVar[str] = "seats.ignored"


CODEC = Codec((Counted, Noted, Ignored), {})
TYPES = frozenset({Counted.TYPE, Noted.TYPE})

Headers = list[tuple[str, bytes | None]]


@dataclass(frozen=True)
class Message:
    """What Kafka would hand out."""

    offset: int
    headers: Headers
    value: bytes | None
    key: str = ""


@dataclass
class Log:
    """The log of `source`: each event gets the next position and its place in the chain."""

    source: str = "seats"
    log_id: UUID = field(default_factory=uuid4)
    records: list[Record] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=lambda: [CHAIN_START])

    def say(self, key: str, event: Event, *, payload: bytes | None = None, **changes: object) -> Message:
        """One more event, under the partition key `key`; `changes` are made to its record."""
        position = len(self.records) + 1
        event_id = uuid5(self.log_id, str(position))
        record = Record(
            service=self.source, log_id=self.log_id, position=position, stream=Stream("seat", uuid5(self.log_id, key)), version=position,
            event_id=event_id, type=event.TYPE, schema_version=event.VERSION, time=NOON + timedelta(seconds=position),
            command_id=uuid4(), correlation_id=uuid4(), causation_id=None, actor="kiosk:1", partition_key=key,
            traceparent="00-11111111111111111111111111111111-2222222222222222-01",
            payload=CODEC.encode(event, event_id) if payload is None else payload,
        )  # fmt: skip
        record = replace(record, **changes)  # type: ignore[arg-type]
        self.records.append(record)
        self.hashes.append(chain_hash(self.hashes[-1], headers_of(record), record.payload))
        return self.message(position)

    def count(self, *pairs: tuple[str, int]) -> list[Message]:
        """`Counted` events under keys."""
        return [self.say(key, Counted(number=number)) for key, number in pairs]

    def message(self, position: int, offset: int | None = None) -> Message:
        """The record at a position as it was published."""
        record = self.records[position - 1]
        headers: Headers = [*headers_of(record), ("ce_chainhash", self.hashes[position].hex().encode())]
        return Message(position - 1 if offset is None else offset, headers, record.payload, record.partition_key)


async def create_topic(servers: str, topic: str) -> None:
    """An event topic: one partition, kept for ever."""
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, 1, 1, topic_configs={"retention.ms": "-1"})])
    finally:
        await admin.close()


async def delete_topic(servers: str, topic: str) -> None:
    """Gone with all it holds, when this returns."""
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        await admin.delete_topics([topic])
        while topic in await admin.list_topics():  # noqa: ASYNC110  # It tells of no deletion.
            await asyncio.sleep(0.02)
    finally:
        await admin.close()


async def publish(servers: str, topic: str, messages: Sequence[Message]) -> None:
    """Sends messages in order, as a relay would."""
    producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all", enable_idempotence=True)
    await producer.start()
    try:
        sent = [await producer.send(topic, each.value, key=each.key.encode(), partition=0, headers=each.headers) for each in messages]
        for each in sent:
            await each
    finally:
        await producer.stop()


TALLY = """
    CREATE SCHEMA lookup;
    CREATE TABLE lookup.tally (n bigint GENERATED ALWAYS AS IDENTITY, position bigint NOT NULL, key text NOT NULL, number integer NOT NULL);
    CREATE TABLE lookup.total (key text PRIMARY KEY, sum bigint NOT NULL, last bigint NOT NULL);
    CREATE TABLE lookup.note (position bigint PRIMARY KEY, note text);
    GRANT USAGE ON SCHEMA lookup TO :"app";
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA lookup TO :"app";
"""
"""`tally` has no key on purpose: an event applied twice stands there twice."""


async def tally(connection: Connection, facts: Sequence[Fact]) -> None:
    """Keeps every count and note, and refuses the poison."""
    for fact in facts:
        record, event = fact.record, fact.event
        if isinstance(event, Counted):
            if event.number == POISON:
                raise InvariantError("thirteen")
            await connection.execute(
                "INSERT INTO lookup.tally (position, key, number) VALUES ($1, $2, $3)", record.position, record.partition_key, event.number
            )
            await connection.execute(
                "INSERT INTO lookup.total VALUES ($1, $2, $3) "
                "ON CONFLICT (key) DO UPDATE SET sum = lookup.total.sum + excluded.sum, last = excluded.last",
                record.partition_key, event.number, record.position,
            )  # fmt: skip
        elif isinstance(event, Noted):
            await connection.execute("INSERT INTO lookup.note VALUES ($1, $2)", record.position, event.note)


async def forgiving(connection: Connection, facts: Sequence[Fact]) -> None:
    """The same with the cause cured: thirteen counts like any other number."""
    cured = [replace(each, event=Counted(number=130)) if each.event == Counted(number=POISON) else each for each in facts]
    await tally(connection, cured)


def part(fold: object = tally, **changes: object) -> Part:
    """The inbox of a service that reads `seats`."""
    made = Part(consumer="inbox", source="seats", types=TYPES, folds=[fold], codec=CODEC)  # type: ignore[list-item]
    return replace(made, **changes)  # type: ignore[arg-type]
