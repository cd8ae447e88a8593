"""`submit` over the real store and real keys: two processes, one database."""

import asyncio
import os
from uuid import uuid4

import pytest

from shared import privacy
from shared.eventstore.values import Answer
from shared.migrate import migrate
from shared.privacy import PersonalKeys
from tests.integration.eventstore.conftest import Log
from tests.integration.eventstore.enrolment import ERASE, REGISTER, Register, Seat, Service


@pytest.fixture
async def processes(log: Log) -> list[Service]:
    """Two processes of the service, with the same key file."""
    await migrate(log.owner, [privacy.MIGRATIONS])
    key = os.urandom(32)
    return [Service(store, PersonalKeys(log.pool, key)) for store in (log.store, await log.another())]


async def test_a_stale_memory_of_a_full_activity_refuses_nobody(processes: list[Service]) -> None:
    """The schedule of D3: one process saw it full, the other freed a seat; the first has not heard of it."""
    here, there = processes
    for _ in range(20):
        activity_id, volunteer_id = uuid4(), uuid4()
        await here.take(activity_id, volunteer_id)
        await here.take(activity_id)
        assert (await here.take(activity_id)).outcome == "refused"
        await there.leave(activity_id, volunteer_id)
        assert (await here.take(activity_id)).outcome == "accepted"
        assert (await there.take(activity_id)).outcome == "refused"


async def test_a_stale_memory_never_says_that_nothing_needs_doing(processes: list[Service]) -> None:
    here, there = processes
    activity_id, volunteer_id = uuid4(), uuid4()
    await here.take(activity_id, volunteer_id)
    await there.leave(activity_id, volunteer_id)
    assert (await here.take(activity_id, volunteer_id)).count == 1


async def test_two_processes_give_out_each_seat_once(processes: list[Service]) -> None:
    here, there = processes
    for _ in range(10):
        activity_id = uuid4()
        answers = await asyncio.gather(*(each.take(activity_id) for each in (here, there, here, there)))
        assert sorted(each.outcome for each in answers) == ["accepted", "accepted", "refused", "refused"]


async def test_one_command_sent_to_both_acts_once(processes: list[Service]) -> None:
    here, there = processes
    for _ in range(10):
        activity_id, volunteer_id, command_id = uuid4(), uuid4(), uuid4()
        answers = await asyncio.gather(
            *(each.take(activity_id, volunteer_id, command_id=command_id) for each in (here, there, here, there))
        )
        assert sorted(each.repeated for each in answers) == [False, True, True, True]
        assert len({each.first_position for each in answers}) == 1


async def test_a_person_is_sealed_claimed_once_and_given_back_when_erased_elsewhere(processes: list[Service], log: Log) -> None:
    here, there = processes
    person, other = uuid4(), uuid4()
    await here.submit(REGISTER, Register(volunteer_id=person, id_number="110101199003070038"))
    (record,) = await log.store.read_page(0, 10)
    assert b"110101199003070038" not in record.payload
    taken = await there.submit(REGISTER, Register(volunteer_id=other, id_number="110101199003070038"))
    assert taken.refusal is not None
    assert taken.refusal.code == "id_number_taken"
    await there.submit(ERASE, Seat(volunteer_id=person))
    assert (await here.submit(REGISTER, Register(volunteer_id=other, id_number="110101199003070038"))).outcome == "accepted"
    assert await log.owner.fetchval("SELECT count(*) FROM es.claim WHERE value LIKE '%1101%'") == 0


async def test_a_repeat_makes_no_key_for_a_person_whose_key_was_destroyed(processes: list[Service], log: Log) -> None:
    here, there = processes
    person, command_id = uuid4(), uuid4()
    body = Register(volunteer_id=person, id_number="110101199003070038")
    first = await here.submit(REGISTER, body, command_id=command_id)
    async with log.pool.acquire() as connection:
        assert isinstance(there.keys, PersonalKeys)
        await there.keys.destroy(person, connection)
    again = await there.submit(REGISTER, body, command_id=command_id)
    assert again == Answer(command_id, "accepted", first.first_position, 1, None, repeated=True)
