"""What is parked keeps the order of its key, whatever is poison, whenever it is released, retried or given up; and a stranger to the code,
the model below, says the same."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from typing import Any, Final, Literal

import asyncpg
import pytest

from shared import discards, explain, parked, states
from shared.clock import system_clock
from shared.consumer.apply import BEHIND, BreakerError, Consumer, Part
from shared.consumer.gauges import refresh
from shared.consumer.values import Fact
from shared.consumer.waits import Waits
from shared.errors import InvariantError
from shared.http.query import Freshness
from shared.metrics import Metrics
from shared.postgres import Connection, connect
from shared.states import Because, StateError
from shared.testing.store import MemoryStore
from tests.integration.consumer.conftest import Base
from tests.integration.consumer.deciding import decide
from tests.integration.consumer.log import POISON, Counted, Log, Message, forgiving, part
from tests.integration.consumer.test_shell import until
from tests.simulation.database import Database, Pool, Row, Session, Statement

Bases = Callable[[], Awaitable[Base]]
Kind = Literal["good", "fold", "payload", "type"]

WHY: Final[Mapping[Kind, str]] = {"fold": "InvariantError", "payload": "PayloadError", "type": "UnknownEventTypeError"}
ONE = Because("张一", "the supplier's file was wrong; told anew by a compensating event")
OTHER = Because("李二", "seen, and agreed")


# -- the model


@dataclass
class Model:
    """What must become of each event, in plain words: a key that is held back gets longer, or is let go from its front."""

    kinds: list[Kind] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    applied: list[int] = field(default_factory=list)
    held: dict[str, list[int]] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    is_cured: bool = False

    def arrives(self, position: int) -> None:
        key = self.keys[position - 1]
        if key in self.held:
            self.held[key].append(position)
        elif self._is_bad(position):
            self.held[key] = [position]
        else:
            self.applied.append(position)

    def is_tried(self, key: str) -> None:
        held = self.held.pop(key, [])
        while held and (held[0] in self.gone or not self._is_bad(held[0])):
            if held[0] not in self.gone:
                self.applied.append(held[0])
            del held[0]
        if held:
            self.held[key] = held

    def _is_bad(self, position: int) -> bool:
        kind = self.kinds[position - 1]
        return kind in {"payload", "type"} or (kind == "fold" and not self.is_cured)


def told(dice: random.Random, log: Log, model: Model, poison: int, keys: int) -> list[Message]:
    """A log in which so many events, at any place, are poison of some kind."""
    kinds: list[Kind] = [*dice.choices(("fold", "payload", "type"), k=poison), *["good"] * (2 * poison)]  # type: ignore[list-item]
    dice.shuffle(kinds)
    messages = []
    for kind in kinds:
        key = f"k{dice.randrange(keys)}"
        model.kinds.append(kind)
        model.keys.append(key)
        match kind:
            case "payload":
                messages.append(log.say(key, Counted(number=1), payload=b"{}"))
            case "type":
                messages.append(log.say(key, Counted(number=1), type="seats.unheard_of"))
            case _:
                messages.append(log.say(key, Counted(number=POISON if kind == "fold" else 1)))
    return messages


# -- the play, on one database or the other

WRITE: Final = "INSERT INTO lookup.tally (position, key, number) VALUES ($1, $2, $3)"


async def written(connection: Connection, facts: Sequence[Fact]) -> None:
    """The cured fold."""
    for fact in facts:
        assert isinstance(fact.event, Counted)
        await connection.execute(WRITE, fact.record.position, fact.record.partition_key, fact.event.number)


async def refusing(connection: Connection, facts: Sequence[Fact]) -> None:
    """The same before its cure."""
    if any(isinstance(each.event, Counted) and each.event.number == POISON for each in facts):
        raise InvariantError("thirteen")
    await written(connection, facts)


class Real:
    """The consumer's own tables, on PostgreSQL."""

    def __init__(self, base: Base, owner: Connection) -> None:
        self.pool: Any = base.pool
        self._owner = owner

    async def let_be(self) -> None:
        for why in WHY.values():
            await self._owner.execute("INSERT INTO consumer.stopped VALUES ('inbox', 'seats', 'applied', $1, 21)", why)
            await states.override_breaker(self._owner, "inbox", 600, ONE)
            await self._owner.execute("DELETE FROM consumer.stopped")

    async def give_up(self, key: str, _position: int) -> None:
        await discards.ask(self._owner, key, None, ONE)
        await discards.approve(self._owner, key, OTHER)

    async def applied(self) -> list[int]:
        return [row["position"] for row in await self.pool.fetch("SELECT position FROM lookup.tally ORDER BY n")]

    async def held(self) -> list[tuple[str, int]]:
        rows = await self.pool.fetch("SELECT key, position FROM consumer.parked ORDER BY position")
        return [(row["key"], row["position"]) for row in rows]

    async def blocked(self) -> set[str]:
        return {row["key"] for row in await self.pool.fetch("SELECT key FROM consumer.blocked")}


class InMemory:
    """The same in memory, for many more. What `shared.parked` asks is answered here; the play on PostgreSQL shows that alike."""

    def __init__(self, model: Model) -> None:
        self._places = defaultdict[str, list[int]](list)
        for position, key in enumerate(model.keys, 1):
            self._places[key].append(position)
        statements: dict[str, Statement] = {
            WRITE: self._write, parked.LOCK: self._lock, parked._NEXT: self._next, parked._FAILED: self._failed,
            parked._BLOCKED_FOR: self._blocked_for, parked._FREE: self._free, parked._UNBLOCK: self._unblock,
        }  # fmt: skip
        self._database = Database(MemoryStore("hours"), lambda: 0.0, statements)
        self.pool: Any = Pool(self._database)

    async def let_be(self) -> None:
        self._database.tables["breaker_override"] = {
            (why,): {"place": ("inbox", "seats", "applied", why), "until": self._database.instant() + timedelta(days=1)}
            for why in WHY.values()
        }

    async def give_up(self, key: str, position: int) -> None:
        row = self._database.tables["parked"]["inbox", "seats", position]
        assert row["key"] == key
        event_id = parked.entry_of(row).record.event_id
        self._database.tables.setdefault("discarded", {})["inbox", "seats", "applied", event_id] = {"event_id": event_id}

    async def applied(self) -> list[int]:
        return [row["position"] for row in self._database.rows("tally")]

    async def held(self) -> list[tuple[str, int]]:
        return sorted(((row["key"], row["position"]) for row in self._database.rows("parked")), key=lambda one: one[1])

    async def blocked(self) -> set[str]:
        return {row["key"] for row in self._database.rows("blocked")}

    async def _write(self, session: Session, position: int, _key: str, _number: int) -> Sequence[Row]:
        await session.put({"position": position}, "tally", session.database.serial())
        return []

    async def _lock(self, session: Session, consumer: str, log: str) -> Sequence[Row]:
        row = await session.lock("position", consumer, log)
        return [] if row is None else [{"reacted": row["reacted"]}]

    async def _next(self, session: Session, consumer: str, log: str, key: str, stage: str, after: int) -> Sequence[Row]:
        found = (session.get("parked", consumer, log, each) for each in self._places[key] if each > after)
        return [row for row in found if row and row["stage"] == stage][:1]

    async def _failed(self, session: Session, consumer: str, log: str, position: int, why: str) -> Sequence[Row]:
        row = session.get("parked", consumer, log, position)
        assert row is not None
        await session.put({**row, "error_class": why}, "parked", consumer, log, position)
        return []

    async def _blocked_for(self, session: Session, consumer: str, log: str, stage: str, key: str, why: str) -> Sequence[Row]:
        row = session.get("blocked", consumer, log, stage, key)
        assert row is not None
        await session.put({**row, "reason": why}, "blocked", consumer, log, stage, key)
        return []

    async def _free(self, session: Session, consumer: str, log: str, position: int, _stage: str) -> Sequence[Row]:
        await session.put(None, "parked", consumer, log, position)
        return []

    async def _unblock(self, session: Session, consumer: str, log: str, key: str, stage: str) -> Sequence[Row]:
        if not await self._next(session, consumer, log, key, stage, 0):
            await session.put(None, "blocked", consumer, log, stage, key)
        return []


Table = Real | InMemory


async def agree(table: Table, model: Model) -> None:
    """The rows are in the model's order, and the same events wait, in order, behind the same keys."""
    assert await table.applied() == model.applied
    assert await table.held() == sorted(((key, each) for key, held in model.held.items() for each in held), key=lambda one: one[1])
    assert await table.blocked() == set(model.held)


async def play(dice: random.Random, table: Table, model: Model, messages: Sequence[Message]) -> None:
    """The log comes in batches of any size; between them somebody retries, gives up and retries twice, and half-way the code is cured."""
    await table.let_be()
    each, at = part(refusing), 0
    reader = await _reader(table, each)
    while at < len(messages):
        if not model.is_cured and at > len(messages) // 2:
            model.is_cured, each = True, part(written)
            reader = await _reader(table, each)
        size = dice.randint(1, 60)
        assert await reader.take(messages[at : at + size]) is not True
        for position in range(at + 1, min(at + size, len(messages)) + 1):
            model.arrives(position)
        at += size
        for key in dice.sample(sorted(model.held), k=min(len(model.held), dice.randint(0, 4))):
            if dice.random() < 0.3 and not await _would_go(model, key):
                model.gone.add(model.held[key][0])
                await table.give_up(key, model.held[key][0])
            for _ in range(dice.choice((1, 1, 2))):
                await parked.retry_parts(table.pool, [each], (), key)
                model.is_tried(key)
        if dice.random() < 0.02:
            await agree(table, model)
    for key in sorted(model.held):
        await parked.retry_parts(table.pool, [each], (), key)
        model.is_tried(key)
    await agree(table, model)
    again = [await parked.retry_parts(table.pool, [each], (), key) for key in sorted({*model.keys})]
    assert sum(tried.released for found in again for tried in found) == 0
    await agree(table, model)


async def _reader(table: Table, each: Part) -> Consumer:
    reader = Consumer(each, table.pool, Metrics("hours", "test"))
    await reader.begin()
    return reader


async def _would_go(model: Model, key: str) -> bool:
    """Whether the first of the key would be applied if it were tried: nobody gives that up."""
    return not model._is_bad(model.held[key][0])


@pytest.mark.parametrize("tens", range(10))
async def test_ten_thousand_placements_of_poison_keep_the_order_of_every_key(tens: int) -> None:
    """A thousand placements at a time, in ten logs of a hundred, each with its seed."""
    gone = applied_late = 0
    for seed in range(10 * tens, 10 * tens + 10):
        dice, log, model = random.Random(seed), Log(), Model()
        messages = told(dice, log, model, poison=100, keys=dice.choice((5, 40, 150)))
        try:
            await play(dice, InMemory(model), model, messages)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error
        gone += len(model.gone)
        applied_late += sum(late < early for early, late in pairwise(model.applied))
    assert gone > 20
    assert applied_late > 20


@pytest.mark.parametrize("seed", range(2))
async def test_some_hundred_of_them_do_so_in_postgresql_and_a_replay_ends_with_the_same_parked_keys(bases: Bases, seed: int) -> None:
    base, dice, log, model = await bases(), random.Random(seed), Log(), Model()
    messages = told(dice, log, model, poison=300, keys=(60, 300)[seed])
    owner = await connect(base.dsn, "operator")
    live = Real(base, owner)
    await play(dice, live, model, messages)
    assert model.gone

    fresh = await bases()
    replaying = await connect(fresh.dsn, "operator")
    for table in ("discard_request", "discarded"):
        for row in await owner.fetch(f"SELECT * FROM consumer.{table}"):
            values = ", ".join(f"${number}" for number in range(1, len(row) + 1))
            await replaying.execute(f"INSERT INTO consumer.{table} VALUES ({values})", *row.values())
    replay = Real(fresh, replaying)
    await replay.let_be()
    reader = await _reader(replay, part(written))
    for start in range(0, len(messages), 97):
        await reader.take(messages[start : start + 97])
    assert await replay.held() == await live.held()
    assert await replay.blocked() == await live.blocked()
    assert sorted(await replay.applied()) == sorted(await live.applied())
    for applied in (await live.applied(), await replay.applied()):
        by_key = defaultdict[str, list[int]](list)
        for position in applied:
            by_key[model.keys[position - 1]].append(position)
        assert all(positions == sorted(positions) for positions in by_key.values())
    parked_and_gone = len(await live.held()) + len(model.gone)
    assert len(await live.applied()) + parked_and_gone == len(messages), "seen = applied + parked + discarded"
    for connection in (owner, replaying):
        await connection.close()


# -- giving up


@pytest.fixture
async def owner(base: Base) -> Any:
    connection = await connect(base.dsn, "operator")
    yield connection
    await connection.close()


async def reading(base: Base, log: Log, *numbers: tuple[str, int]) -> Consumer:
    reader = Consumer(part(), base.pool, base.metrics)
    await reader.begin()
    await reader.take(log.count(*numbers))
    return reader


async def test_one_asks_another_approves_and_both_are_written_down_for_ever(base: Base, owner: Any) -> None:
    await reading(base, Log(), ("a", POISON), ("a", 2), ("b", 3))
    [asked] = await discards.ask(owner, "a", None, ONE)
    assert (asked["position"], asked["asked_by"], asked["error_class"]) == (1, ONE.who, "InvariantError")
    with pytest.raises(StateError, match="another person approves"):
        await discards.approve(owner, "a", ONE)
    assert await base.parked() == [(1, "a", "InvariantError"), (2, "a", BEHIND)]
    [done] = await discards.approve(owner, "a", OTHER)
    assert done["position"] == 1
    await parked.retry_parts(base.pool, [part()], (), "a")
    assert (await base.parked(), await base.tallied()) == ([], [(3, "b", 3), (2, "a", 2)])
    changes = await owner.fetch("SELECT subject, was, becomes, who, reason FROM es.log_change ORDER BY number")
    assert [tuple(row) for row in changes] == [
        ("inbox of seats, position 1, applied", "parked", "discard asked for", ONE.who, ONE.reason),
        ("inbox of seats, position 1, applied", "discard asked for", "discarded", OTHER.who, OTHER.reason),
    ]
    for table in ("discard_request", "discarded", "breaker_override"):
        for change in ("DELETE FROM consumer.{}", "UPDATE consumer.{} SET who = 'nobody'", "TRUNCATE consumer.{} CASCADE"):
            with pytest.raises(asyncpg.PostgresError, match="append-only"):
                await owner.execute(change.format(table))
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await base.pool.execute(f"DELETE FROM consumer.{table}")


async def test_the_database_itself_refuses_an_approval_by_who_asked(base: Base, owner: Any) -> None:
    await reading(base, Log(), ("a", POISON))
    [asked] = await discards.ask(owner, "a", None, ONE)
    with pytest.raises(asyncpg.PostgresError, match="who asked for a discard does not approve it"):
        await owner.execute(
            "INSERT INTO consumer.discarded (consumer, log, stage, event_id, position, who, reason) VALUES ($1, $2, $3, $4, $5, $6, 'x')",
            asked["consumer"], asked["log"], asked["stage"], asked["event_id"], asked["position"], ONE.who,
        )  # fmt: skip


async def test_what_has_not_failed_is_not_given_up_and_what_was_released_meanwhile_neither(base: Base, owner: Any) -> None:
    await reading(base, Log(), ("a", POISON), ("a", 2))
    for key, consumer in (("b", None), ("a", "views")):
        with pytest.raises(StateError, match="no event of this key has failed"):
            await discards.ask(owner, key, consumer, ONE)
    with pytest.raises(StateError, match="nothing of this key waits"):
        await discards.approve(owner, "a", OTHER)
    await discards.ask(owner, "a", "inbox", ONE)
    await parked.retry_parts(base.pool, [part(forgiving)], (), "a")
    with pytest.raises(StateError, match="released meanwhile"):
        await discards.approve(owner, "a", OTHER)
    assert [position for position, _, _ in await base.tallied()] == [1, 2]


async def test_what_is_given_up_at_the_look_ups_is_not_reacted_to_either(base: Base, owner: Any) -> None:
    service, log = await decide(base), Log()
    messages = log.count(("a", POISON), ("b", 2), ("a", 3))
    look_ups, reactor = await service.look_ups(), service.reactor()
    await look_ups.take(messages)
    await discards.ask(owner, "a", None, ONE)
    await discards.approve(owner, "a", OTHER)
    await reactor.begin()
    await reactor.take(messages)
    assert base.counted("discarded", "reactions") == 1
    await parked.retry_parts(base.pool, [part()], [reactor], "a")
    assert sorted(await service.counted()) == [-3, -2, 2, 3]
    await service.store.close()


async def test_a_reaction_that_is_given_up_lets_the_next_ones_go_and_its_look_up_stays(base: Base, owner: Any) -> None:
    service, log = await decide(base), Log()
    messages = log.count(("a", 14), ("a", 2))
    look_ups, reactor = await service.look_ups(), service.reactor()
    await look_ups.take(messages)
    await reactor.take(messages)
    [asked] = await discards.ask(owner, "a", None, ONE)
    assert asked["stage"] == "reactions"
    await discards.approve(owner, "a", OTHER)
    [tried] = await parked.retry_parts(base.pool, [part()], [reactor], "a")
    assert (tried.released, tried.failed) == (1, None)
    assert await service.counted() == [2, -2]
    assert [number for _, _, number in await base.tallied()] == [14, 2]
    assert await base.pool.fetchval("SELECT count(*) FROM consumer.blocked") == 0
    await service.store.close()


# -- retrying by reason


async def test_all_keys_that_are_parked_for_one_reason_are_found_oldest_first(base: Base) -> None:
    log, reader = Log(), Consumer(part(), base.pool, base.metrics)
    await reader.begin()
    await reader.take([*log.count(("b", POISON), ("a", POISON)), log.say("c", Counted(number=3), payload=b"{}"), *log.count(("a", 4))])
    assert await parked.keys_parked_for(base.pool, "InvariantError") == ["b", "a"]
    assert await parked.keys_parked_for(base.pool, "PayloadError") == ["c"]
    assert await parked.keys_parked_for(base.pool, BEHIND) == []


async def test_a_key_that_fails_for_another_reason_is_listed_under_that(base: Base) -> None:
    log, reader = Log(), Consumer(part(), base.pool, base.metrics)
    await reader.begin()
    await reader.take([*log.count(("a", POISON)), log.say("a", Counted(number=2), payload=b"{}")])
    await parked.retry_parts(base.pool, [part(forgiving)], (), "a")
    [listed] = await parked.list_keys(base.pool)
    assert (listed["reason"], listed["events"]) == ("PayloadError", 1)


# -- the breaker


async def test_a_stopped_consumer_says_so_and_an_override_lets_it_park_on_until_it_is_over(base: Base, owner: Any) -> None:
    log = Log()
    reader = await reading(base, log, ("a", 1))
    with pytest.raises(StateError, match="is not stopped"):
        await states.override_breaker(owner, "inbox", 5, ONE)
    many = log.count(*((f"m{n}", POISON) for n in range(21)), ("a", 2))
    for _ in range(2):
        with pytest.raises(BreakerError):
            await reader.take(many)
    assert await stopped(base) == [("inbox", "seats", "applied", "InvariantError", 21)]
    assert (await base.applied(), await base.parked()) == (1, [])

    [said] = await states.override_breaker(owner, "inbox", 5, ONE)
    assert said["error_class"] == "InvariantError"
    reader = Consumer(part(), base.pool, base.metrics)
    await reader.begin()
    assert await reader.take(many) is False
    assert (await base.applied(), len(await base.parked())) == (23, 21)
    assert await stopped(base) == []
    more = log.count(*((f"n{n}", POISON) for n in range(21)))
    assert await reader.take(more) is False
    for message in [log.say(f"p{n}", Counted(number=1), payload=b"{}") for n in range(20)]:
        await base.pool.execute("SELECT 1")
        more.append(message)
    with pytest.raises(BreakerError):  # Another reason was not overridden: 20 of a few dozen keys are too many.
        await reader.take(more)
    assert await stopped(base) == [("inbox", "seats", "applied", "PayloadError", 20)]
    change = await owner.fetchrow("SELECT subject, was, becomes, who, reason FROM es.log_change ORDER BY number DESC LIMIT 1")
    assert tuple(change)[:2] == ("inbox of seats, applied", "stopped for InvariantError")
    assert (change["becomes"].startswith("parks on until "), change["who"], change["reason"]) == (True, ONE.who, ONE.reason)


async def test_what_was_parked_under_an_override_does_not_stop_the_consumer_when_it_has_ended_but_what_comes_then_does(
    base: Base, owner: Any
) -> None:
    log = Log()
    reader = await reading(base, log, ("a", 1))
    many = log.count(*((f"m{n}", POISON) for n in range(21)))
    with pytest.raises(BreakerError):
        await reader.take(many)
    await owner.execute(  # One that ended a moment after it began, as time would have it.
        "INSERT INTO consumer.breaker_override (consumer, log, stage, error_class, until, who, reason) "
        "VALUES ('inbox', 'seats', 'applied', 'InvariantError', clock_timestamp() + interval '1.5 s', 'x', 'y')"
    )
    await reader.take(many)

    async def is_over() -> bool:
        return bool(await owner.fetchval("SELECT clock_timestamp() > max(until) FROM consumer.breaker_override"))

    await until(is_over)
    await reader.take(log.count(("q", POISON)))
    with pytest.raises(BreakerError):
        await reader.take(log.count(*((f"n{n}", POISON) for n in range(21))))


async def test_what_stands_still_and_what_was_given_up_is_shown_by_metrics_and_with_every_answer(base: Base, owner: Any) -> None:
    service, log = await decide(base), Log()
    views = Consumer(part(consumer="views"), base.pool, base.metrics)
    await views.begin()
    await views.take(log.count(("a", POISON)))
    await discards.ask(owner, "a", None, ONE)
    await discards.approve(owner, "a", OTHER)
    many = log.count(*((f"m{n}", POISON) for n in range(21)))
    with pytest.raises(BreakerError):
        await views.take(many)
    stopped, discarded = base.metrics.consumer_stopped, base.metrics.discarded_messages
    waits = Waits(MemoryStore("seats"), base.pool)
    waits._views = frozenset({"seats"})
    await refresh(service.setting, system_clock)
    assert stopped.labels("views", "seats", "InvariantError")._value.get() == 1
    assert discarded.labels("views")._value.get() == 1
    [fresh] = await _freshness(base, waits)
    assert (fresh.applied, fresh.discarded, fresh.stopped) == (1, 1, "InvariantError")
    await states.override_breaker(owner, "views", 5, ONE)
    views = Consumer(part(consumer="views"), base.pool, base.metrics)
    await views.begin()
    await views.take(many)
    await refresh(service.setting, system_clock)
    assert "leifeng_consumer_stopped{" not in base.metrics.render().decode()
    [fresh] = await _freshness(base, waits)
    assert (fresh.applied, fresh.discarded, fresh.stopped) == (22, 1, None)
    await service.store.close()


async def test_reactions_that_are_stopped_say_so_and_go_on(base: Base, owner: Any) -> None:
    service, log = await decide(base), Log()
    messages = log.count(*((f"m{n}", 14) for n in range(21)))
    await (await service.look_ups()).take(messages)
    with pytest.raises(BreakerError):
        await service.reactor().take(messages)
    assert await stopped(base) == [("inbox", "seats", "reactions", "InvariantError", 21)]
    await states.override_breaker(owner, "inbox", 5, ONE)
    reactor = service.reactor()
    await reactor.begin()
    await reactor.take(messages)
    assert await stopped(base) == []
    assert len(await base.parked()) == 21
    await service.store.close()


async def _freshness(base: Base, waits: Waits) -> Sequence[Freshness]:
    async with base.pool.acquire() as connection, connection.transaction(readonly=True):
        return await waits.freshness(connection)


async def stopped(base: Base) -> list[tuple[Any, ...]]:
    rows = await base.pool.fetch("SELECT consumer, log, stage, reason, keys FROM consumer.stopped")
    return [tuple(row) for row in rows]


# -- trying a release


async def test_what_a_release_would_change_is_told_by_rows_and_nothing_is_changed(base: Base) -> None:
    await reading(base, Log(), ("a", 1), ("a", POISON), ("b", 3), ("a", 4), ("a", POISON))
    before = await everything(base)
    [said] = await explain.explain_parts(base.pool, [part(forgiving)], (), "a", {})
    assert [(step.position, step.outcome) for step in said.steps] == [(each, "would be applied") for each in (2, 4, 5)]
    assert [line.split(" ", 2)[:2] for line in said.changes] == [["+", "lookup.tally"]] * 3 + [["~", "lookup.total"]]
    assert said.changes[-1] == "~ lookup.total key=… sum=1->265 last=1->5"
    assert await everything(base) == before


async def test_what_fails_again_is_told_by_its_kind_and_place_and_never_by_its_text(base: Base) -> None:
    await reading(base, Log(), ("a", POISON), ("a", 2))
    [said] = await explain.explain_parts(base.pool, [part()], (), "a", {})
    assert said.steps[0].outcome.startswith("fails: InvariantError at integration/consumer/log.py:")
    assert "thirteen" not in repr(said)
    assert said.steps[1].outcome == "would wait behind it"
    assert said.changes == []
    assert [each["attempts"] for each in await parked.show(base.pool, "a")] == [1, 1]


async def gone_and_named(connection: Connection, facts: Sequence[Fact]) -> None:
    for fact in facts:
        await connection.fetch("SELECT FROM lookup.total WHERE key = 'locked' FOR UPDATE")
        await connection.execute("DELETE FROM lookup.total WHERE key = 'b'")
        await connection.execute("INSERT INTO lookup.note VALUES ($1, '赵一鸣')", fact.record.position)
        await connection.execute("INSERT INTO lookup.note VALUES ($1, 'a_code')", -fact.record.position)


async def test_texts_are_hidden_unless_they_are_codes_and_rows_that_were_only_locked_are_no_change(base: Base) -> None:
    await reading(base, Log(), ("b", 3), ("a", POISON))
    await base.pool.execute("INSERT INTO lookup.total VALUES ('locked', 1, 1)")
    [said] = await explain.explain_parts(base.pool, [part(gone_and_named)], (), "a", {"note": frozenset({"a_code"})})
    assert said.changes == [
        "+ lookup.note position=-2 note=a_code", "+ lookup.note position=2 note=…", "- lookup.total key=… sum=3 last=1",
    ]  # fmt: skip


async def test_a_release_is_tried_while_the_consumer_goes_on(base: Base) -> None:
    log = Log()
    reader = await reading(base, log, ("a", POISON), ("b", 2))
    tried = asyncio.create_task(explain.explain_parts(base.pool, [part(forgiving)], (), "a", {}))
    for number in range(20):
        await reader.take(log.count(("b", number + 100)))
    [said] = await tried
    assert said.steps[0].outcome == "would be applied"
    assert [line for line in said.changes if "lookup.total" in line] == ["+ lookup.total key=… sum=130 last=1"]


async def test_what_a_reaction_would_ask_is_told_and_not_asked(base: Base) -> None:
    service, log = await decide(base), Log()
    messages = log.count(("a", 14), ("a", 2))
    await (await service.look_ups()).take(messages)
    reactor = service.reactor()
    await reactor.take(messages)
    [said] = await explain.explain_parts(base.pool, [part()], [reactor], "a", {})
    assert [step.outcome.partition(" at ")[0] for step in said.steps] == ["fails: InvariantError", "would ask 2 commands"]
    assert said.changes == ["? count", "? count"]
    assert await service.counted() == []
    await service.store.close()


async def everything(base: Base) -> list[object]:
    tables = ("consumer.position", "consumer.parked", "consumer.blocked", "lookup.tally", "lookup.total", "lookup.note")
    return [[tuple(row) for row in await base.pool.fetch(f"SELECT * FROM {table} ORDER BY 1, 2")] for table in tables]
