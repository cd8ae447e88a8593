"""rebuild-beside: what live commands notice of read models that are built anew beside them, at the rate as shipped."""

import asyncio
import os
import statistics
import sys
from itertools import pairwise
from time import monotonic
from typing import Final
from uuid import uuid4

from deploy.local.children import Child
from deploy.local.places import CHECKOUT
from tests.bench import rig, work
from tests.bench.measure import Beside, Effort, Figure, Outcome, Spread, is_steady, percentile_ms
from tests.bench.place import Place

RATE: Final = 100
ENTRIES: Final = 24_000
"""At 2,000 events a second a rebuild takes longer than a round."""
ROUNDS: Final = 5
ROUND_SECONDS: Final = 8.0
CONNECTIONS: Final = 64
WITHIN_SECONDS: Final = 120.0


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


async def _ended(child: Child) -> None:
    end = monotonic() + WITHIN_SECONDS
    while child.running():
        assert monotonic() < end, "the command does not end"
        await asyncio.sleep(0.05)
    assert child.exit_code() == 0, child.last_words(20)
