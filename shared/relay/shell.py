"""The shell of the relay: it looks, does the next step, and looks again from the beginning whenever an outcome is unknown."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from time import monotonic
from typing import Any, Final

import asyncpg

from shared import kafka, logs
from shared.clock import system_clock
from shared.contracts.topics import TOPICS
from shared.credentials import AccessError
from shared.errors import InvariantError, LeifengError, StoreUnavailableError
from shared.eventstore.values import EventStore
from shared.metrics import Metrics
from shared.postgres import Pool, connect
from shared.relay.publisher import Publish, Publisher
from shared.relay.readback import READ_BACK_SECONDS, Board, Findings, ReadBack, read, reading, wait
from shared.relay.steps import START, Found, Link, Outgoing, Seen, Step, Tail, as_sealed, chained, next_step, tail_of
from shared.settings import Servers

CHANNEL: Final = "es_appended"
"""The store notifies here after a commit; it only wakes, the poll finds what a lost notification was about."""
PAGE_EVENTS_MAX: Final = 1000
TAIL_RECORDS: Final = 2 * PAGE_EVENTS_MAX
"""How many of the topic's last records are read for the resume position: a late relay's page may stand behind the newest one."""
HEADS_SECONDS: Final = 2.0
GATHER_SECONDS: Final = 0.005
"""Pages are sealed at least this far apart under load; the first event after a rest does not wait."""
POLL_SECONDS_MAX: Final = 2.0
"""How long the relay rests at most when nobody has said that there is something: as often as it says its heads."""
AGAIN_SECONDS: Final = 1.0
STOP_SECONDS_MAX: Final = 2.0
BACKOFF_SECONDS: Final = (0.1, 0.2, 0.5, 1.0, 2.0)

_log = logs.logger()


class FencedError(LeifengError):
    """Another relay has sealed meanwhile: this one gives the role up."""


class ForeignTopicError(LeifengError):
    """The topic holds another log and nothing of ours: a wrong cluster, a wrong prefix, or a log that was made anew."""


TRANSIENT: Final = (
    *kafka.LOST_ERRORS, kafka.TopicsError, ForeignTopicError, StoreUnavailableError, asyncpg.InterfaceError, asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError, asyncpg.InsufficientResourcesError, asyncpg.LockNotAvailableError,
)  # fmt: skip
"""After these the relay looks again, from the beginning, until it works or is told to stop."""

_SEE: Final = """
    SELECT log.state, coalesce((SELECT max(position) FROM es.event), 0) AS head, seal.position, seal.hash
    FROM es.log LEFT JOIN LATERAL (SELECT position, hash FROM es.seal ORDER BY position DESC LIMIT 1) AS seal ON true
"""
_SEAL: Final = "INSERT INTO es.seal (previous, position, hash) VALUES ($1, $2, $3)"
_SEALS_BETWEEN: Final = "SELECT position, hash FROM es.seal WHERE position > $1 AND position <= $2 ORDER BY position"
_SEAL_BEFORE: Final = "SELECT position, hash FROM es.seal WHERE position <= $1 ORDER BY position DESC LIMIT 1"
_RECORDED_AT: Final = "SELECT recorded_at FROM es.event WHERE position = $1"
_WAIT_FOR_RECOVERY: Final = "SELECT es.wait_for_recovery()"
_TIMELINE: Final = "SELECT es.timeline()"
_COMPARED: Final = "SELECT es.compared_with_kafka($1)"


class Relay:
    """The work of the role `relay` for one service. `run` may be called again after it has ended."""

    def __init__(
        self, store: EventStore, pool: Pool, dsn: str, servers: Servers, prefix: str, metrics: Metrics, *,
        figures: Callable[[], Mapping[str, Mapping[str, int]]] = dict, reads: Callable[[], Mapping[str, Any] | None] = lambda: None,
        publish: Publish | None = None,
    ) -> None:  # fmt: skip
        """`pool` acts as the app role; `dsn` is for the connection that listens. `figures` is what was counted of the log, to be said
        with the heads, and `reads` the head of the chain of reads of personal data. `publish` is for tests that end the process in it.
        """
        self._store = store
        self._pool = pool
        self._dsn = dsn
        self._servers = servers
        self._prefix = prefix
        self._metrics = metrics
        self._figures = figures
        self._reads = reads
        self._topic = kafka.topic_name(prefix, f"{store.service}.events")
        self._publisher = Publisher(servers, prefix, store.service, metrics)
        self._publish = publish or self._publisher.publish
        self._board = Board()
        self._findings = Findings(metrics, self._topic)
        self._sealed: Link | None = None
        self._page: Sequence[Outgoing] = ()
        self._next_offset = 0
        self._again_until = 0
        self._known_published = 0
        self._last_sealed_at = 0.0
        self._heads_due_at = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Relays until `stop` is set, then ends within five seconds. Raises FencedError, and what it has no answer to."""
        tasks = [asyncio.create_task(work) for work in (self._work(), self._read_back(), self._listen())]
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({stopped, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            failed = [task for task in tasks if task.done() and not task.cancelled() and task.exception() is not None]
            for task in (stopped, *tasks):
                task.cancel()
            await asyncio.wait(tasks, timeout=STOP_SECONDS_MAX)
            await self._publisher.close()
            self._forget()
        for task in failed:
            task.result()

    async def compare(self) -> None:
        """Closes the log for recovery if Kafka holds what it does not: for the time before a process appends. Raises TRANSIENT errors."""
        try:
            await self._read_tail()
        finally:
            self._forget()

    async def _work(self) -> None:
        attempt = 0
        idle = 0.0
        while True:
            try:
                step = await self._once()
                attempt = 0
                idle = min(2 * idle + 0.02, POLL_SECONDS_MAX) if step is Step.REST else 0.0
                if step is Step.REST:
                    await wait(self._board.wake, min(idle, self._heads_due_at - monotonic()))
                elif step is Step.WAIT_FOR_RECOVERY:
                    await asyncio.sleep(AGAIN_SECONDS)
            except TRANSIENT as error:
                cause = type(error).__name__
                self._metrics.retries_total.labels(cause).inc()
                reason = str(error) if isinstance(error, (kafka.TopicsError, AccessError)) else None
                _log.warning("relay_looks_again", error=cause, topic=self._topic, reason=reason)
                self._forget()
                await self._publisher.drop(cause)
                await asyncio.sleep(BACKOFF_SECONDS[min(attempt, len(BACKOFF_SECONDS) - 1)])
                attempt += 1

    def _forget(self) -> None:
        self._sealed = self._board.published = None
        self._page = ()

    async def _once(self) -> Step:
        """Looks at the store and does one step."""
        self._board.wake.clear()
        seen = await self._see()
        step = next_step(seen, self._board.published, self._board.hole)
        self._metrics.log_recovering.set(step is Step.WAIT_FOR_RECOVERY)
        if step is Step.WAIT_FOR_RECOVERY:
            self._forget()
            self._board.hole = None
            return step
        if self._board.published is not None and monotonic() >= self._heads_due_at:
            await self._say_heads(seen, self._board.published)
        if step is Step.READ_TAIL:
            await self._read_tail()
        elif step is Step.SEAL:
            await self._seal(seen)
        elif step is Step.REPUBLISH and self._board.published is not None and self._board.hole is not None:
            await self._begin_at(self._board.hole, self._board.published)
        elif step is Step.PUBLISH and self._board.published is not None:
            await self._publish_page(self._board.published, seen.sealed)
        return step

    async def _see(self) -> Seen:
        row = await self._pool.fetchrow(_SEE)
        if row is None:
            raise InvariantError("the database has no log")
        sealed = START if row["position"] is None else Link(row["position"], row["hash"])
        if self._sealed is not None and self._sealed != sealed:
            self._fenced()
        self._sealed = sealed
        head: int = row["head"]
        await self._show(head)
        return Seen(row["state"], head, sealed)

    async def _show(self, head: int) -> None:
        """Sets the gauges; also while Kafka is away, when the last known published position stands."""
        if self._board.published is not None:
            self._known_published = self._board.published.position
        published = min(self._known_published, head)
        oldest: datetime | None = await self._pool.fetchval(_RECORDED_AT, published + 1) if published < head else None
        self._metrics.log_head_position.set(head)
        self._metrics.log_published_position.set(published)
        self._metrics.relay_backlog_events.set(head - published)
        self._metrics.relay_oldest_unpublished_timestamp_seconds.set(0.0 if oldest is None else oldest.timestamp())

    def _fenced(self) -> None:
        self._metrics.relay_fenced_total.inc()
        raise FencedError("another relay has sealed")

    async def _recovering(self, cause: str, position: int) -> None:
        """Kafka holds what the store does not: nothing is appended or published until `recover` has run."""
        await self._pool.execute(_WAIT_FOR_RECOVERY)
        self._findings.add(cause, position=position)
        self._forget()
        self._board.hole = None

    # -- seal and publish

    async def _seal(self, seen: Seen) -> None:
        gather = self._last_sealed_at + GATHER_SECONDS - monotonic()
        if gather > 0 and seen.head - seen.sealed.position < PAGE_EVENTS_MAX:
            await asyncio.sleep(gather)
        page = chained(seen.sealed, await self._store.read_page(seen.sealed.position, PAGE_EVENTS_MAX))
        last = page[-1].link
        try:
            await self._pool.execute(_SEAL, seen.sealed.position, last.position, last.hash)
        except asyncpg.UniqueViolationError:
            self._fenced()
        self._last_sealed_at = monotonic()
        self._sealed = last
        self._page = page

    async def _publish_page(self, published: Link, sealed: Link) -> None:
        page = self._page
        if not page or page[0].link.position != published.position + 1:
            page = await self._sealed_page(published, sealed)
        self._page = ()
        offsets = await self._publish(page)
        expected = list(range(self._next_offset, self._next_offset + len(page)))
        if list(offsets) != expected:  # Another producer, or a topic that was cut or made anew.
            self._findings.add("jump", position=page[0].link.position, offset=offsets[0])
            self._board.read_back_due.set()
        self._next_offset = offsets[-1] + 1
        self._board.published = page[-1].link
        again = max(0, min(self._again_until, page[-1].link.position) - published.position)
        self._metrics.relay_republished_total.inc(again)
        self._metrics.relay_published_total.inc(len(page) - again)

    async def _begin_at(self, hole: Link, published: Link) -> None:
        """Publishes again from the hole on, if the topic's chain before it is the store's."""
        if await self._hash_at(hole.position) != hole.hash:
            await self._recovering("diverged", hole.position)
            return
        self._again_until = max(published.position, self._again_until)
        self._board.published, self._board.hole, self._page = hole, None, ()

    async def _sealed_page(self, after: Link, sealed: Link) -> Sequence[Outgoing]:
        records = await self._store.read_page(after.position, min(PAGE_EVENTS_MAX, sealed.position - after.position))
        page = chained(after, records)
        if not page:
            raise InvariantError(f"the store has no events after {after.position}, and is sealed up to {sealed.position}")
        seals = await self._pool.fetch(_SEALS_BETWEEN, after.position, page[-1].link.position)
        return as_sealed(page, [Link(row["position"], row["hash"]) for row in seals])

    async def _say_heads(self, seen: Seen, published: Link) -> None:
        heads = {
            "log_id": str(self._board.log_id),
            "head": seen.head,
            "sealed": seen.sealed.position,
            "published": published.position,
            "chain_hash": seen.sealed.hash.hex(),
            "time": (await system_clock()).isoformat(),
            "figures": self._figures(),
            "reads": self._reads(),
        }
        await self._publisher.say(json.dumps(heads).encode())
        self._heads_due_at = monotonic() + HEADS_SECONDS

    # -- where to go on

    async def _read_tail(self) -> None:
        """Finds out where the topic ends, and whether it is a copy of this log; if so, appends may go on under a new timeline.

        A synchronous standby then has what is sealed: the wait of a seal may have been broken off.
        """
        service = self._store.service
        await kafka.ensure_topics(self._servers, self._prefix, [TOPICS[f"{service}.events"], TOPICS[f"{service}.heads"]])
        self._board.log_id = (await self._store.head()).log_id
        timeline = await self._pool.fetchval(_TIMELINE)
        async with reading(self._servers, self._topic, f"{service}.relay.tail") as consumer:
            first, end = await kafka.offsets(consumer, self._topic)
            records: list[Found] = []
            consumer.seek(kafka.only_partition(self._topic), max(first, end - TAIL_RECORDS))
            while found := await read(consumer, self._topic, end):
                records += found
        head = (await self._store.head()).position  # After the topic: what was published before was appended before.
        tail = tail_of(self._board.log_id, records)
        if tail.foreign and tail.linked is None and not tail.loose:
            self._findings.add("foreign", offset=end)
            raise ForeignTopicError(self._topic)
        resume = await self._resume(tail, head)
        if resume is not None:
            await self._pool.execute(_COMPARED, timeline)
            self._next_offset = end
            self._board.published = resume
            self._board.read_back_due.set()

    async def _resume(self, tail: Tail, head: int) -> Link | None:
        """The highest link that topic and store agree on; None when the log has to wait for recovery."""
        for said in (tail.linked,) if tail.linked is not None else tail.loose:
            if said.position > head:
                await self._recovering("ahead", said.position)
                return None
            if said.hash == await self._hash_at(said.position):
                return said
            if said is tail.linked:
                await self._recovering("diverged", said.position)
                return None
        return START

    async def _hash_at(self, position: int) -> bytes:
        """The hash after `position` by the store's events, from the nearest seal on."""
        row = await self._pool.fetchrow(_SEAL_BEFORE, position)
        link = START if row is None else Link(row["position"], row["hash"])
        while link.position < position:
            page = await self._store.read_page(link.position, min(PAGE_EVENTS_MAX, position - link.position))
            link = chained(link, page)[-1].link
        return link.hash

    # -- beside the work

    async def _read_back(self) -> None:
        client_id = f"{self._store.service}.relay.back"
        reader = ReadBack(self._pool, self._servers, self._topic, client_id, self._board, self._findings, self._diverged)
        while True:
            try:
                await reader.run()
            except TRANSIENT as error:
                _log.warning("read_back_again", error=type(error).__name__, topic=self._topic)
                await asyncio.sleep(READ_BACK_SECONDS)

    async def _diverged(self, position: int) -> None:
        await self._recovering("diverged", position)

    async def _listen(self) -> None:
        """Wakes the work when the store says that something was appended."""
        while True:
            with contextlib.suppress(*TRANSIENT):
                await self._listen_once()
            await asyncio.sleep(AGAIN_SECONDS)

    async def _listen_once(self) -> None:
        connection = await connect(self._dsn, f"{self._store.service}.relay.ears")
        gone = asyncio.Event()
        try:
            connection.add_termination_listener(lambda *_: gone.set())
            await connection.add_listener(CHANNEL, lambda *_: self._board.wake.set())
            await gone.wait()
        finally:
            connection.terminate()
