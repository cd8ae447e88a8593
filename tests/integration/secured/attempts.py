"""Everything that somebody can try to do with a topic, a group or the cluster, and whether the broker refused it for want of a right."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    NoError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)
from aiokafka.protocol.admin import CreatePartitionsRequest, DeleteTopicsRequest
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.metadata import MetadataRequest

from shared.credentials import client_settings
from shared.settings import Secured

REFUSALS = (TopicAuthorizationFailedError, GroupAuthorizationFailedError, ClusterAuthorizationFailedError)
NOT_REFUSED = (NoError, TopicAlreadyExistsError)

Attempt = Callable[[Any, Secured, str], Awaitable[Any]]
"""Tries it with an admin client, the settings of who tries, and a name; gives the error code or the error's type."""


async def read(admin: Any, _who: Secured, topic: str) -> int:
    answer = await admin._send_request(FetchRequest(100, 0, 1024, 0, [(topic, [(0, 0, 1024)])]))
    return int(answer.topics[0][1][0][1])


async def write(_admin: Any, who: Secured, topic: str) -> Any:
    producer = AIOKafkaProducer(**client_settings(who), request_timeout_ms=5000)
    await producer.start()
    try:
        await producer.send_and_wait(topic, b"not of a log", key=b"nobody", partition=0)
    except TopicAuthorizationFailedError:
        return TopicAuthorizationFailedError
    finally:
        await producer.stop()
    return NoError


async def create(admin: Any, _who: Secured, topic: str) -> int:
    return int((await admin.create_topics([NewTopic(topic, 1, 1)], timeout_ms=5000)).topic_errors[0][1])


async def delete(admin: Any, _who: Secured, topic: str) -> int:
    answer = await admin._send_request(DeleteTopicsRequest([topic], 5000))
    return int(answer.topic_error_codes[0][1])


async def add_partitions(admin: Any, _who: Secured, topic: str) -> int:
    answer = await admin._send_request(CreatePartitionsRequest([(topic, (2, None))], timeout=5000, validate_only=False))
    return int(answer.topic_errors[0][1])


async def describe(admin: Any, _who: Secured, topic: str) -> int:
    return int((await admin._send_request(MetadataRequest([topic]))).topics[0][0])


async def describe_configs(admin: Any, _who: Secured, topic: str) -> int:
    return int((await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)]))[0].resources[0][0])


async def alter_configs(admin: Any, _who: Secured, topic: str) -> int:
    changed = ConfigResource(ConfigResourceType.TOPIC, topic, configs={"retention.ms": "1000"})
    return int((await admin.alter_configs([changed]))[0].resources[0][0])


TOPIC_ATTEMPTS: Mapping[str, Attempt] = {
    "READ": read,
    "WRITE": write,
    "CREATE": create,
    "DELETE": delete,
    "ALTER": add_partitions,
    "DESCRIBE": describe,
    "DESCRIBE_CONFIGS": describe_configs,
    "ALTER_CONFIGS": alter_configs,
}
"""By the operation that Kafka asks the right for."""


async def commit(admin: Any, _who: Secured, group: str) -> Any:
    """Of a topic that nobody is asked about: a right to the topic is a question of its own."""
    try:
        node = await admin.find_coordinator(group)
    except GroupAuthorizationFailedError:
        return GroupAuthorizationFailedError
    topics = [(f"{group.rpartition('.')[0]}.events", [(0, 0, "")])]
    answer = await admin._send_request(OffsetCommitRequest(group, -1, "", -1, topics), node)
    return int(answer.topics[0][1][0][1])


async def find(admin: Any, _who: Secured, group: str) -> Any:
    try:
        await admin.find_coordinator(group)
    except GroupAuthorizationFailedError:
        return GroupAuthorizationFailedError
    return NoError


GROUP_ATTEMPTS: Mapping[str, Attempt] = {"READ": commit, "DESCRIBE": find}


async def is_refused(attempt: Attempt, admin: Any, who: Secured, name: str) -> bool:
    """Whether it was refused for want of a right; anything else that goes wrong is no answer, and fails."""
    said = await attempt(admin, who, name)
    error = said if isinstance(said, type) else for_code(said)
    assert error in (*REFUSALS, *NOT_REFUSED), f"{attempt.__name__} {name}: {error.__name__}"
    return error in REFUSALS
