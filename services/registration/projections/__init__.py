"""What an admin wants to see of registration, and of a volunteer across all three services."""

from pathlib import Path
from typing import Final

from services.registration.projections import activities, erasures, programmes, proposals, volunteer_records, volunteers
from shared.consumer.values import Figure, Projection
from shared.http.audited import READS
from shared.http.query import Query

PROJECTIONS: Final[tuple[Projection, ...]] = (
    programmes.PROGRAMMES,
    proposals.PROPOSALS,
    activities.ACTIVITIES,
    volunteers.VOLUNTEERS,
    erasures.ERASURES,
    volunteer_records.MINUTES,
    volunteer_records.STARS,
)

QUERIES: Final[tuple[Query, ...]] = (
    activities.QUERY,
    activities.PLAN,
    volunteer_records.QUERY,
    volunteers.QUERY,
    volunteers.NAMED,
    erasures.QUERY,
    activities.ENROLLMENTS,
    programmes.WORDS,
    programmes.UNITS,
    proposals.QUERY,
    proposals.UNITS,
    programmes.ROLES,
    programmes.DEVICES,
    READS,
)

FIGURES: Final[tuple[Figure, ...]] = (volunteers.FIGURE, *volunteer_records.FIGURES)

API_SQL: Final = Path(__file__).parent / "api.sql"
