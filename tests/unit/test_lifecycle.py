"""How a process waits, so that it can end."""

import asyncio

from shared.lifecycle import pause


async def test_a_loop_that_pauses_when_all_is_to_stop_lets_others_have_their_turn() -> None:
    stop = asyncio.Event()
    stop.set()

    async def forgetful() -> None:
        while True:
            await pause(stop, 60.0)

    async def ender() -> None:
        await asyncio.sleep(0)
        going_on.cancel()

    going_on = asyncio.create_task(forgetful())
    await asyncio.wait({going_on, asyncio.create_task(ender())})

    assert going_on.cancelled()


async def test_a_pause_ends_when_all_is_to_stop_and_says_so() -> None:
    stop = asyncio.Event()
    waiting = asyncio.create_task(pause(stop, 60.0))
    await asyncio.sleep(0)
    stop.set()

    assert await waiting
    assert not await pause(asyncio.Event(), 0.01)
