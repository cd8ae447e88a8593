"""Relays that die, wake late or meet another one; topics that lost, changed or gained something (F2, F6, F21, F24, F30, F31)."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.structs import TopicPartition

from deploy.local.kafka import LocalKafka
from shared.metrics import Metrics
from shared.relay import FencedError
from shared.relay.publisher import Publisher
from shared.relay.readback import READ_RECORDS_MAX
from shared.relay.steps import START, Link, Outgoing, chained
from tests.conftest import Databases
from tests.integration.relay.conftest import SERVICE, Log, Raw, finding, noticed, opened, raw, sample, until

ROOT = Path(__file__).parents[3]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(SERVICE, "test")


async def kill_when(log: Log, where: str) -> None:
    """Runs a relay as a process of its own and ends it with SIGKILL once it stands at `where`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.integration.relay.halting",
        log.dsn,
        log.servers,
        log.prefix,
        where,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            while where.encode() not in await process.stdout.readline():
                assert process.returncode is None
    finally:
        process.kill()
        await process.wait()


async def test_a_page_that_was_sealed_by_a_killed_relay_is_published_by_the_next(log: Log) -> None:
    await log.append(600)
    await kill_when(log, "sealed")
    assert await log.pool.fetchval("SELECT max(position) FROM es.seal") == 600
    assert await log.positions() == []
    await log.append(1)
    async with log.relaying():
        await until(lambda: log.is_whole(601))
    assert await log.positions() == list(range(1, 602))


async def test_a_page_whose_acknowledgement_was_never_read_is_not_lost_and_goes_on_where_the_topic_ends(log: Log) -> None:
    await log.append(600)
    await kill_when(log, "published")
    await log.append(1)
    async with log.relaying():
        await until(lambda: log.is_whole(601))
    assert await log.positions() == list(range(1, 602))


async def test_a_relay_that_wakes_late_repeats_the_page_it_held_and_is_fenced(log: Log, metrics: Metrics) -> None:
    publisher = Publisher(log.servers, log.prefix, SERVICE, metrics)
    held, let_go = asyncio.Event(), asyncio.Event()

    async def publish_late(page: Sequence[Outgoing]) -> Sequence[int]:
        held.set()
        await let_go.wait()
        return await publisher.publish(page)

    await log.append(5)
    async with log.relaying(metrics, publish_late) as late:
        await asyncio.wait_for(held.wait(), 20)
        async with log.relaying():
            await until(lambda: log.is_whole(5))
            await log.append(3)
            await until(lambda: log.is_whole(8))
        let_go.set()
        with pytest.raises(FencedError):
            await asyncio.wait_for(asyncio.shield(late), 20)
    await publisher.close()
    in_topic = [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5]
    assert await log.positions() == in_topic
    assert await log.is_whole(8)
    assert sample(metrics, "relay_fenced_total") == 1
    await log.append(2)
    async with log.relaying():  # The highest of the last records, not the last one, is where it goes on.
        await until(lambda: log.is_whole(10))
    assert await log.positions() == [*in_topic, 9, 10]


async def test_a_relay_that_loses_the_race_for_a_seal_publishes_nothing(log: Log, metrics: Metrics) -> None:
    await log.append(5)
    first = chained(START, await log.store.read_page(0, 1))[0].link
    waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted)"

    async def is_waiting() -> bool:
        return bool(await log.pool.fetchval(waits))

    async with log.pool.acquire() as rival, rival.transaction():
        await rival.execute("INSERT INTO es.seal (previous, position, hash) VALUES (0, 1, $1)", first.hash)
        stop = asyncio.Event()
        loser = asyncio.create_task(log.relay(metrics).run(stop))
        await until(is_waiting)
    with pytest.raises(FencedError):
        await asyncio.wait_for(loser, 10)
    assert await log.positions() == []
    assert sample(metrics, "relay_fenced_total") == 1


async def test_of_two_relays_at_once_one_is_fenced_and_the_log_has_no_fork(log: Log) -> None:
    async with log.relaying() as one, log.relaying() as other:
        appended = 0
        while not (one.done() or other.done()):
            await log.append(2)
            appended += 2
            assert appended < 2000, "both go on"
        await log.append(2)
        await until(lambda: log.is_whole(appended + 2))
        fenced = [task for task in (one, other) if task.done()]
        assert len(fenced) == 1
        assert isinstance(fenced[0].exception(), FencedError)
    rows = await log.pool.fetch("SELECT previous, position FROM es.seal ORDER BY position")
    assert [row["previous"] for row in rows] == [0, *(row["position"] for row in rows[:-1])]


async def published(log: Log, count: int) -> list[Raw]:
    """Appends and publishes; what then lies in the topic."""
    await log.append(count)
    async with log.relaying():
        await until(lambda: log.is_whole(count))
        await until(lambda: is_marked(log, count))
    return [raw(record) for record in await log.records()]


async def is_marked(log: Log, position: int) -> bool:
    return bool(await log.pool.fetchval("SELECT EXISTS (SELECT FROM es.relay_mark WHERE position = $1)", position))


@pytest.mark.parametrize("running", [True, False], ids=["under a relay at work", "while no relay runs"])
async def test_a_hole_is_published_again_from_the_hole_to_the_head(log: Log, metrics: Metrics, running: bool) -> None:
    records = await published(log, 20)
    without = records[:6] + records[7:]
    if not running:
        log.rewrite(without)
    async with log.relaying(metrics):
        if running:
            await until(lambda: sample(metrics, "log_published_position") == 20)
            log.rewrite(without)
        await noticed(metrics, "hole")
        await until(lambda: log.is_whole(20))
        await until(lambda: sample(metrics, "relay_republished_total") == 14)
    assert await log.positions() == [*range(1, 7), *range(8, 21), *range(7, 21)]
    assert finding(metrics, "hole") == 1


@pytest.mark.parametrize("running", [True, False], ids=["under a relay at work", "while no relay runs"])
async def test_a_hole_in_a_topic_as_long_as_before_is_noticed_too(log: Log, metrics: Metrics, running: bool) -> None:
    records = await published(log, 20)
    as_long = [*records[:6], *records[7:], records[0]]
    if not running:
        log.rewrite(as_long)
    async with log.relaying(metrics):
        if running:
            await until(lambda: sample(metrics, "log_published_position") == 20)
            log.rewrite(as_long)
        await noticed(metrics, "hole", "rewritten")
        await until(lambda: log.is_whole(20))


async def test_a_changed_record_counts_as_missing(log: Log, metrics: Metrics) -> None:
    records = await published(log, 12)
    key, value, headers = records[4]
    assert value is not None
    log.rewrite([*records[:4], (key, value.replace(b"n", b"m"), headers), *records[5:11]])
    async with log.relaying(metrics):
        await until(lambda: log.is_whole(12))
    assert finding(metrics, "changed") == 1
    assert sample(metrics, "relay_republished_total") == 8


async def test_a_lost_tail_is_published_again(log: Log, metrics: Metrics) -> None:
    records = await published(log, 12)
    async with log.relaying(metrics):
        await until(lambda: sample(metrics, "log_published_position") == 12)
        log.rewrite(records[:9])
        await noticed(metrics, "lost_tail")
        await until(lambda: log.is_whole(12))
        assert finding(metrics, "lost_tail") == 1
        assert await log.positions() == list(range(1, 13))


async def test_a_lost_beginning_is_published_again(log: Log, metrics: Metrics) -> None:
    await published(log, 12)
    async with log.relaying(metrics):
        await until(lambda: sample(metrics, "log_published_position") == 12)
        await delete_before(log, 5)
        await noticed(metrics, "rewritten")
        await until(lambda: log.is_whole(12))
    assert await log.positions() == [*range(6, 13), *range(1, 13)]


async def delete_before(log: Log, offset: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=log.servers)
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(log.topic, 0): RecordsToDelete(before_offset=offset)})
    finally:
        await admin.close()


@pytest.mark.parametrize("running", [True, False], ids=["under a relay at work", "while no relay runs"])
@pytest.mark.parametrize("lost", ["emptied", "all topics gone"])
async def test_topics_that_were_emptied_or_deleted_are_made_and_filled_again(log: Log, metrics: Metrics, running: bool, lost: str) -> None:
    def lose() -> None:
        if lost == "emptied":
            log.rewrite([])
        else:
            log.delete(log.topic, f"{log.prefix}hours.heads")

    await published(log, 1200)
    if not running:
        lose()
    async with log.relaying(metrics):
        if running:
            await until(lambda: sample(metrics, "log_published_position") == 1200)
            lose()
        await noticed(metrics, "rewritten", "lost_tail")
        await log.append(30)
        await until(lambda: log.is_whole(1230))
        await until(lambda: sample(metrics, "log_published_position") == 1230)
    assert await log.positions() == list(range(1, 1231))


async def test_a_foreign_record_in_the_place_of_the_next_is_told_and_the_next_is_published_all_the_same(log: Log, metrics: Metrics) -> None:
    records = await published(log, 3)
    key, value, headers = records[2]
    chain = dict(headers)
    chain["ce_sequence"] = b"4".zfill(20)
    intruder = (key, value, list(chain.items()))
    other_log = (
        key,
        value,
        [*((name, text) for name, text in headers if name != "ce_logid"), ("ce_logid", b"00000000-0000-0000-0000-000000000001")],
    )
    nonsense = (b"k", b"not of ours", [("ce_logid", b"\xff\xfe")])
    async with log.relaying(metrics):
        await until(lambda: sample(metrics, "log_published_position") == 3)
        await log.put([intruder, other_log, nonsense])
        await log.append(1)
        await until(lambda: log.is_whole(4))
        await until(lambda: finding(metrics, "foreign") == 2 and finding(metrics, "changed") == 1)
        assert finding(metrics, "jump") == 1
    again = Metrics(SERVICE, "test")
    await log.put([intruder])
    async with log.relaying(again):  # One that begins after it: the intruder is not taken for the end of the log.
        await log.append(1)
        await until(lambda: log.is_whole(5))
    assert await log.pool.fetchval("SELECT state FROM es.log") == "open"


async def test_more_foreign_records_than_are_read_at_a_time_are_told_once_and_hide_nothing(log: Log, metrics: Metrics) -> None:
    await published(log, 3)
    foreign: list[Raw] = [(b"k", b"not of ours", [("ce_logid", b"\xff\xfe")])] * (READ_RECORDS_MAX + 100)
    async with log.relaying(metrics):
        await until(lambda: sample(metrics, "log_published_position") == 3)
        await log.put(foreign)
        await until(lambda: finding(metrics, "foreign") == len(foreign))
        await log.append(1)
        await until(lambda: is_marked(log, 4))
        await log.append(1)
        await until(lambda: is_marked(log, 5))
    assert (finding(metrics, "foreign"), finding(metrics, "lost_tail"), finding(metrics, "hole")) == (len(foreign), 0, 0)


async def test_a_record_that_fits_the_chain_but_was_never_sealed_is_not_taken(log: Log, metrics: Metrics) -> None:
    await published(log, 3)
    last: bytes = await log.pool.fetchval("SELECT hash FROM es.seal WHERE position = 3")
    forged = chained(Link(3, last), [replace((await log.store.read_page(2, 1))[0], position=4, event_id=uuid4())])[0]
    async with log.relaying(metrics):
        await until(lambda: sample(metrics, "log_published_position") == 3)
        await log.put([(forged.key, forged.value, forged.headers)])
        await until(lambda: finding(metrics, "changed") == 1)
        await log.append(2)
        await until(lambda: is_marked(log, 5))
    assert await log.positions() == [1, 2, 3, 4, 4, 5]


async def test_a_record_that_the_client_library_cannot_even_read_is_passed_over(log: Log, metrics: Metrics) -> None:
    await published(log, 3)
    program = (sys.executable, "-m", "tests.integration.relay.unreadable", log.servers, log.topic)
    process = await asyncio.create_subprocess_exec(*program, cwd=ROOT, env=os.environ | {"AIOKAFKA_NO_EXTENSIONS": "1"})
    assert await asyncio.wait_for(process.wait(), 30) == 0
    async with log.relaying(metrics):
        await log.append(2)
        await until(lambda: log.is_whole(5))
        await until(lambda: finding(metrics, "foreign") == 1)
        await until(lambda: is_marked(log, 5))


async def test_into_a_topic_that_holds_only_another_log_nothing_is_published(log: Log, metrics: Metrics) -> None:
    await log.ensure_topics()
    await log.put([(b"k", b"{}", [("ce_logid", b"00000000-0000-0000-0000-000000000001"), ("ce_sequence", b"1".zfill(20))])])
    await log.append(2)
    async with log.relaying(metrics):
        await until(lambda: finding(metrics, "foreign") >= 2)
        assert await log.positions() == [0]


@pytest.fixture
async def restored(log: Log, database: Databases) -> AsyncIterator[Log]:
    """The log as it was after five events, while ten are in Kafka."""
    await published(log, 5)
    await log.store.close()
    await log.pool.close()
    copy = database(log.dsn)
    async with opened(log.dsn, log.servers, log.prefix) as original:
        await original.append(5)
        async with original.relaying():
            await until(lambda: original.is_whole(10))
    async with opened(copy, log.servers, log.prefix) as made:
        yield made


async def test_a_log_that_kafka_is_ahead_of_waits_for_recovery_and_publishes_nothing(restored: Log, metrics: Metrics) -> None:
    heads = f"{restored.prefix}hours.heads"
    before = len(await restored.records(heads))
    async with restored.relaying(metrics):
        await until(lambda: sample(metrics, "log_recovering") == 1)
        assert await restored.pool.fetchval("SELECT state FROM es.log") == "recovering"
        assert finding(metrics, "ahead") == 1
    assert await restored.positions() == list(range(1, 11))
    assert len(await restored.records(heads)) == before


async def test_a_restored_log_that_went_on_alone_waits_for_recovery_too(restored: Log, metrics: Metrics) -> None:
    await restored.append(8)
    async with restored.relaying(metrics):
        await until(lambda: sample(metrics, "log_recovering") == 1)
        assert finding(metrics, "diverged") == 1
    assert await restored.positions() == list(range(1, 11))


async def test_a_record_that_the_broker_refuses_holds_the_relay_but_breaks_nothing(
    log: Log, metrics: Metrics, kafka_server: LocalKafka
) -> None:
    await published(log, 3)
    async with log.relaying(metrics):
        await until(lambda: sample(metrics, "log_published_position") == 3)
        await set_message_bytes_max(kafka_server, log.topic, 5_000)
        await log.append(1, size=20_000)
        await until(lambda: metrics.producer_recreated_total.labels("MessageSizeTooLargeError")._value.get() >= 1)
        await log.append(2)
        await until(lambda: sample(metrics, "relay_backlog_events") == 3)
        assert sample(metrics, "relay_oldest_unpublished_timestamp_seconds") > 1_700_000_000
        await set_message_bytes_max(kafka_server, log.topic, 1024 * 1024)
        await until(lambda: log.is_whole(6))
    assert await log.positions() == [1, 2, 3, 4, 5, 6]


async def set_message_bytes_max(server: LocalKafka, topic: str, limit: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=server.servers)
    await admin.start()
    try:
        config = {"retention.ms": "-1", "min.insync.replicas": "1", "compression.type": "producer", "max.message.bytes": str(limit)}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, config)])
    finally:
        await admin.close()
