"""Activities with their seats, who sits where, and each unit's plan against what it held."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, LiteralString
from uuid import UUID

from services.registration.projections.programmes import BY_UNIT
from shared.access import AllUnitsOnly, With
from shared.clock import civil_date
from shared.consumer.values import Fact, Projection
from shared.contracts.registration import (
    ActivityCancelled,
    ActivityHeld,
    ActivityPublished,
    CapacityChanged,
    ClashOverridden,
    EnrollmentAccepted,
    EnrollmentWaitlisted,
    EnrollmentWithdrawn,
    OfferAccepted,
    OfferExpired,
    PersonalDataErased,
    SeatOffered,
)
from shared.http.query import Column, Filter, Query
from shared.permissions import Role
from shared.postgres import Connection

_Enrollment = tuple[str, str, datetime | None, datetime]
"""Position, standing, until when a seat is on offer, since when."""


async def fold(connection: Connection, facts: Sequence[Fact]) -> None:
    """Activities first, then how each ended, then the last word on every enrolment and capacity."""
    published = [fact.event for fact in facts if isinstance(fact.event, ActivityPublished)]
    erased = [fact.event.volunteer_id for fact in facts if isinstance(fact.event, PersonalDataErased)]
    outcomes = dict[UUID, tuple[str, str]]()
    capacities, enrollments = dict[tuple[UUID, str], int](), dict[tuple[UUID, UUID], _Enrollment]()
    overridden = list[tuple[UUID, UUID, UUID, str | None, datetime]]()
    for fact in facts:
        since = fact.record.time
        match fact.event:
            case ActivityPublished(activity_id=activity_id, positions=positions):
                capacities.update({(activity_id, each.code): each.capacity for each in positions})
            case CapacityChanged(activity_id=activity_id, position=position, capacity=capacity):
                capacities[activity_id, position] = capacity
            case EnrollmentAccepted() | OfferAccepted() as event:
                enrollments[event.activity_id, event.volunteer_id] = (event.position, "seated", None, since)
            case EnrollmentWaitlisted() as event:
                enrollments[event.activity_id, event.volunteer_id] = (event.position, "waiting", None, since)
            case SeatOffered() as event:
                enrollments[event.activity_id, event.volunteer_id] = (event.position, "offered", event.expires_at, since)
            case EnrollmentWithdrawn() as event:
                enrollments[event.activity_id, event.volunteer_id] = (event.position, "withdrawn", None, since)
            case OfferExpired() as event:
                enrollments[event.activity_id, event.volunteer_id] = (event.position, "expired", None, since)
            case ClashOverridden() as event:
                overridden.append((event.activity_id, event.volunteer_id, event.clashes_with, event.reason, since))
            case ActivityHeld() as event:
                outcomes[event.activity_id] = ("held", event.result)
            case ActivityCancelled() as event:
                outcomes[event.activity_id] = ("cancelled", event.reason)
            case _:
                pass
    await connection.executemany(_INSERT_ACTIVITY, [_activity_row(each) for each in published])
    await connection.executemany(
        _INSERT_POSITION, [(each.activity_id, position.code, position.name) for each in published for position in each.positions]
    )
    await connection.execute(
        _SET_OUTCOMES, list(outcomes), [state for state, _ in outcomes.values()], [words for _, words in outcomes.values()]
    )
    await connection.execute(
        _SET_CAPACITIES,
        [activity_id for activity_id, _ in capacities],
        [position for _, position in capacities],
        list(capacities.values()),
    )
    await connection.execute(
        _UPSERT_ENROLLMENTS,
        [activity_id for activity_id, _ in enrollments],
        [volunteer_id for _, volunteer_id in enrollments],
        [position for position, _, _, _ in enrollments.values()],
        [standing for _, standing, _, _ in enrollments.values()],
        [expires_at for _, _, expires_at, _ in enrollments.values()],
        [since for _, _, _, since in enrollments.values()],
    )
    await connection.execute(_ERASE, erased)
    await connection.executemany(_INSERT_OVERRIDE, overridden)


def _activity_row(event: ActivityPublished) -> tuple[object, ...]:
    month = civil_date(event.starts_at).replace(day=1)
    return (
        event.activity_id,
        event.unit_code,
        month,
        event.title,
        event.carrier,
        event.target_group,
        event.occasion,
        event.place,
        event.starts_at,
        event.ends_at,
        event.wait_list_max,
        event.has_risk,
    )


_INSERT_ACTIVITY: Final[LiteralString] = """
    INSERT INTO activities (activity_id, unit_code, month, title, carrier, target_group, occasion, place, starts_at, ends_at, wait_list_max,
                            has_risk, state)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 'open')
"""
_INSERT_POSITION: Final[LiteralString] = """
    INSERT INTO activity_positions (activity_id, position, name, capacity) VALUES ($1, $2, $3, 0)
"""
_SET_OUTCOMES: Final[LiteralString] = """
    UPDATE activities SET state = said.state, outcome = said.words
    FROM unnest($1::uuid[], $2::text[], $3::text[]) AS said (activity_id, state, words)
    WHERE activities.activity_id = said.activity_id
"""
_SET_CAPACITIES: Final[LiteralString] = """
    UPDATE activity_positions SET capacity = said.capacity
    FROM unnest($1::uuid[], $2::text[], $3::integer[]) AS said (activity_id, position, capacity)
    WHERE activity_positions.activity_id = said.activity_id AND activity_positions.position = said.position
"""
_UPSERT_ENROLLMENTS: Final[LiteralString] = """
    INSERT INTO enrollments (activity_id, volunteer_id, position, standing, expires_at, since)
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[])
    ON CONFLICT (activity_id, volunteer_id) DO UPDATE
    SET position = excluded.position, standing = excluded.standing, expires_at = excluded.expires_at, since = excluded.since
"""
_INSERT_OVERRIDE: Final[LiteralString] = """
    INSERT INTO clashes_overridden (activity_id, volunteer_id, clashes_with, reason, overridden_at)
    VALUES ($1, $2, $3, CASE WHEN NOT EXISTS (SELECT FROM persons_erased WHERE volunteer_id = $2) THEN $4 END, $5)
"""
_ERASE: Final[LiteralString] = """
    WITH said AS (INSERT INTO persons_erased SELECT unnest($1::uuid[]) ON CONFLICT DO NOTHING)
    UPDATE clashes_overridden SET reason = NULL WHERE volunteer_id = ANY ($1::uuid[])
"""
_ERASE_ONE: Final = "UPDATE clashes_overridden SET reason = NULL WHERE volunteer_id = $1"

_OF_BOTH_UNITS: Final = With({"activity_id": "activities", "volunteer_id": "volunteers"})

ACTIVITIES: Final = Projection(
    "activities",
    "registration",
    Path(__file__).with_suffix(".sql"),
    fold,
    _ERASE_ONE,
    rows={
        "activity_positions": With({"activity_id": "activities"}),
        "enrollments": _OF_BOTH_UNITS,
        "clashes_overridden": _OF_BOTH_UNITS,
        "persons_erased": AllUnitsOnly("read by the fold alone"),
    },
)

STATES: Final = {"open": ("报名中", "open"), "held": ("已举办", "held"), "cancelled": ("已取消", "cancelled")}
"""What became of an activity."""

STANDINGS: Final = {
    "seated": ("已录用", "has a seat"),
    "offered": ("待确认递补", "seat on offer"),
    "waiting": ("候补", "waiting"),
    "withdrawn": ("已取消报名", "withdrawn"),
    "expired": ("递补失效", "offer expired"),
}
"""How an enrolment stands."""

_STAFF: Final = frozenset({Role.BUREAU_ADMIN, Role.UNIT_ADMIN, Role.ACTIVITY_LEADER, Role.AUDITOR})

_CARRIERS: Final[LiteralString] = """
    SELECT DISTINCT ON (code) code, name_zh, name_en FROM api.programme_words WHERE kind = 'carrier' ORDER BY code, year DESC
"""

QUERY: Final = Query(
    name="activities",
    path="/activities",
    sql="""
        SELECT starts_at, ends_at, title, unit_name, unit_code, carrier_name_zh, carrier_name_en, carrier, place, state, capacity, taken,
               offered, waiting, activity_id
        FROM api.activities
        WHERE ($1::text IS NULL OR unit_code = $1) AND ($2::text IS NULL OR state = $2) AND ($3::text IS NULL OR carrier = $3)
          AND ($4::timestamptz IS NULL OR starts_at >= $4)
          AND ($5::timestamptz IS NULL OR (starts_at, activity_id) < ($5, $6::uuid))
        ORDER BY starts_at DESC, activity_id DESC LIMIT $7
    """,
    columns=(
        Column("starts_at", "instant", "开始", "Starts"),
        Column("ends_at", "instant", "结束", "Ends", hidden=True),
        Column("title", "text", "名称", "Title"),
        Column("unit_name", "text", "单位", "Unit"),
        Column("unit_code", "text", "单位代码", "Unit's code", hidden=True),
        Column("carrier_name_zh", "text", "载体", "Carrier in Chinese", language="zh"),
        Column("carrier_name_en", "text", "载体英文名", "Carrier", language="en"),
        Column("carrier", "text", "载体代码", "Carrier's code", hidden=True),
        Column("place", "text", "地点", "Place", hidden=True),
        Column("state", "text", "状态", "State", words=STATES),
        Column("capacity", "integer", "名额", "Seats"),
        Column("taken", "integer", "已录用", "Taken"),
        Column("offered", "integer", "待确认", "On offer"),
        Column("waiting", "integer", "候补", "Waiting"),
        Column("activity_id", "uuid", "活动", "Activity", hidden=True),
    ),
    order=("starts_at", "activity_id"),
    roles=frozenset(Role),
    title_zh="活动与名额",
    title_en="Activities and their seats",
    filters=(
        BY_UNIT,
        Filter("state", "text", "状态", "State"),
        Filter("carrier", "text", "载体", "Carrier", choices=_CARRIERS),
        Filter("from", "instant", "自", "Starting from"),
    ),
    public=True,
    key="activity_id",
    details="streams/activity-{activity_id}/events",
)

PLAN: Final = Query(
    name="unit_months",
    path="/unit-months",
    sql="""
        SELECT is_ahead, month, year_month, unit_code, unit_name, planned, published, held, cancelled FROM api.unit_months
        WHERE ($1::text IS NULL OR unit_code = $1)
          AND ($2::date IS NULL OR month >= $2) AND ($3::date IS NULL OR month <= $3)
          AND ($4::boolean IS NULL OR is_ahead > $4
               OR (is_ahead = $4 AND (month < $5::date OR (month = $5 AND unit_code > $6::text))))
        ORDER BY is_ahead, month DESC, unit_code LIMIT $7
    """,
    columns=(
        Column("year_month", "text", "月份", "Month"),
        Column("month", "date", "月份第一天", "First day of the month", hidden=True),
        Column("is_ahead", "boolean", "尚未安排", "Nothing published yet", hidden=True),
        Column("unit_code", "text", "单位代码", "Unit's code", hidden=True),
        Column("unit_name", "text", "单位", "Unit"),
        Column("planned", "integer", "计划", "Planned"),
        Column("published", "integer", "已发布", "Published"),
        Column("held", "integer", "已举办", "Held"),
        Column("cancelled", "integer", "已取消", "Cancelled"),
    ),
    order=("is_ahead", "month", "unit_code"),
    roles=frozenset(Role),
    title_zh="各单位每月计划与举办",
    title_en="Plan against held, per unit and month",
    filters=(BY_UNIT, Filter("from", "date", "自", "From"), Filter("to", "date", "至", "To")),
    public=True,
)

ENROLLMENTS: Final = Query(
    name="enrollments",
    path="/enrollments",
    sql="""
        SELECT activity_id, title, volunteer_id, number, position, standing, expires_at, since FROM api.enrollments
        WHERE ($1::uuid IS NULL OR activity_id = $1) AND ($2::uuid IS NULL OR volunteer_id = $2) AND ($3::text IS NULL OR standing = $3)
          AND ($4::uuid IS NULL OR (activity_id, volunteer_id) > ($4, $5::uuid))
        ORDER BY activity_id, volunteer_id LIMIT $6
    """,
    columns=(
        Column("title", "text", "活动", "Activity"),
        Column("activity_id", "uuid", "活动标识", "Activity's id", hidden=True),
        Column("number", "text", "志愿者编号", "Volunteer", nullable=True),
        Column("volunteer_id", "uuid", "志愿者标识", "Volunteer's id", hidden=True),
        Column("position", "text", "岗位", "Position"),
        Column("standing", "text", "状态", "Standing", words=STANDINGS),
        Column("expires_at", "instant", "确认截止", "Offer expires", nullable=True),
        Column("since", "instant", "自", "Since"),
    ),
    order=("activity_id", "volunteer_id"),
    roles=_STAFF,
    title_zh="报名",
    title_en="Enrolments",
    filters=(
        Filter("activity", "uuid", "活动", "Activity"),
        Filter("volunteer", "uuid", "志愿者", "Volunteer"),
        Filter("standing", "text", "状态", "Standing"),
    ),
    key="activity_id",
    details="streams/activity-{activity_id}/events",
)
