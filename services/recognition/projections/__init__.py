"""What an admin wants to see of recognition: tables, folds and queries."""

from pathlib import Path
from typing import Final

from services.recognition.projections import star_history, star_policies, star_revocations, stars, units
from shared.consumer.values import Projection
from shared.http.audited import READS
from shared.http.query import Query

PROJECTIONS: Final[tuple[Projection, ...]] = (
    stars.STARS,
    star_history.STAR_HISTORY,
    star_revocations.STAR_REVOCATIONS,
    star_policies.STAR_POLICIES,
    units.UNITS,
)

QUERIES: Final[tuple[Query, ...]] = (stars.QUERY, star_history.QUERY, star_revocations.QUERY, star_policies.QUERY, READS)

API_SQL: Final = Path(__file__).parent / "api.sql"
