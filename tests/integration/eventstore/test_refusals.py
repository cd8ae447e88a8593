"""The refusal log: what was refused, when, for which unit and by whom, told by a pseudonym; what was accepted is not in it."""

import os
from uuid import UUID, uuid4

import asyncpg
import pytest

from shared import privacy
from shared.eventstore.refusals import Wanted, forget_old_refusals, list_refusals
from shared.eventstore.values import Answer
from shared.logs import pseudonym
from shared.migrate import migrate
from shared.privacy import PersonalKeys
from tests.integration.eventstore.conftest import Log
from tests.integration.eventstore.enrolment import ACTOR, NOT_DUE, Seat, Service


@pytest.fixture
async def service(log: Log) -> Service:
    await migrate(log.owner, [privacy.MIGRATIONS])
    return Service(log.store, PersonalKeys(log.pool, os.urandom(32)))


async def refused(service: Service) -> tuple[UUID, Answer]:
    """Two take the two seats of an activity, a third is refused."""
    activity_id = uuid4()
    for _ in range(2):
        assert (await service.take(activity_id)).outcome == "accepted"
    return activity_id, await service.take(activity_id)


async def test_a_refusal_says_when_why_what_for_which_unit_and_by_whom_and_no_id_of_a_person(service: Service, log: Log) -> None:
    _, answer = await refused(service)
    assert answer.refusal is not None
    [said] = await list_refusals(log.owner, Wanted(), 10)
    assert {name: said[name] for name in ("code", "command", "unit", "role", "actor")} == {
        "code": "activity_full",
        "command": "take_seat",
        "unit": ACTOR.unit,
        "role": "volunteer",
        "actor": pseudonym(f"person-{ACTOR.person_id}"),
    }
    assert str(ACTOR.person_id) not in repr(said)
    row = await log.owner.fetchrow("SELECT at, correlation_id FROM es.command WHERE outcome = 'refused'")
    assert row is not None
    assert (said["at"], said["correlation_id"]) == (f"{row['at']:%Y-%m-%d %H:%M:%S}", row["correlation_id"])


async def test_refusals_come_newest_first_and_are_found_by_each_of_their_marks(service: Service, log: Log) -> None:
    activity_id, _ = await refused(service)
    await service.leave(activity_id, uuid4())
    newest = await list_refusals(log.owner, Wanted(), 10)
    assert [each["code"] for each in newest] == ["not_enrolled", "activity_full"]
    assert len(await list_refusals(log.owner, Wanted(), 1)) == 1
    for wanted, found in (
        (Wanted(code="activity_full"), ["activity_full"]),
        (Wanted(use_case="leave_seat"), ["not_enrolled"]),
        (Wanted(unit=ACTOR.unit), ["not_enrolled", "activity_full"]),
        (Wanted(unit="another"), []),
        (Wanted(person=ACTOR.person_id), ["not_enrolled", "activity_full"]),
        (Wanted(person=uuid4()), []),
        (Wanted(correlation_id=newest[0]["correlation_id"]), ["not_enrolled"]),
    ):
        assert [each["code"] for each in await list_refusals(log.owner, wanted, 10)] == found, wanted


async def test_what_is_refused_without_an_answer_that_is_kept_is_not_there_and_an_older_one_has_no_command(
    service: Service, log: Log
) -> None:
    await service.submit(NOT_DUE, Seat(volunteer_id=uuid4()), uuid4())
    await log.owner.execute(
        "INSERT INTO es.command (command_id, outcome, position, event_count, refusal, at) "
        """VALUES (gen_random_uuid(), 'refused', 0, 0, '{"code": "old", "detail": {}}', now())"""
    )
    [said] = await list_refusals(log.owner, Wanted(), 10)
    assert (said["code"], said["command"], said["unit"], said["role"]) == ("old", "-", "-", "-")


async def test_a_repeat_of_a_refused_command_is_answered_as_before_and_is_one_refusal(service: Service, log: Log) -> None:
    activity_id, volunteer_id, command_id = uuid4(), uuid4(), uuid4()
    first, again = [await service.leave(activity_id, volunteer_id, command_id=command_id) for _ in range(2)]
    assert (again.refusal, again.repeated) == (first.refusal, True)
    assert len(await list_refusals(log.owner, Wanted(), 10)) == 1


async def test_a_refusal_is_forgotten_after_ninety_days_and_what_was_accepted_never(service: Service, log: Log) -> None:
    await refused(service)
    await refused(service)
    await log.owner.execute("UPDATE es.command SET at = at - interval '91 days' WHERE outcome = 'accepted'")
    await log.owner.execute(
        """
        UPDATE es.command SET at = at - interval '90 days 1 minute'
        WHERE command_id = (SELECT command_id FROM es.command WHERE outcome = 'refused' ORDER BY at LIMIT 1)
        """
    )
    await forget_old_refusals(log.pool)
    assert await log.owner.fetchval("SELECT count(*) FROM es.command WHERE outcome = 'accepted'") == 4
    assert len(await list_refusals(log.owner, Wanted(), 10)) == 1
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await log.pool.execute("DELETE FROM es.command")
