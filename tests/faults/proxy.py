"""A TCP proxy for the edges of a system: it is slow, cut, silent or one-way by rule, and it swallows one answer exactly.

It knows no protocol. All edges live in one process beside the clients' own, which ends with the connection that commands it. What chance
decides (delays, slices) is drawn from the seed, the edge and the number of the connection.
"""

import asyncio
import json
import random
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any, Literal

from deploy.local.children import Child, wait_for
from deploy.local.kafka import HOST, free_ports
from deploy.local.places import CHECKOUT

ANSWER_WITHIN_S = 10.0
START_WITHIN_S = 20.0
HELD_BYTES_MAX = 64 * 1024
"""So much of a flow is kept waiting; then its source is read no more, and the kernel's buffers fill."""
SLICE_BYTES_MAX = 7
PAUSES_AMONG_SLICES = 1 / 8
"""Without a pause now and then the kernel would put the pieces together again."""

Direction = Literal["up", "down"]
"""Up is what the client says, down what the server says."""


@dataclass(frozen=True)
class Rules:
    """How an edge treats what passes. The default is a good wire."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    """The delay is `delay_s` ± this; the order stays."""
    bytes_per_s: float = 0.0
    """Rate of each direction of each connection; 0 is as fast as it goes."""
    sliced: bool = False
    """Everything is sent on in pieces of 1 to 7 bytes."""
    up_held: bool = False
    """Nothing goes up, neither data nor an end. It is not lost but late, as TCP has it."""
    down_held: bool = False
    silent: bool = False
    """New connections are accepted, and that is all; when this heals they are reset."""


CUT = Rules(up_held=True, down_held=True)
"""A black hole. A new connection seems to be made, as it does when a firewall answers for the server, and hears nothing."""


@dataclass(frozen=True)
class Seen:
    """Counts of an edge since it was made, and the connections that are open now."""

    accepted: int
    open: int
    swallowed: int
    cut: int


class Proxy:
    """One edge, as the harness holds it. Every call returns when it is done."""

    def __init__(self, proxies: "Proxies", name: str, port: int) -> None:
        self.name = name
        self.port = port
        """Where clients connect."""
        self._proxies = proxies

    def aim(self, port: int) -> None:
        """Leads new connections to another port."""
        self._do("aim", port=port)

    def rule(self, rules: Rules) -> None:
        """These rules and no others, from now on."""
        self._do("rule", rules=asdict(rules))

    def heal(self) -> None:
        """A good wire again: no rules, no cut and no swallowing that waits; connections that only met silence are reset."""
        self._do("heal")

    def reset(self) -> None:
        """RST to both ends of every open connection."""
        self._do("reset")

    def cut_after(self, count: int) -> None:
        """Resets the connection on which the server's `count`-th byte from now on passes, after that byte."""
        self._do("cut_after", count=count)

    def swallow(self, marker: bytes) -> None:
        """Once: after the client has said something that contains `marker`, what the server says next is dropped, and the connection reset.

        The server has answered by then: with a statement of its own as the client's message, the answer says that it is committed.
        """
        self._do("swallow", marker=marker.hex())

    def seen(self) -> Seen:
        """What has happened here."""
        return Seen(**self._do("seen"))

    def _do(self, what: str, **arguments: Any) -> Any:
        return self._proxies.do(what, edge=self.name, **arguments)


class Proxies:
    """The process with all edges. Start it from the main thread; close it at the end."""

    def __init__(self, folder: Path, seed: int) -> None:
        (port,) = free_ports(1)
        command = [sys.executable, "-m", "tests.faults.proxy", str(port), str(seed)]
        self._child = Child("proxy", command, log=folder / "proxy.log", environment=_environment(), directory=CHECKOUT)
        self._control: socket.socket | None = None
        assert wait_for(lambda: self._connected(port), START_WITHIN_S), self._child.last_words(20)

    def edge(self, name: str, port: int) -> Proxy:
        """A new edge to a port of the loopback address."""
        return Proxy(self, name, self.do("edge", edge=name, port=port))

    def do(self, what: str, **arguments: Any) -> Any:
        """One command to the process."""
        assert self._control is not None
        self._control.sendall(json.dumps({"do": what, **arguments}).encode() + b"\n")
        line = b""
        while not line.endswith(b"\n") and (more := self._control.recv(4096)):
            line += more
        assert line, f"the proxy has ended: {self._child.last_words(20)}"
        return json.loads(line)["said"]

    def close(self) -> None:
        """Ends the process, and every connection with it."""
        if self._control is not None:
            self._control.close()
        self._child.stop()

    def _connected(self, port: int) -> bool:
        assert self._child.running(), self._child.last_words(20)
        with suppress(OSError):
            self._control = socket.create_connection((HOST, port), timeout=ANSWER_WITHIN_S)
        return self._control is not None


def _environment() -> Mapping[str, str]:
    return {"LC_ALL": "C.UTF-8", "PYTHONUNBUFFERED": "1"}


# -- the process


@dataclass(eq=False)
class _Edge:
    name: str
    target: int
    seed: str
    rules: Rules = Rules()
    marker: bytes = b""
    cut_after: int = 0
    accepted: int = 0
    swallowed: int = 0
    cut: int = 0

    def __post_init__(self) -> None:
        self.connections: set[_Connection] = set()
        self.changed = asyncio.Event()

    def rule(self, rules: Rules) -> None:
        self.rules = rules
        self.changed.set()
        self.changed = asyncio.Event()

    async def until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await self.changed.wait()

    def is_held(self, direction: Direction) -> bool:
        return self.rules.up_held if direction == "up" else self.rules.down_held


class _End(asyncio.Protocol):
    """One socket of a connection: what it hears goes into `flow`."""

    def __init__(self, connection: "_Connection") -> None:
        self.connection = connection
        self.flow: _Flow | None = None
        self.writable = asyncio.Event()
        self.writable.set()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self.connection.client is self:
            self.connection.begin()

    def data_received(self, data: bytes) -> None:
        if self.flow is not None:
            self.flow.take(data)

    def eof_received(self) -> bool:
        if self.flow is not None:
            self.flow.take(b"")
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self.writable.set()
        if self.flow is not None:
            self.flow.take(None)
        else:
            self.connection.end()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def reset(self) -> None:
        if self.transport is not None:
            kept: socket.socket = self.transport.get_extra_info("socket")
            with suppress(OSError):
                kept.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()


class _Flow:
    """One direction of a connection. `b""` in it stands for the sender's end, None for a connection that its sender has lost."""

    def __init__(self, edge: _Edge, connection: "_Connection", direction: Direction, source: _End, sink: _End) -> None:
        self._edge = edge
        self._connection = connection
        self._direction: Direction = direction
        self._source = source
        self._sink = sink
        self._random = random.Random(f"{edge.seed}/{edge.name}/{edge.accepted}/{direction}")
        self._waiting: deque[tuple[float, bytes | None]] = deque()
        self._waiting_bytes = 0
        self._due = 0.0
        self._tail = b""
        self._task: asyncio.Task[None] | None = None

    def take(self, data: bytes | None) -> None:
        rules = self._edge.rules
        if self._task is None and data and rules == Rules() and self._sink.writable.is_set():
            self._pass(data)
            return
        drawn = rules.delay_s + self._random.uniform(-rules.jitter_s, rules.jitter_s) if rules.delay_s else 0.0
        self._due = max(self._due, monotonic() + drawn)
        self._waiting.append((self._due, data))
        self._waiting_bytes += len(data or b"")
        if self._waiting_bytes > HELD_BYTES_MAX and self._source.transport is not None:
            self._source.transport.pause_reading()
        if self._task is None:
            self._task = asyncio.create_task(self._pump())

    async def _pump(self) -> None:
        try:
            while self._waiting:
                due, data = self._waiting.popleft()
                await asyncio.sleep(max(0.0, due - monotonic()))
                await self._edge.until(lambda: not self._edge.is_held(self._direction))
                if data is None:
                    self._connection.end()
                elif data:
                    await self._send(data)
                else:
                    self._connection.half_end(self._sink)
                self._waiting_bytes -= len(data or b"")
                if self._waiting_bytes <= HELD_BYTES_MAX and self._source.transport is not None:
                    self._source.transport.resume_reading()
        finally:
            self._task = None

    async def _send(self, data: bytes) -> None:
        while data:
            rules = self._edge.rules
            most = self._random.randint(1, SLICE_BYTES_MAX) if rules.sliced else len(data)
            if rules.bytes_per_s:
                most = min(most, max(1, round(rules.bytes_per_s / 20)))
            piece, data = data[:most], data[most:]
            await self._sink.writable.wait()
            self._pass(piece)
            if rules.bytes_per_s:
                await asyncio.sleep(len(piece) / rules.bytes_per_s)
            elif rules.sliced and self._random.random() < PAUSES_AMONG_SLICES:
                await asyncio.sleep(0.001)
            if data:
                await self._edge.until(lambda: not self._edge.is_held(self._direction))

    def _pass(self, data: bytes) -> None:
        edge = self._edge
        if self._direction == "up":
            self._sink.write(data)
            if edge.marker:
                heard = self._tail + data
                self._connection.swallows_next |= edge.marker in heard
                self._tail = heard[-len(edge.marker) + 1 :]
                if self._connection.swallows_next:
                    edge.marker = b""
        elif self._connection.swallows_next:
            edge.swallowed += 1
            self._connection.reset()
        elif edge.cut_after:
            self._sink.write(data[: edge.cut_after])
            edge.cut_after = max(0, edge.cut_after - len(data))
            if not edge.cut_after:
                edge.cut += 1
                self._connection.reset()
        else:
            self._sink.write(data)


class _Connection:
    """A client that connected, and its way to the server."""

    def __init__(self, edge: _Edge) -> None:
        self.edge = edge
        self.client = _End(self)
        self.server = _End(self)
        self.swallows_next = False
        self.is_silent = edge.rules.silent
        self._silent_ends = 0
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self.edge.accepted += 1
        self.edge.connections.add(self)
        assert self.client.transport is not None
        if not self.is_silent:
            self.client.transport.pause_reading()
            self._task = asyncio.create_task(self._reach_the_server())

    async def _reach_the_server(self) -> None:
        await self.edge.until(lambda: not self.edge.rules.up_held and not self.edge.rules.down_held)
        self.client.flow = _Flow(self.edge, self, "up", self.client, self.server)
        self.server.flow = _Flow(self.edge, self, "down", self.server, self.client)
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.server, HOST, self.edge.target)
        except OSError:
            self.reset()
            return
        if self.client.transport is None:
            self.reset()
        else:
            self.client.transport.resume_reading()

    def half_end(self, sink: _End) -> None:
        """One of the two has nothing more to say."""
        self._silent_ends += 1
        if self._silent_ends == 2:
            self.end()
        elif sink.transport is not None:
            sink.transport.write_eof()

    def end(self) -> None:
        """One of the two has gone; what it said before has been passed on."""
        self.edge.connections.discard(self)
        for each in (self.client, self.server):
            if each.transport is not None:
                each.transport.close()

    def reset(self) -> None:
        self.edge.connections.discard(self)
        for each in (self.client, self.server):
            each.reset()


class _Commands:
    """What the harness may ask for."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._edges: dict[str, _Edge] = {}
        self._servers: list[asyncio.Server] = []

    async def do(self, asked: dict[str, Any]) -> Any:
        what, name = asked.pop("do"), asked.pop("edge")
        if what == "edge":
            return await self._listen(_Edge(name, asked["port"], self._seed))
        return getattr(self, f"_{what}")(self._edges[name], **asked)

    async def _listen(self, edge: _Edge) -> int:
        self._edges[edge.name] = edge
        server = await asyncio.get_running_loop().create_server(lambda: _Connection(edge).client, HOST, 0)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    def _aim(self, edge: _Edge, port: int) -> None:
        edge.target = port

    def _rule(self, edge: _Edge, rules: dict[str, Any]) -> None:
        edge.rule(replace(Rules(), **rules))

    def _heal(self, edge: _Edge) -> None:
        edge.marker, edge.cut_after = b"", 0
        edge.rule(Rules())
        for each in [each for each in edge.connections if each.is_silent]:
            each.reset()

    def _reset(self, edge: _Edge) -> None:
        for each in list(edge.connections):
            each.reset()

    def _cut_after(self, edge: _Edge, count: int) -> None:
        edge.cut_after = count

    def _swallow(self, edge: _Edge, marker: str) -> None:
        edge.marker = bytes.fromhex(marker)

    def _seen(self, edge: _Edge) -> dict[str, int]:
        return asdict(Seen(edge.accepted, len(edge.connections), edge.swallowed, edge.cut))


async def _serve(port: int, seed: str) -> None:
    """Does what the first connection says, and ends with it."""
    commands, ended = _Commands(seed), asyncio.Event()

    async def obey(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(json.dumps({"said": await commands.do(json.loads(line))}).encode() + b"\n")
        ended.set()

    await asyncio.start_server(obey, HOST, port)
    await ended.wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), sys.argv[2]))
