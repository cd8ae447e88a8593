"""How far everything is behind, watched all the time: by connections of its own, which a fault may take away."""

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic

import asyncpg

from deploy.local.environment import SERVICES
from tests.faults.clients import Clients
from tests.faults.invariants import BrokenError, need
from tests.faults.system import ABSENT, System, until
from tests.faults.tap import Tap
from tests.faults.witness import CONNECT_WITHIN_S, Places

LOOK_EVERY_S = 0.4
LOOK_WITHIN_S = 10.0
LOOKS_KEPT = 4000
DENSE_LAST = 500
"""So many of the last positions are looked at each time."""

Heads = Mapping[str, int]


@dataclass
class Watch:
    """`lag` is for how many seconds something in a log has been waiting for one of its readers, `lag_max` the worst of it."""

    system: System
    taps: Mapping[str, Tap]
    lag: float = 0.0
    lag_max: float = 0.0
    caught_up_at: float = 0.0
    """All that stood in the logs at this moment has been published, read and reacted to by everybody."""
    behind: list[str] = field(default_factory=list)
    """Who, at the last look."""
    _heads: deque[tuple[float, Heads]] = field(default_factory=lambda: deque(maxlen=LOOKS_KEPT))
    _connections: dict[str, "asyncpg.Connection[asyncpg.Record]"] = field(default_factory=dict)

    async def keep_looking(self) -> None:
        """For ever."""
        try:
            while True:
                try:
                    async with asyncio.timeout(LOOK_WITHIN_S):
                        await self._look()
                except ABSENT:
                    await self._drop()
                self.lag = monotonic() - self.caught_up_at if self.caught_up_at else 0.0
                self.lag_max = max(self.lag, self.lag_max)
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            await self._drop()

    async def _look(self) -> None:
        now = monotonic()
        places = {service: await Places.of(await self._connection(service), service) for service in SERVICES}
        tapped = {service: tap.position for service, tap in self.taps.items()}
        for service, position in tapped.items():
            sealed: int = await (await self._connection(service)).fetchval(_SEALED)
            need(position <= sealed, "I5", f"{service} {position} is in Kafka, and sealed up to {sealed}")
        self._heads.append((now, {service: await self._head(service) for service in SERVICES}))
        readers = [(f"the topic of {log}", log, tap.position) for log, tap in self.taps.items()]
        for service, found in places.items():
            for stage, said in (("", found.applied), (" reacting", found.reacted)):
                readers += [(f"{service} {consumer}{stage}", log, position) for (consumer, log), (position, _) in said.items()]
        for at, heads in reversed(self._heads):
            if all(position >= heads[log] for _, log, position in readers):
                self.caught_up_at = max(at, self.caught_up_at)
                break
        heads = self._heads[-1][1]
        self.behind = [f"{name} {position} of {log} {heads[log]}" for name, log, position in readers if position < heads[log]]

    async def _head(self, service: str) -> int:
        connection = await self._connection(service)
        row = await connection.fetchrow(_HEAD, DENSE_LAST)
        assert row is not None
        head: int = row["head"]
        need(
            row["last"] == min(head, DENSE_LAST),
            "I4",
            f"{service}: of the last {DENSE_LAST} positions up to {head} there are {row['last']}",
        )
        self.taps[service].wanted = head
        return head

    async def _connection(self, service: str) -> "asyncpg.Connection[asyncpg.Record]":
        if service not in self._connections:
            self._connections[service] = await asyncpg.connect(self.system.dsn(service, "admin"), timeout=CONNECT_WITHIN_S)
        return self._connections[service]

    async def _drop(self) -> None:
        while self._connections:
            _, connection = self._connections.popitem()
            with suppress(*ABSENT):
                await connection.close(timeout=1)

    async def recovered(self, clients: Clients, healed_at: float, within: float) -> float:
        """Seconds from the healing until all that stood in the logs then is done with, and no command of then is in doubt (I18)."""
        doubted = {key for key, asked in clients.open.items() if asked.unknown}

        def is_over() -> bool:
            return self.caught_up_at > healed_at and not doubted & clients.open.keys()

        try:
            return await until(is_over, within, every=0.05)
        except AssertionError:
            in_doubt = len(doubted & clients.open.keys())
            raise BrokenError("I18", f"after {within:g} s behind: {self.behind}, and {in_doubt} commands in doubt") from None


_HEAD = """
    SELECT coalesce(max(position), 0) AS head, count(*) AS last
    FROM (SELECT position FROM es.event ORDER BY position DESC LIMIT $1) AS each
"""
_SEALED = "SELECT coalesce(max(position), 0) FROM es.seal"
