"""A log on another timeline, or without its standby: nothing is accepted or published that was not compared, or may be taken back."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from uuid import uuid4

import asyncpg
import pytest

from deploy.local.kafka import LocalKafka
from deploy.local.postgres import LocalPostgres
from shared.errors import LogClosedError, StoreUnavailableError
from shared.eventstore.values import Answer
from shared.kafka import LOST_ERRORS
from shared.metrics import Metrics
from tests.conftest import OWNER, Databases
from tests.integration.eventstore.decided import activity, decided
from tests.integration.recover.backup import base_backup, restore
from tests.integration.recover.test_recover import Copied, state
from tests.integration.relay.conftest import SERVICE, Log, finding, opened, sample, until

PASSWORD = "a-password-of-the-test-run"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPostgres]:
    """One that keeps what it acknowledges."""
    made = LocalPostgres(tmp_path_factory.mktemp("moved"), PASSWORD)
    made.start()
    made.ensure_role(OWNER, PASSWORD)
    yield made
    made.remove()


@pytest.fixture
def databases(server: LocalPostgres) -> Databases:
    return Databases(server, PASSWORD)


async def until_writable(server: LocalPostgres) -> None:
    """Until its recovery is over."""

    async def is_over() -> bool:
        try:
            connection = await asyncpg.connect(server.dsn("postgres"))
        except (asyncpg.CannotConnectNowError, OSError):
            return False
        try:
            return not await connection.fetchval("SELECT pg_is_in_recovery()")
        finally:
            await connection.close()

    await until(is_over)


async def changes(log: Log) -> list[tuple[str, ...]]:
    """Of the log's timeline: what it was, what it became, who said so."""
    rows = await log.pool.fetch("SELECT was, becomes, who FROM es.log_change WHERE subject = 'timeline' ORDER BY number")
    return [tuple(row) for row in rows]


async def test_a_new_timeline_forces_the_comparison_with_kafka(
    server: LocalPostgres, databases: Databases, kafka_server: LocalKafka, topic_prefix: str, tmp_path: Path
) -> None:
    """Lost nothing, it opens by itself; lost a tail, it waits for `recover`. Kafka away, it waits for Kafka."""
    copied = Copied(databases, kafka_server.servers, topic_prefix)
    async with copied.opened(copied.dsn) as log:
        await log.append(3)
        await copied.publish(log, 3)
    backup = base_backup(server, tmp_path / "base")

    restore(server, backup)
    await until_writable(server)
    async with copied.opened(copied.dsn) as log:
        with pytest.raises(LogClosedError, match="not compared"):
            await log.append(1)
        with pytest.raises(LogClosedError, match="not compared"):
            await log.store.refuse_closed()
        away = opened(copied.dsn, "127.0.0.1:1", topic_prefix)
        async with away as alone:
            with pytest.raises(LOST_ERRORS):
                await alone.relay().compare()
            with pytest.raises(LogClosedError, match="not compared"):
                await alone.append(1)
        await log.relay().compare()
        await log.append(5)
        await copied.publish(log, 8)
        assert await changes(log) == [("1", "2", "relay")]

    restore(server, backup)
    await until_writable(server)
    metrics = Metrics(SERVICE, "test")
    async with copied.opened(copied.dsn) as log:
        with pytest.raises(LogClosedError, match="not compared"):
            await log.append(1)
        async with log.relaying(metrics):
            await until(lambda: sample(metrics, "log_recovering") == 1)
        assert finding(metrics, "ahead") == 1
        assert await changes(log) == []
        with pytest.raises(LogClosedError, match="not compared"):
            await log.append(1)
        done = await copied.recover(log)
        assert (done.restored_head, done.head, await state(log)) == (3, 8, "open")
        await log.append(1)
        await copied.publish(log, 9)


@asynccontextmanager
async def no_standby(server: LocalPostgres, log: Log) -> AsyncIterator[None]:
    """A synchronous standby is declared, and is not there."""

    async def shown(names: str) -> None:
        server.execute("SELECT pg_reload_conf()")

        async def is_shown() -> bool:
            return bool(await log.pool.fetchval("SHOW synchronous_standby_names") == names)

        await until(is_shown)

    server.execute("ALTER SYSTEM SET synchronous_standby_names = 'absent'")
    await shown("absent")
    try:
        yield
    finally:
        server.execute("ALTER SYSTEM RESET synchronous_standby_names")
        await shown("")


async def test_neither_an_append_nor_its_repeat_is_accepted_without_the_standby(
    server: LocalPostgres, databases: Databases, kafka_server: LocalKafka, topic_prefix: str
) -> None:
    request = decided(activity(), 0)
    async with opened(databases(), kafka_server.servers, topic_prefix, statement_seconds=3) as log:
        async with no_standby(server, log):
            with pytest.raises(StoreUnavailableError):
                await log.store.append(request)
            assert await log.store.answer_of(request.command_id) is None
            await until(lambda: break_off(server, log))  # From now on anybody reads it, here alone.
            await until(lambda: is_head(log, 1))
            began = monotonic()
            outcomes = await asyncio.gather(log.store.append(request), log.store.answer_of(request.command_id), return_exceptions=True)
            assert [type(each) for each in outcomes] == [StoreUnavailableError, StoreUnavailableError]
            assert monotonic() - began < 4.5
            assert await log.store.answer_of(uuid4()) is None  # What is not known has nothing to wait for.
        again = await log.store.append(request)
        assert isinstance(again, Answer)
        assert (again.repeated, again.first_position) == (True, 1)


async def break_off(server: LocalPostgres, log: Log) -> bool:
    """Ends the wait for the standby of whoever waits in the log's database; whether there was one."""
    database = log.dsn.rpartition("/")[2]
    waiting = f"SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND datname = '{database}'"
    return "t" in (await asyncio.to_thread(server.execute, waiting))


async def is_head(log: Log, position: int) -> bool:
    return (await log.store.head()).position == position


async def test_what_is_sealed_here_alone_is_not_published_before_the_standby_has_it(
    server: LocalPostgres, databases: Databases, kafka_server: LocalKafka, topic_prefix: str
) -> None:
    """The waits are broken off, and then anybody reads event and seal; a failover would take them back all the same."""
    metrics = Metrics(SERVICE, "test")
    async with opened(databases(), kafka_server.servers, topic_prefix, statement_seconds=0.5) as log:
        await log.append(1)
        async with log.relaying(metrics):
            await until(lambda: log.is_whole(1))
            async with no_standby(server, log):
                appending = asyncio.create_task(log.append(2))
                await until(lambda: break_off(server, log))
                await appending
                await until(lambda: is_sealed(log, 3))
                tries = sample(metrics, "retries_total")
                await until(lambda: sample(metrics, "retries_total") >= tries + 2)
                assert await log.positions() == [1]
            await until(lambda: log.is_whole(3))
        assert await log.positions() == [1, 2, 3]


async def is_sealed(log: Log, position: int) -> bool:
    return bool(await log.pool.fetchval("SELECT max(position) = $1 FROM es.seal", position))
