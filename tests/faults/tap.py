"""A reader of a log's topic that shares nothing with the project's: what a record says, and the chain of hashes, are read anew here."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any
from uuid import UUID

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from tests.faults.system import System

AGAIN_S = 0.5
FROM_THE_START_AFTER_S = 3.0
"""What is missing for so long stands further in front, where it was published again, or in a topic that was made anew."""
FETCH_BYTES_MAX = 4 * 1024 * 1024
START = bytes(32)

Headers = Sequence[tuple[str, bytes]]


@dataclass
class Tap:
    """The log as its topic shows it: take n + 1, drop the rest. `seen` counts what was dropped, and why."""

    service: str
    events: list[tuple[UUID, bytes]] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)
    """After each position."""
    seen: Counter[str] = field(default_factory=Counter)
    lacks: bool = False
    """Whether a record was met that cannot be taken before another one has come."""
    wanted: int = 0
    """The position that the store is known to have reached."""

    @property
    def position(self) -> int:
        return len(self.events)

    def take(self, headers: Sequence[tuple[str, bytes | None]], value: bytes | None) -> None:
        """One record."""
        known, value = [(name, content or b"") for name, content in headers], value or b""
        said = dict(known)
        try:
            position, event_id, chain_hash = (
                int(said["ce_sequence"]),
                UUID(said["ce_id"].decode()),
                bytes.fromhex(said["ce_chainhash"].decode()),
            )
        except (KeyError, ValueError):
            self.seen["foreign"] += 1
            return
        if position <= self.position:
            is_same = self.events[position - 1] == (event_id, value) and self.hashes[position - 1] == chain_hash
            self.seen["repeated" if is_same else "changed"] += 1
        elif position > self.position + 1:
            self.seen["ahead"] += 1
            self.lacks = True
        elif next_hash(self.hashes[-1] if self.hashes else START, known, value) != chain_hash:
            self.seen["off the chain"] += 1
            self.lacks = True
        else:
            self.events.append((event_id, value))
            self.hashes.append(chain_hash)
            self.lacks = False

    async def follow(self, system: System) -> None:
        """Takes what comes, for ever: through lost brokers, topics that are wiped and made anew, and holes that are filled later."""
        me = asyncio.current_task()
        assert me is not None
        while True:
            try:
                async with _reader(system, self.service) as consumer:
                    await self._follow(consumer)
            except (KafkaError, OSError, TimeoutError):
                pass
            except asyncio.CancelledError:
                if me.cancelling():  # Otherwise it was a task of the client's own, which it cancels when brokers go away.
                    raise
            await asyncio.sleep(AGAIN_S)

    async def _follow(self, consumer: AIOKafkaConsumer) -> None:
        moved = monotonic()
        while monotonic() - moved < FROM_THE_START_AFTER_S:
            before = self.position
            await self.poll(consumer)
            if self.position > before or not (self.lacks or self.position < self.wanted):
                moved = monotonic()
        self.lacks = False

    async def poll(self, consumer: AIOKafkaConsumer) -> None:
        """What has come by now."""
        for batch in (await consumer.getmany(timeout_ms=250)).values():
            for record in batch:
                self.take(record.headers, record.value)


async def read_to_the_end(system: System, service: str, within: float = 60.0) -> Tap:
    """The whole topic as its next reader finds it."""
    read = Tap(service)
    async with asyncio.timeout(within), _reader(system, service) as consumer:
        (place,) = consumer.assignment()
        end = (await consumer.end_offsets([place]))[place]
        while await consumer.position(place) < end:
            await read.poll(consumer)
    return read


@asynccontextmanager
async def _reader(system: System, service: str) -> AsyncIterator[AIOKafkaConsumer]:
    place = TopicPartition(f"{system.prefix}{service}.events", 0)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=system.kafka.servers,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=FETCH_BYTES_MAX,
    )
    consumer.assign([place])
    try:
        await consumer.start()
        await consumer.seek_to_beginning(place)
        yield consumer
    finally:
        await consumer.stop()


def next_hash(previous: bytes, headers: Headers, value: bytes) -> bytes:
    """The hash of the chain after a record, from the one before it: over every other header by name, and the value."""
    said: list[tuple[str, Any]] = sorted((name, content) for name, content in headers if name != "ce_chainhash")
    digest = hashlib.sha256(previous + len(said).to_bytes(4, "big"))
    for name, content in said:
        for part in (name.encode(), content):
            digest.update(len(part).to_bytes(4, "big") + part)
    digest.update(value)
    return digest.digest()
