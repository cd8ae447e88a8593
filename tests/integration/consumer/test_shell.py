"""The shell on a real broker: nothing is lost, nothing doubled, and Kafka may come and go."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from time import monotonic
from typing import Any

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from deploy.local.kafka import HOST, LocalKafka, free_ports
from shared.consumer import shell
from shared.consumer.apply import Consumer, FencedError
from shared.consumer.shell import Subscription
from tests.conftest import Databases
from tests.integration.consumer.conftest import Base
from tests.integration.consumer.log import POISON, Log, Message, create_topic, delete_topic, part, publish

WITHIN = 30.0


async def until(what: Callable[[], Awaitable[object]], within: float = WITHIN) -> None:
    """Asks again until it is so."""
    end = monotonic() + within
    while not await what():
        assert monotonic() < end, "it did not come about in time"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def reading(
    base: Base, servers: str, topic: str, reader: Consumer | None = None
) -> AsyncIterator[tuple[Consumer, "asyncio.Task[None]"]]:
    """A consumer at work; it is told to stop at the end, and must end in time."""
    stop, made = asyncio.Event(), reader or Consumer(part(), base.pool, base.metrics)
    task = asyncio.create_task(Subscription(made, servers, topic, f"{topic}.group", stop, base.metrics).run())
    try:
        yield made, task
    finally:
        stop.set()
        async with asyncio.timeout(20):
            await asyncio.wait([task])
    if not task.cancelled() and not isinstance(task.exception(), FencedError | None):
        task.result()


async def test_a_log_is_applied_from_its_start_and_kafka_is_told_how_far(base: Base, kafka_server: LocalKafka, topic: str) -> None:
    log = Log()
    await publish(kafka_server.servers, topic, log.count(*((f"k{n % 50}", 100 + n) for n in range(1500))))
    async with reading(base, kafka_server.servers, topic) as (reader, _):
        await until(lambda: is_at(base, 1500))
        await publish(kafka_server.servers, topic, log.count(("late", 1)))
        await until(lambda: is_at(base, 1501))
        assert reader.position == 1501

        async def told() -> bool:
            asking = AIOKafkaConsumer(bootstrap_servers=kafka_server.servers, group_id=f"{topic}.group", enable_auto_commit=False)
            asking.assign([TopicPartition(topic, 0)])
            await asking.start()
            try:
                return bool(await asking.committed(TopicPartition(topic, 0)) == 1501)
            finally:
                await asking.stop()

        await until(told)
    assert [position for position, _, _ in await base.tallied()] == list(range(1, 1502))


async def test_what_was_being_tried_again_when_the_role_ended_is_no_error(base: Base, kafka_server: LocalKafka, topic: str) -> None:
    complaints, taking, ended = list[str](), asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context["message"]))

    class AwayAtTheEnd(Consumer):
        async def take(self, messages: Sequence[Any]) -> bool | None:
            taking.set()
            await ended.wait()
            raise TimeoutError

    await publish(kafka_server.servers, topic, Log().count(("a", 1)))
    stop = asyncio.Event()
    reader = AwayAtTheEnd(part(), base.pool, base.metrics)
    task = asyncio.create_task(Subscription(reader, kafka_server.servers, topic, f"{topic}.group", stop, base.metrics).run())
    async with asyncio.timeout(WITHIN):
        await taking.wait()
        stop.set()
        for _ in range(20):  # Turns of the loop: the connection is being closed by then.
            await asyncio.sleep(0)
        ended.set()
        await task
    del task, reader
    gc.collect()  # A future that nobody asked complains when it goes.
    assert complaints == []


async def is_at(base: Base, position: int) -> bool:
    return await base.applied() >= position


async def test_null_and_foreign_headers_and_bodies_of_any_shape_lose_nothing(base: Base, kafka_server: LocalKafka, topic: str) -> None:
    """In one batch with good records: the parser of the framework would drop the whole batch for one such header (F4)."""
    log = Log()
    good = log.count(*((f"k{n}", 100 + n) for n in range(40)))
    bad = [
        replace(good[3], headers=[("x", None)]),
        replace(good[4], headers=[("x", b"\xff\xfe")]),
        Message(0, [], b"[1, 2"),
        Message(0, [], None),
        Message(0, [("content-type", b"application/json")], b'{"a": 1}'),
    ]
    await publish(kafka_server.servers, topic, [*good[:20], *bad, *good[20:]])
    async with reading(base, kafka_server.servers, topic):
        await until(lambda: is_at(base, 40))
    assert [position for position, _, _ in await base.tallied()] == list(range(1, 41))
    assert base.counted("gap") == 5


async def test_a_record_that_the_client_library_cannot_even_read_is_passed_over(base: Base, kafka_server: LocalKafka, topic: str) -> None:
    """Its header name is not UTF-8. It may come amid a fetch, first in one, and while the reader waits."""
    log, servers = Log(), kafka_server.servers
    await publish(servers, topic, log.count(*((f"k{n}", 100 + n) for n in range(7))))
    await write_unreadable(servers, topic)
    await publish(servers, topic, log.count(("a", 1)))
    async with reading(base, servers, topic):
        await until(lambda: is_at(base, 8))
        await write_unreadable(servers, topic)
        await write_unreadable(servers, topic)
        await publish(servers, topic, log.count(("a", 2), ("a", 3)))
        await until(lambda: is_at(base, 10))
    assert [position for position, _, _ in await base.tallied()] == list(range(1, 11))
    assert base.counted("gap") >= 3


async def write_unreadable(servers: str, topic: str) -> None:
    """By a process of its own: the C extension of the client library takes true strings only."""
    program = (sys.executable, "-m", "tests.integration.relay.unreadable", servers, topic)
    process = await asyncio.create_subprocess_exec(*program, env=os.environ | {"AIOKAFKA_NO_EXTENSIONS": "1"})
    assert await asyncio.wait_for(process.wait(), WITHIN) == 0


async def test_a_gap_is_reread_once_and_closed_by_the_run_that_is_published_again(base: Base, kafka_server: LocalKafka, topic: str) -> None:
    log = Log()
    messages = log.count(*((f"k{n}", 100 + n) for n in range(10)))
    hole = replace(messages[4], headers=[(name, b"?" if name == "ce_type" else value) for name, value in messages[4].headers])
    await publish(kafka_server.servers, topic, [*messages[:4], hole, *messages[5:]])
    async with reading(base, kafka_server.servers, topic):

        async def reread() -> bool:
            return base.counted("gap") >= 12  # The hole and five after it, and once more from the start.

        await until(reread)
        assert await base.applied() == 4
        await publish(kafka_server.servers, topic, messages[4:])
        await until(lambda: is_at(base, 10))
        assert base.counted("gap") == 12
    assert [position for position, _, _ in await base.tallied()] == list(range(1, 11))


async def test_a_gap_that_a_look_from_the_start_did_not_close_is_looked_at_again(base: Base, kafka_server: LocalKafka, topic: str) -> None:
    """As when the topic is cut and published anew during that very look. The log is quiet: no further record comes to wake the reader."""

    class PassedBy(Consumer):
        looks = 0

        async def take(self, messages: Sequence[Any]) -> bool | None:
            self.looks += 1
            return True if self.looks <= 2 else await super().take(messages)

    await publish(kafka_server.servers, topic, Log().count(("a", 1), ("b", 2)))
    async with reading(base, kafka_server.servers, topic, PassedBy(part(), base.pool, base.metrics)):
        await until(lambda: is_at(base, 2))


async def test_a_run_that_lies_before_the_stored_offset_is_found(base: Base, kafka_server: LocalKafka, topic: str) -> None:
    """As after a topic that was made anew: the offsets of old say nothing."""
    log = Log()
    await publish(kafka_server.servers, topic, log.count(*((f"k{n}", 100 + n) for n in range(10))))
    async with reading(base, kafka_server.servers, topic):
        await until(lambda: is_at(base, 10))
    await publish(kafka_server.servers, topic, log.count(("x", 1), ("x", 2)))
    await base.pool.execute("UPDATE consumer.position SET kafka_offset = 11")
    async with reading(base, kafka_server.servers, topic):
        await until(lambda: is_at(base, 12))


@pytest.mark.parametrize("where", ["before-commit", "before-offset"])
async def test_a_kill_at_any_point_leaves_each_event_applied_once(base: Base, kafka_server: LocalKafka, topic: str, where: str) -> None:
    log = Log()
    await publish(kafka_server.servers, topic, log.count(("a", 1), ("b", 2), ("a", POISON), ("c", 4)))
    victim = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.consumer.victim", where, base.dsn, base.roles.app, kafka_server.servers, topic,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        await until(lambda: is_at(base, 4))
        await publish(kafka_server.servers, topic, log.count(("a", 5), ("b", 6), ("c", 7)))
        assert victim.stdout is not None
        async with asyncio.timeout(WITHIN):
            while await victim.stdout.readline() != b"here\n":
                assert victim.returncode is None
        assert await base.applied() == (4 if where == "before-commit" else 7)
    finally:
        os.kill(victim.pid, signal.SIGKILL)
        await victim.wait()
    async with reading(base, kafka_server.servers, topic):
        await until(lambda: is_at(base, 7))
        await publish(kafka_server.servers, topic, log.count(("b", 8)))
        await until(lambda: is_at(base, 8))
    assert await base.tallied() == [(1, "a", 1), (2, "b", 2), (4, "c", 4), (6, "b", 6), (7, "c", 7), (8, "b", 8)]
    assert [position for position, _, _ in await base.parked()] == [3, 5]


async def test_a_fenced_consumer_ends_so_that_its_role_is_given_up(base: Base, kafka_server: LocalKafka, topic: str) -> None:
    log = Log()
    first, second, third = log.count(("a", 1), ("b", 2), ("c", 3))
    await publish(kafka_server.servers, topic, [first])
    async with reading(base, kafka_server.servers, topic) as (_, task):
        await until(lambda: is_at(base, 1))
        other = Consumer(part(), base.pool, base.metrics)
        await other.begin()
        await other.take([second])
        await publish(kafka_server.servers, topic, [second])
        async with asyncio.timeout(WITHIN):
            with pytest.raises(FencedError):
                await task
    async with reading(base, kafka_server.servers, topic):
        await publish(kafka_server.servers, topic, [third])
        await until(lambda: is_at(base, 3))
    assert await base.tallied() == [(1, "a", 1), (2, "b", 2), (3, "c", 3)]


async def test_a_database_that_goes_away_is_waited_for_and_nothing_is_lost(
    base: Base, kafka_server: LocalKafka, topic: str, database: Databases
) -> None:
    log, admin = Log(), await asyncpg.connect(database.admin(base.dsn))
    messages = log.count(*((f"k{n}", 100 + n) for n in range(200)))
    async with reading(base, kafka_server.servers, topic):
        for start in range(0, 200, 20):
            await publish(kafka_server.servers, topic, messages[start : start + 20])
            await until(lambda: admin.fetchval("SELECT max(applied) > 0 FROM consumer.position"))
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
        await until(lambda: admin.fetchval("SELECT max(applied) = 200 FROM consumer.position"))
    await admin.close()
    assert [position for position, _, _ in await base.tallied()] == list(range(1, 201))
    assert base.metrics.retries_total.labels("apply_inbox")._value.get() > 0


async def test_kafka_may_be_down_at_the_start_in_the_middle_and_at_the_end(base: Base, own_kafka: Callable[..., LocalKafka]) -> None:
    kafka, topic, log = own_kafka(), "seats.events", Log()
    await create_topic(kafka.servers, topic)
    await publish(kafka.servers, topic, log.count(("a", 1)))
    kafka.kill()

    async with reading(base, kafka.servers, topic) as (_, task):
        await asyncio.wait([task], timeout=2)
        assert not task.done()
        kafka.launch()
        await asyncio.to_thread(kafka.wait_until_up)
        await until(lambda: is_at(base, 1), 60)

        kafka.kill()
        await asyncio.wait([task], timeout=2)
        assert not task.done()
        kafka.launch()
        await asyncio.to_thread(kafka.wait_until_up)
        await publish(kafka.servers, topic, log.count(("a", 2)))
        await until(lambda: is_at(base, 2), 60)

        kafka.kill()
    # Leaving the block asked for the end, with Kafka away, within 20 s.
    assert await base.tallied() == [(1, "a", 1), (2, "a", 2)]


async def test_a_fetch_that_the_broker_holds_keeps_nobody_waiting(
    base: Base, kafka_server: LocalKafka, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a record that comes, not who asks for the end, not a topic that is deleted and made anew, not the end of the role."""
    monkeypatch.setattr(shell, "FETCH_MILLISECONDS", 39_000)  # Longer than all here together; a second less than the client waits.
    log, stop = Log(), asyncio.Event()
    messages = log.count(("a", 1), ("b", 2), ("c", 3))
    await publish(kafka_server.servers, topic, messages[:1])
    made = Subscription(Consumer(part(), base.pool, base.metrics), kafka_server.servers, topic, f"{topic}.group", stop, base.metrics)
    task = asyncio.create_task(made.run())
    async with asyncio.timeout(WITHIN):
        await until(lambda: is_at(base, 1))
        await publish(kafka_server.servers, topic, messages[1:2])
        await until(lambda: is_at(base, 2))
        await made.caught_up()
        await delete_topic(kafka_server.servers, topic)
        await create_topic(kafka_server.servers, topic)
        await publish(kafka_server.servers, topic, messages)
        await until(lambda: is_at(base, 3))
        stop.set()
        await task


async def test_a_list_of_several_addresses_is_tried_one_by_one(base: Base, kafka_server: LocalKafka, topic: str) -> None:
    (nobody,) = free_ports(1)
    await publish(kafka_server.servers, topic, Log().count(("a", 1)))
    async with reading(base, f"{HOST}:{nobody},{kafka_server.servers}", topic):
        await until(lambda: is_at(base, 1))
