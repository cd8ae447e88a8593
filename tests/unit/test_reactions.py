"""No reaction decides on look-ups of two foreign logs: which of them is ahead would then decide (architecture D10)."""

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from types import FunctionType, ModuleType
from typing import Any

import pytest

from shared.application import UseCase
from shared.consumer.values import LookUp, Reaction
from shared.contracts.topics import SERVICES

INBOXES = {service: import_module(f"services.{service}.inbox") for service in SERVICES}


def text_behind(module: ModuleType, thing: Any, seen: set[int]) -> Iterator[str]:
    """The source of a function, the constants it names, and what stands behind those, use cases and their plans included."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    match thing:
        case str():
            yield thing
        case UseCase():
            yield from text_behind(import_module(module.__name__.replace("inbox", "application")), thing.plan, seen)
        case FunctionType():
            source = inspect.getsource(thing)
            yield source
            for name in set(re.findall(r"\w+", source)) & vars(module).keys():
                yield from text_behind(module, vars(module)[name], seen)


def tables_by_source(inbox: ModuleType) -> dict[str, str]:
    """Which log each table of schema `lookup` is folded from."""
    found: dict[str, str] = {}
    look_ups: tuple[LookUp, ...] = inbox.LOOK_UPS
    for each in look_ups:
        written = "\n".join(text_behind(inbox, each.fold, set()))
        for table in re.findall(r"(?:INSERT INTO|UPDATE|DELETE FROM) lookup\.(\w+)", written):
            assert found.setdefault(table, each.source) == each.source, f"{table} is folded from two logs"
    return found


def sources_of(inbox: ModuleType, thing: Any) -> set[str]:
    """The logs whose look-ups a reaction, or the plan of a command it sends, reads."""
    tables = tables_by_source(inbox)
    methods = set(re.findall(r"look_?ups\.(\w+)\(", "\n".join(text_behind(inbox, thing, set()))))
    read = {
        table
        for method in methods
        for text in text_behind(inbox, getattr(inbox.LookUps, method), set())
        for table in re.findall(r"lookup\.(\w+)", text)
    }
    assert read <= tables.keys()
    return {tables[table] for table in read}


REACTIONS: list[tuple[str, Reaction[Any]]] = [(service, each) for service, inbox in INBOXES.items() for each in inbox.REACTIONS]


@pytest.mark.parametrize(("service", "reaction"), REACTIONS, ids=[f"{service}.{each.name}" for service, each in REACTIONS])
def test_a_reaction_decides_on_look_ups_of_one_foreign_log(service: str, reaction: Reaction[Any]) -> None:
    assert len(sources_of(INBOXES[service], reaction.react) - {service}) <= 1


@pytest.mark.parametrize("service", SERVICES)
def test_every_table_of_look_ups_is_folded_from_one_log(service: str) -> None:
    migrations = "".join(file.read_text(encoding="utf-8") for file in INBOXES[service].MIGRATIONS.directory.glob("*.sql"))
    made = re.findall(r"CREATE TABLE lookup\.(\w+)", migrations)
    assert set(made) == tables_by_source(INBOXES[service]).keys()


def test_what_is_read_is_found_through_plans_methods_and_statements() -> None:
    """A caller may be decided on two logs, having seen both; the same plan behind a reaction would be found."""
    from services.recognition.application import APPLY_FOR_STAR, REASSESS_STARS

    assert sources_of(INBOXES["recognition"], APPLY_FOR_STAR) == {"registration", "hours", "recognition"}
    assert sources_of(INBOXES["recognition"], REASSESS_STARS) == {"hours"}
