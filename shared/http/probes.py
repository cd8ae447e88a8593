"""`/livez`, `/readyz` and `/metrics` as a bare ASGI application, for processes that serve nothing else.

Liveness asks no dependency: a restart does not cure a database. Readiness does (operations.md 3.3).
"""

from collections.abc import Awaitable, Callable
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from shared.http.deadline import Deadline
from shared.metrics import CONTENT_TYPE, Metrics

READY_SECONDS_MAX: Final = 1.0


def probes(metrics: Metrics, *, alive: Callable[[], bool], ready: Callable[[], Awaitable[bool]]) -> ASGIApp:
    """The application. `alive` says whether the loops of the process still turn; `ready` whether it can do its work."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        kind = b"text/plain; charset=utf-8"
        match scope["path"]:
            case "/livez":
                status, body = (200, b"ok") if alive() else (503, b"stuck")
            case "/readyz":
                status, body = (200, b"ok") if await is_ready(ready) else (503, b"not ready")
            case "/metrics":
                status, body, kind = 200, metrics.render(), CONTENT_TYPE.encode()
            case _:
                status, body = 404, b"not found"
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind), (b"cache-control", b"no-store")]})
        await send({"type": "http.response.body", "body": body})

    return app


async def is_ready(ready: Callable[[], Awaitable[bool]]) -> bool:
    """What `ready` says, and no when it says nothing within `READY_SECONDS_MAX` or fails."""

    async def asked() -> bool:
        return await ready()

    try:
        return await Deadline(READY_SECONDS_MAX).meet(asked())  # Left behind when late: a frozen database holds up its cancelling too.
    except Exception:  # noqa: BLE001  # Whatever a dependency does, the answer is "not ready" and no more.
        return False


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
