"""Writes a record whose header name is not UTF-8; needs AIOKAFKA_NO_EXTENSIONS=1, for the C extension takes true strings only."""

import asyncio
import sys
from typing import Any

from shared import kafka


class Unreadable(str):
    """A header name of other bytes."""

    __slots__ = ()

    def encode(self, *_: Any, **__: Any) -> bytes:
        return b"\xff\xfe"


async def main(servers: str, topic: str) -> None:
    producer = await kafka.start_producer(servers, "test")
    try:
        await producer.send_and_wait(topic, b"{}", partition=0, headers=[(Unreadable("ce_id"), b"x")])
    finally:
        await kafka.stop(producer)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
