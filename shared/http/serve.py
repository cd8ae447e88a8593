"""Runs an ASGI application until it is told to stop; ends without dropping a request (operations.md 3.3)."""

import asyncio
import ctypes
import socket
import struct
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shared.lifecycle import pause

FINISH_SECONDS_MAX: Final = 20
KEEP_ALIVE_SECONDS: Final = 30
HEADERS_BYTES_MAX: Final = 32 * 1024
BACKLOG: Final = 512
LINGER_SECONDS: Final = 1.0
"""How long, once the door is closed, a connection that is open may still bring a request; it is told that this is the last one."""
THRESHOLD_SECONDS: Final = 0.1
"""How long whoever was greeted before the door closed has to come in; who knocks meanwhile is not heard, knocks again, and is refused."""
CONNECTIONS_MAX: Final = 1000
"""Connections of one process; the next one is told 503 at once."""
DATE_SECONDS: Final = 1.0
"""How often the date that answers carry is written anew."""
_SO_ATTACH_FILTER: Final = 26  # Linux's number; Python has no name for it.
HELD_BYTES_MAX: Final = 64 * 1024
"""What an answer may gather before it is sent in parts."""


class _OneSend:
    """A transport that sends what is written in one turn of the loop at once: an answer's head and body are one packet, one system call."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._parts: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """As a transport's, a turn later."""
        if not data:
            return
        if not self._parts:
            asyncio.get_running_loop().call_soon(self._flush)
        self._parts.append(data)
        self._size += len(data)
        if self._size > HELD_BYTES_MAX:  # Flow control counts what the transport has.
            self._flush()

    def close(self) -> None:
        """As a transport's: after what was written."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        parts, self._parts, self._size = self._parts, [], 0
        if parts:
            self._transport.write(b"".join(parts))


class _HeadTooLargeError(Exception):
    """The parser tells it on as one of its own: 400, and the connection ends."""


class _Protocol(HttpToolsProtocol):
    """HTTP/1.1 by llhttp, which takes a request apart for a tenth of what that costs in Python.

    It bounds nothing of what is no body, and keeps what has not ended: heads, trailers, what may be said of a chunk.
    So here is a bound; only what comes in one packet with the end of something else is not counted.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._loose_bytes = 0  # Received since the last of a head, a body or a message.
        super().connection_made(_OneSend(transport))  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """As a protocol's. What does not end is not waited for."""
        self._loose_bytes += len(data)
        super().data_received(data)
        if self._loose_bytes > HEADERS_BYTES_MAX and not self.transport.is_closing():
            self.send_400_response("Head too large.")

    def on_headers_complete(self) -> None:
        """As a parser's."""
        large, self._loose_bytes = self._loose_bytes > HEADERS_BYTES_MAX, 0
        if large and len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > HEADERS_BYTES_MAX:
            raise _HeadTooLargeError
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """As a parser's."""
        self._loose_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """As a parser's."""
        self._loose_bytes = 0
        super().on_message_complete()


class _Server(uvicorn.Server):
    """Leaves signals to the process: who owns the process decides what SIGTERM means."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending = asyncio.Event()

    def end(self) -> None:
        """Has `serve` come to its end."""
        self.should_exit = True
        self._ending.set()

    async def main_loop(self) -> None:
        """Until the end. uvicorn's own wakes the process ten times a second to see whether that has come; this one is told."""
        while not await self.on_tick(0):
            await pause(self._ending, DATE_SECONDS)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes in who already stands at the door, closes it, and hears out who is inside.

        uvicorn alone would reset the former, and hang up on the latter between two requests.
        """
        for one in sockets or ():
            _greet_nobody(one)
        await asyncio.sleep(THRESHOLD_SECONDS)
        last = [each for one in sockets or () for each in _waiting(one)]
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        for each in last:
            await loop.connect_accepted_socket(self._protocol, each)
        end = monotonic() + LINGER_SECONDS
        while self.server_state.connections and monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # uvicorn tells of no end of a connection.
        await super().shutdown(sockets)

    def _protocol(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made


def _greet_nobody(listening: socket.socket) -> None:
    """Has the kernel let no new connection begin here, while those that have begun are made.

    Closing resets each connection that was made and not taken, and while callers come there is always one between the last `accept` and
    the close. So the kernel first drops what asks for a connection (a packet with SYN, at byte 13 of TCP's head). Linux alone can.
    """
    if sys.platform != "linux":
        return
    load_flags, is_syn, drop, pass_on = (0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF)
    steps = b"".join(struct.pack("=HBBI", *each) for each in (load_flags, is_syn, drop, pass_on))
    program = ctypes.create_string_buffer(steps, len(steps))
    listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(steps) // 8, ctypes.addressof(program)))


def _waiting(listening: socket.socket) -> Iterator[socket.socket]:
    """The connections that the kernel has made and nobody has taken yet; closing the door would reset them."""
    try:
        while True:
            yield listening.accept()[0]
    except OSError:  # Nobody waits any more.
        return


def _saying_goodbye(app: ASGIApp, stop: asyncio.Event) -> ASGIApp:
    """`app`, whose answers after `stop` end their connections: a client then knows not to send another request on it."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_last(message: Message) -> None:
            if message["type"] == "http.response.start" and stop.is_set():
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        await app(scope, receive, send_last if scope["type"] == "http" else send)

    return answer


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, and whose connections send at once. Raises OSError when the address cannot be bound.

    asyncio sees to the latter only on sockets that name their protocol, which these do not: the second part of an answer would wait 40 ms
    for the caller to acknowledge the first.
    """
    listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


async def serve(app: ASGIApp, host: str, port: int, stop: asyncio.Event, *, pause_seconds: float = 0.0) -> None:
    """Serves until `stop` is set, then waits `pause_seconds` (for endpoints that still send requests here), finishes what runs, returns.

    Raises OSError when the address cannot be bound.
    """
    listening = listen(host, port)
    config = uvicorn.Config(
        _saying_goodbye(app, stop),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=FINISH_SECONDS_MAX,
        http=_Protocol,
        ws="none",
        limit_concurrency=CONNECTIONS_MAX,
        proxy_headers=False,
    )
    server = _Server(config)

    async def end() -> None:
        await stop.wait()
        await asyncio.sleep(pause_seconds)
        server.end()

    async with asyncio.TaskGroup() as tasks:
        ending = tasks.create_task(end())
        await server.serve(sockets=[listening])
        ending.cancel()
