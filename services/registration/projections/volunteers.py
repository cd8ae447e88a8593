"""Volunteers: number, unit, standing, consents. The table holds clear names for those who may see them; the views show them masked."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from operator import attrgetter
from pathlib import Path
from typing import Final, LiteralString
from uuid import UUID

from services.registration.projections.programmes import BY_UNIT
from shared.consumer.values import Fact, Figure, Projection
from shared.contracts.registration import (
    ConsentGiven,
    ConsentWithdrawn,
    PersonalDataErased,
    VolunteerDeregistered,
    VolunteerRegistered,
)
from shared.errors import InvariantError
from shared.http.query import Column, Filter, Query
from shared.permissions import EVERYBODY, Role
from shared.postgres import Connection


@dataclass(slots=True)
class _Volunteer:
    volunteer_id: UUID
    number: str
    unit_code: str
    name: str | None
    is_minor: bool
    skills: str | None
    standing: str
    registered_at: datetime
    registered_position: int
    named_position: int | None = None
    is_place_known: bool = True


_OF_VOLUNTEERS: Final = VolunteerRegistered | ConsentGiven | ConsentWithdrawn | VolunteerDeregistered | PersonalDataErased


_row: Final = attrgetter(*(each.name for each in fields(_Volunteer)))  # dataclasses.astuple copies every value deeply, which is slow.


async def fold(connection: Connection, facts: Sequence[Fact]) -> None:
    """Folds in memory, by person. An erasure nulls the clear values; in a replay they read null from the start."""
    touched = {fact.event.volunteer_id for fact in facts if isinstance(fact.event, _OF_VOLUNTEERS)}
    if not touched:
        return
    known = {row["volunteer_id"]: _Volunteer(**dict(row)) for row in await connection.fetch(_SELECT, list(touched))}
    for fact in facts:
        match fact.event:
            case VolunteerRegistered() as event:
                known[event.volunteer_id] = _registered(event, fact)
            case ConsentGiven() | ConsentWithdrawn() | VolunteerDeregistered() | PersonalDataErased() as event:
                if event.volunteer_id not in known:
                    raise InvariantError("a volunteer's record does not begin with the registration")
                _change(known[event.volunteer_id], event, fact.record.position)
            case _:
                pass
    columns = zip(*map(_row, known.values()), strict=True)
    await connection.execute(_UPSERT, *(list(column) for column in columns))


def _registered(event: VolunteerRegistered, fact: Fact) -> _Volunteer:
    return _Volunteer(
        volunteer_id=event.volunteer_id,
        number=event.number,
        unit_code=event.unit_code,
        name=event.name,
        is_minor=event.is_minor,
        skills=event.skills,
        standing="registered",
        registered_at=fact.record.time,
        registered_position=fact.record.position,
        is_place_known=event.is_place_known,
    )


def _change(
    volunteer: _Volunteer, event: ConsentGiven | ConsentWithdrawn | VolunteerDeregistered | PersonalDataErased, position: int
) -> None:
    match event:
        case ConsentGiven(consent="be_named"):
            volunteer.named_position = position
        case ConsentWithdrawn(consent="be_named"):
            volunteer.named_position = None
        case VolunteerDeregistered():
            volunteer.standing, volunteer.named_position = "left", None
        case PersonalDataErased():
            volunteer.standing, volunteer.name, volunteer.skills = "erased", None, None
        case _:
            pass


_SELECT: Final[LiteralString] = """
    SELECT volunteer_id, number, unit_code, name, is_minor, skills, standing, registered_at, registered_position, named_position,
           is_place_known
    FROM volunteers WHERE volunteer_id = ANY ($1::uuid[])
"""
_UPSERT: Final[LiteralString] = """
    INSERT INTO volunteers (volunteer_id, number, unit_code, name, is_minor, skills, standing, registered_at, registered_position,
                            named_position, is_place_known)
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::boolean[], $6::text[], $7::text[],
                         $8::timestamptz[], $9::bigint[], $10::bigint[], $11::boolean[])
    ON CONFLICT (volunteer_id) DO UPDATE
    SET number = excluded.number, unit_code = excluded.unit_code, name = excluded.name,
        is_minor = excluded.is_minor, skills = excluded.skills, standing = excluded.standing, registered_at = excluded.registered_at,
        registered_position = excluded.registered_position, named_position = excluded.named_position,
        is_place_known = excluded.is_place_known
"""
_ERASE: Final = "UPDATE volunteers SET name = NULL, skills = NULL WHERE volunteer_id = $1"

VOLUNTEERS: Final = Projection("volunteers", "registration", Path(__file__).with_suffix(".sql"), fold, _ERASE)

FIGURE: Final = Figure("volunteers", "registration", "views", "SELECT volunteer_id::text, 1 FROM volunteers")
"""Everybody who ever registered; the other services know as many."""

STANDINGS: Final = {
    "registered": ("已注册", "registered"),
    "left": ("已退出", "left"),
    "erased": ("个人信息已删除", "personal data erased"),
}
"""How a person stands in the programme."""

_STAFF: Final = frozenset({Role.BUREAU_ADMIN, Role.UNIT_ADMIN})
_AUDITOR: Final = frozenset({Role.AUDITOR})
"""Who looks at what was done needs nobody's own words."""

QUERY: Final = Query(
    name="volunteers",
    path="/volunteers",
    sql="""
        SELECT number, volunteer_id, unit_name, unit_code, masked_name, is_minor, standing, may_be_named, is_place_known, skills,
               registered_at
        FROM api.volunteers
        WHERE ($1::text IS NULL OR unit_code = $1) AND ($2::text IS NULL OR standing = $2)
          AND ($3::text IS NULL OR number > $3)
        ORDER BY number LIMIT $4
    """,
    columns=(
        Column("number", "text", "志愿者编号", "Number"),
        Column("volunteer_id", "uuid", "志愿者", "Volunteer", hidden=True),
        Column("unit_name", "text", "单位", "Unit"),
        Column("unit_code", "text", "单位代码", "Unit's code", hidden=True),
        Column("masked_name", "text", "姓名(隐去)", "Name (masked)", nullable=True),
        Column("is_minor", "boolean", "注册时未成年", "Minor when registered"),
        Column("standing", "text", "状态", "Standing", words=STANDINGS),
        Column("may_be_named", "boolean", "同意公开姓名", "May be named"),
        Column("is_place_known", "boolean", "身份证地区可识别", "ID number of a known place"),
        Column("skills", "text", "服务技能", "Skills", nullable=True, hidden=True, withheld=_AUDITOR),
        Column("registered_at", "instant", "注册时间", "Registered"),
    ),
    order=("number",),
    roles=_STAFF | _AUDITOR,
    title_zh="志愿者名册",
    title_en="Volunteers",
    filters=(BY_UNIT, Filter("standing", "text", "状态", "Standing")),
    key="volunteer_id",
    details="streams/volunteer-{volunteer_id}/events",
    personal=("masked_name", "skills"),
)

NAMED: Final = Query(
    name="named_volunteers",
    path="/named-volunteers",
    sql="""
        SELECT number, name, unit_name, unit_code FROM api.named_volunteers
        WHERE ($1::text IS NULL OR unit_code = $1) AND ($2::text IS NULL OR number > $2)
        ORDER BY number LIMIT $3
    """,
    columns=(
        Column("number", "text", "志愿者编号", "Number"),
        Column("name", "text", "姓名", "Name"),
        Column("unit_name", "text", "单位", "Unit"),
        Column("unit_code", "text", "单位代码", "Unit's code", hidden=True),
    ),
    order=("number",),
    roles=EVERYBODY,
    title_zh="公开姓名的志愿者",
    title_en="Volunteers who agreed to be named",
    filters=(BY_UNIT,),
    public=True,
)
"""The one public list of names: who agreed to that, for as long as they do, and nobody under 14."""
