"""Waiting for what a caller has seen elsewhere, and what a reader is told of freshness (D11)."""

import asyncio
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any, Final
from uuid import UUID

from shared.consumer.values import Reaction
from shared.consumer.withdrawals import SOURCE
from shared.contracts.topics import subscribed
from shared.errors import NotCaughtUpError
from shared.eventstore.values import EventStore
from shared.http.devices import Device
from shared.http.positions import PositionToken
from shared.http.problems import ProblemError
from shared.http.query import Freshness
from shared.postgres import Connection, Gathered, Pool

AGAIN_SECONDS: Final = (0.01, 0.1)
"""Between two looks at a position that has not been reached, at first and at most; a look is one read by primary key.

Who has waited for long looks less often: while readers are behind, many wait, and each look takes time from those who catch up.
"""


class Waits:
    """What `shared.http.api` waits with, and the freshness and parked keys of `Views`, for one service; `pool` acts as the app role."""

    def __init__(self, store: EventStore, pool: Pool, reactions: Sequence[Reaction[Any]] = ()) -> None:
        self._pool = pool
        self._store = store
        self._reacting = frozenset(each.source for each in reactions)
        self._inbox = frozenset(subscribed(f"{store.service}.inbox"))
        self._views = frozenset(subscribed(f"{store.service}.views"))
        self._roles = Gathered(self._read_roles)
        # Who owns the roles asks its own log, which knows before anything has been read, and while Kafka is away.
        self._select_roles = _SELECT_OWN_ROLES if store.service == SOURCE else _SELECT_ROLES
        self._devices = Gathered(self._read_devices)

    async def for_lookups(self, tokens: Sequence[PositionToken], within_seconds: float) -> None:
        """Until the inbox has applied every token; a log that the inbox does not read changes no decision and is not waited for.

        Raises NotCaughtUpError; ProblemError `after_foreign_log`.
        """
        until = monotonic() + within_seconds
        for each in tokens:
            if each.service in self._inbox:
                await self._reach("inbox", each.service, each.log_id, each.position, until, reacted=False)

    async def for_views(self, tokens: Sequence[PositionToken], within_seconds: float) -> Mapping[str, int]:
        """Until the views have, tokens of other services followed through; the positions by source that a read must show.

        Raises NotCaughtUpError; ProblemError `after_foreign_log`.
        """
        until = monotonic() + within_seconds
        own, required = self._store.service, dict[str, tuple[UUID, int]]()
        for each in tokens:
            if each.service != own and each.service in self._inbox:
                await self._reach("inbox", each.service, each.log_id, each.position, until, reacted=each.service in self._reacting)
                head = await self._store.head()  # What came of it here stands at or before this position.
                required[own] = (head.log_id, max(head.position, required.get(own, (head.log_id, 0))[1]))
            if each.service in self._views:
                known = required.setdefault(each.service, (each.log_id, 0))
                if known[0] != each.log_id:
                    raise ProblemError("after_foreign_log", source=each.service)
                required[each.service] = (each.log_id, max(known[1], each.position))
        for source, (log_id, position) in required.items():
            await self._reach("views", source, log_id, position, until, reacted=False)
        return {source: position for source, (_, position) in required.items()}

    async def _reach(self, consumer: str, source: str, log_id: UUID, position: int, until: float, *, reacted: bool) -> None:
        pause, pause_max = AGAIN_SECONDS
        while True:
            row = await self._pool.fetchrow(_SELECT_POSITION, consumer, source)
            if row is not None and row["log_id"] is not None and row["log_id"] != log_id:
                raise ProblemError("after_foreign_log", source=source)
            if row is not None and row["reacted" if reacted else "applied"] >= position:
                return
            if monotonic() >= until:
                raise NotCaughtUpError(f"{source} {position}")
            await asyncio.sleep(pause)
            pause = min(1.5 * pause, pause_max)

    async def freshness(self, connection: Connection) -> Sequence[Freshness]:
        """How far the views stand in each log they read, also where they have not begun.

        The own log's head is read here and now: what it says of itself comes by Kafka, and not while that is away. The lock, which comes
        before the snapshot, holds a swap of the read models off: positions and rows are of the same schema.
        """
        await connection.execute("LOCK TABLE consumer.views IN ACCESS SHARE MODE")
        rows = await connection.fetch(_SELECT_FRESHNESS, sorted(self._views), self._store.service)
        return [
            Freshness(row["source"], row["log_id"], row["applied"], row["head"], row["said_at"], row["discarded"], row["stopped"])
            for row in rows
        ]

    async def parked(self, connection: Connection) -> frozenset[str]:
        """The keys that are blocked for the views."""
        rows = await connection.fetch("SELECT DISTINCT key FROM consumer.blocked WHERE consumer = 'views'")
        return frozenset(row["key"] for row in rows)

    async def roles_of(self, person_id: UUID) -> Mapping[tuple[str, str], bool]:
        """What registration has granted a person, role and unit, as far as this service knows: whether they hold it still."""
        return await self._roles(person_id)

    async def device_of(self, key_digest: str) -> Device | None:
        """The device whose key has this digest, as far as this service has read."""
        return await self._devices(key_digest)

    async def _read_devices(self, key_digests: Sequence[str]) -> Sequence[Device | None]:
        found = {
            row["key_digest"]: Device(row["device_id"], row["unit_code"], row["expires_at"], row["is_revoked"], tuple(row["networks"]))
            for row in await self._pool.fetch(_SELECT_DEVICES, key_digests)
        }
        return [found.get(each) for each in key_digests]

    async def _read_roles(self, persons: Sequence[UUID]) -> Sequence[Mapping[tuple[str, str], bool]]:
        found: dict[UUID, dict[tuple[str, str], bool]] = {each: {} for each in persons}
        for row in await self._pool.fetch(self._select_roles, persons):
            found[row["subject"]][row["role"], row["unit"]] = row["is_held"]
        return list(found.values())


_SELECT_DEVICES: Final = """
    SELECT key_digest, device_id, unit_code, expires_at, revoked_position IS NOT NULL AS is_revoked, networks
    FROM consumer.device WHERE key_digest = ANY($1::text[])
"""
_SELECT_POSITION: Final = "SELECT log_id, applied, reacted FROM consumer.position WHERE consumer = $1 AND log = $2"
_SELECT_FRESHNESS: Final = """
    SELECT asked.source, place.log_id, coalesce(place.applied, 0) AS applied,
           greatest(head.head, place.applied, CASE WHEN asked.source = $2 THEN (SELECT max(position) FROM es.event) END, 0) AS head,
           head.said_at, stopped.reason AS stopped,
           (SELECT count(*) FROM consumer.discarded AS gone WHERE gone.consumer = 'views' AND gone.log = asked.source) AS discarded
    FROM unnest($1::text[]) AS asked (source)
    LEFT JOIN consumer.position AS place ON place.consumer = 'views' AND place.log = asked.source
    LEFT JOIN consumer.head AS head ON head.log = asked.source
    LEFT JOIN consumer.stopped AS stopped ON stopped.consumer = 'views' AND stopped.log = asked.source
    ORDER BY asked.source
"""
_SELECT_OWN_ROLES: Final = """
    SELECT DISTINCT ON (event.stream_id, said.role, said.unit_code)
           event.stream_id AS subject, said.role, said.unit_code AS unit, event.type = 'registration.role_granted' AS is_held
    FROM es.event AS event
    CROSS JOIN LATERAL jsonb_to_record(convert_from(event.payload, 'UTF8')::jsonb) AS said (role text, unit_code text)
    WHERE event.category = 'role' AND event.stream_id = ANY ($1::uuid[])
    ORDER BY event.stream_id, said.role, said.unit_code, event.version DESC
"""
_SELECT_ROLES: Final = """
    SELECT subject, split_part(kind, ':', 2) AS role, split_part(kind, ':', 3) AS unit,
           given_position IS NOT NULL AND NOT withdrawn AS is_held
    FROM consumer.withdrawn WHERE subject = ANY ($1::uuid[]) AND kind LIKE 'role:%'
"""
