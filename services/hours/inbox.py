"""What hours learns from the logs: who may check in where and under which policy; which check-ins fall due; what attendance proposes."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, Final, LiteralString
from uuid import UUID

from services.hours import application
from services.hours.application import MISS_CHECK_OUT, PROPOSE_SERVICE_TIME, Door, MissCheckOut, ProposeServiceTime
from services.hours.domain.account import entry_id
from services.hours.domain.attendance import Activity, attendance_id
from services.hours.domain.day import Served, day_of, split_at_midnight
from shared.application import Command
from shared.clock import CIVIL_ZONE
from shared.consumer.values import DeadlineCleared, DeadlineSet, Fact, Figure, LookUp, Reaction
from shared.contracts.hours import CheckedIn, CheckedOut, CheckOutMissed, HoursPolicyAdopted
from shared.contracts.registration import (
    ActivityCancelled,
    ActivityHeld,
    ActivityPublished,
    EnrollmentAccepted,
    EnrollmentWithdrawn,
    OfferAccepted,
    VolunteerRegistered,
)
from shared.migrate import MigrationSet
from shared.postgres import Connection, Gathered, Pool

MIGRATIONS: Final = MigrationSet("hours", Path(__file__).parent / "migrations")

MISSED_CHECK_OUT: Final = "missed_check_out"
"""The deadline that a check-in sets and a check-out clears."""


class LookUps:
    """Reads schema `lookup`: the `application.LookUps` of a running service."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._doors = Gathered(self._read_doors)
        self._policies = Gathered(self._read_policies)

    async def at_the_door(self, activity_id: UUID, volunteer_id: UUID, day: date) -> Door:
        """Activity, enrolment, and the policy in force on `day`, in one look."""
        return await self._doors((activity_id, volunteer_id, day))

    async def policy_on(self, day: date) -> HoursPolicyAdopted | None:
        """The policy version in force on `day`."""
        return await self._policies(day)

    async def _read_doors(self, asked: Sequence[tuple[UUID, UUID, date]]) -> Sequence[Door]:
        return [_door(row) for row in await self._pool.fetch(_SELECT_DOORS, *map(list, zip(*asked, strict=True)))]

    async def _read_policies(self, days: Sequence[date]) -> Sequence[HoursPolicyAdopted | None]:
        return [_policy(row) for row in await self._pool.fetch(_SELECT_POLICIES, days)]


def _door(row: Any) -> Door:
    activity = None
    if row["unit_code"] is not None:
        activity = Activity(row["unit_code"], row["starts_at"], row["ends_at"], row["state"])
    return Door(
        activity=activity,
        standing=row["standing"],
        is_enrolled=row["is_enrolled"],
        policy=_policy(row),
        is_parked=row["is_parked"],
    )


def _policy(row: Any) -> HoursPolicyAdopted | None:
    return None if row["version"] is None else HoursPolicyAdopted.model_validate(dict(row))


async def fold_registration(connection: Connection, facts: Sequence[Fact]) -> None:
    """Who is a volunteer, which activities there are, and who has a seat. Of several facts about one thing the last one counts."""
    volunteers: dict[UUID, int] = {}
    published: dict[UUID, ActivityPublished] = {}
    states: dict[UUID, str] = {}
    seats: dict[tuple[UUID, UUID], bool] = {}
    for fact in facts:
        match fact.event:
            case VolunteerRegistered(volunteer_id=volunteer_id):
                volunteers[volunteer_id] = fact.record.position
            case ActivityPublished() as event:
                published[event.activity_id] = event
            case ActivityHeld(activity_id=activity_id):
                states[activity_id] = "held"
            case ActivityCancelled(activity_id=activity_id):
                states[activity_id] = "cancelled"
            case EnrollmentAccepted() | OfferAccepted() as event:
                seats[event.activity_id, event.volunteer_id] = True
            case EnrollmentWithdrawn() as event:
                seats[event.activity_id, event.volunteer_id] = False
            case _:
                pass
    await connection.execute(_UPSERT_VOLUNTEERS, list(volunteers), list(volunteers.values()))
    activities = list(published.values())
    await connection.execute(
        _UPSERT_ACTIVITIES,
        [each.activity_id for each in activities],
        [each.unit_code for each in activities],
        [each.starts_at for each in activities],
        [each.ends_at for each in activities],
    )
    await connection.execute(_UPDATE_STATES, list(states), list(states.values()))
    given_up = [seat for seat, is_taken in seats.items() if not is_taken]
    await connection.execute(_DELETE_SEATS, [activity for activity, _ in given_up], [volunteer for _, volunteer in given_up])
    taken = [seat for seat, is_taken in seats.items() if is_taken]
    await connection.execute(_INSERT_SEATS, [activity for activity, _ in taken], [volunteer for _, volunteer in taken])


async def fold_policies(connection: Connection, facts: Sequence[Fact]) -> None:
    """Hours itself: the policy's versions."""
    found = [fact.event for fact in facts if isinstance(fact.event, HoursPolicyAdopted)]
    await connection.executemany(
        _INSERT_POLICY,
        [
            (
                event.version,
                event.effective_from,
                event.daily_cap_minutes,
                event.pairs_per_activity_day_max,
                event.check_in_early_minutes,
                event.missed_check_out_after_minutes,
            )
            for event in found
        ],
    )


def deadlines(fact: Fact) -> Sequence[DeadlineSet | DeadlineCleared]:
    """A check-in must be followed by a check-out before `check_out_by`; one person at one activity has one open pair."""
    match fact.event:
        case CheckedIn() as event:
            ids = {"activity_id": event.activity_id, "volunteer_id": event.volunteer_id}
            command = Command(MISS_CHECK_OUT, MissCheckOut(pair=event.pair, due_at=event.check_out_by), ids)
            return [DeadlineSet(MISSED_CHECK_OUT, str(fact.record.stream.id), event.check_out_by, command)]
        case CheckedOut() | CheckOutMissed():
            return [DeadlineCleared(MISSED_CHECK_OUT, str(fact.record.stream.id))]
        case _:
            return []


async def propose_service_time(fact: Fact, _lookups: application.LookUps, _lack_is_fact: bool) -> Sequence[Command]:
    """A check-out proposes what was served, one entry for each civil day; a missed one an entry of no minutes, to be corrected."""
    match fact.event:
        case CheckedOut() as event:
            parts = split_at_midnight(event.counts_from, event.at, CIVIL_ZONE)
            return [_proposal(event, event.recorder_id, part) for part in parts]
        case CheckOutMissed() as event:
            nothing = Served(day_of(event.counts_from, CIVIL_ZONE), event.counts_from, event.counts_from)
            return [_proposal(event, event.checked_in_by, nothing)]
        case _:
            return []


def _proposal(event: CheckedOut | CheckOutMissed, recorder_id: UUID, served: Served) -> Command:
    attended = attendance_id(event.activity_id, event.volunteer_id)
    body = ProposeServiceTime(
        activity_id=event.activity_id,
        unit_code=event.unit_code,
        served_on=served.day.on,
        starts_at=served.starts_at,
        ends_at=served.ends_at,
        recorder_id=recorder_id,
        checked_in_by=event.checked_in_by,
        not_before=event.slot_starts_at,
        not_after=event.check_out_by,
    )
    return Command(
        PROPOSE_SERVICE_TIME, body, {"volunteer_id": event.volunteer_id, "entry_id": entry_id(attended, event.pair, served.day.on)}
    )


LOOK_UPS: Final = (
    LookUp("registration", fold_registration, ("volunteers", "activities", "seats")),
    LookUp("hours", fold_policies, ("hours_policies",)),
)

VOLUNTEERS: Final = Figure("volunteers", "registration", "inbox", "SELECT volunteer_id::text, 1 FROM lookup.volunteers")
"""Who may check in: as many as registration has registered."""

REACTIONS: Final[tuple[Reaction[application.LookUps], ...]] = (
    Reaction("propose_service_time", "hours", frozenset({CheckedOut.TYPE, CheckOutMissed.TYPE}), propose_service_time),
)

_SELECT_DOORS: Final[LiteralString] = """
    SELECT activity.unit_code, activity.starts_at, activity.ends_at, activity.state,
           CASE WHEN keys.is_erased(asked.volunteer_id) THEN 'erased'
                WHEN EXISTS (SELECT FROM lookup.volunteers AS known WHERE known.volunteer_id = asked.volunteer_id
                             AND NOT EXISTS (SELECT FROM consumer.withdrawn AS gone
                                             WHERE gone.subject = known.volunteer_id AND gone.kind = 'person'
                                               AND gone.position > known.position))
                THEN 'registered' ELSE 'unknown' END AS standing,
           EXISTS (SELECT FROM lookup.seats AS seat
                   WHERE seat.activity_id = asked.activity_id AND seat.volunteer_id = asked.volunteer_id) AS is_enrolled,
           EXISTS (SELECT FROM consumer.blocked
                   WHERE consumer = 'inbox' AND log = 'registration' AND stage = 'applied'
                     AND key IN (asked.activity_id::text, asked.volunteer_id::text)
                  ) AS is_parked,
           policy.*
    FROM unnest($1::uuid[], $2::uuid[], $3::date[]) WITH ORDINALITY AS asked (activity_id, volunteer_id, day, place)
    LEFT JOIN lookup.activities AS activity USING (activity_id)
    LEFT JOIN LATERAL (
        SELECT version, effective_from, daily_cap_minutes, pairs_per_activity_day_max, check_in_early_minutes,
               missed_check_out_after_minutes
        FROM lookup.hours_policies WHERE effective_from <= asked.day ORDER BY effective_from DESC LIMIT 1
    ) AS policy ON true
    ORDER BY asked.place
"""

_SELECT_POLICIES: Final[LiteralString] = """
    SELECT policy.version, policy.effective_from, policy.daily_cap_minutes, policy.pairs_per_activity_day_max,
           policy.check_in_early_minutes, policy.missed_check_out_after_minutes
    FROM unnest($1::date[]) WITH ORDINALITY AS asked (day, place)
    LEFT JOIN LATERAL (
        SELECT * FROM lookup.hours_policies WHERE effective_from <= asked.day ORDER BY effective_from DESC LIMIT 1
    ) AS policy ON true
    ORDER BY asked.place
"""

_UPSERT_VOLUNTEERS: Final[LiteralString] = """
    INSERT INTO lookup.volunteers (volunteer_id, position) SELECT * FROM unnest($1::uuid[], $2::bigint[])
    ON CONFLICT (volunteer_id) DO UPDATE SET position = excluded.position
"""

_UPSERT_ACTIVITIES: Final[LiteralString] = """
    INSERT INTO lookup.activities (activity_id, unit_code, starts_at, ends_at, state)
    SELECT *, 'published' FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[])
    ON CONFLICT (activity_id) DO UPDATE
    SET unit_code = excluded.unit_code, starts_at = excluded.starts_at, ends_at = excluded.ends_at
"""

_UPDATE_STATES: Final[LiteralString] = """
    UPDATE lookup.activities AS activity SET state = said.state
    FROM unnest($1::uuid[], $2::text[]) AS said (activity_id, state) WHERE activity.activity_id = said.activity_id
"""

_DELETE_SEATS: Final[LiteralString] = """
    DELETE FROM lookup.seats AS seat USING unnest($1::uuid[], $2::uuid[]) AS gone (activity_id, volunteer_id)
    WHERE seat.activity_id = gone.activity_id AND seat.volunteer_id = gone.volunteer_id
"""

_INSERT_SEATS: Final[LiteralString] = """
    INSERT INTO lookup.seats (activity_id, volunteer_id) SELECT * FROM unnest($1::uuid[], $2::uuid[]) ON CONFLICT DO NOTHING
"""

_INSERT_POLICY: Final[LiteralString] = """
    INSERT INTO lookup.hours_policies (version, effective_from, daily_cap_minutes, pairs_per_activity_day_max, check_in_early_minutes,
                                       missed_check_out_after_minutes)
    VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (version) DO NOTHING
"""
