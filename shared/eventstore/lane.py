"""The writer lane (D3): while one call is under way the next batch gathers, so that lock, round trip and flush are paid once for many.

An idle lane writes at once. There is one lane a process, on one connection of its own, which is dropped after any trouble and never
used again: what an interrupted call did is unknown, and its command ids will tell.
"""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final
from uuid import UUID

import asyncpg

from shared import logs
from shared.errors import InvariantError, LogClosedError, StoreUnavailableError
from shared.eventstore.values import (
    APPEND_EVENTS_MAX,
    Answer,
    AppendRequest,
    AppendResult,
    ClaimTaken,
    Conflict,
    FingerprintMismatch,
    check,
    refusal_of,
    refusal_text,
)
from shared.metrics import Metrics
from shared.postgres import ABSENT, Connection, Pool

CALL_SECONDS_MAX: Final = 3.0
"""One call of the database."""
ACQUIRE_SECONDS_MAX: Final = 3.0
WAIT_SECONDS_MAX: Final = 4.4
"""The whole wait of one caller; within the 5 s of an HTTP request."""
WAITING_MAX: Final = 5_000
"""Requests that wait for a batch; one more is told that the store is not available."""
BATCH_EVENTS_MAX: Final = 2_000
BATCH_BYTES_MAX: Final = 4 * 1024 * 1024
NOTIFY_CHANNEL: Final = "es_appended"
NOTIFY_SPACING_SECONDS: Final = 0.005

LOG_CLOSED: Final = "LF001"
_APPEND: Final = """
    SELECT verdicts, first_positions, event_counts, refusals, actual_versions, taken
    FROM es.append(
        $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14,   -- requests
        $15, $16, $17, $18, $19, $20,                                  -- events
        $21, $22, $23, $24                                             -- claims
    )
"""
_SELECT_MOVED: Final = "SELECT es.moved()"
_NOTIFY: Final = f"NOTIFY {NOTIFY_CHANNEL}"

_log = logs.logger()

_REFUSED_CLASSES: Final = frozenset({"22", "23", "LF"})
"""SQLSTATE classes (data, integrity, our own) that will be the same however often they are tried."""


@dataclass(slots=True, eq=False)
class _Waiting:
    request: AppendRequest
    result: asyncio.Future[AppendResult]
    keys: frozenset[object]
    size_bytes: int
    until: float


class Lane:
    """Appends for one process. Call `close` at the end; it gives the connection back."""

    def __init__(self, pool: Pool, metrics: Metrics) -> None:
        self._pool = pool
        self._metrics = metrics
        self._waiting: deque[_Waiting] = deque()
        self._asking: deque[_Waiting] = deque()  # Until each is answered, the oldest first: one timer for all of them.
        self._watch: asyncio.TimerHandle | None = None
        self._arrived = asyncio.Event()
        self._appended = asyncio.Event()
        self._connection: Any = None
        self._tasks = [asyncio.create_task(self._run(), name="lane"), asyncio.create_task(self._notify(), name="lane-notify")]

    async def append(self, request: AppendRequest) -> AppendResult:
        """Waits until the request's batch is committed. Raises as EventStore says, and ValueError for what must not be sent."""
        check(request)
        if len(self._waiting) >= WAITING_MAX:
            raise StoreUnavailableError("too many requests wait for the store")
        if self._tasks[0].done():
            raise StoreUnavailableError("the store is closed")
        started = monotonic()
        result: asyncio.Future[AppendResult] = asyncio.get_running_loop().create_future()
        size_bytes = sum(len(each.payload) for each in request.events)
        waiting = _Waiting(request, result, _keys(request), size_bytes, started + WAIT_SECONDS_MAX)
        self._waiting.append(waiting)
        self._asking.append(waiting)
        if self._watch is None:
            self._look()
        self._arrived.set()
        said = await result
        metrics, category = self._metrics, request.stream.category
        metrics.of(metrics.event_store_append_duration_seconds, category).observe(monotonic() - started)
        if isinstance(said, Conflict):
            metrics.of(metrics.event_store_conflicts_total, category).inc()
        return said

    def _look(self) -> None:
        """Tells whoever has waited for too long, and comes again when the next one will have."""
        asking, now = self._asking, monotonic()
        while asking and (asking[0].result.done() or asking[0].until <= now):
            _fail([asking.popleft()], StoreUnavailableError("the store did not answer in time"))
        self._watch = asyncio.get_running_loop().call_later(asking[0].until - now, self._look) if asking else None

    async def close(self) -> None:
        """Ends the lane; who still waits is told that the store is not available."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        _fail(self._waiting, StoreUnavailableError("the store is closed"))
        self._waiting.clear()
        if self._watch is not None:
            self._watch.cancel()
        await self._drop()

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                batch = self._next_batch()
                try:
                    await self._write(batch)
                finally:
                    _fail(batch, StoreUnavailableError("the store was closed meanwhile"))
                await asyncio.sleep(0)  # Who was just answered may have more to say: it joins the next batch.

    def _next_batch(self) -> list[_Waiting]:
        """The oldest requests that do not meet in a stream, a command id or a claim; the others wait for the next batch, in order."""
        batch: list[_Waiting] = []
        later: list[_Waiting] = []
        taken: set[object] = set()
        events = size_bytes = 0
        while self._waiting and len(batch) < APPEND_EVENTS_MAX:
            each = self._waiting.popleft()
            if each.result.done():  # Its caller has gone.
                continue
            events += len(each.request.events)
            size_bytes += each.size_bytes
            if batch and (events > BATCH_EVENTS_MAX or size_bytes > BATCH_BYTES_MAX):
                later.append(each)
                break
            (batch if taken.isdisjoint(each.keys) else later).append(each)
            taken |= each.keys
        self._waiting.extendleft(reversed(later))
        return batch

    async def _write(self, batch: Sequence[_Waiting]) -> None:
        if not batch:
            return
        try:
            results = await self._call([each.request for each in batch])
        except InvariantError as error:
            if len(batch) == 1:
                _fail(batch, error)
                return
            for each in batch:  # One of them spoils it for all.
                if not each.result.done():
                    await self._write([each])
            return
        except (StoreUnavailableError, LogClosedError) as error:
            _fail(batch, error)
            return
        except Exception as error:  # noqa: BLE001  # A lane that ends would end every append of the process.
            await self._drop()
            _fail(batch, error)
            return
        for each, result in zip(batch, results, strict=True):
            if not each.result.done():
                each.result.set_result(result)
        while self._asking and self._asking[0].result.done():  # What was answered is held no longer.
            self._asking.popleft()
        self._count(batch, results)

    def _count(self, batch: Sequence[_Waiting], results: Sequence[AppendResult]) -> None:
        written = [
            event.type
            for each, result in zip(batch, results, strict=True)
            if isinstance(result, Answer) and not result.repeated
            for event in each.request.events
        ]
        if written:
            self._appended.set()
        for event_type, count in Counter(written).items():
            self._metrics.of(self._metrics.events_appended_total, event_type).inc(count)

    async def _call(self, requests: Sequence[AppendRequest]) -> Sequence[AppendResult]:
        try:
            connection = await self._connected()
            row = await connection.fetchrow(_APPEND, *_arrays(requests), timeout=CALL_SECONDS_MAX)
        except asyncpg.PostgresError as error:
            state = error.sqlstate or ""
            if state == LOG_CLOSED:
                raise LogClosedError(str(error.args[0])) from None
            if state[:2] in _REFUSED_CLASSES:
                raise InvariantError(f"the database refuses an append: {state} {getattr(error, 'constraint_name', None) or ''}") from None
            raise await self._unavailable(error) from error
        except ABSENT as error:
            if isinstance(error, ValueError):  # The driver's word for an argument that does not fit its type.
                raise InvariantError("an append does not fit its types") from None
            raise await self._unavailable(error) from error
        except asyncio.CancelledError:
            await self._drop()
            raise
        assert row is not None
        return _results(requests, row)

    async def _connected(self) -> Connection:
        """The lane's connection; a new one first learns whether this is still the server that the log was stamped with."""
        if self._connection is not None and not _is_open(self._connection):
            await self._drop()
        if self._connection is None:
            async with asyncio.timeout(ACQUIRE_SECONDS_MAX):
                self._connection = await self._pool.acquire()
                moved = await self._connection.fetchval(_SELECT_MOVED)
            if moved is not None:
                await self._drop()
                raise LogClosedError(moved)
        return self._connection  # type: ignore[no-any-return]

    async def _unavailable(self, error: BaseException) -> StoreUnavailableError:
        await self._drop()
        self._metrics.db_errors_total.labels("lane", type(error).__name__).inc()
        _log.warning("append_failed", error=type(error).__name__)
        return StoreUnavailableError("the store did not answer")

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(*ABSENT):  # A pool takes a connection back by itself when it finds it broken.
                connection.terminate()
                await self._pool.release(connection)

    async def _notify(self) -> None:
        """Wakes the worker after commits, apart from them; one notice stands for all that came while the last was under way."""
        while True:
            await self._appended.wait()
            self._appended.clear()
            try:
                await self._pool.execute(_NOTIFY, timeout=CALL_SECONDS_MAX)
            except ABSENT as error:  # The worker also polls.
                self._metrics.db_errors_total.labels("lane", type(error).__name__).inc()
            await asyncio.sleep(NOTIFY_SPACING_SECONDS)


def _is_open(connection: Any) -> bool:
    try:
        return not connection.is_closed()
    except asyncpg.InterfaceError:
        return False


def _fail(waiting: Iterable[_Waiting], error: Exception) -> None:
    for each in waiting:
        if not each.result.done():
            each.result.set_exception(error)


def _keys(request: AppendRequest) -> frozenset[object]:
    """What a batch may hold only once."""
    return frozenset((request.stream, request.command_id, *request.take, *request.release))


def _arrays(requests: Sequence[AppendRequest]) -> tuple[list[Any], ...]:
    """The arguments of `es.append`: a list for each column of requests, events and claims."""
    events = [(n, index, event) for n, request in enumerate(requests, 1) for index, event in enumerate(request.events)]
    claims = [
        (n, take, claim)
        for n, request in enumerate(requests, 1)
        for take, given in ((True, request.take), (False, request.release))
        for claim in given
    ]
    return (
        [each.command_id for each in requests],
        [each.fingerprint for each in requests],
        [each.stream.category for each in requests],
        [each.stream.id for each in requests],
        [each.expected_version for each in requests],
        [len(each.events) for each in requests],
        [refusal_text(each) for each in requests],
        [each.keep_answer for each in requests],
        [each.time for each in requests],
        [each.correlation_id for each in requests],
        [each.causation_id for each in requests],
        [each.actor for each in requests],
        [each.partition_key for each in requests],
        [each.traceparent for each in requests],
        [n for n, _, _ in events],
        [index for _, index, _ in events],
        [event.event_id for _, _, event in events],
        [event.type for _, _, event in events],
        [event.schema_version for _, _, event in events],
        [event.payload for _, _, event in events],
        [n for n, _, _ in claims],
        [take for _, take, _ in claims],
        [claim.scope for _, _, claim in claims],
        [claim.value for _, _, claim in claims],
    )


def _results(requests: Sequence[AppendRequest], row: asyncpg.Record) -> list[AppendResult]:
    claims = [claim for request in requests for claim in (*request.take, *request.release)]
    results: list[AppendResult] = []
    for request, verdict, position, count, refusal, version, taken in zip(requests, *row.values(), strict=True):
        match verdict:
            case "new" | "repeat":
                results.append(answer(request.command_id, position, count, refusal, repeated=verdict == "repeat"))
            case "conflict":
                results.append(Conflict(version))
            case "claim taken":
                results.append(ClaimTaken(claims[taken - 1]))
            case _:
                results.append(FingerprintMismatch())
    return results


def answer(command_id: UUID, position: int, count: int, refusal: str | None, *, repeated: bool) -> Answer:
    """An answer from how it is kept."""
    said = None if refusal is None else refusal_of(refusal)
    return Answer(command_id, "accepted" if said is None else "refused", position, count, said, repeated)
