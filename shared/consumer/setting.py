"""What the consumers of a service stand on, as one value that its processes fill in."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared.codec import Codec
from shared.consumer.apply import Consumer, Part
from shared.consumer.shell import Reader, Subscription, together
from shared.consumer.values import Consumers
from shared.metrics import Metrics
from shared.postgres import Pool
from shared.privacy import PersonalKeys
from shared.settings import Servers


@dataclass(frozen=True, slots=True)
class Kafka:
    """Where Kafka is, and what stands before every topic and group of this installation."""

    servers: Servers
    prefix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """`pool` acts as the app role."""

    consumers: Consumers[Any]
    pool: Pool
    kafka: Kafka
    codec: Codec
    keys: PersonalKeys
    metrics: Metrics

    @property
    def service(self) -> str:
        """The service whose consumers these are."""
        return self.consumers.service

    def subscription(self, reader: Reader, source: str, stop: asyncio.Event) -> Subscription:
        """`reader` on the events of `source`."""
        topic, group = f"{self.kafka.prefix}{source}.events", f"{self.kafka.prefix}{self.service}.{reader.name}"
        return Subscription(reader, self.kafka.servers, topic, group, stop, self.metrics)

    async def run(self, parts: Sequence[Part], stop: asyncio.Event) -> None:
        """Applies each part until `stop`; the first that must be given up ends all, and is raised."""
        await together(*(self.subscription(Consumer(part, self.pool, self.metrics), part.source, stop).run() for part in parts))
