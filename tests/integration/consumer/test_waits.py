"""Tokens are followed through, and what is not there in time is said so."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from shared.consumer.values import Fact, Reaction
from shared.consumer.waits import Waits
from shared.errors import NotCaughtUpError
from shared.http.positions import PositionToken
from shared.http.problems import ProblemError
from shared.http.query import Freshness
from shared.testing.store import MemoryStore
from tests.integration.consumer.conftest import Base
from tests.integration.consumer.log import NOON

HOURS, OTHER = uuid4(), uuid4()


async def stands(base: Base, consumer: str, log: str, log_id: UUID, applied: int, reacted: int = 0) -> None:
    await base.pool.execute(
        "INSERT INTO consumer.position (consumer, log, log_id, applied, reacted, ce_time) VALUES ($1, $2, $3, $4, $5, $6) "
        "ON CONFLICT (consumer, log) DO UPDATE SET applied = excluded.applied, reacted = excluded.reacted",
        consumer, log, log_id, applied, reacted, NOON,
    )  # fmt: skip


async def nothing(_fact: Fact, _look_ups: Any, _lack_is_fact: bool) -> tuple[()]:
    return ()


def waiting(base: Base, store: MemoryStore, *reacting: str) -> Waits:
    return Waits(store, base.pool, [Reaction("react", source, frozenset(), nothing) for source in reacting])


class Ahead(MemoryStore):
    """A log with some events."""

    def __init__(self, service: str, head: int) -> None:
        super().__init__(service)
        self.records = [None] * head  # type: ignore[list-item]


async def test_an_own_token_waits_for_the_views_and_a_late_one_is_said_so(base: Base) -> None:
    store = Ahead("recognition", 9)
    waits, token = waiting(base, store), PositionToken("recognition", store.log_id, 7)
    await stands(base, "views", "recognition", store.log_id, 6)
    with pytest.raises(NotCaughtUpError):
        await waits.for_views([token], 0.1)
    task = asyncio.create_task(waits.for_views([token], 20))
    await stands(base, "views", "recognition", store.log_id, 7)
    assert await task == {"recognition": 7}


async def test_a_foreign_token_is_followed_through_the_inbox_and_the_own_head_to_the_views(base: Base) -> None:
    store = Ahead("recognition", 9)
    token = PositionToken("hours", HOURS, 5)
    for applied, reacted, reacting, shown in (
        (4, 0, (), 9),
        (5, 4, ("hours",), 9),  # Its commands are not all answered.
        (5, 5, ("hours",), 8),  # What came of them is not shown.
    ):
        await stands(base, "inbox", "hours", HOURS, applied, reacted)
        await stands(base, "views", "recognition", store.log_id, shown)
        with pytest.raises(NotCaughtUpError):
            await waiting(base, store, *reacting).for_views([token], 0.05)
    await stands(base, "views", "recognition", store.log_id, 9)
    assert await waiting(base, store, "hours").for_views([token], 1) == {"recognition": 9}
    await stands(base, "inbox", "hours", HOURS, 5, 0)
    assert await waiting(base, store).for_views([token], 1) == {"recognition": 9}


async def test_views_that_read_the_other_log_themselves_must_have_passed_it(base: Base) -> None:
    store = Ahead("registration", 3)
    waits, token = waiting(base, store), PositionToken("hours", HOURS, 5)
    await stands(base, "inbox", "hours", HOURS, 5)
    await stands(base, "views", "registration", store.log_id, 3)
    await stands(base, "views", "hours", HOURS, 4)
    with pytest.raises(NotCaughtUpError):
        await waits.for_views([token], 0.05)
    await stands(base, "views", "hours", HOURS, 5)
    assert await waits.for_views([token], 1) == {"registration": 3, "hours": 5}


async def test_look_ups_wait_for_what_the_inbox_has_applied(base: Base) -> None:
    waits, token = waiting(base, Ahead("recognition", 1), "hours"), PositionToken("hours", HOURS, 5)
    await stands(base, "inbox", "hours", HOURS, 4)
    with pytest.raises(NotCaughtUpError):
        await waits.for_lookups([token], 0.05)
    await stands(base, "inbox", "hours", HOURS, 5)
    await waits.for_lookups([token], 1)


async def test_a_token_of_a_log_that_is_not_read_here_is_refused(base: Base) -> None:
    store = Ahead("recognition", 9)
    waits = waiting(base, store)
    await stands(base, "inbox", "hours", HOURS, 5)
    await stands(base, "views", "recognition", store.log_id, 9)
    with pytest.raises(ProblemError, match="after_foreign_log"):
        await waits.for_lookups([PositionToken("hours", OTHER, 1)], 1)
    for token in (PositionToken("hours", OTHER, 1), PositionToken("recognition", OTHER, 1)):
        with pytest.raises(ProblemError, match="after_foreign_log"):
            await waits.for_views([token], 1)


async def test_a_reader_is_told_how_fresh_the_views_are_and_which_keys_are_parked(base: Base) -> None:
    waits = waiting(base, Ahead("registration", 0))
    await stands(base, "views", "hours", HOURS, 5)
    await base.pool.execute(
        "INSERT INTO consumer.head (log, log_id, head, sealed, published, chain_hash, said_at) VALUES ('hours', $1, 8, 8, 8, '', $2)",
        HOURS, NOON,
    )  # fmt: skip
    await base.pool.execute("INSERT INTO consumer.blocked VALUES ('views', 'hours', 'applied', 'a', 'InvariantError')")
    await base.pool.execute("INSERT INTO consumer.blocked VALUES ('inbox', 'hours', 'applied', 'b', 'InvariantError')")
    async with base.pool.acquire() as connection, connection.transaction(readonly=True):
        assert await waits.freshness(connection) == [
            Freshness("hours", HOURS, 5, 8, NOON),
            Freshness("recognition", None, 0, 0, None),
            Freshness("registration", None, 0, 0, None),
        ]
        assert await waits.parked(connection) == {"a"}
