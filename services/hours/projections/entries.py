"""Entries: what was served when, in which state, how it came to that, and what still waits for approval."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import date, datetime
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, LiteralString
from uuid import UUID

from services.hours.domain.day import minutes_between
from services.hours.projections import activities, units
from shared.consumer.values import Fact, Projection
from shared.contracts.hours import ServiceTimeConfirmed, ServiceTimeCorrected, ServiceTimeProposed, ServiceTimeReversed
from shared.errors import InvariantError
from shared.http.query import Column, Filter, Query
from shared.permissions import Role
from shared.postgres import Connection

AccountEvent = ServiceTimeProposed | ServiceTimeConfirmed | ServiceTimeCorrected | ServiceTimeReversed


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of `entries`."""

    entry_id: UUID
    account_id: UUID
    volunteer_id: UUID
    unit_code: str
    activity_id: UUID
    hour_class: str
    served_on: date
    starts_at: datetime
    ends_at: datetime
    minutes: int
    state: str
    credited_minutes: int
    over_cap_minutes: int
    recorder_id: UUID
    proposed_at: datetime


_COLUMNS: Final = [each.name for each in fields(Entry)]
_row: Final = attrgetter(*_COLUMNS)  # dataclasses.astuple copies every value deeply: half the time of the whole batch.


async def fold(connection: Connection, facts: Sequence[Fact]) -> None:
    """Rows of touched entries are read once, changed in memory in order, and written once. Raises InvariantError for an unknown entry."""
    said = [(fact, fact.event) for fact in facts if isinstance(fact.event, AccountEvent)]
    touched = list({event.entry_id for _, event in said})
    rows = {row["entry_id"]: Entry(**dict(row)) for row in await connection.fetch(_SELECT_ENTRIES, touched)}
    changes = []
    for fact, event in said:
        before = rows.get(event.entry_id)
        if isinstance(event, ServiceTimeProposed) != (before is None):
            raise InvariantError("an entry is proposed once, before anything else")
        after = rows[event.entry_id] = _proposed(fact, event) if isinstance(event, ServiceTimeProposed) else _changed(before, event)
        changes.append(_change(fact, event, before, after))
    await connection.execute(_DELETE_INTERVALS, touched)
    await connection.execute(_DELETE_ENTRIES, touched)
    await connection.copy_records_to_table("entries", records=map(_row, rows.values()), columns=_COLUMNS)
    counted = [each for each in rows.values() if each.state == "counted"]
    await connection.execute(
        _INSERT_INTERVALS,
        [each.entry_id for each in counted],
        [each.volunteer_id for each in counted],
        [each.starts_at for each in counted],
        [each.ends_at for each in counted],
    )
    await connection.copy_records_to_table("entry_changes", records=changes, columns=_CHANGE_COLUMNS)


def _proposed(fact: Fact, event: ServiceTimeProposed) -> Entry:
    return Entry(
        entry_id=event.entry_id,
        account_id=fact.record.stream.id,
        volunteer_id=event.volunteer_id,
        unit_code=event.unit_code,
        activity_id=event.activity_id,
        hour_class=event.hour_class,
        served_on=event.served_on,
        starts_at=event.starts_at,
        ends_at=event.ends_at,
        minutes=event.minutes,
        state="pending",
        credited_minutes=0,
        over_cap_minutes=0,
        recorder_id=event.recorder_id,
        proposed_at=fact.record.time,
    )


def _changed(before: Entry | None, event: ServiceTimeConfirmed | ServiceTimeCorrected | ServiceTimeReversed) -> Entry:
    assert before is not None
    if isinstance(event, ServiceTimeReversed):
        return replace(before, state="reversed", credited_minutes=0, over_cap_minutes=0)
    return replace(
        before,
        state="counted",
        starts_at=event.starts_at,
        ends_at=event.ends_at,
        minutes=minutes_between(event.starts_at, event.ends_at),
        credited_minutes=event.credited_minutes,
        over_cap_minutes=event.over_cap_minutes,
    )


def _change(fact: Fact, event: AccountEvent, before: Entry | None, after: Entry) -> tuple[Any, ...]:
    return (
        fact.record.position,
        after.entry_id,
        after.account_id,
        after.volunteer_id,
        after.unit_code,
        after.activity_id,
        after.served_on,
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
        getattr(event, "policy_version", None),
        getattr(event, "reason_code", None),
        getattr(event, "requester_id", None),
        getattr(event, "approver_id", None),
    )


_CHANGE_COLUMNS: Final = (
    "position",
    "entry_id",
    "account_id",
    "volunteer_id",
    "unit_code",
    "activity_id",
    "served_on",
    "change",
    "changed_at",
    "old_starts_at",
    "old_ends_at",
    "old_credited_minutes",
    "old_over_cap_minutes",
    "starts_at",
    "ends_at",
    "credited_minutes",
    "over_cap_minutes",
    "policy_version",
    "reason_code",
    "requester_id",
    "approver_id",
)

_SELECT_ENTRIES: Final[LiteralString] = """
    SELECT entry_id, account_id, volunteer_id, unit_code, activity_id, hour_class, served_on, starts_at, ends_at, minutes, state,
           credited_minutes, over_cap_minutes, recorder_id, proposed_at
    FROM entries WHERE entry_id = ANY ($1::uuid[])
"""

_DELETE_ENTRIES: Final[LiteralString] = "DELETE FROM entries WHERE entry_id = ANY ($1::uuid[])"

_DELETE_INTERVALS: Final[LiteralString] = "DELETE FROM credited_intervals WHERE entry_id = ANY ($1::uuid[])"

_INSERT_INTERVALS: Final[LiteralString] = """
    INSERT INTO credited_intervals (entry_id, volunteer_id, during)
    SELECT entry_id, volunteer_id, tstzrange(starts_at, ends_at)
    FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::timestamptz[]) AS counted (entry_id, volunteer_id, starts_at, ends_at)
"""

ENTRIES: Final = Projection("entries", "hours", Path(__file__).with_suffix(".sql"), fold)

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
