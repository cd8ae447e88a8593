"""What operators do wrong: the same twice, at once, or in the middle of everything."""

import asyncio
import os
import re
from datetime import date, timedelta
from functools import partial

from deploy.local.environment import SERVICES
from deploy.local.places import CHECKOUT
from tests.faults import world
from tests.faults.nemesis.fault import BOTH, Fault, Scene
from tests.faults.system import until
from tests.forks.children import python

COMMAND_WITHIN_S = 120.0
PARKED_WITHIN_S = 30.0


async def operate(scene: Scene, service: str, *command: str) -> tuple[int, str]:
    """One of the service's commands, as an operator gives it: its exit code and what it said. Fails when it does not end in time."""
    environment = {**os.environ, **scene.cluster.environment(service, command[0])}
    process = await asyncio.create_subprocess_exec(
        python(), "-m", f"services.{service}", *command,
        cwd=CHECKOUT, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(COMMAND_WITHIN_S):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def ordered(scene: Scene, service: str, *command: str) -> None:
    """The same of one that must end well."""
    code, said = await operate(scene, service, *command)
    assert code == 0, f"{service} {' '.join(command)}: {said[-2000:]}"


async def retried_twice(scene: Scene) -> None:
    """A policy that the read model did not take is parked, and the next one behind it. They are retried by two at once and once more, and
    each is there once, in order.
    """
    cluster = scene.cluster
    ((schema,),) = await cluster.sql("hours", "SELECT schema FROM consumer.views WHERE live")
    version = f"faults-{scene.random.getrandbits(40):x}"
    table = f"{schema}.hours_policies"
    await cluster.sql("hours", f"ALTER TABLE {table} ADD CONSTRAINT faults CHECK (version <> '{version}') NOT VALID")
    try:
        ((last,),) = await cluster.sql("hours", "SELECT max(effective_from) FROM lookup.hours_policies")
        day = max(last, date(2090, 1, 1)) + timedelta(days=1)
        key = await _adopt(scene, version, day)
        await until(partial(_are_parked, scene, key, 1), PARKED_WITHIN_S, f"the key of {version} parked")
        await _adopt(scene, f"{version}-next", day + timedelta(days=1))
        await until(partial(_are_parked, scene, key, 2), PARKED_WITHIN_S, f"what follows {version} waits behind it")
        code, said = await operate(scene, "hours", "parked", "list")
        assert code == 0, said
        assert key in said
        scene.happened["parked key"] += 1
    finally:
        await cluster.sql("hours", f"ALTER TABLE {table} DROP CONSTRAINT faults")
    retries = [*await asyncio.gather(*(operate(scene, "hours", "parked", "retry", key) for _ in range(2)))]
    retries.append(await operate(scene, "hours", "parked", "retry", key))
    assert [code for code, _ in retries] == [0, 0, 0], retries
    assert await _parked(scene, key) == 0, retries
    released = [int(each) for _, said in retries for each in re.findall(r"(\d+) released", said)]
    assert sum(released) == 2, retries  # Two at once may share them.
    ((rows,),) = await cluster.sql("hours", f"SELECT count(*) FROM {table} WHERE starts_with(version, $1)", version)
    assert rows == 2
    scene.happened["parked replayed twice"] += 1


async def _adopt(scene: Scene, version: str, day: date) -> str:
    """Another hours policy from a day on; the key of its stream."""
    text = (world.SAMPLE / "hours-policy.yaml").read_text()
    text = text.replace("2017-bureau", version).replace("effective_from: 2017-01-01", f"effective_from: {day}")
    asked = await scene.clients.ask("hours", *world.BUREAU, "/hours-policies", {"file": text})
    assert asked.accepted, asked
    return str(asked.answer["stream"].partition("-")[2])


async def _are_parked(scene: Scene, key: str, events: int) -> bool:
    return await _parked(scene, key) == events


async def _parked(scene: Scene, key: str) -> int:
    ((events,),) = await scene.cluster.sql("hours", "SELECT count(*) FROM consumer.parked WHERE key = $1 AND consumer = 'views'", key)
    return int(events)


async def rebuilt_twice(scene: Scene) -> None:
    """Two rebuild at once, under load: one says that the other is at it, the other swaps; what was live before is dropped."""
    service = scene.random.choice(SERVICES)
    ((before,),) = await scene.cluster.sql(service, "SELECT schema FROM consumer.views WHERE live")
    try:
        one, other = await asyncio.gather(operate(scene, service, "rebuild"), operate(scene, service, "rebuild"))
        assert sorted(code for code, _ in (one, other)) == [0, 1], (one, other)
        assert any("another rebuild is under way" in said for _, said in (one, other)), (one, other)
        ((after,),) = await scene.cluster.sql(service, "SELECT schema FROM consumer.views WHERE live")
        assert after != before
        await scene.answers(10)
    finally:
        code, said = await operate(scene, service, "rebuild", "--drop-old")
    assert code == 0, said
    scene.happened["rebuilt while live"] += 1


async def migrated_twice(scene: Scene) -> None:
    """Two migrations of a service at once, under load: both end well, and nothing has changed."""
    service = scene.random.choice(SERVICES)
    ends = await asyncio.gather(*(operate(scene, service, "migrate") for _ in range(2)))
    assert [code for code, _ in ends] == [0, 0], ends
    await scene.answers(10)
    scene.happened["migrated twice at once"] += 1


FAULTS: tuple[Fault, ...] = (
    Fault("F36.1", "parked replayed twice", 15, True, BOTH, retried_twice),
    Fault("F36.2", "two rebuilds at once, while live", 15, True, BOTH, rebuilt_twice),
    Fault("F36.3", "two migrations at once", 15, True, BOTH, migrated_twice),
)
