"""A canonical digest of a service's read models, so that live, rebuilt from Kafka and rebuilt from the store can be compared.

Rows as PostgreSQL writes them under fixed settings, columns and rows sorted, counters of insertion left out. Equal only at equal positions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from shared.errors import LeifengError
from shared.postgres import Connection, connect, quote

STATEMENT_SECONDS_MAX: Final = 3600.0
PARKED: Final = "(parked)"
"""What stands among the tables for the parked events."""


class NoSuchSchemaError(LeifengError):
    """The database has no such schema of read models."""


@dataclass(frozen=True, slots=True)
class Digest:
    """Rows and digest of each table; `positions` by source log, where they stand."""

    schema: str
    positions: Mapping[str, int]
    tables: Mapping[str, tuple[int, str]]

    @property
    def whole(self) -> str:
        """One digest of all tables."""
        return sha256("\n".join(f"{name} {rows} {said}" for name, (rows, said) in sorted(self.tables.items())).encode()).hexdigest()


async def digest_of(dsn: str, schema: str | None = None) -> Digest:
    """The digest of the live read models, or of those in `schema`, in one snapshot; `dsn` is the owner's. Raises NoSuchSchemaError."""
    connection = await connect(dsn, "digest", statement_seconds=STATEMENT_SECONDS_MAX, **_SETTINGS)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.execute("LOCK TABLE consumer.views IN ACCESS SHARE MODE")
            row = await connection.fetchrow(_SELECT_SCHEMA, schema)
            if row is None:
                raise NoSuchSchemaError(f"there is no schema {schema or 'of read models'}")
            positions = {each["log"]: each["applied"] for each in await connection.fetch(_SELECT_POSITIONS, row["consumer"])}
            tables = {each["tablename"]: "" for each in await connection.fetch(_SELECT_TABLES, row["schema"])}
            found = {name: await _of_table(connection, row["schema"], name) for name in tables}
            found[PARKED] = await _of_query(connection, _PARKED.format(consumer=row["consumer"]))
        return Digest(row["schema"], positions, found)
    finally:
        await connection.close(timeout=5)


async def _of_table(connection: Connection, schema: str, table: str) -> tuple[int, str]:
    columns = [quote(row["attname"]) for row in await connection.fetch(_SELECT_COLUMNS, f"{quote(schema)}.{quote(table)}")]
    listed = ", ".join(columns)
    query = f'SELECT {listed} FROM {quote(schema)}.{quote(table)} ORDER BY ROW({listed})::text COLLATE "C"'  # noqa: S608
    rows, said = await _of_query(connection, query)
    return rows, sha256(f"{listed} {said}".encode()).hexdigest()


async def _of_query(connection: Connection, query: str) -> tuple[int, str]:
    digest = sha256()

    async def add(data: bytes) -> None:
        digest.update(data)

    status: str = await connection.copy_from_query(query, output=add, timeout=STATEMENT_SECONDS_MAX)
    return int(status.rpartition(" ")[2]), digest.hexdigest()


_SETTINGS: Final = {
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "iso_8601",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "client_encoding": "UTF8",
}
_SELECT_SCHEMA: Final = """
    SELECT schema, CASE WHEN live THEN 'views' ELSE 'views@' || substr(schema, length('views_') + 1) END AS consumer
    FROM consumer.views WHERE CASE WHEN $1::text IS NULL THEN live ELSE schema = $1 END
"""
_SELECT_POSITIONS: Final = "SELECT log, applied FROM consumer.position WHERE consumer = $1 ORDER BY log"
_SELECT_TABLES: Final = "SELECT tablename FROM pg_tables WHERE schemaname = $1 ORDER BY tablename"
_SELECT_COLUMNS: Final = """
    SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped AND attidentity = ''
    ORDER BY attname COLLATE "C"
"""
_PARKED: Final = "SELECT log, key, position, stage FROM consumer.parked WHERE consumer = '{consumer}' ORDER BY log, position"
