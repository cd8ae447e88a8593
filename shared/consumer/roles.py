"""The worker's roles that read logs: `views`, `inbox`, `withdrawals`. Each `run_*` returns on stop, and raises when it must be given up."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from shared import deadlines
from shared.application import UseCase
from shared.clock import Clock
from shared.codec import Codec
from shared.consumer import withdrawals
from shared.consumer.apply import Consumer, Part
from shared.consumer.inbox import Reactor, deadline_fold
from shared.consumer.shell import Reader, Subscription, together
from shared.consumer.values import Consumers
from shared.contracts.topics import subscribed
from shared.http.api import Submit
from shared.metrics import Metrics
from shared.postgres import Pool
from shared.privacy import PersonalKeys

L = TypeVar("L")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What consumers stand on. `pool` acts as the app role; `types` may narrow what a consumer reads, by consumer and source (tests)."""

    pool: Pool
    servers: str
    topic_prefix: str
    codec: Codec
    keys: PersonalKeys
    metrics: Metrics
    types: Mapping[tuple[str, str], frozenset[str]] | None = None

    def subscribe(self, reader: Reader, service: str, source: str, stop: asyncio.Event) -> Subscription:
        """`reader` on the events of `source`."""
        topic, group = f"{self.topic_prefix}{source}.events", f"{self.topic_prefix}{service}.{reader.name}"
        return Subscription(reader, self.servers, topic, group, stop, self.metrics)


def parts(ground: Ground, consumers: Consumers[Any]) -> Sequence[Part]:
    """Every consumer of a service on every source log that it reads."""
    service, made = consumers.service, list[Part]()
    for consumer in ("views", "inbox", "withdrawals"):
        for source, types in subscribed(f"{service}.{consumer}").items():
            folds = {
                "views": [each.fold for each in consumers.projections if each.source == source],
                "inbox": [each.fold for each in consumers.lookups if each.source == source]
                + ([deadline_fold(consumers.deadlines)] if source == service else []),
                "withdrawals": [withdrawals.withdrawal_fold(ground.keys)],
            }[consumer]
            made.append(
                Part(
                    consumer=consumer,
                    source=source,
                    types=types if ground.types is None else ground.types.get((consumer, source), types),
                    folds=folds,
                    codec=ground.codec,
                    keys=ground.keys if source == service else None,
                    views=consumer == "views",
                    blocks=consumer != "withdrawals",
                )
            )
    return made


async def run_views(ground: Ground, consumers: Consumers[Any], stop: asyncio.Event) -> None:
    """All read models of the service, one position for each source log."""
    await _run_plain("views", ground, consumers, stop)


async def run_withdrawals(ground: Ground, consumers: Consumers[Any], stop: asyncio.Event) -> None:
    """Withdrawals and erasures."""
    await _run_plain("withdrawals", ground, consumers, stop)


async def _run_plain(name: str, ground: Ground, consumers: Consumers[Any], stop: asyncio.Event) -> None:
    readers = [Consumer(part, ground.pool, ground.metrics) for part in parts(ground, consumers) if part.consumer == name]
    await together(*(ground.subscribe(each, consumers.service, each.part.source, stop).run() for each in readers))


def reactors(
    ground: Ground, consumers: Consumers[L], lookups: L, submit: Submit, caught_up: Any, stop: asyncio.Event
) -> Mapping[str, Reactor[L]]:
    """One for each source log that has reactions."""
    reacting = {each.source for each in consumers.reactions}
    return {
        part.source: Reactor(part, consumers.reactions, lookups, submit, caught_up, ground.pool, consumers.service, stop, ground.metrics)
        for part in parts(ground, consumers)
        if part.consumer == "inbox" and part.source in reacting
    }


async def run_inbox(
    ground: Ground,
    consumers: Consumers[L],
    lookups: L,
    submit: Submit,
    use_cases: Sequence[UseCase[Any, L]],
    clock: Clock,
    stop: asyncio.Event,
) -> None:
    """Look-ups and deadlines, then reactions, each source log by itself; and due deadlines are fired."""
    service = consumers.service
    readers = [Consumer(part, ground.pool, ground.metrics) for part in parts(ground, consumers) if part.consumer == "inbox"]
    looking = {each.part.source: ground.subscribe(each, service, each.part.source, stop) for each in readers}

    async def caught_up(source: str) -> None:
        await looking[source].caught_up()

    reacting = reactors(ground, consumers, lookups, submit, caught_up, stop)
    await together(
        *(each.run() for each in looking.values()),
        *(ground.subscribe(each, service, source, stop).run() for source, each in reacting.items()),
        deadlines.run(ground.pool, service, use_cases, submit, clock, stop, ground.metrics),
    )
