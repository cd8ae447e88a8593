"""What goes wrong with PostgreSQL: killed, frozen, full, overrun, silent after a commit, failed over (F9 to F16)."""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import monotonic

import asyncpg

from deploy.local.children import Identity
from deploy.local.environment import SERVICES
from deploy.local.postgres import LocalPostgres
from deploy.local.trouble import Trouble
from shared.process import READ_CONNECTIONS_MAX, STORE_CONNECTIONS_MAX, WORKER_CONNECTIONS_MAX
from tests.faults.clients import ANSWER_WITHIN_S
from tests.faults.cluster import STANDBY_OF
from tests.faults.nemesis.fault import BOTH, ONLY_LONG, Fault, Scene, Skipped
from tests.faults.proxy import Proxy
from tests.faults.system import freeze, until

FIRST_ANSWER_WITHIN_S = 15.0
"""The goal is 5 s (F9); this machine has other work at the same time."""
REFILLED_WITHIN_S = 15.0
NOTICED_WITHIN_S = 30.0
FOUND_AGAIN_WITHIN_S = 8.0
REPLIES_SWALLOWED_MAX = 5
APPEND_LOCK = (5104202001 >> 32, 5104202001 & 0xFFFFFFFF)
"""Of `es.append`, as pg_locks shows it."""
POOLS = {"store": STORE_CONNECTIONS_MAX, "reads": READ_CONNECTIONS_MAX, "worker": WORKER_CONNECTIONS_MAX}
RATE_BESIDE_A_SNAPSHOT_MIN = 0.75
WAL_SPARE_MB = 120
"""Several segments: with the ballast gone there is room for the next ones, however many work has begun meanwhile."""

_WAITS_FOR_APPEND = """
    SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = $1 AND objid = $2 AND NOT granted ORDER BY waitstart LIMIT 1
"""
_HOLDS_APPEND = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = $1 AND objid = $2 AND granted"
_SESSIONS = "SELECT application_name, count(*) FROM pg_stat_activity WHERE datname = current_database() GROUP BY 1"
_END_SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1"


async def _killed(scene: Scene) -> None:
    """The server is killed; it recovers from its WAL, and what was in doubt becomes known."""
    service = scene.random.choice(SERVICES)
    with scene.unharmed():
        try:
            await asyncio.to_thread(scene.cluster.server(service).kill)
        finally:
            await scene.cluster.start_postgres(service)
        took = await scene.answers(1, FIRST_ANSWER_WITHIN_S, service)
        print(f"postgres of {service} killed: first answer {took:.1f} s after it was back")
        await scene.answers()


async def _backend_killed(scene: Scene) -> None:
    """One backend is killed: the server ends all the others, and recovers by itself."""
    service = scene.random.choice(SERVICES)
    with scene.unharmed():
        ((pid,),) = await scene.cluster.sql(
            service,
            "SELECT pid FROM pg_stat_activity WHERE application_name = $1 ORDER BY random() LIMIT 1",
            f"{service} store",
        )
        found = Identity.of(pid)
        assert found is not None
        assert found.send(signal.SIGKILL)
        await until(lambda: not found.lives(), 5, "the end of the backend")
        await scene.answers(1, FIRST_ANSWER_WITHIN_S, service)
        await scene.answers()


async def _frozen(scene: Scene) -> None:
    """The whole server stands still: that is said in time, and afterwards the pools have what they had."""
    service = scene.random.choice(SERVICES)
    with scene.unharmed():
        slowest, scene.clients.slowest = scene.clients.slowest, 0.0
        refused = scene.clients.not_decided["store_unavailable"]
        thaw = freeze(scene.cluster.server(service))
        try:
            await asyncio.sleep(scene.lasts(smoke=5, long=60))
        finally:
            thaw()
        assert scene.clients.not_decided["store_unavailable"] > refused, "nobody was told"
        assert scene.clients.slowest < ANSWER_WITHIN_S
        scene.clients.slowest = max(slowest, scene.clients.slowest)
        await scene.answers(1, FIRST_ANSWER_WITHIN_S, service)
        await scene.answers()
        await until(lambda: _has_no_leak(scene, service), NOTICED_WITHIN_S, "the end of what was given up")


async def _has_no_leak(scene: Scene, service: str) -> bool:
    """Each pool is as large as it may be, for each of two processes, and no larger."""
    found = {row["application_name"]: row["count"] for row in await scene.cluster.sql(service, _SESSIONS)}
    return all(found.get(f"{service} {name}", 0) <= 2 * size for name, size in POOLS.items())


async def _wal_disk_full(scene: Scene) -> None:
    """The disk under the WAL fills up: the server goes down, nobody is told yes, and with space again nothing is lost."""
    service = scene.random.choice([each for each in SERVICES if each != STANDBY_OF])
    server = scene.cluster.server(service)
    with scene.unharmed():
        await asyncio.to_thread(server.stop)
        with ExitStack() as undo:
            try:
                small = undo.enter_context(_small_disk_for_wal(server))
                await scene.cluster.start_postgres(service)
                await scene.answers(1, service=service)
                ballast = small / "ballast"
                _fill(ballast)
                await until(lambda: _fills_wal(scene, service), NOTICED_WITHIN_S, "a full disk")
                refused = scene.clients.not_decided["store_unavailable"]
                await until(lambda: scene.clients.not_decided["store_unavailable"] > refused, NOTICED_WITHIN_S, "a refusal")
                scene.happened["WAL disk full"] += 1
                ballast.unlink()
                await _is_up_again(scene, service)
                await scene.answers(1, FIRST_ANSWER_WITHIN_S, service)
            finally:
                await asyncio.to_thread(server.stop)
        await scene.cluster.start_postgres(service)
        await scene.answers(1, FIRST_ANSWER_WITHIN_S, service)
        await scene.answers()


async def _fills_wal(scene: Scene, service: str) -> bool:
    """Goes through segments until there is no room for the next one; whether the server could not."""
    try:
        for _ in range(4):
            await scene.cluster.sql(service, "SELECT pg_logical_emit_message(false, 'ballast', 'x')")
            await scene.cluster.sql(service, "SELECT pg_switch_wal()")
    except (asyncpg.PostgresError, OSError, TimeoutError):
        return True
    return False


async def _is_up_again(scene: Scene, service: str) -> None:
    """A server that panicked may come back by itself, or end for good; the one or the other, it runs when this returns."""

    async def runs() -> bool:
        with suppress(Trouble, asyncpg.PostgresError, OSError, TimeoutError):  # It may end yet by the disk that was full a moment ago.
            await scene.cluster.start_postgres(service)
            await scene.cluster.sql(service, "SELECT 1")
            return True
        return False

    await until(runs, NOTICED_WITHIN_S, "the server")


@contextmanager
def _small_disk_for_wal(server: LocalPostgres) -> Iterator[Path]:
    """Puts the WAL of a server that does not run on a disk with little room, for a block at whose end it does not run either."""
    if os.geteuid() != 0:
        raise Skipped("a disk of its own for the WAL needs root")
    wal, kept, small = server.data / "pg_wal", server.data / "pg_wal.kept", server.data.parent / "small"
    owner = wal.stat()
    size = sum(each.stat().st_size for each in wal.rglob("*")) // 2**20 + WAL_SPARE_MB
    small.mkdir()
    with ExitStack() as undo:
        undo.callback(small.rmdir)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}m,mode=0700", "tmpfs", small], timeout=10, check=False).returncode:
            raise Skipped("a tmpfs cannot be mounted here")
        undo.callback(lambda: subprocess.run(["umount", small], timeout=10, check=True))
        os.chown(small, owner.st_uid, owner.st_gid)
        _move(wal, small / "wal", owner)
        wal.rename(kept)
        wal.symlink_to(small / "wal")
        try:
            yield small
        finally:
            wal.unlink()
            shutil.rmtree(kept)
            _move(small / "wal", wal, owner)


def _move(source: Path, target: Path, owner: os.stat_result) -> None:
    """A copy that belongs to the server's account; the source goes with its disk, or when it is not needed any more."""
    shutil.copytree(source, target)
    for each in (target, *target.rglob("*")):
        os.chown(each, owner.st_uid, owner.st_gid)


def _fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(2**20))


async def _reply_lost(scene: Scene) -> None:
    """The reply to one COMMIT is swallowed: the client does not know, asks again, and finds the one effect that there was."""
    service = scene.random.choice(SERVICES)
    edge = scene.cluster.proxies[f"{service}-api/postgres"]
    before = len(scene.clients.history)

    def found_again() -> int:
        asked = scene.clients.history[before:]
        return sum(each.service == service and each.unknown > 0 and each.was_replayed for each in asked)

    with scene.unharmed():
        for _ in range(REPLIES_SWALLOWED_MAX):
            await _swallow(
                edge, f"{service}.".encode()
            )  # Event types in the arguments of an append, which is one call in its own transaction.
            with suppress(AssertionError):  # The append that lost its reply had met a conflict: nothing was committed.
                await until(lambda: found_again() > 0, FOUND_AGAIN_WITHIN_S)
                break
        assert found_again() > 0, "no answer that was lost has been found again"
        scene.happened["resolved unknown"] += found_again()
        await scene.answers()


async def _swallow(edge: Proxy, marker: bytes) -> None:
    swallowed = edge.seen().swallowed
    edge.swallow(marker)
    try:
        await until(lambda: edge.seen().swallowed > swallowed, NOTICED_WITHIN_S, "a reply to swallow")
    finally:
        edge.heal()
    assert edge.seen().swallowed == swallowed + 1


async def _exhausted(scene: Scene) -> None:
    """There is no connection left for the service: what cannot be done is refused, and told when to come again."""
    service = scene.random.choice(SERVICES)
    login = scene.cluster.database(service)
    refused = scene.clients.not_decided["store_unavailable"]
    with scene.unharmed():
        await scene.cluster.sql(service, f"ALTER ROLE {login} CONNECTION LIMIT 0")  # As at max_connections: 53300.
        try:
            await scene.cluster.sql(service, _END_SESSIONS, login)
            await asyncio.sleep(scene.lasts(smoke=4, long=30))
        finally:
            await scene.cluster.sql(service, f"ALTER ROLE {login} CONNECTION LIMIT -1")
        assert scene.clients.not_decided["store_unavailable"] > refused, "nobody was told"
        await scene.answers(1, FIRST_ANSWER_WITHIN_S, service)
        await scene.answers()


async def _terminated(scene: Scene) -> None:
    """All sessions are ended by an administrator, again and again."""
    service = scene.random.choice(SERVICES)
    with scene.unharmed():
        for _ in range(round(scene.lasts(smoke=5, long=60))):
            await scene.cluster.sql(service, _END_SESSIONS, scene.cluster.database(service))
            await asyncio.sleep(0.5)
        await scene.answers(1, FIRST_ANSWER_WITHIN_S, service)
        await scene.answers()


async def _append_stopped(scene: Scene) -> None:
    """The backend of one append stands still while it holds the log's lock: the others wait, give up and come again; nothing is skipped."""
    service = scene.random.choice(SERVICES)
    with scene.unharmed():
        refused = scene.clients.not_decided["store_unavailable"]
        stopped = await _stop_an_append(scene, service)
        try:
            await asyncio.sleep(scene.lasts(smoke=5, long=30))
        finally:
            stopped.send(signal.SIGCONT)
        assert scene.clients.not_decided["store_unavailable"] > refused, "nobody waited"
        scene.happened["append stopped with the lock"] += 1
        await scene.answers(1, FIRST_ANSWER_WITHIN_S, service)
        await scene.answers()


async def _stop_an_append(scene: Scene, service: str) -> Identity:
    """Whose turn is next is stopped while it waits, and then given the lock."""
    mine = await asyncpg.connect(scene.cluster.dsn(service, "admin"), timeout=5)
    try:
        for _ in range(10):
            async with mine.transaction():
                await mine.execute("SELECT pg_advisory_xact_lock(5104202001)")
                end = monotonic() + NOTICED_WITHIN_S
                while (pid := await mine.fetchval(_WAITS_FOR_APPEND, *APPEND_LOCK)) is None or (found := Identity.of(pid)) is None:
                    assert monotonic() < end, f"nothing is appended in {service}"
                    await asyncio.sleep(0.01)
                found.send(signal.SIGSTOP)
            if await mine.fetchval(_HOLDS_APPEND, *APPEND_LOCK) == pid:
                return found
            found.send(signal.SIGCONT)  # It had given up just then.
    finally:
        await mine.close(timeout=5)
    raise AssertionError("no append could be stopped while it held the lock")


async def _old_snapshot(scene: Scene) -> None:
    """A snapshot is held open for ten minutes: commands go on at nearly the rate that they had."""
    service = scene.random.choice(SERVICES)
    before = await _rate(scene, 60)
    holder = await asyncpg.connect(scene.cluster.dsn(service, "admin"), timeout=5)
    try:
        async with holder.transaction(isolation="repeatable_read", readonly=True):
            await holder.fetchval("SELECT count(*) FROM es.event")
            await asyncio.sleep(540)
            during = await _rate(scene, 60)
    finally:
        await holder.close(timeout=5)
    print(f"snapshot held on {service}: {during:.1f} commands a second, {before:.1f} before")
    assert during >= RATE_BESIDE_A_SNAPSHOT_MIN * before


async def _rate(scene: Scene, seconds: float) -> float:
    answered = scene.answered()
    await asyncio.sleep(seconds)
    return (scene.answered() - answered) / seconds


async def _failover(scene: Scene) -> None:
    """The server is lost for good under load, and the synchronous standby takes its place."""
    await _fails_over(scene)


async def _failover_behind(scene: Scene) -> None:
    """As before, but the standby had been silent for a while: nothing that it does not have may have been acknowledged or published."""
    thaw = freeze(scene.cluster.standby_of[STANDBY_OF])
    refused = scene.clients.not_decided["store_unavailable"]
    try:
        await asyncio.sleep(scene.lasts(smoke=8, long=30))
        assert scene.clients.not_decided["store_unavailable"] > refused, "commits did not wait for the standby"
        known = len(scene.clients.history)
        await asyncio.sleep(2)
        more = [each for each in scene.clients.history[known:] if each.service == STANDBY_OF and each.accepted and each.types]
        assert not more, f"accepted without the standby: {more}"
        scene.happened["append waited for the standby"] += 1
        await asyncio.to_thread(scene.cluster.server(STANDBY_OF).kill)
    finally:
        thaw()
    await _fails_over(scene)


async def _fails_over(scene: Scene) -> None:
    with scene.unharmed():
        try:
            await scene.cluster.fail_over(STANDBY_OF)
            took = await scene.answers(1, 30, STANDBY_OF)
            print(f"failed over: first answer {took:.1f} s after the promotion")
            ((state,),) = await scene.cluster.sql(STANDBY_OF, "SELECT state FROM es.log")
            assert state == "open", "Kafka holds what the standby never had"
            scene.happened["failover"] += 1
        finally:
            await scene.cluster.follow(STANDBY_OF)
        await scene.answers(1, FIRST_ANSWER_WITHIN_S, STANDBY_OF)


FAULTS: tuple[Fault, ...] = (
    Fault("F9.1", "postmaster killed", 15, False, BOTH, _killed),
    Fault("F9.2", "backend killed", 15, False, BOTH, _backend_killed),
    Fault("F10", "PostgreSQL paused", 15, False, BOTH, _frozen),
    Fault("F11", "WAL disk full", 30, False, BOTH, _wal_disk_full),
    Fault("F13", "COMMIT reply lost", 15, True, BOTH, _reply_lost),
    Fault("F14.1", "connections exhausted", 15, False, BOTH, _exhausted),
    Fault("F14.2", "backends terminated in a storm", 15, False, BOTH, _terminated),
    Fault("F15.1", "an append stopped with the lock", 15, False, BOTH, _append_stopped),
    Fault("F15.2", "an old snapshot", 15, True, ONLY_LONG, _old_snapshot),
    Fault("F16.1", "failover to the standby", 30, False, BOTH, _failover),
    Fault("F16.2", "failover to a standby that had been silent", 30, False, BOTH, _failover_behind),
)
