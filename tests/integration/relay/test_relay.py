"""What was appended lies in Kafka: all of it, in order, sealed before it was published."""

import json
from time import monotonic

from cloudevents.core.bindings.kafka import KafkaMessage, from_binary_event

from shared import kafka
from shared.envelope import headers_of
from shared.metrics import Metrics
from shared.relay.readback import read, reading
from shared.relay.shell import POLL_SECONDS_MAX
from tests.integration.relay.conftest import SERVICE, Log, sample, until


async def test_every_event_is_published_once_in_order_and_as_it_is_stored(log: Log) -> None:
    metrics = Metrics(SERVICE, "test")
    await log.append(2500)
    async with log.relaying(metrics):
        await until(lambda: sample(metrics, "log_published_position") == 2500)
        await log.append(3)
        await until(lambda: sample(metrics, "log_published_position") == 2503)
    found = await log.records()
    assert [record.offset for record in found] == list(range(2503))
    assert await log.is_whole(2503)
    stored = [record for after in (0, 1000, 2000) for record in await log.store.read_page(after, 1000)]
    for there, here in zip(found, stored, strict=True):
        assert (there.key, there.value) == (here.partition_key.encode(), here.payload)
        assert list(there.headers)[:-1] == headers_of(here)
        assert there.headers[-1][0] == "ce_chainhash"
    assert sample(metrics, "relay_published_total") == 2503
    assert sample(metrics, "relay_republished_total") == 0
    assert sample(metrics, "relay_backlog_events") == 0


async def test_only_what_is_sealed_is_published_and_the_seals_are_one_chain(log: Log) -> None:
    await log.append(1500)
    async with log.relaying():
        await until(lambda: log.is_whole(1500))
    rows = await log.pool.fetch("SELECT previous, position, hash FROM es.seal ORDER BY position")
    assert [row["previous"] for row in rows] == [0, *(row["position"] for row in rows[:-1])]
    hashes = {int(dict(record.headers)["ce_sequence"]): dict(record.headers)["ce_chainhash"] for record in await log.records()}
    assert all(hashes[row["position"]] == row["hash"].hex().encode() for row in rows)
    assert rows[-1]["position"] == 1500


async def test_heads_are_said_every_two_seconds_also_when_nothing_happens(log: Log) -> None:
    await log.append(7)
    async with log.relaying():
        await until(lambda: log.is_whole(7))
        heads_topic = f"{log.prefix}hours.heads"
        before = len(await log.records(heads_topic))

        async def two_more() -> bool:
            return len(await log.records(heads_topic)) >= before + 2

        await until(two_more, within=8.0)
    last = (await log.records(heads_topic))[-1]
    said = json.loads(last.value)
    sealed = await log.pool.fetchval("SELECT hash FROM es.seal WHERE position = 7")
    assert last.key == b"hours"
    assert {name: said[name] for name in ("log_id", "head", "sealed", "published", "chain_hash")} == {
        "log_id": str(log.log_id),
        "head": 7,
        "sealed": 7,
        "published": 7,
        "chain_hash": sealed.hex(),
    }
    assert said["time"].endswith("+00:00")


async def test_the_official_sdk_reads_a_published_record(log: Log) -> None:
    await log.append(1)
    async with log.relaying():
        await until(lambda: log.is_whole(1))
    record = (await log.records())[0]
    event = from_binary_event(KafkaMessage(dict(record.headers), record.key, record.value))
    stored = (await log.store.read_page(0, 1))[0]
    assert (event.get_id(), event.get_type(), event.get_source()) == (str(stored.event_id), stored.type, "/leifeng/hours")
    assert event.get_data() == json.loads(stored.payload)
    assert event.get_extension("sequence") == "1".zfill(20)


async def test_who_has_read_a_topic_to_its_end_sends_no_fetch_until_it_is_to_read_again(log: Log) -> None:
    """Questions to the broker would wait behind it, once a second."""
    place = kafka.only_partition(log.topic)
    await log.append(3)
    async with log.relaying():
        await until(lambda: log.is_whole(3))
    async with reading(log.servers, log.topic, "test") as consumer:
        assert consumer.paused() == {place}  # From the beginning: what is under way when somebody seeks may cost them a second.
        for _ in range(2):
            consumer.seek(place, 0)
            assert [each.offset for each in await read(consumer, log.topic, 3)] == [0, 1, 2]
            assert consumer.paused() == {place}
            assert await read(consumer, log.topic, 3) == []
            assert consumer.paused() == {place}


async def test_an_event_wakes_an_idle_relay(log: Log) -> None:
    metrics = Metrics(SERVICE, "test")
    heads_topic = f"{log.prefix}hours.heads"
    async with log.relaying(metrics):
        await log.append(1)
        await until(lambda: log.is_whole(1))
        heads = len(await log.records(heads_topic))

        async def has_said_more() -> bool:
            return len(await log.records(heads_topic)) >= heads + 2

        await until(has_said_more)  # It has nothing to do, and has just begun to wait for two seconds.
        await log.append(1)
        began = monotonic()
        await until(lambda: sample(metrics, "log_published_position") == 2)
        assert monotonic() - began < POLL_SECONDS_MAX / 2, "it looked when it would have looked anyway"
