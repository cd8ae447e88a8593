"""Erasures: who asked, who approved, which services have said that they did their part. A completed row is the proof; it names nobody."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, LiteralString

from shared.access import AllUnitsOnly
from shared.consumer.values import Fact, Projection
from shared.contracts.registration import (
    ErasureCompleted,
    ErasureDeclined,
    ErasureReceiptRecorded,
    ErasureRequested,
    PersonalDataErased,
)
from shared.http.query import Column, Filter, Query
from shared.permissions import Role
from shared.postgres import Connection


async def fold(connection: Connection, facts: Sequence[Fact]) -> None:
    """A new request after one that was declined begins anew. An erasure of before there were requests has none."""
    for fact in facts:
        record = fact.record
        match fact.event:
            case ErasureRequested(volunteer_id=who, requested_by=by):
                await connection.execute(_REQUESTED, who, record.log_id, record.time, by, record.position)
            case ErasureDeclined(volunteer_id=who, reason_code=code):
                await connection.execute("UPDATE erasures SET state = 'declined', declined_as = $2 WHERE volunteer_id = $1", who, code)
            case PersonalDataErased(volunteer_id=who):
                await connection.execute(_ERASED, who, record.log_id, record.time, record.actor, record.position)
            case ErasureReceiptRecorded(volunteer_id=who, service=service, receipt_position=position, sign_in_destroyed=destroyed):
                await connection.execute(_RECEIPT, who, service, record.time, position, destroyed)
            case ErasureCompleted(volunteer_id=who):
                await connection.execute(_COMPLETED, who, record.time, record.position)
            case _:
                pass


_REQUESTED: Final[LiteralString] = """
    INSERT INTO erasures (volunteer_id, state, log_id, requested_at, requested_by, requested_position)
    VALUES ($1, 'requested', $2, $3, $4, $5)
    ON CONFLICT (volunteer_id) DO UPDATE
    SET state = 'requested', requested_at = excluded.requested_at, requested_by = excluded.requested_by,
        requested_position = excluded.requested_position, declined_as = NULL
"""
_ERASED: Final[LiteralString] = """
    INSERT INTO erasures (volunteer_id, state, log_id, erased_at, approved_by, erased_position) VALUES ($1, 'erased', $2, $3, $4, $5)
    ON CONFLICT (volunteer_id) DO UPDATE
    SET state = 'erased', erased_at = excluded.erased_at, approved_by = excluded.approved_by, erased_position = excluded.erased_position
"""
_RECEIPT: Final[LiteralString] = """
    UPDATE erasures SET
        registration_receipt_at = CASE WHEN $2::text = 'registration' THEN $3::timestamptz ELSE registration_receipt_at END,
        hours_receipt_at = CASE WHEN $2 = 'hours' THEN $3 ELSE hours_receipt_at END,
        hours_position = CASE WHEN $2 = 'hours' THEN $4::bigint ELSE hours_position END,
        recognition_receipt_at = CASE WHEN $2 = 'recognition' THEN $3 ELSE recognition_receipt_at END,
        recognition_position = CASE WHEN $2 = 'recognition' THEN $4 ELSE recognition_position END,
        sign_in_destroyed = sign_in_destroyed OR $5
    WHERE volunteer_id = $1
"""
_COMPLETED: Final[LiteralString] = """
    UPDATE erasures SET state = 'completed', completed_at = $2, completed_position = $3 WHERE volunteer_id = $1
"""

ERASURES: Final = Projection(
    "erasures",
    "registration",
    Path(__file__).with_suffix(".sql"),
    fold,
    rows={"erasures": AllUnitsOnly("the bureau asks for erasures and approves them")},
)

STATES: Final = {
    "requested": ("待第二人批准", "waits for a second person"),
    "declined": ("未删除", "not erased"),
    "erased": ("已批准, 待各服务回执", "approved, waits for the services' receipts"),
    "completed": ("已完成", "completed"),
}
"""Where an erasure stands."""

DECLINED_AS: Final = {
    "taken_back": ("本人撤回", "taken back"),
    "identity_not_proven": ("未能核实身份", "identity not proven"),
    "kept_by_law": ("依法须保存", "kept by law"),
}

QUERY: Final = Query(
    name="erasures",
    path="/erasures",
    sql="""
        SELECT volunteer_id, state, log_id, requested_at, requested_by, requested_position, declined_as, erased_at, approved_by,
               erased_position, registration_receipt_at, sign_in_destroyed, hours_receipt_at, hours_position, recognition_receipt_at,
               recognition_position, completed_at, completed_position
        FROM api.erasures
        WHERE ($1::text IS NULL OR state = $1) AND ($2::uuid IS NULL OR volunteer_id = $2) AND ($3::uuid IS NULL OR volunteer_id > $3)
        ORDER BY volunteer_id LIMIT $4
    """,
    columns=(
        Column("volunteer_id", "uuid", "志愿者", "Volunteer"),
        Column("state", "text", "状态", "State", words=STATES),
        Column("log_id", "uuid", "日志标识", "Log", hidden=True),
        Column("requested_at", "instant", "申请时间", "Requested", nullable=True),
        Column("requested_by", "uuid", "申请人", "Requested by", nullable=True),
        Column("requested_position", "integer", "申请位置", "Position of the request", plain=True, nullable=True, hidden=True),
        Column("declined_as", "text", "未删除的原因", "Declined because", nullable=True, words=DECLINED_AS),
        Column("erased_at", "instant", "批准时间", "Approved", nullable=True),
        Column("approved_by", "text", "批准人", "Approved by", nullable=True),
        Column("erased_position", "integer", "批准位置", "Position of the approval", plain=True, nullable=True, hidden=True),
        Column("registration_receipt_at", "instant", "登记服务回执", "Registration's receipt", nullable=True),
        Column("sign_in_destroyed", "boolean", "登录信息已销毁", "Login, password and sessions destroyed"),
        Column("hours_receipt_at", "instant", "时长服务回执", "Hours' receipt", nullable=True),
        Column("hours_position", "integer", "时长服务日志位置", "Position in its log", plain=True, nullable=True, hidden=True),
        Column("recognition_receipt_at", "instant", "评星服务回执", "Recognition's receipt", nullable=True),
        Column("recognition_position", "integer", "评星服务日志位置", "Position in its log", plain=True, nullable=True, hidden=True),
        Column("completed_at", "instant", "完成时间", "Completed", nullable=True),
        Column("completed_position", "integer", "完成位置", "Position of the end", plain=True, nullable=True, hidden=True),
    ),
    order=("volunteer_id",),
    roles=frozenset({Role.BUREAU_ADMIN, Role.AUDITOR}),
    title_zh="个人信息删除",
    title_en="Erasures of personal data",
    filters=(Filter("state", "text", "状态", "State"), Filter("volunteer", "uuid", "志愿者", "Volunteer")),
    key="volunteer_id",
    details="streams/volunteer-{volunteer_id}/events",
)
"""With one person and all positions in it, a completed row is the proof of that person's erasure, for `verify` to hold against the log."""
