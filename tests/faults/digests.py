"""The read models as they are, built anew from Kafka, and the own log's from the store: one digest (I6), by the operator's own commands."""

import asyncio
import re

from deploy.local.environment import SERVICES
from tests.faults.invariants import need
from tests.faults.nemesis.fault import Scene
from tests.faults.nemesis.operators import operate

RATE = "50000"
"""Events a second: nobody else wants the machine meanwhile."""


async def check_digests(scene: Scene) -> int:
    """While nothing is asked: the digests of every service are equal; how many were. What is live afterwards was built anew."""
    return sum(await asyncio.gather(*(_check(scene, service) for service in SERVICES)))


async def _check(scene: Scene, service: str) -> int:
    said = {"live": await _digest(scene, service)}
    for origin in ("kafka", "store"):
        await _ordered(scene, service, "rebuild", "--from", origin, "--rate", RATE)
        said[f"built anew from {origin}"] = await _digest(scene, service)
        await _ordered(scene, service, "rebuild", "--drop-old")
    need(len(set(said.values())) == 1, "I6", f"the read models of {service}: {said}")
    return len(said)


async def _digest(scene: Scene, service: str) -> str:
    """With the positions, and without the name of the schema."""
    said = await _ordered(scene, service, "digest")
    place, whole = re.search(r"^views_\d+ at (.*)$", said, re.MULTILINE), re.search(r"^(\w+)  all$", said, re.MULTILINE)
    assert place is not None, said
    assert whole is not None, said
    return f"{whole[1]} at {place[1]}"


async def _ordered(scene: Scene, service: str, *command: str) -> str:
    code, said = await operate(scene, service, *command)
    assert code == 0, f"{service} {' '.join(command)}: {said[-2000:]}"
    return said
