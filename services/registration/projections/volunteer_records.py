"""What the other two services say of each volunteer: minutes by class, and stars. One projection for each log; the view joins them (D9)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, LiteralString
from uuid import UUID

from services.registration.projections.programmes import BY_UNIT
from services.registration.projections.volunteers import STANDINGS
from shared.access import With
from shared.consumer.values import Fact, Figure, Projection
from shared.contracts.hours import LedgerAccount, ServiceTimeConfirmed, ServiceTimeCorrected, ServiceTimeReversed
from shared.contracts.recognition import StarGranted, StarRevoked, StarWithdrawn
from shared.http.query import Column, Filter, Query
from shared.permissions import Role
from shared.postgres import Connection

ACCOUNTS: Final[tuple[LedgerAccount, ...]] = ("timed", "backEntered", "transferred", "over_cap")
"""The volunteer's side of the ledger, in the order of the table's columns."""


async def fold_hours(connection: Connection, facts: Sequence[Fact]) -> None:
    """Adds what each posting group says, by volunteer and account."""
    added = dict[UUID, dict[str, int]]()
    for fact in facts:
        if isinstance(fact.event, ServiceTimeConfirmed | ServiceTimeCorrected | ServiceTimeReversed):
            sums = added.setdefault(fact.event.volunteer_id, dict.fromkeys(ACCOUNTS, 0))
            for posting in fact.event.postings:
                if posting.account in sums:
                    sums[posting.account] += posting.minutes
    await connection.execute(_ADD_MINUTES, list(added), *([sums[account] for sums in added.values()] for account in ACCOUNTS))


async def fold_stars(connection: Connection, facts: Sequence[Fact]) -> None:
    """A grant holds until it is withdrawn or revoked; the last word on each star counts."""
    said = dict[tuple[UUID, int], bool]()
    for fact in facts:
        if isinstance(fact.event, StarGranted | StarWithdrawn | StarRevoked):
            said[fact.event.volunteer_id, fact.event.stars] = isinstance(fact.event, StarGranted)
    await connection.execute(_SET_STARS, [who for who, _ in said], [stars for _, stars in said], list(said.values()))


_ADD_MINUTES: Final[LiteralString] = """
    INSERT INTO volunteer_minutes AS known (volunteer_id, timed, back_entered, transferred, over_cap)
    SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
    ON CONFLICT (volunteer_id) DO UPDATE
    SET timed = known.timed + excluded.timed, back_entered = known.back_entered + excluded.back_entered,
        transferred = known.transferred + excluded.transferred, over_cap = known.over_cap + excluded.over_cap
"""
_SET_STARS: Final[LiteralString] = """
    INSERT INTO volunteer_stars (volunteer_id, stars, is_held)
    SELECT * FROM unnest($1::uuid[], $2::integer[], $3::boolean[])
    ON CONFLICT (volunteer_id, stars) DO UPDATE SET is_held = excluded.is_held
"""

_OF_VOLUNTEERS: Final = With({"volunteer_id": "volunteers"})

MINUTES: Final = Projection(
    "volunteer_minutes", "hours", Path(__file__).with_name("volunteer_minutes.sql"), fold_hours, rows={"volunteer_minutes": _OF_VOLUNTEERS}
)
STARS: Final = Projection(
    "volunteer_stars", "recognition", Path(__file__).with_name("volunteer_stars.sql"), fold_stars, rows={"volunteer_stars": _OF_VOLUNTEERS}
)

FIGURES: Final = (
    Figure("minutes", "hours", "views", "SELECT volunteer_id::text, timed + back_entered + transferred FROM volunteer_minutes"),
    Figure("stars", "recognition", "views", "SELECT volunteer_id::text, count(*) FROM volunteer_stars WHERE is_held GROUP BY 1"),
)
"""What the other two count of each volunteer."""

QUERY: Final = Query(
    name="volunteer_overview",
    path="/volunteer-overview",
    sql="""
        SELECT unit_name, unit_code, number, volunteer_id, timed_minutes, back_entered_minutes, transferred_minutes, over_cap_minutes,
               stars, standing
        FROM api.volunteer_overview
        WHERE ($1::text IS NULL OR unit_code = $1) AND ($2::bigint IS NULL OR stars >= $2) AND ($3::text IS NULL OR standing = $3)
          AND ($4::text IS NULL OR (unit_code, number) > ($4, $5::text))
        ORDER BY unit_code, number LIMIT $6
    """,
    columns=(
        Column("unit_name", "text", "单位", "Unit"),
        Column("unit_code", "text", "单位代码", "Unit's code", hidden=True),
        Column("number", "text", "志愿者编号", "Number"),
        Column("volunteer_id", "uuid", "志愿者", "Volunteer", hidden=True),
        Column("timed_minutes", "integer", "系统计时", "Timed", minutes=True),
        Column("back_entered_minutes", "integer", "补录", "Back-entered", minutes=True),
        Column("transferred_minutes", "integer", "转入", "Transferred", minutes=True),
        Column("over_cap_minutes", "integer", "超出每日上限", "Over the daily cap", minutes=True),
        Column("stars", "integer", "星级", "Stars"),
        Column("standing", "text", "状态", "State", words=STANDINGS),
    ),
    order=("unit_code", "number"),
    roles=frozenset({Role.BUREAU_ADMIN, Role.UNIT_ADMIN, Role.AUDITOR}),
    title_zh="志愿者总览",
    title_en="Volunteers across all three services",
    filters=(
        BY_UNIT,
        Filter("stars", "integer", "至少星级", "At least so many stars"),
        Filter("standing", "text", "状态", "State"),
    ),
    public=True,
    key="volunteer_id",
    details="streams/volunteer-{volunteer_id}/events",
)
