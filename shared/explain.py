"""What the release of a parked key would do: tried in a transaction that is rolled back, and told by the rows that would be others.

Masked: numbers, instants and ids are shown, of texts only the codes that the service has words for; everything else is an ellipsis.
Beside a running worker it is safe: it takes no position, and lets go of the rows that it touched as soon as it has looked at them.
"""

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from shared import parked
from shared.consumer.apply import BEHIND, DETERMINISTIC, POOL_WAIT_SECONDS, Part, decoded, enter, given_up, open_sealed
from shared.consumer.inbox import Reactor
from shared.consumer.setting import Setting
from shared.errors import CallerError
from shared.postgres import Connection, Pool, quote

EVENTS_MAX: Final = 1000
"""Events of a key that are tried together."""
STATEMENT_SECONDS_MAX: Final = 30
"""A table that would change is read through, for there is no index of what a transaction has written."""
TRIES_MAX: Final = 5
"""The live consumer may change a row that is touched here too; then everything is looked at anew."""
HIDDEN: Final = "…"

Words = Mapping[str, frozenset[str]]
"""By the name of a column, the codes that it may hold: a closed list, in which no text of a person stands."""


@dataclass(frozen=True, slots=True)
class Step:
    """One parked event, and what would become of it."""

    position: int
    type: str
    stage: str
    outcome: str


@dataclass(slots=True)
class Explained:
    """What a consumer would do with its parked events of a key from one log: step by step, and by rows and commands, masked."""

    consumer: str
    log: str
    steps: list[Step] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)


async def explain(setting: Setting, reactors: Sequence[Reactor[Any]], key: str, words: Words) -> Sequence[Explained]:
    """Tries the release of `key` and takes it back, for each consumer and log that has it parked.

    Raises DefinitionError, NewerVersionError, and what the database raises.
    """
    return await explain_parts(setting.pool, parked.every_part(setting), reactors, key, words)


async def explain_parts(pool: Pool, parts: Sequence[Part], reactors: Sequence[Reactor[Any]], key: str, words: Words) -> Sequence[Explained]:
    """As `explain`, for some parts."""
    reacting = {each.part.source: each for each in reactors}
    found: list[Explained] = []
    for part in parts:
        rows = await pool.fetch(_PARKED, part.consumer, part.source, key, EVENTS_MAX)
        if rows:
            said = Explained(part.consumer, part.source)
            at_folds = [row for row in rows if row["stage"] == "applied"]
            if at_folds:
                await _try(pool, part, at_folds, said, words)
            reactor = reacting.get(part.source) if part.consumer == "inbox" else None
            for row in rows:
                if row["stage"] == "reactions" and reactor is not None:
                    await _ask(pool, part, reactor, row, said)
            found.append(said)
    return found


async def _try(pool: Pool, part: Part, rows: Sequence[Any], said: Explained, words: Words) -> None:
    for left in reversed(range(TRIES_MAX)):
        try:
            async with pool.acquire(timeout=POOL_WAIT_SECONDS) as inside, pool.acquire(timeout=POOL_WAIT_SECONDS) as outside:
                steps, changes = await _try_once(inside, outside, part, rows, words)
        except asyncpg.SerializationError:
            if not left:
                raise
        else:
            said.steps += steps
            said.changes += changes
            return


async def _try_once(inside: Connection, outside: Connection, part: Part, rows: Sequence[Any], words: Words) -> tuple[list[Step], list[str]]:
    """`outside` sees what was there when `inside` began: the same snapshot, without what `inside` writes."""
    trying = inside.transaction(isolation="repeatable_read")
    await trying.start()
    try:
        await inside.execute("LOCK TABLE consumer.views IN ACCESS SHARE MODE")  # No swap comes between; before the snapshot is taken.
        await inside.execute(f"SET LOCAL statement_timeout = '{STATEMENT_SECONDS_MAX}s'")
        snapshot = await inside.fetchval("SELECT pg_export_snapshot() FROM pg_current_xact_id()")
        await enter(part, inside)
        steps = await _steps(inside, part, rows)
        changes: list[str] = []
        async with outside.transaction(isolation="repeatable_read", readonly=True):
            await outside.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
            await outside.execute(f"SET LOCAL statement_timeout = '{STATEMENT_SECONDS_MAX}s'")
            for table in await inside.fetch(_CHANGED_TABLES):
                changes += await _changes(inside, outside, table["schema"], table["name"], words)
    finally:
        await trying.rollback()
    return steps, changes


async def _steps(connection: Connection, part: Part, rows: Sequence[Any]) -> list[Step]:
    steps: list[Step] = []
    held = False
    for row in rows:
        if held:
            outcome = "would wait behind it"
        elif await given_up(connection, part, [parked.entry_of(row)], "applied"):
            outcome = "is given up, and would be passed over"
        elif (error := await parked.try_fold(part, connection, row)) is None:
            outcome = "would be applied"
        else:
            outcome, held = f"fails: {_why(error)}", part.blocks
        steps.append(Step(row["position"], row["type"], row["stage"], outcome))
    return steps


async def _ask(pool: Pool, part: Part, reactor: Reactor[Any], row: Any, said: Explained) -> None:
    """What the event would have this service asked; asked it is not, so what would be answered is not known."""
    try:
        read = decoded(part, parked.entry_of(row))
        commands = []
        if read is not None:
            async with pool.acquire(timeout=POOL_WAIT_SECONDS) as connection:
                await open_sealed(part, connection, [read])
            if read.error is not None:
                raise read.error
            commands = list(await reactor.would_ask(read.fact)) if read.fact is not None else []
        outcome = f"would ask {len(commands)} commands"
        for each in commands:
            said.changes.append(" ".join((f"? {each.use_case.name}", *(f"{name}={value}" for name, value in each.ids.items()))))
    except (*DETERMINISTIC, CallerError) as error:
        outcome = f"fails: {_why(error)}"
    if row["error_class"] not in {BEHIND, ""}:
        outcome += f"; failed with {row['error_class']} before"
    said.steps.append(Step(row["position"], row["type"], row["stage"], outcome))


def _why(error: Exception) -> str:
    """The kind of an error and where it arose; never its text, which may hold values."""
    named = [f" {name}" for each in ("table_name", "constraint_name") if (name := getattr(error, each, None))]
    frames = [each for each in traceback.extract_tb(error.__traceback__) if "/site-packages/" not in each.filename]
    where = "/".join(frames[-1].filename.split("/")[-3:]) + f":{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__}{''.join(named)} at {where}"


async def _changes(inside: Connection, outside: Connection, schema: str, name: str, words: Words) -> list[str]:
    """The rows of a table that are others inside than they were, by their primary key."""
    table = f"{quote(schema)}.{quote(name)}"
    keys = [row["attname"] for row in await inside.fetch(_PRIMARY_KEY, table)]
    after = await inside.fetch(f"SELECT ctid::text AS place, held.* FROM {table} AS held WHERE age(xmin) <= 0")  # noqa: S608
    touched = await outside.fetch(f"SELECT ctid::text AS place, held.* FROM {table} AS held WHERE xmax <> '0'::xid")  # noqa: S608
    there = await inside.fetch(
        f"SELECT ctid::text AS place FROM {table} WHERE ctid = ANY($1::text[]::tid[])",  # noqa: S608
        [row["place"] for row in touched],
    )
    still = {row["place"] for row in there}  # Only locked, or by somebody else.
    olds = {_key(row, keys): row for row in touched if row["place"] not in still}
    said: list[str] = []
    for row in after:
        old = olds.pop(_key(row, keys), None)
        said += _line("+" if old is None else "~", schema, name, keys, old, row, words)
    for old in olds.values():
        said += _line("-", schema, name, keys, old, None, words)
    return sorted(said)


def _key(row: Any, keys: Sequence[str]) -> tuple[Any, ...]:
    return tuple(row[each] for each in keys) if keys else (row["place"],)


def _line(sign: str, schema: str, name: str, keys: Sequence[str], old: Any, new: Any, words: Words) -> list[str]:
    row = old if new is None else new
    columns = [each for each in row.keys() if each != "place"]  # noqa: SIM118  # An asyncpg record iterates over values.
    said = [f"{each}={_masked(each, row[each], words)}" for each in columns if each in keys]
    for each in columns:
        if each in keys:
            continue
        if old is None or new is None:
            said.append(f"{each}={_masked(each, row[each], words)}")
        elif old[each] != new[each]:
            said.append(f"{each}={_masked(each, old[each], words)}->{_masked(each, new[each], words)}")
    return [" ".join((sign, f"{schema}.{name}", *said))] if old is None or new is None or len(said) > len(keys) else []


def _masked(column: str, value: Any, words: Words) -> str:
    match value:
        case None:
            return "null"
        case bool() | int() | UUID():
            return str(value)
        case datetime():
            return f"{value:%Y-%m-%dT%H:%M:%SZ}"
        case str() if value in words.get(column, frozenset()):
            return value
        case _:
            return HIDDEN


_PARKED: Final = """
    SELECT consumer, log, position, key, type, stage, error_class, headers, payload FROM consumer.parked
    WHERE consumer = $1 AND log = $2 AND key = $3 ORDER BY position LIMIT $4
"""
_CHANGED_TABLES: Final = """
    SELECT schemaname AS schema, relname AS name FROM pg_stat_xact_user_tables
    WHERE n_tup_ins + n_tup_upd + n_tup_del > 0
        AND (schemaname NOT IN ('es', 'keys', 'consumer') OR (schemaname, relname) IN (('consumer', 'deadline'), ('consumer', 'withdrawn')))
    ORDER BY 1, 2
"""
_PRIMARY_KEY: Final = """
    SELECT attname FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY(indkey)
    WHERE indrelid = $1::text::regclass AND indisprimary ORDER BY attnum
"""
