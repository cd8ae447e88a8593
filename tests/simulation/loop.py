"""An event loop whose time is made up: nothing sleeps, time passes when nobody has anything to do. And the processes that live in it."""

import asyncio
import contextlib
import random
import selectors
from collections.abc import Callable, Coroutine, Iterator
from contextvars import ContextVar, copy_context
from types import ModuleType
from typing import Any, Final

import structlog

from shared.consumer import apply
from shared.eventstore import submit
from shared.postgres import IDLE_IN_TRANSACTION_SECONDS_MAX
from shared.relay import readback
from shared.relay import shell as relay

CLOCKED: Final[tuple[ModuleType, ...]] = (apply, submit, readback, relay)
"""The modules under simulation that ask the machine's monotonic clock."""
BEGIN: Final = 1000.0
"""The loop's clock at the start; not 0, which some take for long ago."""


class StuckError(AssertionError):
    """Everybody waits for somebody, and no clock will wake any of them."""


class _Nobody(selectors.SelectSelector):
    """In a selector's place: there is no socket to wait for, so the wait is over at once and the clock has moved."""

    now = BEGIN

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise StuckError
        self.now += max(timeout, 0.0)
        return []


class Life:
    """One process: what runs in it, and until when it sleeps. Once it is dead nothing it does reaches anybody."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_dead = False
        self.sleeps_until = 0.0
        self.clock_seconds = 0.0
        """By how much its wall clock is wrong."""
        self.cut_off: list[Callable[[], None]] = []
        """What its servers do when it is gone, or sleeps in the middle of a transaction for too long."""
        self._tasks: dict[asyncio.Task[Any], None] = {}

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Runs `work` in this process."""
        context = copy_context()
        context.run(_LIFE.set, self)
        return asyncio.get_running_loop().create_task(work, context=context)

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """A task that was made in this process dies with it."""
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    def sleep(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after `seconds`."""
        loop = asyncio.get_running_loop()
        self.sleeps_until = loop.time() + seconds
        if seconds > IDLE_IN_TRANSACTION_SECONDS_MAX:
            loop.call_later(IDLE_IN_TRANSACTION_SECONDS_MAX, self._lose_servers)

    def _lose_servers(self) -> None:
        for each in self.cut_off:
            each()

    def end(self) -> None:
        """SIGKILL."""
        self.is_dead = True
        self._lose_servers()
        for task in list(self._tasks):
            task.cancel()


_LIFE: ContextVar[Life | None] = ContextVar("life", default=None)


def whose() -> Life | None:
    """The process that is running just now; None for the world around."""
    return _LIFE.get()


def _task(loop: asyncio.AbstractEventLoop, work: Any, **named: Any) -> "asyncio.Task[Any]":
    task = asyncio.Task(work, loop=loop, **named)
    context = named.get("context")
    life = _LIFE.get() if context is None else context.get(_LIFE)
    if life is not None:
        life.adopt(task)
    return task


class Loop(asyncio.SelectorEventLoop):
    """Its clock moves to the next thing that is due, whenever nothing else is left to do."""

    def __init__(self) -> None:
        self._nobody = _Nobody()
        super().__init__(self._nobody)
        self.set_task_factory(_task)
        self.set_exception_handler(lambda _loop, _context: None)  # The dead leave errors that nobody asks for.

    def time(self) -> float:
        return self._nobody.now


@contextlib.contextmanager
def made_up(seed: int) -> Iterator[Loop]:
    """A loop; and for this block chance is the seed's, the monotonic clock is the loop's, and the product's log says nothing."""
    loop, kept, logging = Loop(), random.getstate(), structlog.get_config()
    clocks = {module: module.monotonic for module in CLOCKED}
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    random.seed(seed)
    for module in CLOCKED:
        module.monotonic = loop.time  # type: ignore[attr-defined]
    try:
        yield loop
    finally:
        for module, clock in clocks.items():
            module.monotonic = clock  # type: ignore[attr-defined]
        random.setstate(kept)
        structlog.configure(**logging)
        loop.close()
