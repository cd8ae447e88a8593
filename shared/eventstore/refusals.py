"""The refusal log: which commands were refused, read from the answers that are kept for repeats (architecture, section 7).

Who asked is told by role and pseudonym, the same for the same person; whoever has a person's id or a correlation id finds theirs by it.
A refusal of before the log kept them has no command and no unit. What is refused without a kept answer (not due, parked) is not here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from shared.logs import pseudonym
from shared.postgres import Connection, Pool

ROWS: Final = 50
ROWS_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which refusals; None is any."""

    code: str | None = None
    use_case: str | None = None
    unit: str | None = None
    person: UUID | None = None
    correlation_id: UUID | None = None


async def list_refusals(connection: Connection, wanted: Wanted, limit: int) -> Sequence[Mapping[str, Any]]:
    """The last refusals that are `wanted`, newest first."""
    rows = await connection.fetch(
        _REFUSED, wanted.code, wanted.use_case, wanted.unit, wanted.person and str(wanted.person), wanted.correlation_id, limit
    )
    return [_shown(row) for row in rows]


async def forget_old_refusals(pool: Pool) -> None:
    """Forgets what was refused more than 90 days ago (`es.forget_refusals`), a thousand at a time."""
    while await pool.fetchval("SELECT es.forget_refusals()"):
        pass


def _shown(row: Any) -> Mapping[str, Any]:
    role, _, person = (row["actor"] or "").partition(":")
    return {
        "at": f"{row['at']:%Y-%m-%d %H:%M:%S}",
        "code": row["code"],
        "command": row["use_case"] or "-",
        "unit": row["unit"] or "-",
        "role": role or "-",
        "actor": pseudonym(f"person-{person}"),
        "correlation_id": row["correlation_id"],
    }


_REFUSED: Final = """
    SELECT at, refusal ->> 'code' AS code, refusal ->> 'use_case' AS use_case, refusal ->> 'unit' AS unit, actor, correlation_id
    FROM es.command
    WHERE outcome = 'refused'
        AND ($1::text IS NULL OR refusal ->> 'code' = $1)
        AND ($2::text IS NULL OR refusal ->> 'use_case' = $2)
        AND ($3::text IS NULL OR refusal ->> 'unit' = $3)
        AND ($4::text IS NULL OR split_part(actor, ':', 2) = $4)
        AND ($5::uuid IS NULL OR correlation_id = $5)
    ORDER BY at DESC LIMIT $6
"""
