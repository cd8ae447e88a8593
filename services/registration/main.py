"""Who holds whom in registration: a table of contents."""

from typing import Final

from services.registration import application, inbox, operating, projections
from shared.contracts import registration
from shared.http.personal import PersonalData, Section
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
    personal=PersonalData(
        category="volunteer",
        fields=("name", "id_number", "phone", "skills", "guardian_name"),
        sections=(
            Section(
                "record",
                "登记",
                "Record",
                "SELECT number, unit_name, standing, may_be_named, is_minor, registered_at "
                "FROM api.volunteers WHERE volunteer_id = $1 LIMIT $2",
            ),
            Section(
                "enrollments",
                "报名",
                "Enrolments",
                "SELECT title, position, standing, since FROM api.enrollments WHERE volunteer_id = $1 ORDER BY since, activity_id LIMIT $2",
            ),
        ),
    ),
)
