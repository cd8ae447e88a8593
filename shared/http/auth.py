"""Tokens: who asks (security.md 4.1). A token may say as which of their roles they ask; whether they hold it is looked up.

Algorithms by allow-list, keys only from the configured issuer, `typ`, `iss`, `aud`, `exp`, `nbf` and a lifetime of 15 minutes at most.
Instants here are the machine's, never the travelling clock's: a token is about real people at real time.
"""

import binascii
from base64 import urlsafe_b64decode
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from math import isfinite
from pathlib import Path
from time import time
from typing import Any, Final
from uuid import UUID

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from pydantic_core import from_json

from shared.followed import Followed
from shared.http.problems import ProblemError
from shared.permissions import Role

AUDIENCE: Final = "leifeng"
TYPES: Final = frozenset({"at+jwt", "application/at+jwt"})
ALGORITHMS: Final = ("EdDSA", "Ed25519", "ES256")
TOKEN_BYTES_MAX: Final = 8 * 1024
LIFETIME_SECONDS_MAX: Final = 15 * 60
LEEWAY_SECONDS: Final = 30
UNIT_CHARACTERS_MAX: Final = 100
TOKENS_KEPT_MAX: Final = 10_000
"""Verified tokens that are known again by their hash; of more, those not used for longest are verified anew."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who somebody is, as their token says, and as what they want to act, where it says that too. Nothing here is a right.

    `vouched` are the roles (with units) that they held when our own issuer made the token, where it says so: no other counts by this token,
    so that a role which was withdrawn ends with it even where nothing more is heard of the withdrawal.
    """

    person_id: UUID
    role: Role | None = None
    unit: str = ""
    vouched: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Issuer:
    """Whose tokens are believed: the name in `iss`, its keys as they are now, for which audience, in which algorithms.

    `person_of` makes a person's id of `sub`, and raises ValueError. `names_roles`: its tokens may say a role and unit, as our own do.
    `missed` hears of each token that none of the keys has signed: there may be newer ones.
    """

    name: str
    keys: Callable[[], KeySet]
    audience: str
    algorithms: Sequence[str]
    person_of: Callable[[str], UUID]
    names_roles: bool = False
    missed: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class _Verified:
    """What a token says; between which instants (seconds since 1970) it counts, and by which keys of whom."""

    caller: Caller
    starts: float
    ends: float
    issuer: Issuer
    keys: KeySet


class Authenticator:
    """Turns the header `Authorization` into a Caller. Raises ProblemError (401)."""

    def __init__(self, *issuers: Issuer, now: Callable[[], float] = time) -> None:
        self._issuers = {each.name: each for each in issuers}
        self._now = now
        self._known: OrderedDict[bytes, _Verified] = OrderedDict()

    def caller(self, authorization: str | None) -> Caller:
        """Who asks. The token is judged whole before a word of it is believed, but for the name of the issuer who must have signed it."""
        scheme, _, token = (authorization or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise ProblemError("token_missing")
        if len(token) > TOKEN_BYTES_MAX:
            raise ProblemError("token_too_large")
        name = sha256(token.encode()).digest()
        known = self._known.get(name)
        # A set of keys that was read anew is another one: what a key opened that was taken out is not known any more.
        if known is None or known.issuer.keys() is not known.keys:
            known = self._known[name] = self._judged(token)
            if len(self._known) > TOKENS_KEPT_MAX:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(name)
            judge_time(known.starts, known.ends, self._now())
        return known.caller

    def _judged(self, token: str) -> _Verified:
        issuer = self._issuers.get(_said_issuer(token))
        if issuer is None:
            raise ProblemError("token_invalid")
        keys = issuer.keys()
        try:
            claims = verified(token, keys, issuer.algorithms, TYPES)
        except ProblemError:
            issuer.missed()
            raise
        starts, ends = times_of(claims)
        judge_time(starts, ends, self._now())
        if claims.get("iss") != issuer.name or claims.get("aud") not in (issuer.audience, [issuer.audience]):
            raise ProblemError("token_invalid")
        try:
            person_id = issuer.person_of(claims["sub"])
            role = claims.get("role") if issuer.names_roles else None
            vouched = claims.get("roles") if issuer.names_roles else None
            caller = Caller(person_id) if role is None else Caller(person_id, *acting(role, claims.get("unit")))
            caller = caller if vouched is None else replace(caller, vouched=frozenset(str(each) for each in vouched))
        except (KeyError, ValueError, TypeError, AttributeError):
            raise ProblemError("token_invalid") from None
        return _Verified(caller, starts, ends, issuer, keys)


def verified(token: str, keys: KeySet, algorithms: Sequence[str], types: Collection[str]) -> dict[str, Any]:
    """The claims of a token that one of these keys has signed. Nothing else is judged. Raises ProblemError `token_invalid`."""
    try:
        head = from_json(urlsafe_b64decode(token.partition(".")[0] + "=="))
        if not isinstance(head, dict) or str(head.get("typ", "")).lower() not in types or "crit" in head:
            raise ProblemError("token_invalid")
        # Whatever the header says of keys (jku, jwk, x5u) is not asked: the key set is ours, chosen by `kid`.
        return jwt.decode(token, keys, algorithms=algorithms).claims
    except (JoseError, ValueError, binascii.Error, RecursionError):
        raise ProblemError("token_invalid") from None


def times_of(claims: dict[str, Any], lifetime_seconds_max: float = LIFETIME_SECONDS_MAX) -> tuple[float, float]:
    """From when and until when a token counts, in seconds since 1970. Raises ProblemError where it does not say, or is too long."""
    issued, ends = _instant(claims, "iat"), _instant(claims, "exp")
    if ends - issued > lifetime_seconds_max:
        raise ProblemError("token_invalid")
    return max(issued, _instant(claims, "nbf")) if "nbf" in claims else issued, ends


def judge_time(starts: float, ends: float, now: float) -> None:
    """Raises ProblemError for a token that is over, or does not count yet."""
    if not starts - LEEWAY_SECONDS <= now <= ends + LEEWAY_SECONDS:
        raise ProblemError("token_expired")


def acting(role: Any, unit: Any) -> tuple[Role, str]:
    """A role that somebody may ask as, and its unit. Raises ValueError."""
    found = Role(role)
    if found in {Role.SYSTEM, Role.PUBLIC} or not isinstance(unit, str) or not 0 < len(unit) <= UNIT_CHARACTERS_MAX:
        raise ValueError(role)  # The service itself never comes through the door, and who has a token is somebody.
    return found, unit


def own_issuer(keys_file: Path, name: str) -> Issuer:
    """The installation's own issuer: public keys in a JWKS file, `sub` a person's id. Raises OSError, ValueError, JoseError."""
    return Issuer(name, Followed(keys_file, _key_set, ValueError, JoseError).current, AUDIENCE, ALGORITHMS, UUID, names_roles=True)


def _key_set(path: Path) -> KeySet:
    return KeySet.import_key_set(from_json(path.read_bytes()))


def _said_issuer(token: str) -> str:
    """Which issuer a token says it is of: it chooses the keys, and is believed when one of them has signed it. Raises ProblemError."""
    try:
        said = from_json(urlsafe_b64decode(token.split(".")[1] + "=="))
        issuer = said["iss"]
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error, RecursionError):
        raise ProblemError("token_invalid") from None
    if not isinstance(issuer, str):
        raise ProblemError("token_invalid")
    return issuer


def _instant(claims: dict[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        raise ProblemError("token_invalid")
    return value
