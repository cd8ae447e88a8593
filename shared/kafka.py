"""Kafka as every process uses it: topics made as they are declared, clients with everything stated, a limit on every wait (stack.md 3).

An idempotent producer has no delivery timeout of its own: while Kafka is down its sends and its `stop()` wait for ever. So a deadline
stands around each of them, a timeout means "unknown", and a producer that was given up is ended by force.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, ProducerClosed, TopicAlreadyExistsError, TopicAuthorizationFailedError, for_code
from aiokafka.structs import ConsumerRecord, TopicPartition

from shared.contracts.topics import MESSAGE_BYTES_MAX, Topic
from shared.credentials import RightMissingError, addresses, client_settings, why_not
from shared.settings import Secured, Servers

START_SECONDS_MAX: Final = 5.0
STOP_SECONDS_MAX: Final = 1.0
REQUEST_SECONDS_MAX: Final = 5.0
LOOK_MILLISECONDS: Final = 1000
"""How often a consumer looks unasked whether there is something to fetch; by itself it looks five times a second, which idle costs most.

Each change tells it, but for one: aiokafka (0.14) takes a request off its list one turn after the answer came, and who seeks in that very
turn is not heard. On a busy machine it was so with one start in fifty, and this is how long such a reader stands still."""
BATCH_BYTES_MAX: Final = 256 * 1024
"""A batch before compression. The broker holds a whole batch against `max.message.bytes`, so this stays below it."""
RECORD_BYTES_MAX: Final = MESSAGE_BYTES_MAX - 4096
"""The producer refuses a larger record itself: one that the broker refuses leaves the producer's sequence broken (stack.md 9)."""
REPLICAS_MAX: Final = 3

LOST_ERRORS: Final = (KafkaError, TimeoutError, OSError)
"""What a Kafka that is away, slow or unwilling looks like from here."""


class TopicsError(Exception):
    """A topic that exists is not as it is declared; the text says in what, one line for each."""


def topic_name(prefix: str, name: str) -> str:
    """The topic's name in the cluster: the installation's prefix stands before it."""
    return f"{prefix}{name}"


def only_partition(topic: str) -> TopicPartition:
    """The one partition that each of our topics has (D2)."""
    return TopicPartition(topic, 0)


async def ensure_topics(servers: Servers, prefix: str, topics: Iterable[Topic], replicas: int | None = None) -> None:
    """Makes the topics that are missing and holds the others against their declaration. Raises TopicsError and LOST_ERRORS.

    `replicas` is REPLICAS_MAX or the number of brokers, if that is less, see `_copies_for`. With three copies two must be in sync for an
    `acks=all`.
    """
    wanted = {topic_name(prefix, topic.name): topic for topic in topics}
    async with admin_client(servers) as admin:
        copies = _copies_for(servers, await admin.describe_cluster()) if replicas is None else replicas
        missing = wanted.keys() - await admin.list_topics()
        made = [NewTopic(name, 1, copies, topic_configs=_config(wanted[name], copies)) for name in sorted(missing)]
        if made:
            answer = await admin.create_topics(made, timeout_ms=round(REQUEST_SECONDS_MAX * 1000))
            for name, code, message in answer.topic_errors:
                if for_code(code) is TopicAuthorizationFailedError:
                    raise RightMissingError(f"topic {name} does not exist, and this user may not make it: run `migrate` as one that may")
                if (error := for_code(code)) is not TopicAlreadyExistsError and code != 0:
                    raise error(f"{name}: {message}")
        differences = await _differences(admin, {name: topic for name, topic in wanted.items() if name not in missing})
    if differences:
        raise TopicsError("\n".join(differences))


async def cluster_as_declared(servers: Servers, prefix: str, topics: Iterable[Topic]) -> tuple[str, Sequence[str]]:
    """The cluster's id, and in what the topics are not as they are declared, one sentence each; nothing is made. Raises LOST_ERRORS."""
    wanted = {topic_name(prefix, topic.name): topic for topic in topics}
    async with admin_client(servers) as admin:
        cluster = await admin.describe_cluster()
        missing = wanted.keys() - await admin.list_topics()
        there = {name: topic for name, topic in wanted.items() if name not in missing}
        said = [f"topic {name} does not exist" for name in sorted(missing)] + await _differences(admin, there)
        copies = _copies_for(servers, cluster)
        for described in await admin.describe_topics(list(there)) if there else ():
            held = min((len(each["isr"]) for each in described["partitions"]), default=0)
            if held < copies:
                said.append(f"topic {described['topic']} has {held} copies in sync, this cluster can hold {copies}")
    return str(cluster["cluster_id"]), said


def _copies_for(servers: Servers, cluster: Mapping[str, Any]) -> int:
    """How many copies a topic is to have. A broker that is named and not up yet counts: else what comes back first after the loss of all
    would hold the only copy for good."""
    return min(REPLICAS_MAX, max(len(cluster["brokers"]), len(addresses(servers).split(","))))


def _config(topic: Topic, copies: int) -> dict[str, str]:
    return {**topic.config, "min.insync.replicas": "2" if copies >= REPLICAS_MAX else "1"}


async def _differences(admin: Any, wanted: Mapping[str, Topic]) -> list[str]:
    """In what the topics that exist are not as declared; one sentence each."""
    if not wanted:
        return []
    said: list[str] = []
    copies: dict[str, int] = {}
    for described in await admin.describe_topics(list(wanted)):
        partitions = described["partitions"]
        copies[described["topic"]] = len(partitions[0]["replicas"]) if partitions else 0
        if len(partitions) != 1:
            said.append(f"topic {described['topic']} has {len(partitions)} partitions, one log needs exactly 1")
    for answer in await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in wanted]):
        for code, message, _kind, name, entries in answer.resources:
            if code != 0:
                raise for_code(code)(f"{name}: {message}")
            found = {entry[0]: entry[1] for entry in entries}
            for setting, value in _config(wanted[name], copies.get(name, 1)).items():
                if found.get(setting) != value:
                    said.append(f"topic {name} has {setting}={found.get(setting)}, declared is {value}")
    return said


@contextlib.asynccontextmanager
async def admin_client(servers: Servers) -> AsyncIterator[Any]:
    """An admin client that has met the cluster, for the time of a block. Raises LOST_ERRORS."""
    admin = AIOKafkaAdminClient(**client_settings(servers), request_timeout_ms=round(REQUEST_SECONDS_MAX * 1000))
    try:
        async with asyncio.timeout(START_SECONDS_MAX + REQUEST_SECONDS_MAX):
            async with saying_why(servers):
                await admin.start()
            yield admin
    finally:
        await _within(admin.close(), STOP_SECONDS_MAX)


async def start_producer(servers: Servers, client_id: str) -> AIOKafkaProducer:
    """An idempotent producer that has met the cluster. End it with `stop`. Raises LOST_ERRORS."""
    producer = AIOKafkaProducer(
        **client_settings(servers),
        client_id=client_id,
        enable_idempotence=True,
        acks="all",
        compression_type="zstd",
        max_batch_size=BATCH_BYTES_MAX,
        max_request_size=RECORD_BYTES_MAX,
        linger_ms=0,
        request_timeout_ms=round(REQUEST_SECONDS_MAX * 1000),
    )
    await _start(producer, servers)
    return producer


async def start_consumer(servers: Servers, client_id: str, topic: str) -> AIOKafkaConsumer:
    """A consumer of the topic's one partition: no group, no commits, from the earliest record. End it with `stop`. Raises LOST_ERRORS."""
    consumer = AIOKafkaConsumer(
        **client_settings(servers),
        client_id=client_id,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=2 * MESSAGE_BYTES_MAX,
        consumer_timeout_ms=LOOK_MILLISECONDS,
        request_timeout_ms=round(REQUEST_SECONDS_MAX * 1000),
    )
    await _start(consumer, servers)
    consumer.assign([only_partition(topic)])
    return consumer


Fetch = Callable[..., Awaitable[Mapping[TopicPartition, Sequence[ConsumerRecord]]]]
"""`AIOKafkaConsumer.getmany`."""


def passing_over(consumer: Any, place: TopicPartition) -> Fetch:
    """The consumer's `getmany`, past records that it cannot read.

    A header name that is not UTF-8 makes aiokafka (0.14) fail for ever on the whole fetch. What it fails on is found by halving and comes
    as an empty record, which counts as missing. Others of the same batch of its producer go the same way; the relay publishes ours again.
    """
    getmany: Fetch = consumer.getmany

    async def readable(*places: TopicPartition, timeout_ms: int = 0, max_records: int) -> Mapping[TopicPartition, Sequence[ConsumerRecord]]:
        count = max_records
        while True:
            offset = await consumer.position(place)
            try:
                return await getmany(*places, timeout_ms=timeout_ms, max_records=count)
            except UnicodeDecodeError:
                if count == 1:
                    consumer.seek(place, offset + 1)
                    return {place: [ConsumerRecord(place.topic, place.partition, offset, 0, 0, None, None, None, 0, 0, ())]}
                consumer.seek(place, offset)
                count //= 2

    return readable


async def offsets(consumer: AIOKafkaConsumer, topic: str) -> tuple[int, int]:
    """The topic's first offset and the one that its next record will have. Raises LOST_ERRORS."""
    partition = only_partition(topic)
    try:
        async with asyncio.timeout(REQUEST_SECONDS_MAX):
            first, end = await asyncio.gather(consumer.beginning_offsets([partition]), consumer.end_offsets([partition]))
    except TimeoutError:
        check_may_read(consumer, topic)
        raise
    return first[partition], end[partition]


async def is_there(consumer: AIOKafkaConsumer, topic: str) -> bool:
    """Whether the cluster has the topic that this consumer reads, as it is now. Raises LOST_ERRORS.

    It asks for this topic alone: `topics()` has every partition of the whole cluster listed.
    """
    client = consumer._client  # noqa: SLF001
    if not await client.force_metadata_update():
        raise KafkaError("no broker says which topics there are")
    return topic in client.cluster.topics()


def check_may_read(consumer: Any, topic: str) -> None:
    """Raises RightMissingError when the cluster has said that this user may not see the topic: aiokafka (0.14) would wait for ever."""
    client = getattr(consumer, "_client", None)
    if client is not None and topic in client.cluster.unauthorized_topics:
        raise RightMissingError(f"this user may not read {topic}: `acls apply` gives the right")


async def stop(client: AIOKafkaProducer | AIOKafkaConsumer) -> None:
    """Ends a client within about two seconds, whatever Kafka does. What a producer still held may or may not arrive."""
    if await _within(client.stop(), STOP_SECONDS_MAX):
        return
    if isinstance(client, AIOKafkaProducer):
        await _end_by_force(client)


@contextlib.asynccontextmanager
async def saying_why(servers: Servers) -> AsyncIterator[None]:
    """Around the start of a client: where Kafka did not let it in, raises the AccessError that says why."""
    try:
        yield
    except TopicAuthorizationFailedError as error:
        raise RightMissingError(f"this user may not read {error.args[0]}: `acls apply` gives the right") from error
    except (KafkaError, OSError) as error:
        if isinstance(servers, Secured) and (why := await why_not(servers)) is not None:
            raise why from error
        raise


async def _start(client: AIOKafkaProducer | AIOKafkaConsumer, servers: Servers) -> None:
    try:
        async with asyncio.timeout(START_SECONDS_MAX), saying_why(servers):
            await client.start()
    except BaseException:
        await stop(client)
        raise


async def _end_by_force(producer: AIOKafkaProducer) -> None:
    """Ends the task that would go on sending once Kafka is back. aiokafka has no call for it (0.14), so its parts are taken by name."""
    sender = producer._sender  # noqa: SLF001
    producer._message_accumulator.fail_all(ProducerClosed())  # noqa: SLF001
    await _within(producer.client.close(), STOP_SECONDS_MAX / 2)  # What is in flight fails now, and the task can end.
    for _ in range(3):
        if sender.sender_task is None or sender.sender_task.done():
            break
        sender.sender_task.cancel()
        await asyncio.wait({sender.sender_task}, timeout=STOP_SECONDS_MAX / 4)


async def _within(work: Awaitable[object], seconds: float) -> bool:
    """Whether `work` ended in time; errors of a farewell are nobody's concern."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(_read_outcome)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        task.cancel()
    return bool(done)


def _read_outcome(task: "asyncio.Future[object]") -> None:
    """So that the error of a task that nobody waits for any more is not reported as forgotten."""
    if not task.cancelled():
        task.exception()
