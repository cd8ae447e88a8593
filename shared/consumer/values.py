"""What a service hands to its consumers: projections, look-ups, deadlines and reactions, as values with plain functions in them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, Literal, LiteralString, TypeVar
from uuid import NAMESPACE_URL, uuid5

from shared.access import Rules
from shared.application import Command, UseCase
from shared.contracts.event import Event
from shared.envelope import Record
from shared.permissions import Actor, Role
from shared.postgres import Connection

L = TypeVar("L")


@dataclass(frozen=True, slots=True)
class Fact:
    """An event as a consumer meets it: the record with its coordinates, and the event in its newest version.

    A personal field reads None where this service has no key for it: that of another service, or of a person who was erased.
    """

    record: Record
    event: Event


Fold = Callable[[Connection, Sequence[Fact]], Awaitable[None]]
"""Writes what follows from facts, which come in order of position, each once. In one transaction with the position that it moves.

It never decides and never asks a clock. Raises InvariantError for a state that the rules exclude: the fact's key is parked then.
"""


@dataclass(frozen=True, slots=True)
class Projection:
    """A read model of one source log: what an admin wants to see (D9: its rows do not depend on how logs interleave).

    `tables` is an SQL file that makes its tables, named without a schema: the connection of `fold` finds them in the live `views_<n>`.
    `erase` is one statement that empties what it holds of the person $1 in the clear; it is run ahead of the fact, which may be parked.
    `rows` says whose the rows of a table are that has no column `unit_code`; without a word they are shown to nobody.
    """

    name: str
    source: str
    tables: Path
    fold: Fold
    erase: LiteralString | None = None
    rows: Rules = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LookUp:
    """Facts of one source log that decisions of this service need, kept in schema `lookup`; names in `fold` are qualified.

    `tables` of that schema are what it writes, and nobody else does.
    """

    source: str
    fold: Fold
    tables: Sequence[str]


@dataclass(frozen=True, slots=True)
class DeadlineSet:
    """From this fact on, at `due_at`, `command` is due. One deadline of a name for each (name, key): a later one replaces it."""

    name: str
    key: str
    due_at: datetime
    command: Command


@dataclass(frozen=True, slots=True)
class DeadlineCleared:
    """What was due under (name, key) is not any more."""

    name: str
    key: str


Deadlines = Callable[[Fact], Sequence[DeadlineSet | DeadlineCleared]]
"""What a fact of the service's own log says of deadlines."""


def no_deadlines(_fact: Fact) -> Sequence[DeadlineSet | DeadlineCleared]:
    """A service without any."""
    return ()


@dataclass(frozen=True, slots=True)
class Figure:
    """What is counted of one log by its owner and by who reads it, each from what its own folds wrote: at one position they count the same.

    `rows` is a query of (key text, amount bigint), one row for each person or thing; an amount of zero is as good as no row. `consumer`
    is whose position the rows stand at: for `views` they are found in the live schema, for `inbox` names are qualified.
    """

    name: str
    source: str
    consumer: Literal["views", "inbox"]
    rows: LiteralString


class NotYetError(Exception):
    """A reaction lacks a row that may still be under way in another log: it waits for that log's look-ups, then decides without (D10).

    `key` is the partition key under which that row would come, where it is not the fact's own: while it is blocked there, the reaction
    is parked, because the lack is not a fact.
    """

    def __init__(self, source: str, key: str | None = None) -> None:
        super().__init__(source)
        self.source = source
        self.key = key


@dataclass(frozen=True, slots=True)
class Reaction(Generic[L]):
    """A process manager: facts of some types become commands of this service.

    `react(fact, lookups, lack_is_fact)` may raise NotYetError while `lack_is_fact` is False. It decides from look-ups of one foreign log.
    """

    name: str
    source: str
    types: frozenset[str]
    react: Callable[[Fact, L, bool], Awaitable[Sequence[Command]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumers(Generic[L]):
    """Everything that a service reads, as one table that its `main` fills in. `use_cases` by name are those that deadlines may ask for.

    `forget` are statements that take from the service's own tables what they hold of the person $1 and is no event, such as a login.
    """

    service: str
    projections: Sequence[Projection]
    look_ups: Sequence[LookUp]
    deadlines: Deadlines
    reactions: Sequence[Reaction[L]]
    use_cases: Mapping[str, UseCase[Any, L]]
    figures: Sequence[Figure] = ()
    forget: Sequence[LiteralString] = ()


def system_actor(service: str) -> Actor:
    """The service itself, as who reactions and deadlines act."""
    return Actor(uuid5(NAMESPACE_URL, f"leifeng/{service}"), Role.SYSTEM, "")
