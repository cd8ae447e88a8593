"""What the HTTP path is held against: `python -m tests.bench.reference answers|guarded PORT`, the database's address in BENCH_DSN.

`answers` is plain ASGI and says always the same: what a request costs here before anything is done. `guarded` is what a team would
write first: FastAPI, a pydantic model, one statement that inserts an event if the version fits, sixteen connections. Nobody is
authenticated, no answer is kept, no rule decides.
"""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

_ANSWER: Final = b'{"outcome":"accepted"}'
_TABLE: Final = """
    CREATE TABLE event (
        position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, stream_id uuid NOT NULL, version bigint NOT NULL, event_id uuid NOT NULL,
        type text NOT NULL, recorded_at timestamptz NOT NULL, data jsonb NOT NULL, UNIQUE (stream_id, version)
    )
"""
_GUARD: Final = """
    INSERT INTO event (stream_id, version, event_id, type, recorded_at, data)
    SELECT $1, $2::bigint + 1, $3, $4, $5, $6 WHERE $2::bigint = (SELECT coalesce(max(version), 0) FROM event WHERE stream_id = $1)
    RETURNING position
"""


class Confirm(BaseModel):
    """The body that our own command takes."""

    served_on: date


async def answers(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the request, answers."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(_ANSWER)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": _ANSWER})


def guarded(dsn: str) -> FastAPI:
    """The reference app."""
    pools: list[Any] = []

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with asyncpg.create_pool(dsn, min_size=16, max_size=16) as pool:
            await pool.execute(_TABLE)
            pools.append(pool)
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/api/v1/accounts/{volunteer_id}/entries/{entry_id}/confirm")
    async def confirm(volunteer_id: UUID, entry_id: UUID, body: Confirm) -> dict[str, Any]:
        event = {
            "volunteer_id": str(volunteer_id), "entry_id": str(entry_id), "activity_id": str(entry_id), "unit_code": "water-saving-office",
            "hour_class": "timed", "served_on": body.served_on.isoformat(), "starts_at": "2017-03-22T01:30:00Z",
            "ends_at": "2017-03-22T03:00:00Z", "credited_minutes": 90, "over_cap_minutes": 0, "policy_version": "bench",
            "recorder_id": str(volunteer_id), "approver_id": str(entry_id),
        }  # fmt: skip
        said = Said.model_validate(event).model_dump_json()
        position = await pools[0].fetchval(_GUARD, entry_id, 0, uuid4(), "confirmed", datetime.now(UTC), said)
        return {"outcome": "accepted" if position else "conflict", "position": position}

    return app


class Said(BaseModel):
    """The event that is stored: as large as ours."""

    volunteer_id: UUID
    entry_id: UUID
    activity_id: UUID
    unit_code: str
    hour_class: str
    served_on: date
    starts_at: datetime
    ends_at: datetime
    credited_minutes: int
    over_cap_minutes: int
    policy_version: str
    recorder_id: UUID
    approver_id: UUID


if __name__ == "__main__":
    chosen: Any = answers if sys.argv[1] == "answers" else guarded(os.environ["BENCH_DSN"])
    uvicorn.run(chosen, host="127.0.0.1", port=int(sys.argv[2]), ws="none", log_level="warning", access_log=False)
