"""The lane: one batch for many, each judged for itself, and nobody waits for ever."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from shared.application import Claim
from shared.envelope import Stream
from shared.errors import InvariantError, StoreUnavailableError
from shared.eventstore.lane import NOTIFY_CHANNEL, WAITING_MAX
from shared.eventstore.values import Answer, AppendRequest, AppendResult, ClaimTaken, Conflict
from tests.integration.eventstore.conftest import Log
from tests.integration.eventstore.decided import activity, decided, refused

LOCK = 5_104_202_001
"""The key that es.append takes."""
SELECT_WAITING = """
    SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database
    WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted
"""


@asynccontextmanager
async def held_up(log: Log) -> AsyncIterator[None]:
    """While this is open every append waits for the log's lock; the first one that came has left the queue, so the rest is one batch."""
    blocker = await log.connection()
    await blocker.execute("SELECT pg_advisory_lock($1)", LOCK)
    try:
        yield
    finally:
        await blocker.execute("SELECT pg_advisory_unlock($1)", LOCK)


async def until_waiting(log: Log, calls: int) -> None:
    """Until so many calls stand before the log's lock."""
    async with asyncio.timeout(5):
        while await log.owner.fetchval(SELECT_WAITING) != calls:  # noqa: ASYNC110  # The server has no event for it.
            await asyncio.sleep(0.005)


async def in_one_batch(log: Log, requests: Sequence[AppendRequest]) -> list[AppendResult | BaseException]:
    """Sends a request of its own, and while its call is held up all of `requests`."""
    async with asyncio.TaskGroup() as tasks:
        async with held_up(log):
            first = tasks.create_task(log.store.append(decided(activity(), 0, 0)))
            await until_waiting(log, 1)
            gathered = asyncio.gather(*(log.store.append(each) for each in requests), return_exceptions=True)
            await asyncio.sleep(0)
        await first
        return await gathered


async def recorded(log: Log, requests: Sequence[AppendRequest]) -> list[object]:
    """The recorded times of the requests' events, each once: those of one batch are the same."""
    ids = [each.command_id for each in requests]
    rows = await log.owner.fetch("SELECT DISTINCT recorded_at FROM es.event WHERE command_id = ANY($1::uuid[])", ids)
    return [row["recorded_at"] for row in rows]


async def test_what_waits_while_a_call_is_under_way_is_one_batch(log: Log) -> None:
    requests = [decided(activity(), 0) for _ in range(400)]
    answers = await in_one_batch(log, requests)
    assert [each.first_position for each in answers if isinstance(each, Answer)] == list(range(1, 401))
    assert len(await recorded(log, requests)) == 1


async def test_conflicts_taken_claims_and_repeats_fail_alone_inside_a_batch(log: Log) -> None:
    stream, claim = activity(), Claim("id_number", "a1")
    known = decided(stream, 0, 2, take=(claim,))
    await log.store.append(known)
    good = [decided(activity(), 0, 2) for _ in range(3)]
    refusal = refused(good[0].stream, 0)
    requests = [
        good[0],
        decided(stream, 1),
        good[1],
        decided(activity(), 0, take=(claim,)),
        known,
        refused(activity(), 4),
        refused(activity(), 0),
        good[2],
    ]
    answers = await in_one_batch(log, requests)
    assert answers[1] == Conflict(2)
    assert answers[3] == ClaimTaken(claim)
    assert isinstance(answers[4], Answer)
    assert (answers[4].repeated, answers[4].first_position) == (True, 1)
    assert answers[5] == Conflict(0)
    assert answers[6] == Answer(requests[6].command_id, "refused", 6, 0, refusal.refusal, repeated=False)
    assert [each.first_position for each in (answers[0], answers[2], answers[7]) if isinstance(each, Answer)] == [3, 5, 7]
    assert len(await recorded(log, good)) == 1
    assert [each.position for each in await log.store.read_page(0, 100)] == list(range(1, 9))


async def test_commands_to_one_stream_go_in_batches_of_their_own_in_the_order_they_came(log: Log) -> None:
    stream = activity()
    requests = [decided(stream, 0), decided(stream, 1), decided(activity(), 0), decided(stream, 2)]
    answers = await in_one_batch(log, requests)
    assert [type(each) for each in answers] == [Answer] * 4
    assert [each.version for each in await log.store.read_stream(stream)] == [1, 2, 3]
    assert len(await recorded(log, requests)) == 3


async def test_who_meets_another_in_a_command_or_a_claim_goes_with_the_next_batch(log: Log) -> None:
    twice, claim = decided(activity(), 0), Claim("mail", "a1")
    answers = await in_one_batch(log, [twice, twice, decided(activity(), 0, take=(claim,)), decided(activity(), 0, take=(claim,))])
    assert [each.repeated for each in answers if isinstance(each, Answer)] == [False, True, False]
    assert answers[3] == ClaimTaken(claim)


async def test_what_spoils_a_batch_fails_and_the_others_are_written_one_by_one(log: Log) -> None:
    unfit = decided(Stream("No category", activity().id), 0)  # The lane does not look at it, the database does.
    too_far = decided(activity(), 2**80)
    requests = [decided(activity(), 0), unfit, decided(activity(), 0), too_far, decided(activity(), 0)]
    answers = await in_one_batch(log, requests)
    assert [type(each) for each in answers] == [Answer, InvariantError, Answer, InvariantError, Answer]
    assert [each.position for each in await log.store.read_page(0, 100)] == [1, 2, 3]


async def test_a_caller_who_goes_away_before_the_batch_writes_nothing(log: Log) -> None:
    gone, stays = decided(activity(), 0), decided(activity(), 0)
    async with held_up(log):
        first = asyncio.create_task(log.store.append(decided(activity(), 0)))
        await until_waiting(log, 1)
        going = asyncio.create_task(log.store.append(gone))
        staying = asyncio.create_task(log.store.append(stays))
        await asyncio.sleep(0)
        going.cancel()
        await asyncio.wait([going])
    await asyncio.gather(first, staying)
    assert await log.store.answer_of(gone.command_id) is None
    assert await log.store.answer_of(stays.command_id) is not None


async def test_a_log_that_does_not_answer_is_given_up_in_time_and_its_connection_with_it(log: Log) -> None:
    await log.store.append(decided(activity(), 0))
    before = await lane_pid(log)
    loop = asyncio.get_running_loop()
    requests = [decided(activity(), 0) for _ in range(3)]
    async with held_up(log):
        began = loop.time()
        first = asyncio.create_task(log.store.append(requests[0]))
        await until_waiting(log, 1)
        outcomes = await asyncio.gather(first, *(log.store.append(each) for each in requests[1:]), return_exceptions=True)
        assert loop.time() - began < 4.5
    assert [type(each) for each in outcomes] == [StoreUnavailableError] * 3
    answers = [await log.store.append(each) for each in requests]
    assert all(isinstance(each, Answer) for each in answers)
    assert await lane_pid(log) != before
    assert [each.position for each in await log.store.read_page(0, 100)] == [1, 2, 3, 4]


async def lane_pid(log: Log) -> int:
    """The backend that appended last, of the store's pool."""
    pid: int = await log.owner.fetchval(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%es.append%' AND pid <> pg_backend_pid()"
    )
    return pid


async def test_a_backend_killed_in_the_middle_leaves_nothing_half(log: Log) -> None:
    """Three events, a claim and an answer for each command: all of it is there, or nothing; what was acknowledged is there."""
    requests = [decided(activity(), 0, 3, take=(Claim("number", str(n)),)) for n in range(2_000)]
    acknowledged: set[object] = set()
    rest = iter(requests)

    async def append_all() -> None:
        for request in rest:
            try:
                await log.store.append(request)
                acknowledged.add(request.command_id)
            except StoreUnavailableError:
                pass

    callers = [asyncio.create_task(append_all()) for _ in range(16)]
    kills = 0
    while not all(each.done() for each in callers):
        kills += await log.owner.fetchval(
            "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND state = 'active' AND query LIKE '%FROM es.append%' AND pid <> pg_backend_pid()"
        )
        await asyncio.sleep(0.01)
    await asyncio.gather(*callers)
    assert kills > 0
    assert len(acknowledged) < len(requests)
    rows = await log.owner.fetch("SELECT command_id, count(*) AS n FROM es.event GROUP BY command_id")
    assert {row["n"] for row in rows} == {3}
    whole = {row["command_id"] for row in rows}
    assert acknowledged <= whole
    assert whole == {row["command_id"] for row in await log.owner.fetch("SELECT command_id FROM es.command")}
    assert len(whole) == await log.owner.fetchval("SELECT count(*) FROM es.claim") == (await log.store.head()).position // 3
    rest = iter([each for each in requests if each.command_id not in acknowledged] * 2)  # The last kill may show only now.
    await append_all()
    assert len(acknowledged) == len(requests), "the caller's next word settles it"
    assert (await log.store.head()).position == 6_000


async def test_more_than_can_wait_are_told_at_once_and_the_others_are_served(log: Log) -> None:
    requests = [decided(activity(), 0) for _ in range(WAITING_MAX)]  # Made before: who is held up gives up after three seconds.
    async with held_up(log):
        first = asyncio.create_task(log.store.append(decided(activity(), 0)))
        await until_waiting(log, 1)
        waiting = [asyncio.create_task(log.store.append(each)) for each in requests]
        await asyncio.sleep(0)
        with pytest.raises(StoreUnavailableError, match="too many"):
            await log.store.append(decided(activity(), 0))
    answers = await asyncio.gather(first, *waiting)
    assert len(answers) == WAITING_MAX + 1
    assert (await log.store.head()).position == WAITING_MAX + 1


async def test_a_closed_store_says_so(log: Log) -> None:
    other = await log.another()
    await other.append(decided(activity(), 0))
    async with held_up(log):
        late = asyncio.create_task(other.append(decided(activity(), 0)))
        await until_waiting(log, 1)
        await other.close()
        with pytest.raises(StoreUnavailableError):
            await late
    with pytest.raises(StoreUnavailableError):
        await other.append(decided(activity(), 0))


async def test_after_a_commit_whoever_listens_is_woken_once_for_many(log: Log) -> None:
    listener = await log.connection()
    woken: asyncio.Queue[object] = asyncio.Queue()
    await listener.add_listener(NOTIFY_CHANNEL, lambda *said: woken.put_nowait(said))
    await log.store.append(decided(activity(), 0))
    async with asyncio.timeout(5):
        await woken.get()
    await asyncio.gather(*(log.store.append(decided(activity(), 0)) for _ in range(500)))
    async with asyncio.timeout(5):
        await woken.get()
    await log.store.append(refused(activity(), 0))  # Nothing to read.
    await listener.fetchval("SELECT 1")
    assert woken.qsize() < 20


async def test_appends_and_conflicts_are_counted(log: Log) -> None:
    stream = activity()
    request = decided(stream, 0, 3)
    for each in (request, request, decided(stream, 1), refused(stream, 3)):
        await log.store.append(each)
    said = log.metrics.render().decode()
    assert 'leifeng_events_appended_total{service="registration",type="registration.enrollment_accepted"} 3.0' in said
    assert 'leifeng_event_store_conflicts_total{category="activity",service="registration"} 1.0' in said
    assert 'leifeng_event_store_append_duration_seconds_count{category="activity",service="registration"} 4.0' in said


async def test_two_want_one_claim_and_one_gets_it(log: Log) -> None:
    stores = [log.store, await log.another(), await log.another()]
    for n in range(30):
        claim = Claim("id_number", str(n))
        results = await asyncio.gather(*(store.append(decided(activity(), 0, take=(claim,))) for store in stores for _ in range(3)))
        assert sum(isinstance(each, Answer) for each in results) == 1
        assert results.count(ClaimTaken(claim)) == 8
    assert await log.owner.fetchval("SELECT count(*) FROM es.claim") == 30


async def test_repeats_in_parallel_act_once_and_answer_all(log: Log) -> None:
    stores = [log.store, await log.another(), await log.another()]
    for _ in range(30):
        request = decided(activity(), 0, 2)
        results = await asyncio.gather(*(store.append(request) for store in stores for _ in range(3)))
        answers = [each for each in results if isinstance(each, Answer)]
        assert len(answers) == 9
        assert sum(not each.repeated for each in answers) == 1
        assert len({(each.first_position, each.count) for each in answers}) == 1
    assert (await log.store.head()).position == 60


async def test_the_store_outlives_its_database(log: Log) -> None:
    """Every connection of the process is cut at once; the next words are served."""
    await log.store.append(decided(activity(), 0))
    await log.owner.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    for _ in range(20):
        try:
            await log.store.append(decided(activity(), 0))
            await log.store.head()
            break
        except StoreUnavailableError:
            continue
    else:
        raise AssertionError("the store did not come back")
