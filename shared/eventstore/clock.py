"""The clock of a log: the machine's, or in the local stack and in tests an instant in the database that a player moves forward."""

from datetime import UTC, datetime
from typing import Final

from shared.clock import Clock, system_clock
from shared.postgres import Connection, Pool

_SELECT_CLOCK: Final = 'SELECT clock, "now" FROM es.log'
_TRAVEL: Final = """UPDATE es.log SET "now" = $1 WHERE clock = 'travel' AND ("now" IS NULL OR "now" <= $1)"""
_ARRIVE: Final = """UPDATE es.log SET clock = 'system', "now" = NULL"""
_NOTHING_DONE: Final = "UPDATE 0"


class ClockError(Exception):
    """The clock does not move that way: backward, on a log of the system clock, or before a player has set it."""


def log_clock(pool: Pool) -> Clock:
    """The log's clock: its instant each time while it travels; once it says `system`, the machine's for good."""
    arrived = False

    async def now() -> datetime:
        nonlocal arrived
        if arrived:
            return await system_clock()
        row = await pool.fetchrow(_SELECT_CLOCK)
        if row is not None and row["clock"] == "travel":
            if row["now"] is None:
                raise ClockError("the travelling clock has not been set")
            instant: datetime = row["now"]
            return instant.astimezone(UTC)
        arrived = row is not None
        return await system_clock()

    return now


async def travel_to(connection: Connection, instant: datetime) -> None:
    """Moves a travelling clock forward to `instant`. `connection` is the owner's. Raises ClockError."""
    if await connection.execute(_TRAVEL, instant) == _NOTHING_DONE:
        raise ClockError(f"the clock does not travel to {instant.isoformat()}")


async def arrive(connection: Connection) -> None:
    """Lets the log go over to the system clock, for good. `connection` is the owner's."""
    await connection.execute(_ARRIVE)
