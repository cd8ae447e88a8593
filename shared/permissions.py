"""Who may do what: roles, how far each reaches, which hands must stay apart, and the pure functions that read these tables.

An action is a use case, a query or a route; it names the roles that may (`roles`), so that the table of all actions follows from what runs.
What an action is about is a `Resource`. Nothing here asks a clock, a token or a database: an `Actor` was made at the door, of
who asks and of a role that they hold.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal
from uuid import UUID

from shared.contracts.event import Refusal


class Role(StrEnum):
    """In which role somebody asks. `public` is nobody in particular, such as a screen in a hall; `system` is the service itself."""

    BUREAU_ADMIN = "bureau_admin"
    UNIT_ADMIN = "unit_admin"
    ACTIVITY_LEADER = "activity_leader"
    VOLUNTEER = "volunteer"
    KIOSK = "kiosk"
    PUBLIC = "public"
    AUDITOR = "auditor"
    OPS = "ops"
    SYSTEM = "system"


Reach = Literal["own", "unit", "bureau", "nothing"]

REACH: Final[Mapping[Role, Reach]] = {
    Role.BUREAU_ADMIN: "bureau",
    Role.UNIT_ADMIN: "unit",
    Role.ACTIVITY_LEADER: "unit",
    Role.VOLUNTEER: "own",
    Role.KIOSK: "unit",
    Role.PUBLIC: "nothing",
    Role.AUDITOR: "bureau",
    Role.OPS: "nothing",
    Role.SYSTEM: "bureau",
}
"""How far a role's word goes: `own` for themself, `unit` for those of the unit, `bureau` for all, `nothing` for no record at all."""

EVERYBODY: Final = frozenset(Role)

GRANTED: Final = frozenset(Role) - {Role.VOLUNTEER, Role.PUBLIC, Role.SYSTEM}
"""The roles that count only while they are held. Whoever is known by name is a volunteer, for themself; the others are no person's."""

Duty = Literal["recorder", "proposer", "approver"]
"""What somebody does when they do it: write down what others did, propose what is to befall them, or say that it counts."""

Hand = Literal["subject", "recorder", "requester"]
"""Who has had to do with a matter before: it is about them, they wrote it down, they asked for it."""

APART: Final[Mapping[Duty, tuple[Hand, ...]]] = {
    "recorder": ("subject",),
    "proposer": ("subject",),
    "approver": ("subject", "recorder", "requester"),
}
"""Which earlier hands are never those of who does a duty: recorder is not subject is not approver, nor is who asked for it."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks: a person (or device), in one role, for one unit (its code, e.g. `water-saving-office`)."""

    person_id: UUID
    role: Role
    unit: str

    def __str__(self) -> str:
        return f"{self.role}:{self.person_id}"

    @property
    def reach(self) -> Reach:
        """How far their word goes in this role."""
        return REACH[self.role]


@dataclass(frozen=True, slots=True)
class Resource:
    """What an action is about: whose it is, whom it is about, and who has had a hand in it.

    `unit` None is no unit's; `subject` None is about nobody in particular.
    """

    unit: str | None = None
    subject: UUID | None = None
    recorders: Collection[UUID] = ()
    requesters: Collection[UUID] = ()

    def hands(self, hand: Hand) -> Collection[UUID]:
        """The persons of one kind of hand."""
        match hand:
            case "subject":
                return () if self.subject is None else (self.subject,)
            case "recorder":
                return self.recorders
            case "requester":
                return self.requesters


def judge(actor: Actor, roles: Collection[Role], resource: Resource | None = None, duty: Duty | None = None) -> Refusal | None:
    """None where the actor may, or the refusal that says why not: the role, the record, the unit, or a hand that must be another's."""
    if actor.role not in roles:
        return Refusal("role_not_allowed", {"role": actor.role.value})
    return None if resource is None else barred(actor, resource, duty)


def barred(actor: Actor, resource: Resource, duty: Duty | None = None) -> Refusal | None:
    """The part of `judge` that a decision asks, which knows what the action is about; that the role may was seen at the door."""
    match actor.reach:
        case "own" if resource.subject is not None:
            within = resource.subject == actor.person_id
        case "unit":
            within = resource.unit in {None, actor.unit}
        case reach:
            within = reach == "bureau"
    if not within:
        own = actor.reach == "own" and resource.subject is not None
        return Refusal("not_own_record") if own else Refusal("wrong_unit")
    apart: Iterable[Hand] = APART[duty] if duty is not None else ()
    same = next((hand for hand in apart if actor.person_id in resource.hands(hand)), None)
    return None if same is None else Refusal(f"{duty}_is_{same}")


@dataclass(frozen=True, slots=True)
class Action:
    """Something that can be asked for over HTTP, and which roles may. `system` comes by no door, whatever is written here."""

    method: str
    path: str
    roles: frozenset[Role]
