"""The harness's own HTTP client, in front of a server that does as it is told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from tests.faults.wire import CutOffError, NobodyThereError, Wire

Answering = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(answer: Answering) -> AsyncIterator[str]:
    """A server that reads requests and answers each as told; its address."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                await answer(head + await reader.readexactly(length), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_connection_is_kept_and_an_answer_is_whole() -> None:
    met: list[tuple[bytes, object]] = []

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        met.append((request, writer))
        writer.write(b"HTTP/1.1 409 Conflict\r\nPosition: a\r\nposition: b\r\nContent-Length: 2\r\n\r\n{}")

    wire = Wire()
    async with serving(answer) as url:
        replies = [await wire.ask("POST", f"{url}/x?y=1", {"After": "t"}, b"{}", 5) for _ in range(2)]
        wire.close()
    reply = replies[1]
    assert replies[0] == reply
    assert (reply.status, reply.header("position"), reply.body) == (409, ["a", "b"], b"{}")
    assert met[0][0].startswith(b"POST /x?y=1 HTTP/1.1\r\n")
    assert b"\r\nAfter: t\r\n" in met[0][0]
    assert met[0][1] is met[1][1]


async def test_a_connection_whose_end_was_announced_is_not_used_again_although_it_still_stands() -> None:
    met = list[asyncio.StreamWriter]()

    async def answer(_: bytes, writer: asyncio.StreamWriter) -> None:
        met.append(writer)
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")

    wire = Wire()
    async with serving(answer) as url:
        for _ in range(2):
            await wire.ask("GET", f"{url}/", {}, b"", 5)
        wire.close()
    assert met[0] is not met[1]


async def test_what_ends_in_the_middle_is_cut_off_and_the_next_request_has_a_new_connection() -> None:
    answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"]

    async def answer(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(answers.pop(0))
        if len(answers):
            writer.close()

    wire = Wire()
    async with serving(answer) as url:
        for _ in range(2):
            with pytest.raises(CutOffError):
                await wire.ask("GET", f"{url}/", {}, b"", 5)
        assert (await wire.ask("GET", f"{url}/", {}, b"", 5)).body == b"{}"
        wire.close()


async def test_silence_ends_in_time_and_where_nobody_listens_that_is_said() -> None:
    async def never(_: bytes, __: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    wire = Wire()
    async with serving(never) as url:
        with pytest.raises(TimeoutError):
            await wire.ask("GET", f"{url}/", {}, b"", 0.05)
    with pytest.raises(NobodyThereError):
        await wire.ask("GET", f"{url}/", {}, b"", 5)
