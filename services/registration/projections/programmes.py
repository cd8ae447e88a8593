"""Programmes, their words, the units and who holds which role: what a bureau has laid down."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, LiteralString

from shared.access import Common, OfUnit
from shared.consumer.values import Fact, Projection
from shared.contracts.registration import DeviceKeyIssued, DeviceKeyRevoked, ProgrammeAdopted, RoleGranted, RoleWithdrawn, UnitRegistered
from shared.http.query import Column, Filter, Query
from shared.permissions import Role
from shared.postgres import Connection


async def fold(connection: Connection, facts: Sequence[Fact]) -> None:
    """A year's programme and its units are said once; a unit is as the newest programme says, a role as it was last said."""
    units, roles = list[UnitRegistered](), dict[tuple[object, str, str], tuple[Fact, bool]]()
    issued, revoked = list[tuple[object, ...]](), list[tuple[object, ...]]()
    for fact in facts:
        match fact.event:
            case ProgrammeAdopted() as event:
                await _insert_programme(connection, event)
            case UnitRegistered() as event:
                units.append(event)
            case RoleGranted() | RoleWithdrawn() as event:
                roles[event.person_id, event.role, event.unit_code] = (fact, isinstance(event, RoleGranted))
            case DeviceKeyIssued() as event:
                issued.append((event.device_id, event.unit_code, event.name, fact.record.time, event.expires_at, event.networks))
            case DeviceKeyRevoked() as event:
                revoked.append((event.device_id, fact.record.time, event.reason_code))
            case _:
                pass
    await connection.executemany(_INSERT_DEVICE, issued)
    await connection.executemany(_REVOKE_DEVICE, revoked)
    await connection.executemany(
        _UPSERT_UNIT,
        [
            (
                each.code, each.name, each.kind, each.parent_code, list(each.aliases), each.valid_from,
                each.planned_activities_per_month, each.year,
            )
            for each in units
        ],
    )  # fmt: skip
    await connection.executemany(
        _INSERT_PLAN, [(each.year, each.code, each.planned_activities_per_month, each.valid_from) for each in units]
    )
    await connection.executemany(_UPSERT_ROLE, [(*key, is_held, fact.record.time) for key, (fact, is_held) in roles.items()])


async def _insert_programme(connection: Connection, event: ProgrammeAdopted) -> None:
    await connection.execute(
        _INSERT_PROGRAMME,
        event.year,
        event.title,
        event.theme,
        event.issuing_body,
        event.document_reference,
        event.issued_on,
        event.starts_on,
        event.ends_on,
    )
    words = [
        *(("carrier", each.code, each.name_zh, each.name_en, None, None) for each in event.carriers),
        *(("target_group", each.code, each.name_zh, each.name_en, None, None) for each in event.target_groups),
        *(("occasion", each.code, each.name_zh, each.name_en, each.month, each.day) for each in event.occasions),
    ]
    await connection.executemany(_INSERT_WORD, [(event.year, *word) for word in words])


_INSERT_PROGRAMME: Final[LiteralString] = """
    INSERT INTO programmes (year, title, theme, issuing_body, document_reference, issued_on, starts_on, ends_on)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""
_INSERT_WORD: Final[LiteralString] = """
    INSERT INTO programme_words (year, kind, code, name_zh, name_en, month, day) VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
_UPSERT_UNIT: Final[LiteralString] = """
    INSERT INTO units (code, name, kind, parent_code, aliases, valid_from, planned_activities_per_month, year)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
    ON CONFLICT (code) DO UPDATE
    SET name = excluded.name, kind = excluded.kind, parent_code = excluded.parent_code, aliases = excluded.aliases,
        valid_from = excluded.valid_from, planned_activities_per_month = excluded.planned_activities_per_month, year = excluded.year
    WHERE units.year <= excluded.year
"""
_INSERT_PLAN: Final[LiteralString] = """
    INSERT INTO unit_plans (year, code, planned, valid_from) VALUES ($1, $2, $3, $4)
"""
_INSERT_DEVICE: Final[LiteralString] = """
    INSERT INTO devices (device_id, unit_code, name, issued_at, expires_at, networks) VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT DO NOTHING
"""

_REVOKE_DEVICE: Final[LiteralString] = "UPDATE devices SET revoked_at = $2, reason = $3 WHERE device_id = $1"

_UPSERT_ROLE: Final[LiteralString] = """
    INSERT INTO roles (person_id, role, unit_code, is_held, since) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (person_id, role, unit_code) DO UPDATE SET is_held = excluded.is_held, since = excluded.since
"""

KINDS: Final = {
    "carrier": ("活动载体", "carrier"),
    "target_group": ("重点群体", "target group"),
    "occasion": ("时间节点", "occasion"),
}
"""What a programme's word is for."""

UNIT_KINDS: Final = {
    "bureau": ("局机关", "bureau"),
    "subordinate_unit": ("局属单位", "subordinate unit"),
    "office": ("科室", "office"),
}

ROLE_NAMES: Final = {
    "bureau_admin": ("局管理员", "bureau admin"),
    "unit_admin": ("单位管理员", "unit admin"),
    "activity_leader": ("活动负责人", "activity leader"),
    "volunteer": ("志愿者", "volunteer"),
    "kiosk": ("签到终端", "kiosk"),
    "auditor": ("审计员", "auditor"),
    "ops": ("运维", "operations"),
    "system": ("系统", "the system"),
}

BY_UNIT: Final = Filter("unit", "text", "单位", "Unit", choices="SELECT code, name, name FROM api.units ORDER BY code")

PROGRAMMES: Final = Projection(
    "programmes",
    "registration",
    Path(__file__).with_suffix(".sql"),
    fold,
    rows={
        "programmes": Common("the notice that all units follow"),
        "programme_words": Common("carriers, occasions and target groups of the notice"),
        "units": OfUnit("code"),
        "unit_plans": OfUnit("code"),
    },
)

WORDS: Final = Query(
    name="programme_words",
    path="/programme-words",
    sql="""
        SELECT year, kind, code, name_zh, name_en, month, day FROM api.programme_words
        WHERE ($1::bigint IS NULL OR year = $1) AND ($2::text IS NULL OR kind = $2)
          AND ($3::bigint IS NULL OR year < $3 OR (year = $3 AND (kind, code) > ($4::text, $5::text)))
        ORDER BY year DESC, kind, code LIMIT $6
    """,
    columns=(
        Column("year", "integer", "年度", "Year", plain=True),
        Column("kind", "text", "类别", "Kind", words=KINDS),
        Column("name_zh", "text", "名称", "Name in Chinese", language="zh"),
        Column("name_en", "text", "英文名称", "Name", language="en"),
        Column("month", "integer", "月", "Month", nullable=True, plain=True),
        Column("day", "integer", "日", "Day", nullable=True, plain=True),
        Column("code", "text", "代码", "Code"),
    ),
    order=("year", "kind", "code"),
    roles=frozenset(Role),
    title_zh="方案内容: 载体, 重点群体, 时间节点",
    title_en="The programme: carriers, target groups, occasions",
    filters=(Filter("year", "integer", "年度", "Year"), Filter("kind", "text", "类别", "Kind")),
    public=True,
)

UNITS: Final = Query(
    name="units",
    path="/units",
    sql="""
        SELECT code, name, kind, parent_name, parent_code, valid_from, planned_activities_per_month FROM api.units
        WHERE ($1::text IS NULL OR code > $1) ORDER BY code LIMIT $2
    """,
    columns=(
        Column("name", "text", "单位", "Unit"),
        Column("code", "text", "代码", "Code"),
        Column("kind", "text", "类别", "Kind", words=UNIT_KINDS),
        Column("parent_name", "text", "上级单位", "Parent", nullable=True),
        Column("parent_code", "text", "上级单位代码", "Parent's code", nullable=True, hidden=True),
        Column("valid_from", "date", "启用日期", "Valid from"),
        Column("planned_activities_per_month", "integer", "每月计划活动", "Planned a month"),
    ),
    order=("code",),
    roles=frozenset(Role),
    title_zh="单位",
    title_en="Units",
    public=True,
)

LOSSES: Final = {"lost": ("遗失", "lost"), "replaced": ("已更换", "replaced"), "retired": ("停用", "retired")}

DEVICES: Final = Query(
    name="devices",
    path="/devices",
    sql="""
        SELECT name, unit_name, unit_code, device_id, networks, issued_at, expires_at, revoked_at, reason FROM api.devices
        WHERE ($1::text IS NULL OR unit_code = $1) AND ($2::uuid IS NULL OR device_id > $2)
        ORDER BY device_id LIMIT $3
    """,
    columns=(
        Column("name", "text", "设备", "Device"),
        Column("unit_name", "text", "单位", "Unit"),
        Column("unit_code", "text", "单位代码", "Unit's code", hidden=True),
        Column("device_id", "uuid", "编号", "Id"),
        Column("networks", "text", "来源网络", "From", nullable=True),
        Column("issued_at", "instant", "登记于", "Since"),
        Column("expires_at", "instant", "有效期至", "Until"),
        Column("revoked_at", "instant", "吊销于", "Revoked", nullable=True),
        Column("reason", "text", "原因", "Why", nullable=True, words=LOSSES),
    ),
    order=("device_id",),
    roles=frozenset({Role.BUREAU_ADMIN, Role.UNIT_ADMIN, Role.AUDITOR}),
    title_zh="签到设备",
    title_en="Devices that check people in",
    filters=(BY_UNIT,),
    key="device_id",
)

ROLES: Final = Query(
    name="roles",
    path="/roles",
    sql="""
        SELECT person_id, role, unit_name, unit_code, is_held, since FROM api.roles
        WHERE ($1::text IS NULL OR unit_code = $1)
          AND ($2::uuid IS NULL OR (person_id, role, unit_code) > ($2, $3::text, $4::text))
        ORDER BY person_id, role, unit_code LIMIT $5
    """,
    columns=(
        Column("person_id", "uuid", "人员", "Person"),
        Column("role", "text", "角色", "Role", words=ROLE_NAMES),
        Column("unit_name", "text", "单位", "Unit"),
        Column("unit_code", "text", "单位代码", "Unit's code", hidden=True),
        Column("is_held", "boolean", "有效", "Held"),
        Column("since", "instant", "自", "Since"),
    ),
    order=("person_id", "role", "unit_code"),
    roles=frozenset({Role.BUREAU_ADMIN, Role.AUDITOR}),
    title_zh="授权记录",
    title_en="Roles granted and withdrawn",
    filters=(BY_UNIT,),
    key="person_id",
)
