"""What goes wrong between processes and their servers: slow, narrow, cut, silent or one-way connections (F26 to F28)."""

import asyncio
from collections.abc import Sequence
from functools import partial

import httpx

from deploy.local.environment import SERVICES
from tests.faults.nemesis.fault import BOTH, ONLY_LONG, Fault, Scene
from tests.faults.proxy import CUT, Proxy, Rules
from tests.faults.system import until
from tests.loopback import NO_TLS

DIRECTIONS = (CUT, Rules(up_held=True), Rules(down_held=True))
WAYS = ("api/postgres", "api-2/postgres", "worker/postgres", "worker-2/postgres", "kafka")
"""The edges of a service; those to the three brokers are one way."""
LISTS = {"registration": "/activities", "hours": "/hours-policies", "recognition": "/star-policies"}
REFILLED_WITHIN_S = 15.0
SLOWLY_WITHIN_S = 60.0
RECONNECTS_PER_S_MAX = 5.0
"""Of one process to its database, or of a service to one broker."""


async def _slow(rules: Rules, scene: Scene) -> None:
    """One api and one worker are slow to their databases, and one service to Kafka: slow, and correct."""
    struck = _some_ways(scene, ("api/postgres", "worker/postgres", "kafka"))
    door = next(name for name in struck if "api" in name)
    with scene.unharmed():
        for edge in _edges(scene, struck):
            edge.rule(rules)
        try:
            await asyncio.gather(asyncio.sleep(scene.lasts(smoke=4, long=60)), _is_read(scene, door, SLOWLY_WITHIN_S), scene.answers())
        finally:
            scene.cluster.heal_edges()


async def _black_holes(scene: Scene) -> None:
    """One edge of each service is cut, each in a direction of its own: timeouts end what waits, and what was cut comes back by itself."""
    struck = _some_ways(scene, (scene.random.choice(WAYS[:2]), scene.random.choice(WAYS[2:4]), "kafka"))
    await _cut(scene, struck, scene.lasts(smoke=20, long=60))


async def _every_edge(scene: Scene) -> None:
    """The same edge of all services at once, one after the other."""
    for way in WAYS:
        await _cut(scene, [f"{service}-{way}" if "/" in way else f"{service}/{way}" for service in SERVICES], 60)


async def _cut(scene: Scene, struck: Sequence[str], seconds: float) -> None:
    with scene.unharmed():
        for name in struck:
            rules = scene.random.choice(DIRECTIONS)
            scene.happened["one direction cut" if rules != CUT else "both directions cut"] += 1
            for edge in _edges(scene, [name]):
                edge.rule(rules)
        try:
            await asyncio.sleep(seconds)
        finally:
            scene.cluster.heal_edges()
        for name in struck:
            if "api" in name:
                took = await _is_read(scene, name, REFILLED_WITHIN_S)
                print(f"{name}: answers {took:.1f} s after the cut")
        await scene.answers()


async def _one_broker(scene: Scene) -> None:
    """Nobody reaches one broker, which itself is well: its partitions are led by one that clients do not hear."""
    node = scene.random.randrange(3)
    with scene.unharmed():
        for service in SERVICES:
            scene.cluster.proxies[f"{service}/kafka-{node}"].rule(CUT)
        try:
            await asyncio.gather(asyncio.sleep(scene.lasts(smoke=5, long=60)), scene.answers())
        finally:
            scene.cluster.heal_edges()


async def _resets(scene: Scene) -> None:
    """Connections are reset in the middle of what is said, time and again, also after some byte of an answer."""
    with scene.unharmed():
        edges = list(scene.cluster.proxies.values())
        try:
            for _ in range(round(scene.lasts(smoke=4, long=20))):
                for edge in scene.random.sample(edges, len(edges) // 3):
                    edge.reset()
                for edge in scene.random.sample(edges, len(edges) // 3):
                    edge.cut_after(scene.random.randint(1, 2000))
                await asyncio.sleep(1.0)
        finally:
            scene.cluster.heal_edges()
        await scene.answers()
    scene.happened["answer cut in the middle"] += sum(edge.seen().cut for edge in edges)


async def _silence(scene: Scene) -> None:
    """Servers that accept and then say nothing: everybody asks again, and nobody storms."""
    seconds = scene.lasts(smoke=5, long=60)
    struck = _some_ways(scene, ("api/postgres", "worker/postgres", "kafka"))
    edges = _edges(scene, struck)
    with scene.unharmed():
        for edge in edges:
            edge.rule(Rules(silent=True))
            edge.reset()
        before = {edge: edge.seen().accepted for edge in edges}
        try:
            await asyncio.sleep(seconds)
            rates = {edge.name: (edge.seen().accepted - before[edge]) / seconds for edge in edges}
        finally:
            scene.cluster.heal_edges()
        print(f"connections a second into silence: {rates}")
        assert any(rates.values()), "nobody tried"
        assert max(rates.values()) <= RECONNECTS_PER_S_MAX, rates
        for name in struck:
            if "api" in name:
                await _is_read(scene, name, REFILLED_WITHIN_S)
        await scene.answers()


def _some_ways(scene: Scene, ways: Sequence[str]) -> list[str]:
    """Each of the ways for another service."""
    services = scene.random.sample(SERVICES, len(ways))
    return [f"{service}-{way}" if "/" in way else f"{service}/{way}" for service, way in zip(services, ways, strict=True)]


def _edges(scene: Scene, names: Sequence[str]) -> list[Proxy]:
    """What stands for the names: an edge, or all that begin so (`hours/kafka`)."""
    return [edge for name, edge in scene.cluster.proxies.items() if name.startswith(tuple(names))]


async def _is_read(scene: Scene, name: str, within: float) -> float:
    """Until the process of this edge answers a query; the seconds that it took."""
    process = name.partition("/")[0]
    url = scene.cluster.url(process) + "/api/v1" + LISTS[process.partition("-")[0]]

    async def answers() -> bool:
        async with httpx.AsyncClient(timeout=6, verify=NO_TLS) as client:
            try:
                answer = await client.get(url, headers=scene.clients.headers(("局长甲", "bureau_admin", "bureau")))
            except httpx.HTTPError:
                return False
        return answer.status_code == 200

    return await until(answers, within, f"an answer of {process}")


FAULTS: tuple[Fault, ...] = (
    Fault("F26.1", "round trips of 300 ± 200 ms", 30, True, BOTH, partial(_slow, Rules(delay_s=0.15, jitter_s=0.1))),
    Fault("F26.2", "a wire of 64 kbit/s", 30, True, BOTH, partial(_slow, Rules(bytes_per_s=8_000))),
    Fault("F26.3", "slices of 1 to 7 bytes", 30, True, BOTH, partial(_slow, Rules(sliced=True))),
    Fault("F27.1", "black holes", 15, False, BOTH, _black_holes),
    Fault("F27.2", "black holes on every edge in turn", 15, False, ONLY_LONG, _every_edge),
    Fault("F27.3", "a broker that no client reaches", 15, True, BOTH, _one_broker),
    Fault("F28.1", "resets in the middle", 10, False, BOTH, _resets),
    Fault("F28.2", "accepted, then silence", 10, False, BOTH, _silence),
)
