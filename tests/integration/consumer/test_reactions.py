"""Reactions: each input acts exactly once, in order for each key, and lacks are facts only when they are."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from deploy.local.kafka import LocalKafka
from shared import ids, parked
from shared.application import Command
from shared.consumer.apply import BEHIND, FencedError, Part
from shared.consumer.shell import Reader, Subscription, insist
from shared.consumer.values import Fact, NotYetError, Reaction, system_actor
from shared.errors import StoreUnavailableError
from tests.integration.consumer.conftest import Base, losing_the_answer
from tests.integration.consumer.deciding import COUNT, ECHO, SERVICE, Deciding, Number, decide
from tests.integration.consumer.log import POISON, Counted, Log, create_topic, forgiving, part, publish, tally
from tests.integration.consumer.test_shell import WITHIN, until


@pytest.fixture
async def service(base: Base) -> AsyncIterator[Deciding]:
    made = await decide(base)
    yield made
    await made.store.close()


async def reacted(base: Base, source: str = "seats") -> int:
    return await base.pool.fetchval("SELECT reacted FROM consumer.position WHERE consumer = 'inbox' AND log = $1", source) or 0


async def test_each_event_becomes_its_commands_once_with_its_cause_and_trace(service: Deciding) -> None:
    log = Log()
    messages = log.count(("a", 1), ("b", 2), ("a", 3))
    await (await service.look_ups()).take(messages)
    for _ in range(2):
        reactor = service.reactor()
        await reactor.begin()
        await reactor.take(messages)
    found = await service.counted()
    assert sorted(found) == [-3, -2, -1, 1, 2, 3]
    assert [number for number in found if abs(number) != 2] == [1, -1, 3, -3]
    rows = await service.base.pool.fetch("SELECT command_id, causation_id, correlation_id, traceparent, actor FROM es.event")
    first = log.records[0]
    assert {tuple(row) for row in rows if row["causation_id"] == first.event_id} == {
        (
            ids.reaction_command_id("echo", index, first.event_id),
            first.event_id,
            first.correlation_id,
            first.traceparent,
            str(system_actor(SERVICE)),
        )
        for index in (0, 1)
    }
    assert await reacted(service.base) == 3


async def test_reactions_wait_for_the_look_ups_and_never_run_ahead_of_them(service: Deciding) -> None:
    log = Log()
    messages = log.count(("a", 1), ("a", 2), ("a", 3))
    look_ups, reactor = await service.look_ups(), service.reactor()
    await look_ups.take(messages[:1])
    await reactor.begin()
    task = asyncio.create_task(reactor.take(messages))
    await until(lambda: is_reacted(service, 1))
    assert await service.counted() == [1, -1]
    await look_ups.take(messages)
    await task
    assert await service.counted() == [1, -1, 2, -2, 3, -3]


async def is_reacted(service: Deciding, position: int) -> bool:
    return await reacted(service.base) >= position


async def test_a_refusal_is_an_answer_and_the_reaction_is_done(service: Deciding) -> None:
    log = Log()
    messages = log.count(("a", 5000))
    await (await service.look_ups()).take(messages)
    await service.reactor().take(messages)
    assert await service.counted() == [-5000]
    assert (await reacted(service.base), await service.base.parked()) == (1, [])


async def test_what_may_pass_is_tried_again_and_the_command_is_still_done_once(service: Deciding) -> None:
    log, tries = Log(), list[int]()

    async def away_at_first(use_case: Any, body: Any, **given: Any) -> Any:
        tries.append(body.number)
        answer = await service.commands.submit(use_case, body, **given)
        if len(tries) in {1, 3}:
            raise StoreUnavailableError("its answer was lost")
        return answer

    messages = log.count(("a", 1), ("a", 2))
    await (await service.look_ups()).take(messages)
    await service.reactor(away_at_first).take(messages)
    assert await service.counted() == [1, -1, 2, -2]
    assert tries == [1, 1, -1, -1, 2, -2]


async def test_when_an_answer_is_lost_and_the_look_ups_read_on_meanwhile_reactions_stand_where_the_database_says(service: Deciding) -> None:
    log = Log()
    messages = log.count(("a", 1), ("a", 2))
    look_ups, reactor = await service.look_ups(), service.reactor()
    await look_ups.take(messages[:1])
    with losing_the_answer(reactor, loan=2), pytest.raises(ConnectionResetError):  # The first loan only looks.
        await reactor.take(messages)
    await look_ups.take(messages)
    await insist(lambda: reactor.take(messages), asyncio.Event(), service.base.metrics, "test")
    assert (reactor.position, await reacted(service.base)) == (2, 2)
    assert await service.counted() == [1, -1, 2, -2]


async def test_a_reaction_that_fails_for_good_parks_its_key_at_the_reactions_and_its_release_goes_in_order(service: Deciding) -> None:
    log = Log()
    messages = log.count(("a", 1), ("a", 14), ("b", 3), ("a", 4))
    look_ups, reactor = await service.look_ups(), service.reactor()
    await look_ups.take(messages)
    await reactor.take(messages)
    assert sorted(await service.counted()) == [-3, -1, 1, 3]
    assert await service.base.parked() == [(2, "a", "InvariantError"), (4, "a", BEHIND)]
    assert await service.base.tallied() == [(1, "a", 1), (2, "a", 14), (3, "b", 3), (4, "a", 4)]

    more = log.count(("a", 5))
    await look_ups.take(more)
    await reactor.take(more)
    assert [each[0] for each in await service.base.parked()] == [2, 4, 5]

    [tried] = await parked.retry_parts(service.base.pool, [part()], [reactor], "a")
    assert (tried.released, tried.failed) == (0, "InvariantError")

    async def cured(fact: Fact, _look_ups: Any, _lack_is_fact: bool) -> Sequence[Command]:
        assert isinstance(fact.event, Counted)
        return [Command(COUNT, Number(number=100 + fact.event.number))]

    reactor._reactions = [Reaction("echo", "seats", ECHO.types, cured)]
    [tried] = await parked.retry_parts(service.base.pool, [part()], [reactor], "a")
    assert (tried.released, tried.failed) == (3, None)
    assert (await service.counted())[-3:] == [114, 104, 105]
    assert await service.base.parked() == []
    await parked.retry_parts(service.base.pool, [part()], [reactor], "a")
    assert len(await service.counted()) == 7


async def test_an_event_that_is_parked_at_the_look_ups_reacts_when_it_is_released(service: Deciding) -> None:
    log = Log()
    messages = log.count(("a", 1), ("a", POISON), ("b", 3), ("a", 4))
    reactor = service.reactor()
    await (await service.look_ups()).take(messages)
    await reactor.take(messages)
    assert sorted(await service.counted()) == [-3, -1, 1, 3]
    assert await reacted(service.base) == 4
    [tried] = await parked.retry_parts(service.base.pool, [part(forgiving)], [reactor], "a")
    assert tried.failed is None
    assert (await service.counted())[-4:] == [POISON, -POISON, 4, -4]
    assert await service.base.parked() == []
    assert await service.base.pool.fetchval("SELECT count(*) FROM consumer.blocked") == 0


async def test_a_release_while_its_batch_is_under_way_loses_no_reaction(service: Deciding) -> None:
    """The event was passed over because it was parked; the release came before the position moved."""
    log = Log()
    messages = log.count(("a", POISON), ("b", 2))
    await (await service.look_ups()).take(messages)
    released = asyncio.Event()

    async def release_first(use_case: Any, body: Any, **given: Any) -> Any:
        if not released.is_set():
            released.set()
            await parked.retry_parts(service.base.pool, [part(forgiving)], [], "a")
        return await service.commands.submit(use_case, body, **given)

    reactor = service.reactor(release_first)
    from shared.consumer.shell import insist

    await insist(lambda: reactor.take(messages), asyncio.Event(), service.base.metrics, "test")
    assert released.is_set()
    assert sorted(await service.counted()) == [-POISON, -2, 2, POISON]


async def test_two_at_once_give_each_command_once_and_one_is_fenced(service: Deciding) -> None:
    log = Log()
    messages = log.count(*((f"k{n}", n) for n in range(100, 120)))
    await (await service.look_ups()).take(messages)
    results = await asyncio.gather(service.reactor().take(messages), service.reactor().take(messages), return_exceptions=True)
    assert [type(each) for each in results].count(FencedError) == 1
    assert sorted(await service.counted()) == sorted([*range(100, 120), *range(-119, -99)])
    assert service.base.metrics.consumer_events_total.labels("reactions", "fenced")._value.get() == 20


@asynccontextmanager
async def subscribed(service: Deciding, kafka: LocalKafka, *readers: tuple[Reader, str]) -> AsyncIterator[list[Subscription]]:
    stop = asyncio.Event()
    made = [Subscription(each, kafka.servers, topic, f"{topic}.{each.name}", stop, service.base.metrics) for each, topic in readers]
    tasks = [asyncio.create_task(each.run()) for each in made]
    try:
        yield made
    finally:
        stop.set()
        await asyncio.wait(tasks)
    for task in tasks:
        task.result()


async def test_a_kill_between_two_answers_of_one_batch_gives_each_command_once(
    service: Deciding, kafka_server: LocalKafka, topic: str
) -> None:
    log = Log()
    await publish(kafka_server.servers, topic, log.count(("a", 1), ("b", 2), ("a", 3)))
    victim = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.consumer.victim", "between-answers", service.base.dsn, service.base.roles.app,
        kafka_server.servers, topic, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert victim.stdout is not None
        async with asyncio.timeout(WITHIN):
            while await victim.stdout.readline() != b"here\n":
                assert victim.returncode is None
    finally:
        os.kill(victim.pid, signal.SIGKILL)
        await victim.wait()
    assert len(await service.counted()) in {2, 3}  # Two keys go side by side: the third may still be under way.
    assert await reacted(service.base) == 0
    async with subscribed(service, kafka_server, (service.reactor(), topic)):
        await until(lambda: is_reacted(service, 3))
    assert sorted(await service.counted()) == [-3, -2, -1, 1, 2, 3]


async def _needs_a_row(fact: Fact, look_ups: Any, lack_is_fact: bool) -> Sequence[Command]:
    """Decides from the total that the log `rows` gives for the same key."""
    total = await look_ups.fetchval("SELECT sum FROM lookup.total WHERE key = $1", fact.record.partition_key)
    if total is None and not lack_is_fact:
        raise NotYetError("rows")
    return [Command(COUNT, Number(number=-1 if total is None else total))]


@pytest.mark.parametrize(("row", "number"), [("there", 7), ("never", -1), ("parked", None)])
async def test_a_lack_is_a_fact_only_after_the_other_log_was_read_to_its_end(
    base: Base, kafka_server: LocalKafka, topic_prefix: str, topic: str, row: str, number: int | None
) -> None:
    needs: Reaction[Any] = Reaction("needs", "seats", frozenset({Counted.TYPE}), _needs_a_row)
    service = await decide(base, [needs])
    rows_topic, seats, rows = f"{topic_prefix}rows.events", Log(), Log("rows")
    await create_topic(kafka_server.servers, rows_topic)
    value = {"there": ("a", 7), "never": ("b", 7), "parked": ("a", POISON)}[row]
    await publish(kafka_server.servers, rows_topic, rows.count(("c", 1), value))
    await publish(kafka_server.servers, topic, seats.count(("a", 1)))
    held = asyncio.Event()

    async def slowly(connection: Any, facts: Sequence[Fact]) -> None:
        await held.wait()
        await tally(connection, facts)

    async def nothing(_connection: Any, _facts: Sequence[Fact]) -> None:
        return

    rows_part: Part = part(slowly, source="rows")
    look_ups = [await service.look_ups(part(nothing)), await service.look_ups(rows_part)]
    async with subscribed(service, kafka_server, (look_ups[0], topic), (look_ups[1], rows_topic)) as made:
        asked = asyncio.Event()

        async def caught_up(source: str) -> None:
            assert source == "rows"
            asked.set()
            await made[1].caught_up()

        async with subscribed(service, kafka_server, (service.reactor(caught_up=caught_up), topic)):
            async with asyncio.timeout(WITHIN):
                await asked.wait()
            assert await service.counted() == []
            held.set()
            await until(lambda: is_reacted(service, 1))
    await service.store.close()
    assert await service.counted() == ([] if number is None else [number])
    at_reactions = [each for each in await base.parked() if each[2] == "BehindParkedError"]
    assert at_reactions == ([(1, "a", "BehindParkedError")] if row == "parked" else [])
