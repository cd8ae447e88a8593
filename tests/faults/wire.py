"""HTTP/1.1 by hand over kept connections: a client that costs little, for it shares the machine with what it asks."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class NobodyThereError(Exception):
    """Nobody listens: nothing was sent."""


class CutOffError(Exception):
    """The connection ended before the answer did: nobody knows what was heard."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> list[str]:
        """Its values, in their order; names in small letters."""
        return [value for each, value in self.headers if each == name]


class Wire:
    """Connections that are kept, by where they lead."""

    def __init__(self) -> None:
        self._idle: dict[str, list[Connection]] = {}

    async def ask(self, method: str, url: str, headers: Mapping[str, str], body: bytes, within: float) -> Reply:
        """One request. Raises NobodyThereError, CutOffError, TimeoutError."""
        there = urlsplit(url)
        lines = [f"{method} {url.removeprefix(f'{there.scheme}://{there.netloc}')} HTTP/1.1", f"Host: {there.netloc}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += ["Content-Type: application/json"] if body else []
        text = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode("ascii") + body
        async with asyncio.timeout(within):
            reader, writer = await self._connection(there.netloc)
            try:
                writer.write(text)
                reply = await _reply(reader)
            except (OSError, asyncio.IncompleteReadError) as error:
                writer.close()
                raise CutOffError from error
            except BaseException:
                writer.close()
                raise
        if "close" in reply.header("connection"):  # It ends in a moment, though nothing of that is to be seen yet.
            writer.close()
        else:
            self._idle.setdefault(there.netloc, []).append((reader, writer))
        return reply

    def close(self) -> None:
        """Lets go of all of them."""
        for connections in self._idle.values():
            for _, writer in connections:
                writer.close()
        self._idle.clear()

    async def _connection(self, netloc: str) -> Connection:
        idle = self._idle.get(netloc, [])
        while idle:
            reader, writer = idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        host, _, port = netloc.partition(":")
        try:
            return await asyncio.open_connection(host, int(port))
        except OSError as error:
            raise NobodyThereError from error


async def _reply(reader: asyncio.StreamReader) -> Reply:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = tuple((name.lower(), value.strip()) for name, colon, value in (line.partition(":") for line in head[1:]) if colon)
    length = next((int(value) for name, value in headers if name == "content-length"), 0)
    return Reply(int(head[0].split(" ")[1]), headers, await reader.readexactly(length))
