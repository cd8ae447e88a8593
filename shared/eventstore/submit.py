"""`submit`: plan, load, decide, seal, append. The one way in which anything, HTTP, a reaction or a deadline, changes a service (D3, D10).

Two promises. A repeat of a known command gets its first answer, whatever planning or deciding would say now. And no refusal is given
out of a stale cache: every decision, also one without events, is answered only after the store has found the stream where the decision
saw it.
"""

import asyncio
import random
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from time import monotonic
from typing import Any, Final, Generic, Protocol, TypeVar
from uuid import UUID

from shared.application import Aggregate, Asked, Claim, Claims, Plan, UseCase
from shared.clock import Clock
from shared.codec import Codec
from shared.contracts.event import Event, Refusal
from shared.contracts.topics import CATEGORIES
from shared.envelope import Stream
from shared.errors import FingerprintMismatchError, LogClosedError, StaleVersionError, StoreUnavailableError, StreamConflictError
from shared.eventstore.values import Answer, AnsweringStore, AppendRequest, ClaimTaken, Conflict, FingerprintMismatch, NewEvent, Past
from shared.ids import event_id
from shared.metrics import Metrics
from shared.permissions import Actor

L = TypeVar("L")

TRIES_MAX: Final = 4
"""The first try, and three after conflicts."""
JITTER_SECONDS: Final = 0.01
"""Mean pause before the second try; it doubles with every further one."""


class Keys(Protocol):
    """What `submit` needs of the persons' keys; `shared.privacy.PersonalKeys` is one."""

    async def ensure(self, subjects: Iterable[UUID]) -> None:
        """Makes and commits the keys that are missing, and loads all."""

    async def load(self, subjects: Iterable[UUID]) -> Sequence[UUID]:
        """Loads the keys that are there."""

    def seal(self, subject: UUID, place: str, clear: str) -> str:
        """Seals one text."""

    def unseal(self, subject: UUID, place: str, sealed: str) -> str | None:
        """Opens one text, None without a key."""

    def blind(self, scope: str, text: str) -> str:
        """The keyed blind index of a personal value."""


class Submit(Protocol):
    """`Commands.submit`: the one way in which anything changes the service."""

    async def __call__(
        self,
        use_case: UseCase[Any, Any],
        body: Any,
        *,
        ids: dict[str, UUID],
        actor: Actor,
        command_id: UUID,
        fingerprint: bytes | None,
        correlation_id: UUID,
        causation_id: UUID | None,
        traceparent: str | None,
        if_match: int | None = None,
        not_before: datetime | None = None,
    ) -> Answer:
        """Decides and appends, durably, before it answers. `not_before` is an instant that the caller has seen: now is no earlier."""


@dataclass(frozen=True, slots=True)
class _Asking:
    """What stays the same over all tries of one command."""

    use_case: str
    command_id: UUID
    fingerprint: bytes | None
    now: datetime
    correlation_id: UUID
    causation_id: UUID | None
    actor: Actor
    traceparent: str | None
    if_match: int | None


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A stream as it was read. One with personal facts is never kept in the cache: what the key's end forgets, memory forgets."""

    version: int
    state: Any
    has_personal: bool = False


@dataclass(slots=True)
class _Turn:
    lock: asyncio.Lock
    users: int = 0


class Commands(Generic[L]):
    """Submits commands of one service. One for each process, shared by HTTP, reactions and deadlines: streams take turns in it."""

    def __init__(
        self,
        store: AnsweringStore,
        codec: Codec,
        keys: Keys,
        lookups: L,
        claims: Claims,
        clock: Clock,
        metrics: Metrics,
        *,
        cached_streams_max: int = 10_000,
    ) -> None:
        self._store = store
        self._codec = codec
        self._keys = keys
        self._lookups = lookups
        self._claims = claims
        self._clock = clock
        self._metrics = metrics
        self._cache: OrderedDict[Stream, _Loaded] = OrderedDict()
        self._cached_streams_max = cached_streams_max
        self._turns: dict[Stream, _Turn] = {}

    async def submit(
        self,
        use_case: UseCase[Any, L],
        body: Any,
        *,
        ids: dict[str, UUID],
        actor: Actor,
        command_id: UUID,
        fingerprint: bytes | None,
        correlation_id: UUID,
        causation_id: UUID | None,
        traceparent: str | None,
        if_match: int | None = None,
        not_before: datetime | None = None,
    ) -> Answer:
        """Decides and appends, durably, before it answers. `not_before` is an instant that the caller has seen: now is no earlier.

        Raises what planning raises, StreamConflictError, StaleVersionError, FingerprintMismatchError, EventTooLargeError,
        StoreUnavailableError, LogClosedError, PersonErasedError.
        """
        started, outcome = monotonic(), "unavailable"
        try:
            now = await self._clock()
            now = now if not_before is None else max(now, not_before)
            asking = _Asking(use_case.name, command_id, fingerprint, now, correlation_id, causation_id, actor, traceparent, if_match)
            answer = await self._first_or_new(use_case, Asked(body, ids, actor, now, command_id), asking)
            outcome = "duplicate" if answer.repeated else answer.outcome
        except (StreamConflictError, StaleVersionError, FingerprintMismatchError):
            outcome = "conflict"
            raise
        finally:
            metrics = self._metrics
            metrics.of(metrics.command_outcomes_total, use_case.name, outcome).inc()
            metrics.of(metrics.command_duration_seconds, use_case.name).observe(monotonic() - started)
        return answer

    async def _first_or_new(self, use_case: UseCase[Any, L], asked: Asked[Any], asking: _Asking) -> Answer:
        """Whatever stands in the way now, a command that was answered before is answered the same."""
        try:
            plan = await use_case.plan(asked, self._lookups)
            return await self._in_turn(plan, asking)
        except (StoreUnavailableError, LogClosedError, FingerprintMismatchError):
            raise
        except Exception:
            first = await self._first_answer(asking)
            if first is None:
                raise
            return first

    async def _decide(self, plan: Plan[Any], asking: _Asking) -> Answer:
        """Until the store finds the stream where the decision saw it. Raises StreamConflictError after `TRIES_MAX`."""
        for attempt in range(TRIES_MAX):
            if attempt:
                await asyncio.sleep(random.expovariate(1 / (JITTER_SECONDS * 2 ** (attempt - 1))))
            # A version that the caller names is compared with what the store holds now, never with what this process remembers.
            loaded = await self._load(plan.stream, plan.aggregate, fresh=asking.if_match is not None)
            if asking.if_match not in (None, loaded.version):
                raise StaleVersionError(asking.if_match or 0, loaded.version)
            decided = plan.decide(loaded.state)
            answer = await self._append(plan, loaded, decided, asking)
            if answer is not None:
                return answer
        raise StreamConflictError(str(plan.stream))

    async def _append(self, plan: Plan[Any], loaded: _Loaded, decided: Sequence[Event] | Refusal, asking: _Asking) -> Answer | None:
        """The answer of one try, None after a conflict."""
        events: Sequence[Event] = () if isinstance(decided, Refusal) else decided
        subjects = frozenset[UUID]().union(*(self._codec.subjects_of(event) for event in events))
        if subjects:
            first = await self._first_answer(asking)  # Before keys are made: a repeat makes none.
            if first is not None:
                return first
            await self._store.refuse_closed()  # A key made while the log waits for its tail would be another than that of its events.
            await self._keys.ensure(subjects)
        request = self._request(plan, loaded.version, decided, asking)
        self._cache.pop(plan.stream, None)  # Whatever goes wrong from here on, the next command reads again.
        result = await self._store.append(request)
        if isinstance(result, ClaimTaken):
            events = ()
            refusal = Refusal(self._claims.refusals[result.claim.scope])
            result = await self._store.append(self._request(plan, loaded.version, refusal, asking))
        match result:
            case Answer():
                if not result.repeated:
                    self._remember(plan, loaded, events)
                return result
            case FingerprintMismatch():
                raise FingerprintMismatchError(asking.command_id)
            case Conflict():
                return None
            case ClaimTaken():
                raise AssertionError("a refusal takes no claims")

    def _request(self, plan: Plan[Any], version: int, decided: Sequence[Event] | Refusal, asking: _Asking) -> AppendRequest:
        events: Sequence[Event] = () if isinstance(decided, Refusal) else decided
        ids = [event_id(asking.command_id, index) for index in range(len(events))]
        take, release = self._claimed(events)
        return AppendRequest(
            command_id=asking.command_id,
            fingerprint=asking.fingerprint,
            stream=plan.stream,
            expected_version=version,
            events=[
                NewEvent(each_id, event.TYPE, event.VERSION, self._codec.encode(event, each_id, self._keys.seal))
                for each_id, event in zip(ids, events, strict=True)
            ],
            refusal=decided if isinstance(decided, Refusal) else None,
            take=take,
            release=release,
            time=asking.now,
            correlation_id=asking.correlation_id,
            causation_id=asking.causation_id,
            actor=str(asking.actor),
            partition_key=_partition_key(plan.stream, events),
            traceparent=asking.traceparent,
            keep_answer=plan.keep_answer,
            use_case=asking.use_case,
            unit=asking.actor.unit,
        )

    def _claimed(self, events: Sequence[Event]) -> tuple[Sequence[Claim], Sequence[Claim]]:
        """What all events together take and give back; of a claim that changes hands within them, the last word counts."""
        last: dict[Claim, bool] = {}
        for event in events:
            taken, released = self._claims.of(event, self._keys.blind)
            last.update(dict.fromkeys(released, False))
            last.update(dict.fromkeys(taken, True))
        return [claim for claim, held in last.items() if held], [claim for claim, held in last.items() if not held]

    async def _first_answer(self, asking: _Asking) -> Answer | None:
        first = await self._store.answer_of(asking.command_id, asking.fingerprint)
        if isinstance(first, FingerprintMismatch):
            raise FingerprintMismatchError(asking.command_id)
        return first

    async def _load(self, stream: Stream, aggregate: Aggregate[Any], *, fresh: bool) -> _Loaded:
        """The stream from the cache, or with `fresh` from the cache and what the store has beyond it."""
        known = self._cache.get(stream)
        if known is not None and not fresh:
            return known
        loaded = known or _Loaded(0, aggregate.initial)
        records = await self._store.history(stream, loaded.version)
        if not records:
            return loaded
        personal = [record for record in records if self._codec.has_personal(record.type)]
        if personal:
            await self._load_keys(personal)
        state, evolve, decode, unseal = loaded.state, aggregate.evolve, self._codec.decode, self._keys.unseal
        for record in records:
            state = evolve(state, decode(record, unseal))
        return _Loaded(records[-1].version, state, loaded.has_personal or bool(personal))

    async def _load_keys(self, records: Sequence[Past]) -> None:
        subjects: set[UUID] = set()

        def note(subject: UUID, _place: str, _sealed: str) -> None:
            subjects.add(subject)

        for record in records:
            self._codec.decode(record, note)
        if subjects:
            await self._keys.load(subjects)

    def _remember(self, plan: Plan[Any], loaded: _Loaded, events: Sequence[Event]) -> None:
        """Keeps the stream as it stands after the commit, for the next command of this process."""
        if loaded.has_personal or any(self._codec.has_personal(event.TYPE) for event in events):
            return
        state = loaded.state
        for event in events:
            state = plan.aggregate.evolve(state, event)
        self._cache[plan.stream] = replace(loaded, version=loaded.version + len(events), state=state)
        if len(self._cache) > self._cached_streams_max:
            self._cache.popitem(last=False)

    async def _in_turn(self, plan: Plan[Any], asking: _Asking) -> Answer:
        """Commands to one stream take turns inside a process, up to the commit; else they would only conflict."""
        turn = self._turns.setdefault(plan.stream, _Turn(asyncio.Lock()))
        turn.users += 1
        try:
            async with turn.lock:
                return await self._decide(plan, asking)
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[plan.stream]


def _partition_key(stream: Stream, events: Sequence[Event]) -> str:
    key_field = CATEGORIES[stream.category].key_field
    return str(stream.id if key_field is None or not events else getattr(events[0], key_field))
