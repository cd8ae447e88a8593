"""A request is answered in time even when the database is a black hole: what does not answer is left behind, not waited for."""

import asyncio
from collections.abc import Awaitable, Coroutine
from time import monotonic
from typing import Any, Final, TypeVar

from shared.errors import StoreUnavailableError

ANSWER_SECONDS_MAX: Final = 4.5
"""A request is answered within five seconds, with 503 when the database has not spoken by then."""

T = TypeVar("T")


class Deadline:
    """By when one request is answered, not counting the time its body takes to arrive."""

    def __init__(self, seconds: float = ANSWER_SECONDS_MAX) -> None:
        self._at = monotonic() + seconds

    def postpone(self, seconds: float) -> None:
        """Time that was the caller's."""
        self._at += seconds

    async def over(self, work: Awaitable[T]) -> T:
        """What `work` gives, which when cancelled ends at once, as a `Gathered` read does: no task of its own is needed then.

        Raises StoreUnavailableError when time is up.
        """
        try:
            async with asyncio.timeout(max(self._at - monotonic(), 0.0)):
                return await work
        except TimeoutError:
            raise StoreUnavailableError("no answer in time") from None

    async def meet(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` gives. Raises StoreUnavailableError when time is up; the work is cancelled then, and its end not awaited.

        Awaiting it could hang: cancelling a query on a connection into a black hole asks that server once more.
        """
        task = asyncio.create_task(work)
        try:
            return await self.wait_for(task)
        finally:
            task.cancel()

    async def wait_for(self, task: asyncio.Task[T]) -> T:
        """What `task` gives, or StoreUnavailableError when time is up; the task goes on."""
        loop = asyncio.get_running_loop()
        enough: asyncio.Future[None] = loop.create_future()

        def end(ended: asyncio.Task[T] | None = None) -> None:
            if ended is not None and not ended.cancelled():
                ended.exception()  # Seen, so that one nobody waits for any more is no stray warning.
            if not enough.done():
                enough.set_result(None)

        task.add_done_callback(end)
        timer = loop.call_later(max(self._at - monotonic(), 0.0), end)
        try:
            await enough
        finally:
            timer.cancel()
        if not task.done():
            raise StoreUnavailableError("no answer in time")
        return task.result()
