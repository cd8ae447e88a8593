"""The operator's commands of every service: states of the log and pauses of roles."""

import getpass
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Annotated, Any

import typer

from shared import states
from shared.postgres import Connection, connect
from shared.settings import Settings
from shared.states import Because, StateError

Run = Callable[[Callable[[Settings], Coroutine[Any, Any, None]]], None]
"""Runs one command with the settings that were read for it."""

Reason = Annotated[str, typer.Option(help="Why; kept with the change.")]
By = Annotated[str, typer.Option(help="Who changes it; kept with the change.", default_factory=getpass.getuser)]


def add_commands(app: typer.Typer, service: str, run: Run) -> None:
    """Adds them to the command line of a service."""
    log = typer.Typer(no_args_is_help=True, help="The state of the log.")
    app.add_typer(log, name="log")

    @log.command()
    def status() -> None:
        """State, positions, paused roles, and the last changes with who and why."""
        run(lambda settings: _with_owner(service, settings, _status))

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


async def _with_owner(name: str, settings: Settings, work: Callable[[Connection], Awaitable[None]]) -> None:
    connection = await connect(settings.postgres_dsn.get_secret_value(), f"{name} operator")
    try:
        await work(connection)
    except StateError as error:
        typer.echo(error, err=True)
        raise typer.Exit(1) from None
    finally:
        await connection.close(timeout=5)


async def _changing(name: str, settings: Settings, change: Callable[[Connection], Awaitable[None]]) -> None:
    async def work(connection: Connection) -> None:
        await change(connection)
        _print(await states.status(connection))

    await _with_owner(name, settings, work)


async def _status(connection: Connection) -> None:
    _print(await states.status(connection))
    for each in await states.changes(connection):
        what = f"{each['subject']}: {each['was']} -> {each['becomes']}"
        typer.echo(f"{each['at']:%Y-%m-%d %H:%M:%S}  {what}  by {each['who']}: {each['reason']}")


def _print(row: Mapping[str, Any]) -> None:
    typer.echo("  ".join(f"{name}={value}" for name, value in row.items()))
