"""A service of one command, small enough to see through, for the tests of HTTP: seats of an activity, two at most."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel

from shared.application import Aggregate, Asked, Plan, UseCase
from shared.contracts.event import Event, Refusal, RefusalText
from shared.contracts.registration import EnrollmentAccepted
from shared.envelope import Stream
from shared.http.query import Column, Filter, Query
from shared.permissions import Role

SEATS: Final = 2
LOG_ID: Final = UUID("0197f3a4-5c00-7000-8000-0000000000aa")
NOW: Final = datetime(2017, 3, 5, 0, 30, tzinfo=UTC)


class TakeSeat(BaseModel):
    """The body of the command."""

    volunteer_id: UUID
    position: str
    remarks: tuple[str, ...] = ()
    count: int = 1


@dataclass(frozen=True)
class Seats:
    """Who sits."""

    taken: frozenset[UUID] = frozenset()


def evolve(seats: Seats, event: Any) -> Seats:
    return Seats(seats.taken | {event.volunteer_id}) if isinstance(event, EnrollmentAccepted) else seats


def decide(seats: Seats, activity_id: UUID, body: TakeSeat) -> Sequence[Event] | Refusal:
    if body.volunteer_id in seats.taken:
        return []
    if len(seats.taken) >= SEATS:
        return Refusal("activity_full", {"seats": SEATS})
    return [EnrollmentAccepted(activity_id=activity_id, volunteer_id=body.volunteer_id, position=body.position)]


ACTIVITY: Final = Aggregate("activity", Seats(), evolve)


async def plan(asked: Asked[TakeSeat], _lookups: None) -> Plan[Seats]:
    activity_id = asked.ids["activity_id"]
    return Plan(Stream("activity", activity_id), ACTIVITY, lambda seats: decide(seats, activity_id, asked.body))


TAKE_SEAT: Final[UseCase[TakeSeat, None]] = UseCase(
    name="take_seat",
    path="/activities/{activity_id}/seats",
    body=TakeSeat,
    roles=frozenset({Role.VOLUNTEER, Role.UNIT_ADMIN}),
    plan=plan,
    refusals=("activity_full",),
    title_zh="占座",
    title_en="Take a seat",
)

REFUSALS: Final[Mapping[str, RefusalText]] = {"activity_full": RefusalText(409, "名额已满", "The activity is full")}

BALANCES: Final = Query(
    name="balances",
    path="/balances",
    sql="""
        SELECT volunteer_id, unit_code, minutes, seen_at, account_id FROM api.balances
        WHERE ($1::text IS NULL OR unit_code = $1)
          AND ($2::text IS NULL OR (unit_code, volunteer_id) > ($2, $3::uuid))
        ORDER BY unit_code, volunteer_id LIMIT $4
    """,
    columns=(
        Column("unit_code", "text", "单位", "Unit"),
        Column("volunteer_id", "uuid", "志愿者", "Volunteer"),
        Column("minutes", "integer", "时长", "Hours", minutes=True),
        Column("seen_at", "instant", "最近", "Last seen", nullable=True),
        Column("account_id", "uuid", "账户", "Account"),
    ),
    order=("unit_code", "volunteer_id"),
    roles=frozenset({Role.BUREAU_ADMIN, Role.AUDITOR}),
    title_zh="时长余额",
    title_en="Balances",
    filters=(Filter("unit", "text", "单位", "Unit"),),
    public=True,
    key="volunteer_id",
    details="streams/activity-{account_id}/events",
)

CODED: Final = Query(
    name="coded",
    path="/coded",
    sql="""
        SELECT volunteer_id, unit_code, CASE WHEN minutes % 2 = 0 THEN 'even' ELSE 'odd' END AS state, '甲' AS name_zh, 'Able' AS name_en,
               2017 AS year, seen_at
        FROM api.balances
        WHERE ($1::text IS NULL OR unit_code = $1) AND ($2::text IS NULL OR CASE WHEN minutes % 2 = 0 THEN 'even' ELSE 'odd' END = $2)
          AND ($3::uuid IS NULL OR volunteer_id = $3) AND ($4::timestamptz IS NULL OR seen_at >= $4)
          AND ($5::uuid IS NULL OR volunteer_id > $5)
        ORDER BY volunteer_id LIMIT $6
    """,
    columns=(
        Column("name_zh", "text", "姓名", "Name in Chinese", language="zh", of="volunteer_id"),
        Column("name_en", "text", "英文姓名", "Name", language="en", of="volunteer_id"),
        Column("volunteer_id", "uuid", "志愿者", "Volunteer", hidden=True),
        Column("unit_code", "text", "单位", "Unit"),
        Column("state", "text", "状态", "State", words={"even": ("双数", "even"), "odd": ("单数", "odd")}),
        Column("year", "integer", "年度", "Year", plain=True),
        Column("seen_at", "instant", "最近", "Last seen", nullable=True),
    ),
    order=("volunteer_id",),
    roles=frozenset(),
    title_zh="代码",
    title_en="Codes",
    filters=(
        Filter("unit", "text", "单位", "Unit", choices="SELECT DISTINCT unit_code, '单位', 'the unit' FROM api.balances"),
        Filter("state", "text", "状态", "State"),
        Filter("volunteer", "uuid", "志愿者", "Volunteer"),
        Filter("from", "instant", "自", "From"),
    ),
    public=True,
)

PEOPLE: Final = Query(
    name="people",
    path="/people",
    sql="""
        SELECT volunteer_id, name FROM api.people
        WHERE ($1::uuid IS NULL OR volunteer_id > $1) ORDER BY volunteer_id LIMIT $2
    """,
    columns=(Column("volunteer_id", "uuid", "志愿者", "Volunteer"), Column("name", "text", "姓名", "Name", nullable=True)),
    order=("volunteer_id",),
    roles=frozenset({Role.BUREAU_ADMIN}),
    title_zh="名册",
    title_en="Roll",
)
