"""Bearer tokens: who asks (security.md 4.1). A token may say as which of their roles they ask; whether they hold it is looked up.

Algorithms by allow-list, keys only from the issuer's JWKS file, `typ`, `iss`, `aud`, `exp`, `nbf` and a lifetime of 15 minutes at most.
Instants here are the machine's, never the travelling clock's: a token is about real people at real time.
"""

import binascii
from base64 import urlsafe_b64decode
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite
from pathlib import Path
from time import monotonic, time
from typing import Any, Final
from uuid import UUID

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from pydantic_core import from_json

from shared.http.problems import ProblemError
from shared.permissions import Role

AUDIENCE: Final = "leifeng"
TYPE: Final = "at+jwt"
ALGORITHMS: Final = ("EdDSA", "Ed25519", "ES256")
TOKEN_BYTES_MAX: Final = 8 * 1024
LIFETIME_SECONDS_MAX: Final = 15 * 60
LEEWAY_SECONDS: Final = 30
UNIT_CHARACTERS_MAX: Final = 100
KEYS_REREAD_SECONDS: Final = 5.0
"""The JWKS file is looked at again at most this often; a rotated key counts without a restart."""
TOKENS_KEPT_MAX: Final = 10_000
"""Verified tokens that are known again by their hash; of more, those not used for longest are verified anew."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who somebody is, as their token says, and as what they want to act, where it says that too. Nothing here is a right."""

    person_id: UUID
    role: Role | None = None
    unit: str = ""


@dataclass(frozen=True, slots=True)
class _Verified:
    """What a token says; between which instants (seconds since 1970) it counts."""

    caller: Caller
    starts: float
    ends: float


class Authenticator:
    """Turns the header `Authorization` into a Caller. Raises ProblemError (401)."""

    def __init__(self, keys_file: Path, issuer: str, *, now: Callable[[], float] = time) -> None:
        self._keys_file = keys_file
        self._issuer = issuer
        self._now = now
        self._keys = self._read()
        self._stamp = self._changed_at()
        self._looked_at = monotonic()
        self._known: OrderedDict[bytes, _Verified] = OrderedDict()

    def caller(self, authorization: str | None) -> Caller:
        """Who asks. The token is judged whole before a word of it is believed."""
        scheme, _, token = (authorization or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise ProblemError("token_missing")
        if len(token) > TOKEN_BYTES_MAX:
            raise ProblemError("token_too_large")
        keys, name = self._current_keys(), sha256(token.encode()).digest()
        known = self._known.get(name)
        if known is None:
            known = self._judged(self._claims(token, keys))
            self._known[name] = known
            if len(self._known) > TOKENS_KEPT_MAX:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(name)
            self._judge_time(known.starts, known.ends)
        return known.caller

    def _judged(self, claims: dict[str, Any]) -> _Verified:
        issued, ends = _instant(claims, "iat"), _instant(claims, "exp")
        starts = max(issued, _instant(claims, "nbf")) if "nbf" in claims else issued
        if ends - issued > LIFETIME_SECONDS_MAX:
            raise ProblemError("token_invalid")
        self._judge_time(starts, ends)
        if claims.get("iss") != self._issuer or claims.get("aud") not in (AUDIENCE, [AUDIENCE]):
            raise ProblemError("token_invalid")
        return _Verified(_caller_of(claims), starts, ends)

    def _claims(self, token: str, keys: KeySet) -> dict[str, Any]:
        try:
            head = from_json(urlsafe_b64decode(token.partition(".")[0] + "=="))
            if not isinstance(head, dict) or str(head.get("typ", "")).lower() != TYPE or "crit" in head:
                raise ProblemError("token_invalid")
            # Whatever the header says of keys (jku, jwk, x5u) is not asked: the key set is ours, chosen by `kid`.
            return jwt.decode(token, keys, algorithms=ALGORITHMS).claims
        except (JoseError, ValueError, binascii.Error, RecursionError):
            raise ProblemError("token_invalid") from None

    def _judge_time(self, starts: float, ends: float) -> None:
        if not starts - LEEWAY_SECONDS <= self._now() <= ends + LEEWAY_SECONDS:
            raise ProblemError("token_expired")

    def _current_keys(self) -> KeySet:
        if monotonic() - self._looked_at > KEYS_REREAD_SECONDS:
            self._looked_at = monotonic()
            # A file that is just being replaced, or is broken, leaves the keys as they were until the next look.
            with suppress(OSError, ValueError, JoseError):
                stamp = self._changed_at()
                if stamp != self._stamp:
                    self._keys, self._stamp = self._read(), stamp
                    self._known.clear()  # A key that was taken out of the set opens nothing any more.
        return self._keys

    def _read(self) -> KeySet:
        return KeySet.import_key_set(from_json(self._keys_file.read_bytes()))

    def _changed_at(self) -> int:
        return self._keys_file.stat().st_mtime_ns


def _instant(claims: dict[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        raise ProblemError("token_invalid")
    return value


def _caller_of(claims: dict[str, Any]) -> Caller:
    person, role, unit = claims.get("sub"), claims.get("role"), claims.get("unit", "")
    try:
        return Caller(UUID(person), *acting(role, unit)) if role is not None else Caller(UUID(person))
    except (ValueError, TypeError, AttributeError):
        raise ProblemError("token_invalid") from None


def acting(role: Any, unit: Any) -> tuple[Role, str]:
    """A role that somebody may ask as, and its unit. Raises ValueError."""
    found = Role(role)
    if found in {Role.SYSTEM, Role.PUBLIC} or not isinstance(unit, str) or not 0 < len(unit) <= UNIT_CHARACTERS_MAX:
        raise ValueError(role)  # The service itself never comes through the door, and who has a token is somebody.
    return found, unit
