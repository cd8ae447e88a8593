"""A small service for the tests of `submit`: seats of an activity, two at most, and volunteers whose ID number only one may have."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid4

from pydantic import BaseModel

from shared.application import Aggregate, Asked, Claim, Claims, Plan, UseCase
from shared.codec import Codec
from shared.contracts.event import Event, Refusal
from shared.contracts.registration import EnrollmentAccepted, EnrollmentWithdrawn, PersonalDataErased, VolunteerRegistered
from shared.contracts.topics import EVENTS, UPCASTERS
from shared.envelope import Stream
from shared.errors import CallerError
from shared.eventstore.submit import Commands, Keys
from shared.eventstore.values import Answer, AnsweringStore
from shared.metrics import Metrics
from shared.permissions import Actor, Role
from tests.integration.eventstore.decided import BODY, NOW

SEATS: Final = 2
ACTOR: Final = Actor(UUID("0197f3a4-5c00-7000-8000-000000000001"), Role.VOLUNTEER, "water-saving-office")


class UnknownActivityError(CallerError):
    """What a plan raises when it looks in vain."""


@dataclass
class LookUps:
    """What plans look up; a test takes it away, or waits in it."""

    is_known: bool = True
    is_open: bool = True
    before_deciding: Callable[[], Awaitable[None]] | None = None


class Seat(BaseModel):
    volunteer_id: UUID


class Register(BaseModel):
    volunteer_id: UUID
    id_number: str


@dataclass(frozen=True)
class Seats:
    taken: frozenset[UUID] = frozenset()


@dataclass(frozen=True)
class Volunteer:
    id_number: str | None = None
    exists: bool = False


def _evolve_seats(seats: Seats, event: Any) -> Seats:
    match event:
        case EnrollmentAccepted():
            return Seats(seats.taken | {event.volunteer_id})
        case EnrollmentWithdrawn():
            return Seats(seats.taken - {event.volunteer_id})
    return seats


def _evolve_volunteer(volunteer: Volunteer, event: Any) -> Volunteer:
    match event:
        case VolunteerRegistered():
            return Volunteer(event.id_number, exists=True)
        case PersonalDataErased():
            return Volunteer(None, exists=True)
    return volunteer


def take(activity_id: UUID, volunteer_id: UUID) -> Callable[[Seats], Sequence[Event] | Refusal]:
    def decide(seats: Seats) -> Sequence[Event] | Refusal:
        if volunteer_id in seats.taken:
            return []
        if len(seats.taken) >= SEATS:
            return Refusal("activity_full", {"seats": SEATS})
        return [EnrollmentAccepted(activity_id=activity_id, volunteer_id=volunteer_id, position="host")]

    return decide


def leave(activity_id: UUID, volunteer_id: UUID) -> Callable[[Seats], Sequence[Event] | Refusal]:
    def decide(seats: Seats) -> Sequence[Event] | Refusal:
        if volunteer_id not in seats.taken:
            return Refusal("not_enrolled")
        return [
            EnrollmentWithdrawn(activity_id=activity_id, volunteer_id=volunteer_id, position="host", reason="volunteer_withdrew"),
        ]

    return decide


ACTIVITY: Final = Aggregate("activity", Seats(), _evolve_seats)
VOLUNTEER: Final = Aggregate("volunteer", Volunteer(), _evolve_volunteer)


def _seats_plan(decide: Callable[[UUID, UUID], Any]) -> Callable[[Asked[Seat], LookUps], Awaitable[Plan[Any]]]:
    async def plan(asked: Asked[Seat], lookups: LookUps) -> Plan[Any]:
        if not lookups.is_known:
            raise UnknownActivityError
        if lookups.before_deciding is not None:
            await lookups.before_deciding()
        activity_id = asked.ids["activity_id"]
        return Plan(Stream("activity", activity_id), ACTIVITY, decide(activity_id, asked.body.volunteer_id))

    return plan


async def _plan_register(asked: Asked[Register], lookups: LookUps) -> Plan[Volunteer]:
    def decide(volunteer: Volunteer) -> Sequence[Event] | Refusal:
        if not lookups.is_open:
            return Refusal("registration_closed")
        if volunteer.exists:
            return Refusal("already_registered")
        return [
            VolunteerRegistered(
                volunteer_id=asked.body.volunteer_id,
                number="SW-1",
                unit_code=asked.actor.unit,
                name="甲乙丙",
                id_number=asked.body.id_number,
                phone=None,
                is_minor=False,
                skills=None,
            )
        ]

    return Plan(Stream("volunteer", asked.body.volunteer_id), VOLUNTEER, decide)


async def _plan_erase(asked: Asked[Seat], _lookups: LookUps) -> Plan[Volunteer]:
    person = asked.body.volunteer_id
    return Plan(
        Stream("volunteer", person), VOLUNTEER, lambda volunteer: [PersonalDataErased(volunteer_id=person, id_number=volunteer.id_number)]
    )


async def _plan_not_due(asked: Asked[Seat], _lookups: LookUps) -> Plan[Seats]:
    return Plan(Stream("activity", asked.ids["activity_id"]), ACTIVITY, lambda _seats: Refusal("not_due"), keep_answer=False)


def _use_case(name: str, body: type[Any], plan: Any) -> UseCase[Any, LookUps]:
    return UseCase(name, None, body, frozenset({Role.VOLUNTEER}), plan, (), name, name)


TAKE_SEAT: Final = _use_case("take_seat", Seat, _seats_plan(take))
LEAVE_SEAT: Final = _use_case("leave_seat", Seat, _seats_plan(leave))
REGISTER: Final = _use_case("register", Register, _plan_register)
ERASE: Final = _use_case("erase", Seat, _plan_erase)
NOT_DUE: Final = _use_case("not_due", Seat, _plan_not_due)


def _claims_of(event: Event, blind: Callable[[str, str], str]) -> tuple[Sequence[Claim], Sequence[Claim]]:
    match event:
        case VolunteerRegistered(id_number=str(number)):
            return [Claim("id_number", blind("id_number", number))], []
        case PersonalDataErased(id_number=str(number)):
            return [], [Claim("id_number", blind("id_number", number))]
    return [], []


CLAIMS: Final = Claims(_claims_of, {"id_number": "id_number_taken"})


async def _now() -> datetime:
    return NOW


@dataclass
class Service:
    """One process of the service."""

    store: AnsweringStore
    keys: Keys
    lookups: LookUps = field(default_factory=LookUps)
    metrics: Metrics = field(default_factory=lambda: Metrics("registration", "0"))
    cached_streams_max: int = 10_000

    def __post_init__(self) -> None:
        codec = Codec(EVENTS, UPCASTERS)
        self.commands = Commands(
            self.store, codec, self.keys, self.lookups, CLAIMS, _now, self.metrics, cached_streams_max=self.cached_streams_max
        )

    async def submit(
        self,
        use_case: UseCase[Any, LookUps],
        body: BaseModel,
        activity_id: UUID | None = None,
        *,
        command_id: UUID | None = None,
        fingerprint: bytes | None = BODY,
        if_match: int | None = None,
    ) -> Answer:
        return await self.commands.submit(
            use_case,
            body,
            ids={} if activity_id is None else {"activity_id": activity_id},
            actor=ACTOR,
            command_id=command_id or uuid4(),
            fingerprint=fingerprint,
            correlation_id=uuid4(),
            causation_id=None,
            traceparent=None,
            if_match=if_match,
        )

    async def take(self, activity_id: UUID, volunteer_id: UUID | None = None, **more: Any) -> Answer:
        return await self.submit(TAKE_SEAT, Seat(volunteer_id=volunteer_id or uuid4()), activity_id, **more)

    async def leave(self, activity_id: UUID, volunteer_id: UUID, **more: Any) -> Answer:
        return await self.submit(LEAVE_SEAT, Seat(volunteer_id=volunteer_id), activity_id, **more)
