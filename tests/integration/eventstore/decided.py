"""Requests as `submit` would make them, without a use case."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

from shared.application import Claim
from shared.contracts.event import Refusal
from shared.envelope import Stream
from shared.eventstore.values import AppendRequest, NewEvent
from shared.ids import event_id

NOW = datetime(2017, 3, 5, 0, 30, 0, 250_000, tzinfo=UTC)
BODY = b"b" * 32
OTHER_BODY = b"o" * 32


def activity() -> Stream:
    return Stream("activity", uuid4())


def decided(
    stream: Stream,
    expected: int,
    events: int = 1,
    *,
    command_id: UUID | None = None,
    fingerprint: bytes | None = BODY,
    payload: bytes = b'{"position":"host"}',
    refusal: Refusal | None = None,
    take: tuple[Claim, ...] = (),
    release: tuple[Claim, ...] = (),
    actor: str = "volunteer:0197f3a4-5c00-7000-8000-000000000001",
    keep_answer: bool = True,
) -> AppendRequest:
    """A decision of so many events at the expected version."""
    command_id = command_id or uuid4()
    return AppendRequest(
        command_id=command_id,
        fingerprint=fingerprint,
        stream=stream,
        expected_version=expected,
        events=[NewEvent(event_id(command_id, index), "registration.enrollment_accepted", 1, payload) for index in range(events)],
        refusal=refusal,
        take=take,
        release=release,
        time=NOW,
        correlation_id=uuid4(),
        causation_id=None,
        actor=actor,
        partition_key=str(stream.id),
        traceparent=None,
        keep_answer=keep_answer,
    )


def refused(stream: Stream, expected: int, code: str = "activity_full") -> AppendRequest:
    """A refusal at the expected version."""
    return decided(stream, expected, 0, refusal=Refusal(code, {"seats": 2, "name": "湖边", "age": 9}))
