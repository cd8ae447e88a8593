"""Passwords and keys of a local stack: random, made once, in files that only their owner can read.

They never reach a command line or a log.
"""

import base64
import contextlib
import json
import os
import secrets
import time
import uuid
from pathlib import Path
from typing import Any, Final

from joserfc import jwt
from joserfc.jwk import ECKey

from deploy.local.trouble import Trouble

AUDIENCE: Final = "leifeng"
LIFETIME_SECONDS_MAX: Final = 15 * 60
_PEOPLE: Final = uuid.UUID("5f0d6f0a-6d3d-4c5e-9d0a-6f1a86e0b5d3")


class Keys:
    """The secrets below one folder. What is asked for and is not there is made."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)

    def admin_password(self) -> str:
        """PostgreSQL's superuser."""
        return self._kept("postgres-admin", secrets.token_hex(24))

    def database_password(self, service: str) -> str:
        """The role that owns a service's database."""
        return self._kept(f"postgres-{service}", secrets.token_hex(24))

    def database_password_file(self, service: str) -> Path:
        """Where that is kept."""
        self.database_password(service)
        return self._directory / f"postgres-{service}"

    def login_file(self, login: str) -> Path:
        """Where the password of an SQL login is kept; the service's command `logins add` writes it."""
        return self._directory / f"postgres-login-{login}"

    def cluster_id(self) -> str:
        """Kafka's, for a broker that we do not format ourselves."""
        return self._kept("kafka-cluster-id", base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A"))

    def encryption_key_file(self, service: str) -> Path:
        """The key that wraps the personal keys of a service: 32 random bytes as hexadecimal digits."""
        name = f"{service}.key"
        self._kept(name, secrets.token_hex(32))
        return self._directory / name

    @property
    def issuer_private_file(self) -> Path:
        """The local token issuer's private key, a JWK."""
        self._make_issuer()
        return self._directory / "issuer-private.json"

    @property
    def issuer_public_file(self) -> Path:
        """Its public key, a JWKS."""
        self._make_issuer()
        return self._directory / "issuer-public.json"

    def _make_issuer(self) -> None:
        private, public = self._directory / "issuer-private.json", self._directory / "issuer-public.json"
        if not private.exists():
            made = ECKey.generate_key("P-256", {"use": "sig", "alg": "ES256", "kid": secrets.token_hex(8)}, private=True)
            self._kept(private.name, json.dumps(made.as_dict(private=True)))
        if not public.exists():
            key = ECKey.import_key(json.loads(private.read_text(encoding="ascii")))
            self._kept(public.name, json.dumps({"keys": [key.as_dict(private=False)]}))

    def _kept(self, name: str, fresh: str) -> str:
        """What the file says; `fresh` when there is none yet. Appears whole or not at all, and is never replaced."""
        file = self._directory / name
        if not file.exists():
            new = self._directory / f".{name}.{os.getpid()}"
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as out:  # noqa: PTH123  # Closed from the start.
                out.write(fresh + "\n")
            with contextlib.suppress(FileExistsError):  # Somebody was quicker: theirs counts.
                file.hardlink_to(new)
            new.unlink()
        return file.read_text(encoding="ascii").strip()


def person_id(name: str) -> uuid.UUID:
    """The id of an invented person of the local stack: the same name is the same person. A UUID stands for itself."""
    try:
        return uuid.UUID(name)
    except ValueError:
        return uuid.uuid5(_PEOPLE, name)


def issue_token(keys: Keys, issuer: str, *, person: uuid.UUID, role: str, unit: str, minutes: float = 15) -> str:
    """A bearer token for one person in one role for one unit, signed by the local issuer.

    Raises Trouble: unknown role, more than 15 minutes.
    """
    from shared.permissions import Role  # Late: the supervisor needs nothing of the services, and stays small.

    seconds = int(minutes * 60)
    if not 0 < seconds <= LIFETIME_SECONDS_MAX:
        raise Trouble(f"a token lives up to {LIFETIME_SECONDS_MAX // 60} minutes, not {minutes:g}")
    known = [one.value for one in Role if one not in {Role.SYSTEM, Role.PUBLIC}]
    if role not in known:
        raise Trouble(f"{role} is no role: choose one of {', '.join(known)}")
    key = ECKey.import_key(json.loads(keys.issuer_private_file.read_text(encoding="ascii")))
    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": issuer,
        "aud": AUDIENCE,
        "sub": str(person),
        "role": role,
        "unit": unit,
        "iat": now,
        "exp": now + seconds,
        "jti": str(uuid.uuid4()),
    }
    return jwt.encode({"typ": "at+jwt", "alg": "ES256", "kid": key.kid}, claims, key, algorithms=["ES256"])
