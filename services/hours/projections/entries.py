"""Entries: what was served when, in which state, how it came to that, and what still waits for approval."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, LiteralString, NamedTuple
from uuid import UUID

from services.hours.domain.day import minutes_between
from services.hours.projections import activities, units
from shared.access import AllUnitsOnly
from shared.consumer.values import Fact, Projection
from shared.contracts.hours import ServiceTimeConfirmed, ServiceTimeCorrected, ServiceTimeProposed, ServiceTimeReversed
from shared.errors import InvariantError
from shared.http.query import Column, Filter, Query
from shared.permissions import Role
from shared.postgres import Connection

AccountEvent = ServiceTimeProposed | ServiceTimeConfirmed | ServiceTimeCorrected | ServiceTimeReversed


class Standing(NamedTuple):
    """What can change of an entry."""

    starts_at: datetime
    ends_at: datetime
    minutes: int
    state: str
    credited_minutes: int
    over_cap_minutes: int


async def fold(connection: Connection, facts: Sequence[Fact]) -> None:
    """Rows of touched entries are read once, changed in memory in order, and written once. Raises InvariantError for an unknown entry."""
    said = [(fact, fact.event) for fact in facts if isinstance(fact.event, AccountEvent)]
    if not said:
        return
    touched = list({event.entry_id for _, event in said})
    known = {row[0]: Standing(*row[1:]) for row in await connection.fetch(_SELECT_STANDINGS, touched)}
    made: dict[UUID, tuple[Any, ...]] = {}
    stand = dict(known)
    changes = []
    for fact, event in said:
        entry_id, before = event.entry_id, stand.get(event.entry_id)
        if isinstance(event, ServiceTimeProposed) != (before is None):
            raise InvariantError("an entry is proposed once, before anything else")
        if isinstance(event, ServiceTimeProposed):
            made[entry_id] = _made(fact, event)
        after = stand[entry_id] = _standing(before, event)
        changes.append(_change(fact, event, before, after))
    await _write(connection, made, known, stand)
    await connection.execute(_INSERT_CHANGES, *map(list, zip(*changes, strict=True)))


async def _write(
    connection: Connection, made: Mapping[UUID, tuple[Any, ...]], known: Mapping[UUID, Standing], stand: Mapping[UUID, Standing]
) -> None:
    """`made` are the new rows without their standing, `known` what stood before, `stand` what stands now."""
    if made:
        rows = [row + stand[entry_id] for entry_id, row in made.items()]
        await connection.execute(_INSERT_ENTRIES, *map(list, zip(*rows, strict=True)))
    if known:
        await connection.execute(_UPDATE_ENTRIES, list(known), *map(list, zip(*(stand[each] for each in known), strict=True)))
    gone = [each for each, before in known.items() if before.state == "counted"]
    if gone:
        await connection.execute(_DELETE_INTERVALS, gone)
    counted = [(each, now.starts_at, now.ends_at) for each, now in stand.items() if now.state == "counted"]
    if counted:
        await connection.execute(_INSERT_INTERVALS, *map(list, zip(*counted, strict=True)))


def _made(fact: Fact, event: ServiceTimeProposed) -> tuple[Any, ...]:
    return (
        event.entry_id,
        fact.record.stream.id,
        event.volunteer_id,
        event.unit_code,
        event.activity_id,
        event.hour_class,
        event.served_on,
        event.recorder_id,
        fact.record.time,
    )


def _standing(before: Standing | None, event: AccountEvent) -> Standing:
    if isinstance(event, ServiceTimeProposed):
        return Standing(event.starts_at, event.ends_at, event.minutes, "pending", 0, 0)
    assert before is not None
    if isinstance(event, ServiceTimeReversed):
        return Standing(before.starts_at, before.ends_at, before.minutes, "reversed", 0, 0)
    minutes = minutes_between(event.starts_at, event.ends_at)
    return Standing(event.starts_at, event.ends_at, minutes, "counted", event.credited_minutes, event.over_cap_minutes)


def _change(fact: Fact, event: AccountEvent, before: Standing | None, after: Standing) -> tuple[Any, ...]:
    return (
        fact.record.position,
        event.entry_id,
        fact.record.stream.id,
        event.volunteer_id,
        event.unit_code,
        event.activity_id,
        event.served_on,
        event.TYPE.removeprefix("hours.service_time_"),
        fact.record.time,
        before and before.starts_at,
        before and before.ends_at,
        before.credited_minutes if before else 0,
        before.over_cap_minutes if before else 0,
        after.starts_at,
        after.ends_at,
        after.credited_minutes,
        after.over_cap_minutes,
        *_by_whom(event),
    )


def _by_whom(event: AccountEvent) -> tuple[str | None, str | None, UUID | None, UUID | None]:
    """Policy version, reason, who asked, who approved."""
    match event:
        case ServiceTimeProposed():
            return None, None, None, None
        case ServiceTimeConfirmed():
            return event.policy_version, None, None, event.approver_id
        case ServiceTimeCorrected():
            return event.policy_version, event.reason_code, event.requester_id, event.approver_id
        case ServiceTimeReversed():
            return None, event.reason_code, event.requester_id, event.approver_id


_INSERT_ENTRIES: Final[LiteralString] = """
    INSERT INTO entries (entry_id, account_id, volunteer_id, unit_code, activity_id, hour_class, served_on, recorder_id, proposed_at,
                         starts_at, ends_at, minutes, state, credited_minutes, over_cap_minutes)
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::uuid[], $6::text[], $7::date[], $8::uuid[], $9::timestamptz[],
                         $10::timestamptz[], $11::timestamptz[], $12::integer[], $13::text[], $14::integer[], $15::integer[])
"""
# INSERT and not COPY, here and below: PostgreSQL copies into no table that has row-level security.

_INSERT_CHANGES: Final[LiteralString] = """
    INSERT INTO entry_changes (position, entry_id, account_id, volunteer_id, unit_code, activity_id, served_on, change, changed_at,
                               old_starts_at, old_ends_at, old_credited_minutes, old_over_cap_minutes,
                               starts_at, ends_at, credited_minutes, over_cap_minutes,
                               policy_version, reason_code, requester_id, approver_id)
    SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::uuid[], $7::date[], $8::text[],
                         $9::timestamptz[], $10::timestamptz[], $11::timestamptz[], $12::integer[], $13::integer[],
                         $14::timestamptz[], $15::timestamptz[], $16::integer[], $17::integer[],
                         $18::text[], $19::text[], $20::uuid[], $21::uuid[])
"""

_SELECT_STANDINGS: Final[LiteralString] = """
    SELECT entry_id, starts_at, ends_at, minutes, state, credited_minutes, over_cap_minutes FROM entries WHERE entry_id = ANY ($1::uuid[])
"""

_UPDATE_ENTRIES: Final[LiteralString] = """
    UPDATE entries AS entry
    SET starts_at = now.starts_at, ends_at = now.ends_at, minutes = now.minutes, state = now.state,
        credited_minutes = now.credited_minutes, over_cap_minutes = now.over_cap_minutes
    FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::integer[], $5::text[], $6::integer[], $7::integer[])
        AS now (entry_id, starts_at, ends_at, minutes, state, credited_minutes, over_cap_minutes)
    WHERE entry.entry_id = now.entry_id
"""

_DELETE_INTERVALS: Final[LiteralString] = "DELETE FROM credited_intervals WHERE entry_id = ANY ($1::uuid[])"

_INSERT_INTERVALS: Final[LiteralString] = """
    INSERT INTO credited_intervals (entry_id, volunteer_id, during)
    SELECT entry.entry_id, entry.volunteer_id, tstzrange(counted.starts_at, counted.ends_at)
    FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[]) AS counted (entry_id, starts_at, ends_at)
    JOIN entries AS entry USING (entry_id)
"""

ENTRIES: Final = Projection(
    "entries",
    "hours",
    Path(__file__).with_suffix(".sql"),
    fold,
    rows={"credited_intervals": AllUnitsOnly("the tripwire; no view reads it")},
)

CHANGES: Final = {
    "proposed": ("提请", "proposed"),
    "confirmed": ("认定", "confirmed"),
    "corrected": ("更正", "corrected"),
    "reversed": ("冲销", "reversed"),
}
"""What can happen to an entry."""

REASONS: Final = {
    "check_out_missed": ("未签退", "check-out missed"),
    "wrong_time": ("时间有误", "wrong time"),
    "objection_upheld": ("异议成立", "objection upheld"),
    "false_record": ("记录不实", "false record"),
    "duplicate": ("重复记录", "duplicate"),
    "turned_down": ("不予认定", "turned down"),
}
"""Why an entry was corrected or reversed."""

_READERS: Final = frozenset({Role.BUREAU_ADMIN, Role.UNIT_ADMIN, Role.AUDITOR})
_VOLUNTEER: Final = Filter("volunteer", "uuid", "志愿者", "Volunteer")

HISTORY: Final = Query(
    name="history",
    path="/history",
    sql="""
        SELECT position, changed_at, change, volunteer_id, unit_name, unit_code, activity_title, activity_id, entry_id, account_id,
               served_on, old_starts_at, old_ends_at, old_credited_minutes, old_over_cap_minutes,
               starts_at, ends_at, credited_minutes, over_cap_minutes, policy_version, reason_code, requester_id, approver_id
        FROM api.history
        WHERE ($1::text IS NULL OR unit_code = $1) AND ($2::uuid IS NULL OR volunteer_id = $2) AND ($3::uuid IS NULL OR entry_id = $3)
          AND ($4::text IS NULL OR change = $4) AND ($5::bigint IS NULL OR position < $5)
        ORDER BY position DESC LIMIT $6
    """,
    columns=(
        Column("changed_at", "instant", "时间", "When"),
        Column("change", "text", "变动", "Change", words=CHANGES),
        Column("volunteer_id", "uuid", "志愿者", "Volunteer"),
        *units.COLUMNS,
        *activities.COLUMNS,
        Column("served_on", "date", "服务日期", "Day served"),
        Column("old_starts_at", "instant", "原开始", "Began, before", nullable=True, hidden=True),
        Column("old_ends_at", "instant", "原结束", "Ended, before", nullable=True, hidden=True),
        Column("old_credited_minutes", "integer", "原计入", "Counted, before", minutes=True),
        Column("old_over_cap_minutes", "integer", "原超限", "Over the cap, before", minutes=True, hidden=True),
        Column("starts_at", "instant", "开始", "Began", hidden=True),
        Column("ends_at", "instant", "结束", "Ended", hidden=True),
        Column("credited_minutes", "integer", "计入", "Counted", minutes=True),
        Column("over_cap_minutes", "integer", "超限", "Over the cap", minutes=True, hidden=True),
        Column("reason_code", "text", "原因", "Reason", nullable=True, words=REASONS),
        Column("requester_id", "uuid", "提出人", "Asked by", nullable=True, hidden=True),
        Column("approver_id", "uuid", "审核人", "Approved by", nullable=True, hidden=True),
        Column("policy_version", "text", "规则版本", "Policy version", nullable=True, hidden=True),
        Column("entry_id", "uuid", "时长条目", "Entry", hidden=True),
        Column("account_id", "uuid", "账户", "Account", hidden=True),
        Column("position", "integer", "日志位置", "Position", hidden=True),
    ),
    order=("position",),
    roles=_READERS,
    title_zh="时长变动记录",
    title_en="History of hours",
    filters=(units.BY_UNIT, _VOLUNTEER, Filter("entry", "uuid", "时长条目", "Entry"), Filter("change", "text", "变动", "Change")),
    key="volunteer_id",
    details="streams/account-{account_id}/events",
)

CONFIRM_QUEUE: Final = Query(
    name="confirm_queue",
    path="/confirm-queue",
    sql="""
        SELECT unit_name, unit_code, proposed_at, served_on, volunteer_id, activity_title, activity_id, starts_at, ends_at, minutes,
               check_out_missed, recorder_id, entry_id, account_id
        FROM api.confirm_queue
        WHERE ($1::text IS NULL OR unit_code = $1) AND ($2::uuid IS NULL OR volunteer_id = $2) AND ($3::uuid IS NULL OR activity_id = $3)
          AND ($4::timestamptz IS NULL OR (proposed_at, entry_id) > ($4, $5::uuid))
        ORDER BY proposed_at, entry_id LIMIT $6
    """,
    columns=(
        Column("proposed_at", "instant", "提请时间", "Waits since"),
        *units.COLUMNS,
        Column("served_on", "date", "服务日期", "Day served", hidden=True),
        Column("volunteer_id", "uuid", "志愿者", "Volunteer"),
        *activities.COLUMNS,
        Column("starts_at", "instant", "开始", "Began"),
        Column("ends_at", "instant", "结束", "Ended"),
        Column("minutes", "integer", "时长", "Hours", minutes=True),
        Column("check_out_missed", "boolean", "未签退", "Check-out missed"),
        Column("recorder_id", "uuid", "记录人", "Recorded by", hidden=True),
        Column("entry_id", "uuid", "时长条目", "Entry", hidden=True),
        Column("account_id", "uuid", "账户", "Account", hidden=True),
    ),
    order=("proposed_at", "entry_id"),
    roles=_READERS,
    title_zh="待认定时长",
    title_en="Hours that wait for approval",
    filters=(units.BY_UNIT, _VOLUNTEER, Filter("activity", "uuid", "活动", "Activity")),
    key="volunteer_id",
    details="streams/account-{account_id}/events",
)
