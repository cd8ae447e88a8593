"""How a figure is taken: adjacent pairs of slices, a control of the subject against itself, refusal of what was too noisy.

Nothing here knows what is measured. All instants are of the monotonic clock, all durations in seconds.
"""

import asyncio
import gc
import os
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Final

STEADY: Final = (0.95, 1.05)
"""Between these the median of the control must lie: the same work against itself, in pairs like all others."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long a run takes. The small one only proves that everything works: it counts, and judges no speed."""

    small: bool
    tries_max: int = 3
    """How often a figure is taken before it is refused."""
    pairs_max: int = 9
    events_max: int = 10_000_000
    """Sizes beyond are left out."""

    def sizes(self, full: Sequence[int], small: Sequence[int]) -> Sequence[int]:
        """Those of `full` that are not too large, and one at least; `small` for a small run."""
        return small if self.small else [each for each in full if each <= self.events_max] or full[:1]

    @property
    def pairs(self) -> int:
        """Pairs of slices for each contender."""
        return 1 if self.small else self.pairs_max

    @property
    def slice_seconds(self) -> float:
        """Length of a slice of a closed loop."""
        return 0.15 if self.small else 1.2

    def events(self, full: int) -> int:
        """Size of a fixed amount of work."""
        return max(full // 40, 100) if self.small else full


@dataclass(frozen=True, slots=True)
class Slice:
    """What one slice did: units of work, how long it took, the single latencies where there were some, CPU time of all that worked."""

    count: int
    seconds: float
    latencies: Sequence[float] = ()
    cpu_seconds: float | None = None

    @property
    def rate(self) -> float:
        """Units a second."""
        return self.count / self.seconds


Work = Callable[[], Awaitable[Slice]]


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with its quartiles."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        """Of at least one value."""
        if len(values) == 1:
            return Spread(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return Spread(median, low, high)


@dataclass(frozen=True, slots=True)
class Beside:
    """A contender next to the subject: its own value, and the subject's over it, pair by pair."""

    value: float
    ratio: Spread
    cpu_ratio: Spread | None = None
    """CPU of the contender for one unit over the subject's: what the machine saves."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured thing. `refused`: its control never came to rest, so it is shown and not believed. None where nobody judges: small."""

    name: str
    unit: str
    value: float
    control: Spread | None
    tries: int
    refused: bool | None
    beside: Mapping[str, Beside] = field(default_factory=dict)
    also: Mapping[str, float] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    """Who should stand beside it and does not, and why."""

    def over(self, label: str) -> "Found":
        """What a goal makes of a contender: how many times as much ours does."""
        return (self.beside[label].ratio.median, self) if label in self.beside else self.absent[label]

    def saved(self, label: str) -> "Found":
        """How many times our CPU the contender uses for a unit."""
        if label not in self.beside:
            return self.absent[label]
        cpu = self.beside[label].cpu_ratio
        return (cpu.median, self) if cpu else "slices too short for a clock of 10 ms"


Found = tuple[float, Figure] | str
"""What was measured for a goal, and the figure it rests on; or why nothing was."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one bench found: figures, what it asserted while measuring, and what it says of goals."""

    figures: Sequence[Figure]
    checked: Sequence[str]
    goals: Mapping[str, Found] = field(default_factory=dict)
    notes: Sequence[str] = ()


class Cpu:
    """CPU time of processes with their children and, with `own`, of this one; in steps of 10 ms as the kernel counts."""

    def __init__(self, *pids: int, own: bool = True) -> None:
        self._roots = pids
        self._own = own

    def start(self) -> float:
        """What was used so far, for `since`. The reading itself is not in what follows."""
        return self._others() + self._this()

    def since(self, started: float) -> float:
        """Seconds used since `start`."""
        own = self._this()
        return own + self._others() - started

    def _this(self) -> float:
        times = os.times()
        return times.user + times.system if self._own else 0.0

    def _others(self) -> float:
        return sum(map(_used, self._roots)) + sum(_used(child) for root in self._roots for child in _children(root))


_TICKS: Final = os.sysconf("SC_CLK_TCK")


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]


def _used(pid: int) -> float:
    """0 for one that has ended: what it used is lost, and is none of a slice's whose connections stay open."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


async def closed_loop(callers: int, seconds: float, once: Callable[[], Awaitable[int]], cpu: Cpu | None = None) -> Slice:
    """`callers` call `once` again and again; it says how many units it did, and 0 when there is nothing left to do."""
    gc.collect()
    latencies: list[float] = []
    count = 0
    before = cpu.start() if cpu else 0.0
    started = perf_counter()
    end = started + seconds

    async def call() -> None:
        nonlocal count
        while (began := perf_counter()) < end:
            done = await once()
            if not done:
                return
            latencies.append(perf_counter() - began)
            count += done

    async with asyncio.TaskGroup() as tasks:
        for _ in range(callers):
            tasks.create_task(call())
    elapsed = perf_counter() - started
    return Slice(count, elapsed, latencies, cpu.since(before) if cpu else None)


async def open_loop(rate: float, seconds: float, once: Callable[[], Awaitable[object]]) -> list[float]:
    """Calls `once` at `rate` a second whatever became of others; latencies from the scheduled instant, the first tenth dropped."""
    total = round(rate * seconds)
    latencies: list[float] = [0.0] * total
    started = perf_counter() + 0.05

    async def call(index: int) -> None:
        await once()
        latencies[index] = perf_counter() - (started + index / rate)

    async with asyncio.TaskGroup() as tasks:
        for index in range(total):
            await asyncio.sleep(max(0.0, started + index / rate - perf_counter()))
            tasks.create_task(call(index))
    return latencies[total // 10 :]


def percentile_ms(latencies: Sequence[float], share: float) -> float:
    """A percentile in milliseconds."""
    ordered = sorted(latencies)
    return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def contest(
    name: str, unit: str, subject: Work, against: Mapping[str, Work], effort: Effort, absent: Mapping[str, str] | None = None
) -> Figure:
    """The subject beside itself and beside each contender, in adjacent pairs of alternating order; again while it is not steady.

    `absent` names who should be among the contenders, and why not.
    """
    figure = None
    for tries in range(1, effort.tries_max + 1):
        figure = await _contest(name, unit, subject, against, effort, tries)
        if not figure.refused:
            break
    assert figure is not None
    return replace(figure, absent=absent or {})


async def _contest(name: str, unit: str, subject: Work, against: Mapping[str, Work], effort: Effort, tries: int) -> Figure:
    await subject()  # Plans, pages and pools are warm.
    for other in against.values():
        await other()
    own: list[Slice] = []
    control: list[float] = []
    others: dict[str, list[tuple[Slice, Slice]]] = {label: [] for label in against}
    for number in range(effort.pairs):
        one, two = await subject(), await subject()
        control.append(one.rate / two.rate if number % 2 else two.rate / one.rate)
        own += [one, two]
        for label, other in against.items():
            if number % 2:
                theirs, ours = await other(), await subject()
            else:
                ours, theirs = await subject(), await other()
            others[label].append((ours, theirs))
            own.append(ours)
    spread = Spread.of(control)
    return Figure(
        name=name,
        unit=unit,
        value=statistics.median(each.rate for each in own),
        control=spread,
        tries=tries,
        refused=None if effort.small else not is_steady(spread),
        beside={label: _beside(pairs) for label, pairs in others.items()},
        also=_also(own),
    )


def is_steady(control: Spread) -> bool:
    """Whether a control says that the machine let us measure."""
    return STEADY[0] <= control.median <= STEADY[1]


def _beside(pairs: Sequence[tuple[Slice, Slice]]) -> Beside:
    costs = [(_cost(ours), _cost(theirs)) for ours, theirs in pairs]
    known = [theirs / ours for ours, theirs in costs if ours and theirs]
    return Beside(
        value=statistics.median(theirs.rate for _, theirs in pairs),
        ratio=Spread.of([ours.rate / theirs.rate for ours, theirs in pairs]),
        cpu_ratio=Spread.of(known) if known else None,
    )


def _cost(each: Slice) -> float | None:
    return each.cpu_seconds / each.count if each.cpu_seconds and each.count else None


def _also(slices: Sequence[Slice]) -> dict[str, float]:
    said: dict[str, float] = {}
    latencies = [latency for each in slices for latency in each.latencies]
    if latencies:
        said |= {"p50_ms": percentile_ms(latencies, 0.5), "p99_ms": percentile_ms(latencies, 0.99)}
    costs = [cost for each in slices if (cost := _cost(each)) is not None]
    if costs:
        said["cpu_us"] = 1e6 * statistics.median(costs)
    return said
