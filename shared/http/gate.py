"""What every request passes through: correlation and trace, counting, security headers, and errors turned into problems."""

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final, Literal
from uuid import UUID

import asyncpg
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared import logs
from shared.errors import (
    EventTooLargeError,
    FingerprintMismatchError,
    LeifengError,
    LogClosedError,
    NotCaughtUpError,
    StaleVersionError,
    StoreUnavailableError,
    StreamConflictError,
)
from shared.fieldnames import shown
from shared.http.problems import Catalogue, ProblemError, ProblemType
from shared.http.rates import Rates
from shared.ids import random_id
from shared.metrics import Metrics
from shared.tracing import Trace, child_of, parse_traceparent, parse_uuid

Handler = Callable[[Request], Awaitable[Response]]

Language = Literal["zh", "en"]

_POLICY: Final = (
    "default-src 'none'; style-src 'self'; img-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'"
)

SECURITY_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

STRICT_SECONDS: Final = 365 * 24 * 3600


def security_headers(*, is_secure: bool, form_targets: Sequence[str] = ()) -> Mapping[str, str]:
    """What every answer carries. `form_targets` are other origins that a form may lead to by redirects.

    With TLS a browser that has been here once comes back with TLS only.
    """
    strict = {"Strict-Transport-Security": f"max-age={STRICT_SECONDS}"} if is_secure else {}
    return {**SECURITY_HEADERS, "Content-Security-Policy": " ".join((_POLICY, *form_targets)), **strict}


_KEY: Final = "leifeng"
_log = logs.logger()


@dataclass(slots=True)
class Exchange:
    """One request as it passes: who it belongs with, which language it is answered in, which route took it."""

    correlation_id: UUID
    trace: Trace
    language: Language
    route: str = "none"


def exchange_of(request: Request) -> Exchange:
    """The exchange that `Gate` opened for this request."""
    exchange: Exchange = request.scope[_KEY]
    return exchange


class Gate:
    """What stands before every route: `headers` are what every answer carries."""

    def __init__(self, app: ASGIApp, metrics: Metrics, catalogue: Catalogue, rates: Rates, headers: Mapping[str, str]) -> None:
        self._app = app
        self._rates = rates
        self._headers = tuple((name.lower().encode(), value.encode()) for name, value in headers.items())
        self._metrics = metrics
        self._catalogue = catalogue

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = _first(scope, b"x-correlation-id")
        correlation_id = parse_uuid(asked) if asked is not None else random_id()
        trace = child_of(parse_traceparent(_first(scope, b"traceparent")))
        exchange = Exchange(correlation_id or random_id(), trace, _language(_first(scope, b"accept-language")))
        scope[_KEY] = exchange
        status = 500

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                said = [*message["headers"], (b"x-correlation-id", str(exchange.correlation_id).encode()), *self._headers]
                if not any(name == b"cache-control" for name, _ in said):
                    said.append((b"cache-control", b"no-store"))
                message = {**message, "headers": said}
            await send(message)

        started = perf_counter()
        metrics = self._metrics
        metrics.http_requests_in_flight.inc()
        try:
            with logs.bound(correlation_id=exchange.correlation_id, trace_id=exchange.trace.trace_id):
                refused = self._refused(scope, correlation_id)
                if refused is not None:
                    await self._catalogue.response(refused, exchange.language)(scope, receive, send_with_headers)
                else:
                    await self._app(scope, receive, send_with_headers)
        finally:
            metrics.http_requests_in_flight.dec()
        method = scope["method"] if scope["method"] in _METHODS else "other"
        took = metrics.of(metrics.http_request_duration_seconds, exchange.route, method, f"{status // 100}xx")
        took.observe(perf_counter() - started)

    def _refused(self, scope: Scope, correlation_id: UUID | None) -> ProblemError | None:
        """What no route is asked about."""
        try:
            self._rates.address(scope)
        except ProblemError as problem:
            return problem
        return ProblemError("correlation_id_invalid") if correlation_id is None else None


def _first(scope: Scope, name: bytes) -> str | None:
    for each, value in scope["headers"]:
        if each == name:
            said: bytes = value
            return said.decode("latin-1")
    return None


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def guarded(route: str, handler: Handler, catalogue: Catalogue, metrics: Metrics) -> Handler:
    """`handler` with its errors turned into problems, each denial logged and counted; `route` is the template that both name it by."""

    async def handle(request: Request) -> Response:
        exchange = exchange_of(request)
        exchange.route = route
        try:
            return await handler(request)
        except Exception as error:  # noqa: BLE001  # The last stop: whatever is not foreseen is a 500 without a word of its own.
            problem = problem_of(error, route)
            note_denial(catalogue.types[problem.code], route, metrics)
            return catalogue.response(problem, exchange.language)

    return handle


def note_denial(problem: ProblemType, route: str, metrics: Metrics) -> None:
    """Logs and counts a problem that says that somebody may not. Who they are is said nowhere."""
    if problem.status in {401, 403}:
        _log.info("denied", code=problem.code, route=route)
        metrics.denials_total.labels(problem.code).inc()


def problem_of(error: Exception, route: str) -> ProblemError:
    """The problem that tells a caller about `error`; what was not foreseen is logged, and told as `internal_error`."""
    match error:
        case ProblemError():
            return error
        case NotCaughtUpError():
            return ProblemError("not_caught_up", waited_for=error.waited_for)
        case ClientDisconnect():
            return ProblemError("body_too_slow")  # Nobody reads this.
        case StoreUnavailableError() | OSError() | asyncpg.InterfaceError() | asyncpg.InternalClientError() | asyncpg.PostgresError() if (
            is_absence(error)
        ):
            _log.warning("store_unavailable", route=route, exc_info=error)
            return ProblemError("store_unavailable")
        case LogClosedError():
            return ProblemError("log_closed", state=error.state)
        case StreamConflictError():
            return ProblemError("stream_conflict")
        case StaleVersionError():
            return ProblemError("version_stale", actual=error.actual)
        case FingerprintMismatchError():
            return ProblemError("idempotency_key_reused", command_id=error.command_id)
        case EventTooLargeError():
            return ProblemError("event_too_large", size_bytes=error.size_bytes, cap_bytes=error.cap_bytes)
        case _:
            kind = "unforeseen_refusal" if isinstance(error, LeifengError) else "unforeseen_error"
            _log.error(kind, route=route, exc_info=error)
            return ProblemError("internal_error")


def is_absence(error: Exception) -> bool:
    """Whether `error` says that the database is away, overloaded or ending, and not that we asked something wrong."""
    return not isinstance(error, asyncpg.PostgresError) or isinstance(error, _ABSENCES)


_ABSENCES: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.exceptions.OperatorInterventionError,
    asyncpg.exceptions.InsufficientResourcesError,
    asyncpg.exceptions.PostgresSystemError,
    asyncpg.exceptions.ReadOnlySQLTransactionError,  # A primary that has just become a standby.
    asyncpg.exceptions.InvalidAuthorizationSpecificationError,  # A password that is being changed.
)


def http_exceptions(catalogue: Catalogue) -> Callable[[Request, Exception], Coroutine[Any, Any, Response]]:
    """Turns what the router itself refuses (404, 405) into problems."""

    async def handle(request: Request, error: Exception) -> Response:
        headers: dict[str, str] = {}
        code = "not_found"
        if isinstance(error, HTTPException) and error.status_code == 405:
            code, headers = "method_not_allowed", dict(error.headers or {})
        return catalogue.response(ProblemError(code, headers=headers), exchange_of(request).language)

    return handle


def _language(accepted: str | None) -> Language:
    """Chinese, unless the caller names English before Chinese."""
    for each in (accepted or "").lower().split(","):
        tag = each.split(";")[0].strip()
        if tag.startswith("zh"):
            return "zh"
        if tag.startswith("en"):
            return "en"
    return "zh"


def single(request: Request, known: Sequence[str]) -> dict[str, str]:
    """The query parameters of a request, each known and given once. Raises ProblemError."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            raise ProblemError("parameter_unknown", parameter=shown(name), known=list(known))
        if name in found:
            raise ProblemError("parameter_repeated", parameter=name)
        found[name] = value
    return found
