"""The read models as they are, built anew from Kafka, and the own log's from the store: one digest (I6), by the operator's own commands."""

import asyncio

from deploy.local.environment import SERVICES
from shared.digest import Digest, digest_of
from tests.faults.invariants import need
from tests.faults.nemesis.fault import Scene
from tests.faults.nemesis.operators import ordered

RATE = "50000"
"""Events a second: nobody else wants the machine meanwhile."""


async def check_digests(scene: Scene) -> int:
    """While nothing is asked: the digests of every service are equal; how many were. What is live afterwards was built anew."""
    return sum(await asyncio.gather(*(_check(scene, service) for service in SERVICES)))


async def _check(scene: Scene, service: str) -> int:
    said = {"live": await _digest(scene, service)}
    for origin in ("kafka", "store"):
        await ordered(scene, service, "rebuild", "--from", origin, "--rate", RATE)
        said[f"built anew from {origin}"] = await _digest(scene, service)
        await ordered(scene, service, "rebuild", "--drop-old")  # Faults may follow that rebuild.
    need(len({(each.whole, tuple(each.positions.items())) for each in said.values()}) == 1, "I6", f"the read models of {service}: {said}")
    return len(said)


async def _digest(scene: Scene, service: str) -> Digest:
    """What the command `digest` prints, without the start of a process."""
    return await digest_of(scene.cluster.dsn(service))
