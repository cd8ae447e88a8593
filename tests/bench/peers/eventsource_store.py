"""`eventsource-py`: its PostgreSQL store on asyncpg and SQLAlchemy, as many connections as callers."""

import asyncio
from dataclasses import asdict
from typing import Any, Final

from eventsource import DomainEvent, ExpectedVersion, PostgreSQLEventStore, StreamId, create_async_engine, register_event

from tests.bench.measure import closed_loop
from tests.bench.peers.serving import CONNECTIONS, Answer, Given, new_id, serve

given: Final = Given()


@register_event
class Proposed(DomainEvent):
    """An entry waits."""

    aggregate_type: str = "Account"
    said: dict[str, Any]


def main() -> None:
    """Serves `append`."""
    with asyncio.Runner() as running:
        engine = create_async_engine(
            given.dsn.replace("postgresql://", "postgresql+asyncpg://", 1), pool_size=CONNECTIONS, max_overflow=CONNECTIONS
        )
        store = PostgreSQLEventStore(engine, create_schema=True)

        def append(callers: int, seconds: float, length: int) -> Answer:
            async def once() -> int:
                stream = new_id()
                said = [Proposed(aggregate_id=stream, aggregate_version=number + 1, said=given.proposed()) for number in range(length)]
                await store.append(StreamId(stream, "Account"), said, ExpectedVersion.no_stream())
                return length

            return asdict(running.run(closed_loop(callers, seconds, once)))

        serve({"append": append})
        running.run(engine.dispose())


if __name__ == "__main__":
    main()
