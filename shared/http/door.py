"""The one way from the headers of a request to an `Actor`: who they are, as what they ask, and whether they hold that role now.

Roles are looked up in what registration's log has said (`consumer.withdrawals` keeps it), never believed of a token: one that was withdrawn
ends when that has been read, and what was never granted never counts.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from typing import Final
from uuid import UUID

from starlette.datastructures import Headers

from shared import logs
from shared.http.auth import Authenticator, Caller, acting
from shared.http.devices import Device
from shared.http.problems import ProblemError
from shared.networks import Address, is_within
from shared.permissions import GRANTED, Actor, Role, judge

ACTING_AS: Final = "acting-as"
"""The header that says as what somebody asks who holds several roles: `unit_admin@water-saving-office`."""

Roles = Mapping[tuple[str, str], bool]
"""What a person was ever granted, role and unit, and whether they hold it now."""

ROLE_CODES: Final = frozenset({"role_not_allowed", "role_not_held", "role_withdrawn", "role_ambiguous"})
"""What somebody is told who is known, and may not."""

_log = logs.logger()

_FURTHEST: Final = ("bureau", "unit", "own", "nothing")


DEVICE_PREFIX: Final = "lfd_"
"""How a device's key begins, so that one that was lost is found by who looks for such things."""
DEVICE_KEY_CHARACTERS: Final = 47
"""The prefix and 256 bits in URL-safe Base64."""


class Door:
    """Asks who comes. `roles_of` looks up what registration has granted a person, `device_of` a device by the digest of its key.

    `now` is the log's clock, by which a device's key was given.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        roles_of: Callable[[UUID], Awaitable[Roles]],
        device_of: Callable[[str], Awaitable[Device | None]],
        now: Callable[[], Awaitable[datetime]],
    ) -> None:
        self.authenticator = authenticator
        self._roles_of = roles_of
        self._device_of = device_of
        self._now = now

    async def actor(self, headers: Headers, roles: Collection[Role], source: Address | None = None) -> Actor:
        """Who asks for what `roles` may; `source` is from where, as far as that is known. Raises ProblemError (400, 401, 403)."""
        authorization = headers.get("authorization")
        if authorization is not None and (key := _device_key(authorization)) is not None:
            return await self._device(key, roles, source)
        caller = self.authenticator.caller(authorization)
        wanted = _wanted(headers.get(ACTING_AS), caller)
        if wanted is not None:
            return await self._as(Actor(caller.person_id, *wanted), roles, caller)
        held = await self._held(caller)
        may = [Actor(caller.person_id, Role(role), unit) for (role, unit), holds in held.items() if holds and role in roles]
        if not may and Role.VOLUNTEER in roles:
            return Actor(caller.person_id, Role.VOLUNTEER, "")
        furthest = min((_FURTHEST.index(each.reach) for each in may), default=0)
        may = [each for each in may if _FURTHEST.index(each.reach) == furthest]
        if len(may) > 1:
            raise ProblemError("role_ambiguous", roles=sorted(f"{each.role.value}@{each.unit}" for each in may))
        if not may:
            raise _refused(Role.VOLUNTEER, roles)
        return may[0]

    async def _device(self, key: str, roles: Collection[Role], source: Address | None) -> Actor:
        """A device acts as a kiosk of its unit, and as nothing else. Raises ProblemError (401, 403)."""
        if Role.KIOSK not in roles:
            raise _refused(Role.KIOSK, roles)
        device = await self._device_of(sha256(key.encode()).hexdigest())
        if device is None or len(key) != DEVICE_KEY_CHARACTERS:
            raise ProblemError("device_key_unknown")
        if device.is_revoked:
            raise ProblemError("device_key_revoked")
        if device.expires_at <= await self._now():
            raise ProblemError("device_key_expired")
        if device.networks and (source is None or not is_within(source, device.networks)):
            _log.warning("device_elsewhere", device=str(device.device_id), unit=device.unit)
            raise ProblemError("device_elsewhere")
        return Actor(device.device_id, Role.KIOSK, device.unit)

    async def _as(self, actor: Actor, roles: Collection[Role], caller: Caller) -> Actor:
        if judge(actor, roles) is not None:
            raise _refused(actor.role, roles)
        if actor.role not in GRANTED:
            return replace(actor, unit="")  # Nobody has looked whether it is theirs.
        held = (await self._held(caller)).get((actor.role.value, actor.unit))
        if not held:
            raise ProblemError("role_not_held" if held is None else "role_withdrawn", role=actor.role.value)
        return actor

    async def _held(self, caller: Caller) -> Roles:
        """What was granted, as far as the caller's token lets it count."""
        held = await self._roles_of(caller.person_id)
        if caller.vouched is None:
            return held
        return {(role, unit): holds for (role, unit), holds in held.items() if not holds or f"{role}@{unit}" in caller.vouched}


def _device_key(authorization: str) -> str | None:
    scheme, _, key = authorization.partition(" ")
    key = key.strip()
    return key if scheme.lower() == "bearer" and key.startswith(DEVICE_PREFIX) else None


def _wanted(header: str | None, caller: Caller) -> tuple[Role, str] | None:
    if header is None:
        return None if caller.role is None else (caller.role, caller.unit)
    role, _, unit = header.partition("@")
    try:
        return acting(role, unit)
    except ValueError:
        raise ProblemError("acting_as_invalid") from None


def _refused(role: Role, roles: Collection[Role]) -> ProblemError:
    return ProblemError("role_not_allowed", role=role.value, roles=sorted(each.value for each in roles))
