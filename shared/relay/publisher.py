"""The producer of one relay: a page in order, or an unknown outcome."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import time
from typing import Final

from aiokafka import AIOKafkaProducer

from shared import kafka
from shared.credentials import Stamp, stamp
from shared.metrics import Metrics
from shared.relay.steps import Outgoing
from shared.settings import Servers

FLUSH_SECONDS_MAX: Final = 5.0
"""A page that is not acknowledged by then may or may not arrive."""

Publish = Callable[[Sequence[Outgoing]], Awaitable[Sequence[int]]]
"""Publishes a page in order and gives the offset of each record once all are acknowledged. Raises kafka.LOST_ERRORS: outcome unknown."""


class Publisher:
    """The producer of one relay, made when it is first needed and made anew after every failure."""

    def __init__(self, servers: Servers, prefix: str, service: str, metrics: Metrics) -> None:
        self._servers = servers
        self._service = service
        self._metrics = metrics
        self._events = kafka.topic_name(prefix, f"{service}.events")
        self._heads = kafka.topic_name(prefix, f"{service}.heads")
        self._producer: AIOKafkaProducer | None = None
        self._made_with: Stamp = ()

    async def publish(self, page: Sequence[Outgoing]) -> Sequence[int]:
        """See `Publish`."""
        producer = await self._started()
        sent: list[tuple[asyncio.Future[object], int]] = []
        now = round(time() * 1000)
        async with asyncio.timeout(FLUSH_SECONDS_MAX):
            batch = producer.create_batch()
            for event in page:
                if batch.append(timestamp=now, key=event.key, value=event.value, headers=event.headers) is None:
                    sent.append((await producer.send_batch(batch, self._events, partition=0), batch.record_count()))
                    batch = producer.create_batch()
                    batch.append(timestamp=now, key=event.key, value=event.value, headers=event.headers)
            sent.append((await producer.send_batch(batch, self._events, partition=0), batch.record_count()))
            offsets: list[int] = []
            for future, count in sent:
                first = (await future).offset  # type: ignore[attr-defined]
                offsets += range(first, first + count)
        return offsets

    async def say(self, heads: bytes) -> None:
        """Publishes a heads record."""
        producer = await self._started()
        async with asyncio.timeout(FLUSH_SECONDS_MAX):
            await producer.send_and_wait(self._heads, heads, key=self._service.encode(), partition=0)

    async def drop(self, cause: str) -> None:
        """Gives the producer up; the next one is made when it is needed."""
        if self._producer is not None:
            self._metrics.producer_recreated_total.labels(cause).inc()
            await self.close()

    async def close(self) -> None:
        """Ends the producer, within about two seconds."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await kafka.stop(producer)

    async def _started(self) -> AIOKafkaProducer:
        if self._producer is not None and self._made_with != stamp(self._servers):
            await self.drop("secret_changed")
        if self._producer is None:
            self._made_with = stamp(self._servers)
            self._producer = await kafka.start_producer(self._servers, f"{self._service}.relay")
        return self._producer
