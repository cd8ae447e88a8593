"""One process that appends until it is told to stop, and says what it was answered. Run by the tests, with its orders on standard input.

Orders (JSON): dsn, role, appenders, seconds, shared (streams that all processes write to). Every appender keeps the version it believes
in; what it is answered goes to standard output as one JSON object at the end.
"""

import asyncio
import json
import random
import sys
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

from shared.envelope import Stream
from shared.eventstore.store import PostgresStore, open_store
from shared.eventstore.values import Answer, Conflict
from shared.metrics import Metrics
from shared.postgres import open_pool
from tests.integration.eventstore.decided import decided


async def append_until(store: PostgresStore, shared: list[Stream], until: float, said: list[Any]) -> None:
    """Half of the time to a shared stream, else to an own one; 1 to 3 events each; now and then a repeat."""
    loop = asyncio.get_running_loop()
    own, versions = Stream("activity", uuid4()), dict[Stream, int]()
    while loop.time() < until:
        stream = random.choice((own, random.choice(shared)))
        request = decided(stream, versions.get(stream, 0), random.randint(1, 3))
        while isinstance(answer := await store.append(request), Conflict):
            request = replace(request, expected_version=answer.actual_version)
        assert isinstance(answer, Answer), answer
        versions[stream] = request.expected_version + len(request.events)
        said.append([str(request.command_id), str(stream), request.expected_version, answer.first_position, answer.count])
        if random.random() < 0.02:
            again = await store.append(request)
            assert isinstance(again, Answer), again
            assert (again.repeated, again.first_position, again.count) == (True, answer.first_position, answer.count)


async def main(orders: dict[str, Any]) -> None:
    said: list[Any] = []
    shared = [Stream("activity", UUID(each)) for each in orders["shared"]]
    async with open_pool(orders["dsn"], "appender", 3, role=orders["role"]) as pool:
        store = await open_store(pool, "registration", Metrics("registration", "0"))
        await store.append(decided(Stream("activity", uuid4()), 0, 0))
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        until = asyncio.get_running_loop().time() + orders["seconds"]
        async with asyncio.TaskGroup() as tasks:
            for _ in range(orders["appenders"]):
                tasks.create_task(append_until(store, shared, until, said))
        await store.close()
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.stdin.readline())))
