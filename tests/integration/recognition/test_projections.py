"""What an admin sees of stars, read in the role of queries through the same ones as the API."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any, get_args
from uuid import UUID

from services.recognition import projections
from services.recognition.projections import star_history, star_policies, star_revocations, stars, units
from shared.contracts.recognition import (
    StarDeclined,
    StarDeclineReason,
    StarGranted,
    StarPolicyAdopted,
    StarRevocationDeclined,
    StarRevocationLapsed,
    StarRevocationProposed,
    StarRevocationReason,
    StarRevoked,
    StarWithdrawalReason,
    StarWithdrawn,
)
from shared.contracts.registration import UnitRegistered
from shared.http.query import Query, Views, read, read_cursor
from shared.permissions import Actor, Role
from shared.postgres import Pool, connect
from tests.integration.codes import allowed, words_of
from tests.integration.recognition.conftest import Facts

WHO, OTHER = UUID(int=11), UUID(int=12)
FIGURES: Mapping[str, Any] = {"policy_version": "2012", "hours_position": 41}


def granted(volunteer_id: UUID, number: int, minutes: int = 6100, unit: str = "reservoir-station") -> StarGranted:
    return StarGranted(
        volunteer_id=volunteer_id, unit_code=unit, stars=number, confirmed_minutes=minutes, threshold_minutes=6000 * number, **FIGURES
    )


def declined(volunteer_id: UUID, number: int) -> StarDeclined:
    return StarDeclined(
        volunteer_id=volunteer_id,
        unit_code="reservoir-station",
        stars=number,
        reason="too_few_hours",
        confirmed_minutes=10,
        threshold_minutes=6000,
        **FIGURES,
    )


BUREAU = Actor(UUID(int=9), Role.BUREAU_ADMIN, "water-bureau")


def withdrawn(volunteer_id: UUID, number: int) -> StarWithdrawn:
    return StarWithdrawn(
        volunteer_id=volunteer_id,
        unit_code="reservoir-station",
        stars=number,
        reason="hours_corrected",
        confirmed_minutes=5990,
        threshold_minutes=6000,
        **FIGURES,
    )


ASKER, DEPUTY = UUID(int=21), UUID(int=22)
FIRST, SECOND, THIRD, FOURTH = (UUID(int=each) for each in range(71, 75))


def proposed(volunteer_id: UUID, number: int, proposal_id: UUID = FIRST) -> StarRevocationProposed:
    return StarRevocationProposed(
        volunteer_id=volunteer_id,
        unit_code="reservoir-station",
        proposal_id=proposal_id,
        stars=number,
        reason_code="false_record",
        proposed_by=ASKER,
    )


def revoked(volunteer_id: UUID, number: int) -> StarRevoked:
    return StarRevoked(
        volunteer_id=volunteer_id,
        unit_code="reservoir-station",
        proposal_id=FIRST,
        stars=number,
        reason_code="false_record",
        approved_by=DEPUTY,
    )


async def rows(reads: Views, query: Query, limit: int = 50, **filters: Any) -> Sequence[Mapping[str, Any]]:
    """All rows of a query, page by page, as the bureau sees them."""
    found: list[Mapping[str, Any]] = []
    cursor = None
    while True:
        page = await read(reads, query, filters=filters, cursor=cursor, limit=limit, reader=BUREAU, required={})
        found += page.rows
        if page.next_cursor is None:
            return found
        cursor = read_cursor(query, filters, page.next_cursor)


async def test_stars_held_come_with_what_they_rest_on(pool: Pool, reads: Views, facts: Facts) -> None:
    async with pool.acquire() as connection:
        await stars.fold(connection, facts(granted(WHO, 1), declined(OTHER, 1), granted(OTHER, 1, unit="bureau")))
    held = {row["volunteer_id"]: row for row in await rows(reads, stars.QUERY)}
    assert {who: row["stars"] for who, row in held.items()} == {WHO: 1, OTHER: 1}
    assert {name: held[WHO][name] for name in ("confirmed_minutes", "threshold_minutes", "policy_version", "hours_position")} == {
        "confirmed_minutes": 6100,
        "threshold_minutes": 6000,
        "policy_version": "2012",
        "hours_position": 41,
    }
    assert [row["volunteer_id"] for row in await rows(reads, stars.QUERY, unit="bureau")] == [OTHER]
    assert await rows(reads, stars.QUERY, stars=2) == []


async def test_a_star_that_was_withdrawn_is_held_no_more_in_one_batch_or_in_two(pool: Pool, reads: Views, facts: Facts) -> None:
    async with pool.acquire() as connection:
        await stars.fold(connection, facts(granted(WHO, 1), granted(WHO, 2), withdrawn(WHO, 2)))
        await stars.fold(connection, facts(granted(OTHER, 1)))
        await stars.fold(connection, facts(withdrawn(OTHER, 1), withdrawn(WHO, 1), granted(WHO, 1, minutes=7000)))
    held = await rows(reads, stars.QUERY)
    assert [(row["volunteer_id"], row["stars"], row["confirmed_minutes"]) for row in held] == [(WHO, 1, 7000)]


async def test_a_star_that_was_revoked_is_held_no_more_and_one_that_was_only_proposed_still_is(
    pool: Pool, reads: Views, facts: Facts
) -> None:
    async with pool.acquire() as connection:
        await stars.fold(connection, facts(granted(WHO, 1), granted(WHO, 2), granted(WHO, 3), proposed(WHO, 2), granted(OTHER, 1)))
        assert len(await rows(reads, stars.QUERY)) == 4
        await stars.fold(connection, facts(revoked(WHO, 3), revoked(WHO, 2), proposed(OTHER, 1)))
    assert {(row["volunteer_id"], row["stars"]) for row in await rows(reads, stars.QUERY)} == {(WHO, 1), (OTHER, 1)}


async def test_the_history_tells_a_revocation_from_a_withdrawal_and_says_no_figures_of_it(pool: Pool, reads: Views, facts: Facts) -> None:
    async with pool.acquire() as connection:
        await star_history.fold(connection, facts(granted(WHO, 1), granted(WHO, 2), withdrawn(WHO, 2), proposed(WHO, 1), revoked(WHO, 1)))
    last, before, *_ = await rows(reads, star_history.QUERY)
    assert (last["outcome"], last["reason"], before["outcome"], before["reason"]) == (
        "revoked",
        "false_record",
        "withdrawn",
        "hours_corrected",
    )
    figures = ("confirmed_minutes", "threshold_minutes", "policy_version", "hours_position")
    assert {last[name] for name in figures} == {None}
    assert None not in {before[name] for name in figures}


async def test_what_became_of_a_proposed_revocation_is_told_newest_first(pool: Pool, reads: Views, facts: Facts) -> None:
    said = {"volunteer_id": OTHER, "stars": 1}
    async with pool.acquire() as connection:
        await star_revocations.fold(
            connection,
            facts(
                *(granted(WHO, 1), granted(WHO, 2), granted(OTHER, 1)),
                *(proposed(WHO, 1), proposed(OTHER, 1, SECOND)),
                StarRevocationDeclined.model_validate({**said, "proposal_id": SECOND, "reason_code": "rejected", "declined_by": DEPUTY}),
                proposed(OTHER, 1, THIRD),
            ),
        )
        await star_revocations.fold(
            connection,
            facts(
                *(revoked(WHO, 2), revoked(WHO, 1)),
                *(withdrawn(OTHER, 1), StarRevocationLapsed.model_validate({**said, "proposal_id": THIRD})),
                *(granted(OTHER, 1), proposed(OTHER, 1, FOURTH)),
            ),
        )
    told = await rows(reads, star_revocations.QUERY, limit=1)
    assert [(row["proposal_id"], row["stars"], row["state"], row["proposed_by"], row["decided_by"]) for row in told] == [
        (FOURTH, 1, "proposed", ASKER, None),
        (THIRD, 1, "lapsed", ASKER, None),
        (SECOND, 1, "rejected", ASKER, DEPUTY),
        (FIRST, 1, "revoked", ASKER, DEPUTY),
    ]
    assert [row["proposal_id"] for row in told if row["ended_at"] is None] == [FOURTH]
    assert [row["proposal_id"] for row in await rows(reads, star_revocations.QUERY, volunteer=WHO, state="revoked")] == [FIRST]


async def test_no_unit_sees_what_is_proposed_of_its_people(pool: Pool, reads: Views, facts: Facts) -> None:
    async with pool.acquire() as connection:
        await star_revocations.fold(connection, facts(proposed(WHO, 1)))
    unit = Actor(UUID(int=8), Role.UNIT_ADMIN, "reservoir-station")
    query = replace(star_revocations.QUERY, roles=star_revocations.QUERY.roles | {Role.UNIT_ADMIN})
    page = await read(reads, query, filters={}, cursor=None, limit=10, reader=unit, required={})
    assert page.rows == []
    assert len(await rows(reads, star_revocations.QUERY)) == 1


async def test_the_history_keeps_every_decision_newest_first_over_pages(pool: Pool, reads: Views, facts: Facts) -> None:
    async with pool.acquire() as connection:
        await star_history.fold(connection, facts(declined(WHO, 1), granted(WHO, 1), withdrawn(WHO, 1), granted(OTHER, 1)))
    told = await rows(reads, star_history.QUERY, limit=1)
    assert [(row["position"], row["outcome"], row["reason"]) for row in told] == [
        (4, "granted", None),
        (3, "withdrawn", "hours_corrected"),
        (2, "granted", None),
        (1, "declined", "too_few_hours"),
    ]
    assert [row["position"] for row in await rows(reads, star_history.QUERY, volunteer=WHO, outcome="granted")] == [2]


async def test_a_list_shows_what_a_unit_is_called_and_its_code_until_that_is_known(pool: Pool, reads: Views, facts: Facts) -> None:
    said = {
        "unit_id": UUID(int=1),
        "year": 2017,
        "kind": "subordinate_unit",
        "parent_code": None,
        "aliases": (),
        "valid_from": date(2017, 1, 1),
    }
    unit = {**said, "code": "reservoir-station", "name": "水库管理站", "planned_activities_per_month": 1}
    async with pool.acquire() as connection:
        for fold in (stars.fold, star_history.fold):
            await fold(connection, facts(granted(WHO, 1), granted(OTHER, 1, unit="bureau")))
        await units.fold(connection, facts(UnitRegistered.model_validate(unit)))
    for query in (stars.QUERY, star_history.QUERY):
        assert {row["unit_name"] for row in await rows(reads, query)} == {"水库管理站", "bureau"}


async def test_stars_come_newest_first_over_pages(pool: Pool, reads: Views, facts: Facts) -> None:
    async with pool.acquire() as connection:
        await stars.fold(connection, facts(granted(OTHER, 1), granted(WHO, 1), granted(OTHER, 2)))
    assert [(row["volunteer_id"], row["stars"]) for row in await rows(reads, stars.QUERY, limit=1)] == [(OTHER, 2), (WHO, 1), (OTHER, 1)]


async def test_the_codes_of_every_list_have_words(pool: Pool) -> None:
    async with pool.acquire() as connection:
        assert words_of(projections.QUERIES) == {
            "star_history.outcome": await allowed(connection, "star_history_outcome_check"),
            "star_history.reason": {*get_args(StarDeclineReason), *get_args(StarWithdrawalReason), *get_args(StarRevocationReason)},
            "star_revocations.state": await allowed(connection, "star_revocations_state"),
            "star_revocations.reason": set(get_args(StarRevocationReason)),
        }


async def test_policies_are_shown_in_hours(pool: Pool, reads: Views, facts: Facts) -> None:
    policy = StarPolicyAdopted(version="2012", effective_from=date(2017, 1, 1), thresholds_minutes=(6000, 18000, 18090))
    lenient = policy.model_copy(update={"version": "2018", "effective_from": date(2018, 1, 1), "reapply_after_revocation": True})
    async with pool.acquire() as connection:
        await star_policies.fold(connection, facts(policy, lenient))
    row, later = await rows(reads, star_policies.QUERY)
    assert (row["reapply_after_revocation"], later["reapply_after_revocation"]) == (False, True)
    assert (row["version"], row["effective_from"], row["thresholds_hours"]) == ("2012", date(2017, 1, 1), "100 / 300 / 301.5")


async def test_a_row_opens_into_the_volunteers_own_stream() -> None:
    assert [query.details for query in projections.QUERIES] == ["streams/star-{volunteer_id}/events"] * 3 + [None] * 2


async def test_every_column_that_admins_see_says_what_it_is(template: str) -> None:
    connection = await connect(template, "tests")
    try:
        silent = await connection.fetch("""
            SELECT attrelid::regclass::text, attname FROM pg_attribute
            WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'api'::regnamespace) AND attnum > 0 AND NOT attisdropped
              AND coalesce(col_description(attrelid, attnum), '') !~ ' / '
        """)
    finally:
        await connection.close()
    assert silent == []
