"""The broker and the database that everything else is tested on."""

from collections.abc import Callable

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import UnknownTopicOrPartitionError

from deploy.local.kafka import LocalKafka
from deploy.local.postgres import LocalPostgres
from tests.conftest import Databases


async def test_every_database_is_fresh_and_its_owner_is_no_superuser(database: Databases) -> None:
    first, second = database(), database()
    connection = await asyncpg.connect(first)
    try:
        await connection.execute("create table kept (n int)")
        assert await connection.fetchval("select usesuper from pg_user where usename = current_user") is False
        assert await connection.fetchval("select uuid_extract_version(uuidv7())") == 7
    finally:
        await connection.close()
    connection = await asyncpg.connect(second)
    try:
        assert await connection.fetchval("select to_regclass('kept')") is None
    finally:
        await connection.close()
    connection = await asyncpg.connect(database(template=first))
    try:
        assert await connection.fetchval("select count(*) from kept") == 0
    finally:
        await connection.close()


async def test_a_record_goes_in_and_comes_out_and_no_topic_makes_itself(kafka_server: LocalKafka, topic_prefix: str) -> None:
    topic = f"{topic_prefix}events"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_server.servers)
    producer = AIOKafkaProducer(bootstrap_servers=kafka_server.servers, enable_idempotence=True, acks="all")
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka_server.servers, enable_auto_commit=False, auto_offset_reset="earliest")
    await admin.start()
    await consumer.start()
    try:
        await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
        await producer.start()
        await producer.send_and_wait(topic, b"value", key=b"key", partition=0)
        consumer.assign([TopicPartition(topic, 0)])
        assert (await consumer.getone()).value == b"value"
        described = await admin.describe_topics([f"{topic_prefix}unknown"])
        assert described[0]["error_code"] == UnknownTopicOrPartitionError.errno
    finally:
        await producer.stop()
        await consumer.stop()
        await admin.close()


def test_a_killed_database_keeps_what_it_has_committed(own_postgres: Callable[..., LocalPostgres]) -> None:
    server = own_postgres()
    server.execute("create table kept (n int); insert into kept values (7)")
    server.kill()
    server.start()
    assert server.execute("select n from kept") == "7"


@pytest.mark.timeout(90)
def test_a_cluster_of_three_takes_back_a_killed_node(own_kafka: Callable[..., LocalKafka]) -> None:
    cluster = own_kafka(nodes=3)
    cluster.kill(1)
    assert sorted(cluster.pids) == [0, 2]
    cluster.start()
    assert sorted(cluster.pids) == [0, 1, 2]
