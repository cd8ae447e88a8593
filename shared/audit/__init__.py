"""Reads of personal data, written down before anything is handed out: who, about whom, which fields, why. One hash chain a service."""

from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal
from uuid import UUID

from shared.audit.heads import ChainHead
from shared.migrate import MigrationSet
from shared.permissions import Actor
from shared.postgres import Connection, Pool

MIGRATIONS: Final = MigrationSet("audit", Path(__file__).parent / "migrations")

CHAIN_START: Final = bytes(32)
_PAGE_ROWS_MAX: Final = 1000


RevealReason = Literal["identity_check", "contact", "correction", "certificate", "complaint", "authority_request"]
ReadReason = Literal["list", "own copy", "copy for the person", RevealReason]
"""Why somebody reads, as a code: what is written down here stays for ever and is read by auditors, so it takes nobody's own words."""


@dataclass(frozen=True, slots=True)
class PersonalRead:
    """What is about to be read: by whom, about whom, which fields, through which door (`what`), and why."""

    actor: Actor
    subjects: Sequence[UUID]
    fields: Sequence[str]
    what: str
    reason: ReadReason


NoteRead = Callable[[PersonalRead], Coroutine[Any, Any, int]]
"""Writes a read down and commits; its number. Nothing is handed out when it raises."""


def noting(pool: Pool) -> NoteRead:
    """The `NoteRead` of a running service; `pool` acts as the app role."""

    async def note(read: PersonalRead) -> int:
        actor = read.actor
        subjects = sorted(set(read.subjects))
        number: int = await pool.fetchval(
            _NOTE, actor.person_id, actor.role.value, actor.unit, subjects, list(read.fields), read.what, read.reason
        )
        return number

    return note


@dataclass(frozen=True, slots=True)
class Chain:
    """How far the chain goes, and the first number from which on it is not what was written, with what is wrong there.

    `agreed` is the last number at which it is what was said of it outside the database.
    """

    rows: int
    broken_at: int | None = None
    what: str = ""
    agreed: int = 0


async def check(connection: Connection, published: Iterable[ChainHead] = ()) -> Chain:
    """Counts the chain from its start, and holds it against what was `published` of its head; `connection` is the owner's."""
    said: dict[int, set[str]] = {}
    for head in published:
        said.setdefault(head.number, set()).add(head.hash)
    number, digest, at, agreed = 0, CHAIN_START, datetime.min.replace(tzinfo=UTC), 0
    while rows := await connection.fetch(_PAGE, number, _PAGE_ROWS_MAX):
        for row in rows:
            if row["number"] != number + 1:
                return Chain(number, number + 1, "the row is missing", agreed)
            digest = _hash_of(digest, row)
            if row["hash"] != digest:
                return Chain(number, row["number"], "the row, or one before it, is not what was written", agreed)
            if row["at"] < at:
                return Chain(number, row["number"], "it is older than the row before", agreed)
            number, at = row["number"], row["at"]
            if number in said:
                if said[number] != {digest.hex()}:
                    what = f"a row up to {number} was changed, and the chain written anew: another hash was published for it"
                    return Chain(number, agreed + 1, what, agreed)
                agreed = number
    last = max(said, default=0)
    if last > number:
        return Chain(number, number + 1, f"the rows up to {last} are cut off: the head was published with that number", agreed)
    return Chain(number, agreed=agreed)


def _hash_of(previous: bytes, row: Any) -> bytes:
    parts = (
        str(row["number"]), f"{row['at'].astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}", str(row["actor"]), row["role"], row["unit"],
        ",".join(map(str, row["subjects"])), ",".join(row["fields"]), row["what"], row["reason"],
    )  # fmt: skip
    said = b"".join(b"%d:%s" % (len(each), each) for each in (part.encode() for part in parts))
    return sha256(previous + said).digest()


_NOTE: Final = "SELECT audit.note($1, $2, $3, $4::uuid[], $5::text[], $6, $7)"
_PAGE: Final = """
    SELECT number, at, actor, role, unit, subjects, fields, what, reason, hash FROM audit.read WHERE number > $1 ORDER BY number LIMIT $2
"""
