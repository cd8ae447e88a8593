"""Star revocations: what waits for a second person, and what became of each proposal."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, LiteralString

from services.recognition.projections import units
from services.recognition.projections.star_history import REVOKED_FOR
from shared.access import AllUnitsOnly
from shared.consumer.values import Fact, Projection
from shared.contracts.recognition import StarRevocationDeclined, StarRevocationLapsed, StarRevocationProposed, StarRevoked
from shared.http.query import Column, Filter, Query
from shared.permissions import Role
from shared.postgres import Connection


async def fold(connection: Connection, facts: Sequence[Fact]) -> None:
    """One row for each proposal; of one that was approved every star that goes says so."""
    for fact in facts:
        at = fact.record.time
        match fact.event:
            case StarRevocationProposed() as event:
                await connection.execute(
                    _PROPOSED, event.proposal_id, event.volunteer_id, event.stars, event.unit_code, event.reason_code, at,
                    event.proposed_by, fact.record.position,
                )  # fmt: skip
            case StarRevoked(proposal_id=proposal_id, approved_by=who):
                await connection.execute(_ENDED, proposal_id, "revoked", at, who)
            case StarRevocationDeclined(proposal_id=proposal_id, reason_code=reason, declined_by=who):
                await connection.execute(_ENDED, proposal_id, reason, at, who)
            case StarRevocationLapsed(proposal_id=proposal_id):
                await connection.execute(_ENDED, proposal_id, "lapsed", at, None)
            case _:
                pass


_PROPOSED: Final[LiteralString] = """
    INSERT INTO star_revocations (proposal_id, volunteer_id, stars, unit_code, state, reason, proposed_at, proposed_by, proposed_position)
    VALUES ($1, $2, $3, $4, 'proposed', $5, $6, $7, $8)
"""
_ENDED: Final[LiteralString] = "UPDATE star_revocations SET state = $2, ended_at = $3, decided_by = $4 WHERE proposal_id = $1"

STAR_REVOCATIONS: Final = Projection(
    "star_revocations",
    "recognition",
    Path(__file__).with_suffix(".sql"),
    fold,
    rows={"star_revocations": AllUnitsOnly("two persons of the bureau decide on a revocation")},
)

STATES: Final = {
    "proposed": ("待第二人批准", "waits for a second person"),
    "revoked": ("已撤销", "revoked"),
    "taken_back": ("提出人撤回", "taken back"),
    "rejected": ("未批准", "rejected"),
    "lapsed": ("已失效", "lapsed"),
}
"""Where a proposed revocation stands."""

QUERY: Final = Query(
    name="star_revocations",
    path="/star-revocations",
    sql="""
        SELECT proposed_position, proposed_at, proposal_id, volunteer_id, unit_name, unit_code, stars, reason, state, proposed_by,
               decided_by, ended_at
        FROM api.star_revocations
        WHERE ($1::text IS NULL OR unit_code = $1) AND ($2::uuid IS NULL OR volunteer_id = $2) AND ($3::text IS NULL OR state = $3)
          AND ($4::bigint IS NULL OR proposed_position < $4)
        ORDER BY proposed_position DESC LIMIT $5
    """,
    columns=(
        Column("proposed_position", "integer", "日志位置", "Position", hidden=True),
        Column("proposed_at", "instant", "提出时间", "Proposed"),
        Column("proposal_id", "uuid", "提出标识", "Proposal"),
        Column("volunteer_id", "uuid", "志愿者", "Volunteer"),
        *units.COLUMNS,
        Column("stars", "integer", "自第几星起", "From this star on", plain=True),
        Column("reason", "text", "原因", "Reason", words=REVOKED_FOR),
        Column("state", "text", "状态", "State", words=STATES),
        Column("proposed_by", "uuid", "提出人", "Proposed by"),
        Column("decided_by", "uuid", "决定人", "Decided by", nullable=True),
        Column("ended_at", "instant", "办结时间", "Ended", nullable=True),
    ),
    order=("proposed_position",),
    roles=frozenset({Role.BUREAU_ADMIN, Role.AUDITOR}),
    title_zh="星级撤销",
    title_en="Revocations of stars",
    filters=(
        units.BY_UNIT,
        Filter("volunteer", "uuid", "志愿者", "Volunteer"),
        Filter("state", "text", "状态", "State"),
    ),
    key="volunteer_id",
    details="streams/star-{volunteer_id}/events",
)
