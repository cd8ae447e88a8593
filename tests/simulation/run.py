"""A seed and what came of it."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final

from shared.errors import LeifengError
from shared.relay import shell as relay
from tests.simulation.broker import Broker, Raw
from tests.simulation.checks import broken_promises, unrest
from tests.simulation.loop import made_up
from tests.simulation.network import Network, Weather
from tests.simulation.programme import DECIDING, SOURCES
from tests.simulation.world import PEACE_SECONDS_MAX, Service, World

Say = Callable[[str], None]


SITUATIONS: Final = (
    "crashed before",
    "crashed after",
    "lost before",
    "lost after",
    "slow",
    "sleeps",
    "late page",
    "second owner",
    "fenced",
    "gap",
    "published again",
    "topic wiped",
    "topic deleted",
    "tail cut",
    "record withheld",
    "bad copy",
    "page repeated",
    "stranger between",
    "database restarted",
    "clock stepped",
    "clock strobing",
    "parked",
    "parked behind",
    "refused",
    "unknown",
    "answered from before",
    "waited for another log",
    "closed in time",
)
"""What must have happened in many seeds, or they have shown nothing."""


@dataclass(frozen=True)
class Outcome:
    """What a run has shown: broken promises, which should be none; accidents and situations, how often; and its fingerprint."""

    seed: int
    failures: Sequence[str]
    happened: Counter[str]
    events: int
    seconds: float
    fingerprint: str


def seldom(happened: Counter[str], seeds: int) -> dict[str, int]:
    """The situations that came in fewer than one of fifty seeds, and how often."""
    return {name: happened[name] for name in SITUATIONS if 50 * happened[name] < seeds}


def simulate(seed: int, say: Say | None = None) -> Outcome:
    """Plays one seed; the same one gives the same outcome. `say` gets a trace, a line for each call and accident."""
    chance = random.Random(seed)
    with made_up(seed) as loop:

        def told(text: str) -> None:
            if say is not None:
                say(f"{world.now():9.3f} {text}")

        network = Network(chance, Weather.of(chance), told)
        broker = Broker(network)
        world = World(network, broker)
        with broker.in_place_of_kafka(), _small_pages(chance.randint(2, 6), world):
            return loop.run_until_complete(_play(seed, world))


@contextlib.contextmanager
def _small_pages(events: int, world: World) -> Iterator[None]:
    """For this block the relay's pages hold few events, so that small logs have borders too; and its ears hear this world's stores."""
    kept: dict[str, Any] = {name: getattr(relay, name) for name in ("PAGE_EVENTS_MAX", "TAIL_RECORDS", "connect")}
    for name, value in {"PAGE_EVENTS_MAX": events, "TAIL_RECORDS": max(2 * events, 6), "connect": world.listen}.items():
        setattr(relay, name, value)
    try:
        yield
    finally:
        for name, was in kept.items():
            setattr(relay, name, was)


async def _play(seed: int, world: World) -> Outcome:
    chance, services = world.chance, world.services
    for service in services.values():
        if service.name in SOURCES:
            for number in (1, 2):
                world.start_api(service, f"{service.name}-api-{number}")
        world.start_worker(service, f"{service.name}-worker")
    if chance.random() < 0.3:
        _clock_strobing(world, services[DECIDING])
        world.happened["clock strobing"] += 1
    clients = [world.ask(services[SOURCES[0]], chance.randint(1, 5)) for _ in range(2)]
    clients.append(world.ask(services[SOURCES[1]], chance.randint(1, 3)))
    accidents = _accidents(world)
    try:
        async with asyncio.timeout(10 * PEACE_SECONDS_MAX):
            await asyncio.gather(*clients, accidents)
        await _come_to_rest(world)
    except TimeoutError:
        world.fail("clients were not answered")
    except LeifengError as error:
        world.fail(f"a client was told {error!r}")
    world.end()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=60.0)
    if not world.failures:
        world.failures += await broken_promises(world)
    _note(world)
    events = sum(len(service.store.records) for service in services.values())
    said = repr([[(each.type, each.payload) for each in service.store.records] for service in services.values()])
    fingerprint = sha256(f"{said} {world.network.calls} {chance.random()}".encode()).hexdigest()[:16]
    return Outcome(seed, world.failures, world.happened, events, world.now(), fingerprint)


async def _come_to_rest(world: World) -> None:
    """No more accidents: the second owners go, and all that is left to do gets done."""
    world.at_peace = True
    world.network.weather = Weather()
    world.network.say("peace")
    for service in world.services.values():
        service.clock_strobes = False
        for name, life in list(service.lives.items()):
            life.clock_seconds = 0.0
            if name.endswith("worker-2"):
                life.end()
    until = world.now() + PEACE_SECONDS_MAX
    while not world.failures and (left := list(unrest(world))):
        if world.now() > until:
            world.fail(f"no rest: {'; '.join(left)}")
            return
        await asyncio.sleep(0.5)
    asleep = max((life.sleeps_until for service in world.services.values() for life in service.lives.values()), default=0.0)
    await asyncio.sleep(max(0.0, asleep - asyncio.get_running_loop().time()) + 0.5)  # Who wakes late does no harm any more.
    if not world.failures and (left := list(unrest(world))):
        world.fail(f"rest did not last: {'; '.join(left)}")


def _note(world: World) -> None:
    """Situations that a run is for."""
    deciding = world.services[DECIDING].database
    world.happened["parked"] += len(deciding.rows("parked"))
    world.happened["parked behind"] += sum(row["error_class"] == "behind" for row in deciding.rows("parked"))
    world.happened["published again"] += sum(len(service.topic.records) > len(service.store.records) for service in world.services.values())
    world.happened["closed in time"] += sum(each.type == "simulated.closed" for each in world.services[DECIDING].store.records)


# -- what happens to topics and processes

Accident = Callable[[World, Service], None]

STRANGER: Final = Raw(0, [("who", b"a stranger")], b"{}", b"key")


async def _accidents(world: World) -> None:
    for _ in range(world.chance.choice((0, 1, 2, 3, 5))):
        await asyncio.sleep(world.chance.uniform(0.1, 1.5))
        accident = world.chance.choice(ACCIDENTS)
        service = world.chance.choice(list(world.services.values()))
        name = accident.__name__.strip("_").replace("_", " ")
        world.network.say(f"** {service.name}: {name}")
        world.happened[name] += 1
        accident(world, service)


def _topic_wiped(_world: World, service: Service) -> None:
    service.topic.put(0, (), instead_of=len(service.topic.records))


def _topic_deleted(world: World, service: Service) -> None:
    """Until a relay makes it again."""
    _topic_wiped(world, service)
    service.topic.is_there = False


def _tail_cut(world: World, service: Service) -> None:
    count = len(service.topic.records)
    at = world.chance.randint(0, count)
    service.topic.put(at, (), instead_of=count)
    _none_of_ours(service)


def _record_withheld(world: World, service: Service) -> None:
    if before := service.topic.records:
        service.topic.put(world.chance.randrange(len(before)), (), instead_of=1)
        _made_anew(service, before)


def _made_anew(service: Service, before: Sequence[Raw]) -> None:
    """A topic is rewritten by making it anew, and its records then lie elsewhere than `before`; by that the relay sees it.

    Were the last one that it has read, or a copy of it, where it was, it would go on from there. What is amiss before it is then found by
    `verify`, and by whoever reads the topic from its start.
    """
    service.topic.put(0, [STRANGER] * 7)
    while any(
        list(one.headers) == list(other.headers) != STRANGER.headers for one, other in zip(before, service.topic.records, strict=False)
    ):
        service.topic.put(0, [STRANGER])
    _none_of_ours(service)


def _none_of_ours(service: Service) -> None:
    """A topic with strangers only is somebody else's, and no relay of ours touches it."""
    if all(each.headers == STRANGER.headers for each in service.topic.records):
        service.topic.put(0, (), instead_of=len(service.topic.records))


def _bad_copy(world: World, service: Service) -> None:
    """One bit of a payload is another one."""
    if before := service.topic.records:
        at = world.chance.randrange(len(before))
        record = before[at]
        value = bytearray(record.value or b"")
        value[world.chance.randrange(len(value))] ^= 1 << world.chance.randrange(8)
        service.topic.put(at, [replace(record, value=bytes(value))], instead_of=1)
        _made_anew(service, before)


def _page_repeated(world: World, service: Service) -> None:
    records = service.topic.records
    at = world.chance.randint(0, len(records))
    service.topic.append(records[at : at + world.chance.randint(1, 6)])


def _stranger_between(world: World, service: Service) -> None:
    """A record that no relay of ours has written; not at the end, where readers hold it for the next one, damaged, until that comes."""
    if len(before := service.topic.records) > 1:
        service.topic.put(world.chance.randint(1, len(before) - 1), [STRANGER])
        _made_anew(service, before)


def _second_owner(world: World, service: Service) -> None:
    """Another worker that takes itself for the owner of every role."""
    if f"{service.name}-worker-2" not in service.lives:
        world.start_worker(service, f"{service.name}-worker-2")


def _worker_killed(world: World, service: Service) -> None:
    world.kill(service.lives[f"{service.name}-worker"])


def _worker_asleep(world: World, service: Service) -> None:
    service.lives[f"{service.name}-worker"].sleep(world.chance.uniform(0.5, 15.0))


def _clock_stepped(world: World, service: Service) -> None:
    for life in service.lives.values():
        life.clock_seconds = world.chance.uniform(-20.0, 20.0)


def _clock_strobing(_world: World, service: Service) -> None:
    service.clock_strobes = True


def _database_restarted(_world: World, service: Service) -> None:
    for life in service.lives.values():
        for each in life.cut_off:
            each()


ACCIDENTS: Final[Sequence[Accident]] = (
    _topic_wiped,
    _topic_deleted,
    _tail_cut,
    _record_withheld,
    _bad_copy,
    _page_repeated,
    _stranger_between,
    _second_owner,
    _second_owner,
    _worker_killed,
    _worker_asleep,
    _clock_stepped,
    _clock_strobing,
    _database_restarted,
)
