"""What goes into the log and what comes back, as values; `EventStore` is what both the real store and the fake are."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, Protocol
from uuid import UUID

from shared.application import Claim
from shared.contracts.event import Refusal
from shared.envelope import Record, Stream

APPEND_EVENTS_MAX: Final = 500
"""Events one request may append, and requests one batch may hold."""


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


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command was answered, now or the first time: accepted with the events at `first_position` and after, or refused.

    An accepted answer with `count` 0 is a no-op; `first_position` is then the head it was validated at.
    """

    command_id: UUID
    outcome: Literal["accepted", "refused"]
    first_position: int
    count: int
    refusal: Refusal | None
    repeated: bool

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


class EventStore(Protocol):
    """The log of one service. Raises StoreUnavailableError, LogClosedError, EventTooLargeError."""

    @property
    def service(self) -> str:
        """The service that owns the log."""

    async def append(self, request: AppendRequest) -> AppendResult:
        """Appends one decision through the lane, durably, before it answers."""

    async def read_stream(self, stream: Stream, after_version: int = 0) -> Sequence[Record]:
        """The records of one stream with version > `after_version`, in order."""

    async def read_page(self, after_position: int, limit: int) -> Sequence[Record]:
        """The records of the log with position > `after_position`, in order, `limit` at most."""

    async def head(self) -> Head:
        """The log's id and last position."""
