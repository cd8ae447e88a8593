"""e2e and idle: the running system, from outside."""

import asyncio
import bisect
import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from time import monotonic, perf_counter
from typing import Final
from uuid import uuid4

import psutil

from deploy.local.environment import SERVICES
from shared import kafka
from shared.contracts.topics import TOPICS
from shared.postgres import Connection
from tests.bench import rig, work
from tests.bench.beside import EVENTSOURCING, peers
from tests.bench.measure import Beside, Effort, Figure, Found, Outcome, Spread, is_steady, open_loop, percentile_ms
from tests.bench.place import Place
from tests.e2e.stack import Stack

RATES: Final = (100, 500)
GOAL_RATE: Final = 500
ROUNDS: Final = 4
ROUND_SECONDS: Final = 8.0
CONNECTIONS: Final = 64
WATCH_SECONDS: Final = 0.002
"""How often the position of the views is looked at: what is measured is up to this much too long."""
_APPLIED: Final = "SELECT applied FROM consumer.position WHERE consumer = 'views' AND log = 'hours'"
_MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Round:
    """Latencies of one round: of the answer, from the schedule to the rows, from the answer to the rows; and of the parts alone."""

    answered: Sequence[float]
    whole: Sequence[float]
    after: Sequence[float]
    append: Sequence[float]
    transport: Sequence[float]


async def e2e(place: Place, effort: Effort) -> Outcome:
    """Commands at a fixed rate through HTTP, store, relay, Kafka and consumer to the rows that an admin sees; and the parts alone.

    Only the two processes of `hours` run. The control is each round's p50 over its neighbour's.
    """
    rounds, seconds = (2, 1.0) if effort.small else (ROUNDS, ROUND_SECONDS)
    rates = (50,) if effort.small else RATES
    figures: list[Figure] = []
    goals: dict[str, Found] = {}
    async with rig.hours(place, 200 if effort.small else 500) as made, place.log() as other, peers(place, EVENTSOURCING) as others:
        ids = work.Ids("alone")
        counted = 0

        async def append() -> None:
            nonlocal counted
            volunteer = ids()
            done = await work.append(other, ids, volunteer, [work.proposed(ids, volunteer, 0)])
            counted += done

        for rate in rates:
            await made.fill(round(rate * seconds * (rounds + 1)) + 10)
            await made.followed()
            await made.confirm(connections=CONNECTIONS, seconds=1.0, rate=rate)  # Warm.
            await made.followed()
            done: list[_Round] = []
            theirs: dict[str, list[float]] = {}
            before = len(made.problems)
            for _ in range(rounds):
                answered, whole, after = await followed(made, rate, seconds)
                appended = await open_loop(rate, seconds, append)
                done.append(_Round(answered, whole, after, appended, await _transport(place, rate, seconds)))
                for each in others.running if rate == rates[0] else ():
                    theirs.setdefault(each.kind.label, []).append(percentile_ms(await each.follow(rate, seconds), 0.5))
            both = _figures(rate, done, effort, problems=len(made.problems) - before)
            if rate == rates[0]:
                both[0] = replace(both[0], beside=_runners(done, theirs), absent=others.absent)
            figures += both
            if rate == GOAL_RATE:
                goals = {f"G8.{name}": (_over_parts(done, share), figures[-2]) for name, share in (("p50", 0.5), ("p99", 0.99))}
        await made.followed()
        kept = await made.confirmed()
        checked = [await work.check_balances(made.log.owner, kept), await work.check_log(other, counted, counted)]
        checked += [f"each of {made.accepted} accepted confirmations was seen in the views", *await others.check()]
    notes = ["hours alone: its api and its worker; PostgreSQL, Kafka and the caller share the machine"]
    notes += [f"{len(made.problems)} calls were not accepted, the first: {made.problems[0]}"] if made.problems else []
    return Outcome(figures, checked, goals, notes)


async def followed(made: rig.Rig, rate: float, seconds: float) -> tuple[list[float], list[float], list[float]]:
    """One round: latencies to the answer, to the rows, and from the one to the other."""
    seen: list[tuple[int, float]] = []
    watching = asyncio.create_task(_watch(made.log.owner, seen))
    try:
        _, calls = await made.confirm(connections=CONNECTIONS, seconds=seconds, rate=rate)
        last = max(each.position for each in calls)
        end = monotonic() + rig.FOLLOWED_WITHIN_SECONDS
        while not seen or seen[-1][0] < last:
            assert monotonic() < end, "the views do not follow"
            await asyncio.sleep(0.01)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    positions = [position for position, _ in seen]
    counted = [each for each in sorted(calls, key=lambda each: each.scheduled)[len(calls) // 10 :] if each.problem is None]
    applied = [seen[bisect.bisect_left(positions, each.position)][1] for each in counted]
    return (
        [each.answered - each.scheduled for each in counted],
        [at - each.scheduled for at, each in zip(applied, counted, strict=True)],
        [max(0.0, at - each.answered) for at, each in zip(applied, counted, strict=True)],
    )


async def _watch(connection: Connection, seen: list[tuple[int, float]]) -> None:
    while True:
        position = await connection.fetchval(_APPLIED)
        if position is not None and (not seen or position > seen[-1][0]):
            seen.append((position, monotonic()))
        await asyncio.sleep(WATCH_SECONDS)


async def _transport(place: Place, rate: float, seconds: float) -> list[float]:
    """Bare Kafka, with the clients as they are shipped: one record of 600 bytes at a time, from its schedule until a consumer has it."""
    prefix = place.topic_prefix()
    await kafka.ensure_topics(place.kafka.servers, prefix, [TOPICS["hours.events"]])
    topic = kafka.topic_name(prefix, "hours.events")
    producer = await kafka.start_producer(place.kafka.servers, "bench")
    consumer = await kafka.start_consumer(place.kafka.servers, "bench", topic)
    arrived: dict[bytes, asyncio.Event] = {}
    number = 0

    async def receive() -> None:
        while True:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                for record in records:
                    arrived[record.key].set()

    async def send() -> None:
        nonlocal number
        number += 1
        key = str(number).encode()
        arrived[key] = asyncio.Event()
        await producer.send(topic, bytes(600), key=key, partition=0)
        await arrived[key].wait()

    receiving = asyncio.create_task(receive())
    try:
        await send()  # Connections and metadata are there.
        return await open_loop(rate, seconds, send)
    finally:
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)
        await kafka.stop(producer)
        await kafka.stop(consumer)


def _figures(rate: float, done: Sequence[_Round], effort: Effort, *, problems: int) -> list[Figure]:
    medians = [percentile_ms(each.whole, 0.5) for each in done]
    pairs = [(one, two) if number % 2 else (two, one) for number, (one, two) in enumerate(pairwise(medians))]
    control = Spread.of([one / two for one, two in pairs])
    parts = {"answer": "answered", "answer_to_rows": "after", "append_alone": "append", "bare_transport": "transport"}
    also = {
        f"{label}_{name}_ms": percentile_ms([each for one in done for each in getattr(one, attribute)], share)
        for label, attribute in parts.items()
        for name, share in (("p50", 0.5), ("p99", 0.99))
    } | {"not_accepted": problems}
    whole = [latency for each in done for latency in each.whole]
    return [
        Figure(
            name=f"{rate} commands/s, schedule to rows, {name}",
            unit="ms",
            value=percentile_ms(whole, share),
            control=control,
            tries=1,
            refused=None if effort.small else problems > 0 or not is_steady(control),
            also=also if name == "p50" else {},
        )
        for name, share in (("p50", 0.5), ("p99", 0.99))
    ]


def _runners(done: Sequence[_Round], theirs: Mapping[str, Sequence[float]]) -> dict[str, Beside]:
    """The p50 of projection runners of the same rounds: from a schedule to rows, with neither HTTP nor a broker in between."""
    ours = [percentile_ms(each.whole, 0.5) for each in done]
    return {
        f"{label}'s ProjectionRunner, no HTTP, no broker": Beside(
            statistics.median(medians), Spread.of([one / two for one, two in zip(ours, medians, strict=True)])
        )
        for label, medians in theirs.items()
    }


def _over_parts(done: Sequence[_Round], share: float) -> float:
    def all_of(name: str) -> float:
        return percentile_ms([each for one in done for each in getattr(one, name)], share)

    return all_of("whole") / (all_of("append") + all_of("transport"))


IDLE_SECONDS: Final = 60.0
SETTLE_SECONDS: Final = 5.0
_STATEMENT: Final = re.compile(r"^bench\|(?P<database>[^|]*)\|(?P<name>[^|]*)\|LOG:  (?:statement|execute [^:]*): ", re.MULTILINE)


async def idle(place: Place, effort: Effort) -> Outcome:
    """Six processes and nothing to do: RSS and CPU of each, and every statement that PostgreSQL was sent, by who sent it."""
    seconds = 4.0 if effort.small else IDLE_SECONDS
    folder = place.folder / f"stack-{uuid4().hex[:8]}"
    folder.mkdir(parents=True)
    stack = Stack(folder, place.postgres, place.kafka, forked=False)
    stack.migrate()
    try:
        stack.start()
        await stack.settled(60)
        await asyncio.sleep(1.0 if effort.small else SETTLE_SECONDS)
        halves = [await _watched(place, stack, seconds / 2) for _ in range(2)]
    finally:
        stack.stop()
    statements = [sum(half.statements.values()) for half in halves]
    assert all(statements), "not one statement was seen"
    both = halves[0].statements + halves[1].statements
    per_service = {
        service: sum(count for (database, _), count in both.items() if database == stack.database(service)) / seconds
        for service in SERVICES
    }
    cpu = {
        service: 100 * sum(half.cpu[f"{service}-{role}"] for half in halves for role in ("api", "worker")) / seconds for service in SERVICES
    }
    processes = {f"{name}_cpu_percent": 100 * sum(half.cpu[name] for half in halves) / seconds for name in halves[0].cpu}
    steady = Spread.of([statements[0] / statements[1]])
    refused = None if effort.small else not is_steady(steady)
    said = Figure("statements a second of the busiest service", "1/s", max(per_service.values()), steady, 1, refused, also=per_service)
    spent = Figure("CPU of the busiest service", "% of a core", max(cpu.values()), steady, 1, refused, also=processes)
    held = Figure("RSS of the largest process", "MiB", max(halves[1].rss.values()), steady, 1, refused, also=halves[1].rss)
    names = Counter[str]()
    for (database, name), count in both.items():
        service = next((each for each in SERVICES if database == stack.database(each)), database)
        names[name if name.startswith(service) else f"{service} {name}"] += count
    notes = ["statements a second by connection: " + ", ".join(f"{name} {count / seconds:.2f}" for name, count in names.most_common())]
    return Outcome(
        [said, spent, held],
        [f"{sum(statements)} statements in {seconds:.0f} s, each by its sender"],
        {"G12.cpu": (max(cpu.values()), spent), "G12.statements": (max(per_service.values()), said)},
        notes,
    )


@dataclass(frozen=True, slots=True)
class _Idle:
    statements: Counter[tuple[str, str]]
    cpu: Mapping[str, float]
    rss: Mapping[str, float]


def _pids(stack: Stack) -> dict[str, int]:
    return {name: child.pid for name, child in stack.processes.items()}


async def _watched(place: Place, stack: Stack, seconds: float) -> _Idle:
    """What six processes do in some seconds; PostgreSQL writes down every statement meanwhile."""
    processes = {name: psutil.Process(pid) for name, pid in _pids(stack).items()}
    before = {name: _spent(process) for name, process in processes.items()}
    size = place.postgres.log.stat().st_size
    _log_statements(place, "log_line_prefix = 'bench|%d|%a|'", "log_statement = 'all'")
    began = perf_counter()
    try:
        await asyncio.sleep(seconds)
    finally:
        _log_statements(place, "log_statement = 'none'")
    took = perf_counter() - began
    cpu = {name: (_spent(process) - before[name]) * seconds / took for name, process in processes.items()}
    rss = {name: process.memory_info().rss / _MIB for name, process in processes.items()}
    return _Idle(_statements(place.postgres.log, size), cpu, rss)


def _spent(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _log_statements(place: Place, *settings: str) -> None:
    for setting in settings:
        place.postgres.execute(f"ALTER SYSTEM SET {setting}")
    place.postgres.execute("SELECT pg_reload_conf()")


def _statements(log: Path, begin: int) -> Counter[tuple[str, str]]:
    """The statements that the log holds from there on, by database and application; those of the superuser's psql are ours."""
    with log.open("rb") as file:
        file.seek(begin)
        text = file.read().decode("utf-8", errors="replace")
    return Counter((found["database"], found["name"]) for found in _STATEMENT.finditer(text) if found["name"] != "psql")
