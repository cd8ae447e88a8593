"""What the simulated services do: at two of them seats are taken and freed, a third opens a case for each and closes it in time.

Small on purpose, and without mercy: `close` counts each time it is asked, so a deadline that fires twice is seen.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final, Literal
from uuid import UUID

from pydantic import BaseModel

from shared.application import Aggregate, Asked, Claims, Command, Plan, UseCase
from shared.codec import Codec
from shared.consumer.values import DeadlineCleared, DeadlineSet, Fact, Fold, NotYetError, Reaction
from shared.contracts.event import Event, Refusal
from shared.envelope import Stream
from shared.errors import InvariantError
from tests.simulation.database import Pool, Row, Session, Statement

Stumble = Literal["", "views", "inbox", "reaction", "strange"]
"""Who cannot digest an event: the folds of a consumer, the reaction, or whoever reads its type."""

STUMBLES: Final[tuple[Stumble, ...]] = ("", "", "", "", "", "", "", "", "", "", "", "", "views", "inbox", "reaction", "strange")
"""How often who does."""
SEATS: Final = 2
SOURCES: Final = ("registration", "hours")
DECIDING: Final = "recognition"


class Taken(Event):
    """A seat is taken."""

    TYPE: ClassVar[str] = "simulated.taken"
    number: int
    stumble: Stumble = ""


class Freed(Event):
    """A seat is free again."""

    TYPE: ClassVar[str] = "simulated.freed"


class Dull(Event):
    """Nobody subscribes to it."""

    TYPE: ClassVar[str] = "simulated.dull"


class Strange(Event):
    """The deciding service does not know it."""

    TYPE: ClassVar[str] = "simulated.strange"


class Opened(Event):
    """A case stands open until `due_at`."""

    TYPE: ClassVar[str] = "simulated.opened"
    number: int
    due_at: datetime


class Extended(Event):
    """It stands open for longer."""

    TYPE: ClassVar[str] = "simulated.extended"
    number: int
    due_at: datetime


class Closed(Event):
    """It was closed."""

    TYPE: ClassVar[str] = "simulated.closed"
    number: int


SOURCE_CODEC: Final = Codec((Taken, Freed, Dull, Strange), {})
CODEC: Final = Codec((Taken, Freed, Dull, Opened, Extended, Closed), {})
TYPES: Final = {
    "registration": frozenset({Taken.TYPE, Freed.TYPE}),
    "hours": frozenset({Taken.TYPE}),
    DECIDING: frozenset({Opened.TYPE, Extended.TYPE, Closed.TYPE}),
}
"""What inbox and views of the deciding service subscribe to."""
NO_CLAIMS: Final = Claims(lambda _event, _blind: ((), ()), {})


class Seat(BaseModel):
    """The body of a command about seats."""

    number: int
    stumble: Stumble = ""


class Case(BaseModel):
    """The body of a command about cases. `due_at` is when it may be closed."""

    number: int
    due_at: datetime | None = None


@dataclass(frozen=True)
class Seats:
    """How many are taken."""

    taken: int = 0


def evolve(seats: Seats, event: Any) -> Seats:
    """The fold of a stream of seats."""
    match event:
        case Taken():
            return Seats(seats.taken + 1)
        case Freed():
            return Seats(seats.taken - 1)
    return seats


def take(seats: Seats, body: Seat) -> Sequence[Event] | Refusal:
    """Takes a seat, if there is one."""
    if seats.taken >= SEATS:
        return Refusal("full")
    taken = Taken(number=body.number, stumble=body.stumble)
    if body.stumble == "strange":
        return [Strange(), taken]
    return [Dull(), taken] if body.number % 4 == 0 else [taken]


def free(seats: Seats, _body: Seat) -> Sequence[Event] | Refusal:
    """Frees a seat, if one is taken."""
    return [Freed()] if seats.taken else Refusal("empty")


SEATS_OF: Final = Aggregate("programme", Seats(), evolve)
CASES: Final = Aggregate("star_policy", 0, lambda count, _event: count + 1)


def _seats(decide: Callable[[Seats, Seat], Sequence[Event] | Refusal]) -> Callable[[Asked[Seat], Any], Awaitable[Plan[Any]]]:
    async def plan(asked: Asked[Seat], _look_ups: Any) -> Plan[Seats]:
        return Plan(Stream("programme", asked.ids["id"]), SEATS_OF, lambda seats: decide(seats, asked.body))

    return plan


def _case(decide: Callable[[Asked[Case]], Sequence[Event]]) -> Callable[[Asked[Case], Any], Awaitable[Plan[Any]]]:
    async def plan(asked: Asked[Case], _look_ups: Any) -> Plan[int]:
        events = decide(asked)
        return Plan(Stream("star_policy", asked.ids["id"]), CASES, lambda _count: events, keep_answer=bool(events))

    return plan


def _open(asked: Asked[Case]) -> Sequence[Event]:
    return [Opened(number=asked.body.number, due_at=asked.now + timedelta(seconds=(0.0, 0.02, 0.5, 1.0, 2.0)[asked.body.number % 5]))]


def _extend(asked: Asked[Case]) -> Sequence[Event]:
    return [Extended(number=asked.body.number, due_at=asked.now + timedelta(seconds=1 + asked.body.number % 3))]


def _close(asked: Asked[Case]) -> Sequence[Event]:
    is_due = asked.body.due_at is not None and asked.now >= asked.body.due_at
    return [Closed(number=asked.body.number)] if is_due else []


def _use_case(name: str, body: type[BaseModel], plan: Any, *refusals: str) -> UseCase[Any, Any]:
    return UseCase(name, None, body, frozenset(), plan, refusals, name, name)


TAKE: Final = _use_case("take", Seat, _seats(take), "full")
FREE: Final = _use_case("free", Seat, _seats(free), "empty")
OPEN: Final = _use_case("open", Case, _case(_open))
EXTEND: Final = _use_case("extend", Case, _case(_extend))
CLOSE: Final = _use_case("close", Case, _case(_close))


def due(fact: Fact) -> Sequence[DeadlineSet | DeadlineCleared]:
    """A case is closed when it is due, unless it was extended or closed meanwhile; some are extended at the very instant."""
    event, ids = fact.event, {"id": fact.record.stream.id}
    if not isinstance(event, Opened | Extended):
        return [DeadlineCleared("close", str(event.number))] if isinstance(event, Closed) else []
    case = Case(number=event.number, due_at=event.due_at)
    close = DeadlineSet("close", str(event.number), event.due_at, Command(CLOSE, case, ids))
    if isinstance(event, Opened) and is_extended_when_due(event.number):
        return [close, DeadlineSet("extend", f"{event.number} too", event.due_at, Command(EXTEND, case, ids))]
    return [close]


def is_extended_when_due(number: int) -> bool:
    """A second deadline falls due with the first."""
    return number % 3 == 1


async def _follow(fact: Fact, look_ups: Pool, lack_is_fact: bool) -> Sequence[Command]:
    """A seat taken opens a case, and every third one is extended at once. It wants to see one of `hours`, if there is any."""
    assert isinstance(fact.event, Taken)
    if fact.event.stumble == "reaction":
        raise InvariantError("the reaction stumbles")
    if fact.event.number % 5 == 0 and not lack_is_fact and not await look_ups.fetch(ANY_OF, "inbox", "hours"):
        raise NotYetError("hours", "nobody")
    ids, body = {"id": fact.record.stream.id}, Case(number=fact.event.number)
    return [Command(OPEN, body, ids), Command(EXTEND, body, ids)] if fact.event.number % 3 == 0 else [Command(OPEN, body, ids)]


FOLLOW: Final[Reaction[Any]] = Reaction("follow", "registration", frozenset({Taken.TYPE}), _follow)


def commands_for(number: int) -> int:
    """How many commands a seat taken is answered with."""
    return 2 if number % 3 == 0 else 1


TELL: Final = "INSERT INTO told"
ANY_OF: Final = "SELECT FROM told"


def told_by(consumer: str) -> Fold:
    """The fold of the simulated read models and look-ups: what was applied, in the order in which it was; twice is twice."""

    async def fold(connection: Any, facts: Sequence[Fact]) -> None:
        for fact in facts:
            if isinstance(fact.event, Taken) and fact.event.stumble == consumer:
                raise InvariantError(f"{consumer} stumbles")
            await connection.execute(TELL, consumer, fact.record.service, fact.record.position, fact.record.partition_key)

    return fold


async def _tell(session: Session, consumer: str, log: str, position: int, key: str) -> Sequence[Row]:
    serial = session.database.serial()
    await session.put({"consumer": consumer, "log": log, "position": position, "key": key, "serial": serial}, "told", serial)
    return []


async def _any_of(session: Session, consumer: str, log: str) -> Sequence[Row]:
    return [row for row in session.scan("told") if (row["consumer"], row["log"]) == (consumer, log)][:1]


STATEMENTS: Final[dict[str, Statement]] = {TELL: _tell, ANY_OF: _any_of}


def person(number: int) -> UUID:
    """One of few streams."""
    return UUID(int=number)
