"""What `recover` takes from Kafka, what it refuses to take, and that it may be killed and run again (D1, F21, F24)."""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from deploy.local.kafka import LocalKafka
from services.hours.application import CLAIMS
from shared.codec import Codec
from shared.contracts.topics import EVENTS, UPCASTERS
from shared.envelope import record_of
from shared.errors import LogClosedError
from shared.metrics import Metrics
from shared.postgres import connect
from shared.privacy import PersonalKeys
from shared.recover import Recovered, RecoverError, Recovery, recover
from shared.relay.publisher import Publisher
from shared.relay.steps import Link, chained
from shared.states import APPEND_LOCK, Because
from tests.conftest import Databases
from tests.integration.recover.conftest import Site, run
from tests.integration.relay.conftest import SERVICE, Log, opened, raw, until

_KEPT = """
    SELECT event.*, command.outcome, command.position AS first, command.event_count FROM es.event LEFT JOIN es.command USING (command_id)
    ORDER BY event.position
"""


class Copied:
    """A log, the copy that was made of its database at position 10, and what it became until then: 30 events, all published."""

    def __init__(self, databases: Databases, servers: str, prefix: str) -> None:
        self.databases = databases
        self.servers = servers
        self.prefix = prefix
        self.dsn = databases()
        self.copy = ""
        self.lines: list[str] = []

    def opened(self, dsn: str) -> Any:
        return opened(dsn, self.servers, self.prefix)

    async def live(self, *, unpublished: int = 0, sealed_in_copy: bool = True) -> Sequence[Any]:
        """The rows that must come back."""
        async with self.opened(self.dsn) as log:
            await log.append(6)
            if sealed_in_copy:
                await self.publish(log, 6)
            await log.append(4)
        self.copy = self.databases(self.dsn)
        async with self.opened(self.dsn) as log:
            await log.append(5)
            await log.append(15)
            await self.publish(log, 30)
            kept = await rows(log)
            await log.append(unpublished)
            await self.say_heads(log, head=30 + unpublished, published=30)
        return kept

    async def publish(self, log: Log, head: int) -> None:
        async with log.relaying():
            await until(lambda: log.is_whole(head))

    async def say_heads(self, log: Log, *, head: int, published: int) -> None:
        """What the relay would have said last."""
        publisher = Publisher(self.servers, self.prefix, SERVICE, Metrics(SERVICE, "test"))
        said = {"log_id": str(log.log_id), "head": head, "sealed": published, "published": published, "chain_hash": "00" * 32}
        await publisher.say(json.dumps({**said, "time": datetime.now(UTC).isoformat()}).encode())
        await publisher.close()

    async def recover(self, log: Log, *, accept_loss: bool = False) -> Recovered:
        """What the command does."""
        connection = await connect(log.dsn, "recover", statement_seconds=30)
        try:
            return await recover(
                Recovery(
                    connection=connection,
                    service=SERVICE,
                    servers=self.servers,
                    prefix=self.prefix,
                    codec=Codec(EVENTS, UPCASTERS),
                    keys=PersonalKeys(log.pool, bytes(32)),
                    claims=CLAIMS,
                    because=Because("tester", "a test"),
                    say=self.lines.append,
                    accept_loss=accept_loss,
                )
            )
        finally:
            await connection.close()


async def rows(log: Log) -> Sequence[Any]:
    """Events with their answers; when they were recorded is not in Kafka."""
    found = await log.pool.fetch(_KEPT)
    return [{name: value for name, value in row.items() if name != "recorded_at"} for row in found]


async def state(log: Log) -> str:
    return str(await log.pool.fetchval("SELECT state FROM es.log"))


@pytest.fixture
def copied(database: Databases, kafka_server: LocalKafka, topic_prefix: str) -> Copied:
    return Copied(database, kafka_server.servers, topic_prefix)


@pytest.mark.parametrize("sealed_in_copy", [True, False])
async def test_the_tail_comes_back_with_the_answers_and_the_log_goes_on_after_it(copied: Copied, sealed_in_copy: bool) -> None:
    kept = await copied.live(sealed_in_copy=sealed_in_copy)
    async with copied.opened(copied.copy) as log:
        done = await copied.recover(log)
        assert (done.restored_head, done.head, done.lost, done.without_keys) == (10, 30, 0, [])
        assert await rows(log) == kept
        assert await state(log) == "open"
        await log.append(3)
        await copied.publish(log, 33)
        assert await log.pool.fetchval("SELECT bool_and(previous < position) FROM es.seal")


async def test_a_log_that_lacks_nothing_is_opened_as_it_is(copied: Copied) -> None:
    kept = await copied.live()
    async with copied.opened(copied.dsn) as log:
        done = await copied.recover(log)
        assert (done.restored_head, done.head) == (30, 30)
        assert await rows(log) == kept
        assert await state(log) == "open"


async def test_events_that_were_acknowledged_and_never_published_are_counted_as_lost(copied: Copied) -> None:
    kept = await copied.live(unpublished=4)
    async with copied.opened(copied.copy) as log:
        assert (await copied.recover(log)).lost == 4
        assert await rows(log) == kept


async def test_a_log_that_gave_a_position_to_something_else_is_refused_and_the_position_named(copied: Copied) -> None:
    await copied.live()
    async with copied.opened(copied.copy) as log:
        await log.append(2)
        with pytest.raises(RecoverError, match="position 11 was given to another event here"):
            await copied.recover(log)
        assert await state(log) == "recovering"
        with pytest.raises(LogClosedError):
            await log.append(1)
        assert await log.pool.fetchval("SELECT count(*) FROM es.event") == 12


async def test_a_topic_that_went_another_way_is_refused_and_the_position_named(copied: Copied) -> None:
    await copied.live()
    async with copied.opened(copied.copy) as log:
        lying = [raw(each) for each in await log.records()]
        log.rewrite([*lying[:19], (lying[19][0], b"{}", lying[19][2]), *lying[20:]])
        with pytest.raises(RecoverError, match="From position 20 on the two have gone different ways"):
            await copied.recover(log)
        assert await state(log) == "recovering"
        log.rewrite(lying)  # The topic was brought back: what had been taken before stands, the rest follows.
        assert (await copied.recover(log)).head == 30


async def test_a_topic_that_differs_from_what_was_sealed_is_refused_and_the_position_named(copied: Copied) -> None:
    await copied.live()
    async with copied.opened(copied.copy) as log:
        lying = [raw(each) for each in await log.records()]
        records = [record_of(headers, value) for _, value, headers in lying]
        forged = chained(Link(0, b"another beginning".ljust(32)), records)
        log.rewrite([(each.key, each.value, each.headers) for each in forged])
        with pytest.raises(RecoverError, match="at position 6 it holds another event than was sealed here"):
            await copied.recover(log)
        assert await state(log) == "recovering"


async def test_a_topic_that_has_lost_what_others_may_have_read_is_taken_only_on_purpose(copied: Copied) -> None:
    kept = await copied.live()
    async with copied.opened(copied.copy) as log:
        log.rewrite([raw(each) for each in await log.records()][:25])
        with pytest.raises(RecoverError, match="Kafka once held position 30 and now ends at 25"):
            await copied.recover(log)
        assert await state(log) == "recovering"
        done = await copied.recover(log, accept_loss=True)
        assert (done.restored_head, done.head, done.lost) == (10, 25, 5)
        assert [row["payload"] for row in await rows(log)] == [row["payload"] for row in kept[:25]]
        assert await state(log) == "open"


async def test_a_log_in_another_cluster_is_closed_until_recover_has_run(copied: Copied, database: Databases) -> None:
    await copied.live()
    admin = await connect(database.admin(copied.dsn), "elsewhere")
    await admin.execute("UPDATE es.log SET system_id = system_id + 1")
    await admin.close()
    async with copied.opened(copied.dsn) as log:
        with pytest.raises(LogClosedError, match="restored"):
            await log.append(1)
        await copied.recover(log)
        await log.append(1)


async def test_a_log_is_closed_for_recovery_after_the_append_that_is_under_way(copied: Copied) -> None:
    async with copied.opened(copied.dsn) as log:
        appending = await connect(copied.dsn, "appending")
        transaction = appending.transaction()
        await transaction.start()
        await appending.execute("SELECT pg_advisory_xact_lock($1)", APPEND_LOCK)
        closing = asyncio.create_task(log.pool.execute("SELECT es.wait_for_recovery()"))
        await until(lambda: _waits_for_the_lock(log))
        assert not closing.done()
        await transaction.commit()
        await closing
        assert await state(log) == "recovering"
        await appending.close()


async def _waits_for_the_lock(log: Log) -> bool:
    return bool(await log.pool.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"))


async def test_a_recovery_that_was_killed_goes_on_where_it_stood(site: Site) -> None:
    dsn, servers = site.dsn("hours"), site.kafka.servers
    async with opened(dsn, servers, site.prefix) as log, log.relaying():
        await log.append(500)
        await until(lambda: log.is_whole(500))
    copy = f"{site.database('hours')}_copy"
    site.postgres.create_database(copy, site.database("hours"), site.database("hours"))
    async with opened(dsn, servers, site.prefix) as log, log.relaying():
        await log.append(8000, size=400)
        await until(lambda: log.is_whole(8500))
        kept = await rows(log)
    site.postgres.drop_database(site.database("hours"))
    site.postgres.create_database(site.database("hours"), site.database("hours"), copy)

    environment = site.environment("hours")
    killed = await run("hours", environment, "recover", "--reason", "a test", kill_at="imported up to")
    assert killed.code == -9
    async with opened(dsn, servers, site.prefix) as log:
        assert await state(log) == "recovering"
        assert 500 < (await log.store.head()).position < 8500
        with pytest.raises(LogClosedError):
            await log.append(1)
    again = await run("hours", environment, "recover", "--reason", "a test")
    assert again.code == 0, again.out
    assert "open at position 8500: the copy held 500, 8000 came back from Kafka" in again.out
    async with opened(dsn, servers, site.prefix) as log:
        assert await rows(log) == kept
    verified = await run("hours", environment, "verify")
    assert verified.code == 0, verified.out
    assert "nothing differs: 8500 events in the log, 8500 records in the topic" in verified.out
