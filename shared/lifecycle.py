"""How a process lives and ends: SIGTERM and SIGINT ask it to stop, and what it waits for has a limit (operations.md 3.3)."""

import asyncio
import contextlib
import gc
import signal
from collections.abc import Awaitable, Callable, Coroutine
from time import monotonic
from typing import Any, Final, TypeVar

from shared import logs

COLLECTED_AFTER: Final = (20_000, 20, 50)
"""New objects until the youngest are looked through for garbage, and rounds of that until older ones are: a batch of events is none."""
_BACKOFF_SECONDS: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
_log = logs.logger()

T = TypeVar("T")


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set, once for this process."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def keep_what_is_made() -> None:
    """What a process is made of lives as long as it does: the garbage collector need not look at it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTED_AFTER)


async def pause(stop: asyncio.Event, seconds: float) -> bool:
    """Waits `seconds`, or less when `stop` is set meanwhile; whether it is set. Others have their turn in any case.

    A wait for what is there already gives no turn away: a loop that forgot to look at `stop` held up the very end of its process.
    """
    await asyncio.sleep(0)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
    return stop.is_set()


async def eventually(what: str, make: Callable[[], Awaitable[T]], errors: tuple[type[Exception], ...], within_seconds: float) -> T:
    """What `make` gives, tried again while it raises one of `errors`; the last one is raised when `within_seconds` are over."""
    end = monotonic() + within_seconds
    attempt = 0
    while True:
        try:
            return await make()
        except errors as error:
            delay = _BACKOFF_SECONDS[min(attempt, len(_BACKOFF_SECONDS) - 1)]
            attempt += 1
            if monotonic() + delay > end:
                raise
            _log.warning("not_there_yet", step=what, error=type(error).__qualname__)
            await asyncio.sleep(delay)


async def every(stop: asyncio.Event, seconds: float, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Does `work` every `seconds` until `stop` is set. What fails is logged, and tried again at the next turn."""
    while not stop.is_set():
        try:
            async with asyncio.timeout(max(seconds, 5.0)):
                await work()
        except Exception as error:  # noqa: BLE001  # A figure that could not be read now is read at the next turn; nothing depends on it.
            _log.warning("turn_failed", step=name, error=type(error).__qualname__)
        await pause(stop, seconds)


class Heartbeat:
    """Whether the event loop still turns: a beat every second, and how long ago the last one was."""

    STUCK_SECONDS: Final = 60.0

    def __init__(self) -> None:
        self._last = monotonic()

    async def run(self, stop: asyncio.Event) -> None:
        """Beats until `stop` is set."""
        while not stop.is_set():
            self._last = monotonic()
            await pause(stop, 1.0)

    def is_alive(self) -> bool:
        """Whether the last beat is less than `STUCK_SECONDS` old."""
        return monotonic() - self._last < self.STUCK_SECONDS
