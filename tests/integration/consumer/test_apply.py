"""One consumer on one log, against a real PostgreSQL and without Kafka: what is applied, parked, dropped, and in which order."""

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from uuid import uuid4

import asyncpg
import pytest

from shared import parked
from shared.consumer.apply import BEHIND, BreakerError, Consumer, FencedError, Part
from shared.consumer.values import Fact
from shared.errors import NewerVersionError
from shared.postgres import Connection
from tests.integration.consumer.conftest import Base, losing_the_answer
from tests.integration.consumer.log import CODEC, POISON, Counted, Ignored, Log, Message, Noted, forgiving, part, tally

Bases = Callable[[], Awaitable[Base]]


async def consumer(base: Base, each: Part | None = None) -> Consumer:
    made = Consumer(each or part(), base.pool, base.metrics)
    await made.begin()
    return made


async def test_events_are_applied_in_order_and_once_however_they_are_batched(base: Base) -> None:
    log, reader = Log(), await consumer(base)
    messages = log.count(*((f"k{n % 7}", n + 20) for n in range(100)))
    for start in range(0, 100, 33):
        assert await reader.take(messages[start : start + 33]) is not True
    assert [position for position, _, _ in await base.tallied()] == list(range(1, 101))
    row = await base.pool.fetchrow("SELECT * FROM consumer.position")
    assert row is not None
    assert (row["applied"], row["applied_hash"], row["log_id"], row["kafka_offset"]) == (100, log.hashes[100], log.log_id, 100)
    assert row["ce_time"] == log.records[-1].time


async def test_what_comes_again_is_dropped_and_counted(base: Base) -> None:
    log, reader = Log(), await consumer(base)
    messages = log.count(("a", 1), ("b", 2), ("a", 3))
    await reader.take([messages[0], messages[0], messages[1]])
    await reader.take([*messages, *messages])
    assert await base.tallied() == [(1, "a", 1), (2, "b", 2), (3, "a", 3)]
    assert base.counted("repeated") == 1 + 5
    assert base.counted("applied") == 3


async def test_of_what_comes_after_a_gap_nothing_is_applied_until_the_missing_one_is_there(base: Base) -> None:
    log, reader = Log(), await consumer(base)
    first, second, third = log.count(("a", 1), ("a", 2), ("b", 3))
    assert await reader.take([first, third]) is True
    assert await base.applied() == 1
    assert await reader.take([second, third]) is False
    assert await base.tallied() == [(1, "a", 1), (2, "a", 2), (3, "b", 3)]


def broken(message: Message, how: str) -> Message:
    headers = dict(message.headers)
    match how:
        case "null":
            return replace(message, headers=[*message.headers, ("x-note", None)])
        case "not UTF-8":
            return replace(message, headers=[*message.headers, ("x-note", b"\xff\xfe")])
        case "doubled":
            return replace(message, headers=[*message.headers, ("ce_id", headers["ce_id"])])
        case "no headers":
            return replace(message, headers=[])
        case "no value":
            return replace(message, value=None)
        case "other payload":
            return replace(message, value=b'{"number":1000000}')
        case "other log":
            return replace(message, headers=[(n, str(uuid4()).encode() if n == "ce_logid" else v) for n, v in message.headers])
        case "other key":
            return replace(message, headers=[(n, b"z" if n == "ce_partitionkey" else v) for n, v in message.headers])
        case _:
            return replace(message, headers=[(n, b"00" * 32 if n == "ce_chainhash" else v) for n, v in message.headers])


@pytest.mark.parametrize(
    "how", ["null", "not UTF-8", "doubled", "no headers", "no value", "other payload", "other log", "other key", "other hash"]
)
async def test_a_record_that_is_not_what_was_sealed_counts_as_missing_and_loses_nothing(base: Base, how: str) -> None:
    log, reader = Log(), await consumer(base)
    first, second, third = log.count(("a", 1), ("b", 2), ("c", 3))
    assert await reader.take([first, broken(second, how), third]) is True
    assert await base.tallied() == [(1, "a", 1)]
    assert await reader.take([second, third]) is False
    assert await base.tallied() == [(1, "a", 1), (2, "b", 2), (3, "c", 3)]
    assert base.counted("gap") == 2


async def test_a_foreign_log_is_noticed_and_not_dropped_as_already_seen(base: Base) -> None:
    log, fork, reader = Log(), Log(), await consumer(base)
    await reader.take(log.count(("a", 1), ("a", 2)))
    assert await reader.take(fork.count(("a", 1), ("a", 2), ("a", 3))) is True
    assert base.counted("gap") == 3
    assert base.counted("repeated") == 0


async def test_a_fork_of_the_log_is_noticed_by_its_chain_and_not_dropped_as_already_seen(base: Base) -> None:
    """Of a log that was restored and went on another way, with the same id: the first that can be held against what was read."""
    log, reader = Log(), await consumer(base)
    fork = Log(log_id=log.log_id)
    await reader.take(log.count(("a", 1), ("a", 2)))
    fork.count(("a", 1), ("a", 7), ("a", 3))
    assert await reader.take([fork.message(2), fork.message(3)]) is True
    assert base.counted("gap") == 2
    assert base.counted("repeated") == 0
    assert await base.tallied() == [(1, "a", 1), (2, "a", 2)]


async def test_a_poison_event_parks_its_key_and_what_follows_of_it_in_order_while_others_flow(base: Base) -> None:
    log, reader = Log(), await consumer(base)
    messages = log.count(("a", 1), ("b", 2), ("a", POISON), ("c", 4), ("a", 5), ("b", 6), ("a", POISON))
    await reader.take(messages[:5])
    await reader.take(messages[5:])
    assert await base.tallied() == [(1, "a", 1), (2, "b", 2), (4, "c", 4), (6, "b", 6)]
    assert await base.parked() == [(3, "a", "InvariantError"), (5, "a", BEHIND), (7, "a", BEHIND)]
    assert await base.applied() == 7
    assert base.counted("parked") == 3
    assert [tuple(row) for row in await base.pool.fetch("SELECT key, stage, reason FROM consumer.blocked")] == [
        ("a", "applied", "InvariantError")
    ]


async def test_why_a_key_is_parked_does_not_depend_on_how_batches_fall(bases: Bases) -> None:
    """The payload at 3 is found out first, when the batch is decoded; but alone it would have come behind 2."""
    log = Log()
    messages = [*log.count(("a", 1), ("a", POISON)), log.say("a", Counted(number=3), payload=b"{}"), *log.count(("a", 4))]
    for size in (1, 4):
        base = await bases()
        reader = await consumer(base)
        for start in range(0, 4, size):
            await reader.take(messages[start : start + size])
        assert await base.parked() == [(2, "a", "InvariantError"), (3, "a", BEHIND), (4, "a", BEHIND)]
        assert await base.tallied() == [(1, "a", 1)]


async def nul_text(connection: Connection, facts: Sequence[Fact]) -> None:
    for fact in facts:
        if fact.event == Counted(number=POISON):
            await connection.execute("SELECT $1::text", "a\x00b")
    await tally(connection, facts)


async def doubled(connection: Connection, facts: Sequence[Fact]) -> None:
    for fact in facts:
        if fact.event == Counted(number=POISON):
            await connection.execute("INSERT INTO lookup.total VALUES ('x', 1, 1), ('x', 1, 1)")
    await tally(connection, facts)


@pytest.mark.parametrize(("fold", "why"), [(nul_text, "CharacterNotInRepertoireError"), (doubled, "UniqueViolationError")])
async def test_what_the_database_will_always_refuse_parks_the_key_too(base: Base, fold: object, why: str) -> None:
    log, reader = Log(), await consumer(base, part(fold))
    await reader.take(log.count(("a", 1), ("b", POISON), ("a", 3)))
    assert await base.parked() == [(2, "b", why)]
    assert await base.tallied() == [(1, "a", 1), (3, "a", 3)]


async def test_a_payload_that_does_not_fit_and_a_type_in_no_contract_are_parked_and_another_subscription_is_ignored(base: Base) -> None:
    log, reader = Log(), await consumer(base)
    messages = [
        log.say("a", Counted(number=1), payload=b'{"number":"many"}'),
        log.say("b", Counted(number=2), type="seats.unheard_of"),
        log.say("c", Ignored()),
        log.say("c", Counted(number=4)),
    ]
    await reader.take(messages)
    assert await base.parked() == [(1, "a", "PayloadError"), (2, "b", "UnknownEventTypeError")]
    assert await base.tallied() == [(4, "c", 4)]
    assert base.counted("ignored") == 1


async def test_a_newer_version_stops_the_consumer_after_what_came_before_it(base: Base) -> None:
    log, reader = Log(), await consumer(base)
    messages = [*log.count(("a", 1)), log.say("b", Counted(number=2), schema_version=2), *log.count(("a", 3))]
    for _ in range(2):
        with pytest.raises(NewerVersionError):
            await reader.take(messages)
    assert await base.tallied() == [(1, "a", 1)]
    assert await base.parked() == []


async def test_what_may_pass_is_not_parked_and_nothing_of_the_batch_stays(base: Base) -> None:
    async def gives_way(connection: Connection, facts: Sequence[Fact]) -> None:
        await tally(connection, facts)
        raise asyncpg.DeadlockDetectedError("somebody else first")

    log, reader = Log(), await consumer(base, part(gives_way))
    with pytest.raises(asyncpg.DeadlockDetectedError):
        await reader.take(log.count(("a", 1)))
    assert (await base.tallied(), await base.parked(), await base.applied()) == ([], [], 0)


async def test_too_many_poisoned_keys_are_our_fault_and_stop_the_consumer(base: Base) -> None:
    log, reader = Log(), await consumer(base)
    await reader.take(log.count(*((f"k{n}", POISON) for n in range(4)), ("a", 1)))
    with pytest.raises(BreakerError):
        await reader.take(log.count(*((f"m{n}", POISON) for n in range(20)), ("a", 2)))
    assert len(await base.parked()) == 4
    assert await base.applied() == 5


async def test_a_zombie_is_fenced_and_changes_nothing(base: Base) -> None:
    log, old, new = Log(), await consumer(base), await consumer(base)
    messages = log.count(("a", 1), ("b", 2), ("c", 3))
    await old.take(messages[:1])
    await new.begin()
    await new.take(messages[1:2])
    with pytest.raises(FencedError):
        await old.take(messages[1:])
    with pytest.raises(FencedError):
        await old.take(messages[1:])
    await new.take(messages)
    assert await base.tallied() == [(1, "a", 1), (2, "b", 2), (3, "c", 3)]
    assert base.counted("fenced") == 4


async def test_a_commit_whose_answer_was_lost_is_recognised(base: Base) -> None:
    log, reader = Log(), await consumer(base)
    messages = log.count(("a", 1), ("b", 2))
    with losing_the_answer(reader), pytest.raises(ConnectionResetError):
        await reader.take(messages)
    await reader.take(messages)
    assert reader.position == 2
    assert await base.tallied() == [(1, "a", 1), (2, "b", 2)]


async def test_sealed_fields_of_the_own_log_are_opened_and_read_nothing_without_a_key_or_elsewhere(base: Base, bases: Bases) -> None:
    log, person, erased = Log(), uuid4(), uuid4()
    await base.keys.ensure([person, erased])

    def noted(subject: object, note: str) -> Message:
        event = Noted(volunteer_id=subject, note=note)  # type: ignore[arg-type]
        from uuid import uuid5

        event_id = uuid5(log.log_id, str(len(log.records) + 1))
        return log.say(str(subject), event, payload=CODEC.encode(event, event_id, base.keys.seal))

    messages = [noted(person, "守时"), noted(erased, "热心")]
    broken_seal = Noted(volunteer_id=person, note="移动")
    messages.append(log.say(str(person), broken_seal, payload=CODEC.encode(broken_seal, uuid4(), base.keys.seal)))
    async with base.pool.acquire() as connection:
        await base.keys.destroy(erased, connection)
    await (await consumer(base, part(keys=base.keys))).take(messages)
    assert [tuple(row) for row in await base.pool.fetch("SELECT * FROM lookup.note ORDER BY position")] == [(1, "守时"), (2, None)]
    assert await base.parked() == [(3, str(person), "PayloadError")]

    elsewhere = await bases()
    await (await consumer(elsewhere)).take(messages)
    assert [row["note"] for row in await elsewhere.pool.fetch("SELECT note FROM lookup.note ORDER BY position")] == [None, None, None]


async def test_a_released_key_gives_its_events_in_order_and_flows_again(base: Base) -> None:
    log, reader = Log(), await consumer(base)
    await reader.take(log.count(("a", 1), ("a", POISON), ("b", 3), ("a", 4), ("a", 5)))
    tried = await parked.retry_parts(base.pool, [part()], [], "a")
    assert [(each.released, each.failed) for each in tried] == [(0, "InvariantError")]
    assert [(each["position"], each["attempts"]) for each in await parked.show(base.pool, "a")] == [(2, 2), (4, 1), (5, 1)]

    tried = await parked.retry_parts(base.pool, [part(forgiving)], [], "a")
    assert [(each.released, each.failed) for each in tried] == [(3, None)]
    assert await base.tallied() == [(1, "a", 1), (3, "b", 3), (2, "a", 130), (4, "a", 4), (5, "a", 5)]
    assert await base.parked() == []
    assert await parked.retry_parts(base.pool, [part(forgiving)], [], "a") == []
    await reader.take(log.count(("a", 6)))
    assert (await base.tallied())[-1] == (6, "a", 6)


async def test_a_release_that_fails_half_way_keeps_the_rest_parked_and_the_key_blocked(base: Base) -> None:
    log, reader = Log(), await consumer(base)
    messages = [
        *log.count(("a", POISON), ("a", 2)),
        log.say("a", Counted(number=3), payload=b"{}"),
        *log.count(("a", 4)),
    ]
    await reader.take(messages)
    [tried] = await parked.retry_parts(base.pool, [part(forgiving)], [], "a")
    assert (tried.released, tried.failed) == (2, "PayloadError")
    await reader.take(log.count(("a", 5)))
    assert await base.tallied() == [(1, "a", 130), (2, "a", 2)]
    assert await base.parked() == [(3, "a", "PayloadError"), (4, "a", BEHIND), (5, "a", BEHIND)]


async def test_the_list_names_keys_and_reasons_and_what_is_shown_holds_no_content(base: Base) -> None:
    log, reader = Log(), await consumer(base)
    await reader.take([log.say("a", Counted(number=1), payload='{"number":"赵一鸣"}'.encode()), *log.count(("a", 2))])
    [listed] = await parked.list_keys(base.pool)
    assert (listed["key"], listed["consumer"], listed["reason"], listed["events"]) == ("a", "inbox", "PayloadError", 2)
    shown = await parked.show(base.pool, "a")
    assert [each["payload"] for each in shown] == [("number",), ("number",)]
    assert "赵一鸣" not in repr(shown)


@pytest.mark.parametrize("seed", range(6))
async def test_a_replay_from_the_start_gives_the_same_rows_and_the_same_parked_keys_however_batches_fall(bases: Bases, seed: int) -> None:
    dice, log = random.Random(seed), Log()
    messages: list[Message] = []
    for _ in range(300):
        key = f"k{dice.randrange(60)}"
        kind = dice.randrange(150)
        messages.append(
            log.say(key, Counted(number=1), payload=b"{}") if kind == 0 else log.count((key, POISON if kind == 1 else 20 + kind))[0]
        )
    seen = []
    for most in (1, 40, 300):
        base = await bases()
        reader, at = await consumer(base), 0
        while at < len(messages):
            size = dice.randint(1, most)
            await reader.take(messages[at : at + size])
            at += size
        totals = [tuple(row) for row in await base.pool.fetch("SELECT * FROM lookup.total ORDER BY key")]
        blocked = [tuple(row) for row in await base.pool.fetch("SELECT key, reason FROM consumer.blocked ORDER BY key")]
        in_order = [(key, position) for position, key, _ in await base.tallied()]
        assert all([p for k, p in in_order if k == key] == sorted(p for k, p in in_order if k == key) for key in {k for k, _ in in_order})
        seen.append((totals, await base.parked(), blocked))
    assert seen[0][1]
    assert seen[0] == seen[1] == seen[2]
