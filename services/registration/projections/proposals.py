"""Programmes that wait for a second person, what they would change, and what became of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, LiteralString

from services.registration.projections.programmes import UNIT_KINDS
from shared.access import AllUnitsOnly
from shared.consumer.values import Fact, Projection
from shared.contracts.registration import ProgrammeApproved, ProgrammeDeclined, ProgrammeLapsed, ProgrammeProposed, UnitProposed
from shared.http.query import Column, Filter, Query
from shared.permissions import Role
from shared.postgres import Connection


async def fold(connection: Connection, facts: Sequence[Fact]) -> None:
    """A file that is proposed again after it was not adopted begins anew."""
    units = list[tuple[object, ...]]()
    for fact in facts:
        at = fact.record.time
        match fact.event:
            case ProgrammeProposed(proposal_id=proposal_id):
                units = [each for each in units if each[0] != proposal_id]
                await _propose(connection, fact, fact.event)
            case UnitProposed(proposal_id=proposal_id, unit=unit, difference=difference):
                units.append(
                    (
                        proposal_id, unit.code, difference, unit.name, unit.kind, unit.parent_code, unit.planned_activities_per_month,
                        unit.valid_from,
                    )
                )  # fmt: skip
            case ProgrammeApproved(proposal_id=proposal_id, approved_by=who):
                await connection.execute(_ENDED, proposal_id, "adopted", at, who)
            case ProgrammeDeclined(proposal_id=proposal_id, reason_code=reason):
                await connection.execute(_ENDED, proposal_id, reason, at, None)
            case ProgrammeLapsed(proposal_id=proposal_id):
                await connection.execute(_ENDED, proposal_id, "lapsed", at, None)
            case _:
                pass
    await connection.executemany(_UNIT, units)


async def _propose(connection: Connection, fact: Fact, event: ProgrammeProposed) -> None:
    said = event.programme
    words = 0 if said is None else len(said.carriers) + len(said.target_groups) + len(said.occasions)
    await connection.execute("DELETE FROM proposed_units WHERE proposal_id = $1", event.proposal_id)
    await connection.execute(
        _PROPOSED, event.proposal_id, event.year, said is not None, fact.record.time, event.proposed_by, event.expires_at,
        event.file_digest, event.compared_with, words, event.words_new, event.words_changed, event.words_gone, event.units_gone,
        fact.record.stream.id,
    )  # fmt: skip


_PROPOSED: Final[LiteralString] = """
    INSERT INTO programme_proposals (proposal_id, year, state, is_new_year, proposed_at, proposed_by, expires_at, file_digest,
                                     compared_with, words, words_new, words_changed, words_gone, units_gone, stream_id)
    VALUES ($1, $2, 'proposed', $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
    ON CONFLICT (proposal_id) DO UPDATE
    SET state = 'proposed', is_new_year = excluded.is_new_year, proposed_at = excluded.proposed_at, proposed_by = excluded.proposed_by,
        expires_at = excluded.expires_at, compared_with = excluded.compared_with, words_new = excluded.words_new,
        words_changed = excluded.words_changed, words_gone = excluded.words_gone, units_gone = excluded.units_gone,
        approved_by = NULL, ended_at = NULL
"""
_UNIT: Final[LiteralString] = """
    INSERT INTO proposed_units (proposal_id, code, difference, name, kind, parent_code, planned_activities_per_month, valid_from)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""
_ENDED: Final[LiteralString] = """
    UPDATE programme_proposals SET state = $2, ended_at = $3, approved_by = $4 WHERE proposal_id = $1
"""

_OF_THE_BUREAU: Final = AllUnitsOnly("two persons of the bureau decide on a programme")

PROPOSALS: Final = Projection(
    "proposals",
    "registration",
    Path(__file__).with_suffix(".sql"),
    fold,
    rows={"programme_proposals": _OF_THE_BUREAU, "proposed_units": _OF_THE_BUREAU},
)

STATES: Final = {
    "proposed": ("待第二人批准", "waits for a second person"),
    "adopted": ("已批准", "approved and adopted"),
    "taken_back": ("提交人撤回", "taken back"),
    "rejected": ("未批准", "rejected"),
    "lapsed": ("已失效", "lapsed"),
}
"""Where a proposed programme stands."""

DIFFERENCES: Final = {"new": ("新增", "new"), "changed": ("有改动", "changed"), "same": ("不变", "the same")}

_READERS: Final = frozenset({Role.BUREAU_ADMIN, Role.AUDITOR})

QUERY: Final = Query(
    name="programme_proposals",
    path="/programme-proposals",
    sql="""
        SELECT proposal_id, year, state, is_new_year, proposed_at, proposed_by, expires_at, approved_by, ended_at, units, units_new,
               units_changed, units_gone, words, words_new, words_changed, words_gone, compared_with, file_digest, stream_id
        FROM api.programme_proposals
        WHERE ($1::text IS NULL OR state = $1) AND ($2::bigint IS NULL OR year = $2)
          AND ($3::bigint IS NULL OR year < $3 OR (year = $3 AND proposal_id > $4::uuid))
        ORDER BY year DESC, proposal_id LIMIT $5
    """,
    columns=(
        Column("proposal_id", "uuid", "提交标识", "Proposal"),
        Column("year", "integer", "年度", "Year", plain=True),
        Column("state", "text", "状态", "State", words=STATES),
        Column("is_new_year", "boolean", "新年度方案", "A year's whole programme"),
        Column("proposed_at", "instant", "提交时间", "Proposed"),
        Column("proposed_by", "uuid", "提交人", "Proposed by"),
        Column("expires_at", "instant", "批准期限", "To be approved until"),
        Column("approved_by", "uuid", "批准人", "Approved by", nullable=True),
        Column("ended_at", "instant", "办结时间", "Ended", nullable=True),
        Column("units", "integer", "单位数", "Units"),
        Column("units_new", "integer", "新增单位", "Of these new"),
        Column("units_changed", "integer", "改动单位", "Of these changed"),
        Column("units_gone", "text", "不再列出的单位", "Units no longer named", nullable=True),
        Column("words", "integer", "方案内容项数", "Carriers, target groups, occasions"),
        Column("words_new", "text", "新增内容", "Of these new", nullable=True),
        Column("words_changed", "text", "改动内容", "Of these changed", nullable=True),
        Column("words_gone", "text", "不再列出的内容", "No longer named", nullable=True),
        Column("compared_with", "integer", "对比年度", "Compared with the year", plain=True, nullable=True),
        Column("file_digest", "text", "文件摘要 (SHA-256)", "Digest of the file (SHA-256)"),
        Column("stream_id", "uuid", "日志流", "Stream", hidden=True),
    ),
    order=("year", "proposal_id"),
    roles=_READERS,
    title_zh="待批准的方案导入",
    title_en="Programmes proposed for import",
    filters=(Filter("state", "text", "状态", "State"), Filter("year", "integer", "年度", "Year")),
    details="streams/programme-{stream_id}/events",
)

UNITS: Final = Query(
    name="proposed_units",
    path="/proposed-units",
    sql="""
        SELECT proposal_id, code, difference, name, kind, parent_code, planned_activities_per_month, valid_from FROM api.proposed_units
        WHERE ($1::uuid IS NULL OR proposal_id = $1) AND ($2::uuid IS NULL OR (proposal_id, code) > ($2, $3::text))
        ORDER BY proposal_id, code LIMIT $4
    """,
    columns=(
        Column("proposal_id", "uuid", "提交标识", "Proposal"),
        Column("code", "text", "代码", "Code"),
        Column("difference", "text", "变化", "Difference", words=DIFFERENCES),
        Column("name", "text", "名称", "Name"),
        Column("kind", "text", "类别", "Kind", words=UNIT_KINDS),
        Column("parent_code", "text", "上级单位代码", "Unit above", nullable=True),
        Column("planned_activities_per_month", "integer", "每月计划活动数", "Planned a month"),
        Column("valid_from", "date", "启用日期", "From"),
    ),
    order=("proposal_id", "code"),
    roles=_READERS,
    title_zh="待批准方案中的单位",
    title_en="Units of proposed programmes",
    filters=(Filter("proposal", "uuid", "提交标识", "Proposal"),),
)
