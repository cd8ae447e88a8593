"""Serving on a real socket, and ending without dropping what runs."""

import asyncio
import socket

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from shared.http.serve import listen, serve


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_a_request_that_runs_is_finished_after_the_stop() -> None:
    started, finish, stop = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        started.set()
        await finish.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"done"})

    port = free_port()
    async with (
        asyncio.timeout(20),
        asyncio.TaskGroup() as tasks,
        httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(retries=10)) as client,
    ):
        serving = tasks.create_task(serve(app, "127.0.0.1", port, stop))
        asked = tasks.create_task(client.get(f"http://127.0.0.1:{port}/"))
        await started.wait()
        stop.set()
        finish.set()
        assert (await asked).text == "done"
        await serving
    with pytest.raises(OSError, match="refused"), socket.create_connection(("127.0.0.1", port), timeout=1):
        pass


async def test_a_taken_port_is_said_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            await serve(lambda *_: asyncio.sleep(0), "127.0.0.1", taken.getsockname()[1], asyncio.Event())


def test_the_second_part_of_an_answer_does_not_wait_for_the_first_to_be_acknowledged() -> None:
    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
