"""Stars: which are held now, and what each rests on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, LiteralString

from services.recognition.projections import units
from shared.consumer.values import Fact, Figure, Projection
from shared.contracts.recognition import StarGranted, StarRevoked, StarWithdrawn
from shared.http.query import Column, Filter, Query
from shared.permissions import Role
from shared.postgres import Connection


async def fold(connection: Connection, facts: Sequence[Fact]) -> None:
    """A grant adds a star, a withdrawal or a revocation takes it away."""
    changed: dict[tuple[object, int], Fact] = {}
    for fact in facts:
        if isinstance(fact.event, StarGranted | StarWithdrawn | StarRevoked):
            changed[fact.event.volunteer_id, fact.event.stars] = fact  # Of several in one batch the last one counts.
    await connection.executemany(_DELETE, list(changed))
    await connection.executemany(
        _INSERT,
        [
            (
                event.volunteer_id,
                event.stars,
                event.unit_code,
                fact.record.time,
                event.confirmed_minutes,
                event.threshold_minutes,
                event.policy_version,
                event.hours_position,
                fact.record.position,
            )
            for fact in changed.values()
            if isinstance(event := fact.event, StarGranted)
        ],
    )


_DELETE: Final[LiteralString] = "DELETE FROM stars WHERE volunteer_id = $1 AND stars = $2"

_INSERT: Final[LiteralString] = """
    INSERT INTO stars (volunteer_id, stars, unit_code, granted_at, confirmed_minutes, threshold_minutes, policy_version, hours_position,
                       granted_position)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""

STARS: Final = Projection("stars", "recognition", Path(__file__).with_suffix(".sql"), fold)

FIGURE: Final = Figure("stars", "recognition", "views", "SELECT volunteer_id::text, count(*) FROM stars GROUP BY 1")
"""The stars that are held; registration shows as many."""

QUERY: Final = Query(
    name="stars",
    path="/stars",
    sql="""
        SELECT granted_at, volunteer_id, stars, unit_name, unit_code, confirmed_minutes, threshold_minutes, policy_version, hours_position
        FROM api.stars
        WHERE ($1::text IS NULL OR unit_code = $1) AND ($2::uuid IS NULL OR volunteer_id = $2) AND ($3::bigint IS NULL OR stars = $3)
          AND ($4::timestamptz IS NULL OR (granted_at, volunteer_id, stars) < ($4, $5::uuid, $6::bigint))
        ORDER BY granted_at DESC, volunteer_id DESC, stars DESC LIMIT $7
    """,
    columns=(
        Column("granted_at", "instant", "评定时间", "Granted"),
        Column("volunteer_id", "uuid", "志愿者", "Volunteer"),
        *units.COLUMNS,
        Column("stars", "integer", "星级", "Star", plain=True),
        Column("confirmed_minutes", "integer", "评定时已认定时长", "Hours at the time", minutes=True),
        Column("threshold_minutes", "integer", "所需时长", "Hours needed", minutes=True),
        Column("policy_version", "text", "规则版本", "Policy version"),
        Column("hours_position", "integer", "时长日志位置", "Position in the hours log", hidden=True),
    ),
    order=("granted_at", "volunteer_id", "stars"),
    roles=frozenset({Role.BUREAU_ADMIN, Role.UNIT_ADMIN, Role.AUDITOR}),
    title_zh="现有星级",
    title_en="Stars held",
    filters=(
        units.BY_UNIT,
        Filter("volunteer", "uuid", "志愿者", "Volunteer"),
        Filter("stars", "integer", "星级", "Star"),
    ),
    public=True,
    key="volunteer_id",
    details="streams/star-{volunteer_id}/events",
)
