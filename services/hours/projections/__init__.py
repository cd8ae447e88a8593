"""What an admin wants to see of hours: tables, folds and queries."""

from pathlib import Path
from typing import Final

from services.hours.projections import activities, attendances, entries, ledger, policies, units
from shared.consumer.values import Projection
from shared.http.audited import READS
from shared.http.query import Query

PROJECTIONS: Final[tuple[Projection, ...]] = (
    entries.ENTRIES,
    ledger.LEDGER,
    attendances.ATTENDANCES,
    policies.POLICIES,
    units.UNITS,
    activities.ACTIVITIES,
)

QUERIES: Final[tuple[Query, ...]] = (
    ledger.BALANCES,
    entries.CONFIRM_QUEUE,
    entries.HISTORY,
    ledger.TOTALS,
    ledger.QUERY,
    attendances.QUERY,
    policies.QUERY,
    READS,
)

API_SQL: Final = Path(__file__).parent / "api.sql"
