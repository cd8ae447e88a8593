"""Runs an ASGI application until it is told to stop; ends without dropping a request (operations.md 3.3)."""

import asyncio
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import uvicorn
from starlette.types import ASGIApp

FINISH_SECONDS_MAX: Final = 20
KEEP_ALIVE_SECONDS: Final = 30
HEADERS_BYTES_MAX: Final = 32 * 1024
BACKLOG: Final = 512
CONNECTIONS_MAX: Final = 1000
"""Connections of one process; the next one is told 503 at once."""


class _Server(uvicorn.Server):
    """Leaves signals to the process: who owns the process decides what SIGTERM means."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


async def serve(app: ASGIApp, host: str, port: int, stop: asyncio.Event, *, pause_seconds: float = 0.0) -> None:
    """Serves until `stop` is set, then waits `pause_seconds` (for endpoints that still send requests here), finishes what runs, returns.

    Raises OSError when the address cannot be bound.
    """
    listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=FINISH_SECONDS_MAX,
        h11_max_incomplete_event_size=HEADERS_BYTES_MAX,
        http="h11",
        ws="none",
        limit_concurrency=CONNECTIONS_MAX,
        proxy_headers=False,
    )
    server = _Server(config)

    async def end() -> None:
        await stop.wait()
        await asyncio.sleep(pause_seconds)
        server.should_exit = True

    async with asyncio.TaskGroup() as tasks:
        ending = tasks.create_task(end())
        await server.serve(sockets=[listening])
        ending.cancel()
