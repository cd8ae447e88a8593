"""Who was erased, in a list outside the database: so that neither an older copy of the database nor of Kafka brings anybody back.

The list names nobody: a line for each person, by the random id under which the services know them. It only grows; what stands in it and
not in the database was erased after the copy that the database was restored from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError

from shared.codec import Codec
from shared.consumer.values import Consumers
from shared.consumer.withdrawals import clear_person
from shared.errors import LeifengError
from shared.postgres import Connection
from shared.privacy import PersonalKeys
from shared.privacy.keyfile import write_secret


class ErasureListError(LeifengError):
    """The list cannot be read, or is another service's; nothing was changed."""


class Erased(BaseModel):
    """One line: a person whose key this service destroyed, and when."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    service: str
    subject: UUID
    at: datetime


@dataclass(frozen=True, slots=True)
class Compared:
    """How list and database differ: who stands in the database only, and whose key is there although it was destroyed by the list."""

    listed: int
    missing: Sequence[UUID]
    revived: Sequence[UUID]


def read_list(path: Path, service: str) -> dict[UUID, Erased]:
    """The list by person; empty where there is no file yet. Raises ErasureListError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        found = [Erased.model_validate_json(line) for line in lines if line.strip()]
    except (OSError, ValueError, ValidationError) as error:
        raise ErasureListError(f"{path.name} is no list of erasures ({type(error).__name__})") from None
    others = {each.service for each in found} - {service}
    if others:
        raise ErasureListError(f"{path.name} is the list of {', '.join(sorted(others))}")
    return {each.subject: each for each in found}


async def export(connection: Connection, service: str, path: Path) -> tuple[int, int]:
    """Brings the list up to the database; how many it holds, and how many of these are new. Raises ErasureListError."""
    known = read_list(path, service)
    destroyed = await connection.fetch(_DESTROYED)
    fresh = [Erased(service=service, subject=row["subject"], at=row["at"]) for row in destroyed if row["subject"] not in known]
    every = sorted([*known.values(), *fresh], key=lambda each: (each.at, each.subject))
    try:
        write_secret(path, "".join(f"{each.model_dump_json()}\n" for each in every))
    except OSError as error:
        raise ErasureListError(f"{path.name} could not be written ({type(error).__name__}): it is as it was") from None
    return len(every), len(fresh)


async def compare(connection: Connection, service: str, path: Path) -> Compared:
    """Holds the list against the database. Raises ErasureListError."""
    known = read_list(path, service)
    destroyed = {row["subject"] for row in await connection.fetch(_DESTROYED)}
    return Compared(len(known), sorted(destroyed - known.keys()), sorted(known.keys() - destroyed))


async def apply(connection: Connection, keys: PersonalKeys, consumers: Consumers[Any], codec: Codec, path: Path) -> Sequence[UUID]:
    """Destroys again what the list says was destroyed, and empties what is shown of these persons; who they were. May be run again.

    `connection` acts as the app role. Raises ErasureListError.
    """
    service = consumers.service
    revived = (await compare(connection, service, path)).revived
    for person in revived:
        async with connection.transaction():
            await keys.destroy(person, connection)
            await connection.execute(_WITHDRAWN, person)
            await clear_person(connection, person, consumers, codec)
    return revived


_DESTROYED: Final = "SELECT subject, destroyed_at AS at FROM keys.person WHERE destroyed_at IS NOT NULL ORDER BY destroyed_at, subject"
# The position of the erasure went with the log's tail: it hides all that stands in the log as it is now.
_WITHDRAWN: Final = """
    INSERT INTO consumer.withdrawn (subject, kind, position)
    SELECT $1, 'person', coalesce(max(applied), 0) + 1 FROM consumer.position WHERE consumer = 'withdrawals' AND log = 'registration'
    ON CONFLICT (subject, kind) DO UPDATE SET position = greatest(withdrawn.position, excluded.position)
"""
