"""The log in memory, for tests of what stands above it. It passes the conformance suite of the real store."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal
from uuid import UUID

from shared.application import Claim
from shared.envelope import Record, Stream
from shared.errors import LogClosedError
from shared.eventstore.values import (
    Answer,
    AppendRequest,
    AppendResult,
    ClaimTaken,
    Conflict,
    FingerprintMismatch,
    Head,
    Past,
    check,
    records_of,
)
from shared.ids import new_id


class MemoryStore:
    """AnsweringStore in memory. `records` is the log; `state` closes it as in the database."""

    def __init__(self, service: str) -> None:
        self._service = service
        self.log_id = new_id()
        self.records: list[Record] = []
        self.claims: dict[Claim, Stream] = {}
        self.state = "open"
        self._answers: dict[UUID, tuple[bytes | None, Answer]] = {}

    @property
    def service(self) -> str:
        """The service that owns the log."""
        return self._service

    async def append(self, request: AppendRequest) -> AppendResult:
        """As the real one, at once."""
        check(request)
        if self.state != "open":
            raise LogClosedError(self.state)
        first = await self.answer_of(request.command_id, request.fingerprint)
        if first is not None:
            return first
        version = self._version(request.stream)
        if version != request.expected_version:
            return Conflict(version)
        for claim in request.take:
            if self.claims.get(claim, request.stream) != request.stream:
                return ClaimTaken(claim)
        return self._write(request)

    def _write(self, request: AppendRequest) -> Answer:
        head, count = len(self.records), len(request.events)
        outcome: Literal["accepted", "refused"] = "accepted" if request.refusal is None else "refused"
        written = records_of(request, self._service, self.log_id, head + 1)
        answer = Answer(request.command_id, outcome, head + min(count, 1), count, request.refusal, repeated=False, written=written)
        self.records += written
        if request.keep_answer or count:
            self._answers[request.command_id] = (request.fingerprint, replace(answer, repeated=True, written=()))
        for claim in request.release:
            if self.claims.get(claim) == request.stream:
                del self.claims[claim]
        for claim in request.take:
            self.claims[claim] = request.stream
        return answer

    async def read_stream(self, stream: Stream, after_version: int = 0, limit: int | None = None) -> Sequence[Record]:
        """The records of one stream with version > `after_version`, in order: `limit` at most, or all."""
        return [each for each in self.records if each.stream == stream and each.version > after_version][:limit]

    async def history(self, stream: Stream, after_version: int) -> Sequence[Past]:
        """All of one stream with version > `after_version`, in order."""
        held = await self.read_stream(stream, after_version)
        return [Past(each.version, each.event_id, each.type, each.schema_version, each.payload) for each in held]

    async def read_page(self, after_position: int, limit: int) -> Sequence[Record]:
        """The records of the log with position > `after_position`, in order, `limit` at most."""
        return self.records[after_position : after_position + limit]

    async def head(self) -> Head:
        """The log's id and last position."""
        return Head(self.log_id, len(self.records))

    async def refuse_closed(self) -> None:
        """As the real one."""
        if self.state != "open":
            raise LogClosedError(self.state)

    async def answer_of(self, command_id: UUID, fingerprint: bytes | None = None) -> Answer | FingerprintMismatch | None:
        """What the command was answered the first time, None when it is not known."""
        known = self._answers.get(command_id)
        if known is None:
            return None
        if fingerprint is not None and known[0] not in (None, fingerprint):
            return FingerprintMismatch()
        return known[1]

    def _version(self, stream: Stream) -> int:
        return max((each.version for each in self.records if each.stream == stream), default=0)
