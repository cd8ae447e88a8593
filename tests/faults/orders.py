"""What can be done to a service process from outside, by orders that `tests.faults.launcher` is given.

The product knows nothing of it: an order wraps one of its functions before `main` runs. What is wrapped is named here, and a name that is
gone ends the process at once, so that a fault cannot silently stop to strike. Orders:

    kill=POINT:N            SIGKILL at the n-th pass of a point
    stop=POINT:N            SIGSTOP there
    block=POINT:N:SECONDS   the whole process, event loop and all, stands still there
    unlocked=ROLE,ROLE      the roles are taken without asking for their lock
    withhold=N              of the n-th page of several events one is not sent, although the answer says so
    flip=payload:N          of the n-th page one event is sent with one bit changed in its payload, or `flip=header:N`
    leak=N                  from the n-th decision on memory is eaten until somebody ends it
    limit=FOLDER            the process joins the control group of that folder
"""

import asyncio
import importlib
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from asyncpg.pool import PoolConnectionProxy

from shared import process, worker
from shared.consumer.apply import LIVE, Consumer, follow
from shared.consumer.inbox import Reactor
from shared.consumer.shell import Subscription
from shared.eventstore import lane
from shared.eventstore.lane import Lane
from shared.eventstore.store import PostgresStore
from shared.eventstore.submit import Commands
from shared.relay.publisher import Publisher
from shared.relay.steps import Outgoing

LEAK_BYTES_MAX = 512 * 1024 * 1024
"""Nobody's machine is eaten up where no limit holds."""
HERE = "here"
"""The word that stands in the process's log before the name of the point that it has reached."""


@dataclass(frozen=True)
class Point:
    """A place in the product: before or after a call of an async function, for those calls that `only` names."""

    holder: type
    function: str
    after: bool = False
    only: Callable[..., bool] = lambda *_: True


def _is_append(_connection: Any, query: str, *_: Any) -> bool:
    return query is lane._APPEND


def _is_new_for_own_views(consumer: Consumer, messages: Sequence[Any]) -> bool:
    part = consumer.part
    return part.consumer == LIVE and part.keys is not None and bool(follow(part.source, consumer.place, messages).entries)


POINTS = {
    "deciding": Point(Commands, "_decide"),
    "waiting": Point(Lane, "_write", only=lambda _lane, batch: bool(batch)),
    "sent": Point(PoolConnectionProxy, "fetchrow", only=_is_append),
    "committed": Point(PoolConnectionProxy, "fetchrow", after=True, only=_is_append),
    "read": Point(PostgresStore, "read_page", after=True),
    "sealed": Point(Publisher, "publish"),
    "published": Point(Publisher, "publish", after=True),
    "in-hand": Point(Consumer, "take", only=_is_new_for_own_views),
    "applied": Point(Consumer, "_apply", after=True),
    "applied-committed": Point(Subscription, "_tell_kafka"),
    "looked-up": Point(Reactor, "react"),
    "reacted": Point(Reactor, "_send", after=True),
}
"""The crash points of F1 that lie in a process of ours (reliability.md 2.5); `in-hand`: views hold the next events of their own log."""


def say(what: str) -> None:
    """One line in the process's log, whatever becomes of the process after it."""
    os.write(2, f"{HERE} {what}\n".encode())


def watch(name: str, nth: int, act: Callable[[], None]) -> None:
    """Lets `act` happen at the n-th pass of a point."""
    point, passes = POINTS[name], itertools.count(1)
    original = getattr(point.holder, point.function)

    async def watched(*given: Any, **named: Any) -> Any:
        struck = point.only(*given) and next(passes) == nth
        if struck and name == "sent":
            under_way = asyncio.ensure_future(original(*given, **named))
            for _ in range(3):
                await asyncio.sleep(0)  # The call is in the kernel's hands.
            _reach(name, act)
            return await under_way
        if struck and not point.after:
            _reach(name, act)
        answer = await original(*given, **named)
        if struck and point.after:
            _reach(name, act)
        return answer

    setattr(point.holder, point.function, watched)


def _reach(name: str, act: Callable[[], None]) -> None:
    say(name)
    act()


def signal_at(number: signal.Signals, order: str) -> None:
    """`POINT:N`."""
    name, _, nth = order.partition(":")
    watch(name, int(nth), partial(os.kill, os.getpid(), number))


def block(order: str) -> None:
    """`POINT:N:SECONDS`."""
    name, nth, seconds = order.split(":")
    watch(name, int(nth), partial(time.sleep, float(seconds)))


def take_unlocked(order: str) -> None:
    """`ROLE,ROLE`."""
    roles, original = order.split(","), worker._wait_for_the_lock

    async def at_once(connection: Any, role: str, stop: asyncio.Event) -> bool:
        return role in roles or await original(connection, role, stop)

    worker._wait_for_the_lock = at_once


def tamper(nth: int, change: Callable[[Outgoing], Outgoing | None]) -> None:
    """Sends the n-th page of several events with the second of them changed, or without it; the answer says that all is well."""
    original, passes = Publisher.publish, itertools.count(1)

    async def publish(self: Publisher, page: Sequence[Outgoing]) -> Sequence[int]:
        if len(page) < 2 or next(passes) != nth:
            return await original(self, page)
        say(f"tampered {page[1].link.position}")
        changed = change(page[1])
        offsets = list(await original(self, [page[0], *([] if changed is None else [changed]), *page[2:]]))
        return list(range(offsets[0], offsets[0] + len(page)))

    Publisher.publish = publish  # type: ignore[method-assign]


def flipped(content: bytes) -> bytes:
    """The lowest bit of the byte in the middle is another."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def flip(order: str) -> None:
    """`payload:N` or `header:N`."""
    what, _, nth = order.partition(":")

    def change(event: Outgoing) -> Outgoing:
        if what == "payload":
            return replace(event, value=flipped(event.value))
        struck = int(nth) % len(event.headers)
        return replace(event, headers=[(name, flipped(text) if n == struck else text) for n, (name, text) in enumerate(event.headers)])

    tamper(int(nth), change)


def leak(nth: int) -> None:
    """A thread that never gives back what it takes."""

    def eat() -> None:
        held = []
        for _ in range(LEAK_BYTES_MAX // 2**20):
            held.append(b"x" * 2**20)
            time.sleep(0.01)

    watch("deciding", nth, threading.Thread(target=eat, daemon=True).start)


def join(folder: str) -> None:
    """What it takes from now on counts."""
    (Path(folder) / "cgroup.procs").write_text(str(os.getpid()), "ascii")


ORDERS: dict[str, Callable[[str], None]] = {
    "kill": partial(signal_at, signal.SIGKILL),
    "stop": partial(signal_at, signal.SIGSTOP),
    "block": block,
    "unlocked": take_unlocked,
    "withhold": lambda order: tamper(int(order), lambda _event: None),
    "flip": flip,
    "leak": lambda order: leak(int(order)),
    "limit": join,
}


def run(service: str, role: str, orders: Sequence[str]) -> None:
    """Does what the orders say, then runs the service as its own module would."""
    for order in orders:
        name, _, rest = order.partition("=")
        ORDERS[name](rest)
    sys.argv = [f"services.{service}", role]
    process.main(importlib.import_module(f"services.{service}.main").SERVICE)
