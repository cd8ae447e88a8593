"""What the inbox folds is what decisions read."""

from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.recognition.domain.policy import POLICY_STREAM_ID
from services.recognition.domain.star import Confirmed, Person
from services.recognition.inbox import REACTIONS, LookUps, fold_minutes, fold_policies, fold_volunteers
from shared.contracts.hours import Posting, ServiceTimeConfirmed, ServiceTimeCorrected, ServiceTimeReversed
from shared.contracts.recognition import StarGranted, StarPolicyAdopted
from shared.contracts.registration import VolunteerRegistered
from shared.errors import InvariantError
from shared.postgres import Pool
from tests.integration.erasing import destroy_key
from tests.integration.recognition.conftest import Facts

WHO, OTHER = UUID(int=11), UUID(int=12)
AT = datetime(2017, 3, 5, 1, tzinfo=UTC)


def entry(volunteer_id: UUID, **minutes: int) -> dict[str, Any]:
    """What the three ledger events have in common, with a posting group that sums to zero."""
    counted = [Posting(account=account, minutes=each) for account, each in minutes.items()]  # type: ignore[arg-type]
    return {
        "volunteer_id": volunteer_id,
        "entry_id": uuid4(),
        "activity_id": uuid4(),
        "unit_code": "water-saving-office",
        "hour_class": "timed",
        "served_on": date(2017, 3, 5),
        "credited_minutes": minutes.get("timed", 0),
        "over_cap_minutes": minutes.get("over_cap", 0),
        "postings": (Posting(account="served", minutes=-sum(minutes.values())), *counted),
        "approver_id": uuid4(),
    }


def confirmed(volunteer_id: UUID, **minutes: int) -> ServiceTimeConfirmed:
    said = {"starts_at": AT, "ends_at": AT, "policy_version": "2017", "recorder_id": uuid4()}
    return ServiceTimeConfirmed.model_validate(entry(volunteer_id, **minutes) | said)


def corrected(volunteer_id: UUID, **minutes: int) -> ServiceTimeCorrected:
    old = {"old_starts_at": AT, "old_ends_at": AT, "old_credited_minutes": 0, "old_over_cap_minutes": 0}
    said = {"starts_at": AT, "ends_at": AT, "policy_version": "2017", "reason_code": "wrong_end", "requester_id": uuid4()}
    return ServiceTimeCorrected.model_validate(entry(volunteer_id, **minutes) | old | said)


def reversed_(volunteer_id: UUID, **minutes: int) -> ServiceTimeReversed:
    said = {"reason_code": "not_served", "requester_id": uuid4()}
    return ServiceTimeReversed.model_validate(entry(volunteer_id, **minutes) | said)


async def test_minutes_of_every_class_count_and_those_over_the_cap_do_not(pool: Pool, facts: Facts) -> None:
    async with pool.acquire() as connection:
        await fold_minutes(connection, facts(confirmed(WHO, timed=480, over_cap=60), confirmed(OTHER, timed=5)))
        await fold_minutes(connection, facts(confirmed(WHO, backEntered=30, transferred=7)))
    assert await LookUps(pool).confirmed(WHO) == Confirmed(517, 3, None)
    assert await LookUps(pool).confirmed(OTHER) == Confirmed(5, 2, None)


async def test_what_takes_minutes_away_is_remembered_as_the_reason(pool: Pool, facts: Facts) -> None:
    async with pool.acquire() as connection:
        await fold_minutes(connection, facts(confirmed(WHO, timed=480), corrected(WHO, timed=-60)))
        assert await LookUps(pool).confirmed(WHO) == Confirmed(420, 2, "hours_corrected")
        await fold_minutes(connection, facts(reversed_(WHO, timed=-400)))
        assert await LookUps(pool).confirmed(WHO) == Confirmed(20, 3, "hours_reversed")
        await fold_minutes(connection, facts(corrected(WHO, timed=10)))
        assert await LookUps(pool).confirmed(WHO) == Confirmed(30, 4, "hours_reversed")


async def test_minutes_below_zero_break_an_invariant_and_write_nothing(pool: Pool, facts: Facts) -> None:
    async with pool.acquire() as connection:
        with pytest.raises(InvariantError):
            await fold_minutes(connection, facts(confirmed(WHO, timed=10), reversed_(WHO, timed=-11)))
    assert await LookUps(pool).confirmed(WHO) == Confirmed()


async def test_hours_that_are_parked_are_known_to_nobody(pool: Pool, facts: Facts) -> None:
    async with pool.acquire() as connection:
        await fold_minutes(connection, facts(confirmed(WHO, timed=480)))
        await connection.execute("INSERT INTO consumer.blocked VALUES ('inbox', 'hours', 'reactions', $1, 'PayloadError')", str(WHO))
        assert await LookUps(pool).confirmed(WHO) == Confirmed(480, 1, None)  # What was applied is known, whatever it will lead to.
        await connection.execute("INSERT INTO consumer.blocked VALUES ('inbox', 'hours', 'applied', $1, 'PayloadError')", str(WHO))
    assert await LookUps(pool).confirmed(WHO) is None
    assert await LookUps(pool).confirmed(OTHER) == Confirmed()


async def test_a_registered_person_is_a_volunteer_until_they_leave_or_are_erased(pool: Pool, facts: Facts) -> None:
    registered = VolunteerRegistered(
        volunteer_id=WHO,
        number="ZB000001",
        unit_code="reservoir-station",
        name=None,
        id_number=None,
        phone=None,
        is_minor=False,
        skills=None,
    )
    async with pool.acquire() as connection:
        await fold_volunteers(connection, facts(registered))
        assert await LookUps(pool).person(WHO) == Person("registered", "reservoir-station")
        assert await LookUps(pool).person(OTHER) == Person("unknown", None)
        await connection.execute("INSERT INTO consumer.withdrawn (subject, kind, position) VALUES ($1, 'person', 9)", WHO)
    assert await LookUps(pool).person(WHO) == Person("unknown", "reservoir-station")
    for who in (WHO, OTHER):  # Also who was erased before their registration has been read.
        await destroy_key(pool, who)
    assert await LookUps(pool).person(WHO) == Person("erased", "reservoir-station")
    assert await LookUps(pool).person(OTHER) == Person("erased", None)


@pytest.mark.parametrize(("log", "key"), [("registration", str(WHO)), ("recognition", str(POLICY_STREAM_ID))])
async def test_a_parked_registration_or_policy_is_noticed(pool: Pool, log: str, key: str) -> None:
    assert not await LookUps(pool).is_parked(WHO)
    await pool.execute("INSERT INTO consumer.blocked VALUES ('inbox', $1, 'applied', $2, 'PayloadError')", log, key)
    assert await LookUps(pool).is_parked(WHO)
    assert await LookUps(pool).is_parked(OTHER) == (log == "recognition")


async def test_policies_are_read_back_as_they_were_adopted(pool: Pool, facts: Facts) -> None:
    policy = StarPolicyAdopted(version="2012", effective_from=date(2017, 1, 1), thresholds_minutes=(6000, 18000))
    async with pool.acquire() as connection:
        await fold_policies(connection, facts(policy))
        await fold_policies(connection, facts(policy))
    assert await LookUps(pool).policies() == [policy]


async def test_corrections_reversals_and_grants_ask_for_a_reassessment(pool: Pool, facts: Facts) -> None:
    granted = StarGranted(
        volunteer_id=WHO,
        unit_code="u",
        stars=1,
        confirmed_minutes=6000,
        threshold_minutes=6000,
        policy_version="2012",
        hours_position=1,
    )
    asked = []
    for fact in facts(corrected(WHO, timed=1), reversed_(WHO, timed=-1), granted):
        for reaction in REACTIONS:
            if reaction.source == fact.record.service and fact.event.TYPE in reaction.types:
                asked += [(each.use_case.name, each.ids) for each in await reaction.react(fact, LookUps(pool), False)]
    assert asked == [("reassess_stars", {"volunteer_id": WHO})] * 3
