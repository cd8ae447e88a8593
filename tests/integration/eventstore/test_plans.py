"""At 100,000 events the append and the reads reach their rows by index, also where their plans were made on empty tables."""

import asyncio

from shared.application import Claim
from shared.eventstore.values import APPEND_EVENTS_MAX, Answer
from tests.integration.eventstore.conftest import Log
from tests.integration.eventstore.decided import activity, decided

EVENTS = 100_000
COMMANDS = 8_000
AT_ONCE = 20
TRIALS = 50
SELECT_SCANS = """
    SELECT sum(seq_scan)::integer AS by_sequence, sum(idx_scan)::integer AS by_index FROM pg_stat_user_tables
    WHERE schemaname = 'es' AND relname IN ('event', 'command', 'claim')
"""


async def scans(log: Log) -> tuple[int, int]:
    """Scans of the log's tables that sessions have handed in: sequential ones, and those by index."""
    row = await log.owner.fetchrow(SELECT_SCANS)
    assert row is not None
    return row["by_sequence"], row["by_index"]


async def test_nothing_is_read_through_from_end_to_end(log: Log) -> None:
    long = activity()
    await log.store.append(decided(long, 0, APPEND_EVENTS_MAX, take=(Claim("number", "1"),)))  # The lane's plans are made here.
    requests = [decided(activity(), 0, APPEND_EVENTS_MAX) for _ in range(EVENTS // APPEND_EVENTS_MAX)]
    for start in range(0, len(requests), AT_ONCE):
        await asyncio.gather(*(log.store.append(each) for each in requests[start : start + AT_ONCE]))
    for _ in range(COMMANDS // APPEND_EVENTS_MAX):
        await asyncio.gather(*(log.store.append(decided(activity(), 0, 0)) for _ in range(APPEND_EVENTS_MAX)))
    other = await log.another()
    await log.owner.execute("ANALYZE es.event, es.command, es.claim")
    before, by_index = await scans(log)
    for store in (log.store, other):
        for n in range(TRIALS):
            answer = await store.append(decided(activity(), 0, take=(Claim("number", f"{n} of {id(store)}"),)))
            assert isinstance(answer, Answer)
            await store.append(requests[n])
            assert len(await store.read_stream(long, APPEND_EVENTS_MAX - 10)) == 10
            assert len(await store.history(long, APPEND_EVENTS_MAX - 10)) == 10
            assert len(await store.read_page(EVENTS // 2, 500)) == 500
            assert await store.answer_of(requests[n].command_id) is not None
            assert (await store.head()).position >= EVENTS
        await store.close()
    async with asyncio.timeout(10):
        while (await scans(log))[1] < by_index + 2 * TRIALS * 7:  # noqa: ASYNC110  # A session hands in what it counted when it rests.
            await asyncio.sleep(0.05)
    assert (await scans(log))[0] == before
