"""Attendances: who was, or is, at which activity."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, LiteralString

from services.hours.projections import activities, units
from shared.consumer.values import Fact, Projection
from shared.contracts.hours import CheckedIn, CheckedOut, CheckOutMissed
from shared.http.query import Column, Filter, Query
from shared.permissions import Role
from shared.postgres import Connection


async def fold(connection: Connection, facts: Sequence[Fact]) -> None:
    """A check-in opens a pair; what closes it, or gives it up, follows in the same stream and so often in the same batch."""
    opened: list[tuple[Any, ...]] = []
    ended: list[tuple[Any, ...]] = []
    for fact in facts:
        attendance_id = fact.record.stream.id
        match fact.event:
            case CheckedIn() as event:
                opened.append(
                    (
                        attendance_id,
                        event.pair,
                        event.activity_id,
                        event.volunteer_id,
                        event.unit_code,
                        event.at,
                        event.counts_from,
                        event.check_out_by,
                        event.recorder_id,
                    )
                )
            case CheckedOut() as event:
                ended.append((attendance_id, event.pair, "closed", event.at, event.counts_from, event.recorder_id))
            case CheckOutMissed() as event:
                ended.append((attendance_id, event.pair, "missed", None, event.counts_from, None))
            case _:
                pass
    # Opened as closed, so that two pairs of one batch do not meet in the index of open ones; then every pair without an end is opened.
    await connection.execute(_INSERT, *_turned(opened, 9))
    await connection.execute(_END, *_turned(ended, 6))
    gone = {each[:2] for each in ended}
    await connection.execute(_OPEN, *_turned([each[:2] for each in opened if each[:2] not in gone], 2))


def _turned(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [[row[index] for row in rows] for index in range(width)]


_INSERT: Final[LiteralString] = """
    INSERT INTO attendances (attendance_id, pair, activity_id, volunteer_id, unit_code, checked_in_at, counts_from, check_out_by,
                             checked_in_by, state)
    SELECT *, 'closed'
    FROM unnest($1::uuid[], $2::integer[], $3::uuid[], $4::uuid[], $5::text[], $6::timestamptz[], $7::timestamptz[], $8::timestamptz[],
                $9::uuid[])
"""

_END: Final[LiteralString] = """
    UPDATE attendances AS known
    SET state = said.state, checked_out_at = said.checked_out_at, counts_from = said.counts_from, checked_out_by = said.checked_out_by
    FROM unnest($1::uuid[], $2::integer[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::uuid[])
        AS said (attendance_id, pair, state, checked_out_at, counts_from, checked_out_by)
    WHERE known.attendance_id = said.attendance_id AND known.pair = said.pair
"""

_OPEN: Final[LiteralString] = """
    UPDATE attendances AS known SET state = 'open' FROM unnest($1::uuid[], $2::integer[]) AS said (attendance_id, pair)
    WHERE known.attendance_id = said.attendance_id AND known.pair = said.pair
"""

ATTENDANCES: Final = Projection("attendances", "hours", Path(__file__).with_suffix(".sql"), fold)

STATES: Final = {"open": ("在场", "on site"), "closed": ("已签退", "checked out"), "missed": ("未签退", "check-out missed")}
"""How a pair of check-in and check-out stands."""

QUERY: Final = Query(
    name="attendances",
    path="/attendances",
    sql="""
        SELECT checked_in_at, counts_from, checked_out_at, state, volunteer_id, activity_title, activity_id, unit_name, unit_code, pair,
               check_out_by, checked_in_by, checked_out_by, attendance_id
        FROM api.attendances
        WHERE ($1::text IS NULL OR unit_code = $1) AND ($2::uuid IS NULL OR activity_id = $2) AND ($3::uuid IS NULL OR volunteer_id = $3)
          AND ($4::text IS NULL OR state = $4)
          AND ($5::timestamptz IS NULL OR (checked_in_at, attendance_id, pair) < ($5, $6::uuid, $7::bigint))
        ORDER BY checked_in_at DESC, attendance_id DESC, pair DESC LIMIT $8
    """,
    columns=(
        Column("checked_in_at", "instant", "签到", "Checked in"),
        Column("counts_from", "instant", "计时起点", "Counts from"),
        Column("checked_out_at", "instant", "签退", "Checked out", nullable=True),
        Column("state", "text", "状态", "State", words=STATES),
        Column("volunteer_id", "uuid", "志愿者", "Volunteer"),
        *activities.COLUMNS,
        *units.COLUMNS,
        Column("pair", "integer", "第几次", "Pair", plain=True),
        Column("check_out_by", "instant", "签退期限", "Check out by", hidden=True),
        Column("checked_in_by", "uuid", "签到记录人", "Checked in by", hidden=True),
        Column("checked_out_by", "uuid", "签退记录人", "Checked out by", nullable=True, hidden=True),
        Column("attendance_id", "uuid", "签到记录", "Attendance", hidden=True),
    ),
    order=("checked_in_at", "attendance_id", "pair"),
    roles=frozenset({Role.BUREAU_ADMIN, Role.UNIT_ADMIN, Role.ACTIVITY_LEADER, Role.AUDITOR}),
    title_zh="签到记录",
    title_en="Attendances",
    filters=(
        units.BY_UNIT,
        Filter("activity", "uuid", "活动", "Activity"),
        Filter("volunteer", "uuid", "志愿者", "Volunteer"),
        Filter("state", "text", "状态", "State"),
    ),
    key="volunteer_id",
    details="streams/attendance-{attendance_id}/events",
)
