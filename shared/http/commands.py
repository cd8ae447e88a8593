"""Commands over HTTP: one POST route for each use case, and the same answer to every repeat (architecture, section 5)."""

import asyncio
import hmac
import re
from collections.abc import Sequence
from hashlib import sha256
from time import monotonic
from typing import Any, Final
from uuid import UUID

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from shared import logs
from shared.application import UseCase
from shared.contracts.event import Refusal
from shared.contracts.topics import SERVICES
from shared.envelope import Record
from shared.eventstore.values import Answer
from shared.http.api import Api
from shared.http.body import COMMAND_LIMITS, IMPORT_LIMITS, BodyLimits, canonical, parse_json, parse_model, read_body
from shared.http.deadline import Deadline
from shared.http.gate import Handler, exchange_of, single
from shared.http.positions import PositionToken, parse_tokens
from shared.http.problems import ProblemError
from shared.http.query import FOLLOW_SECONDS_MAX
from shared.ids import named_id
from shared.tracing import parse_uuid

IDEMPOTENCY_KEY: Final = re.compile(r"[\x21-\x7e]{1,200}")
_ETAG: Final = re.compile(r'"(0|[1-9][0-9]{0,17})"')
_log = logs.logger()


class CommandRoutes:
    """The handlers of all commands of a service; they share one bound on what is under way."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._under_way: set[asyncio.Task[Answer]] = set()

    def handler(self, use_case: UseCase[Any, Any]) -> Handler:
        """The handler of one use case."""
        limits = limits_of(self._api, use_case)

        async def handle(request: Request) -> Response:
            api, deadline = self._api, Deadline()
            actor = await deadline.over(api.asker(request, use_case.roles))
            command_id = named_id(actor.person_id, idempotency_key(request))
            single(request, ())
            ids = {name: _id(name, text) for name, text in request.path_params.items()}
            if_match = read_if_match(request.headers.get("if-match"))
            after = parse_tokens(request.headers.getlist("after"), frozenset(SERVICES))
            began = monotonic()
            raw = await read_body(request.headers, request.stream(), limits)
            deadline.postpone(monotonic() - began)
            value = parse_json(raw, limits)
            body = parse_model(raw, use_case.body)
            if after:
                await deadline.meet(api.waits.for_lookups(after, FOLLOW_SECONDS_MAX))
            exchange, started = exchange_of(request), monotonic()
            with logs.bound(command=use_case.name, command_id=command_id):
                answer = await self._submitted(
                    deadline,
                    use_case,
                    body,
                    ids=ids,
                    actor=actor,
                    command_id=command_id,
                    fingerprint=fingerprint(api.fingerprint_key, request, value),
                    correlation_id=exchange.correlation_id,
                    causation_id=None,
                    traceparent=str(exchange.trace),
                    if_match=if_match,
                )
                duration = monotonic() - started
                records = answer.written or (await deadline.meet(self._read(answer)) if answer.count else ())
                _log.info(
                    "command_answered",
                    stream=logs.pseudonym(str(records[-1].stream)) if records else None,
                    outcome="duplicate" if answer.repeated else answer.outcome,
                    code=answer.refusal.code if answer.refusal else None,
                    role=actor.role.value,
                    position=answer.last_position,
                    duration_ms=round(duration * 1000, 1),
                )
                if answer.refusal is not None:
                    raise _refused(answer, answer.refusal)
                log_id = records[0].log_id if records else (await deadline.meet(api.store.head())).log_id
                return self._accepted(answer, records, log_id)

        return handle

    async def _submitted(self, deadline: Deadline, use_case: UseCase[Any, Any], body: Any, **asked: Any) -> Answer:
        """Runs the command to its end even when the caller goes away or time is up: a repeat of the key then learns what became of it."""
        if len(self._under_way) >= self._api.commands_in_flight_max:
            raise ProblemError("too_many_requests")
        task = asyncio.create_task(self._api.submit(use_case, body, **asked))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await deadline.wait_for(task)

    async def _read(self, answer: Answer) -> Sequence[Record]:
        return await self._api.store.read_page(answer.first_position - 1, answer.count)

    def _accepted(self, answer: Answer, records: Sequence[Record], log_id: UUID) -> Response:
        position = PositionToken(self._api.service, log_id, answer.last_position)
        etag = {"ETag": f'"{records[-1].version}"'} if records else {}
        headers = {"Position": str(position), **etag, **_replayed(answer)}
        return Response(to_json(answer_body(answer, records, position)), 200, headers, "application/json")


def _refused(answer: Answer, refusal: Refusal) -> ProblemError:
    values = dict(refusal.detail)
    return ProblemError(refusal.code, command_id=answer.command_id, outcome="refused", values=values, headers=_replayed(answer))


def _replayed(answer: Answer) -> dict[str, str]:
    return {"Idempotency-Replayed": "true"} if answer.repeated else {}


def answer_body(answer: Answer, records: Sequence[Record], position: PositionToken) -> dict[str, Any]:
    """The body of an accepted command: the same, byte for byte, however often it is asked. Without events nothing had to change."""
    last = records[-1] if records else None
    return {
        "command_id": answer.command_id,
        "outcome": answer.outcome,
        "stream": str(last.stream) if last else None,
        "version": last.version if last else None,
        "events": [{"id": each.event_id, "type": each.type, "version": each.version, "position": each.position} for each in records],
        "position": str(position),
    }


def limits_of(api: Api, use_case: UseCase[Any, Any]) -> BodyLimits:
    """How large a body the use case takes."""
    return IMPORT_LIMITS if use_case.name in api.imports else COMMAND_LIMITS


def idempotency_key(request: Request) -> str:
    """The key of this command. Raises ProblemError when it is missing, given twice, or not 1 to 200 visible ASCII characters."""
    given = request.headers.getlist("idempotency-key")
    if not given:
        raise ProblemError("idempotency_key_missing")
    if len(given) > 1 or not IDEMPOTENCY_KEY.fullmatch(given[0]):
        raise ProblemError("idempotency_key_invalid")
    return given[0]


def read_if_match(header: str | None) -> int | None:
    """The expected version of the stream that a caller names. Raises ProblemError."""
    if header is None:
        return None
    found = _ETAG.fullmatch(header)
    if found is None:
        raise ProblemError("if_match_invalid")
    return int(found.group(1))


def fingerprint(key: bytes, request: Request, value: Any) -> bytes:
    """What tells this request from another one under the same key: a keyed hash, since a body may hold personal data."""
    said = b"\n".join((request.method.encode(), request.scope["path"].encode(), canonical(value)))
    return hmac.digest(key, said, sha256)


def _id(name: str, text: str) -> UUID:
    found = parse_uuid(text)
    if found is None:
        raise ProblemError("id_invalid", parameter=name)
    return found
