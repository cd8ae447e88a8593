"""The head of the chain of reads, said outside the database: with the log's heads on Kafka, and once a day in a file on another disk.

Who owns the database can cut the chain's tail off, or write the whole chain anew so that it fits itself. What was said outside before
stays, and `verify` holds the chain against it. The file only grows, a line a day, and names nobody.
"""

import asyncio
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from shared import logs
from shared.clock import civil_date
from shared.errors import LeifengError
from shared.postgres import Connection, Pool

_log = logs.logger()


class ReadsFileError(LeifengError):
    """The file cannot be read or written, or is another service's; it is as it was."""


class ChainHead(BaseModel):
    """How far the chain went, and the hash there, in hexadecimal digits."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    number: int
    hash: str


class PublishedHead(ChainHead):
    """One line of the file."""

    service: str
    at: AwareDatetime


def read_file(path: Path, service: str) -> Sequence[PublishedHead]:
    """The lines; none where there is no file yet. Raises ReadsFileError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        found = [PublishedHead.model_validate_json(line) for line in lines if line.strip()]
    except (OSError, ValueError, ValidationError) as error:
        raise ReadsFileError(f"{path.name} is no list of published heads ({type(error).__name__})") from None
    others = {each.service for each in found} - {service}
    if others:
        raise ReadsFileError(f"{path.name} is the list of {', '.join(sorted(others))}")
    return found


def append(path: Path, service: str, head: ChainHead, at: datetime) -> None:
    """Adds a line, which is on the disk when this returns. Raises ReadsFileError."""
    read_file(path, service)
    line = PublishedHead(service=service, number=head.number, hash=head.hash, at=at).model_dump_json()
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "w", encoding="utf-8") as file:
            file.write(f"{line}\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ReadsFileError(f"{path.name} could not be written ({type(error).__name__})") from None


async def head_of(connection: Connection | Pool) -> ChainHead | None:
    """The chain's head, None before anything was read."""
    row = await connection.fetchrow("SELECT number, hash FROM audit.head()")
    return None if row is None else ChainHead(number=row["number"], hash=row["hash"])


class Publishing:
    """What a worker says of its service's chain; `pool` acts as the app role, `path` is the file, None where there is none."""

    def __init__(self, pool: Pool, service: str, path: Path | None) -> None:
        self._pool = pool
        self._service = service
        self._path = path
        self._head: ChainHead | None = None

    def said(self) -> Mapping[str, Any] | None:
        """What goes out with the log's heads."""
        return None if self._head is None else self._head.model_dump()

    async def look(self) -> None:
        """Looks at the chain, and adds a line to the file when it has none of this day. Raises ReadsFileError."""
        before, self._head = self._head, await head_of(self._pool)
        if before is not None and (self._head is None or self._head.number < before.number):
            _log.error("reads_cut_off", was=before.number, now=0 if self._head is None else self._head.number)
        if self._path is not None and self._head is not None:
            await asyncio.to_thread(self._publish, self._path, self._head, datetime.now(UTC))

    def _publish(self, path: Path, head: ChainHead, now: datetime) -> None:
        lines = read_file(path, self._service)
        if not lines or civil_date(lines[-1].at) < civil_date(now):
            append(path, self._service, head, now)
