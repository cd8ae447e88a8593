"""`python -m services.<service> api | worker | all | migrate | ...`: the processes of a service, put together from one value.

Nothing here knows a word of the domain: a service hands over its tables (`Service`), and what runs follows from them.
"""

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Generic, Literal, TypeVar
from uuid import UUID, uuid4

import asyncpg
import typer

from shared import VERSION, access, audit, consumer, custody, eventstore, logs, operating, privacy, rebuild, releasing, states
from shared.application import Claims, Command, UseCase
from shared.audit import noting
from shared.audit.heads import Publishing
from shared.clock import Clock
from shared.codec import Codec
from shared.consumer.figures import LOOK_SECONDS, Reconciliation
from shared.consumer.gauges import refresh
from shared.consumer.heads import follow_heads
from shared.consumer.inbox import reactors, run_inbox
from shared.consumer.schema import ensure_views, keep_looking
from shared.consumer.values import Consumers, Deadlines, Figure, LookUp, Projection, Reaction, no_deadlines, system_actor
from shared.consumer.views import run_views
from shared.consumer.waits import Waits
from shared.consumer.withdrawals import run_withdrawals
from shared.contracts.event import Event, RefusalText
from shared.contracts.topics import EVENTS, TOPICS, UPCASTERS
from shared.credentials import AccessError, why_not
from shared.envelope import Stream
from shared.eventstore.clock import log_clock
from shared.eventstore.refusals import forget_old_refusals
from shared.eventstore.store import PostgresStore, ensure_log, open_store
from shared.eventstore.submit import Commands
from shared.eventstore.values import Answer
from shared.http import accounts
from shared.http.accounts import Accounts
from shared.http.fields import CODES
from shared.http.personal import NOTHING_PERSONAL, Disclosing, Opened, PersonalData
from shared.http.probes import probes
from shared.http.query import Query, Views
from shared.http.serve import serve
from shared.kafka import LOST_ERRORS, ensure_topics
from shared.lifecycle import Heartbeat, eventually, every, keep_what_is_made, stop_on_signals
from shared.metrics import Metrics
from shared.migrate import MigrationSet, Roles, migrate, roles_at, roles_of
from shared.postgres import Connection, Pool, connect, open_pool
from shared.privacy import PersonalKeys
from shared.privacy.keyfile import KeyFile
from shared.relay import TRANSIENT, Relay
from shared.settings import Settings, SettingsError, read_secret, read_settings
from shared.worker import WorkerRole, stand_for

if TYPE_CHECKING:
    from shared.http.forms import Forms
    from shared.http.provider import Provider
    from shared.http.signin import SignIn

L = TypeVar("L")

Submitting = Callable[[Settings, Sequence[Command]], Awaitable[Sequence[Answer]]]
"""Submits commands in the service's own name, as an operator asks, one after the other."""

SIGNS_IN: Final = "registration"
"""The service at which people sign in."""
STORE_CONNECTIONS_MAX: Final = 6
READ_CONNECTIONS_MAX: Final = 6
WORKER_CONNECTIONS_MAX: Final = 8
COMPARE_SECONDS_MAX: Final = 10.0
BACKING_WITHIN_SECONDS: Final = 60.0
"""How long `migrate` waits for a database and a broker that are just starting."""
GAUGES_SECONDS: Final = 2.0
LEDGER_SECONDS: Final = 60.0
FORGET_SECONDS: Final = 3600.0
READS_SECONDS: Final = 10.0
"""How often a worker looks how far the chain of reads goes, to say it with the log's heads."""
CLOSE_SECONDS_MAX: Final = 5.0
DRAIN_PAUSE_SECONDS: Final = 0.5
"""Between taking the process out of readiness and closing its door."""

_ABSENT: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.InterfaceError,
    *LOST_ERRORS,
)
_log = logs.logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Service(Generic[L]):
    """Everything that makes a service this one: its tables, as `services/<name>/main.py` collects them.

    `look_up_reader` makes the object that use cases plan with, over a pool; `imbalance` is the sum of its ledger, where it keeps one;
    people sign in at the one with `signs_in`; `add_commands` adds what only operators of this service do to its command line.
    """

    name: str
    title_zh: str
    title_en: str
    events: Sequence[type[Event]]
    use_cases: Sequence[UseCase[Any, L]]
    refusals: Mapping[str, RefusalText]
    claims: Claims
    imports: frozenset[str]
    queries: Sequence[Query]
    projections: Sequence[Projection]
    api_sql: Path
    look_up_reader: Callable[[Pool], L]
    look_ups: Sequence[LookUp]
    deadlines: Deadlines = no_deadlines
    reactions: Sequence[Reaction[L]]
    figures: Sequence[Figure] = ()
    migrations: MigrationSet
    imbalance: Callable[[Connection], Awaitable[int]] | None = None
    signs_in: bool = False
    personal: PersonalData = NOTHING_PERSONAL
    add_commands: "Callable[[typer.Typer, operating.Run, Submitting], None] | None" = None

    @property
    def consumers(self) -> Consumers[L]:
        """The part that the consumers need."""
        return Consumers(
            service=self.name,
            projections=self.projections,
            look_ups=self.look_ups,
            deadlines=self.deadlines,
            reactions=self.reactions,
            use_cases={each.name: each for each in self.use_cases},
            figures=self.figures,
            forget=accounts.FORGET if self.signs_in else (),
        )


def main(service: Service[Any]) -> None:
    """The command line of a service. Ends the process."""
    command_line(service)()


def command_line(service: Service[Any]) -> typer.Typer:
    """Every command that a service has."""
    app = typer.Typer(
        add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=f"{service.name}: {service.title_en}"
    )

    def run(work: Callable[[Settings], Coroutine[Any, Any, None]]) -> None:
        logs.configure(service.name, VERSION)
        try:
            settings = read_settings(service.name)
            asyncio.run(work(settings))
        except (SettingsError, AccessError) as error:
            typer.echo(error, err=True)
            raise typer.Exit(2) from None

    @app.command()
    def api() -> None:
        """Serve commands, queries and the page."""
        run(lambda settings: _until_stopped(lambda stop: run_api(service, settings, stop, Metrics(service.name, VERSION))))

    @app.command()
    def worker() -> None:
        """Relay, projections, look-ups, reactions and deadlines."""
        run(lambda settings: _until_stopped(lambda stop: run_worker(service, settings, stop, Metrics(service.name, VERSION))))

    @app.command(name="all")
    def both() -> None:
        """`api` and `worker` in one process, for a small site."""
        run(lambda settings: _until_stopped(lambda stop: _run_all(service, settings, stop)))

    @app.command(name="migrate")
    def migrate_() -> None:
        """Bring the database to its newest schema and create the topics."""
        run(lambda settings: run_migrations(service, settings))

    rebuild.add_commands(app, rebuild.ReadModels(service.consumers, service.api_sql, service.imbalance), run)
    releasing.add_commands(app, releasing.Releasing(service.name, lambda settings: _at_hand(service, settings), _words(service)), run)
    operating.add_commands(app, operating.Operated(service.consumers, service.claims, _migration_sets(service)), run)
    custody.add_commands(app, service.name, run)
    if service.signs_in:

        @app.command(name="sign-in-link")
        def sign_in_link(person: Annotated[UUID, typer.Argument(help="The person's id.")]) -> None:
            """Print a link that signs a person in once, within the hour: the first time, or when a password was lost."""
            run(lambda settings: _print_link(service, settings, person))

    if service.add_commands is not None:
        service.add_commands(app, run, lambda settings, commands: _submitted(service, settings, commands))
    return app


async def run_api(service: Service[L], settings: Settings, stop: asyncio.Event, metrics: Metrics) -> None:
    """Serves until `stop` is set. Raises OSError when the port is taken."""
    # FastAPI and an HTTP client are half of what a process loads at its start: only who serves pays for them.
    import httpx

    from shared.http.api import Api
    from shared.http.app import build_app
    from shared.http.auth import Authenticator, own_issuer
    from shared.http.door import Door
    from shared.http.forms import Forms
    from shared.http.provider import Provider
    from shared.http.rates import Rates

    dsn = settings.dsn
    key = KeyFile(settings.key_file)
    roles = await _wait_for_database(dsn, stop)
    if roles is None:
        return
    async with (
        _pool(service.name, "store", dsn, STORE_CONNECTIONS_MAX, roles, metrics) as pool,
        _pool(service.name, "reads", dsn, READ_CONNECTIONS_MAX, roles, metrics) as reads,
        _engine(service, pool, settings, metrics, key) as engine,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        waits = Waits(engine.store, pool, service.reactions)
        provider = Provider(settings.oidc_issuer, client) if settings.oidc_issuer else None
        issuers = [own_issuer(settings.token_keys_file, settings.token_issuer)]
        issuers += [provider.as_issuer(settings.oidc_audience)] if provider else []
        forms = Forms(hmac.digest(key.ring.fingerprint_key, b"leifeng forms", sha256), _public_url(settings))
        await _compare_with_kafka(Relay(engine.store, pool, dsn, settings.kafka, settings.topic_prefix, metrics))
        api = Api(
            service=service.name,
            title_zh=service.title_zh,
            title_en=service.title_en,
            version=VERSION,
            use_cases=service.use_cases,
            refusals=service.refusals,
            queries=service.queries,
            events=service.events,
            submit=engine.commands.submit,
            store=engine.store,
            views=Views(reads, roles.query, waits.freshness, waits.parked, noting(pool)),
            waits=waits,
            door=Door(Authenticator(*issuers), waits.roles_of, waits.device_of, engine.clock),
            forms=forms,
            rates=Rates(
                per_address=settings.requests_per_minute_per_address,
                per_person=settings.requests_per_minute_per_person,
                proxies=settings.proxies,
            ),
            sign_in=_sign_in(service, settings, pool, provider, forms, waits),
            signs_in=SIGNS_IN,
            ready=lambda: _answers(pool),
            now=engine.clock,
            fingerprint_key=key.ring.fingerprint_key,
            metrics=metrics,
            siblings=settings.siblings,
            topic_prefix=settings.topic_prefix,
            imports=service.imports,
        )
        app = build_app(api, Disclosing(data=service.personal, note=noting(pool), open_=_opener(engine, service.personal)))
        keep_what_is_made()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(every(stop, GAUGES_SECONDS, "pools", lambda: _count_connections(metrics, store=pool, reads=reads)))
            tasks.create_task(keep_looking(pool, service.projections, metrics, stop))
            if provider is not None:
                tasks.create_task(provider.keep_fresh(stop))
            tasks.create_task(serve(app, settings.http_host, settings.http_port, stop, pause_seconds=DRAIN_PAUSE_SECONDS))
            await stop.wait()
            app.state.draining = True


def _sign_in(
    service: Service[Any], settings: Settings, pool: Pool, provider: "Provider | None", forms: "Forms", waits: Waits
) -> "SignIn | None":
    """The pages where people sign in, in the one service that has them and when it is given the key to sign tokens with."""
    from shared.http.signin import Client, SignIn
    from shared.http.signing import Signer

    if not service.signs_in or settings.token_signing_key_file is None:
        return None
    client = None
    if provider is not None and settings.oidc_client_id:
        secret = read_secret(settings.oidc_client_secret_file) if settings.oidc_client_secret_file else None
        client = Client(provider, settings.oidc_client_id, secret)
    signer = Signer(settings.token_signing_key_file, settings.token_issuer)
    return SignIn(Accounts(pool), signer, forms, client, waits.roles_of, settings.siblings)


async def run_worker(service: Service[L], settings: Settings, stop: asyncio.Event, metrics: Metrics) -> None:
    """Stands for the four roles until `stop` is set."""
    dsn = settings.dsn
    key = KeyFile(settings.key_file)
    heartbeat = Heartbeat()
    roles = await _wait_for_database(dsn, stop)
    if roles is None:
        return
    async with (
        _pool(service.name, "worker", dsn, WORKER_CONNECTIONS_MAX, roles, metrics) as pool,
        _engine(service, pool, settings, metrics, key) as engine,
    ):
        setting = _setting(service, engine, settings, pool, metrics)
        figures = Reconciliation(pool, service.consumers, metrics)
        reads = Publishing(pool, service.name, settings.reads_file)
        relay = Relay(engine.store, pool, dsn, settings.kafka, settings.topic_prefix, metrics, figures=figures.said, reads=reads.said)
        await _compare_with_kafka(relay)
        work = (
            WorkerRole("relay", relay.run),
            WorkerRole("views", lambda enough: run_views(setting, enough)),
            WorkerRole("inbox", lambda enough: run_inbox(setting, engine.commands.submit, engine.look_ups, engine.clock, enough)),
            WorkerRole("withdrawals", lambda enough: run_withdrawals(setting, enough)),
        )
        keep_what_is_made()
        probe = probes(metrics, alive=heartbeat.is_alive, ready=lambda: _answers(pool))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(heartbeat.run(stop))
            tasks.create_task(serve(probe, settings.http_host, settings.worker_port, stop))
            tasks.create_task(follow_heads(setting, stop))
            tasks.create_task(every(stop, GAUGES_SECONDS, "gauges", lambda: refresh(setting, engine.clock)))
            tasks.create_task(every(stop, GAUGES_SECONDS, "states", lambda: states.refresh(pool, metrics)))
            tasks.create_task(every(stop, GAUGES_SECONDS, "pools", lambda: _count_connections(metrics, worker=pool)))
            tasks.create_task(every(stop, LOOK_SECONDS, "figures", figures.look))
            tasks.create_task(every(stop, READS_SECONDS, "reads", reads.look))
            tasks.create_task(every(stop, FORGET_SECONDS, "refusals", lambda: forget_old_refusals(pool)))
            if service.imbalance is not None:
                tasks.create_task(every(stop, LEDGER_SECONDS, "ledger", lambda: _check_ledger(service, pool, metrics)))
            for role in work:
                tasks.create_task(stand_for(role, dsn, metrics, stop))


async def run_migrations(service: Service[L], settings: Settings) -> None:
    """Schemas, roles, log, views, topics. May be run again, and by two at once."""
    dsn = settings.dsn
    connection = await eventually("database", lambda: connect(dsn, f"{service.name} migrate"), _ABSENT, BACKING_WITHIN_SECONDS)
    try:
        await migrate_database(connection, service, settings.clock)
    finally:
        await connection.close(timeout=5)
    own = [each for each in TOPICS.values() if each.owner == service.name]
    try:
        await eventually("broker", lambda: ensure_topics(settings.kafka, settings.topic_prefix, own), _ABSENT, BACKING_WITHIN_SECONDS)
    except LOST_ERRORS as error:
        raise await why_not(settings.kafka) or error from None


async def migrate_database(connection: Connection, service: Service[Any], clock: Literal["system", "travel"]) -> None:
    """Schemas, roles, log and views of one service in one database; `connection` is the owner's. May be run again."""
    await migrate(connection, _migration_sets(service))
    await ensure_log(connection, service.name, clock)
    await ensure_views(connection, await roles_of(connection), service.projections, service.api_sql)


def _migration_sets(service: Service[Any]) -> Sequence[MigrationSet]:
    people = (accounts.MIGRATIONS,) if service.signs_in else ()
    return (
        eventstore.MIGRATIONS, access.MIGRATIONS, privacy.MIGRATIONS, audit.MIGRATIONS, consumer.MIGRATIONS, *people, service.migrations,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Engine(Generic[L]):
    store: PostgresStore
    codec: Codec
    keys: PersonalKeys
    look_ups: L
    clock: Clock
    commands: Commands[L]
    pool: Pool


@asynccontextmanager
async def _engine(service: Service[L], pool: Pool, settings: Settings, metrics: Metrics, key: KeyFile) -> AsyncIterator[_Engine[L]]:
    """What decides and appends: the same in both processes. It gives the pool back what the store's lane holds, however it ends."""
    store = await open_store(pool, service.name, metrics)
    codec = Codec(EVENTS, UPCASTERS)
    keys = PersonalKeys(pool, key, metrics, settings.cipher)
    look_ups = service.look_up_reader(pool)
    clock = log_clock(pool)
    commands = Commands(store, codec, keys, look_ups, service.claims, clock, metrics)
    try:
        yield _Engine(store, codec, keys, look_ups, clock, commands, pool)
    finally:
        await store.close()


def _opener(engine: _Engine[Any], data: PersonalData) -> Callable[[Stream], Coroutine[Any, Any, Opened | None]]:
    """The last word on each personal field of a person's stream, opened by the keys as they are in the database now."""

    async def open_(stream: Stream) -> Opened | None:
        records = await engine.store.read_stream(stream, 0)
        if not records:
            return None
        await engine.keys.load_with([stream.id], engine.pool)
        unit, fields = None, dict[str, str | None].fromkeys(data.fields)
        for record in records:
            event = engine.codec.decode(record, engine.keys.unseal)
            unit = getattr(event, "unit_code", unit)
            fields.update({name: value for name in fields if (value := getattr(event, name, None)) is not None})
        return Opened(unit, fields)

    return open_


async def _compare_with_kafka(relay: Relay) -> None:
    """Before this process appends anything: a log that Kafka is ahead of is closed. With Kafka away, the relay compares later."""
    try:
        async with asyncio.timeout(COMPARE_SECONDS_MAX):
            await relay.compare()
    except TRANSIENT as error:
        _log.warning("not_compared_with_kafka", error=type(error).__qualname__)


async def _run_all(service: Service[Any], settings: Settings, stop: asyncio.Event) -> None:
    metrics = Metrics(service.name, VERSION)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(run_api(service, settings, stop, metrics))
        tasks.create_task(run_worker(service, settings, stop, metrics))


async def _until_stopped(work: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    await work(stop_on_signals())


async def _wait_for_database(dsn: str, stop: asyncio.Event) -> Roles | None:
    """The roles of the database once it answers; None when the process is told to stop before."""
    while not stop.is_set():
        try:
            return await eventually("database", lambda: roles_at(dsn), _ABSENT, within_seconds=5.0)
        except _ABSENT as error:
            _log.warning("database_absent", error=type(error).__qualname__)
    return None


@asynccontextmanager
async def _pool(service: str, name: str, dsn: str, size: int, roles: Roles, metrics: Metrics) -> AsyncIterator[Pool]:
    """A pool whose end is waited for only so long, whatever became of its connections."""
    waited = metrics.db_pool_wait_seconds.labels(name).observe
    pool = await open_pool(dsn, f"{service} {name}", size, role=roles.app, waited=waited)
    try:
        yield pool
    except Exception as error:
        _log.error("process_fails", exc_info=_first(error))  # Now: what ends the process may be long in ending.
        raise
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS_MAX):
                await pool.close()  # Terminates what is left when time is up.


def _first(error: Exception) -> Exception:
    """What is inside of a group, however deep."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


async def _answers(pool: Pool) -> bool:
    await pool.fetchval("SELECT 1", timeout=1.0)
    return True


async def _count_connections(metrics: Metrics, **pools: Pool) -> None:
    for name, pool in pools.items():
        metrics.db_pool_connections.labels(name, "open").set(pool.get_size())
        metrics.db_pool_connections.labels(name, "idle").set(pool.get_idle_size())


async def _check_ledger(service: Service[Any], pool: Pool, metrics: Metrics) -> None:
    assert service.imbalance is not None
    async with pool.acquire(timeout=2.0) as connection:
        metrics.ledger_imbalance_minutes.set(await service.imbalance(connection))


def _setting(service: Service[Any], engine: _Engine[Any], settings: Settings, pool: Pool, metrics: Metrics) -> consumer.Setting:
    return consumer.Setting(
        consumers=service.consumers,
        pool=pool,
        kafka=consumer.Kafka(settings.kafka, settings.topic_prefix),
        codec=engine.codec,
        keys=engine.keys,
        metrics=metrics,
    )


def _words(service: Service[Any]) -> Mapping[str, frozenset[str]]:
    """By the name of a column, the codes that the service has words for."""
    said = {name: frozenset(words) for name, words in CODES.items()}
    for column in (column for query in service.queries for column in query.columns if column.words):
        said[column.name] = said.get(column.name, frozenset()) | frozenset(column.words or ())
    return said


async def _print_link(service: Service[Any], settings: Settings, person: UUID) -> None:
    dsn = settings.dsn
    async with open_pool(dsn, f"{service.name} operator", 1, role=(await roles_at(dsn)).app) as pool:
        key = await Accounts(pool).new_link(person)
    if key is None:
        typer.echo("the data of this person were erased: whoever they are now has another id", err=True)
        raise typer.Exit(1)
    typer.echo(f"{_public_url(settings)}/sign-in/link?key={key}")


def _public_url(settings: Settings) -> str:
    return settings.public_url.rstrip("/") or f"http://{settings.http_host}:{settings.http_port}"


async def _submitted(service: Service[Any], settings: Settings, commands: Sequence[Command]) -> Sequence[Answer]:
    dsn, metrics = settings.dsn, Metrics(service.name, VERSION)
    async with (
        open_pool(dsn, f"{service.name} operator", 2, role=(await roles_at(dsn)).app) as pool,
        _engine(service, pool, settings, metrics, KeyFile(settings.key_file)) as engine,
    ):
        await _compare_with_kafka(Relay(engine.store, pool, dsn, settings.kafka, settings.topic_prefix, metrics))
        return [
            await engine.commands.submit(
                each.use_case,
                each.body,
                ids=dict(each.ids),
                actor=system_actor(service.name),
                command_id=uuid4(),
                fingerprint=None,
                correlation_id=uuid4(),
                causation_id=None,
                traceparent=None,
            )
            for each in commands
        ]


@asynccontextmanager
async def _at_hand(service: Service[L], settings: Settings) -> AsyncIterator[releasing.AtHand]:
    """What an operator releases parked keys with."""
    dsn = settings.dsn
    metrics = Metrics(service.name, VERSION)
    async with (
        open_pool(dsn, f"{service.name} parked", READ_CONNECTIONS_MAX, role=(await roles_at(dsn)).app) as pool,
        _engine(service, pool, settings, metrics, KeyFile(settings.key_file)) as engine,
    ):
        setting = _setting(service, engine, settings, pool, metrics)

        async def caught_up(_source: str) -> None:
            """What is parked has been read: a row that lacks now is a fact."""

        yield releasing.AtHand(setting, reactors(setting, engine.commands.submit, engine.look_ups, caught_up, asyncio.Event()))
