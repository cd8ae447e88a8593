"""Withdrawal and erasure: no parked key holds them up, what is given again counts again, and what is erased reads nothing."""

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import LiteralString
from uuid import UUID, uuid4, uuid5

import pytest

from services.hours.main import SERVICE as HOURS
from shared import parked
from shared.codec import Codec
from shared.consumer import Kafka, Setting, withdrawals
from shared.consumer.apply import Consumer
from shared.consumer.gauges import refresh
from shared.consumer.values import Consumers, Fact, Projection, no_deadlines
from shared.consumer.waits import Waits
from shared.contracts.event import Event
from shared.contracts.registration import (
    ClashOverridden,
    ConsentGiven,
    ConsentWithdrawn,
    ErasureCompleted,
    ErasureDeclined,
    ErasureRequested,
    PersonalDataErased,
    RoleGranted,
    RoleWithdrawn,
    VolunteerDeregistered,
)
from shared.contracts.topics import EVENTS, UPCASTERS
from shared.postgres import Connection, connect
from shared.privacy import PersonErasedError
from shared.testing.store import MemoryStore
from tests.integration.consumer.conftest import Base
from tests.integration.consumer.log import CODEC, POISON, Counted, Log, Message, Noted, forgiving, part

REAL = Codec(EVENTS, UPCASTERS)
PERSON = UUID("0197f3a4-5c00-7000-8000-000000000001")


def say(log: Log, event: Event, person: UUID = PERSON) -> Message:
    return log.say(str(person), event, payload=REAL.encode(event, uuid5(log.log_id, str(len(log.records) + 1))))


async def nothing(_connection: Connection, _facts: Sequence[Fact]) -> None:
    """A read model that is not written here."""


async def withdrawing(base: Base, erase: LiteralString | None = None) -> Consumer:
    views = Projection("persons", "registration", Path(), nothing, erase), Projection("others", "registration", Path(), nothing)
    consumers: Consumers[None] = Consumers(
        service="hours", projections=views, look_ups=(), deadlines=no_deadlines, reactions=(), use_cases={}
    )
    [each] = withdrawals.parts(replace(settings(base), consumers=consumers))
    made = Consumer(each, base.pool, base.metrics)
    await made.begin()
    return made


def settings(base: Base) -> Setting:
    """Those of hours, without a word of its own."""
    consumers: Consumers[None] = Consumers(service="hours", projections=(), look_ups=(), deadlines=no_deadlines, reactions=(), use_cases={})
    return Setting(consumers=consumers, pool=base.pool, kafka=Kafka("", ""), codec=REAL, keys=base.keys, metrics=base.metrics)


async def withdrawn(base: Base) -> dict[str, bool]:
    return {row["kind"]: row["withdrawn"] for row in await base.pool.fetch("SELECT kind, withdrawn FROM consumer.withdrawn")}


async def test_a_role_is_withdrawn_only_while_it_was_not_given_again(base: Base) -> None:
    log, reader = Log("registration"), await withdrawing(base)
    waits = Waits(MemoryStore("hours"), base.pool)
    seen = []
    for event in (
        RoleGranted(person_id=PERSON, role="unit_admin", unit_code="water-saving-office"),
        RoleWithdrawn(person_id=PERSON, role="unit_admin", unit_code="water-saving-office", reason=None),
        RoleGranted(person_id=PERSON, role="unit_admin", unit_code="another-office"),
        RoleGranted(person_id=PERSON, role="unit_admin", unit_code="water-saving-office"),
        RoleWithdrawn(person_id=PERSON, role="unit_admin", unit_code="another-office", reason=None),
    ):
        await reader.take([say(log, event)])
        seen.append(await waits.roles_of(PERSON))
    ours, other = ("unit_admin", "water-saving-office"), ("unit_admin", "another-office")
    assert seen == [{ours: True}, {ours: False}, {ours: False, other: True}, {ours: True, other: True}, {ours: True, other: False}]
    assert await waits.roles_of(uuid4()) == {}


async def test_a_role_that_was_never_given_is_not_held_when_it_is_withdrawn(base: Base) -> None:
    log, reader = Log("registration"), await withdrawing(base)
    await reader.take([say(log, RoleWithdrawn(person_id=PERSON, role="auditor", unit_code="office", reason=None))])
    assert await Waits(MemoryStore("hours"), base.pool).roles_of(PERSON) == {("auditor", "office"): False}


async def test_consent_and_persons_are_withdrawn_by_their_own_kinds(base: Base) -> None:
    log, reader = Log("registration"), await withdrawing(base)
    await reader.take(
        [
            say(log, ConsentGiven(volunteer_id=PERSON, consent="be_named", text_version="1")),
            say(log, ConsentGiven(volunteer_id=PERSON, consent="register", text_version="1")),
            say(log, ConsentWithdrawn(volunteer_id=PERSON, consent="be_named")),
        ]
    )
    assert await withdrawn(base) == {"consent:be_named": True, "consent:register": False}
    await reader.take([say(log, VolunteerDeregistered(volunteer_id=PERSON))])
    assert (await withdrawn(base))["person"]


async def test_a_withdrawal_behind_a_fact_that_cannot_be_read_still_passes(base: Base) -> None:
    log, reader = Log("registration"), await withdrawing(base)
    unreadable = log.say(str(PERSON), RoleGranted(person_id=PERSON, role="kiosk", unit_code="office"), payload=b'{"role":7}')
    unknown = log.say(str(PERSON), Counted(number=1), payload=b"{}")
    told = say(log, RoleWithdrawn(person_id=PERSON, role="kiosk", unit_code="office", reason=None))
    await reader.take([unreadable, unknown, told])
    assert await withdrawn(base) == {"role:kiosk:office": True}
    assert await base.parked() == [(1, str(PERSON), "PayloadError"), (2, str(PERSON), "UnknownEventTypeError")]
    assert await base.pool.fetchval("SELECT count(*) FROM consumer.blocked") == 0


async def test_an_erasure_destroys_the_key_and_what_is_parked_and_no_blocked_key_holds_it_up(
    base: Base, bases: Callable[[], Awaitable[Base]]
) -> None:
    """A release afterwards gives what a replay of the whole log gives."""
    await base.keys.ensure([PERSON])
    seats, key = Log(), str(PERSON)

    def noted() -> Message:
        event = Noted(volunteer_id=PERSON, note="热心助人")
        event_id = uuid5(seats.log_id, str(len(seats.records) + 1))
        return seats.say(key, event, payload=CODEC.encode(event, event_id, base.keys.seal))

    messages = [*seats.count((key, POISON)), noted(), *seats.count((key, 3))]
    look_ups = Consumer(part(keys=base.keys), base.pool, base.metrics)
    await look_ups.begin()
    await look_ups.take(messages)
    assert len(await base.parked()) == 3

    log, reader = Log("registration"), await withdrawing(base)
    await reader.take([say(log, PersonalDataErased(volunteer_id=PERSON))])
    assert await withdrawn(base) == {"person": True}
    with pytest.raises(PersonErasedError):
        await base.keys.ensure([PERSON])
    payloads = await base.pool.fetch("SELECT convert_from(payload, 'UTF8') AS text, state FROM consumer.parked ORDER BY position")
    assert not any("sealed:" in row["text"] for row in payloads)
    assert {row["state"] for row in payloads} == {"erased"}

    [tried] = await parked.retry_parts(base.pool, [part(forgiving, keys=base.keys)], [], key)
    assert (tried.released, tried.failed) == (3, None)
    live = [tuple(row) for row in await base.pool.fetch("SELECT position, note FROM lookup.note")]
    assert live == [(2, None)]

    again = await bases()
    async with again.pool.acquire() as connection:
        await again.keys.destroy(PERSON, connection)
    replay = Consumer(part(forgiving, keys=again.keys), again.pool, again.metrics)
    await replay.begin()
    await replay.take(messages)
    assert [tuple(row) for row in await again.pool.fetch("SELECT position, note FROM lookup.note")] == live
    assert await again.tallied() == await base.tallied()


async def test_an_erasure_is_shown_while_it_waits_for_somebody(base: Base) -> None:
    """`erasures_open` and `erasure_oldest_timestamp_seconds`, by state; one that is declined or completed waits for nobody."""
    log, reader = Log("registration"), await withdrawing(base)

    async def clock() -> datetime:
        return datetime(2017, 4, 1, tzinfo=UTC)

    async def shown() -> tuple[dict[str, float], bool]:
        await refresh(settings(base), clock)
        states = ("requested", "erased")
        oldest = [base.metrics.erasure_oldest_timestamp_seconds.labels(each)._value.get() for each in states]
        return {each: base.metrics.erasures_open.labels(each)._value.get() for each in states}, any(oldest)

    assert await shown() == ({"requested": 0, "erased": 0}, False)
    seen = []
    for event in (
        ErasureRequested(volunteer_id=PERSON, requested_by=PERSON, reason=None),
        ErasureDeclined(volunteer_id=PERSON, reason_code="taken_back"),
        ErasureRequested(volunteer_id=PERSON, requested_by=PERSON, reason=None),
        PersonalDataErased(volunteer_id=PERSON),
        ErasureCompleted(volunteer_id=PERSON),
    ):
        await reader.take([say(log, event)])
        seen.append(await shown())
    waits, done = ({"requested": 1, "erased": 0}, True), ({"requested": 0, "erased": 0}, False)
    assert seen == [waits, done, waits, ({"requested": 0, "erased": 1}, True), done]


async def test_an_erasure_is_acknowledged_at_once_and_by_the_same_command_however_often_it_is_read(base: Base) -> None:
    consumers = replace(HOURS.consumers, projections=())
    [each] = withdrawals.parts(replace(settings(base), consumers=consumers))
    reader, log = Consumer(each, base.pool, base.metrics), Log("registration")
    await reader.begin()
    erased = say(log, PersonalDataErased(volunteer_id=PERSON))
    await reader.take([erased])
    due = await base.pool.fetch("SELECT use_case, ids, body, set_at FROM consumer.deadline")
    assert [(row["use_case"], json.loads(row["ids"]), json.loads(row["body"]), row["set_at"]) for row in due] == [
        ("acknowledge_erasure", {"volunteer_id": str(PERSON)}, {"erased_position": 1, "sign_in_destroyed": False}, 1)
    ]


async def test_what_is_sealed_about_the_person_under_another_key_goes_too(base: Base) -> None:
    """A clash that was overridden is parked under its activity: the reason goes, and what is sealed about others stays."""
    await base.keys.ensure([PERSON])
    activity, seats = uuid4(), Log("registration")
    overridden = ClashOverridden(volunteer_id=PERSON, activity_id=activity, clashes_with=uuid4(), reason="人手不足")
    other = ClashOverridden(volunteer_id=activity, activity_id=activity, clashes_with=PERSON, reason=None)
    payloads = [REAL.encode(each, uuid4(), base.keys.seal) for each in (overridden, other)]
    payloads[1] = payloads[1].replace(b'"reason":null', b'"reason":"sealed:a1:of-another"')
    for position, payload in enumerate(payloads, 1):
        await base.pool.execute(
            "INSERT INTO consumer.parked (consumer, log, position, key, type, headers, payload, error_class, stage)"
            " VALUES ('inbox', 'registration', $1, $2, $3, '', $4, 'behind', 'applied')",
            position, str(activity), ClashOverridden.TYPE, payload,
        )  # fmt: skip
    log, reader = seats, await withdrawing(base)
    await reader.take([say(log, PersonalDataErased(volunteer_id=PERSON))])
    left = [json.loads(row["payload"])["reason"] for row in await base.pool.fetch("SELECT payload FROM consumer.parked ORDER BY position")]
    assert left == [None, "sealed:a1:of-another"]


async def test_an_erasure_empties_every_read_model_at_once_also_while_the_person_s_key_is_parked_there(base: Base) -> None:
    """What is kept for rolling back as well; one of other definitions, which has no such column, holds nothing up."""
    owner, other = await connect(base.dsn, "migrate"), uuid4()
    for schema, column in (("views_1", "name"), ("views_2", "name")):
        await owner.execute(f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.person (id uuid, {column} text)")
        await owner.execute(f"INSERT INTO {schema}.person VALUES ($1, '赵一鸣'), ($2, '钱二')", PERSON, other)
        await owner.execute(base.roles.fill_in(f'GRANT USAGE ON SCHEMA {schema} TO :"app"; GRANT ALL ON {schema}.person TO :"app"'))
        await owner.execute("INSERT INTO consumer.views (schema, definition_hash, live) VALUES ($1, 'x', $2)", schema, schema == "views_2")
    await base.pool.execute("INSERT INTO consumer.blocked VALUES ('views', 'registration', 'applied', $1, 'PayloadError')", str(PERSON))

    log, reader = Log("registration"), await withdrawing(base, "UPDATE person SET name = NULL WHERE id = $1")
    await reader.take([say(log, PersonalDataErased(volunteer_id=PERSON))])
    for schema in ("views_1", "views_2"):
        names = {row["id"]: row["name"] for row in await owner.fetch(f"SELECT id, name FROM {schema}.person")}
        assert names == {PERSON: None, other: "钱二"}

    await owner.execute("ALTER TABLE views_1.person RENAME name TO called; UPDATE views_2.person SET name = '孙三'")
    await reader.take([say(log, PersonalDataErased(volunteer_id=other), other)])
    assert await owner.fetchval("SELECT name FROM views_2.person WHERE id = $1", other) is None
    assert not await base.parked()
    await owner.close()


def test_what_is_not_an_object_leaves_nothing_of_it() -> None:
    assert withdrawals.without_sealed(b'["sealed:a1:x"]', None, everything=True) == b""
    assert withdrawals.without_sealed(b"\xff", None, everything=True) == b""


def test_only_what_is_sealed_about_the_person_goes_where_the_event_is_another_s() -> None:
    body = b'{"n":1,"name":"sealed:a1:x","other":"sealed:a1:y"}'
    assert withdrawals.without_sealed(body, frozenset({"name"}), everything=False) == b'{"n":1,"name":null,"other":"sealed:a1:y"}'
    assert withdrawals.without_sealed(body, frozenset(), everything=False) == body
    for about, everything in ((None, False), (frozenset[str](), True)):
        assert withdrawals.without_sealed(body, about, everything=everything) == b'{"n":1,"name":null,"other":null}'
