"""What a service's inbox does after its look-ups: reactions, stage two of the same position (D10), and the fold of deadlines, stage one."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from pydantic_core import to_json

from shared import deadlines, ids
from shared.application import Command
from shared.clock import Clock
from shared.consumer.apply import (
    BEHIND,
    DETERMINISTIC,
    POOL_WAIT_SECONDS,
    Breaker,
    BreakerError,
    Consumer,
    Entry,
    FencedError,
    Message,
    Park,
    Part,
    Place,
    Read,
    blocked_keys,
    decoded,
    follow,
    given_up,
    open_sealed,
    park,
    tally,
)
from shared.consumer.setting import Setting
from shared.consumer.shell import FINAL, StoppedError, insist, together
from shared.consumer.values import DeadlineCleared, Deadlines, DeadlineSet, Fact, Fold, NotYetError, Reaction, system_actor
from shared.contracts.topics import subscribed
from shared.errors import BehindParkedError, CallerError, StreamConflictError, TransientError
from shared.eventstore.submit import Submit
from shared.lifecycle import pause
from shared.postgres import Connection

L = TypeVar("L")

KEYS_AT_ONCE_MAX: Final = 64
"""Keys whose commands are under way together; they share the group commit."""
_AGAIN_SECONDS: Final = 0.01


def parts(setting: Setting) -> Sequence[Part]:
    """What the look-ups, and for the own log the deadlines, do with each source log."""
    made: list[Part] = []
    for source, types in subscribed(f"{setting.service}.inbox").items():
        folds = [each.fold for each in setting.consumers.look_ups if each.source == source]
        own = source == setting.service
        if own:
            folds.append(deadline_fold(setting.consumers.deadlines))
        made.append(
            Part(consumer="inbox", source=source, types=types, folds=folds, codec=setting.codec, keys=setting.keys if own else None)
        )
    return made


async def run_inbox(setting: Setting, submit: Submit, look_ups: Any, clock: Clock, stop: asyncio.Event) -> None:
    """Look-ups and deadlines, then reactions, each source log by itself; and due deadlines are fired.

    Returns on stop. Raises what ends a consumer: FencedError, BreakerError, NewerVersionError.
    """
    reading = {
        each.source: setting.subscription(Consumer(each, setting.pool, setting.metrics), each.source, stop) for each in parts(setting)
    }

    async def caught_up(source: str) -> None:
        await reading[source].caught_up()

    await together(
        *(each.run() for each in reading.values()),
        *(setting.subscription(each, each.part.source, stop).run() for each in reactors(setting, submit, look_ups, caught_up, stop)),
        deadlines.run(setting.pool, setting.consumers, submit, clock, stop, setting.metrics),
    )


def reactors(
    setting: Setting, submit: Submit, look_ups: Any, caught_up: Callable[[str], Awaitable[None]], stop: asyncio.Event
) -> "Sequence[Reactor[Any]]":
    """One for each source log that has reactions."""
    reacting = {each.source for each in setting.consumers.reactions}
    return [Reactor(part, setting, submit, look_ups, caught_up, stop) for part in parts(setting) if part.source in reacting]


class _ChangedError(TransientError):
    """Keys were released while their reactions were under way, or what was done is done: look again."""


def deadline_fold(say: Deadlines) -> Fold:
    """The fold that keeps `consumer.deadline`, in the transaction of the look-ups. The last word on a (name, key) counts."""

    async def fold(connection: Connection, facts: Sequence[Fact]) -> None:
        said: dict[tuple[str, str], tuple[DeadlineSet | DeadlineCleared, Fact]] = {}
        for fact in facts:
            said.update({(each.name, each.key): (each, fact) for each in say(fact)})
        for each, fact in said.values():
            if isinstance(each, DeadlineCleared):
                await connection.execute("DELETE FROM consumer.deadline WHERE name = $1 AND key = $2", each.name, each.key)
                continue
            record, command = fact.record, each.command
            await connection.execute(
                SET_DEADLINE, each.name, each.key, each.due_at, command.use_case.name, to_json(dict(command.ids)).decode(),
                command.body.model_dump_json(), record.event_id, record.position, record.correlation_id, record.traceparent,
            )  # fmt: skip

    return fold


@dataclass(frozen=True, slots=True)
class _Picture:
    """What an operator may change meanwhile: events that wait at the look-ups (their release reacts), keys blocked at the reactions, and
    events that were given up."""

    at_lookups: frozenset[int]
    blocked: frozenset[str]
    gone: frozenset[UUID]


class Reactor(Generic[L]):
    """Turns the events of one source log into commands, each once, up to where the look-ups have applied it."""

    def __init__(
        self, part: Part, setting: Setting, submit: Submit, look_ups: L, caught_up: Callable[[str], Awaitable[None]], stop: asyncio.Event
    ) -> None:
        """`part` is that of the look-ups. `caught_up(source)` waits until they have read to the source's end of now."""
        self.part = part
        self.place = Place()
        self._reactions: list[Reaction[L]] = [each for each in setting.consumers.reactions if each.source == part.source]
        self._types = frozenset[str]().union(*(each.types for each in self._reactions))
        self._look_ups = look_ups
        self._submit = submit
        self._caught_up = caught_up
        self._pool = setting.pool
        self._actor = system_actor(setting.service)
        self._stop = stop
        self._metrics = setting.metrics
        self._breaker = Breaker()
        self._unsure: Place | None = None
        self._at_once = asyncio.Semaphore(KEYS_AT_ONCE_MAX)

    @property
    def name(self) -> str:
        return "reactions"

    @property
    def position(self) -> int:
        return self.place.position

    @property
    def offset(self) -> int:
        return self.place.offset

    async def begin(self) -> int:
        """Loads how far reactions have been answered; the Kafka offset to begin at."""
        row = await self._pool.fetchrow(_SELECT_REACTED, self.part.source)
        if row is not None:
            # The log's id is pinned by the look-ups, which have verified the same chain at least as far.
            self.place = Place(row["log_id"], row["reacted"], row["reacted_hash"], row["reacted_offset"])
            self._breaker.is_tripped = row["is_stopped"]
        return self.place.offset

    async def take(self, messages: Sequence[Message]) -> bool | None:
        """Reacts to what comes next, waiting for the look-ups to be there first. As `Consumer.take`, it may be called again."""
        run = follow(self.part.source, self.place, messages)
        while run.entries:
            applied = await self._pool.fetchval(_SELECT_APPLIED, self.part.source) or 0
            ready = [each for each in run.entries if each.record.position <= applied]
            if ready:
                await self._answer(ready)
                del run.entries[: len(ready)]
            elif await pause(self._stop, _AGAIN_SECONDS):
                raise StoppedError
        return run.gap

    async def _answer(self, entries: Sequence[Entry]) -> None:
        place = entries[-1].place
        wanted = [each for each in entries if each.record.type in self._types]
        self._breaker.meet(entries)
        parks: list[Park] = []
        picture = _Picture(frozenset(), frozenset(), frozenset())
        if wanted:
            async with self._pool.acquire(timeout=POOL_WAIT_SECONDS) as connection:
                picture = await self._picture(connection, wanted)
                free = [
                    each for each in wanted if each.record.position not in picture.at_lookups and each.record.event_id not in picture.gone
                ]
                reads = [read for each in free if (read := decoded(self.part, each))]
                await open_sealed(self.part, connection, reads)
            parks = await self._react_by_key(reads, picture.blocked)
        try:
            async with self._pool.acquire(timeout=POOL_WAIT_SECONDS) as connection, connection.transaction():
                await self._move(connection, place)
                await self._see_unchanged(connection, wanted, picture)
                await park(connection, "inbox", "reactions", parks, blocks=True)
                if parks:
                    await self._breaker.check(connection, "inbox", self.part.source, "reactions")
                await self._breaker.go_on(connection, "inbox", self.part.source, "reactions")
        except BreakerError as error:
            await self._breaker.stand_still(self._pool, error)
            raise
        except FencedError:
            was = self.place
            await self.begin()
            if self._unsure is None or self.place.position != self._unsure.position or self.place.hash != self._unsure.hash:
                self.place = was
                self._count("fenced", len(entries))
                raise
            self._unsure = None
            if self.place.position != place.position:
                raise _ChangedError from None  # The try before went through, and went less far: the look-ups have read on since.
        except Exception:
            self._unsure = place
            raise
        self.place, self._unsure, self._breaker.is_tripped = place, None, False
        self._count("parked", len(parks))
        self._count("discarded", len(picture.gone))
        self._count("applied", len(entries) - len(parks) - len(picture.gone))

    def _count(self, result: str, number: int) -> None:
        tally(self._metrics, "reactions", result, number)

    async def _move(self, connection: Connection, place: Place) -> None:
        was = self.place
        moved = await connection.fetchval(
            _MOVE_REACTED, self.part.source, place.position, place.hash, place.offset, was.position, was.hash, place.log_id
        )
        if moved is None:
            raise FencedError(f"reactions to {self.part.source} are not at {was.position} any more")

    async def _see_unchanged(self, connection: Connection, wanted: Sequence[Entry], picture: _Picture) -> None:
        """A release locks the position row, as this transaction does now: what it changed before is seen here, or it comes after."""
        if wanted and await self._picture(connection, wanted) != picture:
            raise _ChangedError

    async def _picture(self, connection: Connection, entries: Sequence[Entry]) -> _Picture:
        positions = [each.record.position for each in entries]
        rows = await connection.fetch(_SELECT_AT_LOOKUPS, self.part.source, positions)
        blocked = await blocked_keys(connection, self.part, entries, "reactions")
        gone = await given_up(connection, self.part, entries, "applied", "reactions")
        return _Picture(frozenset(row["position"] for row in rows), frozenset(blocked), frozenset(gone))

    async def _react_by_key(self, reads: Sequence[Read], blocked: frozenset[str]) -> list[Park]:
        """Commands of one key in order of position, different keys together; what is to be parked, in order."""
        by_key = defaultdict[str, list[Read]](list)
        for each in reads:
            by_key[each.entry.record.partition_key].append(each)
        found = await asyncio.gather(*(self._react_in_order(each, key in blocked) for key, each in by_key.items()))
        return sorted((each for parks in found for each in parks), key=lambda one: one.record.position)

    async def _react_in_order(self, reads: Sequence[Read], blocked: bool) -> list[Park]:
        parks: list[Park] = []
        async with self._at_once:
            for each in reads:
                why = BEHIND if blocked or parks else await self._react_or_say_why(each)
                if why is not None:
                    parks.append(Park(each.entry.record, each.entry.headers, why))
        return parks

    async def _react_or_say_why(self, read: Read) -> str | None:
        if read.fact is None:
            return type(read.error).__name__
        try:
            await self.react(read.fact)
        except (*DETERMINISTIC, CallerError) as error:
            return type(error).__name__
        return None

    async def react(self, fact: Fact) -> None:
        """Submits what follows from one fact, in order; a repeat gets the first answers.

        Raises the errors that park its key: deterministic ones, and a CallerError of `submit` that stays wrong.
        """
        for reaction in self._reactions:
            if fact.record.type in reaction.types:
                commands = await self._insist(lambda reaction=reaction: self._commands(reaction, fact))  # type: ignore[misc]
                for index, command in enumerate(commands):
                    await self._insist(lambda i=index, c=command, name=reaction.name: self._send(name, i, c, fact))  # type: ignore[misc]

    async def would_ask(self, fact: Fact) -> Sequence[Command]:
        """What follows from one fact as things stand, without asking it."""
        return [
            command
            for reaction in self._reactions
            if fact.record.type in reaction.types
            for command in await reaction.react(fact, self._look_ups, True)
        ]

    async def _commands(self, reaction: Reaction[L], fact: Fact) -> Sequence[Command]:
        try:
            return await reaction.react(fact, self._look_ups, False)
        except NotYetError as lacking:
            await self._caught_up(lacking.source)
            key = fact.record.partition_key if lacking.key is None else lacking.key
            if await self._pool.fetchval(_IS_BLOCKED, lacking.source, key):
                raise BehindParkedError(lacking.source) from None
            return await reaction.react(fact, self._look_ups, True)

    async def _send(self, reaction: str, index: int, command: Command, fact: Fact) -> None:
        record = fact.record
        try:
            await self._submit(
                command.use_case,
                command.body,
                ids=dict(command.ids),
                actor=self._actor,
                command_id=ids.reaction_command_id(reaction, index, record.event_id),
                fingerprint=None,
                correlation_id=record.correlation_id,
                causation_id=record.event_id,
                traceparent=record.traceparent,
            )
        except StreamConflictError as error:
            raise _ChangedError from error  # Others were quicker; that passes.

    async def _insist(self, step: Callable[[], Awaitable[Any]]) -> Any:
        return await insist(step, self._stop, self._metrics, "reaction", (*FINAL, *DETERMINISTIC, CallerError, StoppedError))


SET_DEADLINE: Final = """
    INSERT INTO consumer.deadline (name, key, due_at, use_case, ids, body, set_by, set_at, correlation_id, traceparent)
    VALUES ($1, $2, $3, $4, $5::jsonb, $6::jsonb, $7, $8, $9, $10)
    ON CONFLICT (name, key) DO UPDATE SET due_at = excluded.due_at, use_case = excluded.use_case, ids = excluded.ids, body = excluded.body,
        set_by = excluded.set_by, set_at = excluded.set_at, correlation_id = excluded.correlation_id, traceparent = excluded.traceparent,
        failed_as = NULL
"""
_SELECT_REACTED: Final = """
    SELECT log_id, reacted, reacted_hash, reacted_offset,
        EXISTS (SELECT FROM consumer.stopped WHERE consumer = 'inbox' AND log = $1 AND stage = 'reactions') AS is_stopped
    FROM consumer.position WHERE consumer = 'inbox' AND log = $1
"""
_SELECT_APPLIED: Final = "SELECT applied FROM consumer.position WHERE consumer = 'inbox' AND log = $1"
_MOVE_REACTED: Final = """
    UPDATE consumer.position SET reacted = $2, reacted_hash = $3, reacted_offset = $4
    WHERE consumer = 'inbox' AND log = $1 AND reacted = $5 AND reacted_hash = $6 AND log_id = $7
    RETURNING reacted
"""
_SELECT_AT_LOOKUPS: Final = """
    SELECT position FROM consumer.parked
    WHERE consumer = 'inbox' AND log = $1 AND stage = 'applied' AND position = ANY($2::bigint[])
"""
_IS_BLOCKED: Final = """
    SELECT EXISTS (SELECT FROM consumer.blocked WHERE consumer = 'inbox' AND log = $1 AND stage = 'applied' AND key = $2)
"""
