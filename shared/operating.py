"""The operator's commands of every service: doctor, verification, recovery, states of the log, pauses of roles, the refusal log, logins."""

import asyncio
import getpass
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, Final
from uuid import UUID

import typer

from shared import acls, erasures, states
from shared.access import grants, logins
from shared.application import Claims
from shared.audit.heads import ReadsFileError, append, head_of, read_file
from shared.codec import Codec
from shared.consumer.figures import LOOK_SECONDS, Compared, compare
from shared.consumer.values import Consumers
from shared.contracts.topics import EVENTS, UPCASTERS
from shared.credentials import AccessError
from shared.doctor import Line, Patient, examine
from shared.eventstore.refusals import ROWS, ROWS_MAX, Wanted, list_refusals
from shared.kafka import LOST_ERRORS
from shared.migrate import MigrationSet, roles_at, roles_of
from shared.postgres import ABSENT, Connection, connect, open_pool
from shared.privacy import PersonalKeys
from shared.privacy.keyfile import KeyFile, write_secret
from shared.recover import RecoverError, Recovery, recover
from shared.settings import Settings
from shared.states import Because, StateError
from shared.verify import verify

STATEMENT_SECONDS_MAX: Final = 120.0
_ROW: Final = "{:<12}{:<14}{:>10}{:>12}{:>12}  {}"

Run = Callable[[Callable[[Settings], Coroutine[Any, Any, None]]], None]
"""Runs one command with the settings that were read for it."""

Reason = Annotated[str, typer.Option(help="Why; kept with the change.")]
By = Annotated[str, typer.Option(help="Who changes it; kept with the change.", default_factory=getpass.getuser)]


@dataclass(frozen=True, slots=True)
class Operated:
    """What these commands need of a service."""

    consumers: Consumers[Any]
    claims: Claims
    migrations: Sequence[MigrationSet]

    @property
    def name(self) -> str:
        """The service."""
        return self.consumers.service


def add_commands(app: typer.Typer, operated: Operated, run: Run) -> None:
    """Adds them to the command line of a service."""
    service = operated.name

    @app.command()
    def doctor(
        free_gb: Annotated[float | None, typer.Option(help="What is free on the database's disk, for the forecast.")] = None,
    ) -> None:
        """Look at everything the service stands on: one line each, ok, warn or bad, with what to do; exit code 1 when anything is bad."""
        run(lambda settings: _doctor(operated, settings, free_gb))

    @app.command()
    def reconcile(
        within: Annotated[float, typer.Option(help="Seconds to wait until both stand at the same position.")] = 60.0,
    ) -> None:
        """Hold what this service counts of the others' logs against their own count: exit code 1 when anything differs, 2 when something
        could not be compared. Changes nothing.
        """
        run(lambda settings: _reconcile(operated, settings, within))

    @app.command(name="verify")
    def verify_() -> None:
        """Hold the log, its seals and Kafka against one another, byte by byte; exit code 1 when anything differs. Changes nothing."""
        run(lambda settings: _verify(service, settings))

    @app.command(name="recover")
    def recover_(
        reason: Reason,
        by: By,
        accept_loss: Annotated[bool, typer.Option(help="Open although Kafka has lost a tail others may have read.")] = False,
    ) -> None:
        """Bring a log that was restored from an older copy up to what Kafka holds of it, and open it. Stop its processes first."""
        run(lambda settings: _recover(operated, settings, Because(by, reason), accept_loss=accept_loss))

    @app.command()
    def refusals(
        code: Annotated[str | None, typer.Option(help="Only with this code.")] = None,
        command: Annotated[str | None, typer.Option(help="Only of this command, e.g. enroll.")] = None,
        unit: Annotated[str | None, typer.Option(help="Only asked for this unit.")] = None,
        person: Annotated[UUID | None, typer.Option(help="Only asked by this person.")] = None,
        correlation_id: Annotated[UUID | None, typer.Option(help="Only in the course of this request.")] = None,
        limit: Annotated[int, typer.Option(min=1, max=ROWS_MAX)] = ROWS,
    ) -> None:
        """The commands that were refused, newest first: when, why, which, for which unit, by whom (a pseudonym)."""
        wanted = Wanted(code, command, unit, person, correlation_id)
        run(lambda settings: with_owner(service, settings, lambda connection: _refusals(connection, wanted, limit)))

    _add_acls(app, run)
    _add_erasures(app, operated, run)
    _add_logins(app, service, run)
    reads = typer.Typer(no_args_is_help=True, help="The chain of reads of personal data.")
    app.add_typer(reads, name="reads")

    @reads.command()
    def publish() -> None:
        """Say how far the chain goes, with its hash, and add that to the file outside the database (setting READS_FILE) if there is one."""
        run(lambda settings: with_owner(service, settings, lambda connection: _publish_reads(connection, service, settings)))

    log = typer.Typer(no_args_is_help=True, help="The state of the log.")
    app.add_typer(log, name="log")

    @log.command()
    def status() -> None:
        """State, positions, paused roles, and the last changes with who and why."""
        run(lambda settings: with_owner(service, settings, _status))

    @log.command(name="open")
    def open_(reason: Reason, by: By) -> None:
        """Open a log that was made read-only. One that waits for `recover` is opened by that."""
        run(lambda settings: _changing(service, settings, lambda c: states.set_open(c, Because(by, reason))))

    @log.command(name="read-only")
    def read_only(reason: Reason, by: By) -> None:
        """Close the log: commands get 503 `log_closed`, everything else goes on."""
        run(lambda settings: _changing(service, settings, lambda c: states.set_read_only(c, Because(by, reason))))

    role = typer.Typer(no_args_is_help=True, help="Roles of the workers: relay, views, inbox, withdrawals.")
    app.add_typer(role, name="role")

    @role.command()
    def pause(name: str, reason: Reason, by: By) -> None:
        """Let no worker hold a role until it is resumed; whoever holds it gives it up within seconds."""
        run(lambda settings: _changing(service, settings, lambda c: states.pause_role(c, name, Because(by, reason))))

    @role.command()
    def resume(name: str, reason: Reason, by: By) -> None:
        """Let the workers take a role again."""
        run(lambda settings: _changing(service, settings, lambda c: states.resume_role(c, name, Because(by, reason))))


def _add_acls(app: typer.Typer, run: Run) -> None:
    rights = typer.Typer(no_args_is_help=True, help="Who may do what on Kafka: each service its own, and one user makes topics.")
    app.add_typer(rights, name="acls")

    @rights.command(name="print")
    def print_() -> None:
        """The rights of all users as lines for kafka-acls.sh."""
        run(_print_acls)

    @rights.command(name="apply")
    def apply_() -> None:
        """Give the users their rights and take away what else they have; as the cluster's administrator (settings KAFKA_USER, ...)."""
        run(_apply_acls)


async def _print_acls(settings: Settings) -> None:
    for line in acls.tool_lines(settings.topic_prefix):
        typer.echo(line)


async def _apply_acls(settings: Settings) -> None:
    try:
        done = await acls.apply(settings.kafka, settings.topic_prefix)
    except AccessError:
        raise
    except LOST_ERRORS as error:
        typer.echo(f"Kafka did not answer ({type(error).__name__}); run again", err=True)
        raise typer.Exit(1) from None
    for entries, told in ((done.given, "given"), (done.taken, "taken away"), (done.others, "left, not one of ours")):
        for each in entries:
            typer.echo(f"{told}: {each}")
    typer.echo(f"{len(done.given)} given, {len(done.taken)} taken away")


def _add_erasures(app: typer.Typer, operated: Operated, run: Run) -> None:
    service = operated.name
    erasing = typer.Typer(no_args_is_help=True, help="Who was erased: under way, and in a list outside the database.")
    app.add_typer(erasing, name="erasures")

    @erasing.command(name="list")
    def list_() -> None:
        """The erasures under way: by state, since when, of whom (a random id)."""
        run(lambda settings: with_owner(service, settings, _erasures_under_way))

    @erasing.command()
    def export() -> None:
        """Bring the list outside the database (setting ERASURES_FILE) up to the database."""
        run(lambda settings: with_owner(service, settings, lambda connection: _export_erasures(connection, service, settings)))

    @erasing.command(name="apply")
    def apply_() -> None:
        """Destroy again the keys of who stands in the list and was brought back by an older copy; `recover` does it too."""
        run(lambda settings: _apply_erasures(operated, settings))


def _add_logins(app: typer.Typer, service: str, run: Run) -> None:
    giving = typer.Typer(no_args_is_help=True, help="SQL logins of admins, each of whom sees the rows of its units.")
    app.add_typer(giving, name="logins")

    @giving.command(name="list")
    def list_() -> None:
        """Every login: which units it sees (* is every unit), until when its password lasts, its open connections."""
        run(lambda settings: with_owner(service, settings, _list_logins))

    @giving.command()
    def locks() -> None:
        """Print what a superuser runs once in the service's database, so that no login can hold up the service."""
        run(lambda settings: with_owner(service, settings, _print_locks))

    @giving.command()
    def add(
        password_file: Annotated[Path, typer.Option(help="Where to write the new password; the file must not be there.")],
        reason: Reason,
        by: By,
        unit: Annotated[list[str] | None, typer.Option(help="Code of a unit whose rows it sees; may be given again.")] = None,
        all_units: Annotated[bool, typer.Option("--all-units", help="It sees every unit: for the bureau and auditors.")] = False,
        name: Annotated[str | None, typer.Option(help="Its name, instead of one made of the unit's code.")] = None,
        days: Annotated[int, typer.Option(min=1, max=logins.DAYS_MAX, help="How long its password lasts.")] = logins.DAYS,
    ) -> None:
        """Make a login that reads schema api, or give one that is there a new password and exactly these units."""
        if bool(unit) == all_units:
            raise typer.BadParameter("say --unit, once for each, or --all-units")
        units = None if all_units else sorted(set(unit or ()))
        because = Because(by, reason)
        if password_file.exists():
            raise typer.BadParameter(f"{password_file.name} is there already, and nothing was changed")
        run(lambda settings: with_owner(service, settings, lambda c: _add_login(c, name, units, password_file, days, because)))

    @giving.command()
    def remove(name: str, reason: Reason, by: By) -> None:
        """Forget a login: it sees nothing from then on, and cannot connect again."""
        run(lambda settings: with_owner(service, settings, lambda connection: _remove_login(connection, name, Because(by, reason))))


async def _print_locks(connection: Connection) -> None:
    typer.echo(grants.locks(await roles_of(connection)))


async def _list_logins(connection: Connection) -> None:
    for row in await logins.listed(connection):
        until = f"{row['valid_until']:%Y-%m-%d}" if row["valid_until"] else "no role of that name"
        typer.echo(f"{row['name']}  units={row['units']}  until={until}  connections={row['connections']}")


async def _add_login(
    connection: Connection, name: str | None, units: Sequence[str] | None, file: Path, days: int, because: Because
) -> None:
    roles = await roles_of(connection)
    login = logins.Login(name or logins.name_of(roles, units), units)
    until, password = datetime.now(UTC) + timedelta(days=days), logins.new_password()
    try:
        async with connection.transaction():
            before = await logins.add(connection, roles, login, password, until)
            sees = logins.words([None] if units is None else list(units))
            await states.note(connection, because, f"login {login.name}", before, sees)
            write_secret(file, password + "\n")
    except OSError as error:
        raise StateError(f"{file.name} could not be written ({type(error).__name__}), and nothing was changed") from None
    typer.echo(f"{login.name} sees {sees} until {until:%Y-%m-%d}; its password is in {file.name}")


async def _remove_login(connection: Connection, name: str, because: Because) -> None:
    async with connection.transaction():
        before = await logins.remove(connection, name)
        await states.note(connection, because, f"login {name}", before, "none")
    typer.echo(f"{name} is forgotten")


async def _doctor(operated: Operated, settings: Settings, free_gb: float | None) -> None:
    dsn = settings.dsn
    bad = False
    try:
        connection = await connect(dsn, f"{operated.name} doctor", default_transaction_read_only="on")
    except ABSENT as error:
        typer.echo(Line("bad", "database", f"could not be reached ({type(error).__name__}): is it running, and is the address right?"))
        raise typer.Exit(1) from None
    try:
        roles = await roles_of(connection)
        async with open_pool(dsn, f"{operated.name} doctor", 1, role=roles.app) as pool:
            patient = Patient(
                connection=connection,
                pool=pool,
                roles=roles,
                service=operated.name,
                servers=settings.kafka,
                prefix=settings.topic_prefix,
                key=KeyFile(settings.key_file),
                migrations=operated.migrations,
                projections=operated.consumers.projections,
                erasures_file=settings.erasures_file,
                reads_file=settings.reads_file,
                free_gb=free_gb,
            )
            async for line in examine(patient):
                typer.echo(line)
                bad = bad or line.level == "bad"
    finally:
        connection.terminate()
    if bad:
        raise typer.Exit(1)


async def _reconcile(operated: Operated, settings: Settings, within: float) -> None:
    dsn, name, until = settings.dsn, f"{operated.name} reconcile", monotonic() + within
    try:
        async with open_pool(dsn, name, 1, role=(await roles_at(dsn)).app, statement_seconds=STATEMENT_SECONDS_MAX) as pool:
            found = await compare(pool, operated.consumers)
            while any(each.difference is None for each in found) and monotonic() < until:
                await asyncio.sleep(LOOK_SECONDS)
                found = await compare(pool, operated.consumers)
    except ABSENT as error:
        typer.echo(f"not compared: the database did not answer ({type(error).__name__}); run again", err=True)
        raise typer.Exit(2) from None
    typer.echo(_ROW.format("figure", "of", "position", "here", "there", ""))
    for each in found:
        here, there = ("-" if counted is None else counted.total for counted in (each.here, each.place.there))
        typer.echo(_ROW.format(each.figure.name, each.figure.source, each.place.position, here, there, _result(each)))
    if any(each.difference for each in found):
        raise typer.Exit(1)
    if any(each.difference is None for each in found):
        raise typer.Exit(2)


def _result(compared: Compared) -> str:
    if compared.difference is None:
        return f"not compared: {compared.place.hindered}"
    return f"DIFFERS by {compared.difference}" if compared.difference else "same"


async def _publish_reads(connection: Connection, service: str, settings: Settings) -> None:
    head = await head_of(connection)
    if head is None:
        typer.echo("nobody has read personal data yet")
        return
    typer.echo(f"{service}: {head.number} reads, {head.hash}")
    if settings.reads_file is not None:
        try:
            append(settings.reads_file, service, head, datetime.now(UTC))
        except ReadsFileError as error:
            raise StateError(str(error)) from None
        typer.echo(f"added to {settings.reads_file.name}")


async def _verify(service: str, settings: Settings) -> None:
    dsn = settings.dsn
    try:
        published = [] if settings.reads_file is None else read_file(settings.reads_file, service)
    except ReadsFileError as error:
        typer.echo(f"not verified: {error}", err=True)
        raise typer.Exit(2) from None
    connection = await connect(dsn, f"{service} verify", statement_seconds=STATEMENT_SECONDS_MAX, default_transaction_read_only="on")
    try:
        found = await verify(connection, service, settings.kafka, settings.topic_prefix, lambda line: typer.echo(line, err=True), published)
    except (*LOST_ERRORS, *ABSENT) as error:
        typer.echo(f"not verified: Kafka or the database did not answer ({type(error).__name__}); run again", err=True)
        raise typer.Exit(2) from None
    finally:
        connection.terminate()
    chain = found.reads
    if chain is not None and chain.broken_at is not None:
        typer.echo(f"reads of personal data: number {chain.broken_at}: {chain.what}")
    for line in (*found.differences, *found.notes):
        typer.echo(line)
    result = f"{len(found.differences)} differences" if found.differences else "nothing differs"
    typer.echo(f"{result}: {found.events} events in the log, {found.records} records in the topic")
    if chain is not None:
        whole = f"{chain.rows} in an unbroken chain, as it was published up to number {chain.agreed}"
        typer.echo(f"reads of personal data: {whole}" if chain.broken_at is None else "their chain is broken")
    if found.differences or (chain is not None and chain.broken_at is not None):
        raise typer.Exit(1)


async def _recover(operated: Operated, settings: Settings, because: Because, *, accept_loss: bool) -> None:
    dsn, key = settings.dsn, KeyFile(settings.key_file)
    connection = await connect(dsn, f"{operated.name} recover", statement_seconds=STATEMENT_SECONDS_MAX)
    try:
        async with open_pool(dsn, f"{operated.name} recover", 1, role=(await roles_of(connection)).app) as pool:
            recovery = Recovery(
                connection=connection,
                service=operated.name,
                servers=settings.kafka,
                prefix=settings.topic_prefix,
                codec=Codec(EVENTS, UPCASTERS),
                keys=PersonalKeys(pool, key, cipher=settings.cipher),
                claims=operated.claims,
                because=because,
                say=typer.echo,
                accept_loss=accept_loss,
                erase_again=None if settings.erasures_file is None else partial(_erase_again, operated, settings),
            )
            done = await recover(recovery)
    except (RecoverError, StateError, erasures.ErasureListError) as error:
        typer.echo(f"the log stays closed: {error}", err=True)
        raise typer.Exit(1) from None
    except LOST_ERRORS as error:
        typer.echo(f"the log stays closed: Kafka or the database did not answer ({type(error).__name__}); run again", err=True)
        raise typer.Exit(1) from None
    finally:
        await connection.close(timeout=5)
    typer.echo(f"open at position {done.head}: the copy held {done.restored_head}, {done.head - done.restored_head} came back from Kafka")
    if done.lost:
        typer.echo(f"lost: {done.lost} events after position {done.head} were acknowledged and had not reached Kafka")
    for person in done.without_keys:
        typer.echo(f"key lost, sealed fields read null, claims not rebuilt: {person}")


async def _erasures_under_way(connection: Connection) -> None:
    for row in await connection.fetch(_UNDER_WAY):
        typer.echo(f"{row['state']:<10} since {row['since']:%Y-%m-%d %H:%M}  {row['subject']}")


async def _export_erasures(connection: Connection, service: str, settings: Settings) -> None:
    path = _erasures_file(settings)
    try:
        listed, fresh = await erasures.export(connection, service, path)
    except erasures.ErasureListError as error:
        raise StateError(str(error)) from None
    typer.echo(f"{path.name} lists {listed} erased persons, {fresh} of them new")


async def _apply_erasures(operated: Operated, settings: Settings) -> None:
    try:
        await _erase_again(operated, settings)
    except erasures.ErasureListError as error:
        typer.echo(error, err=True)
        raise typer.Exit(1) from None


async def _erase_again(operated: Operated, settings: Settings) -> None:
    dsn, path = settings.dsn, _erasures_file(settings)
    async with open_pool(dsn, f"{operated.name} erasures", 1, role=(await roles_at(dsn)).app) as pool, pool.acquire() as connection:
        keys, codec = PersonalKeys(pool, KeyFile(settings.key_file)), Codec(EVENTS, UPCASTERS)
        again = await erasures.apply(connection, keys, operated.consumers, codec, path)
    for person in again:
        typer.echo(f"erased again: {person}")
    typer.echo(f"{len(again)} persons of {path.name} had come back")


def _erasures_file(settings: Settings) -> Path:
    if settings.erasures_file is None:
        typer.echo("the setting ERASURES_FILE says where the list is, and is not there", err=True)
        raise typer.Exit(2)
    return settings.erasures_file


_UNDER_WAY: Final = "SELECT subject, state, since FROM consumer.erasure WHERE state IN ('requested', 'erased') ORDER BY since"


async def _refusals(connection: Connection, wanted: Wanted, limit: int) -> None:
    for row in await list_refusals(connection, wanted, limit):
        _print(row)


async def with_owner(name: str, settings: Settings, work: Callable[[Connection], Awaitable[None]]) -> None:
    """Does something as the database's owner; what it refuses is a sentence, not a traceback."""
    connection = await connect(settings.dsn, f"{name} operator")
    try:
        await work(connection)
    except (StateError, logins.LoginError) as error:
        typer.echo(error, err=True)
        raise typer.Exit(1) from None
    finally:
        await connection.close(timeout=5)


async def _changing(name: str, settings: Settings, change: Callable[[Connection], Awaitable[None]]) -> None:
    async def work(connection: Connection) -> None:
        await change(connection)
        _print(await states.status(connection))

    await with_owner(name, settings, work)


async def _status(connection: Connection) -> None:
    _print(await states.status(connection))
    for each in await states.changes(connection):
        what = f"{each['subject']}: {each['was']} -> {each['becomes']}"
        typer.echo(f"{each['at']:%Y-%m-%d %H:%M:%S}  {what}  by {each['who']}: {each['reason']}")


def _print(row: Mapping[str, Any]) -> None:
    typer.echo("  ".join(f"{name}={value}" for name, value in row.items()))
