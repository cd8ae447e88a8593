"""Kafka in memory, as far as relay and readers speak to it: topics of one partition, and the clients of `aiokafka` over them.

Offsets are places in a list: a topic that loses records begins to count anew, as one does that was deleted and made again.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from aiokafka.structs import TopicPartition

from shared import kafka
from shared.relay.steps import Outgoing
from tests.simulation.network import Network

Headers = Sequence[tuple[str, bytes | None]]


@dataclass(frozen=True)
class Raw:
    """A record as a consumer gets it."""

    offset: int
    headers: Headers
    value: bytes | None
    key: bytes | None = None
    timestamp: int = 0


@dataclass
class Topic:
    """The records of one partition. `before_append` sees what a producer brings, before it lies there."""

    records: list[Raw] = field(default_factory=list)
    is_there: bool = True
    before_append: Callable[[Sequence[Raw]], None] = lambda _records: None
    _waiting: list[asyncio.Future[None]] = field(default_factory=list)

    def append(self, records: Sequence[Raw]) -> int:
        """Puts records at the end; the first one's offset."""
        first = len(self.records)
        self.put(first, records)
        return first

    def put(self, at: int, records: Sequence[Raw], *, instead_of: int = 0) -> None:
        """Puts records at a place, in place of as many as are said; all behind it move."""
        changed = [*self.records[:at], *records, *self.records[at + instead_of :]]
        self.records = [each if each.offset == offset else replace(each, offset=offset) for offset, each in enumerate(changed)]
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.done():
                each.set_result(None)

    async def change(self, seconds: float) -> None:
        """Until something happens here, `seconds` at most."""
        changed = asyncio.get_running_loop().create_future()
        self._waiting.append(changed)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await changed


class Broker:
    """The cluster."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.topics: dict[str, Topic] = {}

    @property
    def chance(self) -> random.Random:
        """The seed's."""
        return self.network.chance

    def topic(self, name: str) -> Topic:
        """Made when it is first asked for."""
        return self.topics.setdefault(name, Topic())

    async def start_consumer(self, _servers: str, _client_id: str, topic: str) -> "Consumer":
        """In place of `kafka.start_consumer`."""
        return await self.network.call(f"assign {topic}", lambda: Consumer(self, topic), ConnectionResetError)

    async def start_producer(self, _servers: str, client_id: str) -> "Producer":
        """In place of `kafka.start_producer`."""
        return await self.network.call(f"producer {client_id}", lambda: Producer(self), ConnectionResetError)

    async def ensure_topics(self, _servers: str, _prefix: str, topics: Sequence[Any], _replicas: int | None = None) -> None:
        """In place of `kafka.ensure_topics`."""
        for each in topics:
            self.topic(each.name).is_there = True

    async def is_there(self, _consumer: "Consumer", topic: str) -> bool:
        """In place of `kafka.is_there`."""
        return await self.network.call("topics", lambda: topic in self.topics and self.topics[topic].is_there, ConnectionResetError)

    @contextlib.contextmanager
    def in_place_of_kafka(self) -> Iterator[None]:
        """For this block clients are those of this broker."""
        names = ("start_consumer", "start_producer", "ensure_topics", "is_there")
        kept = {name: getattr(kafka, name) for name in names}
        for name in names:
            setattr(kafka, name, getattr(self, name))
        try:
            yield
        finally:
            for name, was in kept.items():
                setattr(kafka, name, was)


class Consumer:
    """An `AIOKafkaConsumer` on one topic, from the earliest record where it stands nowhere."""

    def __init__(self, broker: Broker, topic: str) -> None:
        self._broker = broker
        self._network = broker.network
        self._name = topic
        self._topic = broker.topic(topic)
        self._position = 0

    async def beginning_offsets(self, places: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        return dict.fromkeys(places, 0)

    async def end_offsets(self, places: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        while not self._topic.is_there:
            await self._topic.change(1.0)  # In vain: of a topic that was deleted aiokafka goes on asking.
        end = await self._network.call(f"end of {self._name}", lambda: len(self._topic.records), ConnectionResetError)
        return dict.fromkeys(places, end)

    async def position(self, _place: TopicPartition) -> int:
        return self._position

    def seek(self, _place: TopicPartition, offset: int) -> None:
        self._position = offset

    def pause(self, *_places: TopicPartition) -> None:
        return

    def resume(self, *_places: TopicPartition) -> None:
        return

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        await self._network.call(f"offset of {self._name}", lambda: None, ConnectionResetError)

    async def getmany(self, place: TopicPartition, *, timeout_ms: int, max_records: int) -> Mapping[TopicPartition, Sequence[Raw]]:
        if self._position == len(self._topic.records):
            await self._topic.change(timeout_ms / 1000)
        if self._position == len(self._topic.records):
            return {}
        most = self._network.chance.randint(1, min(max_records, 8))
        found = await self._network.call(f"fetch {self._name} from {self._position}", lambda: self._fetch(most), ConnectionResetError)
        if found:
            self._position = found[-1].offset + 1
        return {place: found} if found else {}

    def _fetch(self, most: int) -> Sequence[Raw]:
        if self._position > len(self._topic.records):
            self._position = 0  # auto_offset_reset=earliest.
        return self._topic.records[self._position : self._position + most]

    async def stop(self) -> None:
        return


class Batch:
    """What `create_batch` gives: it is full when chance says so."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.records: list[Raw] = []

    def append(self, *, timestamp: int, key: bytes, value: bytes, headers: Headers) -> object | None:
        if len(self.records) == self._most:
            return None
        self.records.append(Raw(0, list(headers), value, key, timestamp))
        return self

    def record_count(self) -> int:
        return len(self.records)


@dataclass(frozen=True)
class Written:
    """Where a batch came to lie."""

    offset: int


class Producer:
    """An idempotent `AIOKafkaProducer`: batches arrive in order, or one does not and neither do those behind it.

    What was handed to it may arrive late, also when its process has given it up or is dead.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._last: asyncio.Future[Written] | None = None

    def create_batch(self) -> Batch:
        return Batch(self._broker.chance.choice((1, 2, 3, 100)))

    async def send_batch(self, batch: Batch, topic: str, *, partition: int) -> "asyncio.Future[Written]":
        self._last = asyncio.ensure_future(self._deliver(self._last, batch.records, self._broker.topic(topic)))
        self._last.add_done_callback(lambda done: done.cancelled() or done.exception())
        return self._last

    async def _deliver(self, before: "asyncio.Future[Written] | None", records: Sequence[Raw], topic: Topic) -> Written:
        if before is not None:
            await asyncio.wait({before})
            before.result()
        network, said = self._broker.network, ",".join(said_by(each) for each in records)

        def append() -> Written:
            if not topic.is_there:
                raise ConnectionResetError
            topic.before_append(records)
            return Written(topic.append(records))

        def arrive() -> None:
            with contextlib.suppress(ConnectionResetError):
                append()

        if network.chance.random() < 5 * network.weather.slow:
            network.happened["late page"] += 1
            asyncio.get_running_loop().call_later(network.chance.uniform(1.0, 15.0), arrive)  # Whatever becomes of the process.
            await asyncio.Event().wait()
        return await self._broker.network.call(f"publish {said}", append, ConnectionResetError)

    async def send_and_wait(self, topic: str, value: bytes, *, key: bytes, partition: int) -> Written:
        written = await self._broker.network.call(f"say {topic}", lambda: Written(0), ConnectionResetError)
        assert isinstance(written, Written)
        return written

    async def stop(self) -> None:
        return


def raw(event: Outgoing) -> Raw:
    """A record as its relay would publish it."""
    return Raw(0, list(event.headers), event.value, event.key)


def said_by(record: Raw) -> str:
    """The position that a record claims, for a trace."""
    return next((value.decode().lstrip("0") for name, value in record.headers if name == "ce_sequence" and value), "?")
