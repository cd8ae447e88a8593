"""Star policies: which thresholds hold from which day on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, LiteralString

from shared.access import Common
from shared.consumer.values import Fact, Projection
from shared.contracts.recognition import StarPolicyAdopted
from shared.http.query import Column, Query
from shared.permissions import Role
from shared.postgres import Connection


async def fold(connection: Connection, facts: Sequence[Fact]) -> None:
    """One row for each version."""
    await connection.executemany(
        _INSERT,
        [
            (
                event.effective_from,
                event.version,
                list(event.thresholds_minutes),
                event.reapply_after_revocation,
                fact.record.time,
                fact.record.position,
            )
            for fact in facts
            if isinstance(event := fact.event, StarPolicyAdopted)
        ],
    )


_INSERT: Final[LiteralString] = """
    INSERT INTO star_policies (effective_from, version, thresholds_minutes, reapply_after_revocation, adopted_at, position)
    VALUES ($1, $2, $3, $4, $5, $6)
"""

STAR_POLICIES: Final = Projection(
    "star_policies", "recognition", Path(__file__).with_suffix(".sql"), fold, rows={"star_policies": Common("one policy for all units")}
)

QUERY: Final = Query(
    name="star_policies",
    path="/star-policies",
    sql="""
        SELECT effective_from, version, thresholds_hours, reapply_after_revocation, adopted_at FROM api.star_policies
        WHERE ($1::date IS NULL OR effective_from > $1)
        ORDER BY effective_from LIMIT $2
    """,
    columns=(
        Column("effective_from", "date", "生效日期", "In force from"),
        Column("version", "text", "规则版本", "Policy version"),
        Column("thresholds_hours", "text", "各星所需小时", "Hours for each star"),
        Column("reapply_after_revocation", "boolean", "撤销后可再申请", "May be applied for again once revoked"),
        Column("adopted_at", "instant", "采用时间", "Adopted"),
    ),
    order=("effective_from",),
    roles=frozenset({Role.BUREAU_ADMIN, Role.UNIT_ADMIN, Role.AUDITOR}),
    title_zh="评星规则",
    title_en="Star policies",
    public=True,
)
