"""What goes wrong with our own processes: they die at the worst moment, sleep too long, are two where one was meant, or have too little.

A process that is to do so is started by `tests.faults.launcher` in place of the one that ran, which comes back in any case.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic

import asyncpg
import httpx

from deploy.local.children import Child
from deploy.local.environment import SERVICES
from shared.states import APPEND_LOCK
from shared.worker import IDLE_SECONDS, ROLES
from tests.faults.clients import CUT_OFF
from tests.faults.nemesis.fault import BOTH, Fault, Scene, Skipped
from tests.faults.orders import HERE
from tests.faults.system import EXIT_SECONDS_MAX, until
from tests.loopback import NO_TLS

REACHED_WITHIN_S = 90.0
"""Clients go round: a point of any service is passed again within this time."""
TAKEN_WITHIN_S = 30.0
PAST_THE_LOCK_S = IDLE_SECONDS + 3.0
ENDED_BADLY = (CUT_OFF, "store_unavailable")
"""How a request fails whose process ends badly."""


@dataclass
class Victim:
    """A process that was started with orders."""

    name: str
    child: Child
    _log_from: int

    def said(self) -> list[str]:
        """What the launcher has said of it so far."""
        with self.child.log.open("rb") as log:
            log.seek(self._log_from)
            lines = log.read().decode(errors="replace").splitlines()
        return [line.removeprefix(f"{HERE} ") for line in lines if line.startswith(f"{HERE} ")]

    def is_stopped(self) -> bool:
        """Whether it sleeps by SIGSTOP."""
        stat = Path(f"/proc/{self.child.pid}/stat").read_text("ascii", errors="replace")
        return stat.rpartition(")")[2].split()[0] == "T"


@asynccontextmanager
async def instead(scene: Scene, name: str, *orders: str) -> AsyncIterator[Victim]:
    """In place of a process runs one with orders; afterwards it is started as always, and the run waits for it before the next fault."""
    cluster = scene.cluster
    try:
        cluster.kill(name)
        log = cluster.processes[name].log
        log_from = log.stat().st_size
        yield Victim(name, cluster.launch(name, *orders), log_from)
    finally:
        cluster.kill(name)
        cluster.launch(name)


@asynccontextmanager
async def api_with(scene: Scene, service: str, *orders: str) -> AsyncIterator[Victim]:
    """The first api of a service has orders."""
    async with instead(scene, f"{service}-api", *orders) as victim:
        yield victim


@asynccontextmanager
async def worker_with(scene: Scene, service: str, *orders: str) -> AsyncIterator[Victim]:
    """The second worker of a service has orders and holds the roles; the first, as it always is, comes back to stand by."""
    cluster, first = scene.cluster, f"{service}-worker"
    async with instead(scene, f"{service}-worker-2", *orders) as victim:
        await cluster.ready(victim.name)
        cluster.kill(first)
        cluster.launch(first)
        try:
            yield victim
        finally:
            await cluster.ready(first)


async def applied(scene: Scene, service: str) -> int:
    """How far the service's views have applied its own log."""
    rows = await scene.cluster.sql(service, "SELECT applied FROM consumer.position WHERE consumer = 'views' AND log = $1", service)
    return int(rows[0]["applied"]) if rows else 0


async def shown(scene: Scene, service: str, position: int, within: float) -> float:
    """Until the service's views show what stands at `position` of its own log; the seconds that it took."""

    async def are_there() -> bool:
        return await applied(scene, service) >= position

    return await until(are_there, within, f"the views of {service} at {position}")


async def counted(scene: Scene, names: Sequence[str], metric: str, **labels: str) -> float:
    """The sum of a metric over processes, and over those samples of each that have these labels."""
    return sum([await scene.cluster.metric(name, metric, **labels) for name in names])


# -- F1 to F3: killed at a point


@dataclass(frozen=True)
class CrashPoint:
    """Where a process is killed: a point of the launcher, in a process that passes it, at one of its first `passes` passes."""

    name: str
    point: str
    place: Callable[..., object]
    services: Sequence[str] = SERVICES
    passes: int = 12


_REACTING = ("hours",)
"""Under these clients the service whose reactions have most to do."""

CRASH_POINTS = {
    "F1.1": CrashPoint("before decide", "deciding", api_with),
    "F1.2": CrashPoint("decided, waiting in the lane", "waiting", api_with),
    "F1.3": CrashPoint("call sent", "sent", api_with),
    "F1.5": CrashPoint("committed, answer unread", "committed", api_with),
    "F1.6": CrashPoint("page read", "read", worker_with),
    "F1.7": CrashPoint("sealed, not published", "sealed", worker_with),
    "F1.8": CrashPoint("published, ack unread", "published", worker_with),
    "F1.9": CrashPoint("batch applied, not committed", "applied", worker_with),
    "F1.10": CrashPoint("committed, before the offset hint", "applied-committed", worker_with),
    "F1.11": CrashPoint("look-ups applied, reactions not submitted", "looked-up", worker_with, _REACTING),
    "F1.12": CrashPoint("some reactions answered, position not moved", "reacted", worker_with, _REACTING),
}


async def crash(point: CrashPoint, scene: Scene, service: str | None = None) -> None:
    """One process is killed at the point; somebody else goes on."""
    service = service or scene.random.choice(point.services)
    order = f"kill={point.point}:{scene.random.randint(1, point.passes)}"
    async with point.place(scene, service, order) as victim:  # type: ignore[attr-defined]
        await until(lambda: not victim.child.running(), REACHED_WITHIN_S, f"the end of {victim.name} by {order}")
        assert victim.child.exit_code() == -signal.SIGKILL, victim.child.last_words(20)
        assert victim.said() == [point.point]
        print(f"{victim.name} was killed by {order}: the next answer came after {await scene.answers(1):.2f} s")
        scene.happened[f"killed: {point.name}"] += 1


async def crash_in_relay(point: CrashPoint, scene: Scene) -> None:
    """As `crash`; what was sealed before the relay's death is shown in time by the standby's work."""
    service = scene.random.choice(SERVICES)
    await crash(point, scene, service)
    ((sealed,),) = await scene.cluster.sql(service, "SELECT coalesce(max(position), 0) FROM es.seal")
    await shown(scene, service, sealed, within=15)


async def crash_of_a_backend(scene: Scene) -> None:
    """The server's process is ended inside the call of an append: its caller knows nothing, asks again, and it has happened once."""
    service = scene.random.choice(SERVICES)
    connection = await asyncpg.connect(scene.cluster.dsn(service, "admin"), timeout=5)
    try:
        ended = 0
        for _ in range(round(REACHED_WITHIN_S / 2)):  # Each turn less than the call's own limit, so that the lock alone ends nothing.
            await connection.execute("SELECT pg_advisory_lock($1)", APPEND_LOCK)
            end = monotonic() + 2
            while not ended and monotonic() < end:
                ended = await connection.fetchval(_END_APPENDS)
                await asyncio.sleep(0.02)
            await connection.execute("SELECT pg_advisory_unlock($1)", APPEND_LOCK)
            if ended:
                break
        assert ended, f"no append of {service} was under way"
    finally:
        connection.terminate()
    await scene.answers(3)
    scene.happened["killed: backend killed inside the call"] += ended


_END_APPENDS = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event = 'advisory' AND query LIKE '%es.append%' AND pid <> pg_backend_pid()
"""


async def kill_at_random(scene: Scene) -> None:
    """SIGKILL of any process at any moment."""
    cluster, name = scene.cluster, scene.random.choice(sorted(scene.cluster.processes.keys() - _PASSING))
    cluster.kill(name)
    try:
        await scene.answers(10)
    finally:
        cluster.launch(name)
        await cluster.ready(name)
    scene.happened["killed: at random"] += 1


_PASSING = {f"{service}-migrate" for service in SERVICES}


# -- F4: told to end


async def drain(scene: Scene) -> None:
    """Processes of a service are told to end in turn, under load: none cuts a request off, each ends with 0 and in time."""
    cluster, service = scene.cluster, scene.random.choice(SERVICES)
    names = (f"{service}-api", f"{service}-worker", f"{service}-api-2", f"{service}-worker-2")
    for name in names[: round(scene.lasts(smoke=2, long=4))]:
        await scene.answers(10)
        before = [scene.clients.not_decided[each] for each in ENDED_BADLY]
        try:
            began = monotonic()
            assert await cluster.ended(name, within=EXIT_SECONDS_MAX) == {name: 0}
            print(f"{name} ended in {monotonic() - began:.1f} s")
            assert [scene.clients.not_decided[each] for each in ENDED_BADLY] == before, f"{name} cut a request off"
        finally:
            cluster.kill(name)
            cluster.launch(name)
            await cluster.ready(name)
    scene.happened["drained under load"] += 1


# -- F5, F6: asleep past the lock


@asynccontextmanager
async def asleep(scene: Scene, service: str, point: str) -> AsyncIterator[Victim]:
    """A worker falls asleep at a point and sleeps past its locks, while its standby takes all its roles and works; then it wakes up."""
    standby = f"{service}-worker"
    async with worker_with(scene, service, f"stop={point}:{scene.random.randint(1, 6)}") as victim:
        try:
            await until(victim.is_stopped, REACHED_WITHIN_S, f"{victim.name} asleep at {point}")
            assert victim.said() == [point]
            began, was = monotonic(), await applied(scene, service)
            await scene.cluster.ready(standby)
            await until(partial(_holds_all, scene, standby), TAKEN_WITHIN_S, f"{standby} takes all roles")
            print(f"{standby} held all roles after {monotonic() - began:.1f} s")
            await shown(scene, service, was + 1, within=REACHED_WITHIN_S)
            await asyncio.sleep(max(scene.lasts(smoke=PAST_THE_LOCK_S, long=25) - (monotonic() - began), 0))
        finally:
            victim.child.send(signal.SIGCONT)
        yield victim
        await until(partial(_holds_none, scene, victim.name), TAKEN_WITHIN_S, f"{victim.name} steps down")


async def _holds_all(scene: Scene, name: str) -> bool:
    return all([await scene.cluster.metric(name, "worker_role_held", role=role) for role in ROLES])


async def _holds_none(scene: Scene, name: str) -> bool:
    return not any([await scene.cluster.metric(name, "worker_role_held", role=role) for role in ROLES])


async def sleeping_consumer(scene: Scene) -> None:
    """The batch that a zombie holds meets a position that has moved: 0 rows, counted as fenced, and the role is given up."""
    async with asleep(scene, scene.random.choice(SERVICES), "in-hand") as zombie:

        async def is_fenced() -> bool:
            return await counted(scene, [zombie.name], "consumer_events_total", result="fenced") > 0

        await until(is_fenced, TAKEN_WITHIN_S, f"{zombie.name} is fenced")
        scene.happened["fenced zombie"] += 1


async def sleeping_relay(scene: Scene) -> None:
    """A relay that wakes up with a page in its hands repeats at most this page, and seals nothing."""
    service = scene.random.choice(SERVICES)
    async with asleep(scene, service, "sealed") as zombie:

        async def has_stepped_down() -> bool:
            fenced = await counted(scene, [zombie.name], "relay_fenced_total")
            return fenced + await counted(scene, [zombie.name], "role_changes_total", role="relay", cause="lost") > 0

        await until(has_stepped_down, TAKEN_WITHIN_S, f"{zombie.name} is no relay any more")
        published = await counted(scene, [zombie.name], "relay_published_total")
        await scene.answers(20)
        assert await counted(scene, [zombie.name], "relay_published_total") == published
        await _seals_are_one_chain(scene, service)
        scene.happened["relay past its lock"] += 1


async def _seals_are_one_chain(scene: Scene, service: str) -> None:
    rows = await scene.cluster.sql(service, "SELECT previous, position FROM es.seal ORDER BY position")
    assert [row["previous"] for row in rows] == [0, *(row["position"] for row in rows[:-1])]


# -- two where one was meant


@asynccontextmanager
async def both_active(scene: Scene, service: str, *roles: str) -> AsyncIterator[Sequence[str]]:
    """Both workers of a service hold the roles at once, for they ask for no lock."""
    cluster, names = scene.cluster, (f"{service}-worker", f"{service}-worker-2")
    try:
        for name in names:
            cluster.kill(name)
            cluster.launch(name, f"unlocked={','.join(roles)}")
        await cluster.ready(*names)
        yield names
    finally:
        for name in names:
            cluster.kill(name)
            cluster.launch(name)


async def two_relays(scene: Scene) -> None:
    """Of two relays that seal the same stretch one is fenced, every time; the log has no fork."""
    service = scene.random.choice(SERVICES)
    async with both_active(scene, service, "relay") as names:

        async def is_fenced() -> bool:
            return await counted(scene, names, "relay_fenced_total") > 0

        await until(is_fenced, REACHED_WITHIN_S, "a fenced relay")
        await asyncio.sleep(scene.lasts(smoke=3, long=20))
        scene.happened["fenced relay"] += round(await counted(scene, names, "relay_fenced_total"))
        await _seals_are_one_chain(scene, service)


async def two_consumers(scene: Scene) -> None:
    """Of two consumers with the same batch one moves the position, and the other is fenced: read models, look-ups and reactions alike."""
    fenced = dict.fromkeys(("views", "inbox", "reactions"), 0.0)
    async with both_active(scene, _REACTING[0], "views", "inbox", "withdrawals") as names:

        async def are_fenced() -> bool:
            for consumer in fenced:
                fenced[consumer] = await counted(scene, names, "consumer_events_total", consumer=consumer, result="fenced")
            return all(fenced.values())

        await until(are_fenced, REACHED_WITHIN_S, f"each of {list(fenced)} fenced")
        await asyncio.sleep(scene.lasts(smoke=3, long=20))
        for consumer in fenced:
            scene.happened[f"fenced: {consumer}"] += 1


# -- F7: an api that stands still


async def sleeping_api(scene: Scene) -> None:
    """An api is stopped; whoever asks it asks another one, and when it wakes up it goes on."""
    name = f"{scene.random.choice(SERVICES)}-api"
    child = scene.cluster.processes[name]
    child.send(signal.SIGSTOP)
    try:
        await scene.answers(10)
        await asyncio.sleep(scene.lasts(smoke=4, long=30))
    finally:
        child.send(signal.SIGCONT)
    await scene.cluster.ready(name)
    scene.happened["api asleep"] += 1


async def blocked_api(scene: Scene) -> None:
    """An event loop that does not turn: `/livez` does not answer, and whoever watches over the process starts it anew."""
    service = scene.random.choice(SERVICES)
    async with api_with(scene, service, f"block=deciding:{scene.random.randint(1, 12)}:10") as victim:
        await until(lambda: victim.said() == ["deciding"], REACHED_WITHIN_S, f"{victim.name} blocked")
        assert not await _is_alive(scene, victim.name)
        await scene.answers(10)
    await scene.cluster.ready(victim.name)
    assert await _is_alive(scene, victim.name)
    scene.happened["api blocked"] += 1


async def _is_alive(scene: Scene, name: str) -> bool:
    try:
        async with httpx.AsyncClient(timeout=2, verify=NO_TLS) as client:
            return (await client.get(f"{scene.cluster.url(name)}/livez")).status_code == 200
    except httpx.HTTPError:
        return False


# -- F8: too little


@asynccontextmanager
async def control_group(controller: str, limits: dict[str, int]) -> AsyncIterator[Path]:
    """A group of our own (version 1) with these limits. Raises Skipped, also where our processes are in somebody else's group."""
    root = Path("/sys/fs/cgroup") / controller
    if not _is_in_the_root_group(controller) or not os.access(root, os.W_OK):
        raise Skipped(f"this process is not in the root group of {controller}, or may make none below it")
    folder = root / f"leifeng-faults-{os.getpid()}"
    folder.mkdir()
    try:
        for name, limit in limits.items():
            (folder / name).write_text(str(limit), "ascii")
        yield folder
    finally:
        await until(lambda: _is_gone(folder), 10, f"the end of {folder}")


def _is_in_the_root_group(controller: str) -> bool:
    lines = Path("/proc/self/cgroup").read_text("ascii").splitlines()
    return any(line.split(":")[1:] == [controller, "/"] for line in lines)


def _is_gone(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:  # Somebody in it has not quite ended.
        return False
    return True


async def too_little_memory(scene: Scene) -> None:
    """A process that eats memory up to its limit is killed by the kernel, and comes back."""
    async with (
        control_group("memory", {"memory.limit_in_bytes": 300 * 2**20}) as folder,
        api_with(scene, scene.random.choice(SERVICES), f"limit={folder}", "leak=3") as victim,
    ):
        await until(lambda: not victim.child.running(), REACHED_WITHIN_S, f"the end of {victim.name}")
        assert victim.child.exit_code() == -signal.SIGKILL, victim.child.last_words(20)
        await scene.answers(10)
    scene.happened["killed for its memory"] += 1


async def too_little_cpu(scene: Scene) -> None:
    """An api that has a tenth of a core is slow, and right."""
    limits = {"cpu.cfs_period_us": 100_000, "cpu.cfs_quota_us": 10_000}
    async with control_group("cpu", limits) as folder:
        name = f"{scene.random.choice(SERVICES)}-api"
        try:
            (folder / "cgroup.procs").write_text(str(scene.cluster.processes[name].pid), "ascii")
            await scene.answers(20)
            await asyncio.sleep(scene.lasts(smoke=4, long=30))
        finally:
            (folder.parent / "cgroup.procs").write_text(str(scene.cluster.processes[name].pid), "ascii")
    scene.happened["a tenth of a core"] += 1


# -- F25: no rest


async def storm(scene: Scene) -> None:
    """The workers of a service are killed and started, one of them every 3 s: what they do goes on all the time."""
    cluster, service = scene.cluster, scene.random.choice(SERVICES)
    names = (f"{service}-worker", f"{service}-worker-2")
    ends, turn, was = monotonic() + scene.lasts(smoke=15, long=120), 0, await applied(scene, service)
    try:
        while monotonic() < ends:
            cluster.kill(names[turn % 2])
            cluster.launch(names[turn % 2])
            await asyncio.sleep(3)
            turn += 1
        moved = await applied(scene, service) - was
    finally:
        await cluster.ready(*names)
    print(f"{turn} workers of {service} were killed; meanwhile its views moved by {moved}")
    assert moved > 0, f"nothing moved in {service} while its workers were killed"
    scene.happened["progress in a storm"] += 1


async def slow_batch(scene: Scene) -> None:
    """A batch takes longer than the lock lasts: the standby takes the role, and the batch counts once."""
    service = scene.random.choice(SERVICES)
    async with worker_with(scene, service, f"block=applied:{scene.random.randint(1, 6)}:{IDLE_SECONDS + 2}") as victim:
        await until(lambda: victim.said() == ["applied"], REACHED_WITHIN_S, f"{victim.name} with a slow batch")
        was = await applied(scene, service)
        await scene.cluster.ready(f"{service}-worker")
        await until(partial(_holds_all, scene, f"{service}-worker"), TAKEN_WITHIN_S, "the standby takes all roles")
        await shown(scene, service, was + 1, within=REACHED_WITHIN_S)
        assert await counted(scene, [victim.name], "role_changes_total", cause="lost") > 0
    scene.happened["lock lost inside a batch"] += 1


def _fault(code: str, name: str, goal_seconds: float, strike: Callable[[Scene], Awaitable[None]]) -> Fault:
    return Fault(code, name, goal_seconds, tolerated=True, profiles=BOTH, strike=strike)


FAULTS: tuple[Fault, ...] = (
    *(_fault(code, f"killed: {point.name}", 15, partial(crash, point)) for code, point in CRASH_POINTS.items()),
    _fault("F1.4", "backend killed inside the call", 15, crash_of_a_backend),
    _fault("F1.13", "killed at random", 15, kill_at_random),
    _fault("F2.1", "relay killed between seal and publish", 15, partial(crash_in_relay, CRASH_POINTS["F1.7"])),
    _fault("F2.2", "relay killed between publish and its ack", 15, partial(crash_in_relay, CRASH_POINTS["F1.8"])),
    _fault("F3", "projector killed between effect and commit", 15, partial(crash, CRASH_POINTS["F1.9"])),
    _fault("F4", "drain under load", 30, drain),
    _fault("F5.1", "consumer asleep past its lock", 20, sleeping_consumer),
    _fault("F5.2", "two consumers active", 20, two_consumers),
    _fault("F6.1", "relay asleep past its lock", 15, sleeping_relay),
    _fault("F6.2", "two relays active", 15, two_relays),
    _fault("F7.1", "api asleep", 45, sleeping_api),
    _fault("F7.2", "event loop blocked", 45, blocked_api),
    _fault("F8.1", "memory limit hit", 30, too_little_memory),
    _fault("F8.2", "a tenth of a core", 30, too_little_cpu),
    _fault("F25.1", "worker storm", 30, storm),
    _fault("F25.2", "batch longer than the lock", 30, slow_batch),
)
