"""highest-load: what the running system keeps up with. soak: what its processes hold in memory after a million events."""

import asyncio
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Final

import psutil

from deploy.local.environment import SERVICES
from shared.contracts.topics import SUBSCRIPTIONS
from shared.postgres import connect
from tests.bench import rig, work
from tests.bench.measure import Effort, Figure, Found, Outcome, percentile_ms
from tests.bench.place import Place
from tests.bench.running import CONNECTIONS, followed

RATES: Final = (250, 500, 750, 1_000, 1_250, 1_500, 2_000, 2_500, 3_000)
HELD_SECONDS: Final = 60.0
P99_MS_MAX: Final = 100.0
GROWING: Final = 2.0
"""Lag grows when the median of the last third is more than so many times that of the first."""
_MIB: Final = 1024 * 1024


async def highest_load(place: Place, effort: Effort) -> Outcome:
    """Commands at ever higher rates over HTTP, a minute each, to the committed rows; the highest that holds does so twice.

    It holds when the p99 from schedule to rows is below 100 ms, the median of the last third is no more than twice that of the first,
    and every command was accepted.
    """
    rates, seconds = ((20, 40), 1.0) if effort.small else (RATES, HELD_SECONDS)
    tried: list[tuple[int, float, float, bool]] = []
    async with rig.hours(place, 200 if effort.small else 500) as made:
        await made.confirm(connections=CONNECTIONS, seconds=1.0, rate=rates[0])  # Warm.
        await made.followed()

        async def holds(rate: int) -> bool:
            await made.fill(round(rate * seconds))
            await made.followed()
            before = len(made.problems)
            _, whole, _ = await followed(made, rate, seconds)
            third = len(whole) // 3
            p99, growth = percentile_ms(whole, 0.99), statistics.median(whole[-third:]) / statistics.median(whole[:third])
            held = p99 < P99_MS_MAX and growth <= GROWING and len(made.problems) == before
            tried.append((rate, p99, growth, held))
            return held

        held: list[int] = []
        for rate in rates:
            if not await holds(rate) and not effort.small:
                break
            held.append(rate)
        while held and not await holds(held[-1]) and not effort.small:
            held.pop()
        await made.followed()
        kept = await made.confirmed()
        checked = [await work.check_balances(made.log.owner, kept), f"each of {made.accepted} accepted confirmations was seen in the views"]
    figure = Figure(
        name="highest load that holds twice",
        unit="commands/s",
        value=held[-1] if held else 0,
        control=None,
        tries=len(tried),
        refused=None if effort.small else False,
        also={f"{rate}_p99_ms" + ("_again" if rate in [each[0] for each in tried[:number]] else ""): p99
              for number, (rate, p99, _, _) in enumerate(tried)},
    )  # fmt: skip
    notes = [
        f"{rate}/s for {seconds:.0f} s {'holds' if held else 'fails'}: p99 {p99:.0f} ms, median of the last third x{growth:.2f} the first's"
        for rate, p99, growth, held in tried
    ]
    notes.append("hours alone: its api and its worker; PostgreSQL, Kafka and the caller, a Python process, share the machine")
    return Outcome([figure], checked, {"G9": (figure.value, figure)}, notes)


MARKS: Final = (100_000, 1_000_000)
ROUND_SECONDS: Final = 10.0
FOLLOWED_WITHIN_SECONDS: Final = 1_200.0
"""A worker may be far behind an api that is asked as fast as it answers."""
PROCESSES: Final = tuple(f"{service}-{role}" for service in SERVICES for role in ("api", "worker"))
_BEHIND: Final = """
    SELECT count(*) FROM consumer.position WHERE log = 'hours' AND CASE WHEN consumer = 'inbox' THEN reacted ELSE applied END < $1
"""
_PARKED: Final = "SELECT count(*) FROM consumer.parked"


async def soak(place: Place, effort: Effort) -> Outcome:
    """All six processes, while entries are proposed and confirmed over HTTP until the log of hours has a million events; memory and files.

    The proposals are appended from beside. Memory is looked at when all consumers of all services stand at the end of the log.
    """
    marks = effort.sizes(MARKS, (1_000, 2_100))
    seconds = 0.1 if effort.small else ROUND_SECONDS
    curve: list[Held] = []
    at: list[Held] = []
    async with rig.hours(place, 0, *PROCESSES) as made:
        for mark in marks:
            while (events := (await made.log.store.head()).position) < mark:
                curve.append(_held(made, events))
                await made.confirm(connections=16, seconds=seconds)
                assert not made.problems, made.problems[:3]
            await _all_followed(made)
            curve.append(_held(made, (await made.log.store.head()).position))
            at.append(curve[-1])
        kept = await made.confirmed()
        checked = [
            await work.check_balances(made.log.owner, kept),
            f"{kept} confirmations over HTTP; every consumer of every service has read the log of hours to its end, and parked nothing",
        ]
    first, last = at[0], at[-1]
    grew = {name: last.mib[name] - first.mib[name] for name in last.mib}
    largest = Figure(
        name=f"RSS of the largest process after {marks[-1]} events",
        unit="MiB",
        value=max(last.mib.values()),
        control=None,
        tries=1,
        refused=None if effort.small else False,
        also={f"{name}_mib_at_{each.events}": size for each in _thinned(curve) for name, size in each.mib.items()},
    )
    most = Figure(
        name=f"what grew most from {marks[0]} to {marks[-1]} events",
        unit="MiB",
        value=max(grew.values()),
        control=None,
        tries=1,
        refused=None if effort.small else False,
        also={f"{name}_mib": size for name, size in grew.items()} | {f"{name}_files": float(count) for name, count in last.files.items()},
    )
    goals: dict[str, Found] = {"G11.rss": (largest.value, largest), "G11.growth": (most.value, most)}
    if not effort.small and marks[-1] < MARKS[-1]:
        goals = dict.fromkeys(goals, f"the log had only {marks[-1]} events")
    return Outcome([largest, most], checked, goals, ["PostgreSQL's memory is not in it"])


@dataclass(frozen=True, slots=True)
class Held:
    """What each process holds when the log has so many events: memory and open files."""

    events: int
    mib: Mapping[str, float]
    files: Mapping[str, int]


def _held(made: rig.Rig, events: int) -> Held:
    processes = {name: psutil.Process(child.pid) for name, child in made.stack.processes.items()}
    return Held(
        events,
        {name: process.memory_info().rss / _MIB for name, process in processes.items()},
        {name: process.num_fds() for name, process in processes.items()},
    )


def _thinned(curve: Sequence[Held]) -> Sequence[Held]:
    """Twenty points say what a curve is."""
    step = max(1, len(curve) // 20)
    return [each for number, each in enumerate(curve) if number % step == 0 or number == len(curve) - 1]


async def _all_followed(made: rig.Rig) -> None:
    """Waits until all consumers of the log of hours, in all services, stand at its end. Raises AssertionError."""
    head = (await made.log.store.head()).position
    for service in sorted({each.consumer.partition(".")[0] for each in SUBSCRIPTIONS if each.source == "hours"}):
        connection = await connect(made.stack.dsn(service), "bench")
        try:
            end = monotonic() + FOLLOWED_WITHIN_SECONDS
            while await connection.fetchval(_BEHIND, head):
                assert monotonic() < end, f"{service} does not follow"
                await asyncio.sleep(0.1)
            assert await connection.fetchval(_PARKED) == 0, service
        finally:
            await connection.close()
