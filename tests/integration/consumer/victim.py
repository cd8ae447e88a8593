"""A process that reads a log and stops dead at one point, to be killed there: `python -m tests.integration.consumer.victim WHERE ...`."""

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

from shared.consumer.apply import Consumer
from shared.consumer.shell import Subscription
from shared.consumer.values import Fact
from shared.metrics import Metrics
from shared.migrate import Roles
from shared.postgres import Connection, open_pool
from shared.privacy import PersonalKeys
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


async def between_answers(dsn: str, role: str, servers: str, topic: str) -> None:
    """Look-ups and reactions; the fourth command is never sent."""
    from tests.integration.consumer.conftest import KEY, Base
    from tests.integration.consumer.deciding import decide

    metrics = Metrics("recognition", "test")
    pool = open_pool(dsn, "victim", 6, role=role)
    await pool
    service = await decide(Base(dsn, Roles(role.removesuffix("_app")), pool, PersonalKeys(pool, KEY), metrics))
    answered = 0

    async def submit(*given: Any, **named: Any) -> Any:
        nonlocal answered
        if answered == 3:
            await stop_dead()
        answered += 1
        return await service.commands.submit(*given, **named)

    stop = asyncio.Event()
    readers = (await service.look_ups(), service.reactor(submit))
    await asyncio.gather(*(Subscription(each, servers, topic, f"{topic}.victim", stop, metrics).run() for each in readers))


async def main(where: str, dsn: str, role: str, servers: str, topic: str) -> None:
    """Reads until it is killed."""
    if where == "between-answers":
        await between_answers(dsn, role, servers, topic)
    metrics = Metrics("hours", "test")
    pool = open_pool(dsn, "victim", 4, role=role)
    await pool
    reader = Consumer(part(tally_and_stop_dead if where == "before-commit" else tally), pool, metrics)
    shell = StopsBeforeTheOffset if where == "before-offset" else Subscription
    await shell(reader, servers, topic, f"{topic}.victim", asyncio.Event(), metrics).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
