"""Reconciliation: what several services count of one log, each from its own folds, is held against one another (`Figure`).

The owner counts while its log rests, and says what it counted, and at which position, with its next word on the heads topic. Who reads
the log counts where it stands at that very position, and compares. So nothing is compared that is under way, nor what waits behind a parked
key; and what differs at the same position is no delay but a fault: one of the two wrote something else than the log says.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic, time
from typing import Any, Final

from shared.consumer.apply import POOL_WAIT_SECONDS
from shared.consumer.heads import Counted
from shared.consumer.schema import definition_hash
from shared.consumer.values import Consumers, Figure
from shared.metrics import Metrics
from shared.postgres import Connection, Pool

LOOK_SECONDS: Final = 2.0
"""Between two looks at the positions. A log that has not moved from one to the next is at rest."""
AGAIN_SECONDS: Final = 10.0
"""Between two counts at the same position: rows can be changed by hand, or lost, without any event."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a reader of a log stands, the owner's word, and why nothing can be counted or compared here now, if that is so."""

    position: int
    there: Counted | None
    hindered: str | None


@dataclass(frozen=True, slots=True)
class Compared:
    """A figure as it was counted here, beside the owner's word."""

    figure: Figure
    place: Place
    here: Counted | None

    @property
    def difference(self) -> int | None:
        """How far the two are from one another; 1 where the sums agree and their make-up does not. None: they cannot be compared."""
        here, there = self.here, self.place.there
        if here is None or there is None or self.place.hindered is not None:
            return None
        return abs(here.total - there.total) or int(here.digest != there.digest)


class Reconciliation:
    """What a worker says of its service's own log, and how it compares with what others say of theirs."""

    def __init__(self, pool: Pool, consumers: Consumers[Any], metrics: Metrics) -> None:
        """`pool` acts as the app role."""
        self._pool = pool
        self._consumers = consumers
        self._definition = definition_hash(consumers.projections)
        self._metrics = metrics
        self._own: dict[str, Counted] = {}
        self._stood_at: dict[str, int] = {}
        self._known: dict[str, tuple[Place, float]] = {}
        for each in foreign(consumers):
            metrics.reconciliation_timestamp_seconds.labels(each.name, each.source).set(time())

    def said(self) -> Mapping[str, Mapping[str, int]]:
        """What was counted of the own log since it rests, by name: for the heads record."""
        return {name: counted.model_dump() for name, counted in self._own.items()}

    async def look(self) -> None:
        """Counts what is to be counted now. Call it every `LOOK_SECONDS`. Raises what the database raises.

        Mostly nothing is, and one statement says so.
        """
        figures, counted = self._consumers.figures, dict[str, Counted]()
        places = await self._find(self._pool)
        if any(map(self._is_wanted, figures, places)):
            async with _snapshot(self._pool) as connection:
                places = await self._find(connection)
                for figure, place in zip(figures, places, strict=True):
                    if self._is_wanted(figure, place):
                        counted[figure.name] = await count(connection, figure, place.position)
        for figure, place in zip(figures, places, strict=True):
            self._take_in(figure, place, counted.get(figure.name))

    async def _find(self, connection: "Connection | Pool") -> Sequence[Place]:
        return await find(connection, self._consumers.service, self._definition, self._consumers.figures)

    def _is_own(self, figure: Figure) -> bool:
        return figure.source == self._consumers.service

    def _is_hindered(self, figure: Figure, place: Place) -> bool:
        """Also where the own log has moved since the last look."""
        return place.hindered is not None or (self._is_own(figure) and self._stood_at.get(figure.name) != place.position)

    def _is_wanted(self, figure: Figure, place: Place) -> bool:
        known, counted_at = self._known.get(figure.name, (None, 0.0))
        return not self._is_hindered(figure, place) and (place != known or monotonic() - counted_at >= AGAIN_SECONDS)

    def _take_in(self, figure: Figure, place: Place, here: Counted | None) -> None:
        name, hindered = figure.name, self._is_hindered(figure, place)
        self._stood_at[name] = place.position
        if hindered:
            self._own.pop(name, None)
        if here is None:
            return
        self._known[name] = place, monotonic()
        difference = Compared(figure, place, here).difference
        if self._is_own(figure):
            self._own[name] = here
        elif difference is not None:
            self._metrics.reconciliation_difference.labels(name, figure.source).set(difference)
            self._metrics.reconciliation_timestamp_seconds.labels(name, figure.source).set(time())


def foreign(consumers: Consumers[Any]) -> Sequence[Figure]:
    """The figures that a service counts of other services' logs, and compares."""
    return [each for each in consumers.figures if each.source != consumers.service]


async def compare(pool: Pool, consumers: Consumers[Any]) -> Sequence[Compared]:
    """Every foreign figure, counted here and now, beside what its owner said last. Raises what the database raises."""
    definition, found, figures = definition_hash(consumers.projections), list[Compared](), foreign(consumers)
    async with _snapshot(pool) as connection:
        for each, place in zip(figures, await find(connection, consumers.service, definition, figures), strict=True):
            found.append(Compared(each, place, None if place.hindered == _OTHER else await count(connection, each, place.position)))
    return found


async def find(connection: "Connection | Pool", service: str, definition: str, figures: Sequence[Figure]) -> Sequence[Place]:
    """Where the figures' readers stand; in the caller's transaction, if there is one, whose search path finds the live read models then."""
    said = [[each.consumer for each in figures], [each.source for each in figures], [each.name for each in figures]]
    rows = await connection.fetch(_FIND, *said, definition)
    return [_place(each, row, service) for each, row in zip(figures, rows, strict=True)]


def _place(figure: Figure, row: Any, service: str) -> Place:
    there = None if row["said"] is None else Counted.model_validate_json(row["said"])
    position, hindered = row["applied"], None
    if figure.consumer == "views" and not row["is_current"]:
        hindered = _OTHER
    elif row["parked"]:
        hindered = f"{row['parked']} keys are parked"
    elif figure.source == service:
        pass
    elif there is None:
        hindered = f"{figure.source} has not counted: its log moves, or keys are parked there, or its worker is away"
    elif row["log_id"] not in {None, row["said_id"]}:
        hindered = "it is another log than was read"
    elif there.position != position:
        hindered = f"here at position {position}, there counted at {there.position}"
    return Place(position, there, hindered)


async def count(connection: Connection, figure: Figure, position: int) -> Counted:
    """What the rows add up to, in the transaction in which `find` has found `position`."""
    row = await connection.fetchrow(_COUNT.format(rows=figure.rows))
    assert row is not None
    return Counted(position=position, total=row["total"], digest=row["digest"])


@asynccontextmanager
async def _snapshot(pool: Pool) -> AsyncIterator[Connection]:
    async with (
        pool.acquire(timeout=POOL_WAIT_SECONDS) as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        yield connection


_OTHER: Final = "the read models were built by other definitions"
_FIND: Final = """
    SELECT coalesce(place.applied, 0) AS applied, place.log_id, head.log_id AS said_id, head.figures -> asked.figure AS said,
        (SELECT count(*) FROM consumer.blocked WHERE consumer = asked.consumer AND log = asked.log AND stage = 'applied') AS parked,
        (SELECT set_config('search_path', quote_ident(schema), true) FROM consumer.views WHERE live AND definition_hash = $4) IS NOT NULL
            AS is_current
    FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS asked (consumer, log, figure, number)
    LEFT JOIN consumer.position AS place USING (consumer, log)
    LEFT JOIN consumer.head AS head USING (log)
    ORDER BY asked.number
"""
_COUNT: Final = """
    SELECT coalesce(sum(amount), 0)::bigint AS total,
        coalesce(bit_xor(('x' || left(md5(key || '=' || amount), 16))::bit(64)::bigint), 0) AS digest
    FROM ({rows}) AS counted (key, amount) WHERE amount <> 0
"""
