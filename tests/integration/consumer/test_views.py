"""Read models in their own schema, admins' views, and what every worker shows of the consumers."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import time
from typing import Any
from uuid import uuid4, uuid5

import asyncpg
import pytest

from deploy.local.kafka import LocalKafka
from shared.access import Common
from shared.clock import system_clock
from shared.codec import Codec
from shared.consumer import Kafka, Setting
from shared.consumer.apply import Consumer, Run
from shared.consumer.gauges import refresh
from shared.consumer.heads import follow_heads
from shared.consumer.inbox import run_inbox
from shared.consumer.schema import ensure_views
from shared.consumer.values import Consumers, Fact, LookUp, Projection, Reaction, no_deadlines
from shared.consumer.views import parts, run_views
from shared.consumer.waits import Waits
from shared.consumer.withdrawals import run_withdrawals
from shared.contracts.registration import ConsentGiven, VolunteerRegistered
from shared.contracts.topics import EVENTS, UPCASTERS
from shared.credentials import addresses
from shared.envelope import Record, Stream
from shared.errors import LeifengError
from shared.eventstore.store import ensure_log, open_store
from shared.eventstore.values import AppendRequest, NewEvent
from shared.postgres import Connection, connect
from shared.rebuild import Origin, RebuildError, Rebuilding, drop_old, rebuild, roll_back
from shared.relay.steps import START, chained
from tests.integration.consumer.conftest import Base
from tests.integration.consumer.log import Log, Message, create_topic, publish
from tests.integration.consumer.test_shell import until, write_unreadable
from tests.integration.consumer.test_withdrawals import PERSON

REAL = Codec(EVENTS, UPCASTERS)
TABLES = "CREATE TABLE volunteer (id uuid PRIMARY KEY, number text NOT NULL, name text);"
ROWS = {"volunteer": Common("a test")}
API = "CREATE VIEW api.volunteers AS SELECT number FROM volunteer; COMMENT ON COLUMN api.volunteers.number IS '编号 / number';"


async def volunteers(connection: Connection, facts: Sequence[Fact]) -> None:
    for fact in facts:
        if isinstance(fact.event, VolunteerRegistered):
            await connection.execute(
                "INSERT INTO volunteer VALUES ($1, $2, $3)", fact.event.volunteer_id, fact.event.number, fact.event.name
            )


async def consents(connection: Connection, facts: Sequence[Fact]) -> None:
    for fact in facts:
        if isinstance(fact.event, ConsentGiven):
            await connection.execute("INSERT INTO lookup.note VALUES ($1, $2)", fact.record.position, fact.event.consent)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    tables, api = tmp_path / "volunteers.sql", tmp_path / "api.sql"
    tables.write_text(TABLES, encoding="utf-8")
    api.write_text(API, encoding="utf-8")
    return tables, api


def registered(log: Log, base: Base, number: str, name: str = "赵一鸣") -> Message:
    person = PERSON if number == "1" else uuid5(PERSON, number)
    event = VolunteerRegistered(
        volunteer_id=person, number=number, unit_code="u", name=name, id_number=None, phone=None, is_minor=False, skills=None
    )
    payload = REAL.encode(event, uuid5(log.log_id, str(len(log.records) + 1)), base.keys.seal)
    return log.say(str(person), event, payload=payload)


async def test_read_models_are_made_once_and_admins_see_api_views_and_nothing_else(base: Base, files: tuple[Path, Path]) -> None:
    tables, api = files
    projection = Projection("volunteers", "registration", tables, volunteers, rows=ROWS)
    owner = await connect(base.dsn, "migrate")
    assert await ensure_views(owner, base.roles, [projection], api)
    await owner.execute("INSERT INTO views_1.volunteer VALUES (gen_random_uuid(), '1', 'n')")
    api.write_text(API + "CREATE VIEW api.numbers AS SELECT count(*) AS n FROM volunteer;", encoding="utf-8")
    assert await ensure_views(owner, base.roles, [projection], api)
    assert await owner.fetchval("SELECT n FROM api.numbers") == 1

    tables.write_text(TABLES + "-- another", encoding="utf-8")
    assert not await ensure_views(owner, base.roles, [projection], api)
    assert await owner.fetchval("SELECT n FROM api.numbers") == 1

    reader = await connect(base.dsn, "reader", role=base.roles.query)
    assert await reader.fetch("SELECT number FROM api.volunteers") == []
    await reader.execute("SET leifeng.reach = 'bureau'")
    assert await reader.fetchval("SELECT number FROM api.volunteers") == "1"
    assert await reader.fetch("SELECT * FROM api.freshness") == []
    for forbidden in ("SELECT * FROM views_1.volunteer", "SELECT * FROM consumer.position", "CREATE TABLE api.mine ()"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.execute(forbidden)
    await reader.close()
    uncommented = await owner.fetchval(
        "SELECT count(*) FROM pg_attribute WHERE attrelid = 'api.freshness'::regclass AND attnum > 0 "
        "AND col_description(attrelid, attnum) IS NULL"
    )
    assert uncommented == 0
    await owner.close()


@asynccontextmanager
async def at_work(*work: Callable[[asyncio.Event], Any]) -> AsyncIterator[None]:
    stop = asyncio.Event()
    tasks = [asyncio.create_task(each(stop)) for each in work]
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(20):
            await asyncio.wait(tasks)
    for task in tasks:
        task.result()


async def test_all_roles_of_a_service_follow_its_logs_and_every_worker_shows_how_far(
    base: Base, kafka_server: LocalKafka, topic_prefix: str, files: tuple[Path, Path]
) -> None:
    tables, api = files
    projection = Projection("volunteers", "registration", tables, volunteers, rows=ROWS)
    owner = await connect(base.dsn, "migrate")
    await ensure_views(owner, base.roles, [projection], api)
    await owner.close()
    servers = kafka_server.servers
    for name in ("registration", "hours", "recognition"):
        await create_topic(servers, f"{topic_prefix}{name}.events")
        await create_topic(servers, f"{topic_prefix}{name}.heads")
    consumers: Consumers[None] = Consumers(
        service="registration", projections=[projection], look_ups=[LookUp("registration", consents, ("note",))], deadlines=no_deadlines,
        reactions=[Reaction("none", "registration", frozenset(), None)], use_cases={},  # type: ignore[arg-type]
    )  # fmt: skip
    setting = Setting(
        consumers=consumers, pool=base.pool, kafka=Kafka(servers, topic_prefix), codec=REAL, keys=base.keys, metrics=base.metrics
    )
    log = Log("registration")
    await base.keys.ensure([PERSON])
    consent = ConsentGiven(volunteer_id=PERSON, consent="be_named", text_version="1")
    messages = [registered(log, base, "1"), log.say(str(PERSON), consent, payload=REAL.encode(consent, PERSON))]
    await publish(servers, f"{topic_prefix}registration.events", messages)
    said = datetime(2026, 1, 2, tzinfo=UTC)
    head = {"log_id": str(log.log_id), "head": 5, "sealed": 5, "published": 2, "chain_hash": "00" * 32, "time": said.isoformat()}
    heads = f"{topic_prefix}registration.heads"
    await publish(servers, heads, [Message(0, [], b"{"), Message(0, [], json.dumps(head).encode(), "registration")])

    async def no_submit(*_given: Any, **_named: Any) -> Any:
        raise AssertionError("nothing is to be submitted")

    async def shown() -> bool:
        await refresh(setting, system_clock)
        lag = base.metrics.consumer_lag_events
        return all(lag.labels(name, "registration")._value.get() == 3 for name in ("views", "inbox", "withdrawals", "reactions"))

    async with at_work(
        lambda stop: run_views(setting, stop),
        lambda stop: run_inbox(setting, no_submit, None, system_clock, stop),
        lambda stop: run_withdrawals(setting, stop),
        lambda stop: follow_heads(setting, stop),
    ):
        await until(shown)
        heartbeat = base.metrics.consumer_heartbeat_timestamp_seconds.labels("views", "registration")
        assert heartbeat._value.get() == 0
        caught_up = {**head, "head": 2, "sealed": 2, "chain_hash": log.hashes[2].hex(), "time": said.replace(day=3).isoformat()}
        await write_unreadable(servers, heads)

        async def beats() -> bool:
            await publish(servers, heads, [Message(0, [], json.dumps(caught_up).encode(), "registration")])
            await refresh(setting, system_clock)
            return bool(heartbeat._value.get() == said.replace(day=3).timestamp())

        await until(beats)
        contradicts = base.metrics.consumer_source_contradicts.labels("views", "registration")._value
        assert contradicts.get() == 0
        others: Sequence[dict[str, Any]] = (
            {"log_id": str(uuid4())},
            {"chain_hash": "11" * 32},
            {"head": 1, "sealed": 1, "chain_hash": log.hashes[1].hex()},
        )
        for day, other in enumerate(others, start=4):

            async def said_otherwise(day: int = day, other: dict[str, Any] = other) -> bool:
                word = {**caught_up, "time": said.replace(day=day).isoformat(), **other}
                await publish(servers, heads, [Message(0, [], json.dumps(word).encode(), "registration")])
                kept = await base.pool.fetchval("SELECT said_at FROM consumer.head WHERE log = 'registration'")
                return bool(kept == said.replace(day=day))

            await until(said_otherwise)
            await refresh(setting, system_clock)
            assert contradicts.get() == 1
            assert heartbeat._value.get() == said.replace(day=3).timestamp(), "a log that is another one does not count as followed"
    assert [tuple(row) for row in await base.pool.fetch("SELECT number, name FROM views_1.volunteer")] == [("1", "赵一鸣")]
    assert [tuple(row) for row in await base.pool.fetch("SELECT * FROM lookup.note")] == [(2, "be_named")]
    assert await base.pool.fetchval("SELECT given_position FROM consumer.withdrawn") == 2
    assert await base.pool.fetchval("SELECT reacted FROM consumer.position WHERE consumer = 'inbox' AND log = 'registration'") == 2
    freshness = await base.pool.fetch("SELECT source, applied, behind_events, as_of FROM api.freshness")
    assert ("registration", 2, 0, said.replace(day=6)) in [tuple(row) for row in freshness]


async def test_parked_keys_and_due_deadlines_are_shown_and_go_when_they_are_gone(base: Base) -> None:
    consumers: Consumers[None] = Consumers(service="hours", projections=(), look_ups=(), deadlines=no_deadlines, reactions=(), use_cases={})
    setting = Setting(consumers=consumers, pool=base.pool, kafka=Kafka("", ""), codec=REAL, keys=base.keys, metrics=base.metrics)
    for position, why in ((1, "PayloadError"), (2, "behind")):
        await base.pool.execute(
            "INSERT INTO consumer.parked (consumer, log, position, key, type, headers, payload, error_class, stage) "
            "VALUES ('inbox', 'seats', $1, 'a', 't', '', '', $2, 'applied')",
            position, why,
        )  # fmt: skip
    await base.pool.execute("INSERT INTO consumer.blocked VALUES ('inbox', 'seats', 'applied', 'a', 'PayloadError')")
    await base.pool.execute(
        "INSERT INTO consumer.deadline VALUES ('n', 'k', now() - interval '1 s', 'u', '{}', '{}', gen_random_uuid(), 1, gen_random_uuid())"
    )
    await refresh(setting, system_clock)
    page = base.metrics.render().decode()
    for line in ('parked_keys{consumer="inbox",reason="PayloadError"', 'parked_messages{consumer="inbox",reason="PayloadError"'):
        assert line in page.replace('service="hours",', "").replace(',service="hours"', "")
    assert base.metrics.parked_keys.labels("inbox", "PayloadError")._value.get() == 1
    assert base.metrics.parked_messages.labels("inbox", "PayloadError")._value.get() == 2
    assert base.metrics.parked_oldest_timestamp_seconds.labels("inbox", "PayloadError")._value.get() == pytest.approx(time(), abs=60)
    assert base.metrics.deadlines_due._value.get() == 1
    await base.pool.execute("DELETE FROM consumer.parked")
    await base.pool.execute("DELETE FROM consumer.deadline")
    await refresh(setting, system_clock)
    assert "leifeng_parked_keys{" not in base.metrics.render().decode()
    assert base.metrics.deadlines_due._value.get() == 0


@dataclass
class Rebuilt:
    """Registration's read models, and what rebuilds them."""

    work: Rebuilding
    projection: Projection
    tables: Path
    topic: str
    log: Log

    @property
    def setting(self) -> Setting:
        return self.work.setting


@pytest.fixture
async def rebuilt(base: Base, kafka_server: LocalKafka, topic_prefix: str, files: tuple[Path, Path]) -> AsyncIterator[Rebuilt]:
    """Read models that are live and empty, and empty topics."""
    tables, api = files
    projection = Projection("volunteers", "registration", tables, volunteers, rows=ROWS)
    for name in ("registration", "hours", "recognition"):
        await create_topic(kafka_server.servers, f"{topic_prefix}{name}.events")
    consumers: Consumers[None] = Consumers(
        service="registration", projections=[projection], look_ups=(), deadlines=no_deadlines, reactions=(), use_cases={}
    )
    kafka = Kafka(kafka_server.servers, topic_prefix)
    setting = Setting(consumers=consumers, pool=base.pool, kafka=kafka, codec=REAL, keys=base.keys, metrics=base.metrics)
    owner = await connect(base.dsn, "owner", statement_seconds=30)
    await ensure_log(owner, "registration", "system")
    await ensure_views(owner, base.roles, [projection], api)
    await base.keys.ensure(uuid5(PERSON, str(number)) for number in range(9))
    store = await open_store(base.pool, "registration", base.metrics)

    def say(_line: str) -> None:
        return

    work = Rebuilding(owner=owner, roles=base.roles, setting=setting, store=store, api_sql=api, imbalance=None, say=say)
    yield Rebuilt(work, projection, tables, f"{topic_prefix}registration.events", Log("registration"))
    await store.close()
    await owner.close()


async def numbers(rebuilt: Rebuilt, table: str) -> list[str]:
    return [row["number"] for row in await rebuilt.work.owner.fetch(f"SELECT number FROM {table} ORDER BY 1")]


async def test_a_worker_goes_on_in_the_read_models_that_were_swapped_in_and_a_rebuild_that_is_over_writes_nothing(
    base: Base, rebuilt: Rebuilt
) -> None:
    """What was built stands further than the worker did, which had not read the third record yet."""
    messages = [registered(rebuilt.log, base, str(number)) for number in (2, 3, 4)]
    await publish(addresses(rebuilt.setting.kafka.servers), rebuilt.topic, messages)
    [part] = [each for each in parts(rebuilt.setting) if each.source == "registration"]
    worker = Consumer(part, base.pool, base.metrics)
    await worker.begin()
    await worker.take(messages[:2])
    assert await rebuild(rebuilt.work, asyncio.Event())
    assert await base.applied("views", "registration") == 3
    late = registered(rebuilt.log, base, "5")
    await publish(addresses(rebuilt.setting.kafka.servers), rebuilt.topic, [late])
    assert await worker.take([messages[2], late]) is False
    assert worker.position == 4
    assert await numbers(rebuilt, "views_2.volunteer") == ["2", "3", "4", "5"]
    assert await numbers(rebuilt, "views_1.volunteer") == ["2", "3"]

    [built] = [each for each in parts(rebuilt.setting, "views_2") if each.source == "registration"]
    zombie = Consumer(built, base.pool, base.metrics)
    await zombie.begin()
    with pytest.raises(LeifengError, match="no rebuild"):
        await zombie.take(messages)
    assert await roll_back(rebuilt.work, asyncio.Event())  # What the zombie left does not stand in the way.


async def test_read_models_of_other_definitions_stand_still_until_they_are_rebuilt(base: Base, rebuilt: Rebuilt) -> None:
    """The worker of a new release waits, and goes on by itself after the rebuild; only the old release rolls back."""
    work, setting, log, tables = rebuilt.work, rebuilt.setting, rebuilt.log, rebuilt.tables
    owner, servers, topic = work.owner, addresses(setting.kafka.servers), rebuilt.topic
    await publish(servers, topic, [registered(log, base, str(number)) for number in (2, 3)])
    changed = base.metrics.projection_definition_changed._value

    def at(position: int) -> Callable[[], Any]:
        async def reached() -> bool:
            return await base.applied("views", "registration") >= position

        return reached

    async with at_work(lambda stop: run_views(setting, stop)):
        await until(at(2))
    assert changed.get() == 0
    tables.write_text(TABLES.replace("name text", "name text, unit text"), encoding="utf-8")
    assert not await ensure_views(owner, base.roles, [rebuilt.projection], work.api_sql)
    async with at_work(lambda stop: run_views(setting, stop)):
        await publish(servers, topic, [registered(log, base, "4")])

        async def noticed() -> bool:
            return bool(changed.get() == 1)

        await until(noticed)
        assert await rebuild(work, asyncio.Event(), per_second=1000)
        assert await base.pool.fetchval("SELECT applied FROM consumer.position WHERE consumer = 'views@1' AND log = 'registration'") == 2
        await publish(servers, topic, [registered(log, base, "5")])
        await until(at(4))
    assert changed.get() == 0
    assert await numbers(rebuilt, "views_2.volunteer") == ["2", "3", "4", "5"]
    assert await numbers(rebuilt, "api.volunteers") == ["2", "3", "4", "5"]

    with pytest.raises(RebuildError, match="other definitions"):
        await roll_back(work, asyncio.Event())
    tables.write_text(TABLES, encoding="utf-8")

    async def swap_waits() -> bool:
        return bool(await base.pool.fetchval("SELECT true FROM pg_locks WHERE NOT granted AND relation = 'consumer.views'::regclass"))

    reader = await connect(base.dsn, "reader", role=base.roles.app)
    async with reader.transaction(isolation="repeatable_read", readonly=True):
        await Waits(work.store, base.pool).freshness(reader)
        rolling_back = asyncio.create_task(roll_back(work, asyncio.Event()))
        await until(swap_waits)  # Positions and rows of one read are of the same read models.
        assert await live_schema(base) == "views_2"
    assert await rolling_back
    await reader.close()
    assert await live_schema(base) == "views_1"
    assert await numbers(rebuilt, "views_1.volunteer") == ["2", "3", "4", "5"]
    await drop_old(work)
    assert await owner.fetchval("SELECT to_regnamespace('views_2')") is None


async def live_schema(base: Base) -> str:
    found: str = await base.pool.fetchval("SELECT schema FROM consumer.views WHERE live")
    return found


async def in_the_store(rebuilt: Rebuilt, count: int, *sealed: tuple[int, bytes | None]) -> list[Message]:
    """So many persons in the own log, sealed at these positions, under another hash where one is given; as Kafka would hand them out."""
    store, model = rebuilt.work.store, VolunteerRegistered
    for number in range(1, count + 1):
        person = uuid5(PERSON, str(number))
        said = model(
            volunteer_id=person, number=f"{number:03}", unit_code="u", name=None, id_number=None, phone=None, is_minor=False, skills=None
        )
        event = NewEvent(uuid4(), model.TYPE, model.VERSION, REAL.encode(said, uuid4()))
        await store.append(
            AppendRequest(
                command_id=uuid4(), fingerprint=None, stream=Stream("volunteer", person), expected_version=0, events=[event], refusal=None,
                take=(), release=(), time=datetime.now(UTC), correlation_id=uuid4(), causation_id=None, actor="kiosk:1",
                partition_key=str(person), traceparent=None,
            )
        )  # fmt: skip
    page, previous = chained(START, await store.read_page(0, count)), 0
    for position, hash_ in sealed:
        await rebuilt.setting.pool.execute(
            "INSERT INTO es.seal (previous, position, hash) VALUES ($1, $2, $3)", previous, position, hash_ or page[position - 1].link.hash
        )
        previous = position
    return [Message(number, list(each.headers), each.value) for number, each in enumerate(page)]


async def shown_live(rebuilt: Rebuilt, messages: Sequence[Message]) -> None:
    """The live read models show these: what is rebuilt has to come as far."""
    live = reader_of(rebuilt)
    await live.begin()
    await live.take(messages)


def reader_of(rebuilt: Rebuilt, schema: str | None = None) -> Consumer:
    [part] = [each for each in parts(rebuilt.setting, schema) if each.source == "registration"]
    return Consumer(part, rebuilt.setting.pool, rebuilt.setting.metrics)


async def test_a_rebuild_from_the_store_reads_each_sealed_record_once_wherever_it_was_stopped(
    rebuilt: Rebuilt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.rebuild.PAGE_EVENTS", 10)
    messages = await in_the_store(rebuilt, 30, (4, None), (8, None), (17, None), (29, None))  # Pages end between seals, too.
    await shown_live(rebuilt, messages[:29])
    stopped = asyncio.Event()
    stopped.set()
    assert not await rebuild(rebuilt.work, stopped, origin=Origin.STORE)
    shadow = reader_of(rebuilt, "views_2")
    await shadow.begin()
    await shadow.take(messages[:20])  # As if it had come so far: to no seal.
    read, store = list[int](), rebuilt.work.store

    async def noting(after: int, limit: int) -> Sequence[Record]:
        page = await type(store).read_page(store, after, limit)
        read.extend(each.position for each in page)
        return page

    monkeypatch.setattr(store, "read_page", noting)
    assert await rebuild(rebuilt.work, asyncio.Event(), origin=Origin.STORE)
    assert read == list(range(21, 30))
    await roll_back(rebuilt.work, asyncio.Event())
    await drop_old(rebuilt.work)
    read.clear()
    assert await rebuild(rebuilt.work, asyncio.Event(), origin=Origin.STORE)
    assert read == list(range(1, 30))
    assert await numbers(rebuilt, "api.volunteers") == [f"{number:03}" for number in range(1, 30)]


async def test_nothing_of_a_page_is_built_whose_records_are_not_what_was_sealed(
    base: Base, rebuilt: Rebuilt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.rebuild.PAGE_EVENTS", 10)
    messages = await in_the_store(rebuilt, 14, (4, None), (14, bytes(32)))
    await shown_live(rebuilt, messages)
    with pytest.raises(RebuildError, match=r"not what was sealed .*14.*verify"):
        await rebuild(rebuilt.work, asyncio.Event(), origin=Origin.STORE)
    assert await base.applied("views@2", "registration") == 4
    assert await live_schema(base) == "views_1"


@pytest.mark.parametrize(("per_second", "slices"), [(2_000, [100, 100, 50]), (1_000_000, [250])])
async def test_a_throttled_rebuild_leaves_the_database_to_others_after_every_hundred_events(
    rebuilt: Rebuilt, monkeypatch: pytest.MonkeyPatch, per_second: float, slices: Sequence[int]
) -> None:
    await shown_live(rebuilt, await in_the_store(rebuilt, 250, (250, None)))
    sizes, apply = list[int](), Consumer._apply

    async def noting(consumer: Consumer, connection: Connection, run: Run, *rest: Any) -> tuple[int, int]:
        sizes.append(len(run.entries))
        return await apply(consumer, connection, run, *rest)

    monkeypatch.setattr(Consumer, "_apply", noting)
    assert await rebuild(rebuilt.work, asyncio.Event(), origin=Origin.STORE, per_second=per_second)
    assert sizes == slices
