"""One run: three services with their processes, clients that ask, accidents; and then peace, in which all of it has to come to rest."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg

from shared import deadlines, kafka
from shared.application import UseCase
from shared.codec import Codec
from shared.consumer import apply
from shared.consumer.apply import Consumer, Part
from shared.consumer.inbox import Reactor, deadline_fold
from shared.consumer.setting import Kafka, Setting
from shared.consumer.shell import Subscription, insist
from shared.consumer.values import Consumers
from shared.envelope import CHAIN_START, Record, Stream
from shared.errors import StoreUnavailableError, StreamConflictError
from shared.eventstore.submit import Commands
from shared.eventstore.values import Answer, AppendRequest, AppendResult, FingerprintMismatch, Head, Past
from shared.metrics import Metrics
from shared.permissions import Actor, Role
from shared.relay import shell as relay
from shared.testing.keys import MemoryKeys
from shared.testing.store import MemoryStore
from tests.simulation import programme
from tests.simulation.broker import Broker, Raw, Topic, said_by
from tests.simulation.database import Database, Pool, Row, Session
from tests.simulation.loop import BEGIN, Life
from tests.simulation.network import Network
from tests.simulation.programme import CODEC, DECIDING, NO_CLAIMS, SOURCE_CODEC, SOURCES, TYPES

PEACE_SECONDS_MAX: Final = 120.0
"""After the last accident everything is at rest by then, or the run fails."""
PATIENCE_SECONDS: Final = 5.0
"""So long a client waits for an answer."""
HEARD_SHARE: Final = 0.8
"""Of the notifications after an append."""
METRICS: Final = {name: Metrics(name, "simulation") for name in (*SOURCES, DECIDING)}
ACTOR: Final = Actor(UUID(int=7), Role.SYSTEM, "")
_BEGIN: Final = datetime(2017, 3, 5, tzinfo=UTC)


class LostError(Exception):
    """The process that was asked is gone, or does not answer."""


@dataclass(eq=False)
class Service:
    """A service: its database, the log in it, its topic, and its processes by name."""

    name: str
    codec: Codec
    store: MemoryStore
    database: Database
    topic: Topic
    lives: dict[str, Life] = field(default_factory=dict)
    apis: dict[str, Commands[Any]] = field(default_factory=dict)
    clock_strobes: bool = False
    """Whether its clocks are wrong in another way each time they are asked."""
    ears: list[Callable[..., None]] = field(default_factory=list)
    """Who is told of an append, if the word is not lost."""
    expected: list[tuple[bytes, Any]] = field(default_factory=list)
    """The log as it is to be published: payload and headers of each record; `digest` is the chain's at its end."""
    digest: bytes = CHAIN_START


@dataclass
class Asked:
    """A command of a client, and what it was answered, each time."""

    service: str
    use_case: UseCase[Any, Any]
    body: programme.Seat
    stream: UUID
    command_id: UUID
    answers: list[Answer] = field(default_factory=list)


class RemoteStore:
    """AnsweringStore: the one in memory, over the network."""

    def __init__(self, service: Service, network: Network) -> None:
        self._service = service
        self._store = service.store
        self._network = network

    @property
    def service(self) -> str:
        return self._service.name

    async def _call(self, what: str, effect: Callable[[], Awaitable[Any]]) -> Any:
        return await self._network.call(f"{self.service} {what}", effect, lambda: StoreUnavailableError("lost"))

    async def append(self, request: AppendRequest) -> AppendResult:
        result: AppendResult = await self._call("append", lambda: self._store.append(request))
        for ear in self._service.ears:
            if self._network.chance.random() < HEARD_SHARE:
                ear()
        return result

    async def read_stream(self, stream: Stream, after_version: int = 0, limit: int | None = None) -> Sequence[Record]:
        records: Sequence[Record] = await self._call("read_stream", lambda: self._store.read_stream(stream, after_version, limit))
        return records

    async def history(self, stream: Stream, after_version: int) -> Sequence[Past]:
        history: Sequence[Past] = await self._call("history", lambda: self._store.history(stream, after_version))
        return history

    async def read_page(self, after_position: int, limit: int) -> Sequence[Record]:
        records: Sequence[Record] = await self._call("read_page", lambda: self._store.read_page(after_position, limit))
        return records

    async def head(self) -> Head:
        head: Head = await self._call("head", self._store.head)
        return head

    async def refuse_closed(self) -> None:
        await self._call("refuse_closed", self._store.refuse_closed)

    async def answer_of(self, command_id: UUID, fingerprint: bytes | None = None) -> Answer | FingerprintMismatch | None:
        answer: Answer | FingerprintMismatch | None = await self._call("answer_of", lambda: self._store.answer_of(command_id, fingerprint))
        return answer


class Reading(Subscription):
    """The shell of a reader with aiokafka's consumer in place of FastStream's; what becomes of a batch is the product's."""

    happened: Counter[str]

    async def _connected(self) -> None:
        offset = await insist(self._reader.begin, self._stop, self._metrics, "begin")
        self._failed = asyncio.get_running_loop().create_future()
        consumer: Any = await kafka.start_consumer(self._servers, self._group_id, self._place.topic)
        self._consumer = consumer
        looking = asyncio.ensure_future(self._look_again())
        try:
            consumer.seek(self._place, offset)
            self._read_to, self._gap = offset, False
            while not (self._stop.is_set() or self._failed.done()):
                found = await consumer.getmany(self._place, timeout_ms=1000, max_records=500)
                if self._place in found:
                    await self._handle(found[self._place])
                    self.happened["gap"] += self._gap
            if self._failed.done():
                self._failed.result()
        finally:
            looking.cancel()
            self._consumer = None
            if not self._failed.cancel():
                self._failed.exception()


class _Ears:
    """The connection that listens for appends."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._heard: list[Callable[..., None]] = []

    def add_termination_listener(self, _gone: Callable[..., None]) -> None:
        return

    async def add_listener(self, _channel: str, heard: Callable[..., None]) -> None:
        self._heard.append(heard)
        self._service.ears.append(heard)

    def terminate(self) -> None:
        for each in self._heard:
            self._service.ears.remove(each)


async def ordered(*work: Coroutine[Any, Any, None]) -> None:
    """As `shell.together`, ending the others in a fixed order."""
    tasks = [asyncio.get_running_loop().create_task(each) for each in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if not task.cancelled():
            task.result()


class World:
    """Everything of one run. `failures` are broken promises, seen while it went on."""

    def __init__(self, network: Network, broker: Broker) -> None:
        self.network = network
        self.broker = broker
        self.chance: random.Random = network.chance
        self.happened = network.happened
        self.failures: list[str] = []
        self.asked: list[Asked] = []
        self.at_peace = False
        self.stop = asyncio.Event()
        self.services = {name: self._service(name) for name in (*SOURCES, DECIDING)}
        network.kill = self.kill

    def now(self) -> float:
        """Seconds since the run began."""
        return asyncio.get_running_loop().time() - BEGIN

    def fail(self, what: str) -> None:
        """A promise is broken."""
        self.failures.append(what)
        self.network.say(f"!! {what}")

    def uuid(self) -> UUID:
        """An id of this seed."""
        return UUID(int=self.chance.getrandbits(128), version=4)

    # -- services and their processes

    def _service(self, name: str) -> Service:
        store = MemoryStore(name)
        store.log_id = self.uuid()
        database = Database(store, self.now, programme.STATEMENTS)
        topic = self.broker.topic(f"{name}.events")
        service = Service(name, CODEC if name == DECIDING else SOURCE_CODEC, store, database, topic)
        database.on_commit = lambda table, before, after: self._look_at(name, table, before, after)
        database.on_unknown = lambda statement: self.fail(f"tests/simulation/database.py does not know what this does: {statement}")
        topic.before_append = lambda records: self._look_at_published(service, records)
        return service

    def _look_at(self, name: str, table: str, before: Row | None, after: Row | None) -> None:
        if table == "position" and before is not None:
            for place in ("applied", "reacted"):
                if after is None or after[place] < before[place]:
                    self.fail(f"{name}: {place} of {before['consumer']}/{before['log']} went back from {before[place]}")

    def _look_at_published(self, service: Service, records: Sequence[Raw]) -> None:
        sealed = max((row["position"] for row in service.database.rows("seal")), default=0)
        for each in records:
            if int(said_by(each)) > sealed:
                self.fail(f"{service.name}: {said_by(each)} is published and only {sealed} is sealed")

    def pool(self, service: Service, life: Life) -> Pool:
        """The connections of a process to its database."""

        async def call(what: str, effect: Callable[[], Awaitable[Any]], session: Session) -> Any:
            def lost() -> Exception:
                session.break_off()
                return self.chance.choice((asyncpg.ConnectionDoesNotExistError, ConnectionResetError, TimeoutError))("lost")

            return await self.network.call(f"{service.name} {what}", effect, lost)

        pool = Pool(service.database, call)

        def cut_off() -> None:
            for session in list(pool.sessions):
                session.break_off()

        life.cut_off.append(cut_off)
        return pool

    def commands(self, service: Service, life: Life, pool: Pool) -> Commands[Any]:
        """`submit` of a process, with a memory of its own."""

        async def clock() -> datetime:
            return self.wall_clock(service, life)

        keys = MemoryKeys()
        return Commands(RemoteStore(service, self.network), service.codec, keys, pool, NO_CLAIMS, clock, METRICS[service.name])

    def wall_clock(self, service: Service, life: Life) -> datetime:
        """What a process takes for the time of day."""
        wrong = life.clock_seconds + (self.chance.uniform(-2.0, 2.0) if service.clock_strobes else 0.0)
        return _BEGIN + timedelta(seconds=self.now() + wrong)

    def start_api(self, service: Service, name: str) -> None:
        """A process that takes commands."""
        life = service.lives[name] = Life(name)
        service.apis[name] = self.commands(service, life, self.pool(service, life))

    def start_worker(self, service: Service, name: str) -> None:
        """A process with all roles of a service."""
        life = service.lives[name] = Life(name)
        roles: list[Callable[[], Coroutine[Any, Any, None]]] = [lambda: self._relay(service, life)]
        if service.name == DECIDING:
            roles += [lambda: self._views(service, life), lambda: self._inbox(service, life)]
        for role in roles:
            life.start(self._stand(life, role))

    def kill(self, life: Life) -> None:
        """Ends a process; another takes its place, unless there is peace."""
        if life.is_dead:
            return
        life.end()
        self.network.say(f"{life.name:14} is dead")
        service = next(each for each in self.services.values() if life.name in each.lives)
        start = self.start_api if life.name in service.apis else self.start_worker
        if not (self.at_peace and life.name.endswith("-2")):
            asyncio.get_running_loop().call_later(self.chance.uniform(0.05, 2.0), start, service, life.name)

    async def _stand(self, life: Life, role: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Takes the role again whenever it was given up."""
        while not self.stop.is_set():
            try:
                await role()
            except (apply.FencedError, relay.FencedError):
                self.happened["fenced"] += 1
                self.network.say(f"{life.name:14} is fenced")
            except Exception as error:  # noqa: BLE001
                if not life.is_dead:
                    self.fail(f"{life.name} ended by {error!r}")
                return
            await asyncio.sleep(self.chance.uniform(0.02, 1.0))

    # -- the roles, of the product's own parts

    async def _relay(self, service: Service, life: Life) -> None:
        pool: Any = self.pool(service, life)
        store = RemoteStore(service, self.network)
        await relay.Relay(store, pool, service.name, "", "", METRICS[service.name]).run(self.stop)

    async def listen(self, dsn: str, _name: str) -> Any:
        """In place of `shared.postgres.connect`, for the relay's ears."""
        return _Ears(self.services[dsn])

    def parts(self, consumer: str) -> Sequence[Part]:
        """What a consumer of the deciding service does with each log."""
        made: list[Part] = []
        for source, types in TYPES.items():
            folds = [programme.told_by(consumer)]
            if consumer == "inbox" and source == DECIDING:
                folds.append(deadline_fold(programme.due))
            made.append(Part(consumer=consumer, source=source, types=types, folds=folds, codec=CODEC))
        return made

    def _reading(self, reader: Any, source: str) -> Reading:
        reading = Reading(reader, "", f"{source}.events", reader.name, self.stop, METRICS[DECIDING])
        reading.happened = self.happened
        return reading

    async def _views(self, service: Service, life: Life) -> None:
        pool: Any = self.pool(service, life)
        readers = [Consumer(part, pool, METRICS[DECIDING]) for part in self.parts("views")]
        await ordered(*(self._reading(each, each.part.source).run() for each in readers))

    async def _inbox(self, service: Service, life: Life) -> None:
        pool: Any = self.pool(service, life)
        commands = self.commands(service, life, pool)
        consumers: Consumers[Any] = Consumers(
            service=DECIDING,
            projections=(),
            look_ups=(),
            deadlines=programme.due,
            reactions=(programme.FOLLOW,),
            use_cases={each.name: each for each in (programme.CLOSE, programme.EXTEND)},
        )
        keys: Any = None
        setting = Setting(consumers=consumers, pool=pool, kafka=Kafka("", ""), codec=CODEC, keys=keys, metrics=METRICS[DECIDING])
        parts = self.parts("inbox")
        reading = {part.source: self._reading(Consumer(part, pool, METRICS[DECIDING]), part.source) for part in parts}

        async def caught_up(source: str) -> None:
            self.happened["waited for another log"] += 1
            await reading[source].caught_up()

        async def clock() -> datetime:
            return self.wall_clock(service, life)

        reactor = Reactor(parts[0], setting, commands.submit, pool, caught_up, self.stop)
        await ordered(
            *(each.run() for each in reading.values()),
            self._reading(reactor, parts[0].source).run(),
            deadlines.run(pool, consumers, commands.submit, clock, self.stop, METRICS[DECIDING]),
        )

    # -- clients

    async def ask(self, service: Service, commands: int) -> None:
        """One client: each command until it is answered, and some a second time."""
        for _ in range(commands):
            await asyncio.sleep(self.chance.expovariate(5.0))
            body = programme.Seat(number=len(self.asked) + 1, stumble=self.chance.choice(programme.STUMBLES))
            use_case = programme.TAKE if self.chance.random() < 0.7 else programme.FREE
            asked = Asked(service.name, use_case, body, programme.person(self.chance.randint(1, 3)), self.uuid())
            self.asked.append(asked)
            for _ in range(self.chance.choice((1, 1, 1, 2))):
                await self._until_answered(service, asked)

    async def _until_answered(self, service: Service, asked: Asked) -> None:
        while True:
            name = self.chance.choice(list(service.apis))
            try:
                answer = await self._ask_once(service.apis[name], service.lives[name], asked)
            except (StoreUnavailableError, StreamConflictError, LostError):
                self.happened["unknown"] += 1
                await asyncio.sleep(self.chance.expovariate(5.0))
                continue
            self.happened["refused"] += answer.outcome == "refused"
            self.happened["answered from before"] += answer.repeated
            asked.answers.append(answer)
            return

    async def _ask_once(self, commands: Commands[Any], life: Life, asked: Asked) -> Answer:
        if life.is_dead:
            raise LostError
        submitted = life.start(
            commands.submit(
                asked.use_case,
                asked.body,
                ids={"id": asked.stream},
                actor=ACTOR,
                command_id=asked.command_id,
                fingerprint=asked.body.model_dump_json().encode(),
                correlation_id=asked.command_id,
                causation_id=None,
                traceparent=None,
            )
        )
        done, _ = await asyncio.wait({submitted}, timeout=PATIENCE_SECONDS)
        if not done or submitted.cancelled():
            raise LostError  # It may go on all the same.
        answer: Answer = submitted.result()
        return answer

    # -- at the end

    def end(self) -> None:
        """Ends all processes."""
        self.stop.set()
        for service in self.services.values():
            for life in service.lives.values():
                life.end()
