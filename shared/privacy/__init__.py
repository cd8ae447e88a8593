"""Personal fields sealed under a key per person (D12), wrapped by a key-encryption key from a file, destroyed for erasure.

A sealed text is `sealed:<algorithm>:<base64url of nonce and ciphertext>`, with the place of the text as associated data. The algorithm is
one of `ciphers.ALGORITHMS`: what new texts are sealed with is a setting, and all that was ever used is read.
"""

import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Sequence
from hashlib import sha256
from hmac import digest
from pathlib import Path
from time import monotonic
from typing import Any, Final
from uuid import UUID

from cryptography.exceptions import InvalidTag

from shared.contracts.event import SEALED_PREFIX
from shared.errors import CallerError, LeifengError
from shared.metrics import Metrics
from shared.migrate import MigrationSet
from shared.postgres import Connection, Pool
from shared.privacy.ciphers import ALGORITHMS, ID_OF, KEY_BYTES, NONCE_BYTES, Aead, CipherName
from shared.privacy.keyfile import KeyFile, KeyRing, name_of, ring_of

MIGRATIONS: Final = MigrationSet("privacy", Path(__file__).parent / "migrations")

CACHED_KEYS_MAX: Final = 10_000
CACHED_SECONDS_MAX: Final = 30.0
"""A key that another process has destroyed is forgotten here no later than this."""


class PersonErasedError(CallerError):
    """The person's key was destroyed: nothing about them can be written any more."""

    def __init__(self) -> None:
        super().__init__("the person's data was erased")


class KeyEncryptionError(LeifengError):
    """A person's key does not open under this key-encryption key: the wrong key file, or a damaged row."""


class _PersonsKey:
    """One person's key, ready for each algorithm that it meets."""

    __slots__ = ("_made", "_raw")

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._made: dict[str, Aead] = {}

    def by(self, algorithm: str) -> Aead:
        """Raises KeyError for an algorithm that is not known here."""
        found = self._made.get(algorithm)
        if found is None:
            found = self._made[algorithm] = ALGORITHMS[algorithm](self._raw)
        return found


async def is_there(subject: UUID, connection: Connection) -> bool:
    """Whether the person was not erased; nor are they before the caller's transaction ends. An erasure under way is waited for."""
    await connection.execute(_HOLD_KEY, subject)
    return not await connection.fetchval("SELECT keys.is_erased($1)", subject)  # A statement of its own: it sees what was waited for.


class PersonalKeys:
    """The keys of the persons of one service. Call `load` or `ensure` first; `seal` and `unseal` then need no database.

    `key_encryption_key` is the file of it, which may change while this lives, or one key that does not.
    """

    def __init__(
        self, pool: Pool, key_encryption_key: KeyFile | bytes, metrics: Metrics | None = None, cipher: CipherName = "aes-256-gcm"
    ) -> None:
        self._metrics = metrics
        self._pool = pool
        self._file = key_encryption_key if isinstance(key_encryption_key, KeyFile) else None
        self._only = None if isinstance(key_encryption_key, KeyFile) else ring_of(key_encryption_key)
        self._algorithm = ID_OF[cipher]
        self._index_key = self._ring.index_key
        self._wraps: dict[tuple[str, str], Aead] = {}
        self._known: dict[UUID, tuple[float, _PersonsKey | None]] = {}
        self._follows_lost: set[UUID] = set()

    @property
    def _ring(self) -> KeyRing:
        if self._file is not None:
            return self._file.ring
        assert self._only is not None
        return self._only

    async def ensure(self, subjects: Iterable[UUID]) -> None:
        """Makes the keys that are missing and loads all; they are committed before this returns. Raises PersonErasedError."""
        wanted = sorted(set(subjects))
        if not wanted:
            return
        missing = await self.load(wanted)
        if missing:
            fresh = [os.urandom(KEY_BYTES) for _ in missing]
            await self._pool.execute(_INSERT_KEYS, missing, *self._wrapped(missing, fresh))
            await self.load(missing)  # Somebody may have been quicker: theirs counts.
        if any(self._known[subject][1] is None for subject in wanted):
            raise PersonErasedError

    async def load(self, subjects: Iterable[UUID]) -> list[UUID]:
        """Loads the keys of `subjects`; the persons that have none. Raises KeyEncryptionError."""
        now = monotonic()
        wanted = [each for each in set(subjects) if each not in self._known or self._known[each][0] < now]
        if not wanted:
            return []
        return self._keep(wanted, await self._pool.fetch(_SELECT_KEYS, wanted))

    async def load_with(self, subjects: Iterable[UUID], connection: Connection | Pool) -> list[UUID]:
        """The same as the database says now, whatever this process remembers, and within the caller's transaction it stays so.

        Who writes clear values there is waited for by whoever destroys the key, and what was written is then found and cleared.
        """
        wanted = sorted(set(subjects))
        return self._keep(wanted, await connection.fetch(_LOCK_KEYS, wanted)) if wanted else []

    def _keep(self, wanted: list[UUID], rows: Sequence[Any]) -> list[UUID]:
        now = monotonic()
        if len(self._known) + len(rows) > CACHED_KEYS_MAX:
            self._known = {subject: kept for subject, kept in self._known.items() if kept[0] >= now}
            while len(self._known) + len(rows) > CACHED_KEYS_MAX and self._known:
                self._known.pop(next(iter(self._known)))
        for row in rows:
            key = None if row["wrapped"] is None else _PersonsKey(self._unwrapped(row))
            self._known[row["subject"]] = (now + CACHED_SECONDS_MAX, key)
            (self._follows_lost.add if row["follows_lost"] else self._follows_lost.discard)(row["subject"])
        found = {row["subject"] for row in rows}
        missing = [each for each in wanted if each not in found]
        for subject in missing:
            self._known.pop(subject, None)
        return missing

    def seal(self, subject: UUID, place: str, clear: str) -> str:
        """Seals one text about `subject`. Its key has been ensured."""
        key = self._known[subject][1]
        if key is None:
            raise PersonErasedError
        nonce = os.urandom(NONCE_BYTES)
        sealed = nonce + key.by(self._algorithm).encrypt(nonce, clear.encode(), place.encode())
        return f"{SEALED_PREFIX}{self._algorithm}:{urlsafe_b64encode(sealed).decode().rstrip('=')}"

    def unseal(self, subject: UUID, place: str, sealed: str) -> str | None:
        """Opens one text; None when there is no key (another service's person, or one who was erased), or when it went with a lost one.

        Raises ValueError for a text that its key does not open: it was changed, or moved from another place.
        """
        known = self._known.get(subject)
        if known is None or known[1] is None:
            return None
        algorithm, _, body = sealed.removeprefix(SEALED_PREFIX).partition(":")
        if algorithm not in ALGORITHMS:
            raise ValueError("sealed by an algorithm that is not known here")
        raw = urlsafe_b64decode(body + "=" * (-len(body) % 4))
        try:
            return known[1].by(algorithm).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], place.encode()).decode()
        except InvalidTag:
            if subject in self._follows_lost:
                return None
            raise ValueError("sealed text does not open") from None

    async def replace_lost(self, subjects: Iterable[UUID], connection: Connection) -> None:
        """Gives persons whose key was lost with a younger database another one, within the caller's transaction; see `follows_lost`.

        A person who has a key meanwhile keeps it, and a destroyed one stays destroyed.
        """
        wanted = sorted(set(subjects))
        await connection.execute(_REPLACE_LOST, wanted, *self._wrapped(wanted, [os.urandom(KEY_BYTES) for _ in wanted]))
        for subject in wanted:
            self._known.pop(subject, None)

    def blind(self, scope: str, text: str) -> str:
        """The keyed blind index of a personal value: equal texts give equal indexes, and nobody without the key can try them out."""
        return digest(self._index_key, f"{scope}\x00{text}".encode(), sha256).hex()

    async def destroy(self, subject: UUID, connection: Connection) -> None:
        """Destroys a person's key within the caller's transaction, and leaves a tombstone also where there never was a key."""
        await connection.execute(_DESTROY_KEY, subject, name_of(self._ring.current))
        self._known.pop(subject, None)

    async def rewrap(self, connection: Connection, rows_max: int) -> int:
        """Wraps up to `rows_max` keys that are wrapped by another key or cipher than new ones are by those; how many there were.

        `connection` is in a transaction. Raises KeyEncryptionError.
        """
        ring = self._ring
        rows = await connection.fetch(_SELECT_OTHERS, name_of(ring.current), self._algorithm, rows_max)
        subjects = [row["subject"] for row in rows]
        await connection.execute(_REWRAP, subjects, *self._wrapped(subjects, [self._unwrapped(row) for row in rows]))
        return len(rows)

    def _wrapped(self, subjects: Sequence[UUID], keys: Sequence[bytes]) -> tuple[list[bytes], str, str]:
        """The keys wrapped, under which key-encryption key, by which cipher."""
        ring = self._ring
        by = name_of(ring.current)
        wrap = self._wrap(ring, by, self._algorithm)
        wrapped: list[bytes] = []
        for subject, key in zip(subjects, keys, strict=True):
            nonce = os.urandom(NONCE_BYTES)
            wrapped.append(nonce + wrap.encrypt(nonce, key, subject.bytes))
        return wrapped, by, self._algorithm

    def _unwrapped(self, row: Any) -> bytes:
        ring, by = self._ring, row["wrapped_by"]
        if by not in ring.by_name and self._file is not None:
            ring = self._file.look()  # A new key is in the file, and somebody has seen it first.
        if by in ring.by_name and row["wrapped_with"] in ALGORITHMS:
            wrapped: bytes = row["wrapped"]
            try:
                return self._wrap(ring, by, row["wrapped_with"]).decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], row["subject"].bytes)
            except InvalidTag:
                pass
        if self._metrics is not None:
            self._metrics.key_unwrap_failures_total.inc()
        raise KeyEncryptionError("a person's key does not open: is this the right key file?")

    def _wrap(self, ring: KeyRing, by: str, algorithm: str) -> Aead:
        found = self._wraps.get((by, algorithm))
        if found is None:
            found = self._wraps[by, algorithm] = ALGORITHMS[algorithm](ring.by_name[by])
        return found


_SELECT_KEYS: Final = """
    SELECT subject, wrapped, wrapped_by, wrapped_with, follows_lost FROM keys.person WHERE subject = ANY($1::uuid[])
"""
_LOCK_KEYS: Final = _SELECT_KEYS + "ORDER BY subject FOR SHARE"
_SELECT_OTHERS: Final = """
    SELECT subject, wrapped, wrapped_by, wrapped_with FROM keys.person
    WHERE wrapped IS NOT NULL AND (wrapped_by, wrapped_with) <> ($1, $2) ORDER BY subject LIMIT $3 FOR UPDATE
"""
_REWRAP: Final = """
    UPDATE keys.person SET wrapped = fresh.wrapped, wrapped_by = $3, wrapped_with = $4
    FROM unnest($1::uuid[], $2::bytea[]) AS fresh (subject, wrapped) WHERE person.subject = fresh.subject
"""
_HOLD_KEY: Final = "SELECT FROM keys.person WHERE subject = $1 FOR SHARE"
_INSERT_KEYS: Final = """
    INSERT INTO keys.person (subject, wrapped, wrapped_by, wrapped_with)
    SELECT subject, wrapped, $3, $4 FROM unnest($1::uuid[], $2::bytea[]) AS fresh (subject, wrapped)
    ON CONFLICT (subject) DO NOTHING
"""
_REPLACE_LOST: Final = """
    INSERT INTO keys.person (subject, wrapped, wrapped_by, wrapped_with, follows_lost)
    SELECT subject, wrapped, $3, $4, true FROM unnest($1::uuid[], $2::bytea[]) AS fresh (subject, wrapped)
    ON CONFLICT (subject) DO UPDATE SET follows_lost = true WHERE keys.person.wrapped IS NOT NULL
"""
_DESTROY_KEY: Final = """
    INSERT INTO keys.person (subject, wrapped, wrapped_by, destroyed_at) VALUES ($1, NULL, $2, clock_timestamp())
    ON CONFLICT (subject) DO UPDATE SET wrapped = NULL, destroyed_at = coalesce(keys.person.destroyed_at, excluded.destroyed_at)
"""
