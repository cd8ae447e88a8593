"""Who holds whom in hours: a table of contents."""

from typing import Final

from services.hours import application, inbox, projections
from services.hours.projections import ledger
from shared.contracts import hours
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
)
