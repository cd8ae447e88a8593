"""What goes wrong with Kafka: brokers killed, paused, too few, all gone, logs shorter than they were (F18 to F24)."""

import asyncio
import json
import shutil
import signal
import struct
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient

from deploy.local.environment import SERVICES
from shared.contracts.topics import SUBSCRIPTIONS
from shared.kafka import only_partition
from tests.faults.cluster import NODES, Cluster
from tests.faults.nemesis.fault import BOTH, ONLY_LONG, Fault, Scene
from tests.faults.nemesis.operators import ordered
from tests.faults.nemesis.processes import shown
from tests.faults.system import until

NOTICED_WITHIN_S = 30.0
ANSWERS_MEANWHILE = 20
BATCHES_LOST = 3


@contextmanager
def _commands_unaffected(scene: Scene) -> Iterator[None]:
    """A block in which no command is told that the store is away, and no process ends."""
    before = scene.clients.not_decided["store_unavailable"]
    with scene.unharmed():
        yield
    assert scene.clients.not_decided["store_unavailable"] == before, "Kafka's trouble has reached commands"


async def _leader_killed(scene: Scene) -> None:
    """The leader of a service's log."""
    service = scene.random.choice(SERVICES)
    await _kill_and_start(scene, await _leader(scene.cluster, f"{service}.events"))
    scene.happened["leader killed"] += 1


async def _controller_killed(scene: Scene) -> None:
    """The active controller."""
    await _kill_and_start(scene, _controller(scene.cluster))
    scene.happened["controller killed"] += 1


async def _each_killed(scene: Scene) -> None:
    """Each broker in turn."""
    for node in scene.random.sample(range(NODES), NODES):
        await _kill_and_start(scene, node)


async def _kill_and_start(scene: Scene, node: int) -> None:
    with _commands_unaffected(scene):
        await asyncio.to_thread(scene.cluster.kafka.kill, node)
        try:
            await scene.answers(ANSWERS_MEANWHILE)
            await asyncio.sleep(scene.lasts(smoke=3, long=15))
        finally:
            await scene.cluster.start_broker(node)
        await scene.cluster.brokers_in_sync()


async def _rolling_restart(scene: Scene) -> None:
    """One broker after the other is stopped in order and started again, as for an upgrade."""
    with _commands_unaffected(scene):
        for node in range(NODES):
            try:
                await asyncio.to_thread(scene.cluster.kafka.stop, node)
                await scene.answers(ANSWERS_MEANWHILE)
            finally:
                await scene.cluster.start_broker(node)
            await scene.cluster.brokers_in_sync()


async def _paused(scene: Scene) -> None:
    """The leader of a service's log stands still: another leads, and a page whose acknowledgement never came is sent again."""
    service = scene.random.choice(SERVICES)
    node = await _leader(scene.cluster, f"{service}.events")
    with _commands_unaffected(scene):
        scene.cluster.kafka.children[node].send(signal.SIGSTOP)
        try:
            await asyncio.sleep(scene.lasts(smoke=12, long=30))
            await scene.answers()
        finally:
            scene.cluster.kafka.children[node].send(signal.SIGCONT)
        await scene.cluster.brokers_in_sync()


async def _too_few_in_sync(scene: Scene) -> None:
    """Two of three are down: nothing can be published, commands go on, and the backlog is there to be seen."""
    lost = scene.random.sample(range(NODES), 2)
    with _commands_unaffected(scene):
        await asyncio.gather(*(asyncio.to_thread(scene.cluster.kafka.kill, node) for node in lost))
        try:
            await asyncio.gather(
                asyncio.sleep(scene.lasts(smoke=8, long=300)),
                scene.answers(ANSWERS_MEANWHILE),
                until(lambda: _has_backlog(scene.cluster), NOTICED_WITHIN_S, "a backlog"),
            )
        finally:
            await _start(scene.cluster, lost)
        await scene.cluster.brokers_in_sync()


async def _all_killed(scene: Scene) -> None:
    """All at once, with what their page caches held."""
    await _all_down(scene, lambda: None)


async def _all_lost(scene: Scene) -> None:
    """All at once, and every log, user and right with them: users and topics are made anew by an operator, and filled from the stores."""

    def forget() -> None:
        for node in range(NODES):
            shutil.rmtree(_data(scene.cluster, node))

    async def make_anew() -> None:
        await scene.cluster.admit()
        await asyncio.gather(*(ordered(scene, service, "migrate") for service in SERVICES))

    await _all_down(scene, forget, make_anew)
    scene.happened["all of Kafka's data lost"] += 1


async def _truncated(scene: Scene) -> None:
    """The end of a service's log is gone on every broker: offsets go backwards, and the positions in PostgreSQL are what counts."""
    topic = f"{scene.cluster.prefix}{scene.random.choice(SERVICES)}.events"
    lost = 0

    def shorten() -> None:
        nonlocal lost
        lost = _shorten([_data(scene.cluster, node) / f"{topic}-0" for node in range(NODES)])

    await _all_down(scene, shorten)
    assert lost > 0, "nothing was cut off"
    print(f"{topic} is shorter by {lost} offsets")
    scene.happened["log truncated"] += 1


async def _all_down(scene: Scene, change: Callable[[], None], then: Callable[[], Awaitable[None]] | None = None) -> None:
    nodes = range(NODES)
    with _commands_unaffected(scene):
        await asyncio.gather(*(asyncio.to_thread(scene.cluster.kafka.kill, node) for node in nodes))
        try:
            await scene.answers(ANSWERS_MEANWHILE)
            change()
        finally:
            await _start(scene.cluster, nodes)
        if then is not None:
            await then()
        await scene.cluster.brokers_in_sync()


async def _group_offsets_lost(scene: Scene) -> None:
    """Kafka's own offsets of all consumers point to the beginning when the workers start anew: they go on where PostgreSQL says."""
    service = scene.random.choice(SERVICES)
    workers = (f"{service}-worker", f"{service}-worker-2")
    for name in workers:
        await asyncio.to_thread(scene.cluster.kill, name)
    try:
        for each in [each for each in SUBSCRIPTIONS if each.consumer.startswith(f"{service}.")]:
            await _rewind(scene.cluster, each.consumer, f"{each.source}.events")
    finally:
        for name in workers:
            scene.cluster.launch(name)
        await scene.cluster.ready(*workers)
    await scene.answers()


async def _beyond_the_end(scene: Scene) -> None:
    """A consumer remembers the offset of another Kafka, far beyond the end, and nobody says anything new: it finds what it lacks."""
    service = scene.random.choice(_ASKED_WHATEVER_HAPPENS)
    cluster = scene.cluster
    await _role(scene, service, "pause")
    try:
        await scene.answers(ANSWERS_MEANWHILE, service=service)
        async with scene.clients.at_rest():
            ((head,),) = await cluster.sql(service, "SELECT max(position) FROM es.event")
            assert await cluster.sql(service, _MOVED_BEYOND_THE_END, service, head), "the views lack nothing"
            await _role(scene, service, "resume")
            took = await shown(scene, service, head, within=NOTICED_WITHIN_S)
            print(f"the views of {service} had an offset beyond the end: all was shown after {took:.1f} s")
            scene.happened["offset beyond the end"] += 1
    finally:
        await _role(scene, service, "resume")


_MOVED_BEYOND_THE_END = """
    UPDATE consumer.position SET kafka_offset = kafka_offset + 1000000
    WHERE consumer = 'views' AND log = $1 AND applied < $2 RETURNING kafka_offset
"""
_ASKED_WHATEVER_HAPPENS = ("registration", "recognition")
"""The clerks go on there while some read model stands still."""


async def _role(scene: Scene, service: str, what: str) -> None:
    await ordered(scene, service, "role", what, "views", "--reason", "a fault of the harness")


async def _rewind(cluster: Cluster, group: str, topic: str) -> None:
    place = only_partition(f"{cluster.prefix}{topic}")
    consumer = AIOKafkaConsumer(bootstrap_servers=cluster.kafka.servers, group_id=f"{cluster.prefix}{group}", enable_auto_commit=False)
    consumer.assign([place])
    await consumer.start()
    try:
        await consumer.commit({place: 0})
    finally:
        await consumer.stop()


async def _start(cluster: Cluster, nodes: Sequence[int]) -> None:
    """All at once: one alone has no majority."""
    for node in nodes:
        cluster.kafka.launch(node)
    await asyncio.gather(*(asyncio.to_thread(cluster.kafka.wait_until_up, node) for node in nodes))


async def _has_backlog(cluster: Cluster) -> bool:
    """Whether some relay says that it has something to publish."""
    return any(
        [await cluster.metric(f"{service}-{role}", "relay_backlog_events") for service in SERVICES for role in ("worker", "worker-2")]
    )


async def _leader(cluster: Cluster, topic: str) -> int:
    admin = AIOKafkaAdminClient(bootstrap_servers=cluster.kafka.servers)
    await admin.start()
    try:
        (described,) = await admin.describe_topics([f"{cluster.prefix}{topic}"])
    finally:
        await admin.close()
    return int(described["partitions"][0]["leader"])


def _controller(cluster: Cluster) -> int:
    """Whom the newest vote known to any node has made the leader of the metadata's quorum; clients are told of some broker instead."""
    votes = [
        json.loads((_data(cluster, node) / "__cluster_metadata-0" / "quorum-state").read_text(encoding="ascii")) for node in range(NODES)
    ]
    return int(max(votes, key=lambda vote: vote["leaderEpoch"])["leaderId"])


def _data(cluster: Cluster, node: int) -> Path:
    return cluster.folder / "kafka" / f"node-{node}" / "data"


def _shorten(replicas: Sequence[Path]) -> int:
    """Cuts the last batches off all copies, to the same end; how many offsets are gone."""
    ends = {_ends(each)[-1][0] for each in replicas}
    left = sorted({offset for offset, _ in _ends(replicas[0])})
    target = min(left[-1 - BATCHES_LOST], *ends) if len(left) > BATCHES_LOST else left[0]
    for each in replicas:
        size = max((size for offset, size in _ends(each) if offset <= target), default=0)
        log = _log(each)
        with log.open("r+b") as file:
            file.truncate(size)
        for rest in (*each.glob("*.index"), *each.glob("*.timeindex"), *each.glob("*.snapshot")):
            rest.unlink()
    return max(ends) - target


def _log(replica: Path) -> Path:
    """The newest segment; ours are small enough to have one."""
    return max(replica.glob("*.log"))


def _ends(replica: Path) -> list[tuple[int, int]]:
    """After each batch of a log: the next offset, and the size of the file up to here. Kafka's format of records, version 2."""
    content, place = _log(replica).read_bytes(), 0
    found = [(0, 0)]
    while place + 27 <= len(content):
        base, length = struct.unpack_from(">qi", content, place)
        (last,) = struct.unpack_from(">i", content, place + 23)
        place += 12 + length
        if place > len(content):
            break
        found.append((base + last + 1, place))
    return found


FAULTS: tuple[Fault, ...] = (
    Fault("F18.1", "leader killed", 30, True, BOTH, _leader_killed),
    Fault("F18.2", "controller killed", 30, True, BOTH, _controller_killed),
    Fault("F18.3", "each broker killed in turn", 30, True, ONLY_LONG, _each_killed),
    Fault("F18.4", "rolling restart", 30, True, ONLY_LONG, _rolling_restart),
    Fault("F19", "leader paused", 45, True, BOTH, _paused),
    Fault("F20", "too few in sync", 120, True, BOTH, _too_few_in_sync),
    Fault("F21.1", "all brokers killed", 60, True, BOTH, _all_killed),
    Fault("F21.2", "all brokers lost with their logs", 300, True, BOTH, _all_lost),
    Fault("F24.1", "log truncated", 60, True, BOTH, _truncated),
    Fault("F24.2", "group offsets lost", 30, True, BOTH, _group_offsets_lost),
    Fault("F24.3", "an offset beyond the end, and silence", 30, True, BOTH, _beyond_the_end),
)
