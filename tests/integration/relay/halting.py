"""A process that relays and stands still in the middle: `python -m tests.integration.relay.halting DSN SERVERS PREFIX sealed|published`.

It says where it stands on standard output, and waits to be killed.
"""

import asyncio
import sys
from collections.abc import Sequence

from shared.metrics import Metrics
from shared.relay.publisher import Publisher
from shared.relay.steps import Outgoing
from tests.integration.relay.conftest import SERVICE, opened


async def main(dsn: str, servers: str, prefix: str, where: str) -> None:
    publisher = Publisher(servers, prefix, SERVICE, Metrics(SERVICE, "test"))

    async def publish(page: Sequence[Outgoing]) -> Sequence[int]:
        if where == "published":
            await publisher.publish(page)
        print(where, flush=True)
        await asyncio.Event().wait()
        return ()

    async with opened(dsn, servers, prefix) as log:
        await log.relay(publish=publish).run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
