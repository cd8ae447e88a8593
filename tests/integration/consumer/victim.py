"""A process that reads a log and stops dead at one point, to be killed there: `python -m tests.integration.consumer.victim WHERE ...`."""

import asyncio
import sys
from collections.abc import Sequence

from shared.consumer.apply import Consumer
from shared.consumer.shell import Subscription
from shared.consumer.values import Fact
from shared.metrics import Metrics
from shared.postgres import Connection, open_pool
from tests.integration.consumer.log import part, tally


async def stop_dead() -> None:
    """Says that the point is reached, and never goes on."""
    sys.stdout.write("here\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


async def tally_and_stop_dead(connection: Connection, facts: Sequence[Fact]) -> None:
    """The effect is written and not committed."""
    await tally(connection, facts)
    if any(fact.record.position >= 5 for fact in facts):
        await stop_dead()


class StopsBeforeTheOffset(Subscription):
    """The effect is committed, Kafka has not been told."""

    async def _tell_kafka(self) -> None:
        if self._reader.position >= 5:
            await stop_dead()
        await super()._tell_kafka()


async def main(where: str, dsn: str, role: str, servers: str, topic: str) -> None:
    """Reads until it is killed."""
    metrics = Metrics("hours", "test")
    pool = open_pool(dsn, "victim", 4, role=role)
    await pool
    reader = Consumer(part(tally_and_stop_dead if where == "before-commit" else tally), pool, metrics)
    shell = StopsBeforeTheOffset if where == "before-offset" else Subscription
    await shell(reader, servers, topic, f"{topic}.victim", asyncio.Event(), metrics).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
