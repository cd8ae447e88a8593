"""The operator's commands about what is parked: look, try the release, release, give up by two persons, let a stopped consumer go on."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Annotated, Any, Final

import asyncpg
import typer

from shared import discards, parked, states
from shared.consumer.inbox import Reactor
from shared.consumer.setting import Setting
from shared.errors import LeifengError
from shared.explain import Explained, Words, explain
from shared.operating import By, Reason, Run, with_owner
from shared.postgres import Connection
from shared.settings import Settings
from shared.states import Because

OVERRIDE_MINUTES_MAX: Final = 24 * 60

Consumer = Annotated[str | None, typer.Option(help="Only of this consumer: views, inbox or withdrawals.")]


@dataclass(frozen=True, slots=True)
class AtHand:
    """What a release works with: the service's consumers, and its reactions."""

    setting: Setting
    reactors: Sequence[Reactor[Any]]


@dataclass(frozen=True, slots=True)
class Releasing:
    """What these commands need of a service. `words` are the codes that its columns may hold, for telling rows without their texts."""

    service: str
    at_hand: Callable[[Settings], AbstractAsyncContextManager[AtHand]]
    words: Words


def add_commands(app: typer.Typer, releasing: Releasing, run: Run) -> None:
    """Adds `parked` to the command line of a service."""
    commands = typer.Typer(no_args_is_help=True, help="Keys that are held back because an event of theirs could not be applied.")
    app.add_typer(commands, name="parked")

    def owner(work: Callable[[Connection], Awaitable[Sequence[Any]]]) -> None:
        run(lambda settings: _print_from(releasing.service, settings, work))

    def at_hand(work: Callable[[AtHand], Awaitable[None]]) -> None:
        run(lambda settings: _with_all(releasing, settings, work))

    @commands.command(name="list")
    def list_() -> None:
        """Every parked key, with why and since when."""
        owner(parked.list_keys)

    @commands.command()
    def show(key: str) -> None:
        """The parked events of one key, in order, without their content."""
        owner(lambda connection: parked.show(connection, key))

    @commands.command(name="explain")
    def explain_(key: str) -> None:
        """Try the release of a key and take it back: what each event would do, by the rows that would change, without their content."""
        at_hand(lambda here: _explain(here, key, releasing.words))

    @commands.command()
    def retry(
        key: Annotated[str | None, typer.Argument()] = None,
        reason: Annotated[str | None, typer.Option(help="Every key that is parked for this, e.g. PayloadError.")] = None,
    ) -> None:
        """Apply a key's parked events in order; the first that fails again keeps the rest parked."""
        if (key is None) == (reason is None):
            raise typer.BadParameter("say a key, or --reason")
        at_hand(lambda here: _retry(here, key) if key is not None else _retry_all(here, reason or ""))

    @commands.command()
    def discard(key: str, reason: Reason, by: By, consumer: Consumer = None) -> None:
        """Ask that the event which holds a key back be given up for good; another person approves."""
        owner(lambda connection: discards.ask(connection, key, consumer, Because(by, reason)))

    @commands.command()
    def approve(key: str, reason: Reason, by: By) -> None:
        """Give up what another person asked to discard, and retry what waited behind it."""
        owner(lambda connection: discards.approve(connection, key, Because(by, reason)))
        at_hand(lambda here: _retry(here, key))

    @commands.command()
    def override(
        consumer: str,
        minutes: Annotated[int, typer.Option(min=1, max=OVERRIDE_MINUTES_MAX, help="For how long.")],
        reason: Reason,
        by: By,
    ) -> None:
        """Let a consumer that stopped itself go on parking, for the reason that it stopped for."""
        owner(lambda connection: states.override_breaker(connection, consumer, minutes, Because(by, reason)))


async def _print_from(service: str, settings: Settings, work: Callable[[Connection], Awaitable[Sequence[Any]]]) -> None:
    async def printed(connection: Connection) -> None:
        for row in await work(connection):
            typer.echo("  ".join(f"{name}={value}" for name, value in row.items()))

    await with_owner(service, settings, printed)


async def _with_all(releasing: Releasing, settings: Settings, work: Callable[[AtHand], Awaitable[None]]) -> None:
    """What an operator can do something about is a sentence, not a traceback."""
    try:
        async with releasing.at_hand(settings) as here:
            await work(here)
    except LeifengError as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        raise typer.Exit(1) from None
    except asyncpg.SerializationError:
        typer.echo("the consumer is at work on the same rows; run again", err=True)
        raise typer.Exit(1) from None


async def _explain(here: AtHand, key: str, words: Words) -> None:
    for each in await explain(here.setting, here.reactors, key, words):
        _tell(each)


async def _retry_all(here: AtHand, reason: str) -> None:
    for key in await parked.keys_parked_for(here.setting.pool, reason):
        typer.echo(key)
        await _retry(here, key)


async def _retry(here: AtHand, key: str) -> None:
    for each in await parked.retry(here.setting, here.reactors, key):
        typer.echo(f"{each.consumer} {each.log}: {each.released} released" + (f", then {each.failed}" if each.failed else ""))


def _tell(said: Explained) -> None:
    typer.echo(f"{said.consumer} of {said.log}")
    for step in said.steps:
        typer.echo(f"  {step.position}  {step.type}  {step.stage}: {step.outcome}")
    for change in said.changes:
        typer.echo(f"  {change}")
    if not said.changes:
        typer.echo("  no row would change")
