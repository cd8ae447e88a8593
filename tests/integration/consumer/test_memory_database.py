"""The database in memory answers as PostgreSQL does: every statement of relay, consumers and deadlines, and transactions beside another."""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest
from pydantic_core import from_json

from shared import deadlines
from shared.consumer import apply, inbox
from shared.envelope import CHAIN_START
from shared.eventstore.store import ensure_log, open_store
from shared.postgres import connect
from shared.relay import readback
from shared.relay import shell as relay
from shared.testing.store import MemoryStore
from tests.integration.consumer.conftest import Base
from tests.integration.eventstore.decided import activity, decided
from tests.simulation.database import STATEMENTS, Database, Pool, name_of

Chance = random.Random
Arguments = Callable[[Chance], Sequence[Any]]

ROUNDS: Final = 3_000
NOON: Final = datetime(2017, 3, 22, 4, 0, tzinfo=UTC)
CLEAR: Final = "DELETE FROM consumer.deadline WHERE name = $1 AND key = $2"
FORGET: Final = "DELETE FROM consumer.deadline WHERE name = $1 AND key = $2 AND set_by = $3"


# -- what each statement may be asked with: few values, so that they meet


def consumer(chance: Chance) -> str:
    return chance.choice(("inbox", "views", "views@2"))


def log(chance: Chance) -> str:
    return chance.choice(("seats", "hours"))


def key(chance: Chance) -> str:
    return chance.choice("abc")


def stage(chance: Chance) -> str:
    return chance.choice(("applied", "reactions"))


def position(chance: Chance) -> int:
    return chance.randint(0, 5)


def digest(chance: Chance) -> bytes:
    return chance.choice((CHAIN_START, CHAIN_START, bytes(range(32))))


def some_id(chance: Chance) -> UUID:
    return UUID(int=chance.randint(1, 2))


def instant(chance: Chance) -> datetime:
    return NOON + timedelta(seconds=chance.randint(0, 10**6))


def why(chance: Chance) -> str:
    return chance.choice(("InvariantError", "PayloadError", "behind"))


ARGUMENTS: Final[Mapping[str, Arguments]] = {
    relay._SEE: lambda _: (),
    relay._SEAL: lambda c: (position(c), position(c), digest(c)),
    relay._SEALS_BETWEEN: lambda c: (position(c), position(c)),
    relay._SEAL_BEFORE: lambda c: (position(c),),
    relay._RECORDED_AT: lambda c: (position(c),),
    relay._TIMELINE: lambda _: (),
    relay._COMPARED: lambda _: (1,),
    readback._MARK: lambda _: (),
    readback._SET_MARK: lambda c: (0, position(c), 1 + position(c), digest(c)),
    readback._SEALS: lambda c: (position(c), position(c)),
    apply._INSERT_POSITION: lambda c: (consumer(c), log(c)),
    apply._SELECT_POSITION: lambda c: (consumer(c), log(c)),
    apply._MOVE: lambda c: (
        consumer(c), log(c), some_id(c), position(c), digest(c), position(c), instant(c), position(c), digest(c),
    ),
    apply._PARK: lambda c: (consumer(c), log(c), position(c), key(c), "a.type", b"{}", b"payload", why(c), stage(c)),
    apply._BLOCK: lambda c: (consumer(c), log(c), stage(c), key(c), why(c)),
    apply._SELECT_BLOCKED: lambda c: (consumer(c), log(c), stage(c), ["a", key(c)] if c.random() < 0.5 else ["c"]),
    apply._STAND_STILL: lambda c: (consumer(c), log(c), stage(c), why(c), position(c)),
    apply._GO_ON: lambda c: (consumer(c), log(c), stage(c)),
    apply._SELECT_DISCARDED: lambda c: (consumer(c), log(c), [stage(c)], [UUID(int=1), UUID(int=3)]),
    apply._RECENTLY_BLOCKED: lambda c: (consumer(c), log(c), stage(c), 600.0),
    inbox._SELECT_REACTED: lambda c: (log(c),),
    inbox._SELECT_APPLIED: lambda c: (log(c),),
    inbox._MOVE_REACTED: lambda c: (log(c), position(c), digest(c), position(c), position(c), digest(c), some_id(c)),
    inbox._SELECT_AT_LOOKUPS: lambda c: (log(c), [1, 2, position(c)]),
    inbox._IS_BLOCKED: lambda c: (log(c), key(c)),
    inbox.SET_DEADLINE: lambda c: (
        "close", key(c), instant(c), "count", '{"id": "x"}', '{"number": 1}', some_id(c), position(c), some_id(c), None,
    ),
    CLEAR: lambda c: ("close", key(c)),
    FORGET: lambda c: ("close", key(c), some_id(c)),
    deadlines._SELECT_DUE: lambda c: (instant(c), 2),
    deadlines._FAILED: lambda c: ("close", key(c), some_id(c), "PayloadError"),
}  # fmt: skip
"""`_WAIT_FOR_RECOVERY` is asked last, for it ends the log."""

ANY_ORDER: Final = frozenset({readback._SEALS, apply._SELECT_BLOCKED, apply._RECENTLY_BLOCKED, inbox._SELECT_AT_LOOKUPS})


@pytest.fixture
async def pools(base: Base) -> tuple[Any, Any]:
    """A database in memory and a real one, with the same four events in their logs."""
    connection = await connect(base.dsn, "migrate")
    log_id = await ensure_log(connection, "hours", "system")
    await connection.close()
    real, memory = await open_store(base.pool, "hours", base.metrics), MemoryStore("hours")
    memory.log_id = log_id
    appended = decided(activity(), 0, 4)
    for store in (real, memory):
        await store.append(appended)
    await real.close()
    in_memory = Database(memory, asyncio.get_running_loop().time)
    await _given_up_and_let_be(base, in_memory)
    return Pool(in_memory), base.pool


async def _given_up_and_let_be(base: Base, memory: Database) -> None:
    """What operators have written down: an event that two of them gave up, and a reason that a consumer may park on for."""
    until = datetime.now(UTC) + timedelta(hours=1)
    place: tuple[Any, ...] = ("inbox", "seats", "applied")
    connection = await connect(base.dsn, "operator")
    await connection.execute(
        "INSERT INTO consumer.discard_request (consumer, log, stage, event_id, position, key, type, error_class, who, reason) "
        "VALUES ($1, $2, $3, $4, 1, 'a', 'a.type', 'PayloadError', 'one', 'unreadable')", *place, UUID(int=1),
    )  # fmt: skip
    await connection.execute(
        "INSERT INTO consumer.discarded (consumer, log, stage, event_id, position, who, reason) "
        "VALUES ($1, $2, $3, $4, 1, 'another', 'unreadable')", *place, UUID(int=1),
    )  # fmt: skip
    await connection.execute(
        "INSERT INTO consumer.breaker_override (consumer, log, stage, error_class, until, who, reason) "
        "VALUES ($1, $2, $3, 'PayloadError', $4, 'one', 'known')", *place, until,
    )  # fmt: skip
    await connection.close()
    memory.tables["discarded"] = {(*place, UUID(int=1)): {"event_id": UUID(int=1)}}
    memory.tables["breaker_override"] = {(1,): {"place": (*place, "PayloadError"), "until": memory.instant() + timedelta(hours=1)}}


async def said(pool: Any, statement: str, args: Sequence[Any]) -> object:
    """What a statement gives, or how it fails."""
    try:
        rows = [tuple(plain(name, value) for name, value in row.items()) for row in await pool.fetch(statement, *args)]
    except asyncpg.PostgresError as error:
        return type(error)
    return sorted(rows) if statement in ANY_ORDER else rows


def plain(name: str, value: Any) -> object:
    """A value as both say it: the time of the servers differs, and one of them writes JSON in its own way."""
    if name == "recorded_at":
        return value is not None
    return str(from_json(value)) if name in {"ids", "body"} else value


async def test_each_statement_answers_alike_whatever_came_before(pools: tuple[Any, Any]) -> None:
    assert {*ARGUMENTS, relay._WAIT_FOR_RECOVERY} == set(STATEMENTS), "a statement is not compared"
    chance, told = random.Random(1), dict[str, set[str]]()
    for number in range(ROUNDS):
        statement = chance.choice(list(ARGUMENTS))
        args = ARGUMENTS[statement](chance)
        memory, real = [await said(pool, statement, args) for pool in pools]
        assert memory == real, (number, name_of(statement), args)
        told.setdefault(statement, set()).add(str(real))
    silent = {name_of(statement) for statement, answers in told.items() if len(answers) < 2 and statement.strip()[:6] == "SELECT"}
    assert silent == {"timeline", "compared"}, "a statement was never answered in two ways"
    for pool in pools:
        await pool.execute(relay._WAIT_FOR_RECOVERY)
        assert (await pool.fetchrow(relay._SEE))["state"] == "recovering"


# -- beside one another


@pytest.fixture(params=["memory", "postgres"])
async def pool(request: pytest.FixtureRequest, pools: tuple[Any, Any]) -> Any:
    """One of the two, with a position to move."""
    chosen = pools[request.param == "postgres"]
    await chosen.execute(apply._INSERT_POSITION, "inbox", "seats")
    return chosen


def move(to: int, was: int = 0) -> tuple[Any, ...]:
    """Arguments of `_MOVE`."""
    return "inbox", "seats", UUID(int=1), to, CHAIN_START, to, NOON, was, CHAIN_START


async def stands(pool: Any) -> int:
    return int(await pool.fetchval(inbox._SELECT_APPLIED, "seats"))


async def test_of_two_that_move_a_position_the_second_waits_and_finds_it_moved(pool: Any) -> None:
    async with pool.acquire() as one, pool.acquire() as two:
        async with one.transaction():
            assert await one.fetchval(apply._MOVE, *move(3)) == 3
            assert await stands(pool) == 0
            waiting = asyncio.create_task(two.fetchval(apply._MOVE, *move(5)))
            await asyncio.sleep(0.1)
            assert not waiting.done()
        async with asyncio.timeout(3):
            assert await waiting is None
    assert await stands(pool) == 3


async def test_when_the_first_is_rolled_back_the_second_moves_it(pool: Any) -> None:
    async with pool.acquire() as one, pool.acquire() as two:
        with suppress(LookupError):
            async with one.transaction():
                await one.fetchval(apply._MOVE, *move(3))
                waiting = asyncio.create_task(two.fetchval(apply._MOVE, *move(5)))
                await asyncio.sleep(0.1)
                assert not waiting.done()
                raise LookupError
        async with asyncio.timeout(3):
            assert await waiting == 5
    assert await stands(pool) == 5


async def test_a_position_that_stands_elsewhere_is_not_waited_for(pool: Any) -> None:
    async with pool.acquire() as one, one.transaction():
        await one.fetchval(apply._MOVE, *move(3))
        async with asyncio.timeout(2):
            assert await pool.fetchval(apply._MOVE, *move(5, was=2)) is None


async def test_what_a_savepoint_takes_back_is_gone_and_the_rest_stays(pool: Any) -> None:
    async with pool.acquire() as one, one.transaction():
        await one.execute(apply._BLOCK, "inbox", "seats", "applied", "a", "InvariantError")
        with suppress(LookupError):
            async with one.transaction():
                await one.execute(apply._BLOCK, "inbox", "seats", "applied", "b", "InvariantError")
                raise LookupError
        async with one.transaction():
            await one.execute(apply._BLOCK, "inbox", "seats", "applied", "c", "InvariantError")
    rows = await pool.fetch(apply._SELECT_BLOCKED, "inbox", "seats", "applied", ["a", "b", "c"])
    assert sorted(row["key"] for row in rows) == ["a", "c"]


async def test_a_constraint_that_is_violated_takes_the_whole_transaction_with_it(pool: Any) -> None:
    await pool.fetchval(apply._MOVE, *move(3))
    with suppress(asyncpg.CheckViolationError):
        async with pool.acquire() as one, one.transaction():
            await one.execute(apply._BLOCK, "inbox", "seats", "applied", "a", "InvariantError")
            await one.fetchval(inbox._MOVE_REACTED, "seats", 4, CHAIN_START, 4, 0, CHAIN_START, UUID(int=1))
            raise AssertionError("reactions ran ahead")
    assert await pool.fetch(apply._SELECT_BLOCKED, "inbox", "seats", "applied", ["a"]) == []


async def test_of_two_seals_after_the_same_one_the_second_waits_and_is_refused(pool: Any) -> None:
    async with pool.acquire() as one:
        async with one.transaction():
            await one.execute(relay._SEAL, 0, 2, CHAIN_START)
            waiting = asyncio.create_task(pool.execute(relay._SEAL, 0, 3, CHAIN_START))
            await asyncio.sleep(0.1)
            assert not waiting.done()
        with pytest.raises(asyncpg.UniqueViolationError):
            async with asyncio.timeout(3):
                await waiting


async def test_a_deadline_that_a_later_fact_is_replacing_is_waited_for_and_not_forgotten(pool: Any) -> None:
    def args(set_by: int) -> tuple[Any, ...]:
        return "close", "a", NOON, "count", "{}", "{}", UUID(int=set_by), set_by, UUID(int=9), None

    await pool.execute(inbox.SET_DEADLINE, *args(1))
    async with pool.acquire() as one:
        async with one.transaction():
            await one.execute(inbox.SET_DEADLINE, *args(2))
            waiting = asyncio.create_task(pool.execute(FORGET, "close", "a", UUID(int=1)))
            await asyncio.sleep(0.1)
            assert not waiting.done()
        async with asyncio.timeout(3):
            await waiting
    assert [row["set_by"] for row in await pool.fetch(deadlines._SELECT_DUE, NOON, 9)] == [UUID(int=2)]
