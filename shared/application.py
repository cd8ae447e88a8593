"""Use cases and `submit`: the one way in which anything, HTTP, a reaction or a deadline, changes a service.

A service lists its use cases in one table; routes, rights and documentation follow from it. A use case plans (looks up what must be
known, names the stream), a pure `decide` says what follows, `submit` loads, decides, seals and appends.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel

from shared.contracts.event import Event, Refusal
from shared.envelope import Stream
from shared.permissions import Actor, Role

S = TypeVar("S")
B = TypeVar("B", bound=BaseModel)
L = TypeVar("L")
L_contra = TypeVar("L_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class Aggregate(Generic[S]):
    """A category of streams and its fold. `evolve` never fails."""

    category: str
    initial: S
    evolve: Callable[[S, Any], S]


@dataclass(frozen=True, slots=True)
class Plan(Generic[S]):
    """What a use case wants decided: on which stream, by which pure function. Look-ups are already inside `decide`."""

    stream: Stream
    aggregate: Aggregate[S]
    decide: Callable[[S], Sequence[Event] | Refusal]
    keep_answer: bool = True


@dataclass(frozen=True, slots=True)
class Claim:
    """Uniqueness across streams: a value taken within a scope. Personal values come only as a keyed blind index."""

    scope: str
    value: str


@dataclass(frozen=True, slots=True)
class Claims:
    """What events take and give back, as a function of the events (architecture, section 7), and what a taken claim is refused with.

    `of(event, blind)` gives (taken, released); `blind(scope, text)` is the keyed blind index for personal values. `refusals` maps each
    scope to the code of the refusal.
    """

    of: Callable[[Event, Callable[[str, str], str]], tuple[Sequence[Claim], Sequence[Claim]]]
    refusals: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Asked(Generic[B]):
    """What a use case is asked with. `ids` are those of the path; those of what is new follow from `command_id`, for repeats."""

    body: B
    ids: dict[str, UUID]
    actor: Actor
    now: datetime
    command_id: UUID


@dataclass(frozen=True, slots=True)
class UseCase(Generic[B, L]):
    """One command that the service accepts.

    `path` is below `/api/v1` with `{ids}` (all UUIDs) or None for a use case that only reactions and deadlines submit. `roles` may ask;
    finer rights (own unit, recorder is not approver) are decided in `decide`. `refusals` are the codes it can answer, for the docs.
    """

    name: str
    path: str | None
    body: type[B]
    roles: frozenset[Role]
    plan: Callable[[Asked[B], L], Awaitable[Plan[Any]]]
    refusals: tuple[str, ...]
    title_zh: str
    title_en: str


class Nothing(BaseModel):
    """A command that says all in its address."""


class AcknowledgeErasure(BaseModel):
    """确认已清除: what this service held of a person is gone, after the erasure at this position of registration's log."""

    erased_position: int
    sign_in_destroyed: bool = False
    """Whether people sign in here, so that login, password, links and sessions went with it."""


def acknowledging_erasure(
    plan: Callable[[Asked[AcknowledgeErasure], L], Awaitable[Plan[Any]]], refusals: tuple[str, ...] = ()
) -> UseCase[AcknowledgeErasure, L]:
    """Each service has it: asked by a deadline that `withdrawals` sets in the transaction that destroys the key and empties the rows."""
    return UseCase(
        name="acknowledge_erasure",
        path=None,
        body=AcknowledgeErasure,
        roles=frozenset({Role.SYSTEM}),
        plan=plan,
        refusals=refusals,
        title_zh="确认已清除",
        title_en="Acknowledge an erasure",
    )


def saying_purged(category: str, purged: Callable[[UUID, int], Event]) -> UseCase[AcknowledgeErasure, Any]:
    """`acknowledging_erasure` for a service that only says so: `purged(volunteer_id, erased_position)`, once for each person's stream."""
    said: Aggregate[bool] = Aggregate(category, False, lambda _state, _event: True)

    async def plan(asked: Asked[AcknowledgeErasure], _lookups: Any) -> Plan[bool]:
        volunteer_id = asked.ids["volunteer_id"]
        event = purged(volunteer_id, asked.body.erased_position)
        return Plan(Stream(category, volunteer_id), said, lambda is_said: [] if is_said else [event])

    return acknowledging_erasure(plan)


@dataclass(frozen=True, slots=True)
class Command:
    """What a reaction or a deadline asks this service to do, through the same `submit` as HTTP (D10)."""

    use_case: UseCase[Any, Any]
    body: BaseModel
    ids: Mapping[str, UUID] = field(default_factory=dict)
