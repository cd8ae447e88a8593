"""Role: which roles a person was given and lost, as recorded facts. Tokens carry roles; a withdrawal here makes a token count no more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from shared.contracts.registration import RoleGranted, RoleWithdrawn

RoleEvent = RoleGranted | RoleWithdrawn


@dataclass(frozen=True, slots=True)
class Roles:
    """Whether the person holds (role, unit), as last said; what was never spoken of is missing."""

    held: Mapping[tuple[str, str], bool] = field(default_factory=dict)


def grant(roles: Roles, fact: RoleGranted) -> Sequence[RoleEvent]:
    """A role that is held already is not given again."""
    return [] if roles.held.get((fact.role, fact.unit_code)) else [fact]


def withdraw(roles: Roles, fact: RoleWithdrawn) -> Sequence[RoleEvent]:
    """Also a role that this log never granted can be withdrawn: a token may have come from before it."""
    return [] if roles.held.get((fact.role, fact.unit_code)) is False else [fact]


def withdraw_all(roles: Roles, person_id: UUID) -> Sequence[RoleEvent]:
    """What an erasure takes: nobody acts as somebody whose data are gone. Who goes on working for the bureau comes as somebody new."""
    held = [{"role": role, "unit_code": unit_code} for (role, unit_code), is_held in sorted(roles.held.items()) if is_held]
    return [RoleWithdrawn.model_validate({"person_id": person_id, "reason": None, **each}) for each in held]


def evolve(roles: Roles, event: RoleEvent) -> Roles:
    """The fold of the stream."""
    return Roles({**roles.held, (event.role, event.unit_code): isinstance(event, RoleGranted)})
