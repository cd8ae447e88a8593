"""Deadlines: set, replaced and cleared by facts, fired once, and never lost."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared import deadlines, ids
from shared.application import Asked, Command, Plan
from shared.consumer.apply import Consumer
from shared.consumer.gauges import refresh
from shared.consumer.inbox import deadline_fold
from shared.consumer.values import DeadlineCleared, DeadlineSet, Fact
from shared.errors import EventTooLargeError, StoreUnavailableError
from shared.eventstore.clock import log_clock, travel_to
from shared.postgres import connect
from tests.integration.consumer.conftest import Base
from tests.integration.consumer.deciding import COUNT, Deciding, Number, decide
from tests.integration.consumer.log import NOON, Counted, Log, part
from tests.integration.consumer.test_shell import until


def say_of(fact: Fact) -> Sequence[DeadlineSet | DeadlineCleared]:
    """A number is due that many minutes past noon; zero clears; a negative number sets one and clears it again."""
    assert isinstance(fact.event, Counted)
    number, key = fact.event.number, fact.record.partition_key
    due = DeadlineSet(
        "close", key, NOON + timedelta(minutes=abs(number)), Command(COUNT, Number(number=number), {"id": fact.record.event_id})
    )
    if number > 0:
        return [due]
    return [due, DeadlineCleared("close", key)] if number < 0 else [DeadlineCleared("close", key)]


def at(minutes: int) -> datetime:
    return NOON + timedelta(minutes=minutes)


@pytest.fixture
async def service(base: Base) -> AsyncIterator[Deciding]:
    made = await decide(base)
    yield made
    await made.store.close()


async def folded(base: Base) -> Consumer:
    reader = Consumer(part(deadline_fold(say_of)), base.pool, base.metrics)
    await reader.begin()
    return reader


async def left(base: Base) -> list[str]:
    return [row["key"] for row in await base.pool.fetch("SELECT key FROM consumer.deadline ORDER BY key")]


async def test_facts_set_replace_and_clear_and_what_is_due_is_fired_once(service: Deciding) -> None:
    log, reader, base = Log(), await folded(service.base), service.base
    await reader.take(log.count(("a", 10), ("b", 20), ("c", 5), ("a", 30), ("c", 0), ("d", -5)))
    assert await left(base) == ["a", "b"]
    for minutes, expected in ((9, []), (20, [20]), (21, [20]), (30, [20, 30]), (99, [20, 30])):
        await deadlines.fire_due(base.pool, service.setting.consumers, service.commands.submit, at(minutes))
        assert await service.counted() == expected
    assert await left(base) == []
    row = await base.pool.fetchrow("SELECT * FROM es.event ORDER BY position LIMIT 1")
    cause = log.records[1]
    assert row is not None
    assert (row["command_id"], row["causation_id"], row["correlation_id"], row["traceparent"]) == (
        ids.deadline_command_id("close/b", cause.event_id),
        cause.event_id,
        cause.correlation_id,
        cause.traceparent,
    )


async def test_one_fact_may_set_deadlines_of_one_name_for_several_keys(service: Deciding) -> None:
    def for_two(fact: Fact) -> Sequence[DeadlineSet]:
        return [DeadlineSet("close", key, at(1), Command(COUNT, Number(number=number))) for key, number in (("x", 1), ("y", 2))]

    reader = Consumer(part(deadline_fold(for_two)), service.base.pool, service.base.metrics)
    await reader.begin()
    await reader.take(Log().count(("a", 1)))
    await deadlines.fire_due(service.base.pool, service.setting.consumers, service.commands.submit, at(2))
    assert sorted(await service.counted()) == [1, 2]


async def test_one_that_is_replaced_while_it_fires_stays_as_the_later_fact_says(service: Deciding) -> None:
    log, reader, base = Log(), await folded(service.base), service.base
    await reader.take(log.count(("a", 10)))

    async def replace_meanwhile(*given: Any, **named: Any) -> Any:
        answer = await service.commands.submit(*given, **named)
        if len(log.records) == 1:
            await reader.take(log.count(("a", 40)))
        return answer

    assert await deadlines.fire_due(base.pool, service.setting.consumers, replace_meanwhile, at(10)) == 1
    assert await left(base) == ["a"]
    await deadlines.fire_due(base.pool, service.setting.consumers, service.commands.submit, at(40))
    assert await service.counted() == [10, 40]


async def test_a_clock_that_steps_back_after_the_look_does_not_lose_what_was_due(service: Deciding) -> None:
    """The deadline is seen to be due, and by the clock that `submit` reads it is not yet: a year of the past, here."""
    due_at = datetime(2199, 1, 1, tzinfo=UTC)

    async def once_due(asked: Asked[Number], look_ups: Any) -> Plan[int]:
        plan = await COUNT.plan(asked, look_ups)
        return plan if asked.now >= due_at else replace(plan, decide=lambda _: [], keep_answer=False)

    use_case = replace(COUNT, plan=once_due)
    consumers = replace(service.setting.consumers, use_cases={COUNT.name: use_case})

    def at_its_time(fact: Fact) -> Sequence[DeadlineSet]:
        return [DeadlineSet("close", fact.record.partition_key, due_at, Command(use_case, Number(number=7)))]

    reader = Consumer(part(deadline_fold(at_its_time)), service.base.pool, service.base.metrics)
    await reader.begin()
    await reader.take(Log().count(("a", 1)))
    await deadlines.fire_due(service.base.pool, consumers, service.commands.submit, due_at)
    assert (await service.counted(), await left(service.base)) == ([7], [])


async def test_nothing_is_due_before_a_travelling_clock_is_set(base: Base) -> None:
    service = await decide(base, clock="travel")
    log, reader, stop = Log(), await folded(base), asyncio.Event()
    await reader.take(log.count(("a", 10)))
    owner, clock, looks = await connect(base.dsn, "player"), log_clock(base.pool), 0

    async def watched() -> datetime:
        nonlocal looks
        looks += 1
        return await clock()

    async def has_looked_twice() -> bool:
        return looks > 1

    async def nothing_left() -> bool:
        return await left(base) == []

    task = asyncio.create_task(deadlines.run(base.pool, service.setting.consumers, service.commands.submit, watched, stop, base.metrics))
    await until(has_looked_twice)
    await refresh(service.setting, clock)
    assert base.metrics.deadlines_due._value.get() == 0
    await travel_to(owner, at(10))
    await refresh(service.setting, clock)
    await until(nothing_left)
    stop.set()
    await task
    await owner.close()
    await service.store.close()
    assert await service.counted() == [10]
    assert base.metrics.retries_total.labels("deadlines")._value.get() == 0


async def test_an_answer_that_was_lost_is_asked_for_again_and_given_once(service: Deciding) -> None:
    log, reader, base = Log(), await folded(service.base), service.base
    await reader.take(log.count(("a", 10), ("b", 11)))
    lost = list[Any]()

    async def away_at_first(*given: Any, **named: Any) -> Any:
        answer = await service.commands.submit(*given, **named)
        if not lost:
            lost.append(answer)
            raise StoreUnavailableError("its answer was lost")
        return answer

    stop = asyncio.Event()

    async def clock() -> datetime:
        return at(60)

    task = asyncio.create_task(deadlines.run(base.pool, service.setting.consumers, away_at_first, clock, stop, base.metrics))

    async def nothing_left() -> bool:
        return await left(base) == []

    await until(nothing_left)
    stop.set()
    await task
    assert lost
    assert sorted(await service.counted()) == [10, 11]


async def test_one_that_fails_for_good_holds_up_no_other_and_stays_visible(service: Deciding) -> None:
    log, reader, base = Log(), await folded(service.base), service.base
    await reader.take(log.count(("a", 10), ("b", 11)))

    async def too_large_for_a(use_case: Any, body: Any, **named: Any) -> Any:
        if body.number == 10:
            raise EventTooLargeError(1, 0)
        return await service.commands.submit(use_case, body, **named)

    assert await deadlines.fire_due(base.pool, service.setting.consumers, too_large_for_a, at(60)) == 2
    assert await deadlines.fire_due(base.pool, service.setting.consumers, too_large_for_a, at(60)) == 0
    assert await service.counted() == [11]
    assert [tuple(row) for row in await base.pool.fetch("SELECT key, failed_as FROM consumer.deadline")] == [("a", "EventTooLargeError")]
