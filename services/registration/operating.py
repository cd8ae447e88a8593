"""What only an operator can do in registration: give the first roles of an installation, before anybody holds one who could."""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Annotated, Any
from uuid import UUID

import typer
from pydantic import ValidationError

from services.registration.application import GRANT_ROLE, GrantRole
from shared.application import Command
from shared.eventstore.values import Answer
from shared.settings import Settings

Run = Callable[[Callable[[Settings], Coroutine[Any, Any, None]]], None]
Submit = Callable[[Settings, Sequence[Command]], Awaitable[Sequence[Answer]]]
"""Submits commands in the service's own name, and gives their answers."""


def add_commands(app: typer.Typer, run: Run, submit: Submit) -> None:
    """Adds `grant` to the command line."""

    @app.command()
    def grant(
        appointments: Annotated[
            list[str], typer.Argument(metavar="PERSON=ROLE@UNIT...", help="The person's id, the role, the unit's code.")
        ],
    ) -> None:
        """Give roles in the service's own name: how an installation gets its first administrator. In the log like any other grant."""
        run(lambda settings: _grant(settings, [_read(each) for each in appointments], submit))


async def _grant(settings: Settings, commands: Sequence[Command], submit: Submit) -> None:
    answers = await submit(settings, commands)
    for command, answer in zip(commands, answers, strict=True):
        said = "granted" if answer.count else "held already" if answer.refusal is None else f"refused: {answer.refusal.code}"
        typer.echo(f"{command.ids['person_id']}  {command.body.model_dump_json()}  {said}")
    if any(answer.refusal for answer in answers):
        raise typer.Exit(1)


def _read(text: str) -> Command:
    person, _, rest = text.partition("=")
    role, _, unit = rest.partition("@")
    try:
        return Command(GRANT_ROLE, GrantRole.model_validate({"role": role, "unit_code": unit}), {"person_id": UUID(person)})
    except (ValueError, ValidationError):
        raise typer.BadParameter(f"{text}: give PERSON=ROLE@UNIT, such as 0197f3a4-…=bureau_admin@water-bureau") from None
