"""Policies: by which figures time is counted, from which day on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, LiteralString

from shared.access import Common
from shared.consumer.values import Fact, Projection
from shared.contracts.hours import HoursPolicyAdopted
from shared.http.query import Column, Query
from shared.permissions import Role
from shared.postgres import Connection

_FIGURES: Final = (
    "daily_cap_minutes",
    "pairs_per_activity_day_max",
    "check_in_early_minutes",
    "missed_check_out_after_minutes",
)


async def fold(connection: Connection, facts: Sequence[Fact]) -> None:
    """Every version that was adopted."""
    await connection.executemany(
        _INSERT,
        [
            (event.effective_from, event.version, *(getattr(event, each) for each in _FIGURES), fact.record.time, fact.record.position)
            for fact in facts
            if isinstance(event := fact.event, HoursPolicyAdopted)
        ],
    )


_INSERT: Final[LiteralString] = """
    INSERT INTO hours_policies (effective_from, version, daily_cap_minutes, pairs_per_activity_day_max, check_in_early_minutes,
                                missed_check_out_after_minutes, adopted_at, position)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""

POLICIES: Final = Projection(
    "hours_policies", "hours", Path(__file__).with_suffix(".sql"), fold, rows={"hours_policies": Common("one policy for all units")}
)

QUERY: Final = Query(
    name="hours_policies",
    path="/hours-policies",
    sql="""
        SELECT effective_from, version, daily_cap_minutes, pairs_per_activity_day_max, check_in_early_minutes,
               missed_check_out_after_minutes, adopted_at
        FROM api.hours_policies
        WHERE $1::date IS NULL OR effective_from > $1
        ORDER BY effective_from LIMIT $2
    """,
    columns=(
        Column("effective_from", "date", "生效日期", "In force from"),
        Column("version", "text", "规则版本", "Version"),
        Column("daily_cap_minutes", "integer", "每日上限", "Daily cap", minutes=True),
        Column("pairs_per_activity_day_max", "integer", "每活动每日签到次数上限", "Check-ins per activity and day"),
        Column("check_in_early_minutes", "integer", "可提前签到 (分钟)", "Door opens before the start (minutes)"),
        Column("missed_check_out_after_minutes", "integer", "签退宽限 (分钟)", "Check-out accepted after the end (minutes)"),
        Column("adopted_at", "instant", "采用时间", "Adopted"),
    ),
    order=("effective_from",),
    roles=frozenset({Role.BUREAU_ADMIN, Role.UNIT_ADMIN, Role.AUDITOR}),
    title_zh="时长规则",
    title_en="Hours policies",
    public=True,
)
