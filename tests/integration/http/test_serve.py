"""Serving on a real socket, and ending without dropping what runs."""

import asyncio
import socket
import sys
from contextlib import suppress
from time import monotonic

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from shared.http.serve import DATE_SECONDS, HEADERS_BYTES_MAX, HELD_BYTES_MAX, _greet_nobody, _OneSend, listen, serve


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


async def test_a_server_that_is_asked_nothing_wakes_once_a_second_to_write_the_date(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks, thrice, stop = list[float](), asyncio.Event(), asyncio.Event()
    tick = uvicorn.Server.on_tick

    async def counted(server: uvicorn.Server, counter: int) -> bool:
        ticks.append(monotonic())
        if len(ticks) == 3:
            thrice.set()
        return await tick(server, counter)

    monkeypatch.setattr(uvicorn.Server, "on_tick", counted)
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(serve(lambda *_: asyncio.sleep(0), "127.0.0.1", free_port(), stop))
        await thrice.wait()
        stop.set()
    assert ticks[2] - ticks[0] > 1.9 * DATE_SECONDS


async def connected(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection, as soon as somebody listens."""
    while True:
        try:
            return await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0)


async def said_to(*parts: bytes) -> bytes:
    """What is answered to a request that comes in these parts, until the connection ends; an app answers 200 to whatever reaches it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        headers = [(b"content-length", b"0"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body"})

    stop, port = asyncio.Event(), free_port()
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(serve(app, "127.0.0.1", port, stop))
        reader, writer = await connected(port)
        answer = b""
        with suppress(ConnectionError):  # Who goes on speaking to a door that was closed may not hear why.
            for part in parts:
                writer.write(part)
                await writer.drain()
            answer = await reader.read()
        writer.close()
        stop.set()
    return answer


def is_refused(answer: bytes) -> bool:
    """Whether the connection was ended, with a word or without."""
    return not answer or answer.startswith(b"HTTP/1.1 400 ")


async def test_a_head_that_is_too_large_is_refused_whether_it_ends_or_not() -> None:
    begin, line = b"POST / HTTP/1.1\r\nHost: here\r\n", b"A: " + b"a" * 1020 + b"\r\n"
    fits, body = HEADERS_BYTES_MAX // 1024 - 1, bytes(2 * HEADERS_BYTES_MAX)
    length = b"Content-Length: %d\r\n\r\n" % len(body)
    assert (await said_to(begin + fits * line + length, body)).startswith(b"HTTP/1.1 200 ")
    assert (await said_to(begin + length + body)).startswith(b"HTTP/1.1 200 ")  # Of one packet the body is none of the head.
    assert is_refused(await said_to(begin + (fits + 2) * line + length))
    assert is_refused(await said_to(begin, *((fits + 2) * [line])))
    assert is_refused(await said_to(begin + b"A: ", *((fits + 2) * [b"a" * 1024])))


async def test_what_stands_around_a_body_in_parts_is_bounded_and_the_body_itself_is_not() -> None:
    begin, line = b"POST / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n", b"A: " + b"a" * 1020 + b"\r\n"
    many, chunk = 20 * HEADERS_BYTES_MAX // 1024, b"400\r\n" + bytes(1024) + b"\r\n"
    assert (await said_to(begin, *(many * [chunk]), b"0\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    assert (await said_to(begin, b"0\r\n" + line + b"\r\n")).startswith(b"HTTP/1.1 200 ")
    assert is_refused(await said_to(begin, b"0\r\n", *(many * [line])))
    assert is_refused(await said_to(begin, b"0\r\nA: ", *(many * [b"a" * 1024])))
    assert is_refused(await said_to(begin, b"1;", *(many * [b"a" * 1024])))


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 1\r\nContent-Length: 2\r\n",
        b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: +1\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        b"Content-Length : 1\r\n",
        b" Content-Length: 1\r\n",
    ],
)
async def test_a_request_that_two_readers_would_cut_at_different_places_is_refused(head: bytes) -> None:
    assert (await said_to(b"POST / HTTP/1.1\r\nHost: here\r\n" + head + b"\r\n0\r\n\r\n")).startswith(b"HTTP/1.1 400 ")


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


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can be told to greet nobody")
def test_at_a_door_that_is_about_to_close_nobody_is_greeted_and_who_stands_there_comes_in() -> None:
    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()) as stands_there:
        _greet_nobody(listening)
        with pytest.raises(TimeoutError):  # Neither greeted, which closing would take back, nor turned away yet.
            socket.create_connection(listening.getsockname(), timeout=0.3)
        taken, _ = listening.accept()
        with taken:
            stands_there.sendall(b"still heard")
            assert taken.recv(11) == b"still heard"


class Wire(asyncio.Transport):
    """Takes down what is sent, call by call."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(bytes(data))

    def close(self) -> None:
        self.sent.append(b"closed")


async def test_head_and_body_of_an_answer_are_one_send() -> None:
    wire = Wire()
    transport = _OneSend(wire)
    for part in (b"head", b"body", b""):
        transport.write(part)
    assert wire.sent == []
    await asyncio.sleep(0)
    assert wire.sent == [b"headbody"]


async def test_what_was_written_is_sent_before_the_connection_closes_and_much_of_it_at_once() -> None:
    wire = Wire()
    transport = _OneSend(wire)
    transport.write(bytes(HELD_BYTES_MAX + 1))
    assert [len(each) for each in wire.sent] == [HELD_BYTES_MAX + 1]
    transport.write(b"last")
    transport.close()
    await asyncio.sleep(0)
    assert wire.sent[1:] == [b"last", b"closed"]
