"""What registration learns from its own log: look-ups across streams, deadlines, and seats that who leaves gives back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, LiteralString
from uuid import UUID

from services.registration import application
from services.registration.application import (
    EXPIRE_OFFER,
    LAPSE_PROGRAMME,
    RECORD_ERASURE_RECEIPT,
    RELEASE_SEAT,
    WITHDRAW_ROLES_OF_ERASED,
    ExpireOffer,
    RecordErasureReceipt,
    ReleaseSeat,
)
from services.registration.domain.activity import Person, SeatElsewhere, WordKind
from shared.application import Command, Nothing
from shared.consumer.values import DeadlineCleared, DeadlineSet, Fact, LookUp, NotYetError, Reaction
from shared.contracts import hours, recognition
from shared.contracts.registration import (
    ActivityCancelled,
    ActivityHeld,
    ActivityPublished,
    ConsentGiven,
    ConsentWithdrawn,
    EnrollmentAccepted,
    EnrollmentWaitlisted,
    EnrollmentWithdrawn,
    OfferAccepted,
    OfferExpired,
    PersonalDataErased,
    ProgrammeAdopted,
    ProgrammeApproved,
    ProgrammeDeclined,
    ProgrammeLapsed,
    ProgrammeProposed,
    RoleGranted,
    SeatOffered,
    UnitRegistered,
    VolunteerDeregistered,
    VolunteerRegistered,
)
from shared.errors import InvariantError
from shared.migrate import MigrationSet
from shared.postgres import Connection, Pool

MIGRATIONS: Final = MigrationSet("registration", Path(__file__).parent / "migrations")

OFFER: Final = "offer"
"""The deadline of an offered seat."""

PROPOSAL: Final = "programme_proposal"
"""The deadline of a programme that waits for a second person."""


class LookUps:
    """Reads schema `lookup`: the `application.LookUps` of a running service."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def is_unit_known(self, code: str) -> bool:
        """Whether a unit of this code is registered."""
        return bool(await self._pool.fetchval("SELECT EXISTS (SELECT FROM lookup.units WHERE code = $1)", code))

    async def words(self, year: int) -> Mapping[WordKind, frozenset[str]]:
        """The codes that the programme of a year names, by kind; none when there is no programme."""
        rows = await self._pool.fetch("SELECT kind, code FROM lookup.words WHERE year = $1", year)
        kinds: tuple[WordKind, ...] = ("carrier", "target_group", "occasion")
        return {kind: frozenset(row["code"] for row in rows if row["kind"] == kind) for kind in kinds}

    async def person(self, volunteer_id: UUID) -> Person | Literal["parked"] | None:
        """What is known of a volunteer who wants a seat; None for somebody who never registered, `parked` while nobody knows."""
        row = await self._pool.fetchrow(_SELECT_PERSON, str(volunteer_id))
        if row is None or row["is_parked"]:
            return "parked"
        if row["unit_code"] is None:
            return None
        return Person(
            unit_code=row["unit_code"],
            standing=row["standing"],
            is_minor=row["is_minor"],
            has_consented=row["has_consented"],
            seats=[SeatElsewhere(*seat) for seat in row["seats"]],
            has_parked_seats=row["has_parked_seats"],
        )

    async def live_enrollments(self, volunteer_id: UUID) -> Sequence[UUID]:
        """The activities in which a person has a seat, an offer or a place on the wait-list, and that are still to be held."""
        return [row["activity_id"] for row in await self._pool.fetch(_SELECT_LIVE, volunteer_id)]


async def fold(connection: Connection, facts: Sequence[Fact]) -> None:
    """Folds a batch in memory, by row, and writes what came of it."""
    await _fold_programmes(connection, facts)
    await _fold_volunteers(connection, facts)
    await _fold_activities(connection, facts)
    await _fold_enrollments(connection, facts)


async def _fold_programmes(connection: Connection, facts: Sequence[Fact]) -> None:
    codes, words = list[str](), list[tuple[int, str, str]]()
    for fact in facts:
        match fact.event:
            case UnitRegistered(code=code):
                codes.append(code)
            case ProgrammeAdopted(year=year) as event:
                words += [(year, "carrier", each.code) for each in event.carriers]
                words += [(year, "target_group", each.code) for each in event.target_groups]
                words += [(year, "occasion", each.code) for each in event.occasions]
            case _:
                pass
    await connection.execute("INSERT INTO lookup.units SELECT DISTINCT unnest($1::text[]) ON CONFLICT DO NOTHING", codes)
    await connection.executemany("INSERT INTO lookup.words (year, kind, code) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", words)


@dataclass(slots=True)
class _Volunteer:
    unit_code: str
    is_minor: bool
    standing: str
    position: int
    consent_position: int | None = None


async def _fold_volunteers(connection: Connection, facts: Sequence[Fact]) -> None:
    touched = {fact.event.volunteer_id for fact in facts if isinstance(fact.event, _OF_VOLUNTEERS)}
    if not touched:
        return
    known: dict[UUID, _Volunteer] = {
        row["volunteer_id"]: _Volunteer(row["unit_code"], row["is_minor"], row["standing"], row["position"], row["consent_position"])
        for row in await connection.fetch("SELECT * FROM lookup.volunteers WHERE volunteer_id = ANY ($1::uuid[])", list(touched))
    }
    unheard = touched - known.keys() - {fact.event.volunteer_id for fact in facts if isinstance(fact.event, VolunteerRegistered)}
    if unheard:
        raise InvariantError("a volunteer's record does not begin with the registration")
    for fact in facts:
        position = fact.record.position
        match fact.event:
            case VolunteerRegistered(volunteer_id=who, unit_code=unit_code, is_minor=is_minor):
                known[who] = _Volunteer(unit_code, is_minor, "registered", position)
            case ConsentGiven(volunteer_id=who, consent="register"):
                known[who].consent_position = position
            case ConsentWithdrawn(volunteer_id=who, consent="register"):
                known[who].consent_position = None
            case VolunteerDeregistered(volunteer_id=who):
                known[who].standing = "left"
            case PersonalDataErased(volunteer_id=who):
                known[who].standing = "erased"
            case _:
                pass
    rows = list(known.items())
    await connection.execute(
        _UPSERT_VOLUNTEERS,
        [who for who, _ in rows],
        [row.unit_code for _, row in rows],
        [row.is_minor for _, row in rows],
        [row.standing for _, row in rows],
        [row.position for _, row in rows],
        [row.consent_position for _, row in rows],
    )


async def _fold_activities(connection: Connection, facts: Sequence[Fact]) -> None:
    published = [fact.event for fact in facts if isinstance(fact.event, ActivityPublished)]
    closed = [fact.event.activity_id for fact in facts if isinstance(fact.event, ActivityHeld | ActivityCancelled)]
    await connection.executemany(_INSERT_ACTIVITY, [(each.activity_id, each.starts_at, each.ends_at) for each in published])
    await connection.execute("UPDATE lookup.activities SET is_open = false WHERE activity_id = ANY ($1::uuid[])", closed)


async def _fold_enrollments(connection: Connection, facts: Sequence[Fact]) -> None:
    said: dict[tuple[UUID, UUID], bool | None] = {}
    for fact in facts:
        match fact.event:
            case EnrollmentAccepted() | OfferAccepted() as event:
                said[event.volunteer_id, event.activity_id] = True
            case EnrollmentWaitlisted() | SeatOffered() as event:
                said[event.volunteer_id, event.activity_id] = False
            case EnrollmentWithdrawn() | OfferExpired() as event:
                said[event.volunteer_id, event.activity_id] = None
            case _:
                pass
    gone = [key for key, is_seated in said.items() if is_seated is None]
    live = [(*key, is_seated) for key, is_seated in said.items() if is_seated is not None]
    await connection.execute(_DELETE_ENROLLMENTS, [who for who, _ in gone], [activity_id for _, activity_id in gone])
    await connection.execute(
        _UPSERT_ENROLLMENTS,
        [who for who, _, _ in live],
        [activity_id for _, activity_id, _ in live],
        [is_seated for _, _, is_seated in live],
    )


def deadlines(fact: Fact) -> Sequence[DeadlineSet | DeadlineCleared]:
    """An offer falls due at its `expires_at`, and so does a proposed programme. Of a cancelled activity an offer decides nothing then."""
    match fact.event:
        case SeatOffered(activity_id=activity_id, volunteer_id=who, expires_at=expires_at):
            command = Command(EXPIRE_OFFER, ExpireOffer(volunteer_id=who), {"activity_id": activity_id})
            return [DeadlineSet(OFFER, f"{activity_id}/{who}", expires_at, command)]
        case OfferAccepted() | OfferExpired() | EnrollmentWithdrawn() as event:
            return [DeadlineCleared(OFFER, f"{event.activity_id}/{event.volunteer_id}")]
        case ProgrammeProposed(proposal_id=proposal_id, expires_at=expires_at):
            return [DeadlineSet(PROPOSAL, str(proposal_id), expires_at, Command(LAPSE_PROGRAMME, Nothing(), {"proposal_id": proposal_id}))]
        case ProgrammeApproved() | ProgrammeDeclined() | ProgrammeLapsed() as event:
            return [DeadlineCleared(PROPOSAL, str(event.proposal_id))]
        case _:
            return []


async def release_seats(fact: Fact, look_ups: application.LookUps, _lack_is_fact: bool) -> Sequence[Command]:
    """Who left, or no longer agrees to be registered, gives back every seat; also one that was decided before that had been heard of."""
    match fact.event:
        case (
            VolunteerDeregistered(volunteer_id=who)
            | ConsentWithdrawn(volunteer_id=who, consent="register")
            | EnrollmentAccepted(volunteer_id=who)
            | EnrollmentWaitlisted(volunteer_id=who)
        ):
            person = await look_ups.person(who)
            if person == "parked":
                raise NotYetError("registration", str(who))
            if person is None or (person.standing == "registered" and person.has_consented):
                return []
            body = ReleaseSeat(volunteer_id=who, reason="consent_withdrawn" if person.standing == "registered" else "left_programme")
            return [Command(RELEASE_SEAT, body, {"activity_id": activity_id}) for activity_id in await look_ups.live_enrollments(who)]
        case _:
            return []


async def withdraw_roles(fact: Fact, look_ups: application.LookUps, _lack_is_fact: bool) -> Sequence[Command]:
    """Who was erased holds no role; neither one that was granted before that had been heard of."""
    match fact.event:
        case PersonalDataErased(volunteer_id=who):
            return [Command(WITHDRAW_ROLES_OF_ERASED, Nothing(), {"person_id": who})]
        case RoleGranted(person_id=who):
            person = await look_ups.person(who)
            if person == "parked":
                raise NotYetError("registration", str(who))
            is_erased = person is not None and person.standing == "erased"
            return [Command(WITHDRAW_ROLES_OF_ERASED, Nothing(), {"person_id": who})] if is_erased else []
        case _:
            return []


async def record_receipt(fact: Fact, _look_ups: application.LookUps, _lack_is_fact: bool) -> Sequence[Command]:
    """Another service has destroyed its key of an erased person, and says so."""
    match fact.event:
        case hours.PersonalDataPurged(volunteer_id=who):
            return [
                Command(RECORD_ERASURE_RECEIPT, RecordErasureReceipt(service="hours", position=fact.record.position), {"volunteer_id": who})
            ]
        case recognition.PersonalDataPurged(volunteer_id=who):
            body = RecordErasureReceipt(service="recognition", position=fact.record.position)
            return [Command(RECORD_ERASURE_RECEIPT, body, {"volunteer_id": who})]
        case _:
            return []


LOOK_UPS: Final = (LookUp("registration", fold, ("units", "words", "volunteers", "activities", "enrollments")),)

REACTIONS: Final[tuple[Reaction[Any], ...]] = (
    Reaction(
        "release_seats",
        "registration",
        frozenset({VolunteerDeregistered.TYPE, ConsentWithdrawn.TYPE, EnrollmentAccepted.TYPE, EnrollmentWaitlisted.TYPE}),
        release_seats,
    ),
    Reaction("withdraw_roles_of_erased", "registration", frozenset({PersonalDataErased.TYPE, RoleGranted.TYPE}), withdraw_roles),
    Reaction("record_hours_receipt", "hours", frozenset({hours.PersonalDataPurged.TYPE}), record_receipt),
    Reaction("record_recognition_receipt", "recognition", frozenset({recognition.PersonalDataPurged.TYPE}), record_receipt),
)

_OF_VOLUNTEERS: Final = VolunteerRegistered | ConsentGiven | ConsentWithdrawn | VolunteerDeregistered | PersonalDataErased

_SELECT_PERSON: Final[LiteralString] = """
    SELECT blocked.key IS NOT NULL AS is_parked, known.unit_code, known.is_minor,
        CASE WHEN known.standing = 'registered' AND gone.position > known.position THEN 'left' ELSE known.standing END AS standing,
        known.consent_position IS NOT NULL AND coalesce(unsaid.position, 0) < known.consent_position AS has_consented,
        ARRAY(
            SELECT (activity.activity_id, activity.starts_at, activity.ends_at)
            FROM lookup.enrollments AS seat JOIN lookup.activities AS activity USING (activity_id)
            WHERE seat.volunteer_id = known.volunteer_id AND seat.is_seated AND activity.is_open
            ORDER BY activity.starts_at, activity.activity_id
        ) AS seats,
        EXISTS(  -- An enrolment that could not be applied, or waits behind what could not: its payload names the person.
            SELECT FROM consumer.parked
            WHERE parked.consumer = 'inbox' AND parked.log = 'registration' AND parked.stage = 'applied'
                AND position(convert_to(asked.key, 'UTF8') IN parked.payload) > 0
        ) AS has_parked_seats
    FROM (VALUES ($1::text)) AS asked (key)
    LEFT JOIN consumer.blocked ON blocked.key = asked.key
        AND blocked.consumer = 'inbox' AND blocked.log = 'registration' AND blocked.stage = 'applied'
    LEFT JOIN lookup.volunteers AS known ON known.volunteer_id = asked.key::uuid
    LEFT JOIN consumer.withdrawn AS gone ON gone.subject = known.volunteer_id AND gone.kind = 'person'
    LEFT JOIN consumer.withdrawn AS unsaid ON unsaid.subject = known.volunteer_id AND unsaid.kind = 'consent:register'
"""

_SELECT_LIVE: Final[LiteralString] = """
    SELECT activity_id FROM lookup.enrollments JOIN lookup.activities USING (activity_id)
    WHERE volunteer_id = $1 AND is_open ORDER BY activity_id
"""

_UPSERT_VOLUNTEERS: Final[LiteralString] = """
    INSERT INTO lookup.volunteers (volunteer_id, unit_code, is_minor, standing, position, consent_position)
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::boolean[], $4::text[], $5::bigint[], $6::bigint[])
    ON CONFLICT (volunteer_id) DO UPDATE
    SET unit_code = excluded.unit_code, is_minor = excluded.is_minor, standing = excluded.standing, position = excluded.position,
        consent_position = excluded.consent_position
"""

_INSERT_ACTIVITY: Final[LiteralString] = """
    INSERT INTO lookup.activities (activity_id, starts_at, ends_at, is_open) VALUES ($1, $2, $3, true) ON CONFLICT DO NOTHING
"""

_DELETE_ENROLLMENTS: Final[LiteralString] = """
    DELETE FROM lookup.enrollments USING unnest($1::uuid[], $2::uuid[]) AS gone (volunteer_id, activity_id)
    WHERE enrollments.volunteer_id = gone.volunteer_id AND enrollments.activity_id = gone.activity_id
"""

_UPSERT_ENROLLMENTS: Final[LiteralString] = """
    INSERT INTO lookup.enrollments (volunteer_id, activity_id, is_seated)
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::boolean[])
    ON CONFLICT (volunteer_id, activity_id) DO UPDATE SET is_seated = excluded.is_seated
"""
