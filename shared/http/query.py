"""Queries as data, and the one way to read them: rows of `api` views in the role `query`, with how fresh they are, in one snapshot (D11).

A figure exists once, in SQL: the same views serve the admins' own SQL tools, the query API and the page. Whose rows a reader sees is the
database's to hold (`shared/access`): each transaction says for whom it reads, and one that does not say so sees nothing.
"""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from hashlib import sha256
from typing import Any, Final, Literal, LiteralString, TypeAlias
from uuid import UUID

import asyncpg

from shared.audit import NoteRead, PersonalRead
from shared.clock import CIVIL_ZONE
from shared.errors import LeifengError, NotCaughtUpError, StoreUnavailableError
from shared.http.problems import ProblemError
from shared.permissions import Actor, Reach, Role
from shared.tracing import parse_uuid

PAGE_ROWS_MAX: Final = 200
PAGE_ROWS: Final = 50

BIGINT_MIN: Final = -(2**63)
BIGINT_MAX: Final = 2**63 - 1
"""What fits into the `bigint` that an integer is in SQL."""

STATEMENT_MILLISECONDS_MAX: Final = 3000
POOL_WAIT_SECONDS: Final = 2.0
FOLLOW_SECONDS_MAX: Final = 2.0
"""How long a request waits for the tokens it carries in `After:`."""

Kind = Literal["text", "integer", "boolean", "uuid", "date", "instant"]

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a query's rows: the name in SQL and JSON, what it is called, its kind.

    On the page `minutes=True` shows hours, `plain=True` a number that counts nothing (a year, a position), and `words` what each code of a
    closed list is called, in Chinese and English; `hidden=True` leaves the column to programs, and a text in one `language` stands only
    on pages in it. A name is the name `of` what another column identifies. It reads null for who asks in a role that it is `withheld` from.
    """

    name: str
    kind: Kind
    zh: str
    en: str
    minutes: bool = False
    nullable: bool = False
    plain: bool = False
    hidden: bool = False
    words: Mapping[str, tuple[str, str]] | None = None
    language: Literal["zh", "en"] | None = None
    of: str = ""
    withheld: frozenset[Role] = frozenset()


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter of a query: the parameter's name, kind and words. It is null in SQL when it is not given.

    The page offers what the column of the same name has `words` for; where codes are data, `choices` is SQL over `api` views that gives
    each code with its words in Chinese and English.
    """

    name: str
    kind: Kind
    zh: str
    en: str
    choices: LiteralString | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """A list that an admin asks for, as a route, a table on the page and a part of the documents.

    `sql` is one whole constant over views of schema `api`. Its parameters, in order: the filters, then the values of the `order` columns of
    the last row of the page before (all null on the first page), then the number of rows. `order` names columns that are unique together
    and are what `sql` orders by. For example, with one filter and two order columns::

        SELECT unit_code, volunteer_id, minutes FROM api.balances
        WHERE ($1::text IS NULL OR unit_code = $1)
          AND ($2::text IS NULL OR (unit_code, volunteer_id) > ($2, $3::uuid))
        ORDER BY unit_code, volunteer_id LIMIT $4

    `path` is below `/api/v1`. `roles` may ask; `public` queries also stand on the page for everybody, so they carry numbers and ids and
    never a name; they hide nothing from anybody, and show every unit. Of any other, who speaks for a unit sees that unit's rows. `key`
    names the column that is the partition key of the events behind a row: rows whose key is parked say so.
    `personal` names columns that say something of a person (whom `key` names): each page that shows them is written down, with who asked.
    `details` opens a row into what is behind it: a path below `/api/v1` with `{columns}`, such as `streams/account-{account_id}/events`.
    """

    name: str
    path: str
    sql: LiteralString
    columns: Sequence[Column]
    order: Sequence[str]
    roles: frozenset[Role]
    title_zh: str
    title_en: str
    filters: Sequence[Filter] = ()
    public: bool = False
    key: str | None = None
    details: str | None = None
    personal: Sequence[str] = ()

    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of the order columns, for reading a cursor back."""
        by_name = {column.name: column.kind for column in self.columns}
        return tuple(by_name[name] for name in self.order)


@dataclass(frozen=True, slots=True)
class Freshness:
    """How far the views stand in one source log. `head` is the log's last known position, `as_of` when that was seen.

    `discarded` counts the events that two persons gave up; `stopped` is the error for which the views stand still, where they do.
    """

    source: str
    log_id: UUID | None
    applied: int
    head: int
    as_of: datetime | None
    discarded: int = 0
    stopped: str | None = None

    @property
    def behind_events(self) -> int:
        return max(self.head - self.applied, 0)


@dataclass(frozen=True, slots=True)
class Page:
    """What one read gave, all of one snapshot. `parked` are the keys of these rows that are blocked (any key, when a query names none)."""

    rows: Sequence[Mapping[str, Any]]
    next_cursor: str | None
    freshness: Sequence[Freshness]
    parked: Sequence[str]


@dataclass(frozen=True, slots=True)
class Views:
    """Where queries read: a pool, the role to read as, and what the snapshot says of itself.

    `freshness` and `parked` run in the same transaction as the rows, before the role is changed: the positions of the consumer `views`
    by source, and its blocked keys. The pool's connections are the owner's; `role` is what rows are read as.
    """

    pool: "asyncpg.Pool[asyncpg.Record]"
    role: str
    freshness: "Callable[[Connection], Awaitable[Sequence[Freshness]]]"
    parked: "Callable[[Connection], Awaitable[frozenset[str]]]"
    note: NoteRead | None = None
    """Writes down who is shown personal columns; without it none are shown."""


_SET_READER: Final[LiteralString] = """
    SELECT set_config('statement_timeout', $1, true), set_config('leifeng.reach', $2, true), set_config('leifeng.unit', $3, true),
           set_config('role', $4, true)
"""
"""Limits of this transaction, for whom it reads (the policies ask it), and the role to read as; all end with the transaction."""


async def read_as(connection: Connection, views: Views, reach: Reach, unit: str = "") -> None:
    """From here on the transaction reads in the role of queries: rows of every unit (`bureau`), of one (`unit`), or none at all."""
    await connection.execute(_SET_READER, str(STATEMENT_MILLISECONDS_MAX), reach, unit, views.role)


async def read(
    views: Views,
    query: Query,
    *,
    filters: Mapping[str, Any],
    cursor: Sequence[Any] | None,
    limit: int,
    reader: Actor | None,
    required: Mapping[str, int],
) -> Page:
    """One page of a query, positions and rows in one snapshot.

    `required` are positions by source that the snapshot must have applied, from `After:`. Raises NotCaughtUpError, StoreUnavailableError.
    """
    attempts = 2  # A swap of the views makes cached statements invalid: the whole read transaction is tried once more.
    while True:
        attempts -= 1
        try:
            async with views.pool.acquire(timeout=POOL_WAIT_SECONDS) as connection:
                page = await _read(connection, views, query, filters, cursor, limit, reader, required)
        except asyncpg.exceptions.InvalidCachedStatementError as error:
            if attempts == 0:
                raise StoreUnavailableError("views kept changing") from error
        else:
            await _note(views, query, page, reader)
            return page


async def _note(views: Views, query: Query, page: Page, reader: Actor | None) -> None:
    if not query.personal or not page.rows:
        return
    if views.note is None or reader is None or query.key is None:
        raise LeifengError(f"{query.name} shows personal data and nobody writes that down")
    subjects = [row[query.key] for row in page.rows]
    shown = [each.name for each in query.columns if each.name in query.personal and reader.role not in each.withheld]
    if shown:
        await views.note(PersonalRead(reader, subjects, shown, query.name, "list"))


async def _read(
    connection: Connection,
    views: Views,
    query: Query,
    filters: Mapping[str, Any],
    cursor: Sequence[Any] | None,
    limit: int,
    reader: Actor | None,
    required: Mapping[str, int],
) -> Page:
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        freshness = await views.freshness(connection)
        applied = {each.source: each.applied for each in freshness}
        for source, position in required.items():
            if applied.get(source, 0) < position:
                raise NotCaughtUpError(f"{source} {position}")
        parked = await views.parked(connection)
        if query.public:
            await read_as(connection, views, "bureau")
        else:
            await read_as(connection, views, reader.reach if reader else "nothing", reader.unit if reader else "")
        last = cursor if cursor is not None else [None] * len(query.order)
        found = await connection.fetch(query.sql, *(filters.get(each.name) for each in query.filters), *last, limit + 1)
    withheld = {column.name for column in query.columns if reader is not None and reader.role in column.withheld}
    rows = [{column.name: None if column.name in withheld else row[column.name] for column in query.columns} for row in found[:limit]]
    more = len(found) > limit
    touched = parked if query.key is None else parked & {str(row[query.key]) for row in rows}
    return Page(
        rows=rows,
        next_cursor=write_cursor(query, filters, [rows[-1][name] for name in query.order]) if more else None,
        freshness=freshness,
        parked=sorted(touched),
    )


async def read_choices(views: Views, query: Query) -> Mapping[str, Sequence[tuple[str, str, str]]]:
    """By filter, each code that may be chosen with its words: what everybody may know. Raises StoreUnavailableError."""
    asked = {each.name: each.choices for each in query.filters if each.choices is not None}
    if not asked:
        return {}
    attempts = 2
    while True:
        attempts -= 1
        try:
            async with views.pool.acquire(timeout=POOL_WAIT_SECONDS) as connection, connection.transaction(readonly=True):
                await read_as(connection, views, "bureau")
                return {name: [(code, zh, en) for code, zh, en in await connection.fetch(sql)] for name, sql in asked.items()}
        except asyncpg.exceptions.InvalidCachedStatementError as error:
            if attempts == 0:
                raise StoreUnavailableError("views kept changing") from error


def read_filters(query: Query, given: Mapping[str, str]) -> dict[str, Any]:
    """The values of the filters that are given. Raises ProblemError `parameter_invalid` with the parameter's name."""
    return {each.name: _value(each.kind, given[each.name], each.name) for each in query.filters if each.name in given}


def read_limit(text: str | None) -> int:
    """The page size asked for, `PAGE_ROWS` when none is. Raises ProblemError."""
    if text is None:
        return PAGE_ROWS
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= PAGE_ROWS_MAX):
        raise ProblemError("parameter_invalid", parameter="limit", rows_max=PAGE_ROWS_MAX)
    return int(text)


def write_cursor(query: Query, filters: Mapping[str, Any], last: Sequence[Any]) -> str:
    """An opaque mark of the row after which the next page begins, bound to the query and its filters."""
    said = json.dumps([_stamp(query, filters), *(_text(each) for each in last)], ensure_ascii=False, separators=(",", ":"))
    return urlsafe_b64encode(said.encode()).decode().rstrip("=")


def read_cursor(query: Query, filters: Mapping[str, Any], text: str | None) -> Sequence[Any] | None:
    """The order values in a cursor. Raises ProblemError `cursor_invalid`, also for one of another query or other filters."""
    if text is None:
        return None
    try:
        said = json.loads(urlsafe_b64decode(text.encode("ascii") + b"=="))
        if not isinstance(said, list) or len(said) != len(query.order) + 1 or said[0] != _stamp(query, filters):
            raise ValueError(query.name)  # noqa: TRY301
        return [None if each is None else _value(kind, str(each), "cursor") for kind, each in zip(query.kinds(), said[1:], strict=True)]
    except (ValueError, RecursionError, ProblemError):
        raise ProblemError("cursor_invalid") from None


def _stamp(query: Query, filters: Mapping[str, Any]) -> str:
    said = json.dumps([query.name, sorted((name, _text(value)) for name, value in filters.items())], ensure_ascii=False)
    return sha256(said.encode()).hexdigest()[:12]


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _value(kind: Kind, text: str, parameter: str) -> Any:
    try:
        return _PARSERS[kind](text)
    except ValueError:
        raise ProblemError("parameter_invalid", parameter=parameter, kind=kind) from None


def _parse_text(text: str) -> str:
    if len(text) > 200 or "\x00" in text or not text:
        raise ValueError
    text.encode("utf-8")
    return text


def _parse_integer(text: str) -> int:
    if not text.isascii() or len(text) > 20 or not text.removeprefix("-").isdigit():
        raise ValueError
    number = int(text)
    if not BIGINT_MIN <= number <= BIGINT_MAX:
        raise ValueError
    return number


def _parse_boolean(text: str) -> bool:
    if text not in {"true", "false"}:
        raise ValueError
    return text == "true"


def _parse_uuid(text: str) -> UUID:
    found = parse_uuid(text)
    if found is None:
        raise ValueError
    return found


def _parse_date(text: str) -> date:
    if len(text) != 10 or not text.isascii():
        raise ValueError
    return date.fromisoformat(text)


def _parse_instant(text: str) -> datetime:
    # A "+" of an offset arrives as a space when the caller did not escape it.
    instant = datetime.fromisoformat(text.replace(" ", "+"))
    if instant.tzinfo is None:
        raise ValueError
    try:
        instant.astimezone(CIVIL_ZONE)  # As the page would show it.
        return instant.astimezone(UTC)
    except OverflowError:  # There it lies before the calendar begins, or after it ends.
        raise ValueError from None


_PARSERS: Final[Mapping[Kind, Callable[[str], Any]]] = {
    "text": _parse_text,
    "integer": _parse_integer,
    "boolean": _parse_boolean,
    "uuid": _parse_uuid,
    "date": _parse_date,
    "instant": _parse_instant,
}
