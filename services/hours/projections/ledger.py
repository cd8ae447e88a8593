"""Ledger: every posting group, the balances they add up to, and totals as of any past moment."""

from collections.abc import Sequence
from operator import add
from pathlib import Path
from typing import Any, Final, LiteralString, get_args
from uuid import UUID

from services.hours.projections import units
from services.hours.projections.entries import CHANGES
from shared.consumer.values import Fact, Figure, Projection
from shared.contracts.hours import LedgerAccount, ServiceTimeConfirmed, ServiceTimeCorrected, ServiceTimeReversed
from shared.http.query import Column, Filter, Query
from shared.permissions import Role
from shared.postgres import Connection

ACCOUNTS: Final[tuple[LedgerAccount, ...]] = get_args(LedgerAccount)
"""In the order of the columns: served, timed, backEntered, transferred, over_cap."""


async def fold(connection: Connection, facts: Sequence[Fact]) -> None:
    """Each event is one group of postings; balances move by the sums."""
    groups: list[tuple[Any, ...]] = []
    moved: dict[tuple[UUID, int, str, UUID], list[int]] = {}
    for fact in facts:
        match fact.event:
            case ServiceTimeConfirmed() | ServiceTimeCorrected() | ServiceTimeReversed() as event if event.postings:
                by_account = dict.fromkeys(ACCOUNTS, 0)
                for posting in event.postings:
                    by_account[posting.account] += posting.minutes
                minutes = list(by_account.values())
                account_id, year = fact.record.stream.id, event.served_on.year
                groups.append(
                    (
                        fact.record.position,
                        account_id,
                        event.volunteer_id,
                        year,
                        event.unit_code,
                        event.activity_id,
                        event.entry_id,
                        event.served_on,
                        event.TYPE.removeprefix("hours.service_time_"),
                        fact.record.time,
                        *minutes,
                    )
                )
                place = event.volunteer_id, year, event.unit_code, account_id
                known = moved.get(place)
                moved[place] = minutes if known is None else list(map(add, known, minutes))
            case _:
                pass
    if not groups:
        return
    await connection.execute(_INSERT_POSTINGS, *map(list, zip(*groups, strict=True)))
    _, *changes = zip(*moved.values(), strict=True)  # What was served is on the other side of every balance.
    await connection.execute(_ADD_TO_BALANCES, *map(list, zip(*moved, strict=True)), *map(list, changes))


async def imbalance(connection: Connection) -> int:
    """The sum of all postings, and of how far balances and entries are from them: 0, or something is badly wrong (metric)."""
    found: int = await connection.fetchval(_SELECT_IMBALANCE)
    return found


_INSERT_POSTINGS: Final[LiteralString] = """
    INSERT INTO postings (position, account_id, volunteer_id, year, unit_code, activity_id, entry_id, served_on, posted_by, posted_at,
                          served_minutes, timed_minutes, back_entered_minutes, transferred_minutes, over_cap_minutes)
    SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::uuid[], $4::integer[], $5::text[], $6::uuid[], $7::uuid[], $8::date[], $9::text[],
                         $10::timestamptz[], $11::integer[], $12::integer[], $13::integer[], $14::integer[], $15::integer[])
"""

_ADD_TO_BALANCES: Final[LiteralString] = """
    MERGE INTO balances AS known
    USING unnest($1::uuid[], $2::integer[], $3::text[], $4::uuid[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[])
        AS moved (volunteer_id, year, unit_code, account_id, timed, back_entered, transferred, over_cap)
    ON known.volunteer_id = moved.volunteer_id AND known.year = moved.year AND known.unit_code = moved.unit_code
    WHEN MATCHED THEN UPDATE
        SET timed_minutes = timed_minutes + timed,
            back_entered_minutes = back_entered_minutes + back_entered,
            transferred_minutes = transferred_minutes + transferred,
            over_cap_minutes = over_cap_minutes + over_cap
    WHEN NOT MATCHED THEN
        INSERT (volunteer_id, year, unit_code, account_id, timed_minutes, back_entered_minutes, transferred_minutes, over_cap_minutes)
        VALUES (moved.volunteer_id, moved.year, moved.unit_code, moved.account_id, timed, back_entered, transferred, over_cap)
"""
# MERGE and not INSERT ... ON CONFLICT: that checks the constraints of the row it would insert, and a difference may be negative.

_SELECT_IMBALANCE: Final[LiteralString] = "SELECT imbalance_minutes FROM api.ledger_sum"

LEDGER: Final = Projection("ledger", "hours", Path(__file__).with_suffix(".sql"), fold)

FIGURE: Final = Figure(
    "minutes",
    "hours",
    "views",
    "SELECT volunteer_id::text, sum(timed_minutes + back_entered_minutes + transferred_minutes) FROM balances GROUP BY 1",
)
"""The minutes that count; recognition decides on as many, and registration shows them."""

_READERS: Final = frozenset({Role.BUREAU_ADMIN, Role.UNIT_ADMIN, Role.AUDITOR})
_VOLUNTEER: Final = Filter("volunteer", "uuid", "志愿者", "Volunteer")
_YEAR: Final = Filter("year", "integer", "年度", "Year")
_MINUTES: Final = (
    Column("timed_minutes", "integer", "系统计时", "Timed", minutes=True),
    Column("back_entered_minutes", "integer", "补录", "Back-entered", minutes=True),
    Column("transferred_minutes", "integer", "转入", "Transferred", minutes=True),
    Column("over_cap_minutes", "integer", "超出每日上限", "Over the daily cap", minutes=True),
)

BALANCES: Final = Query(
    name="balances",
    path="/balances",
    sql="""
        SELECT year, unit_name, unit_code, volunteer_id, timed_minutes, back_entered_minutes, transferred_minutes, over_cap_minutes,
               pending_minutes, account_minutes, account_id
        FROM api.balances
        WHERE ($1::text IS NULL OR unit_code = $1) AND ($2::uuid IS NULL OR volunteer_id = $2) AND ($3::bigint IS NULL OR year = $3)
          AND ($4::bigint IS NULL OR year < $4 OR (year = $4 AND (unit_code, volunteer_id) > ($5::text, $6::uuid)))
        ORDER BY year DESC, unit_code, volunteer_id LIMIT $7
    """,
    columns=(
        Column("year", "integer", "年度", "Year", plain=True),
        *units.COLUMNS,
        Column("volunteer_id", "uuid", "志愿者", "Volunteer"),
        *_MINUTES,
        Column("pending_minutes", "integer", "待认定", "Waiting", minutes=True),
        Column("account_minutes", "integer", "账户合计", "Account total", minutes=True),
        Column("account_id", "uuid", "账户", "Account", hidden=True),
    ),
    order=("year", "unit_code", "volunteer_id"),
    roles=_READERS,
    title_zh="时长余额",
    title_en="Balances",
    filters=(units.BY_UNIT, _VOLUNTEER, _YEAR),
    public=True,
    key="volunteer_id",
    details="streams/account-{account_id}/events",
)

TOTALS: Final = Query(
    name="totals",
    path="/totals",
    sql="""
        SELECT volunteer_id, year, account_id,
               sum(timed_minutes)::bigint AS timed_minutes, sum(back_entered_minutes)::bigint AS back_entered_minutes,
               sum(transferred_minutes)::bigint AS transferred_minutes, sum(over_cap_minutes)::bigint AS over_cap_minutes,
               sum(timed_minutes + back_entered_minutes + transferred_minutes)::bigint AS credited_minutes,
               max(posted_at) AS last_posted_at
        FROM api.ledger
        WHERE ($1::timestamptz IS NULL OR posted_at <= $1)
          AND ($2::date IS NULL OR posted_at < ($2 + 1)::timestamp AT TIME ZONE 'Asia/Shanghai')
          AND ($3::text IS NULL OR unit_code = $3) AND ($4::uuid IS NULL OR volunteer_id = $4) AND ($5::bigint IS NULL OR year = $5)
          AND ($6::uuid IS NULL OR (volunteer_id, year) > ($6, $7::bigint))
        GROUP BY volunteer_id, year, account_id ORDER BY volunteer_id, year LIMIT $8
    """,
    columns=(
        Column("volunteer_id", "uuid", "志愿者", "Volunteer"),
        Column("year", "integer", "年度", "Year", plain=True),
        Column("credited_minutes", "integer", "计入合计", "Total counted", minutes=True),
        *_MINUTES,
        Column("last_posted_at", "instant", "最后入账", "Last posted"),
        Column("account_id", "uuid", "账户", "Account", hidden=True),
    ),
    order=("volunteer_id", "year"),
    roles=_READERS,
    title_zh="截至某时的时长合计",
    title_en="Totals as of a past moment",
    filters=(
        Filter("as_of", "instant", "截至时刻", "As of this moment"),
        Filter("as_of_day", "date", "截至当日", "As of the end of this day"),
        units.BY_UNIT,
        _VOLUNTEER,
        _YEAR,
    ),
    public=True,
    key="volunteer_id",
    details="streams/account-{account_id}/events",
)

QUERY: Final = Query(
    name="ledger",
    path="/ledger",
    sql="""
        SELECT position, posted_at, posted_by, volunteer_id, year, unit_name, unit_code, served_on, served_minutes, timed_minutes,
               back_entered_minutes, transferred_minutes, over_cap_minutes, activity_id, entry_id, account_id
        FROM api.ledger
        WHERE ($1::text IS NULL OR unit_code = $1) AND ($2::uuid IS NULL OR volunteer_id = $2) AND ($3::bigint IS NULL OR year = $3)
          AND ($4::bigint IS NULL OR position < $4)
        ORDER BY position DESC LIMIT $5
    """,
    columns=(
        Column("position", "integer", "日志位置", "Position", hidden=True),
        Column("posted_at", "instant", "入账时间", "Posted"),
        Column("posted_by", "text", "事由", "By", words={code: said for code, said in CHANGES.items() if code != "proposed"}),
        Column("volunteer_id", "uuid", "志愿者", "Volunteer"),
        Column("year", "integer", "年度", "Year", hidden=True),
        *units.COLUMNS,
        Column("served_on", "date", "服务日期", "Day served", hidden=True),
        Column("served_minutes", "integer", "服务对方", "Served", minutes=True),
        *_MINUTES,
        Column("activity_id", "uuid", "活动", "Activity", hidden=True),
        Column("entry_id", "uuid", "时长条目", "Entry", hidden=True),
        Column("account_id", "uuid", "账户", "Account", hidden=True),
    ),
    order=("position",),
    roles=_READERS,
    title_zh="时长分录账",
    title_en="Ledger",
    filters=(units.BY_UNIT, _VOLUNTEER, _YEAR),
    public=True,
    key="volunteer_id",
    details="streams/account-{account_id}/events",
)
