"""What the stores and Kafka really hold, read by other means than the project's own, and what was answered held against it."""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from aiokafka import AIOKafkaConsumer, TopicPartition

from tests.faults.clients import Asked
from tests.faults.system import System

_EVENTS = """
    SELECT position, category, stream_id, version, event_id, type, command_id, actor, payload FROM es.event ORDER BY position
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """An event as the store has it."""

    position: int
    stream: str
    version: int
    event_id: UUID
    type: str
    command_id: UUID
    actor: str
    payload: bytes


async def stored(system: System, service: str) -> list[Stored]:
    """The whole log."""
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
        for row in await system.sql(service, _EVENTS)
    ]


def check_dense(events: Sequence[Stored]) -> None:
    """Positions 1 to n, versions 1 to n in each stream, every id once (I4)."""
    assert [each.position for each in events] == list(range(1, len(events) + 1))
    streams: dict[str, list[int]] = {}
    for each in events:
        streams.setdefault(each.stream, []).append(each.version)
    assert all(versions == list(range(1, len(versions) + 1)) for versions in streams.values())
    assert len({each.event_id for each in events}) == len(events)


def check_answers(events: Sequence[Stored], history: Sequence[Asked]) -> None:
    """What was accepted is there exactly as answered, what was refused left nothing, and nobody else wrote (I1, I2)."""
    by_command: dict[UUID, list[Stored]] = {}
    for event in events:
        by_command.setdefault(event.command_id, []).append(event)
    answered: set[UUID] = set()
    for each in history:
        if "command_id" not in each.answer:
            continue
        command_id = UUID(each.answer["command_id"])
        answered.add(command_id)
        there = [
            {"id": str(event.event_id), "type": event.type, "version": event.version, "position": event.position}
            for event in by_command.get(command_id, ())
        ]
        assert there == (each.answer["events"] if each.accepted else []), each
    by_people = {each.command_id for each in events if not each.actor.startswith("system:")}
    assert by_people <= answered, "somebody wrote what nobody was told of"


@dataclass(frozen=True, slots=True)
class Tapped:
    """What a reader of a topic sees: the log, how many records were repeats, and how many stood behind a hole that was filled later."""

    events: Sequence[tuple[int, str, bytes]]
    repeats: int
    ahead: int


async def tap(system: System, service: str, within: float = 30.0) -> Tapped:
    """Reads the topic from its start to its end as readers must: take n + 1, drop the rest; the chain of hashes is computed again."""
    place = TopicPartition(f"{system.prefix}{service}.events", 0)
    consumer = AIOKafkaConsumer(bootstrap_servers=system.kafka.servers, enable_auto_commit=False)
    consumer.assign([place])
    events: list[tuple[int, str, bytes]] = []
    previous, repeats, ahead = bytes(32), 0, 0
    async with asyncio.timeout(within):
        await consumer.start()
        try:
            await consumer.seek_to_beginning(place)
            end = (await consumer.end_offsets([place]))[place]
            while await consumer.position(place) < end:
                for record in await _polled(consumer):
                    headers = dict(record.headers)
                    position = int(headers["ce_sequence"])
                    if position != len(events) + 1:
                        repeats += position <= len(events)
                        ahead += position > len(events)
                        continue
                    previous = _next_hash(previous, record.headers, record.value)
                    assert headers["ce_chainhash"].decode() == previous.hex(), f"{service} {position}: the chain does not hold"
                    events.append((position, headers["ce_id"].decode(), record.value))
        finally:
            await consumer.stop()
    return Tapped(events, repeats, ahead)


async def _polled(consumer: AIOKafkaConsumer) -> Sequence[Any]:
    return [record for batch in (await consumer.getmany(timeout_ms=500)).values() for record in batch]


def _next_hash(previous: bytes, headers: Sequence[tuple[str, bytes]], value: bytes) -> bytes:
    said = sorted((name, content) for name, content in headers if name != "ce_chainhash")
    digest = hashlib.sha256(previous + len(said).to_bytes(4, "big"))
    for name, content in said:
        for part in (name.encode(), content):
            digest.update(len(part).to_bytes(4, "big") + part)
    digest.update(value)
    return digest.digest()


async def check_published(system: System, service: str, events: Sequence[Stored]) -> Tapped:
    """Kafka holds the log, whole and in order (I5)."""
    seen = await tap(system, service)
    assert [position for position, _, _ in seen.events] == [each.position for each in events]
    assert list(seen.events) == [(each.position, str(each.event_id), each.payload) for each in events]
    return seen


async def by_person(system: System, service: str, statement: str) -> Mapping[UUID, Any]:
    """The rows of a statement by their first column."""
    return {row[0]: tuple(row)[1:] for row in await system.sql(service, statement)}
