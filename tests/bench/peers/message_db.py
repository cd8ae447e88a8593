"""message-db: its `write_message`, called by asyncpg; one call an event, those of one command in a transaction.

Its SQL comes from its npm package and is run in the order of its own installer, but for the extension pgcrypto, whose only function
in use, `gen_random_uuid`, PostgreSQL has had itself since version 13.
"""

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import asyncpg

from tests.bench.measure import closed_loop
from tests.bench.peers.serving import CONNECTIONS, Answer, Given, new_id, serve

SQL: Final = Path(__file__).parent / "node_modules" / "@eventide" / "message-db" / "database"
INSTALLED: Final = (
    "schema/message-store", "tables/messages", "types/message", "functions/message-store-version", "functions/hash-64",
    "functions/acquire-lock", "functions/category", "functions/is-category", "functions/id", "functions/cardinal-id",
    "functions/stream-version", "functions/write-message", "functions/get-stream-messages", "functions/get-category-messages",
    "functions/get-last-stream-message", "indexes/messages-id", "indexes/messages-stream", "indexes/messages-category",
)  # fmt: skip
WRITE: Final = "SELECT write_message($1::varchar, $2::varchar, $3::varchar, $4::jsonb, $5::jsonb, $6::bigint)"
given: Final = Given()


async def _open() -> Any:
    pool = await asyncpg.create_pool(
        given.dsn, min_size=CONNECTIONS, max_size=CONNECTIONS, server_settings={"search_path": "message_store, public"}
    )
    for name in INSTALLED:
        await pool.execute((SQL / f"{name}.sql").read_text(encoding="utf-8"))
    return pool


def main() -> None:
    """Serves `append`."""
    with asyncio.Runner() as running:
        pool = running.run(_open())

        async def written(connection: Any, stream: str, version: int) -> None:
            said = given.proposed()
            await connection.fetchval(WRITE, str(new_id()), stream, "Proposed", json.dumps(said), json.dumps(METADATA), version)

        def append(callers: int, seconds: float, length: int) -> Answer:
            async def once() -> int:
                stream = f"account-{new_id()}"
                async with pool.acquire() as connection:
                    if length == 1:
                        await written(connection, stream, -1)
                    else:
                        async with connection.transaction():
                            for number in range(length):
                                await written(connection, stream, number - 1)
                return length

            return asdict(running.run(closed_loop(callers, seconds, once)))

        serve({"append": append})
        running.run(pool.close())


METADATA: Final = {"correlationStreamName": "account:command", "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}

if __name__ == "__main__":
    main()
