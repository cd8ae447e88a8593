"""Giving a parked event up: one person asks, another approves; the consumer passes over it from then on, live and in rebuilds (D8).

For an event that no release of the code will ever read, and whose meaning was told otherwise (a compensating event). Only the first of a
key, which has failed, can be given up; what waits behind it is then tried again. It stays in the log and in Kafka: what is discarded is
that this consumer reads it. For `views` that counts for all schemas of read models, so a rebuild gives the same rows.
Both steps stand for ever in `consumer.discard_request` and `consumer.discarded`, and among the changes that `log status` shows.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from shared.parked import LOCK, release
from shared.postgres import Connection
from shared.states import Because, StateError


async def ask(connection: Connection, key: str, consumer: str | None, because: Because) -> Sequence[Mapping[str, Any]]:
    """Asks that what holds `key` back be given up, for one consumer or all; what waits for a second person now. May be asked again.

    `connection` is the owner's, here and below. Raises StateError when no event of the key has failed.
    """
    async with connection.transaction():
        first = await connection.fetch(_FIRST, key, consumer)
        if not first:
            raise StateError("no event of this key has failed there; what only waits behind another, or has not been tried yet, is retried")
        for row in first:
            await connection.execute(
                _ASK, *(row[name] for name in ("consumer", "log", "stage", "event_id", "position", "key", "type", "error_class")),
                because.who, because.reason,
            )  # fmt: skip
        return [dict(row) for row in await connection.fetch(_ASKED, key)]


async def approve(connection: Connection, key: str, because: Because) -> Sequence[Mapping[str, Any]]:
    """Gives up what was asked for `key` by another person and still holds it back; what that was. The rest of the key waits to be retried.

    Raises StateError when nothing was asked, or by the same person.
    """
    async with connection.transaction():
        asked = await connection.fetch(_ASKED, key)
        if not asked:
            raise StateError("nothing of this key waits for a second person: ask with `parked discard`, or it was released meanwhile")
        if any(row["asked_by"] == because.who for row in asked):
            raise StateError(f"{because.who} asked for it: another person approves")
        done = []
        for row in asked:
            await connection.fetchval(LOCK, row["consumer"], row["log"])
            if await connection.fetchval(_IS_FIRST, row["consumer"], row["log"], row["stage"], key) == row["position"]:
                await connection.execute(
                    _DISCARD, row["consumer"], row["log"], row["stage"], row["event_id"], row["position"], because.who, because.reason
                )
                await release(connection, row)
                done.append(dict(row))
        return done


_FIRST: Final = """
    SELECT consumer, log, stage, key, position, type, error_class, (convert_from(headers, 'UTF8')::jsonb ->> 'ce_id')::uuid AS event_id
    FROM (
        SELECT DISTINCT ON (consumer, log, stage) * FROM consumer.parked WHERE key = $1 AND consumer NOT LIKE 'views@%'
        ORDER BY consumer, log, stage, position
    ) AS first_in_line
    WHERE error_class <> 'behind' AND ($2::text IS NULL OR consumer = $2)
"""
_ASK: Final = """
    INSERT INTO consumer.discard_request (consumer, log, stage, event_id, position, key, type, error_class, who, reason)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING
"""
_ASKED: Final = """
    SELECT asked.consumer, asked.log, asked.stage, asked.position, asked.type, asked.error_class, asked.key, asked.event_id,
           asked.who AS asked_by, asked.reason, asked.at
    FROM consumer.discard_request AS asked
    JOIN consumer.parked AS parked USING (consumer, log, stage, position, key)
    WHERE asked.key = $1 AND (convert_from(parked.headers, 'UTF8')::jsonb ->> 'ce_id')::uuid = asked.event_id
    ORDER BY asked.consumer, asked.log, asked.stage, asked.position
"""
_IS_FIRST: Final = """
    SELECT min(position) FROM consumer.parked WHERE consumer = $1 AND log = $2 AND stage = $3 AND key = $4
"""
_DISCARD: Final = """
    INSERT INTO consumer.discarded (consumer, log, stage, event_id, position, who, reason) VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
