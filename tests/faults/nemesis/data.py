"""What goes wrong with records and rows: there too often, missing, of somebody else, unreadable, or with one bit changed."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import Any
from uuid import uuid4

import asyncpg
from aiokafka import AIOKafkaConsumer
from pydantic_core import to_json

from deploy.local.environment import SERVICES
from shared import discards, kafka
from shared.codec import EVENT_BYTES_MAX
from shared.envelope import Stream
from shared.errors import EventTooLargeError
from shared.eventstore.store import PostgresStore, open_store
from shared.eventstore.values import Answer, AppendRequest, NewEvent
from shared.metrics import Metrics
from shared.migrate import roles_of
from shared.postgres import connect, open_pool
from shared.states import Because
from tests.faults.nemesis.fault import BOTH, Fault, Scene
from tests.faults.nemesis.operators import operate
from tests.faults.nemesis.processes import REACHED_WITHIN_S, counted, shown, worker_with
from tests.faults.orders import flipped
from tests.faults.system import until

FOUND_WITHIN_S = 5.0
"""How soon a hole in a topic is noticed (reliability.md 2.5, F30)."""
MENDED_WITHIN_S = 30.0
SEGMENT = 300
OF_ONE_KEY = 30

Raw = tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes | None]]]
"""Key, value and headers of a record."""


@asynccontextmanager
async def reading(scene: Scene, service: str) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer of a service's topic, past all proxies."""
    consumer = await kafka.start_consumer(scene.cluster.kafka.servers, "harness", _topic(scene, service))
    try:
        yield consumer
    finally:
        await kafka.stop(consumer)


async def put(scene: Scene, service: str, records: Sequence[Raw]) -> None:
    """Writes into a topic, as somebody who is no relay."""
    producer = await kafka.start_producer(scene.cluster.kafka.servers, "harness")
    try:
        for key, value, headers in records:
            await producer.send(_topic(scene, service), value, key, partition=0, headers=list(headers))
        await asyncio.wait_for(producer.flush(), MENDED_WITHIN_S)
    finally:
        await kafka.stop(producer)


async def first_records(scene: Scene, service: str, count: int) -> list[Raw]:
    """The first `count` records of a topic, or all that there are."""
    place, found = kafka.only_partition(_topic(scene, service)), list[Raw]()
    async with reading(scene, service) as consumer:
        _, end = await kafka.offsets(consumer, _topic(scene, service))
        async with asyncio.timeout(MENDED_WITHIN_S):
            while len(found) < count and await consumer.position(place) < end:
                found += map(_raw, (await consumer.getmany(place, timeout_ms=500)).get(place, ()))
    return found[:count]


def _topic(scene: Scene, service: str) -> str:
    return kafka.topic_name(scene.cluster.prefix, f"{service}.events")


def _raw(record: Any) -> Raw:
    return record.key, record.value, record.headers


def _workers(service: str) -> Sequence[str]:
    return (f"{service}-worker", f"{service}-worker-2")


# -- F29: there too often


async def three_times(scene: Scene) -> None:
    """Each message that comes is written twice more: readers drop what they have."""
    service, seen = scene.random.choice(SERVICES), set[bytes | None]()
    place, before = kafka.only_partition(_topic(scene, service)), await _repeated(scene, service)
    async with reading(scene, service) as consumer:
        await consumer.seek_to_end(place)
        ends = monotonic() + scene.lasts(smoke=4, long=30)
        while monotonic() < ends or not seen:
            assert monotonic() < ends + REACHED_WITHIN_S, f"nothing is published in {service}"
            fetched = (await consumer.getmany(place, timeout_ms=200)).get(place, ())
            fresh = [_raw(each) for each in fetched if dict(each.headers).get("ce_sequence") not in seen]
            seen |= {dict(headers).get("ce_sequence") for _, _, headers in fresh}
            if fresh:
                await put(scene, service, [*fresh, *reversed(fresh)])
    await _are_dropped(scene, service, before, 2 * len(seen))
    scene.happened["each message three times"] += len(seen)


async def replayed(scene: Scene) -> None:
    """An old segment comes once more, and the events of two keys once more, in turns and in a wrong order."""
    service, before = scene.random.choice(SERVICES), 0.0
    ((log_id,),) = await scene.cluster.sql(service, "SELECT log_id::text FROM es.log")
    records: list[Raw] = []
    by_key: dict[bytes | None, list[Raw]] = {}
    while len(by_key) < 2:  # Early in a run the log of a service may still be about one.
        await scene.answers(1, service=service)
        records = [each for each in await first_records(scene, service, SEGMENT) if _may_be_ours(each, log_id)]
        by_key.clear()
        for each in records:
            by_key.setdefault(each[0], []).append(each)
    one, other = sorted(by_key.values(), key=len)[-2:]
    in_turns = [each for pair in zip(reversed(one[-OF_ONE_KEY:]), other[-OF_ONE_KEY:], strict=False) for each in pair]
    before = await _repeated(scene, service)
    await put(scene, service, [*records, *in_turns])
    await _are_dropped(scene, service, before, len(records) + len(in_turns))
    scene.happened["old segment replayed"] += 1


def _may_be_ours(record: Raw, log_id: str) -> bool:
    """Not what F31.2 may have left there, which readers do not count as repeated but as foreign."""
    headers = dict(record[2])
    return headers.get("ce_logid") == log_id.encode() and None not in headers.values() and len(headers) == len(record[2])


async def _repeated(scene: Scene, service: str) -> float:
    return await counted(scene, _workers(service), "consumer_events_total", consumer="views", result="repeated")


async def _are_dropped(scene: Scene, service: str, before: float, records: int) -> None:
    """Both workers run all the time, so that what they count only grows."""

    async def are() -> bool:
        return await _repeated(scene, service) >= before + records

    await until(are, MENDED_WITHIN_S, f"{records} repeated records of {service} dropped")


# -- F30, F32: one record withheld, or one bit changed on its way


async def spoilt_on_its_way(scene: Scene, order: str, happened: str) -> None:
    """One event never reaches Kafka as it was sealed, although the broker's answer says so: it is noticed, and published again."""
    service = scene.random.choice(SERVICES)
    async with worker_with(scene, service, order) as victim:
        await until(lambda: bool(victim.said()), REACHED_WITHIN_S, f"a page of several events of {service}")
        position = int(victim.said()[0].removeprefix("tampered "))

        async def is_found() -> bool:
            return await counted(scene, [victim.name], "topic_findings_total") > 0

        found = await until(is_found, FOUND_WITHIN_S, f"position {position} of {service} noticed")
        mended = await shown(scene, service, position, within=MENDED_WITHIN_S)
        print(f"position {position} of {service}, {order}: noticed after {found:.1f} s, shown after {found + mended:.1f} s")
        await scene.answers(5)
    scene.happened[happened] += 1


async def withheld(scene: Scene) -> None:
    """F30."""
    await spoilt_on_its_way(scene, f"withhold={scene.random.randint(1, 3)}", "hole published again")


async def flipped_on_its_way(scene: Scene, what: str) -> None:
    """F32, in Kafka."""
    await spoilt_on_its_way(scene, f"flip={what}:{scene.random.randint(1, 3)}", f"one bit of a {what} found")


async def flipped_in_the_store(scene: Scene) -> None:
    """F32, in the database: `verify` says where; when it is mended, it has nothing to say."""
    service = scene.random.choice(("hours", "recognition"))
    events = await scene.cluster.sql(service, "SELECT position, payload FROM es.event WHERE category LIKE '%policy' ORDER BY position")
    position, payload = scene.random.choice(events)  # No command reads such a stream meanwhile: it would fail, as it must.
    byte = len(payload) // 2
    await _overwrite(scene, service, position, flipped(payload))
    try:
        code, said = await operate(scene, service, "verify")
    finally:
        await _overwrite(scene, service, position, payload)
    assert code == 1, said
    assert re.search(rf"^position {position}: store \(offset \d+\): payload at byte {byte}$", said, re.MULTILINE), said
    assert "1 differences" in said, said
    code, said = await operate(scene, service, "verify")
    assert code == 0, said
    scene.happened["one bit of a stored event found"] += 1


async def _overwrite(scene: Scene, service: str, position: int, payload: bytes) -> None:
    """As only a superuser can: past the trigger that refuses it."""
    connection = await asyncpg.connect(scene.cluster.dsn(service, "admin"), timeout=5)
    try:
        async with connection.transaction():
            await connection.execute("ALTER TABLE es.event DISABLE TRIGGER event_never_changes")
            await connection.execute("UPDATE es.event SET payload = $2 WHERE position = $1", position, payload)
            await connection.execute("ALTER TABLE es.event ENABLE ALWAYS TRIGGER event_never_changes")
    finally:
        await connection.close(timeout=5)


# -- F31: poison


async def poison_in_the_log(scene: Scene) -> None:
    """What no reader can apply: each is parked, its key and no other is blocked, and two persons give it up."""
    ((duplicated,),) = await scene.cluster.sql("hours", "SELECT payload FROM es.event WHERE type = $1 LIMIT 1", _POLICY)
    policy = duplicated.decode()
    version = f"faults-{scene.random.getrandbits(40):x}"
    poisons = {
        "bytes": (_POLICY, b"\xff\xfe\x00"),
        "schema": (_POLICY, to_json({"version": 7})),
        "business": (_POLICY, re.sub(r'"version":"[^"]*"', f'"version":"{version}"', policy).encode()),
        "NUL": (_POLICY, re.sub(r'"version":"[^"]*"', r'"version":"\\u0000"', policy).encode()),
        "unknown type": ("hours.nobody_knows", b"{}"),
    }
    keys = {}
    async with _store(scene, "hours") as store:
        for name, (kind, payload) in poisons.items():
            stream = Stream("hours_policy", uuid4())
            keys[name] = str(stream.id)
            assert isinstance(await store.append(_request(stream, kind, payload)), Answer)
        try:
            await store.append(_request(Stream("hours_policy", uuid4()), _POLICY, b" " * (EVENT_BYTES_MAX + 1)))
        except EventTooLargeError:
            scene.happened["too large an event refused"] += 1
    try:
        for name, key in keys.items():
            await until(partial(_is_parked, scene, key), MENDED_WITHIN_S, f"poison parked: {name}")
            scene.happened[f"parked: {name}"] += 1
            scene.happened["parked key"] += 1
        await scene.answers(20)
        for service in SERVICES:
            blocked = {row["key"] for row in await scene.cluster.sql(service, "SELECT key FROM consumer.blocked")}
            assert blocked <= set(keys.values()), f"{service} blocks others too"
    finally:
        for service in SERVICES:
            await _give_up(scene, service, list(keys.values()))
    assert not [row for service in SERVICES for row in await scene.cluster.sql(service, "SELECT key FROM consumer.parked")]


_POLICY = "hours.hours_policy_adopted"


def _request(stream: Stream, kind: str, payload: bytes) -> AppendRequest:
    """As `submit` would make it; a fault is no person."""
    return AppendRequest(
        command_id=uuid4(), fingerprint=None, stream=stream, expected_version=0, events=[NewEvent(uuid4(), kind, 1, payload)], refusal=None,
        take=(), release=(), time=datetime.now(UTC), correlation_id=uuid4(), causation_id=None, actor="system:faults",
        partition_key=str(stream.id), traceparent=None,
    )  # fmt: skip


@asynccontextmanager
async def _store(scene: Scene, service: str) -> AsyncIterator[PostgresStore]:
    connection = await connect(scene.cluster.dsn(service), "harness")
    roles = await roles_of(connection)
    await connection.close(timeout=5)
    async with open_pool(scene.cluster.dsn(service), "harness", 3, role=roles.app) as pool:
        store = await open_store(pool, service, Metrics(service, "faults"))
        try:
            yield store
        finally:
            await store.close()


async def _is_parked(scene: Scene, key: str) -> bool:
    return bool(await scene.cluster.sql("hours", "SELECT FROM consumer.parked WHERE key = $1 AND consumer = 'views'", key))


async def _give_up(scene: Scene, service: str, keys: Sequence[str]) -> None:
    """The consumers of all services have passed the poison, so that nothing is parked after this."""
    for row in await scene.cluster.sql("hours", "SELECT max(position) AS head FROM es.event WHERE partition_key = ANY($1::text[])", keys):
        await until(partial(_have_passed, scene, service, row["head"]), MENDED_WITHIN_S, f"{service} past the poison")
    connection = await connect(scene.cluster.dsn(service), "harness")
    try:
        for key in keys:
            if await connection.fetchval("SELECT EXISTS (SELECT FROM consumer.parked WHERE key = $1)", key):
                await discards.ask(connection, key, None, Because("科长乙", "a fault of the harness"))
                await discards.approve(connection, key, Because("局长甲", "a fault of the harness"))
    finally:
        await connection.close(timeout=5)


async def _have_passed(scene: Scene, service: str, head: int) -> bool:
    behind = "SELECT FROM consumer.position WHERE log = 'hours' AND consumer NOT LIKE 'views@%' AND applied < $1"
    return not await scene.cluster.sql(service, behind, head)


async def poison_in_the_topic(scene: Scene) -> None:
    """Records that no relay wrote: nonsense, another log's, one that claims the next place, one as large as may be. All are passed over."""
    service = scene.random.choice(SERVICES)
    (key, value, headers), *_ = await first_records(scene, service, 1)
    workers, findings = _workers(service), "topic_findings_total"
    before = await counted(scene, workers, findings)

    def said(**changed: bytes | None) -> list[tuple[str, bytes | None]]:
        return [(name, changed.get(name, text)) for name, text in headers]

    ((head,),) = await scene.cluster.sql(service, "SELECT max(position) FROM es.event")
    next_ = str(head + 1).zfill(len(dict(headers)["ce_sequence"] or b"")).encode()
    poison: list[Raw] = [
        (None, b"", []),
        (b"k", b"not of ours", [("ce_logid", b"\xff\xfe")]),
        (key, value, said(ce_logid=b"00000000-0000-0000-0000-000000000001")),
        (key, value, said(ce_actor=None)),
        (key, value, [*headers, *headers]),
        (key, value, said(ce_sequence=next_)),
        (key, b"\0" * (kafka.RECORD_BYTES_MAX - 8192), said(ce_sequence=next_)),
    ]
    await put(scene, service, poison)

    async def are_told() -> bool:
        return await counted(scene, workers, findings) > before

    found = await until(are_told, FOUND_WITHIN_S, f"what is foreign in the topic of {service} noticed")
    await scene.answers(20)
    ((head,),) = await scene.cluster.sql(service, "SELECT max(position) FROM es.event")
    print(f"{len(poison)} foreign records in the topic of {service}: noticed after {found:.1f} s")
    await shown(scene, service, head, within=MENDED_WITHIN_S)
    scene.happened["foreign record passed over"] += len(poison)


FAULTS: tuple[Fault, ...] = (
    Fault("F29.1", "every message three times", 15, True, BOTH, three_times),
    Fault("F29.2", "old segment replayed, two keys interleaved", 15, True, BOTH, replayed),
    Fault("F30", "one record missing from the topic", 15, True, BOTH, withheld),
    Fault("F31.1", "poison in the log", 15, True, BOTH, poison_in_the_log),
    Fault("F31.2", "poison in the topic", 15, True, BOTH, poison_in_the_topic),
    Fault("F32.1", "one bit of a payload in Kafka", 15, True, BOTH, partial(flipped_on_its_way, what="payload")),
    Fault("F32.2", "one bit of a header in Kafka", 15, True, BOTH, partial(flipped_on_its_way, what="header")),
    Fault("F32.3", "one bit of a stored event", 15, True, BOTH, flipped_in_the_store),
)
