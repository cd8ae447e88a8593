"""Personal fields sealed under a key per person (D12): AES-256-GCM, keys wrapped by a key-encryption key, destroyed for erasure.

A sealed text is `sealed:a1:<base64url of nonce and ciphertext>`; `a1` names the algorithm, so that another can follow.
"""

import hmac
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.contracts.event import SEALED_PREFIX
from shared.errors import CallerError, LeifengError
from shared.metrics import Metrics
from shared.migrate import MigrationSet
from shared.postgres import Connection, Pool

MIGRATIONS: Final = MigrationSet("privacy", Path(__file__).parent / "migrations")

ALGORITHM: Final = "a1"
"""AES-256-GCM with a random nonce of 96 bits, the place of the text as associated data."""
NONCE_BYTES: Final = 12
KEY_BYTES: Final = 32
CACHED_KEYS_MAX: Final = 10_000
CACHED_SECONDS_MAX: Final = 30.0
"""A key that another process has destroyed is forgotten here no later than this."""

_PREFIX: Final = f"{SEALED_PREFIX}{ALGORITHM}:"


class PersonErasedError(CallerError):
    """The person's key was destroyed: nothing about them can be written any more."""

    def __init__(self) -> None:
        super().__init__("the person's data was erased")


class KeyEncryptionError(LeifengError):
    """A person's key does not open under this key-encryption key: the wrong key file, or a damaged row."""


class PersonalKeys:
    """The keys of the persons of one service. Call `load` or `ensure` first; `seal` and `unseal` then need no database."""

    def __init__(self, pool: Pool, key_encryption_key: bytes, metrics: Metrics | None = None) -> None:
        self._metrics = metrics
        self._pool = pool
        self._wrap = AESGCM(key_encryption_key)
        self._wrapped_by = sha256(b"leifeng key-encryption key" + key_encryption_key).hexdigest()[:16]
        self._index_key = hmac.digest(key_encryption_key, b"leifeng blind index", sha256)
        self._known: dict[UUID, tuple[float, AESGCM | None]] = {}
        self._follows_lost: set[UUID] = set()

    async def ensure(self, subjects: Iterable[UUID]) -> None:
        """Makes the keys that are missing and loads all; they are committed before this returns. Raises PersonErasedError."""
        wanted = sorted(set(subjects))
        if not wanted:
            return
        missing = await self.load(wanted)
        if missing:
            fresh = [os.urandom(KEY_BYTES) for _ in missing]
            wrapped = [self._wrapped(subject, key) for subject, key in zip(missing, fresh, strict=True)]
            await self._pool.execute(_INSERT_KEYS, missing, wrapped, self._wrapped_by)
            await self.load(missing)  # Somebody may have been quicker: theirs counts.
        if any(self._known[subject][1] is None for subject in wanted):
            raise PersonErasedError

    async def load(self, subjects: Iterable[UUID], connection: Connection | None = None) -> list[UUID]:
        """Loads the keys of `subjects`; the persons that have none. Raises KeyEncryptionError."""
        now = monotonic()
        wanted = [each for each in set(subjects) if each not in self._known or self._known[each][0] < now]
        if not wanted:
            return []
        rows = await (connection or self._pool).fetch(_SELECT_KEYS, wanted)
        if len(self._known) + len(rows) > CACHED_KEYS_MAX:
            self._known = {subject: kept for subject, kept in self._known.items() if kept[0] >= now}
            while len(self._known) + len(rows) > CACHED_KEYS_MAX and self._known:
                self._known.pop(next(iter(self._known)))
        for row in rows:
            key = None if row["wrapped"] is None else AESGCM(self._unwrapped(row["subject"], row["wrapped"]))
            self._known[row["subject"]] = (now + CACHED_SECONDS_MAX, key)
            (self._follows_lost.add if row["follows_lost"] else self._follows_lost.discard)(row["subject"])
        found = {row["subject"] for row in rows}
        return [each for each in wanted if each not in found]

    def seal(self, subject: UUID, place: str, clear: str) -> str:
        """Seals one text about `subject`. Its key has been ensured."""
        key = self._known[subject][1]
        if key is None:
            raise PersonErasedError
        nonce = os.urandom(NONCE_BYTES)
        sealed = nonce + key.encrypt(nonce, clear.encode(), place.encode())
        return _PREFIX + urlsafe_b64encode(sealed).decode().rstrip("=")

    def unseal(self, subject: UUID, place: str, sealed: str) -> str | None:
        """Opens one text; None when there is no key (another service's person, or one who was erased), or when it went with a lost one.

        Raises ValueError for a text that its key does not open: it was changed, or moved from another place.
        """
        known = self._known.get(subject)
        if known is None or known[1] is None:
            return None
        if not sealed.startswith(_PREFIX):
            raise ValueError("sealed by an algorithm that is not known here")
        body = sealed.removeprefix(_PREFIX)
        raw = urlsafe_b64decode(body + "=" * (-len(body) % 4))
        try:
            return known[1].decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], place.encode()).decode()
        except InvalidTag:
            if subject in self._follows_lost:
                return None
            raise ValueError("sealed text does not open") from None

    async def replace_lost(self, subjects: Iterable[UUID], connection: Connection) -> None:
        """Gives persons whose key was lost with a younger database another one, within the caller's transaction; see `follows_lost`.

        A person who has a key meanwhile keeps it, and a destroyed one stays destroyed.
        """
        wanted = sorted(set(subjects))
        wrapped = [self._wrapped(subject, os.urandom(KEY_BYTES)) for subject in wanted]
        await connection.execute(_REPLACE_LOST, wanted, wrapped, self._wrapped_by)
        for subject in wanted:
            self._known.pop(subject, None)

    def blind(self, scope: str, text: str) -> str:
        """The keyed blind index of a personal value: equal texts give equal indexes, and nobody without the key can try them out."""
        return hmac.digest(self._index_key, f"{scope}\x00{text}".encode(), sha256).hex()

    async def destroy(self, subject: UUID, connection: Connection) -> None:
        """Destroys a person's key within the caller's transaction, and leaves a tombstone also where there never was a key."""
        await connection.execute(_DESTROY_KEY, subject, self._wrapped_by)
        self._known.pop(subject, None)

    def _wrapped(self, subject: UUID, key: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._wrap.encrypt(nonce, key, subject.bytes)

    def _unwrapped(self, subject: UUID, wrapped: bytes) -> bytes:
        try:
            return self._wrap.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], subject.bytes)
        except InvalidTag:
            if self._metrics is not None:
                self._metrics.key_unwrap_failures_total.inc()
            raise KeyEncryptionError("a person's key does not open: is this the right key file?") from None


_SELECT_KEYS: Final = "SELECT subject, wrapped, follows_lost FROM keys.person WHERE subject = ANY($1::uuid[])"
_INSERT_KEYS: Final = """
    INSERT INTO keys.person (subject, wrapped, wrapped_by)
    SELECT subject, wrapped, $3 FROM unnest($1::uuid[], $2::bytea[]) AS fresh (subject, wrapped)
    ON CONFLICT (subject) DO NOTHING
"""
_REPLACE_LOST: Final = """
    INSERT INTO keys.person (subject, wrapped, wrapped_by, follows_lost)
    SELECT subject, wrapped, $3, true FROM unnest($1::uuid[], $2::bytea[]) AS fresh (subject, wrapped)
    ON CONFLICT (subject) DO UPDATE SET follows_lost = true WHERE keys.person.wrapped IS NOT NULL
"""
_DESTROY_KEY: Final = """
    INSERT INTO keys.person (subject, wrapped, wrapped_by, destroyed_at) VALUES ($1, NULL, $2, clock_timestamp())
    ON CONFLICT (subject) DO UPDATE SET wrapped = NULL, destroyed_at = coalesce(keys.person.destroyed_at, excluded.destroyed_at)
"""
