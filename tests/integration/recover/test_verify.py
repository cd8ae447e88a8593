"""One flipped bit in a payload, a header or a stored row is found, and it is said where, on which side, and in what (F32)."""

from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import uuid4

import asyncpg
import pytest

from deploy.local.kafka import LocalKafka
from shared import kafka
from shared.envelope import record_of
from shared.postgres import connect
from shared.relay.readback import reading
from shared.relay.steps import START, chained
from shared.verify import DIFFERENCES_MAX, Verified, _Checker, _Topic, verify
from tests.conftest import Databases
from tests.integration.relay.conftest import SERVICE, Log, Raw, opened, raw, until

EVENTS = 40
COMMANDS = 8


@pytest.fixture(scope="module")
async def published(database: Databases, kafka_server: LocalKafka) -> tuple[str, list[Raw]]:
    """Eight commands of five events, sealed and published: the database to copy, and what lies in the topic."""
    dsn = database()
    async with opened(dsn, kafka_server.servers, f"t{uuid4().hex[:12]}.") as made:
        async with made.relaying():
            for _ in range(COMMANDS):
                await made.append(EVENTS // COMMANDS)
            await until(lambda: made.is_whole(EVENTS))
            await until(lambda: _is_marked(made))
        return dsn, await records(made)


@pytest.fixture
async def log(published: tuple[str, list[Raw]], database: Databases, kafka_server: LocalKafka, topic_prefix: str) -> AsyncIterator[Log]:
    """A copy of both, which a test may spoil."""
    dsn, lying = published
    async with opened(database(dsn), kafka_server.servers, topic_prefix) as made:
        await made.ensure_topics()
        await made.put(lying)
        yield made


async def _is_marked(log: Log) -> bool:
    return bool(await log.pool.fetchval("SELECT max(position) FROM es.relay_mark") == EVENTS)


async def verified(log: Log) -> Verified:
    """What the command finds."""
    connection = await connect(log.dsn, "verify", default_transaction_read_only="on")
    try:
        return await verify(connection, SERVICE, log.servers, log.prefix, lambda _: None)
    finally:
        await connection.close()


def said(found: Verified) -> list[str]:
    return [str(each) for each in found.differences]


async def spoil(database: Databases, log: Log, *statements: str) -> None:
    """Changes rows as only a superuser can."""
    connection = await asyncpg.connect(database.admin(log.dsn))
    try:
        for table in ("event", "seal"):
            await connection.execute(f"ALTER TABLE es.{table} DISABLE TRIGGER ALL")
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


def flipped(value: bytes, at: int = -1) -> bytes:
    """The lowest bit of one byte is another."""
    changed = bytearray(value)
    changed[at] ^= 1
    return bytes(changed)


async def records(log: Log) -> list[Raw]:
    return [raw(each) for each in await log.records()]


async def test_a_log_and_its_copy_are_the_same(log: Log) -> None:
    found = await verified(log)
    assert (found.events, found.records, found.differences, found.notes) == (EVENTS, EVENTS, [], [])


async def test_what_is_appended_and_published_while_it_reads_is_no_difference(log: Log) -> None:
    async with log.relaying():
        await log.append(COMMANDS)
        await until(lambda: log.is_whole(EVENTS + COMMANDS))
    connection = await connect(log.dsn, "verify", default_transaction_read_only="on")
    topic = kafka.topic_name(log.prefix, f"{SERVICE}.events")
    try:
        log_id = await connection.fetchval("SELECT log_id FROM es.log")
        checker = _Checker(connection, SERVICE, log_id, EVENTS, lambda _: None)  # Head and end as they were before.
        async with reading(log.servers, topic, "verify") as consumer:
            await _Topic(checker, consumer, topic, log_id, 0, EVENTS).read(EVENTS)
            await checker.finish()
    finally:
        await connection.close()
    assert (checker.found.events, checker.found.records, said(checker.found)) == (EVENTS, EVENTS, [])


async def test_one_bit_in_each_header_and_in_a_payload_and_a_key_in_kafka_is_named(log: Log) -> None:
    lying = await records(log)
    expected = []
    names = [name for name, _ in lying[0][2]]
    for number, name in enumerate(names):
        key, value, headers = lying[2 * number]
        lying[2 * number] = key, value, [(each, flipped(text) if each == name else text) for each, text in headers]
        expected.append(f"position {2 * number + 1}: Kafka (offset {2 * number}): header {name}")
    assert len(names) == 17
    key, value, headers = lying[35]
    assert value is not None
    lying[35] = key, flipped(value, 5), headers
    expected.append("position 36: Kafka (offset 35): payload at byte 5")
    key, value, headers = lying[37]
    assert key is not None
    lying[37] = flipped(key), value, headers
    expected.append("position 38: Kafka (offset 37): the record's key")
    log.rewrite(lying)
    assert said(await verified(log)) == expected


async def test_one_bit_in_the_name_of_a_header_is_named(log: Log) -> None:
    lying = await records(log)
    key, value, headers = lying[3]
    lying[3] = key, value, [("ce_actos" if name == "ce_actor" else name, text) for name, text in headers]
    log.rewrite(lying)
    [difference] = said(await verified(log))
    assert difference.startswith("position 4: Kafka (offset 3): ")
    assert difference.endswith("header ce_actor is missing, header 'ce_actos' is not one of ours")


async def test_one_bit_in_each_column_of_a_stored_event_is_named(database: Databases, log: Log) -> None:
    changes = {
        "payload": ("set_bit(payload, 83, 1 - get_bit(payload, 83))", "payload at byte 10"),
        "type": ("overlay(type placing 'o' from 1)", "header ce_type, header ce_dataschema"),
        "actor": ("overlay(actor placing 'h' from 1)", "header ce_actor"),
        "time": ("time + interval '1 microsecond'", "header ce_time"),
        "partition_key": ("'x' || partition_key", "header ce_partitionkey"),
        "schema_version": ("schema_version + 1", "header ce_dataschema, header ce_schemaversion"),
        "version": ("version + 1024", "header ce_streamversion"),
        "category": ("'attendancf'", "header ce_subject"),
        "stream_id": ("gen_random_uuid()", "header ce_subject"),
        "event_id": ("gen_random_uuid()", "header ce_id"),
        "command_id": ("gen_random_uuid()", "header ce_commandid"),
        "correlation_id": ("gen_random_uuid()", "header ce_correlationid"),
        "causation_id": ("gen_random_uuid()", "header ce_causationid is not one of ours"),
        "traceparent": ("'x'", "header traceparent is not one of ours"),
    }
    statements, expected = [], []
    for number, (column, (changed, what)) in enumerate(changes.items()):
        position = 2 * number + 2
        statements.append(f"UPDATE es.event SET {column} = {changed} WHERE position = {position}")
        named = what.replace("is not one of ours", "").strip()
        expected.append((position, named))
    await spoil(database, log, *statements)
    found = await verified(log)
    assert [(each.position, each.side) for each in found.differences] == [(position, "store") for position, _ in expected]
    for each, (_, what) in zip(found.differences, expected, strict=True):
        assert all(part in each.what.replace("'", "") for part in what.split(", ")), (each.what, what)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE es.seal SET hash = set_bit(hash, 0, 1 - get_bit(hash, 0)) WHERE position = {seal}", "position {seal}: seal: es.seal has"),
        ("DELETE FROM es.event WHERE position = 12", "position 12: store (offset 11): the event is missing"),
        ("DELETE FROM es.event WHERE position > 33", "position 34: store (offset 33): the log ends before"),
        (
            "UPDATE es.event SET recorded_at = recorded_at - interval '1 day' WHERE position = 12",
            "position 12: store: recorded_at is before",
        ),
        ("DELETE FROM es.command WHERE position = 11", "position 11: store: es.command has no answer"),
        ("UPDATE es.command SET event_count = 7 WHERE position = 11", "position 11: store: es.command has another answer"),
    ],
)
async def test_a_changed_or_missing_row_is_named(database: Databases, log: Log, statement: str, expected: str) -> None:
    seal = await log.pool.fetchval("SELECT min(position) FROM es.seal")
    await spoil(database, log, statement.format(seal=seal))
    [difference] = said(await verified(log))
    assert difference.startswith(expected.format(seal=seal))


async def test_what_is_missing_in_kafka_is_named_in_the_middle_and_at_the_end(log: Log) -> None:
    lying = await records(log)
    log.rewrite([*lying[:10], *lying[14:20], *lying[21:35]])
    assert said(await verified(log)) == [
        "position 11: Kafka: the events up to 14 are missing",
        "position 21: Kafka: the event is missing",
        "position 36: Kafka: the events up to 40 are missing",
    ]


async def test_a_damaged_record_that_was_published_again_is_only_a_note(log: Log) -> None:
    lying = await records(log)
    key, value, headers = lying[19]
    assert value is not None
    log.rewrite([*lying[:19], (key, flipped(value), headers), *lying[20:], *lying[19:]])
    found = await verified(log)
    assert found.differences == []
    assert "1 records of the topic that readers pass over (changed)" in found.notes


async def test_a_topic_that_was_rewritten_to_fit_itself_does_not_fit_the_seals(log: Log) -> None:
    lying = await records(log)
    sealed = [record_of(headers, value) for _, value, headers in lying]
    changed = [*sealed[:9], replace(sealed[9], actor="kiosk:2"), *sealed[10:]]
    log.rewrite([(each.key, each.value, each.headers) for each in chained(START, changed)])
    found = await verified(log)
    assert (found.differences[0].position, found.differences[0].side, found.differences[0].what) == (10, "Kafka", "header ce_actor")
    assert {each.side for each in found.differences} == {"Kafka"}


async def test_a_log_that_is_wholly_different_ends_the_search(log: Log) -> None:
    lying = await records(log)
    log.rewrite([(key, flipped(value or b""), headers) for key, value, headers in lying])
    found = await verified(log)
    assert len(found.differences) == DIFFERENCES_MAX
    assert found.notes[-1].startswith("stopped")
