"""Who holds whom in recognition: a table of contents."""

from typing import Final

from services.recognition import application, inbox, projections
from services.recognition.projections import stars
from shared.contracts import recognition
from shared.http.personal import PersonalData, Section
from shared.process import Service

SERVICE: Final[Service[application.LookUps]] = Service(
    name="recognition",
    title_zh="星级评定",
    title_en="Recognition",
    events=recognition.EVENTS,
    use_cases=application.USE_CASES,
    refusals=application.REFUSALS,
    claims=application.CLAIMS,
    imports=application.IMPORTS,
    queries=projections.QUERIES,
    projections=projections.PROJECTIONS,
    api_sql=projections.API_SQL,
    look_up_reader=inbox.LookUps,
    look_ups=inbox.LOOK_UPS,
    reactions=inbox.REACTIONS,
    figures=(stars.FIGURE, *inbox.FIGURES),
    migrations=inbox.MIGRATIONS,
    personal=PersonalData(
        sections=(
            Section("stars", "星级", "Stars", "SELECT * FROM api.star_history WHERE volunteer_id = $1 LIMIT $2"),
            Section(
                "star_revocations",
                "星级撤销",
                "Revocations",
                "SELECT proposal_id, stars, state, reason, proposed_at, ended_at FROM api.star_revocations "
                "WHERE volunteer_id = $1 ORDER BY proposed_position LIMIT $2",
            ),
        ),
    ),
)
