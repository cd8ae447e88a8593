"""Topics and clients on a real broker."""

import asyncio
from collections.abc import Callable
from time import monotonic

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import InvalidReplicationFactorError, KafkaError, MessageSizeTooLargeError

from deploy.local.kafka import LocalKafka
from shared import kafka
from shared.contracts.topics import MESSAGE_BYTES_MAX, TOPICS

EVENTS = TOPICS["hours.events"]
HEADS = TOPICS["hours.heads"]


async def create(servers: str, *topics: NewTopic) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    await admin.create_topics(list(topics))
    await admin.close()


async def test_topics_are_made_as_declared_and_found_as_declared(kafka_server: LocalKafka, topic_prefix: str) -> None:
    for _ in range(2):  # The second time they are there, and are held against the declaration.
        await kafka.ensure_topics(kafka_server.servers, topic_prefix, TOPICS.values())


async def test_a_topic_with_another_retention_is_named(kafka_server: LocalKafka, topic_prefix: str) -> None:
    config = {**EVENTS.config, "retention.ms": "1000"}
    await create(kafka_server.servers, NewTopic(f"{topic_prefix}hours.events", 1, 1, topic_configs=config))
    with pytest.raises(kafka.TopicsError, match=r"hours\.events has retention\.ms=1000, declared is -1"):
        await kafka.ensure_topics(kafka_server.servers, topic_prefix, [EVENTS, HEADS])


async def test_a_topic_with_two_partitions_is_no_log(kafka_server: LocalKafka, topic_prefix: str) -> None:
    await create(kafka_server.servers, NewTopic(f"{topic_prefix}hours.events", 2, 1, topic_configs=dict(EVENTS.config)))
    with pytest.raises(kafka.TopicsError, match="2 partitions"):
        await kafka.ensure_topics(kafka_server.servers, topic_prefix, [EVENTS])


async def test_a_broker_that_is_named_and_not_up_yet_counts_for_the_copies(kafka_server: LocalKafka, topic_prefix: str) -> None:
    with pytest.raises(InvalidReplicationFactorError):
        await kafka.ensure_topics(f"{kafka_server.servers},127.0.0.1:1,127.0.0.1:2", topic_prefix, [EVENTS])


async def test_a_record_too_large_is_refused_by_the_producer_itself_and_harms_nobody(kafka_server: LocalKafka, topic_prefix: str) -> None:
    await kafka.ensure_topics(kafka_server.servers, topic_prefix, [EVENTS])
    topic = kafka.topic_name(topic_prefix, EVENTS.name)
    producer = await kafka.start_producer(kafka_server.servers, "test")
    try:
        with pytest.raises(MessageSizeTooLargeError):
            await producer.send_and_wait(topic, b"x" * MESSAGE_BYTES_MAX, partition=0)
        largest = await producer.send_and_wait(topic, b"x" * (kafka.RECORD_BYTES_MAX - 200), partition=0)
        following = await producer.send_and_wait(topic, b"small", partition=0)
    finally:
        await kafka.stop(producer)
    assert (largest.offset, following.offset) == (0, 1)


async def test_a_consumer_reads_from_the_first_record_without_a_group(kafka_server: LocalKafka, topic_prefix: str) -> None:
    await kafka.ensure_topics(kafka_server.servers, topic_prefix, [EVENTS])
    topic = kafka.topic_name(topic_prefix, EVENTS.name)
    producer = await kafka.start_producer(kafka_server.servers, "test")
    await producer.send_and_wait(topic, b"one", partition=0)
    await kafka.stop(producer)
    consumer = await kafka.start_consumer(kafka_server.servers, "test", topic)
    try:
        assert await kafka.offsets(consumer, topic) == (0, 1)
        assert (await consumer.getone()).value == b"one"
    finally:
        await kafka.stop(consumer)


async def test_clients_say_within_seconds_that_nobody_is_there() -> None:
    began = monotonic()
    with pytest.raises(KafkaError):
        await kafka.start_producer("127.0.0.1:1", "test")
    with pytest.raises(KafkaError):
        await kafka.start_consumer("127.0.0.1:1", "test", "nowhere")
    with pytest.raises(KafkaError):
        await kafka.ensure_topics("127.0.0.1:1", "", [EVENTS])
    assert monotonic() - began < 3 * kafka.START_SECONDS_MAX


async def test_a_producer_with_an_unsent_record_stops_within_seconds_and_sends_nothing_afterwards(
    own_kafka: Callable[..., LocalKafka],
) -> None:
    server = own_kafka()
    await kafka.ensure_topics(server.servers, "", [EVENTS])
    producer = await kafka.start_producer(server.servers, "test")
    await producer.send_and_wait(EVENTS.name, b"sent", partition=0)
    server.kill()
    unsent = await producer.send(EVENTS.name, b"unsent", partition=0)
    before = asyncio.all_tasks()
    began = monotonic()
    await kafka.stop(producer)
    assert monotonic() - began < 3.0
    assert isinstance(unsent.exception(), KafkaError)
    assert not [task for task in asyncio.all_tasks() & before if "sender" in repr(task)]
    server.launch()
    await asyncio.to_thread(server.wait_until_up)
    consumer = await kafka.start_consumer(server.servers, "test", EVENTS.name)
    try:
        assert await kafka.offsets(consumer, EVENTS.name) == (0, 1)
    finally:
        await kafka.stop(consumer)
