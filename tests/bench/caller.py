"""A load generator in a process of its own: `python -m tests.bench.caller PLAN RESULT`. HTTP/1.1 written by hand, so that it costs little.

The plan is JSON: host, port, head (header lines), connections, seconds, rate (null: a closed loop), posts ([path, body] each, sent once).
The result is JSON: seconds, and for each call what it was scheduled for, when it was answered, its status, and its
header `Position`, or the body when the status is not 200.
"""

import asyncio
import json
import sys
from http import HTTPStatus
from pathlib import Path
from time import monotonic
from typing import Any, Final
from uuid import uuid4

ANSWER_SECONDS_MAX: Final = 30.0


async def run(plan: dict[str, Any]) -> dict[str, Any]:
    """Plays the plan."""
    posts = iter(enumerate(plan["posts"]))
    calls: list[tuple[float, float, int, str]] = []
    key, rate = uuid4().hex, plan["rate"]
    connections = [await asyncio.open_connection(plan["host"], plan["port"]) for _ in range(plan["connections"])]
    began = monotonic()
    end = began + plan["seconds"]

    async def work(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            now = monotonic()
            if rate is None and now >= end:  # An open loop sends all that was scheduled, however late.
                return
            number, (path, body) = next(posts, (-1, ("", "")))
            if number < 0:
                return
            scheduled = now if rate is None else began + number / rate
            if scheduled >= end:
                return
            await asyncio.sleep(max(0.0, scheduled - monotonic()))
            text = (
                f"POST {path} HTTP/1.1\r\nHost: bench\r\n{plan['head']}Idempotency-Key: {key}-{number}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
            )
            writer.write(text.encode())
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                status, position = await _answer(reader)
            calls.append((scheduled, monotonic(), status, position))

    async with asyncio.TaskGroup() as tasks:
        for connection in connections:
            tasks.create_task(work(*connection))
    seconds = monotonic() - began
    for _, writer in connections:
        writer.close()
    return {"seconds": seconds, "calls": calls}


async def _answer(reader: asyncio.StreamReader) -> tuple[int, str]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    status = int(head[0].split(" ")[1])
    return status, headers.get("position", "") if status == HTTPStatus.OK else body.decode("utf-8", "replace")


if __name__ == "__main__":
    said = asyncio.run(run(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
    Path(sys.argv[2]).write_text(json.dumps(said), encoding="utf-8")
