"""The operator's commands for the key-encryption keys: what there is, a new one, wrapping by it, retiring the old, and escrow.

Nothing here prints a key. What changes the file is done on one machine; the file is then brought to every other that runs the service.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from shared.followed import REREAD_SECONDS
from shared.migrate import roles_of
from shared.operating import By, Reason, Run, with_owner
from shared.postgres import Connection, Pool, open_pool
from shared.privacy import KeyEncryptionError, PersonalKeys
from shared.privacy.escrow import EscrowError, join, split
from shared.privacy.keyfile import KeyFile, KeyRing, name_of, read_ring, write_ring, write_secret
from shared.settings import Settings, SettingsError
from shared.states import Because, StateError, note

REWRAP_ROWS_MAX: Final = 500
"""Keys wrapped anew in one transaction."""

Half = Annotated[Path, typer.Argument(help="One custodian's half.")]


def add_commands(app: typer.Typer, service: str, run: Run) -> None:
    """Adds them to the command line of a service."""
    keys = typer.Typer(no_args_is_help=True, help="The key-encryption keys: rotation and escrow.")
    app.add_typer(keys, name="keys")

    def owning(work: Callable[[Connection, Settings], Awaitable[None]]) -> None:
        run(lambda settings: with_owner(service, settings, lambda connection: work(connection, settings)))

    @keys.command()
    def status() -> None:
        """The keys of the file by name, how many persons' keys each wraps, and with whom they lie in escrow."""
        owning(_status)

    @keys.command()
    def new(reason: Reason, by: By) -> None:
        """Put a new key in front of those in the file; the others go on opening what they have wrapped."""
        owning(lambda connection, settings: _new(connection, settings, Because(by, reason)))

    @keys.command()
    def rewrap(reason: Reason, by: By) -> None:
        """Wrap every person's key by the first key of the file. Every process of the service must have that file before."""
        owning(lambda connection, settings: _rewrap(connection, settings, Because(by, reason)))

    @keys.command()
    def retire(reason: Reason, by: By) -> None:
        """Take the keys that wrap nothing any more out of the file: from then on older backups open nothing without their escrow."""
        owning(lambda connection, settings: _retire(connection, settings, Because(by, reason)))

    @keys.command(name="split")
    def split_(
        first: Half,
        second: Half,
        first_custodian: Annotated[str, typer.Option(help="Who takes the first half.")],
        second_custodian: Annotated[str, typer.Option(help="Who takes the second half: another person.")],
        reason: Reason,
        by: By,
    ) -> None:
        """Write the key in use as two halves for two custodians. Both are needed to get it back, one tells nothing of it."""
        custodians = (first_custodian, second_custodian)
        owning(lambda connection, settings: _split(connection, settings, service, (first, second), custodians, Because(by, reason)))

    @keys.command(name="join")
    def join_(first: Half, second: Half, out: Annotated[Path, typer.Option(help="The file to write; it must not be there.")]) -> None:
        """Put two halves together to the key file that they were made of. Needs neither database nor settings."""
        try:
            ring = _joined(service, first, second, out)
        except (EscrowError, OSError, UnicodeDecodeError) as error:
            typer.echo(error if isinstance(error, EscrowError) else f"{type(error).__name__}: nothing was written", err=True)
            raise typer.Exit(1) from None
        typer.echo(f"{out.name} holds {_names(ring)}")


def _joined(service: str, first: Path, second: Path, out: Path) -> KeyRing:
    if out.exists():
        raise EscrowError(f"{out.name} is there already: move it away first")
    ring = join(service, first.read_text(encoding="utf-8"), second.read_text(encoding="utf-8"))
    write_ring(out, ring)
    return ring


async def _status(connection: Connection, settings: Settings) -> None:
    ring = read_ring(settings.key_file)
    rows = {row["wrapped_by"]: row for row in await connection.fetch(_WRAPPED)}
    escrow = {row["key"]: row for row in await connection.fetch(_ESCROW)}
    for key in ring.keys:
        name = name_of(key)
        wraps = rows.pop(name, None)
        kept = escrow.get(name)
        said = f"{wraps['keys']} by {wraps['ciphers']}" if wraps else "none"
        held = f"{kept['first_custodian']} and {kept['second_custodian']} since {kept['at']:%Y-%m-%d}" if kept else "nobody"
        typer.echo(f"{name}  {'in use' if key == ring.current else 'opens'}  persons' keys: {said}  in escrow with {held}")
    for name, row in rows.items():
        typer.echo(f"{name}  NOT IN THE FILE  persons' keys: {row['keys']} by {row['ciphers']}")


async def _new(connection: Connection, settings: Settings, because: Because) -> None:
    was = read_ring(settings.key_file)
    ring = was.with_new()
    async with connection.transaction():
        await note(connection, because, "key-encryption key in use", name_of(was.current), name_of(ring.current))
        _write(settings.key_file, ring)
    typer.echo(f"{settings.key_file.name} holds {_names(ring)}: bring it to every machine of this service, then `keys rewrap`")


async def _rewrap(connection: Connection, settings: Settings, because: Because) -> None:
    ring = read_ring(settings.key_file)
    total = 0
    roles = await roles_of(connection)
    async with open_pool(settings.dsn, "rewrap", 1, role=roles.app) as pool:
        keys = PersonalKeys(pool, KeyFile(settings.key_file), cipher=settings.cipher)
        try:
            for seconds in (REREAD_SECONDS + 1, 0.0):  # A process may wrap by what it read before, until it looks at the file again.
                while done := await _page(pool, keys):
                    total += done
                await asyncio.sleep(seconds)
        except KeyEncryptionError as error:
            raise StateError(f"after {total} keys: {error} `keys status` says which key is missing") from None
    if total:
        async with connection.transaction():
            await _note(connection, because, "persons' keys", "wrapped by others", f"{total} wrapped by {name_of(ring.current)}")
    typer.echo(f"{total} persons' keys are wrapped anew; all are wrapped by {name_of(ring.current)} and {settings.cipher}")


async def _page(pool: Pool, keys: PersonalKeys) -> int:
    async with pool.acquire() as connection, connection.transaction():
        return await keys.rewrap(connection, REWRAP_ROWS_MAX)


async def _retire(connection: Connection, settings: Settings, because: Because) -> None:
    ring = read_ring(settings.key_file)
    used = {row["wrapped_by"] for row in await connection.fetch(_WRAPPED)}
    kept = tuple(key for key in ring.keys if key == ring.current or name_of(key) in used)
    gone = [name_of(key) for key in ring.keys if key not in kept]
    if not gone:
        raise StateError("every key of the file still wraps something: `keys rewrap` first" if len(ring.keys) > 1 else "there is one key")
    async with connection.transaction():
        for name in gone:
            await _note(connection, because, f"key-encryption key {name}", "opens", "retired")
        _write(settings.key_file, KeyRing(kept, ring.index_key, ring.fingerprint_key))
    typer.echo(f"retired {', '.join(gone)}: do the same on every machine, and destroy their escrow when no backup needs them any more")


async def _split(
    connection: Connection, settings: Settings, service: str, files: tuple[Path, Path], custodians: tuple[str, str], because: Because
) -> None:
    if custodians[0].strip().lower() == custodians[1].strip().lower() or not all(each.strip() for each in custodians):
        raise StateError("two custodians are two persons")
    if files[0] == files[1] or any(each.exists() for each in files):
        raise StateError("each half needs a file of its own that is not there yet")
    ring = read_ring(settings.key_file)
    ring = replace(ring, keys=ring.keys[:1])  # Older ones lie in halves of their own, and end with them.
    halves = split(service, ring, custodians, datetime.now(UTC).date())
    async with connection.transaction():
        await connection.execute(_INSERT_ESCROW, name_of(ring.current), *custodians)
        await _note(connection, because, f"escrow of {name_of(ring.current)}", "nobody", " and ".join(custodians))
        for file, half in zip(files, halves, strict=True):
            write_secret(file, half.text())
    typer.echo(f"{_names(ring)}: {files[0].name} is for {custodians[0]}, {files[1].name} for {custodians[1]}; take them off this machine")


async def _note(connection: Connection, because: Because, subject: str, at_first: str, becomes: str) -> None:
    """One more change of `subject`, from what the last one said: the changes of each are a chain, in which one that lacks is seen."""
    was = await connection.fetchval(_STANDS, subject)
    await note(connection, because, subject, was or at_first, becomes)


def _write(path: Path, ring: KeyRing) -> None:
    try:
        write_ring(path, ring)
    except OSError as error:
        raise StateError(f"{path.name} could not be written ({type(error).__name__}): nothing has changed") from None
    if read_ring(path) != ring:
        raise SettingsError(f"{path.name} does not hold what was written")


def _names(ring: KeyRing) -> str:
    return ", ".join(map(name_of, ring.keys))


_WRAPPED: Final = """
    SELECT wrapped_by, count(*) AS keys, string_agg(DISTINCT wrapped_with, ', ') AS ciphers
    FROM keys.person WHERE wrapped IS NOT NULL GROUP BY wrapped_by ORDER BY wrapped_by
"""
_ESCROW: Final = "SELECT DISTINCT ON (key) key, first_custodian, second_custodian, at FROM keys.escrow ORDER BY key, number DESC"
_STANDS: Final = "SELECT becomes FROM es.log_change WHERE subject = $1 ORDER BY number DESC LIMIT 1"
_INSERT_ESCROW: Final = "INSERT INTO keys.escrow (key, first_custodian, second_custodian) VALUES ($1, $2, $3)"
