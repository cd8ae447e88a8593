"""rebuild: how fast read models come from a log again. rebuild-beside: what live commands notice of it, at the rate as shipped."""

import asyncio
import os
import signal
import statistics
import sys
from dataclasses import replace
from functools import partial
from itertools import pairwise
from time import monotonic, perf_counter
from typing import Final
from uuid import uuid4

from deploy.local.children import Child
from deploy.local.places import CHECKOUT
from shared.digest import digest_of
from tests.bench import rig, work
from tests.bench.beside import EVENTSOURCING, Peer, peers
from tests.bench.measure import Beside, Effort, Figure, Outcome, Slice, Spread, contest, is_steady, percentile_ms
from tests.bench.place import Place
from tests.bench.streams import Rows, copy_rows, read_rows

RATE: Final = 100
ENTRIES: Final = 24_000
"""At 2,000 events a second a rebuild takes longer than a round."""
ROUNDS: Final = 5
ROUND_SECONDS: Final = 8.0
CONNECTIONS: Final = 64
WITHIN_SECONDS: Final = 120.0


SIZES: Final = (200_000, 1_000_000)
PAIRS: Final = 5
"""A rebuild takes too long for nine."""
HISTORY: Final = 40
"""Events of one account: twenty days proposed, the same twenty confirmed."""
RUNNER_EVENTS: Final = 5_000
UNTHROTTLED: Final = ("rebuild", "--from", "store", "--rate", "1000000")
EVENTS_SECONDS_MIN: Final = 500.0
"""Slower than this is not slow but stuck."""
COPIED: Final = "bound: COPY of the same rows, all at once"


async def rebuild(place: Place, effort: Effort) -> Outcome:
    """The operator's command, from the store, unthrottled, while no process of the service runs; from its start until all is swapped in.

    The read models that the worker made live are what the rebuilt ones have to be, table by table.
    """
    sizes = effort.sizes(SIZES, (2_000,))
    runner_events = 500 if effort.small else RUNNER_EVENTS
    checked: list[str] = []
    also: dict[str, float] = {}
    async with rig.hours(place, 0) as made, peers(place, EVENTSOURCING) as others:
        confirmed = await _history(made, sizes[0])
        rows = await _rows(made)

        async def rebuilt() -> Slice:
            return await _rebuilt(made, checked)

        async def copied() -> Slice:
            async with place.log() as log:
                return Slice(sizes[0], await copy_rows(log, rows))

        async def followed(peer: Peer) -> Slice:
            done = await peer.project(runner_events)
            found = await peer.look(_RUNNER_ROWS)
            assert found == {"entries": runner_events // 2, "minutes": work.MINUTES * runner_events // 2}, found
            return done

        figure = await contest(
            f"{sizes[0]} events",
            "events/s",
            rebuilt,
            {COPIED: copied} | {_runner(each.kind.label): partial(followed, each) for each in others.running},
            replace(effort, pairs_max=PAIRS),
            {_runner(label): why for label, why in others.absent.items()},
        )
        for size in sizes[1:]:
            made.stack.start("hours-api", "hours-worker")
            confirmed += await _history(made, size - (await made.log.store.head()).position)
            also[f"of_{size}_events_s"] = (await _rebuilt(made, checked)).rate
        figure = replace(figure, also={**figure.also, **also})
        checked = [await work.check_balances(made.log.owner, confirmed), *dict.fromkeys(checked), *await others.check()]
    notes = [f"{sum(map(len, rows.values()))} rows in {len(rows)} tables; the runner projects {runner_events} events into two tables"]
    return Outcome([figure], checked, {"G7": figure.over(COPIED), "G7b": figure.over(_runner(EVENTSOURCING.label))}, notes)


def _runner(label: str) -> str:
    return f"{label}'s ProjectionRunner"


async def _history(made: rig.Rig, events: int) -> int:
    """Accounts with entries that are proposed and confirmed, about so many events; how many entries.

    Returns when the views show them, and every process has ended.
    """
    log, ids = made.log, work.Ids(f"history {events}")

    async def account() -> None:
        volunteer = ids()
        said = [work.proposed(ids, volunteer, number) for number in range(HISTORY // 2)]
        await work.append(log, ids, volunteer, said)
        await work.append(log, ids, volunteer, [work.confirmed(each) for each in said], HISTORY // 2)

    accounts = events // HISTORY
    for begin in range(0, accounts, 100):
        await asyncio.gather(*(account() for _ in range(min(100, accounts - begin))))
    await made.followed(WITHIN_SECONDS + events / EVENTS_SECONDS_MIN)
    for name in ("hours-api", "hours-worker"):
        made.stack.processes[name].stop((signal.SIGTERM, 15.0))
    return accounts * HISTORY // 2


async def _rows(made: rig.Rig) -> Rows:
    schema = await made.log.owner.fetchval("SELECT schema FROM consumer.views WHERE live")
    return await read_rows(made.log, schema)


async def _rebuilt(made: rig.Rig, checked: list[str]) -> Slice:
    """Once, and the old read models dropped. The new ones are held against the old, table by table."""
    before = await digest_of(made.log.dsn)
    events = (await made.log.store.head()).position
    began = perf_counter()
    await _ended(_start(made, *UNTHROTTLED), WITHIN_SECONDS + events / EVENTS_SECONDS_MIN)
    took = perf_counter() - began
    after = await digest_of(made.log.dsn)
    assert after.schema != before.schema
    assert (after.positions, after.tables) == (before.positions, before.tables), (before, after)
    checked.append(
        f"of {events} events the same {sum(rows for rows, _ in after.tables.values())} rows, {len(after.tables)} tables by digest"
    )
    await _ended(_start(made, "rebuild", "--drop-old"))
    return Slice(events, took)


_RUNNER_ROWS: Final = "SELECT (SELECT count(*) FROM entries) AS entries, (SELECT sum(minutes)::bigint FROM balances) AS minutes"


async def rebuild_beside(place: Place, effort: Effort) -> Outcome:
    """Commands at a fixed rate over HTTP, with and without a rebuild in another process, in pairs whose order is turned round.

    The control is the p50 of each quiet round over its neighbour's.
    """
    rounds, seconds = (1, 1.0) if effort.small else (ROUNDS, ROUND_SECONDS)
    quiet: list[list[float]] = []
    busy: list[list[float]] = []
    paces: list[float] = []
    async with rig.hours(place, 1_000 if effort.small else ENTRIES) as made:
        await _round(made, 1.0)  # Warm.
        for number in range(rounds):
            for with_rebuild in (False, True) if number % 2 else (True, False):
                if not with_rebuild:
                    quiet.append(await _round(made, seconds))
                    continue
                await made.fill(round(RATE * seconds))
                await made.followed()
                began, events = monotonic(), (await made.log.store.head()).position
                rebuilding = await _rebuild(made)
                busy.append(await _round(made, seconds))
                assert rebuilding.running() or effort.small, "the rebuild was over before the round was"
                await _ended(rebuilding)
                paces.append(events / (monotonic() - began))
                await _ended(_start(made, "rebuild", "--drop-old"))
        await made.followed()
        kept = await made.confirmed()
        checked = [await work.check_balances(made.log.owner, kept), f"{rounds} rebuilds were swapped in"]
    medians = [percentile_ms(each, 0.5) for each in quiet]
    control = Spread.of([one / two for one, two in pairwise(medians)]) if len(medians) > 1 else None
    pairs = [percentile_ms(one, 0.99) / percentile_ms(other, 0.99) for one, other in zip(busy, quiet, strict=True)]
    every = [latency for each in busy for latency in each]
    alone = [latency for each in quiet for latency in each]
    figure = Figure(
        name=f"{RATE} commands/s beside a rebuild, p99",
        unit="ms",
        value=percentile_ms(every, 0.99),
        control=control,
        tries=1,
        refused=None if effort.small or control is None else not is_steady(control),
        beside={"without a rebuild": Beside(percentile_ms(alone, 0.99), Spread.of(pairs))},
        also={"p50_ms": percentile_ms(every, 0.5), "alone_p50_ms": percentile_ms(alone, 0.5), "rebuilt_events_s": statistics.median(paces)},
    )
    goals = {"rebuild.p99": (figure.beside["without a rebuild"].ratio.median, figure)}
    return Outcome([figure], checked, goals, ["api, worker, rebuild, PostgreSQL, Kafka and the caller share the machine; lower is better"])


async def _round(made: rig.Rig, seconds: float) -> list[float]:
    _, calls = await made.confirm(connections=CONNECTIONS, seconds=seconds, rate=RATE)
    counted = sorted(calls, key=lambda each: each.scheduled)[len(calls) // 10 :]
    return [each.answered - each.scheduled for each in counted if each.problem is None]


def _start(made: rig.Rig, *words: str) -> Child:
    log = made.stack.folder / f"operator-{uuid4().hex[:8]}.log"
    environment = {**os.environ, **made.stack.environment("hours"), "PYTHONUNBUFFERED": "1"}
    return Child("operator", [sys.executable, "-m", "services.hours", *words], log=log, environment=environment, directory=CHECKOUT)


async def _rebuild(made: rig.Rig) -> Child:
    """One that has begun."""
    child = _start(made, "rebuild")
    end = monotonic() + WITHIN_SECONDS
    while "building" not in child.log.read_text(encoding="utf-8"):
        assert child.running(), child.last_words(20)
        assert monotonic() < end, "the rebuild does not begin"
        await asyncio.sleep(0.05)
    return child


async def _ended(child: Child, within: float = WITHIN_SECONDS) -> None:
    end = monotonic() + within
    while child.running():
        assert monotonic() < end, "the command does not end"
        await asyncio.sleep(0.05)
    assert child.exit_code() == 0, child.last_words(20)
