"""Reads that share statements: exact for everybody, whoever fails or leaves."""

import asyncio
from collections.abc import Sequence

import pytest

from shared.postgres import Gathered


class Table:
    """What is read: `rows`, in reads that end when the test lets them."""

    def __init__(self) -> None:
        self.rows = {"a": 1, "b": 2, "c": 3}
        self.asked: list[list[str]] = []
        self.held = asyncio.Event()

    async def read(self, keys: Sequence[str]) -> Sequence[int]:
        self.asked.append(list(keys))
        found = [self.rows[key] for key in keys]
        await self.held.wait()
        return found


async def turns() -> None:
    """Lets everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_asks_while_a_read_is_under_way_is_answered_by_the_next_one_with_what_is_there_then() -> None:
    table = Table()
    number = Gathered(table.read)
    asked = [asyncio.create_task(number("a"))]
    await turns()
    table.rows["a"] = 100  # After the first read began: who asks from now on has to see it.
    asked += [asyncio.create_task(number(key)) for key in ("b", "a", "b")]
    await turns()
    table.held.set()
    assert await asyncio.gather(*asked) == [1, 2, 100, 2]
    assert table.asked == [["a"], ["b", "a"]]


async def test_a_read_that_fails_fails_for_all_who_shared_it_and_for_nobody_else() -> None:
    table = Table()
    number = Gathered(table.read)
    table.held.set()
    wrong = await asyncio.gather(number("a"), number("none"), return_exceptions=True)
    assert [type(each) for each in wrong] == [KeyError, KeyError]
    assert await number("a") == 1


async def test_who_leaves_leaves_at_once_and_takes_nobody_along() -> None:
    table = Table()
    number = Gathered(table.read)
    leaving, staying = asyncio.create_task(number("a")), asyncio.create_task(number("b"))
    await turns()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    table.held.set()
    assert await staying == 2


async def test_of_more_keys_than_one_statement_takes_the_rest_go_with_the_next() -> None:
    table = Table()
    number = Gathered(table.read, keys_max=2)
    table.held.set()
    assert await asyncio.gather(*(number(key) for key in "abc")) == [1, 2, 3]
    assert table.asked == [["a", "b"], ["c"]]
