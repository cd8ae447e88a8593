"""One run of the harness: a cluster, people who never stop asking, one fault after the other, and every invariant at each heal."""

import asyncio
import random
import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic

from deploy.local.environment import SERVICES
from deploy.local.kafka import installed
from deploy.local.progress import Console
from tests.faults import report
from tests.faults.clerks import Clerks
from tests.faults.clients import IN_FLIGHT_MAX, Asked, Clients
from tests.faults.cluster import PROCESSES, Cluster, cluster
from tests.faults.counts import check_counts
from tests.faults.digests import check_digests
from tests.faults.invariants import need
from tests.faults.nemesis import FAULTS, Fault, Scene
from tests.faults.nemesis.fault import LONG, SMOKE, Skipped
from tests.faults.report import Figures, Struck, availability, longest_silence
from tests.faults.season import Season
from tests.faults.tap import Tap
from tests.faults.watch import Watch
from tests.faults.witness import Witness, check_published, stored
from tests.faults.world import UNIT
from tests.memory import in_memory


@dataclass(frozen=True)
class Profile:
    """How long and how hard. `end_minutes` are kept for the last day and the last checks."""

    minutes: float
    end_minutes: float
    circles: int
    people: int
    per_second: float
    faults_min: int
    acked_min: int
    patience: float
    """Seconds until a command that is still unknown fails the run."""
    repeats: int
    """Of the keys, so many are asked once more at the end."""
    digests_share: float
    """Of the time so far, what comparisons of the read models may take: after each heal while it is less. 0: at the end only."""
    recovery_max: float = 120
    """Seconds after which a run that is not long does not wait any more, whatever the goal."""
    heavy_every: int = 0
    """One fault in so many is a heavy one, which the seed chooses; 0: each kind of fault is struck."""


PROFILES = {
    SMOKE: Profile(8, 1.1, 16, 12, 75, 30, 20_000, 120, 500, 0, heavy_every=9),
    LONG: Profile(60, 6, 28, 12, 45, 40, 70_000, 1800, 5000, 0.4, 1200),
}
SMALL = Profile(2, 0.5, 4, 10, 60, 0, 0, 120, 100, 0)
"""For what is looked for by seeded bugs, one at a time."""
HEAVY = frozenset(
    {
        "F1", "F2", "F3", "F4", "F5", "F6", "F7.2", "F16", "F18", "F19", "F20", "F21", "F24.1", "F24.3", "F25", "F27.1", "F30", "F31.1",
        "F32", "F33", "F35.1", "F35.2", "F36",
    }
)  # fmt: skip
"""Faults, and kinds of them, that take longer than a quarter of a minute even so: processes start anew, or a lock runs out."""
IMPATIENT = 0.02
MISCHIEF = 0.2
BETWEEN = 15
"""So many commands are answered between a recovery and the next fault, some of each service: faults hit work."""
WORK_WITHIN_S = 120.0
LAST_DAYS_S = 20.0
"""So long before the last fault may strike nobody begins another day: the days that were begun go on for longer than that."""
GOAL_TIMES = 3
RECOVERY_SECONDS_MIN = 90.0
"""On a busy machine a goal may be missed, and that is said; beyond three times the goal, and this, the run fails."""
ENOUGH = 0.6
"""Of the faults and commands that a profile asks for: fewer fail the run. What is missing to the whole is said; slowness is no bug."""
SILENCE_SECONDS_MAX = 30.0
"""While a fault lasts that must not be felt, something is answered all the time; on a busy machine not every second."""
SETTLED_WITHIN_S = 90.0
ROOM_BYTES_MIN = 4 << 30

ALWAYS = (
    "resolved unknown", "replayed answer", "minutes above the cap", "lapsed offer", "offer_accepted", "missed check-out", "activity full",
    "star_granted", "star_declined", "star lost", "overlapping shift refused", "overlapping time refused",
    "same time confirmed twice at once", "unknown id refused", "read of what was just written", "session went on",
    "asked twice at once", "retry of what is known", "key used again", "stale version",
)  # fmt: skip
"""What every whole run must have met."""
BY_FAULT = {
    "F5.1": "fenced zombie",
    "F6.1": "relay past its lock",
    "F25.2": "lock lost inside a batch",
    "F30": "hole published again",
    "F31.1": "parked key",
    "F35.1": "key-encryption key rotated",
    "F35.2": "signing key rotated",
    "F35.3": "password refused in between",
    "F35.4": "Kafka password refused in between",
    "F36.4": "erased during a rebuild",
    "F36.5": "erased during a rebuild",
    "F36.6": "erased behind a parked key",
}
"""What it must have met when the fault has struck."""


@dataclass(frozen=True)
class Options:
    """As given on the command line. `only` are codes of faults, struck once each; `minutes` instead of the profile's; `small`: one broker,
    one database server and few people.
    """

    profile: str
    seed: int
    only: frozenset[str] = frozenset()
    minutes: float | None = None
    small: bool = False

    @property
    def is_whole(self) -> bool:
        return not self.only and self.minutes is None and not self.small


class Looks:
    """Looks at the invariants, one at a time, while the run goes on: what they find holds at every instant."""

    def __init__(self, witness: Witness, tasks: asyncio.TaskGroup) -> None:
        """One that finds something broken fails the tasks."""
        self._witness = witness
        self._tasks = tasks
        self._looking: asyncio.Task[None] | None = None

    def begin(self, found: Callable[[BaseException | None], None]) -> None:
        """Looks; `found` is told of the end, with what was broken."""
        self._looking = self._tasks.create_task(self._look(found))

    async def end(self) -> None:
        """Until the look under way, if there is one, has found nothing."""
        if self._looking is not None:
            await self._looking

    async def _look(self, found: Callable[[BaseException | None], None]) -> None:
        try:
            await self._witness.look()
        except BaseException as error:
            found(error)
            raise
        found(None)


class Run:
    """What goes on, and what it has come to so far."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.profile = SMALL if options.small else PROFILES[options.profile]
        self.random = random.Random(options.seed)
        self.figures = Figures(options.profile, options.seed, report.commit())
        self.folder = Path(tempfile.mkdtemp(prefix=f"leifeng-faults-{options.profile}-{options.seed}-", dir=in_memory(ROOM_BYTES_MIN)))
        self.happened = Counter[str]()
        self.clients: Clients | None = None
        self.began = monotonic()
        self.ends = self.began + 60 * ((options.minutes or self.profile.minutes) - self.profile.end_minutes)

    async def play(self) -> None:
        """Raises when anything is not as it must be; whatever was started is ended."""
        self._say(f"profile {self.options.profile}, seed {self.options.seed}, commit {self.figures.commit}, logs in {self.folder}")
        jars = installed(Console())  # Java may have to learn first, and children are of the main thread.
        async with cluster(self.folder, jars, self.options.seed, small=self.options.small) as made:
            self._say(f"the cluster is up after {monotonic() - self.began:.0f} s")
            profile = self.profile
            self.clients = clients = Clients(
                made,
                self.options.seed,
                unit=UNIT,
                impatient=IMPATIENT,
                mischief=MISCHIEF,
                per_second=profile.per_second,
                patience=profile.patience,
            )
            taps = {service: Tap(service) for service in SERVICES}
            watch = Watch(made, taps)
            async with _meanwhile(watch.keep_looking(), *(tap.follow(made) for tap in taps.values())):
                await self._play(made, clients, Witness(made, clients, taps, self.happened), watch)
            await clients.close()
        self._finish()

    async def _play(self, made: Cluster, clients: Clients, witness: Witness, watch: Watch) -> None:
        season = Season(clients, self.options.seed, circles=self.profile.circles, people=self.profile.people)
        clerks = Clerks(clients, self.options.seed)
        await season.begin()
        await clerks.begin(season.programme)
        self._say(f"the season begins after {monotonic() - self.began:.0f} s")
        last_days, stop = asyncio.Event(), asyncio.Event()
        scene = Scene(made, clients, season, clerks, self.random, self.options.profile, self.happened)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(season.play(last_days))
            tasks.create_task(clerks.work(stop))
            await self._strike_all(scene, Looks(witness, tasks), watch, last_days)
            last_days.set()
            stop.set()
            self._say("no more faults: the day is played to its end")
        await made.settled(SETTLED_WITHIN_S)
        self._say("everything has settled; the last checks")
        await self._check_the_end(scene, witness, season, clerks)
        figures = self.figures
        figures.days, figures.lag_seconds_max = season.days, round(watch.lag_max, 1)
        self.happened += season.happened + clerks.happened + clients.misdeeds
        self.happened["resolved unknown"] = figures.unknown
        self.happened["replayed answer"] = sum(each.unknown > 0 and each.was_replayed for each in clients.history)

    # -- Faults

    async def _strike_all(self, scene: Scene, looks: Looks, watch: Watch, last_days: asyncio.Event) -> None:
        """Faults of the profile, each once, in an order that the seed gives; then any, until the time is over."""
        only = self.options.only
        chosen = [each for each in FAULTS if (only & {each.code, kind_of(each)} if only else self.options.profile in each.profiles)]
        assert chosen or not only, f"no fault is called {sorted(only)}"
        waiting = in_turn(chosen, self.random, 0 if only else self.profile.heavy_every)
        comparing = 0.0
        while (only and waiting and self.options.minutes is None) or monotonic() < self.ends:
            await scene.cluster.ready(*PROCESSES, within=WORK_WITHIN_S)
            await asyncio.gather(*(scene.answers(1, WORK_WITHIN_S, service) for service in SERVICES), scene.answers(BETWEEN, WORK_WITHIN_S))
            if not waiting and only and self.options.minutes is None:
                break
            if monotonic() > self.ends - LAST_DAYS_S:
                last_days.set()
            if chosen:
                await self._strike(waiting.pop(0) if waiting else self.random.choice(chosen), scene, looks, watch)
            if comparing < self.profile.digests_share * (monotonic() - self.began):
                await looks.end()
                comparing += await self._compare_digests(scene)
        await looks.end()
        missed = {kind_of(each) for each in waiting} - {each.kind for each in self.figures.faults}
        assert not missed or self.profile.heavy_every or not self.options.is_whole, f"no time was left for {sorted(missed)}"

    async def _compare_digests(self, scene: Scene) -> float:
        """In the middle of a run: nobody asks while the read models are built anew. For how many seconds."""
        began = monotonic()
        async with scene.clients.at_rest():
            await scene.cluster.settled(SETTLED_WITHIN_S)
            equal = await check_digests(scene)
        self.figures.compared += 1
        took = monotonic() - began
        self._say(f"{equal}/9 digests equal, in {took:.1f} s")
        return took

    async def _strike(self, fault: Fault, scene: Scene, looks: Looks, watch: Watch) -> None:
        if is_heavy(fault):  # It may lead to another server, or change what is stored.
            await looks.end()
        struck = Struck(fault.code, fault.name, fault.goal_seconds, fault.tolerated, monotonic() - self.began)
        self.figures.faults.append(struck)
        began, known = monotonic(), len(scene.clients.history)
        try:
            await fault.strike(scene)
            healed_at = monotonic()
            struck.lasted = healed_at - began
            struck.silence = longest_silence(began, healed_at, scene.clients.history[known:])
            need(not fault.tolerated or struck.silence < SILENCE_SECONDS_MAX, "I18", f"nothing was answered for {struck.silence:.1f} s")
            within = min(max(GOAL_TIMES * fault.goal_seconds, RECOVERY_SECONDS_MIN), self.profile.recovery_max)
            struck.recovery = await watch.recovered(scene.clients, healed_at, within)
            await looks.end()
            looks.begin(partial(self._held, struck))
        except Skipped as error:
            struck.outcome = f"skipped: {error}"
        except asyncio.CancelledError:
            struck.outcome = "broken off"
            raise
        except BaseException as error:
            struck.outcome = f"failed: {type(error).__name__}: {str(error)[:500]}"
            raise
        finally:
            struck.lasted = struck.lasted or monotonic() - began
            if struck.recovery is None:
                self._say(struck.line(), plain=True)

    def _held(self, struck: Struck, error: BaseException | None) -> None:
        """The invariants after a fault, or one that does not hold."""
        struck.outcome = "as expected" if error is None else f"failed: {type(error).__name__}: {str(error)[:500]}"
        self._say(struck.line(), plain=True)

    # -- The end

    async def _check_the_end(self, scene: Scene, witness: Witness, season: Season, clerks: Clerks) -> None:
        made, clients, figures = scene.cluster, scene.clients, self.figures
        history = clients.history
        need(not clients.open, "I18", f"still unknown: {list(clients.open.values())}")
        figures.minutes = await check_counts(made, season, clerks)
        await witness.look()
        for service in SERVICES:
            events = await stored(made, service)
            figures.events += len(events)
            await check_published(made, service, events)
        known = [each for each in history if "command_id" in each.answer]
        for some in batched(self.random.sample(known, min(self.profile.repeats, len(known))), IN_FLIGHT_MAX):
            await asyncio.gather(*map(clients.retry, some))
        figures.acked = sum(each.accepted for each in history)
        figures.refused = len(history) - figures.acked
        figures.misdeeds = clients.misdeeds.total()
        figures.unknown = sum(each.unknown > 0 for each in history)
        figures.slowest_answer_seconds = round(clients.slowest, 1)
        spans = [(self.began + each.began, self.began + each.began + each.lasted) for each in figures.faults if each.tolerated]
        figures.availability_percent = round(availability(history, spans), 2)
        figures.digests = await check_digests(scene)

    def _finish(self) -> None:
        self.figures.seconds = round(monotonic() - self.began, 1)
        self.figures.happened = dict(sorted(self.happened.items()))
        if self.options.is_whole:
            self._check_claims()
            self.figures.keep(report.RESULTS)
        shutil.rmtree(self.folder, ignore_errors=True)
        print(self.figures.line(), flush=True)

    def _check_claims(self) -> None:
        """A run in which what it is for did not happen has shown nothing."""
        codes = {each.code for each in self.figures.faults if each.survived}
        claimed = [*ALWAYS, *(fact for code, fact in BY_FAULT.items() if code in codes)]
        never = [fact for fact in claimed if not self.happened[fact]]
        assert not never, f"never happened: {never}"
        survived = sum(each.survived for each in self.figures.faults)
        for many, wanted, what in (
            (survived, self.profile.faults_min, "faults"),
            (self.figures.acked, self.profile.acked_min, "acknowledged commands"),
        ):
            assert many >= ENOUGH * wanted, f"{many:,} {what} are too few: {wanted:,} are wanted"
            if many < wanted:
                self._say(f"missed: {many:,} {what} of {wanted:,}")

    def keep_failure(self, error: BaseException) -> None:
        """Why, what was asked, and the faults so far, beside the logs."""
        clients = self.clients
        asked = list(clients.asked.values()) if clients else []
        self.figures.seconds, self.figures.happened = monotonic() - self.began, dict(self.happened)
        report.keep_failure(self.folder, self.figures, asked, "".join(traceback.format_exception(error)))
        print(f"FAILED, seed {self.options.seed}: {_first(error)}", flush=True)
        for each in self.figures.faults:
            print(f"  {each.line()}", flush=True)
        print(f"all logs, the history and the faults are in {self.folder}", flush=True)

    def _say(self, text: str, *, plain: bool = False) -> None:
        print(text if plain else f"{monotonic() - self.began:7.1f} s  {text}", flush=True)


def kind_of(fault: Fault) -> str:
    """`F29` of `F29.1`."""
    return fault.code.partition(".")[0]


def is_heavy(fault: Fault) -> bool:
    """By its code or its kind."""
    return bool(HEAVY & {fault.code, kind_of(fault)})


def in_turn(faults: Sequence[Fault], chance: random.Random, heavy_every: int = 0) -> list[Fault]:
    """All of them in an order that chance gives, beginning with one of each kind; or one in so many is heavy, and the others come again."""
    shuffled = chance.sample(faults, len(faults))
    firsts = list({kind_of(each): each for each in reversed(shuffled)}.values())
    order = chance.sample(firsts, len(firsts)) + [each for each in shuffled if each not in firsts]
    if not heavy_every:
        return order
    heavy, light = ([each for each in order if is_heavy(each) is wanted] for wanted in (True, False))
    lights = list(light)
    while len(lights) < len(heavy) * (heavy_every - 1):
        lights += chance.sample(light, len(light))
    return [each for turn, one in enumerate(heavy) for each in (*lights[turn * (heavy_every - 1) :][: heavy_every - 1], one)]


def batched(items: Sequence[Asked], size: int) -> Iterator[Sequence[Asked]]:
    """Slices of up to `size`."""
    return (items[start : start + size] for start in range(0, len(items), size))


def _first(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {str(error)[:2000]}"


@asynccontextmanager
async def _meanwhile(*work: Awaitable[None]) -> AsyncIterator[None]:
    """Goes on beside the block, and ends with it; what fails there fails the block."""

    async def never() -> None:
        await asyncio.Event().wait()

    async with asyncio.TaskGroup() as tasks:
        going = [tasks.create_task(_awaited(each)) for each in (*work, never())]
        try:
            yield
        finally:
            for each in going:
                each.cancel()


async def _awaited(work: Awaitable[None]) -> None:
    await work
