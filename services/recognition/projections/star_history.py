"""Star history: every application's answer, every withdrawal and every revocation, with the figures it rests on; the last rests on none."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, LiteralString

from services.recognition.projections import units
from shared.consumer.values import Fact, Projection
from shared.contracts.recognition import StarDeclined, StarGranted, StarRevoked, StarWithdrawn
from shared.http.query import Column, Filter, Query
from shared.permissions import Role
from shared.postgres import Connection


async def fold(connection: Connection, facts: Sequence[Fact]) -> None:
    """One row for each decision."""
    await connection.executemany(
        _INSERT,
        [
            (fact.record.position, event.volunteer_id, event.stars, event.unit_code, *_outcome(event), fact.record.time, *_figures(event))
            for fact in facts
            if isinstance(event := fact.event, StarGranted | StarDeclined | StarWithdrawn | StarRevoked)
        ],
    )


def _outcome(event: StarGranted | StarDeclined | StarWithdrawn | StarRevoked) -> tuple[str, str | None]:
    """The outcome, and why."""
    match event:
        case StarGranted():
            return "granted", None
        case StarDeclined(reason=reason):
            return "declined", reason
        case StarWithdrawn(reason=reason):
            return "withdrawn", reason
        case StarRevoked(reason_code=reason):
            return "revoked", reason


def _figures(event: StarGranted | StarDeclined | StarWithdrawn | StarRevoked) -> tuple[int | str | None, ...]:
    if isinstance(event, StarRevoked):
        return None, None, None, None
    return event.confirmed_minutes, event.threshold_minutes, event.policy_version, event.hours_position


_INSERT: Final[LiteralString] = """
    INSERT INTO star_history (position, volunteer_id, stars, unit_code, outcome, reason, decided_at, confirmed_minutes, threshold_minutes,
                              policy_version, hours_position)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
"""

STAR_HISTORY: Final = Projection("star_history", "recognition", Path(__file__).with_suffix(".sql"), fold)

OUTCOMES: Final = {
    "granted": ("已评星", "granted"),
    "declined": ("未评星", "declined"),
    "withdrawn": ("已撤星", "withdrawn"),
    "revoked": ("经决定撤销", "revoked by decision"),
}
"""How an application, a reassessment or a proposed revocation ended."""

REVOKED_FOR: Final = {
    "false_record": ("记录不实", "false record"),
    "hidden_faults": ("隐瞒问题", "faults were hidden"),
    "serious_dishonesty": ("严重失信", "serious dishonesty"),
    "discipline_or_crime": ("违纪违法", "breach of discipline, or crime"),
    "moral_failure": ("道德失范", "moral failure"),
    "own_wish": ("本人意愿", "own wish"),
}
"""Why a star was revoked."""

REASONS: Final = {
    "too_few_hours": ("时长不足", "too few hours"),
    "hours_corrected": ("时长已更正", "hours corrected"),
    "hours_reversed": ("时长已冲销", "hours reversed"),
    **REVOKED_FOR,
}
"""Why a star was declined, withdrawn or revoked."""

QUERY: Final = Query(
    name="star_history",
    path="/star-history",
    sql="""
        SELECT position, decided_at, volunteer_id, unit_name, unit_code, stars, outcome, reason, confirmed_minutes, threshold_minutes,
               policy_version, hours_position
        FROM api.star_history
        WHERE ($1::text IS NULL OR unit_code = $1) AND ($2::uuid IS NULL OR volunteer_id = $2) AND ($3::text IS NULL OR outcome = $3)
          AND ($4::bigint IS NULL OR position < $4)
        ORDER BY position DESC LIMIT $5
    """,
    columns=(
        Column("position", "integer", "日志位置", "Position", hidden=True),
        Column("decided_at", "instant", "时间", "Decided"),
        Column("volunteer_id", "uuid", "志愿者", "Volunteer"),
        *units.COLUMNS,
        Column("stars", "integer", "星级", "Star", plain=True),
        Column("outcome", "text", "结果", "Outcome", words=OUTCOMES),
        Column("reason", "text", "原因", "Reason", nullable=True, words=REASONS),
        Column("confirmed_minutes", "integer", "已认定时长", "Confirmed hours", nullable=True, minutes=True),
        Column("threshold_minutes", "integer", "所需时长", "Hours needed", nullable=True, minutes=True),
        Column("policy_version", "text", "规则版本", "Policy version", nullable=True, hidden=True),
        Column("hours_position", "integer", "时长日志位置", "Position in the hours log", nullable=True, hidden=True),
    ),
    order=("position",),
    roles=frozenset({Role.BUREAU_ADMIN, Role.UNIT_ADMIN, Role.AUDITOR}),
    title_zh="评星记录",
    title_en="Star history",
    filters=(
        units.BY_UNIT,
        Filter("volunteer", "uuid", "志愿者", "Volunteer"),
        Filter("outcome", "text", "结果", "Outcome"),
    ),
    key="volunteer_id",
    details="streams/star-{volunteer_id}/events",
)
