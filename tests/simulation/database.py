"""PostgreSQL in memory, as far as relay, consumers and deadlines speak to it: each of their statements by its text, and no other.

READ COMMITTED as PostgreSQL has it: a statement sees what is committed and what its own transaction has written; a row that another
transaction has changed is waited for and looked at again. `tests/integration/consumer/test_memory_database.py` holds every statement
against the real one. A statement that the product changes or adds is unknown here until somebody has said what it does.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg

from shared import deadlines
from shared.consumer import apply, inbox
from shared.envelope import CHAIN_START
from shared.postgres import LOCK_SECONDS_MAX
from shared.relay import readback
from shared.relay import shell as relay
from shared.testing.store import MemoryStore

Row = dict[str, Any]
Key = tuple[Any, ...]
Statement = Callable[..., Awaitable[Sequence[Row]]]

_EPOCH: Final = datetime(2017, 3, 5, tzinfo=UTC)


class Database:
    """One service's database: the log of `store` beside the tables of relay and consumers. `now` is its own clock, in seconds."""

    def __init__(self, store: MemoryStore, now: Callable[[], float], statements: "Mapping[str, Statement] | None" = None) -> None:
        self.store = store
        self.now = now
        self.statements = {**STATEMENTS, **(statements or {})}
        self.tables: dict[str, dict[Key, Row]] = {}
        self.holders: dict[tuple[str, Key], Session] = {}
        self.on_commit: Callable[[str, Row | None, Row | None], None] = lambda _table, _before, _after: None
        self.on_unknown: Callable[[str], None] = lambda _statement: None
        """Told of a statement that nobody has said the meaning of; whoever asked it may take the error for one that passes."""
        self._serial = 0

    def rows(self, table: str) -> list[Row]:
        """What is committed, in the order in which it was first written."""
        return list(self.tables.get(table, {}).values())

    def serial(self) -> int:
        """The next number of an identity column."""
        self._serial += 1
        return self._serial

    def instant(self) -> datetime:
        """`clock_timestamp()`."""
        return _EPOCH + timedelta(seconds=self.now())


class Session:
    """One backend, with what its transaction has written and locked."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.is_broken = False
        self.layers: list[dict[tuple[str, Key], Row | None]] = []
        self._held: list[tuple[str, Key]] = []
        self._waiting: list[asyncio.Future[None]] = []

    def get(self, table: str, *key: Any) -> Row | None:
        """A row as this transaction sees it now."""
        for layer in reversed(self.layers):
            if (table, key) in layer:
                return layer[table, key]
        return self.database.tables.get(table, {}).get(key)

    def scan(self, table: str) -> Iterable[Row]:
        """All rows as this transaction sees them now."""
        seen = dict(self.database.tables.get(table, {}))
        for layer in self.layers:
            for (name, key), row in layer.items():
                if name == table and row is None:
                    seen.pop(key, None)
                elif name == table and row is not None:
                    seen[key] = row
        return seen.values()

    async def lock(self, table: str, *key: Any) -> Row | None:
        """Waits for whoever has written the row, and gives what it is then."""
        place, holders = (table, key), self.database.holders
        while (holder := holders.get(place, self)) is not self:
            free = asyncio.get_running_loop().create_future()
            holder._waiting.append(free)
            try:
                async with asyncio.timeout(LOCK_SECONDS_MAX):
                    await free
            except TimeoutError:
                raise asyncpg.LockNotAvailableError("canceling statement due to lock timeout") from None
        if self.is_broken:
            raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
        if place not in holders:
            holders[place] = self
            self._held.append(place)
        return self.get(table, *key)

    async def put(self, row: Row | None, table: str, *key: Any) -> None:
        """Writes a row, or with None takes it away."""
        await self.lock(table, *key)
        self.layers[-1][table, key] = row

    def commit(self) -> None:
        """Makes the transaction's rows everybody's."""
        (written,) = self.layers
        for (table, key), row in written.items():
            rows = self.database.tables.setdefault(table, {})
            self.database.on_commit(table, rows.get(key), row)
            if row is None:
                rows.pop(key, None)
            else:
                rows[key] = row
        self.end()

    def end(self) -> None:
        """Ends the transaction, whatever is written and not committed is gone; and lets those go on who wait for it."""
        self.layers.clear()
        for place in self._held:
            del self.database.holders[place]
        self._held.clear()
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.done():
                each.set_result(None)

    def break_off(self) -> None:
        """The backend is gone."""
        self.is_broken = True
        self.end()

    async def run(self, statement: str, args: Sequence[Any]) -> Sequence[Row]:
        """One statement, in a transaction of its own when there is none."""
        if self.is_broken:
            raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
        do = self.database.statements.get(statement)
        if do is None:
            self.database.on_unknown(statement)
            raise NotImplementedError(statement)
        if self.layers:
            return await do(self, *args)
        self.layers.append({})
        try:
            rows = await do(self, *args)
            self.commit()
        finally:
            self.end()
        return rows


Call = Callable[[str, Callable[[], Awaitable[Any]], "Session"], Awaitable[Any]]
"""How a session is reached: (what, effect, session)."""


async def at_once(_what: str, effect: Callable[[], Awaitable[Any]], _session: Session) -> Any:
    """Without a network between."""
    return await effect()


class _Asking:
    """What a connection and a pool have in common."""

    async def fetch(self, statement: str, *args: Any) -> Sequence[Row]:
        raise NotImplementedError

    async def fetchrow(self, statement: str, *args: Any) -> Row | None:
        return next(iter(await self.fetch(statement, *args)), None)

    async def fetchval(self, statement: str, *args: Any) -> Any:
        row = await self.fetchrow(statement, *args)
        return None if row is None else next(iter(row.values()))

    async def execute(self, statement: str, *args: Any) -> str:
        await self.fetch(statement, *args)
        return ""


class Connection(_Asking):
    """As asyncpg's, as far as it is used."""

    def __init__(self, session: Session, call: Call) -> None:
        self._session = session
        self._call = call

    async def fetch(self, statement: str, *args: Any) -> Sequence[Row]:
        rows: Sequence[Row] = await self._call(name_of(statement), lambda: self._session.run(statement, args), self._session)
        return rows

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """A transaction, or inside of one a savepoint."""
        session = self._session
        layers = session.layers
        layers.append({})
        depth = len(layers)
        try:
            yield
        except BaseException:
            if len(layers) >= depth:
                del layers[depth - 1 :]
                if not layers:
                    session.end()
            raise
        if depth > 1 and len(layers) == depth:
            layers[depth - 2].update(layers.pop())
        elif depth == 1:
            await self._call("COMMIT", self._commit, session)

    async def _commit(self) -> None:
        if self._session.is_broken or not self._session.layers:
            raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
        self._session.commit()


class Pool(_Asking):
    """As asyncpg's, as far as it is used: every loan is a session of its own."""

    def __init__(self, database: Database, call: Call = at_once) -> None:
        self._database = database
        self._call = call
        self.sessions: dict[Session, None] = {}

    @contextlib.asynccontextmanager
    async def acquire(self, **_within: float) -> AsyncIterator[Connection]:
        session = Session(self._database)
        self.sessions[session] = None
        try:
            yield Connection(session, self._call)
        finally:
            session.end()
            del self.sessions[session]

    async def fetch(self, statement: str, *args: Any) -> Sequence[Row]:
        async with self.acquire() as connection:
            return await connection.fetch(statement, *args)


# -- es.log, es.event, es.seal, es.relay_mark


def _seals(session: Session) -> list[Row]:
    return sorted(session.scan("seal"), key=lambda row: row["position"])


async def _see(session: Session) -> Sequence[Row]:
    store, seals = session.database.store, _seals(session)
    last = seals[-1] if seals else {"position": None, "hash": None}
    return [{"state": store.state, "head": len(store.records), "position": last["position"], "hash": last["hash"]}]


async def _seal(session: Session, previous: int, position: int, hash_: bytes) -> Sequence[Row]:
    if position <= previous:
        raise asyncpg.CheckViolationError("seal_goes_forward")
    for name, value in (("previous", previous), ("position", position)):
        await session.lock("seal one", name, value)
        if any(row[name] == value for row in session.scan("seal")):
            raise asyncpg.UniqueViolationError("duplicate key value violates unique constraint")
    await session.put({"previous": previous, "position": position, "hash": hash_}, "seal", position)
    return []


async def _seals_between(session: Session, after: int, up_to: int) -> Sequence[Row]:
    return [{"position": row["position"], "hash": row["hash"]} for row in _seals(session) if after < row["position"] <= up_to]


async def _seal_before(session: Session, position: int) -> Sequence[Row]:
    return (await _seals_between(session, 0, position))[-1:]


async def _seals_and_the_last(session: Session, after: int, up_to: int) -> Sequence[Row]:
    seals = [{"hash": row["hash"], "position": row["position"]} for row in await _seals_between(session, after, up_to)]
    return [*seals, {"hash": b"", "position": max((row["position"] for row in session.scan("seal")), default=0)}]


async def _recorded_at(session: Session, position: int) -> Sequence[Row]:
    return [{"recorded_at": session.database.instant()}] if 0 < position <= len(session.database.store.records) else []


async def _wait_for_recovery(session: Session) -> Sequence[Row]:
    session.database.store.state = "recovering"
    return [{"wait_for_recovery": None}]


async def _timeline(session: Session) -> Sequence[Row]:
    return [{"timeline": 1}]


async def _compared(session: Session, timeline: int) -> Sequence[Row]:
    return [{"compared_with_kafka": None}]  # This server is never promoted.


async def _mark(session: Session) -> Sequence[Row]:
    return [row] if (row := session.get("relay_mark", True)) else []


async def _set_mark(session: Session, first_offset: int, record_offset: int, position: int, hash_: bytes) -> Sequence[Row]:
    row = {"first_offset": first_offset, "record_offset": record_offset, "position": position, "hash": hash_}
    await session.put(row, "relay_mark", True)
    return []


# -- consumer.position


async def _insert_position(session: Session, consumer: str, log: str) -> Sequence[Row]:
    if await session.lock("position", consumer, log) is None:
        row = {
            "consumer": consumer, "log": log, "log_id": None, "applied": 0, "applied_hash": CHAIN_START, "kafka_offset": 0, "ce_time": None,
            "reacted": 0, "reacted_hash": CHAIN_START, "reacted_offset": 0,
        }  # fmt: skip
        await session.put(row, "position", consumer, log)
    return []


async def _select_position(session: Session, consumer: str, log: str) -> Sequence[Row]:
    row = session.get("position", consumer, log)
    names = ("log_id", "applied", "applied_hash", "kafka_offset", "ce_time")
    stopped = session.get("stopped", consumer, log, "applied") is not None
    return [] if row is None else [{**{name: row[name] for name in names}, "live_schema": None, "is_stopped": stopped}]


async def _changed(session: Session, consumer: str, log: str, fits: Callable[[Row], bool], **changes: Any) -> Row | None:
    """UPDATE of a position: what does not fit is not waited for, and what was waited for is looked at again."""
    row = session.get("position", consumer, log)
    if row is None or not fits(row):
        return None
    row = await session.lock("position", consumer, log)
    if row is None or not fits(row):
        return None
    changed = {**row, **changes}
    if changed["reacted"] > changed["applied"]:
        raise asyncpg.CheckViolationError("reactions_never_run_ahead")
    await session.put(changed, "position", consumer, log)
    return changed


async def _move(
    session: Session, consumer: str, log: str, log_id: Any, applied: int, hash_: bytes, offset: int, time: Any, was: int, was_hash: bytes
) -> Sequence[Row]:
    def fits(row: Row) -> bool:
        return row["applied"] == was and row["applied_hash"] == was_hash and row["log_id"] in (None, log_id)

    moved = await _changed(
        session, consumer, log, fits, log_id=log_id, applied=applied, applied_hash=hash_, kafka_offset=offset, ce_time=time
    )
    return [] if moved is None else [{"applied": applied}]


async def _select_reacted(session: Session, log: str) -> Sequence[Row]:
    row = session.get("position", "inbox", log)
    stopped, names = session.get("stopped", "inbox", log, "reactions") is not None, ("log_id", "reacted", "reacted_hash", "reacted_offset")
    return [] if row is None else [{**{name: row[name] for name in names}, "is_stopped": stopped}]


async def _select_applied(session: Session, log: str) -> Sequence[Row]:
    row = session.get("position", "inbox", log)
    return [] if row is None else [{"applied": row["applied"]}]


async def _move_reacted(
    session: Session, log: str, reacted: int, hash_: bytes, offset: int, was: int, was_hash: bytes, log_id: Any
) -> Sequence[Row]:
    def fits(row: Row) -> bool:
        return (row["reacted"], row["reacted_hash"], row["log_id"]) == (was, was_hash, log_id)

    moved = await _changed(session, "inbox", log, fits, reacted=reacted, reacted_hash=hash_, reacted_offset=offset)
    return [] if moved is None else [{"reacted": reacted}]


# -- consumer.parked and consumer.blocked


async def _park(
    session: Session, consumer: str, log: str, position: int, key: str, type_: str, headers: bytes, payload: bytes, why: str, stage: str
) -> Sequence[Row]:
    if await session.lock("parked", consumer, log, position) is not None:
        raise asyncpg.UniqueViolationError("parked_pkey")
    row = {
        "consumer": consumer, "log": log, "position": position, "key": key, "type": type_, "headers": headers, "payload": payload,
        "error_class": why, "stage": stage,
    }  # fmt: skip
    await session.put(row, "parked", consumer, log, position)
    return []


async def _block(session: Session, consumer: str, log: str, stage: str, key: str, reason: str) -> Sequence[Row]:
    if await session.lock("blocked", consumer, log, stage, key) is None:
        row = {"consumer": consumer, "log": log, "stage": stage, "key": key, "reason": reason, "since": session.database.instant()}
        await session.put(row, "blocked", consumer, log, stage, key)
    return []


async def _select_blocked(session: Session, consumer: str, log: str, stage: str, keys: Sequence[str]) -> Sequence[Row]:
    return [{"key": key} for key in dict.fromkeys(keys) if session.get("blocked", consumer, log, stage, key)]


async def _recently_blocked(session: Session, consumer: str, log: str, stage: str, seconds: float) -> Sequence[Row]:
    since, found = session.database.instant() - timedelta(seconds=seconds), dict[str, int]()
    for row in session.scan("blocked"):
        if (row["consumer"], row["log"], row["stage"]) != (consumer, log, stage) or row["reason"] == "behind" or row["since"] <= since:
            continue
        named = (consumer, log, stage, row["reason"])
        if any(each["place"] == named and row["since"] <= each["until"] for each in session.scan("breaker_override")):
            continue
        if not (consumer.startswith("views@") and session.get("blocked", "views", log, stage, row["key"])):
            found[row["reason"]] = found.get(row["reason"], 0) + 1
    return [{"reason": reason, "keys": keys} for reason, keys in found.items()]


async def _stopped(session: Session, consumer: str, log: str, stage: str, reason: str, keys: int) -> Sequence[Row]:
    await session.put({"reason": reason, "keys": keys}, "stopped", consumer, log, stage)
    return []


async def _go_on(session: Session, consumer: str, log: str, stage: str) -> Sequence[Row]:
    if session.get("stopped", consumer, log, stage) is not None and await session.lock("stopped", consumer, log, stage) is not None:
        await session.put(None, "stopped", consumer, log, stage)
    return []


async def _select_discarded(session: Session, consumer: str, log: str, stages: Sequence[str], ids: Sequence[Any]) -> Sequence[Row]:
    return [{"event_id": each} for stage in stages for each in dict.fromkeys(ids) if session.get("discarded", consumer, log, stage, each)]


async def _select_at_lookups(session: Session, log: str, positions: Sequence[int]) -> Sequence[Row]:
    found = (session.get("parked", "inbox", log, each) for each in dict.fromkeys(positions))
    return [{"position": row["position"]} for row in found if row and row["stage"] == "applied"]


async def _is_blocked(session: Session, log: str, key: str) -> Sequence[Row]:
    return [{"exists": session.get("blocked", "inbox", log, "applied", key) is not None}]


# -- consumer.deadline


async def _set_deadline(
    session: Session, name: str, key: str, due_at: datetime, use_case: str, ids: str, body: str, set_by: Any, set_at: int,
    correlation_id: Any, traceparent: str | None,
) -> Sequence[Row]:  # fmt: skip
    row = {
        "name": name, "key": key, "due_at": due_at, "use_case": use_case, "ids": ids, "body": body, "set_by": set_by, "set_at": set_at,
        "correlation_id": correlation_id, "traceparent": traceparent, "failed_as": None,
    }  # fmt: skip
    await session.put(row, "deadline", name, key)
    return []


async def _clear_deadline(session: Session, name: str, key: str) -> Sequence[Row]:
    if session.get("deadline", name, key) is not None and await session.lock("deadline", name, key) is not None:
        await session.put(None, "deadline", name, key)
    return []


async def _set_by(session: Session, name: str, key: str, set_by: Any) -> Row | None:
    row = session.get("deadline", name, key)
    if row is None or row["set_by"] != set_by:
        return None
    row = await session.lock("deadline", name, key)
    return None if row is None or row["set_by"] != set_by else row


async def _forget_deadline(session: Session, name: str, key: str, set_by: Any) -> Sequence[Row]:
    if await _set_by(session, name, key, set_by) is not None:
        await session.put(None, "deadline", name, key)
    return []


async def _fail_deadline(session: Session, name: str, key: str, set_by: Any, error: str) -> Sequence[Row]:
    if (row := await _set_by(session, name, key, set_by)) is not None:
        await session.put({**row, "failed_as": error}, "deadline", name, key)
    return []


async def _select_due(session: Session, now: datetime, limit: int) -> Sequence[Row]:
    due = [row for row in session.scan("deadline") if row["failed_as"] is None and row["due_at"] <= now]
    due.sort(key=lambda row: (row["due_at"], row["set_at"]))
    names = ("name", "key", "use_case", "ids", "body", "set_by", "correlation_id", "traceparent")
    return [{name: row[name] for name in names} for row in due[:limit]]


STATEMENTS: Final[Mapping[str, Statement]] = {
    relay._SEE: _see,
    relay._SEAL: _seal,
    relay._SEALS_BETWEEN: _seals_between,
    relay._SEAL_BEFORE: _seal_before,
    relay._RECORDED_AT: _recorded_at,
    relay._WAIT_FOR_RECOVERY: _wait_for_recovery,
    relay._TIMELINE: _timeline,
    relay._COMPARED: _compared,
    readback._MARK: _mark,
    readback._SET_MARK: _set_mark,
    readback._SEALS: _seals_and_the_last,
    apply._INSERT_POSITION: _insert_position,
    apply._SELECT_POSITION: _select_position,
    apply._MOVE: _move,
    apply._PARK: _park,
    apply._BLOCK: _block,
    apply._SELECT_BLOCKED: _select_blocked,
    apply._RECENTLY_BLOCKED: _recently_blocked,
    apply._STAND_STILL: _stopped,
    apply._GO_ON: _go_on,
    apply._SELECT_DISCARDED: _select_discarded,
    inbox._SELECT_REACTED: _select_reacted,
    inbox._SELECT_APPLIED: _select_applied,
    inbox._MOVE_REACTED: _move_reacted,
    inbox._SELECT_AT_LOOKUPS: _select_at_lookups,
    inbox._IS_BLOCKED: _is_blocked,
    inbox.SET_DEADLINE: _set_deadline,
    "DELETE FROM consumer.deadline WHERE name = $1 AND key = $2": _clear_deadline,
    deadlines._SELECT_DUE: _select_due,
    deadlines._FAILED: _fail_deadline,
    "DELETE FROM consumer.deadline WHERE name = $1 AND key = $2 AND set_by = $3": _forget_deadline,
}
"""What each statement of the product does here."""


def name_of(statement: str) -> str:
    """A statement in a trace."""
    done = STATEMENTS.get(statement)
    return " ".join(statement.split())[:40] if done is None else done.__name__.strip("_")
