"""Who holds whom in hours: a table of contents."""

from typing import Final

from services.hours import application, inbox, projections
from services.hours.projections import ledger
from shared.contracts import hours
from shared.http.personal import PersonalData, Section
from shared.process import Service

SERVICE: Final[Service[application.LookUps]] = Service(
    name="hours",
    title_zh="服务时长",
    title_en="Hours",
    events=hours.EVENTS,
    use_cases=application.USE_CASES,
    refusals=application.REFUSALS,
    claims=application.CLAIMS,
    imports=application.IMPORTS,
    queries=projections.QUERIES,
    projections=projections.PROJECTIONS,
    api_sql=projections.API_SQL,
    look_up_reader=inbox.LookUps,
    look_ups=inbox.LOOK_UPS,
    deadlines=inbox.deadlines,
    reactions=inbox.REACTIONS,
    figures=(ledger.FIGURE, inbox.VOLUNTEERS),
    migrations=inbox.MIGRATIONS,
    imbalance=ledger.imbalance,
    personal=PersonalData(
        sections=(
            Section(
                "balances",
                "时长",
                "Balances",
                "SELECT year, unit_name, timed_minutes, back_entered_minutes, transferred_minutes, over_cap_minutes, pending_minutes "
                "FROM api.balances WHERE volunteer_id = $1 ORDER BY year, unit_code LIMIT $2",
            ),
            Section("attendances", "签到", "Attendance", "SELECT * FROM api.attendances WHERE volunteer_id = $1 LIMIT $2"),
            Section("entries", "认定", "Entries", "SELECT * FROM api.history WHERE volunteer_id = $1 LIMIT $2"),
        ),
    ),
)
