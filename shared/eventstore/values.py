"""What goes into the log and what comes back, as values; `EventStore` is what both the real store and the fake are."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, Protocol
from uuid import UUID

from shared.application import Claim
from shared.codec import EVENT_BYTES_MAX
from shared.contracts.event import Refusal
from shared.envelope import Record, Stream
from shared.errors import EventTooLargeError

APPEND_EVENTS_MAX: Final = 500
"""Events one request may append, and requests one batch may hold."""
TEXT_CHARS_MAX: Final = 200
"""Characters of an actor, a partition key, a traceparent, a type and a claim; the database checks the same."""
REFUSAL_CHARS_MAX: Final = 4_000


@dataclass(frozen=True, slots=True)
class NewEvent:
    """One event to be appended; its version is the stream's expected version plus its place in the request."""

    event_id: UUID
    type: str
    schema_version: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class AppendRequest:
    """One decided command: all of it is written, or none.

    `events` may be empty: a refusal (with `refusal`) or a no-op (without) is validated against `expected_version` like any other
    decision and its answer is kept (D3). `fingerprint` is the keyed hash of the body, None for ids made inside.
    `take` and `release` are claims, applied in the same transaction.
    """

    command_id: UUID
    fingerprint: bytes | None
    stream: Stream
    expected_version: int
    events: Sequence[NewEvent]
    refusal: Refusal | None
    take: Sequence[Claim]
    release: Sequence[Claim]
    time: datetime
    correlation_id: UUID
    causation_id: UUID | None
    actor: str
    partition_key: str
    traceparent: str | None
    keep_answer: bool = True
    """False for an answer that must not be kept: a deadline that is not due is never remembered as such (D10)."""
    use_case: str = ""
    """What was asked, by the use case's name; kept with a refusal."""
    unit: str = ""
    """For which unit; kept with a refusal."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command was answered, now or the first time: accepted with the events at `first_position` and after, or refused.

    An accepted answer with `count` 0 is a no-op; `first_position` is then the head it was validated at. `written` are its events where
    they were written just now, so that nobody has to read them again.
    """

    command_id: UUID
    outcome: Literal["accepted", "refused"]
    first_position: int
    count: int
    refusal: Refusal | None
    repeated: bool
    written: Sequence[Record] = field(default=(), compare=False, repr=False)

    @property
    def last_position(self) -> int:
        """The position that a read-your-writes token carries."""
        return self.first_position + max(self.count - 1, 0)


@dataclass(frozen=True, slots=True)
class Conflict:
    """The stream is not at the expected version: load again and decide again. Nothing was kept."""

    actual_version: int


@dataclass(frozen=True, slots=True)
class ClaimTaken:
    """Another stream holds a claim that the request wanted. Nothing was kept; the caller turns it into a kept refusal."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class FingerprintMismatch:
    """The command id is known with another body."""


AppendResult = Answer | Conflict | ClaimTaken | FingerprintMismatch


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a log: its id and the last position given out (0 when empty)."""

    log_id: UUID
    position: int


@dataclass(slots=True)
class Past:
    """One event of a stream as a fold reads it: of a record only what its state and its version follow from."""

    version: int
    event_id: UUID
    type: str
    schema_version: int
    payload: bytes


class EventStore(Protocol):
    """The log of one service. Raises StoreUnavailableError, LogClosedError, EventTooLargeError."""

    @property
    def service(self) -> str:
        """The service that owns the log."""

    async def append(self, request: AppendRequest) -> AppendResult:
        """Appends one decision through the lane, durably, before it answers."""

    async def read_stream(self, stream: Stream, after_version: int = 0, limit: int | None = None) -> Sequence[Record]:
        """The records of one stream with version > `after_version`, in order: `limit` at most, or all."""

    async def read_page(self, after_position: int, limit: int) -> Sequence[Record]:
        """The records of the log with position > `after_position`, in order, `limit` at most."""

    async def head(self) -> Head:
        """The log's id and last position."""


class AnsweringStore(EventStore, Protocol):
    """A store that can also be asked what a command was answered; what `submit` works with."""

    async def history(self, stream: Stream, after_version: int) -> Sequence[Past]:
        """All of one stream with version > `after_version`, in order, as a fold needs it."""

    async def refuse_closed(self) -> None:
        """Raises LogClosedError while the log takes no appends: before anything is made that only an append needs."""

    async def answer_of(self, command_id: UUID, fingerprint: bytes | None = None) -> Answer | FingerprintMismatch | None:
        """What the command was answered the first time, None when it is not known. As durable as that answer when this returns."""


def records_of(request: AppendRequest, service: str, log_id: UUID, first_position: int) -> list[Record]:
    """The events of a request as they stand in the log once it was accepted."""
    return [
        Record(
            service=service,
            log_id=log_id,
            position=first_position + index,
            stream=request.stream,
            version=request.expected_version + index + 1,
            event_id=event.event_id,
            type=event.type,
            schema_version=event.schema_version,
            time=request.time,
            command_id=request.command_id,
            correlation_id=request.correlation_id,
            causation_id=request.causation_id,
            actor=request.actor,
            partition_key=request.partition_key,
            traceparent=request.traceparent,
            payload=event.payload,
        )
        for index, event in enumerate(request.events)
    ]


def refusal_text(request: AppendRequest) -> str | None:
    """A refusal as it is kept, with what was asked and for which unit; the order of details stays. None for what is not refused."""
    refusal = request.refusal
    if refusal is None:
        return None
    kept = {"code": refusal.code, "detail": dict(refusal.detail), "use_case": request.use_case, "unit": request.unit}
    return json.dumps(kept, ensure_ascii=False)


def refusal_of(text: str) -> Refusal:
    """Reads what `refusal_text` wrote."""
    kept = json.loads(text)
    return Refusal(kept["code"], kept["detail"])


def check(request: AppendRequest) -> None:
    """Judges one request by itself, so that it cannot spoil the batch it would join. Raises EventTooLargeError, or ValueError for a bug."""
    if len(request.events) > APPEND_EVENTS_MAX:
        raise ValueError(f"{len(request.events)} events in one request")
    if request.expected_version < 0:
        raise ValueError("an expected version is 0 or more")
    if request.refusal is not None and (request.events or request.take or request.release):
        raise ValueError("a refusal changes nothing")
    if request.time.tzinfo is None:
        raise ValueError("a time without a zone")
    texts = [request.stream.category, request.actor, request.partition_key]
    if request.traceparent is not None:
        texts.append(request.traceparent)
    texts += [each.type for each in request.events]
    texts += [text for claim in (*request.take, *request.release) for text in (claim.scope, claim.value)]
    for text in texts:
        _check_text(text, TEXT_CHARS_MAX)
    if request.refusal is not None:
        _check_text(request.refusal.code, TEXT_CHARS_MAX)
        _check_text(refusal_text(request) or "", REFUSAL_CHARS_MAX)
        for text in (each for pair in request.refusal.detail.items() for each in pair if isinstance(each, str)):
            _check_text(text, REFUSAL_CHARS_MAX, empty=True)
    for event in request.events:
        if len(event.payload) > EVENT_BYTES_MAX:
            raise EventTooLargeError(len(event.payload), EVENT_BYTES_MAX)


def _check_text(text: str, chars_max: int, *, empty: bool = False) -> None:
    """PostgreSQL stores neither NUL nor half a surrogate pair."""
    if len(text) > chars_max or "\x00" in text or not (text or empty):
        raise ValueError(f"a text of {len(text)} characters that cannot be stored")
    if not text.isascii():
        text.encode()  # UnicodeEncodeError, a ValueError, for a lone surrogate.
