"""Signs the installation's own tokens: fifteen minutes for one person, as what they ask where they chose that."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any, Final
from uuid import UUID, uuid4

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey

from shared.followed import Followed
from shared.http.auth import AUDIENCE, LIFETIME_SECONDS_MAX
from shared.settings import SettingsError, read_secret

ROLES_MAX: Final = 50
"""So that the token fits into a cookie. Who holds more chooses one."""
_ALGORITHMS: Final = {"EC": "ES256", "OKP": "Ed25519"}


@dataclass(frozen=True, slots=True)
class _Key:
    """What signs, and the header that says so."""

    key: ECKey | OKPKey
    head: Mapping[str, str]


class Signer:
    """Signs with the private key of a file, which may change. Raises SettingsError where it is no such key, or is open to everybody."""

    def __init__(self, key_file: Path, issuer: str) -> None:
        self._issuer = issuer
        self._file = Followed(key_file, _read, SettingsError)

    def sign(self, person_id: UUID, acting: tuple[str, str] | None, held: Collection[tuple[str, str]]) -> str:
        """A token that counts from now on: for one role, or for those that the person holds."""
        signing = self._file.current()
        now = int(time())
        claims: dict[str, Any] = {"iss": self._issuer, "aud": AUDIENCE, "sub": str(person_id)}
        claims |= {"iat": now, "exp": now + LIFETIME_SECONDS_MAX, "jti": str(uuid4())}
        claims["roles"] = [f"{role}@{unit}" for role, unit in sorted(held)[:ROLES_MAX]]
        if acting is not None:
            claims |= {"role": acting[0], "unit": acting[1]}
        return jwt.encode(dict(signing.head), claims, signing.key, algorithms=[signing.head["alg"]])


def _read(key_file: Path) -> _Key:
    try:
        said = json.loads(read_secret(key_file))
        key: ECKey | OKPKey = (ECKey if said["kty"] == "EC" else OKPKey).import_key(said)
        if not key.is_private:
            raise SettingsError(f"{key_file.name} holds a public key, and signing needs the private one")
        return _Key(key, {"typ": "at+jwt", "alg": _ALGORITHMS[said["kty"]], "kid": said["kid"]})
    except (ValueError, KeyError, TypeError, JoseError) as error:
        raise SettingsError(f"{key_file.name} holds no signing key: {type(error).__name__}") from None
