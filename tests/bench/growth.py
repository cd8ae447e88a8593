"""growth: what a store with many events costs beside one with few; once more while a snapshot of it is held open.

The small store is a copy that stays, so that both are measured in adjacent pairs. It grows by what is measured on it, and may double.
"""

import asyncio
import itertools
import random
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from time import perf_counter
from typing import Final

import asyncpg

from services.hours.main import SERVICE
from shared.consumer.apply import Consumer
from shared.consumer.shell import RECORDS_MAX
from shared.consumer.waits import Waits
from shared.contracts.hours import ServiceTimeProposed
from shared.eventstore.values import Answer, NewEvent
from shared.http.query import PAGE_ROWS, Query, Views, read
from shared.ids import event_id
from shared.permissions import Actor, Role
from tests.bench import work
from tests.bench.measure import Beside, Effort, Figure, Found, Outcome, Slice, Spread, Work, closed_loop, contest
from tests.bench.place import Log, Place
from tests.bench.streams import TABLES, Message, Published, views_consumer

SIZES: Final = (100_000, 1_000_000, 10_000_000)
SMALL_SIZES: Final = (2_000, 4_000)
LENGTH: Final = 10
USED: Final = 8
SAMPLED: Final = 20
"""Beyond the first size one stream in so many is one that a command can be given to; the others hold the bytes of such a one."""
AT_ONCE: Final = 200
CALLERS: Final = 16
APPENDS: Final = 3_000
COMMANDS: Final = 800
PAGES: Final = 100
PAGE: Final = 500
PROJECTED: Final = 1_000
PIECES: Final = 3
"""Of `PROJECTED` events each, in one slice. A year of days has enough of them for three tries at each size."""
DAYS: Final = 20
SNAPSHOT_SECONDS: Final = 600.0
LOAD_APPENDS: Final = 1_000
LOAD_SECONDS: Final = 2.0
"""So often so many are appended while the snapshot is held, and `PROJECTED` events projected: whose dead rows it keeps."""
ASKED: Final = 5
ADMIN: Final = Actor(work.APPROVER.person_id, Role.BUREAU_ADMIN, "bureau")
SPACING: Final = 100_000_000
"""Between the positions of one copy of the read models' rows and the next."""


class History:
    """What the views are given, the same on both sides, in pieces of `PROJECTED`: a day of some volunteers, proposed and then confirmed."""

    def __init__(self, events: int) -> None:
        ids = work.Ids("growth people")
        self.people = [ids() for _ in range(events // (2 * DAYS))]
        self._pieces: list[Sequence[Message]] = []
        self._made = self._make()

    def piece(self, number: int) -> Sequence[Message]:
        """Messages; a volunteer's days follow one another."""
        while len(self._pieces) <= number:
            self._pieces.append(next(self._made))
        return self._pieces[number]

    def _make(self) -> Iterator[Sequence[Message]]:
        published, ids = Published("growth"), work.Ids("growth views")
        size = PROJECTED // 2
        for day in itertools.count():
            for begin in range(0, len(self.people), size):
                some = [work.proposed(ids, volunteer, day) for volunteer in self.people[begin : begin + size]]
                piece = [published.message(each, 2 * day + 1) for each in some]
                yield [*piece, *(published.message(work.confirmed(each), 2 * day + 2) for each in some)]


class Side:
    """One store with its read models, and what was done to it."""

    def __init__(self, log: Log, consumer: Consumer, history: History, before: "Side | None" = None) -> None:
        self.log, self.history = log, history
        self._consumer = consumer
        self._ids = work.Ids("grown" if before else "base")
        self._random = random.Random(work.SEED)
        self.waiting: list[work.Entry] = list(before.waiting) if before else []
        self.events: int = before.events if before else 0
        self.commands: int = before.commands if before else 0
        self.pieces: int = before.pieces if before else 0
        self.confirmed: int = before.confirmed if before else 0
        self._cold = log.commands(cached_streams_max=0)

    async def fill(self, size: int, *, every: int) -> None:
        """Streams of ten events until so many are there; each `every`-th waits for commands."""
        found: list[work.Entry] = []
        canned = [self.log.codec.encode(work.proposed(self._ids, self._ids(), each), self._ids()) for each in range(LENGTH)]
        while self.events < size:
            streams = min(AT_ONCE, (size - self.events) // LENGTH + 1)
            await asyncio.gather(*(self._one(canned, found if number % every == 0 else None) for number in range(streams)))
            self.events += streams * LENGTH
            self.commands += streams
        found.sort(key=lambda each: each.entry)
        self._random.shuffle(found)
        self.waiting += found

    async def _one(self, canned: Sequence[bytes], found: list[work.Entry] | None) -> None:
        volunteer = self._ids()
        if found is not None:
            real = [work.proposed(self._ids, volunteer, number) for number in range(LENGTH)]
            await work.append(self.log, self._ids, volunteer, real)
            found += [work.Entry(volunteer, each.entry_id, each.served_on) for each in real[:USED]]
            return
        command_id, kind = self._ids(), ServiceTimeProposed
        said = [NewEvent(event_id(command_id, number), kind.TYPE, kind.VERSION, each) for number, each in enumerate(canned)]
        answer = await self.log.store.append(work.request_of(command_id, work.account_of(volunteer), 0, said, str(volunteer)))
        assert isinstance(answer, Answer)
        assert (answer.outcome, answer.count) == ("accepted", LENGTH)

    async def append(self, count: int) -> Slice:
        """New streams of one event."""
        left = iter(range(count))

        async def once() -> int:
            if next(left, None) is None:
                return 0
            volunteer = self._ids()
            return await work.append(self.log, self._ids, volunteer, [work.proposed(self._ids, volunteer, 0)])

        done = await closed_loop(CALLERS, 60.0, once)
        self.events += done.count
        self.commands += done.count
        return done

    async def load(self, effort: Effort) -> Slice:
        """Commands on streams from anywhere in the log, each read."""
        count = 20 if effort.small else COMMANDS
        assert len(self.waiting) >= count, "no streams are left that wait for commands"
        some, self.waiting = self.waiting[-count:], self.waiting[:-count]
        left = iter(some)

        async def once() -> int:
            what = next(left, None)
            return 0 if what is None else await work.confirm(self._cold, self._ids, what)

        done = await closed_loop(CALLERS, 60.0, once)
        assert done.count == count
        self.events += count
        self.commands += count
        return done

    async def page(self, effort: Effort) -> Slice:
        """Pages as the relay reads them, from anywhere in the log."""
        pages, size = (4, 100) if effort.small else (PAGES, PAGE)
        began = perf_counter()
        for _ in range(pages):
            after = self._random.randrange(self.events - size)
            records = await self.log.store.read_page(after, size)
            assert (len(records), records[0].position) == (size, after + 1)
        return Slice(pages * size, perf_counter() - began)

    async def project(self, pieces: int) -> Slice:
        """The next pieces of the history become rows."""
        messages = [each for number in range(pieces) for each in self.history.piece(self.pieces + number)]
        began = perf_counter()
        for begin in range(0, len(messages), RECORDS_MAX):
            assert not await self._consumer.take(messages[begin : begin + RECORDS_MAX])
        took = perf_counter() - began
        self.pieces += pieces
        self.confirmed += len(messages) // 2
        return Slice(len(messages), took)

    async def multiply(self, copies: Sequence[int]) -> None:
        """The rows of the read models again, under other ids and at other positions, as if so many more volunteers had the same history."""
        before = await self.log.owner.fetchval("SELECT count(*) FROM views_1.postings WHERE volunteer_id = ANY ($1)", self.history.people)
        for copy in copies:
            for table in TABLES:
                columns = await self.log.owner.fetch(_COLUMNS, f"views_1.{table}")
                listed = [row["attname"] for row in columns]
                said = ", ".join(_OTHER.get(each, each) for each in listed)
                await self.log.owner.execute(
                    f"INSERT INTO views_1.{table} ({', '.join(listed)}) SELECT {said} FROM views_1.{table} WHERE volunteer_id = ANY ($2)",
                    copy,
                    self.history.people,
                )
            self.confirmed += before


async def growth(place: Place, effort: Effort) -> Outcome:
    """Append, load and append, a relay's page, a projection's batch, all admin queries; beside the same with 100,000 events."""
    sizes = effort.sizes(SIZES, SMALL_SIZES)
    history = History(sizes[0])
    figures: list[Figure] = []
    template = place.databases(await place.migrated())
    async with place.opened(template) as log:
        first = Side(log, await views_consumer(log), history)
        await work.adopt_policy(log, work.Ids("growth policy"))
        first.events, first.commands = 1, 1
        await first.fill(sizes[0], every=1)
        while 2 * first.confirmed < sizes[0]:
            await first.project(1)
    async with place.log(template) as small, place.opened(template) as large:
        base = Side(small, await views_consumer(small), history, first)
        grown = Side(large, await views_consumer(large), history, first)
        copied = 1
        for size in sizes[1:]:
            await grown.fill(size, every=SAMPLED if size > 100_000 else 1)
            await grown.multiply(range(copied, size // sizes[0]))
            copied = size // sizes[0]
            await large.owner.execute("ANALYZE")
            figures += await _measured(place, effort, base, grown, f"{size}", sizes[0])
        async with _snapshot(place, large, grown, effort):
            figures += await _measured(place, effort, base, grown, f"{sizes[-1]}, a snapshot held open", sizes[0])
        checked = [
            await work.check_log(large, grown.events, grown.commands),
            await work.check_log(small, base.events, base.commands),
            await work.check_balances(large.owner, grown.confirmed),
            await work.check_balances(small.owner, base.confirmed),
        ]
    place.drop(template)
    return Outcome(figures, checked, _goals(figures, sizes), [f"the small store grew to {base.events} events while it was measured"])


def _goals(figures: Sequence[Figure], sizes: Sequence[int]) -> dict[str, Found]:
    names = ("append", "load", "page")
    if sizes[-1] < SIZES[-1]:
        reason = f"the largest size was {sizes[-1]}"
        return dict.fromkeys([*(f"G10.{each}" for each in names), "G10.snapshot"], reason)
    by_name = {each.name: each for each in figures}
    label = _beside(sizes[0])
    goals: dict[str, Found] = {f"G10.{each}": by_name[f"{each} at {sizes[-1]}"].over(label) for each in names}
    held = by_name[f"append at {sizes[-1]}, a snapshot held open"]
    before = by_name[f"append at {sizes[-1]}"].beside[label].ratio.median
    goals["G10.snapshot"] = (held.beside[label].ratio.median / before, held)
    return goals


def _beside(size: int) -> str:
    return f"the same at {size}"


async def _measured(place: Place, effort: Effort, base: Side, grown: Side, at: str, first: int) -> list[Figure]:
    label = _beside(first)

    def side(kind: Callable[[Side], Awaitable[Slice]]) -> tuple[Work, dict[str, Work]]:
        return lambda: kind(grown), {label: lambda: kind(base)}

    async def vacuumed(kind: Callable[[Side], Awaitable[Slice]], table: str) -> Slice:
        async with _vacuum(place, grown.log, table):
            return await kind(grown)

    def append(each: Side) -> Awaitable[Slice]:
        return each.append(60 if effort.small else APPENDS)

    ours, theirs = side(append)
    theirs["the same beside VACUUM of the whole log"] = lambda: vacuumed(append, "es.event")
    figures = [await contest(f"append at {at}", "events/s", ours, theirs, effort)]
    ours, theirs = side(lambda each: each.load(effort))
    figures.append(await contest(f"load at {at}", "commands/s", ours, theirs, effort))
    ours, theirs = side(lambda each: each.page(effort))
    figures.append(await contest(f"page at {at}", "events/s", ours, theirs, effort))

    def project(each: Side) -> Awaitable[Slice]:
        return each.project(1 if effort.small else PIECES)

    ours, theirs = side(project)
    theirs["the same beside VACUUM of the entries"] = lambda: vacuumed(project, "views_1.entries")
    figures.append(await contest(f"project at {at}", "events/s", ours, theirs, effort))
    return [*figures, await _queries(base.log, grown.log, at, label), await _sizes(place, grown, at)]


@asynccontextmanager
async def _vacuum(place: Place, log: Log, table: str) -> AsyncIterator[None]:
    """Every page of a table, meanwhile; broken off at the end."""
    admin = await place.admin(log.dsn)
    vacuuming = asyncio.create_task(admin.execute(f"VACUUM (DISABLE_PAGE_SKIPPING) {table}"))
    await asyncio.sleep(0)
    try:
        yield
    finally:
        vacuuming.cancel()
        await asyncio.gather(vacuuming, return_exceptions=True)
        await admin.close()


@asynccontextmanager
async def _snapshot(place: Place, log: Log, grown: Side, effort: Effort) -> AsyncIterator[None]:
    """Held for ten minutes before anything is measured, while events are appended and projected at an easy pace; then on to the end."""
    seconds = 1.0 if effort.small else SNAPSHOT_SECONDS
    holder = await place.admin(log.dsn)
    try:
        await holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        seen = await holder.fetchval("SELECT max(position) FROM es.event")
        end = perf_counter() + seconds
        while (began := perf_counter()) < end:
            await grown.append(LOAD_APPENDS)
            await grown.project(1)
            await asyncio.sleep(max(0.0, 0.1 if effort.small else LOAD_SECONDS - (perf_counter() - began)))
        yield
        assert await holder.fetchval("SELECT max(position) FROM es.event") == seen, "the snapshot was not held"
    finally:
        await holder.close()


Asked = Callable[[Log], Awaitable[object]]


def _page_of(query: Query) -> Asked:
    async def ask(log: Log) -> object:
        waits = Waits(log.store, log.pool)
        views = Views(log.pool, log.roles.query, waits.freshness, waits.parked)
        return await read(views, query, filters={}, cursor=None, limit=PAGE_ROWS, reader=ADMIN, required={})

    return ask


async def _ledger(log: Log) -> object:
    assert SERVICE.imbalance is not None
    return await SERVICE.imbalance(log.owner)


async def _queries(small: Log, large: Log, at: str, label: str) -> Figure:
    """The first page of every query, as the api reads it for the bureau, and the sum of the ledger, as the worker looks at it each minute.

    A query that is given up has the time after which it was.
    """
    asked: dict[str, Asked] = {query.name: _page_of(query) for query in SERVICE.queries} | {"ledger_sum": _ledger}
    took: dict[str, tuple[float, float]] = {}
    for name, ask in asked.items():
        rounds = [(await _timed(ask, small), await _timed(ask, large)) for _ in range(ASKED)]
        took[name] = statistics.median(one for one, _ in rounds), statistics.median(two for _, two in rounds)
    slowest = max(took, key=lambda name: took[name][1])
    return Figure(
        name=f"admin queries at {at}, the slowest ({slowest})",
        unit="ms",
        value=1000 * took[slowest][1],
        control=None,
        tries=1,
        refused=None,
        beside={label: Beside(1000 * took[slowest][0], Spread.of([two / one for one, two in took.values()]))},
        also={f"{name}_ms": 1000 * two for name, (_, two) in took.items()},
    )


async def _timed(ask: Asked, log: Log) -> float:
    began = perf_counter()
    with suppress(asyncpg.QueryCanceledError):
        await ask(log)
    return perf_counter() - began


async def _sizes(place: Place, grown: Side, at: str) -> Figure:
    """Bytes of an event by table and index, dead rows, and how full the indexes' leaves are."""
    admin = await place.admin(grown.log.dsn)
    try:
        await admin.execute("CREATE EXTENSION IF NOT EXISTS pgstattuple")
        rows = await admin.fetch(_SIZES)
        dead = {row["relation"]: row["dead"] for row in await admin.fetch(_DEAD)}
    finally:
        await admin.close()
    also: dict[str, float] = {}
    for row in rows:
        also[f"{row['relation']}_bytes_an_event"] = row["bytes"] / grown.events
        if row["density"] is not None:
            also[f"{row['relation']}_leaf_percent"] = row["density"]
    also |= {f"{relation}_dead_rows": float(count) for relation, count in dead.items()}
    log_bytes = sum(row["bytes"] for row in rows if row["space"] == "es")
    return Figure(f"bytes of an event in the log at {at}", "bytes", log_bytes / grown.events, None, 1, None, also=also)


_COLUMNS: Final = "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
_OTHER: Final[Mapping[str, str]] = {
    **{each: f"md5({each}::text || $1::integer)::uuid" for each in ("entry_id", "account_id", "volunteer_id")},
    "position": f"position - $1::bigint * {SPACING}",
}
_SIZES: Final = """
    SELECT space.nspname AS space, relation.relname AS relation, pg_relation_size(relation.oid) AS bytes,
           CASE WHEN relation.relkind = 'i' AND method.amname = 'btree' THEN (pgstatindex(relation.oid::regclass)).avg_leaf_density END
               AS density
    FROM pg_class AS relation JOIN pg_namespace AS space ON space.oid = relation.relnamespace
    LEFT JOIN pg_am AS method ON method.oid = relation.relam
    WHERE space.nspname IN ('es', 'views_1') AND relation.relkind IN ('r', 'i') AND pg_relation_size(relation.oid) > 100 * 8192
    ORDER BY 1, 2
"""
_DEAD: Final = """
    SELECT relname AS relation, n_dead_tup AS dead FROM pg_stat_user_tables
    WHERE schemaname IN ('es', 'views_1', 'consumer') AND n_dead_tup > 0
"""
