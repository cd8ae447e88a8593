"""Who holds whom in registration: a table of contents."""

from typing import Final

from services.registration import application, inbox, operating, projections
from shared.contracts import registration
from shared.process import Service

SERVICE: Final[Service[application.LookUps]] = Service(
    name="registration",
    title_zh="报名登记",
    title_en="Registration",
    events=registration.EVENTS,
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
    figures=projections.FIGURES,
    migrations=inbox.MIGRATIONS,
    signs_in=True,
    add_commands=operating.add_commands,
)
