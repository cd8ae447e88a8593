"""What recognition learns from the logs: look-ups that its decisions read, and the reaction that lets a star go.

A grant is decided on the minutes that were known a moment before. Should a correction slip in between, its own reassessment finds no star
yet; so the grant itself is reassessed too, and whichever of the two comes last sees both.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, LiteralString
from uuid import UUID

from services.recognition import application
from services.recognition.application import REASSESS_STARS, Reassess
from services.recognition.domain.policy import POLICY_STREAM_ID
from services.recognition.domain.star import Confirmed, Person
from shared.application import Command
from shared.consumer.values import Fact, Figure, LookUp, Reaction
from shared.contracts.hours import LedgerAccount, ServiceTimeConfirmed, ServiceTimeCorrected, ServiceTimeReversed
from shared.contracts.recognition import StarGranted, StarPolicyAdopted, StarWithdrawalReason
from shared.contracts.registration import VolunteerRegistered
from shared.errors import InvariantError
from shared.migrate import MigrationSet
from shared.postgres import Connection, Pool

MIGRATIONS: Final = MigrationSet("recognition", Path(__file__).parent / "migrations")

COUNTED: Final[frozenset[LedgerAccount]] = frozenset({"timed", "backEntered", "transferred"})
"""The accounts whose minutes count for a star; `over_cap` is shown and does not."""


class LookUps:
    """Reads schema `lookup`: the `application.LookUps` of a running service."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def is_parked(self, volunteer_id: UUID) -> bool:
        """Whether facts of the person's registration, or of the policy, are held back, so that nobody knows what they say."""
        parked: bool = await self._pool.fetchval(_SELECT_PARKED, str(volunteer_id), str(POLICY_STREAM_ID))
        return parked

    async def person(self, volunteer_id: UUID) -> Person:
        """Whether somebody is a volunteer, of which unit, or was erased; that is known also while their facts are parked."""
        row = await self._pool.fetchrow(_SELECT_PERSON, volunteer_id)
        assert row is not None
        return Person(row["standing"], row["unit_code"])

    async def confirmed(self, volunteer_id: UUID) -> Confirmed | None:
        """The minutes that count; None while the person's hours are parked and nobody knows."""
        row = await self._pool.fetchrow(_SELECT_MINUTES, str(volunteer_id))
        if row is None or row["is_parked"]:
            return None
        return Confirmed(row["minutes"] or 0, row["position"] or 0, row["lowered_by"])

    async def policies(self) -> Sequence[StarPolicyAdopted]:
        """Every version of the star policy."""
        return [StarPolicyAdopted.model_validate(dict(row)) for row in await self._pool.fetch(_SELECT_POLICIES)]


async def fold_volunteers(connection: Connection, facts: Sequence[Fact]) -> None:
    """Registration: who is a volunteer."""
    found = [(fact.event, fact.record.position) for fact in facts if isinstance(fact.event, VolunteerRegistered)]
    await connection.executemany(_UPSERT_VOLUNTEER, [(event.volunteer_id, event.unit_code, position) for event, position in found])


async def fold_minutes(connection: Connection, facts: Sequence[Fact]) -> None:
    """Hours: what each posting group adds to the minutes that count, or takes away. Raises InvariantError below zero."""
    added: dict[UUID, int] = {}
    positions: dict[UUID, int] = {}
    lowered_by: dict[UUID, StarWithdrawalReason] = {}
    for fact in facts:
        match fact.event:
            case ServiceTimeConfirmed() | ServiceTimeCorrected() | ServiceTimeReversed() as event:
                minutes = sum(posting.minutes for posting in event.postings if posting.account in COUNTED)
                added[event.volunteer_id] = added.get(event.volunteer_id, 0) + minutes
                positions[event.volunteer_id] = fact.record.position
                if minutes < 0:
                    lowered_by[event.volunteer_id] = "hours_reversed" if isinstance(event, ServiceTimeReversed) else "hours_corrected"
            case _:
                pass
    persons = list(added)
    known = {row["volunteer_id"]: row["minutes"] for row in await connection.fetch(_SELECT_KNOWN, persons)}
    totals = [known.get(person, 0) + added[person] for person in persons]
    if any(total < 0 for total in totals):
        raise InvariantError("confirmed minutes fall below zero")
    await connection.execute(
        _SET_MINUTES,
        persons,
        totals,
        [positions[person] for person in persons],
        [lowered_by.get(person) for person in persons],
    )


async def fold_policies(connection: Connection, facts: Sequence[Fact]) -> None:
    """Recognition: the policy's versions."""
    found = [fact.event for fact in facts if isinstance(fact.event, StarPolicyAdopted)]
    await connection.executemany(
        _INSERT_POLICY,
        [(event.version, event.effective_from, list(event.thresholds_minutes), event.reapply_after_revocation) for event in found],
    )


async def react_to_fewer_hours(fact: Fact, _look_ups: application.LookUps, _lack_is_fact: bool) -> Sequence[Command]:
    """Every correction and reversal, and every grant, has the person's stars reassessed."""
    match fact.event:
        case ServiceTimeCorrected() | ServiceTimeReversed() | StarGranted() as event:
            return [Command(REASSESS_STARS, Reassess(), {"volunteer_id": event.volunteer_id})]
        case _:
            return []


LOOK_UPS: Final = (
    LookUp("registration", fold_volunteers, ("volunteers",)),
    LookUp("hours", fold_minutes, ("confirmed_minutes",)),
    LookUp("recognition", fold_policies, ("star_policies",)),
)

FIGURES: Final = (
    Figure("volunteers", "registration", "inbox", "SELECT volunteer_id::text, 1 FROM lookup.volunteers"),
    Figure("minutes", "hours", "inbox", "SELECT volunteer_id::text, minutes FROM lookup.confirmed_minutes"),
)
"""Who may hold stars, and the minutes behind these: as many as registration has registered, and hours has confirmed."""

REACTIONS: Final = (
    Reaction("reassess_stars", "hours", frozenset({ServiceTimeCorrected.TYPE, ServiceTimeReversed.TYPE}), react_to_fewer_hours),
    Reaction("reassess_granted_stars", "recognition", frozenset({StarGranted.TYPE}), react_to_fewer_hours),
)

_SELECT_PERSON: Final[LiteralString] = """
    SELECT known.unit_code,
           CASE WHEN keys.is_erased(asked.volunteer_id) THEN 'erased'
                WHEN known.unit_code IS NULL OR gone.position > known.position THEN 'unknown'
                ELSE 'registered' END AS standing
    FROM (SELECT $1::uuid) AS asked (volunteer_id)
    LEFT JOIN lookup.volunteers AS known USING (volunteer_id)
    LEFT JOIN consumer.withdrawn AS gone ON gone.subject = asked.volunteer_id AND gone.kind = 'person'
"""

_SELECT_MINUTES: Final[LiteralString] = """
    SELECT minutes, position, lowered_by, is_parked
    FROM (SELECT EXISTS (SELECT FROM consumer.blocked
                         WHERE consumer = 'inbox' AND log = 'hours' AND stage = 'applied' AND key = $1::text)) AS here (is_parked)
    LEFT JOIN lookup.confirmed_minutes ON volunteer_id = $1::text::uuid
"""

_SELECT_PARKED: Final[LiteralString] = """
    SELECT EXISTS (SELECT FROM consumer.blocked
                   WHERE consumer = 'inbox' AND stage = 'applied'
                     AND ((log = 'registration' AND key = $1) OR (log = 'recognition' AND key = $2)))
"""

_SELECT_POLICIES: Final[LiteralString] = """
    SELECT version, effective_from, thresholds_minutes, reapply_after_revocation FROM lookup.star_policies
"""

_UPSERT_VOLUNTEER: Final[LiteralString] = """
    INSERT INTO lookup.volunteers (volunteer_id, unit_code, position) VALUES ($1, $2, $3)
    ON CONFLICT (volunteer_id) DO UPDATE SET unit_code = excluded.unit_code, position = excluded.position
"""

_SELECT_KNOWN: Final[LiteralString] = "SELECT volunteer_id, minutes FROM lookup.confirmed_minutes WHERE volunteer_id = ANY ($1::uuid[])"

_SET_MINUTES: Final[LiteralString] = """
    INSERT INTO lookup.confirmed_minutes AS known (volunteer_id, minutes, position, lowered_by)
    SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::text[])
    ON CONFLICT (volunteer_id) DO UPDATE
    SET minutes = excluded.minutes,
        position = excluded.position,
        lowered_by = coalesce(excluded.lowered_by, known.lowered_by)
"""

_INSERT_POLICY: Final[LiteralString] = """
    INSERT INTO lookup.star_policies (version, effective_from, thresholds_minutes, reapply_after_revocation) VALUES ($1, $2, $3, $4)
    ON CONFLICT (version) DO NOTHING
"""
