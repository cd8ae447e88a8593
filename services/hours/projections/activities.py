"""Activities: what each is called, as registration published it. Lists show the title beside the id."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, LiteralString

from shared.access import Common
from shared.consumer.values import Fact, Projection
from shared.contracts.registration import ActivityPublished
from shared.http.query import Column
from shared.postgres import Connection


async def fold(connection: Connection, facts: Sequence[Fact]) -> None:
    """An activity is published once."""
    published = [fact.event for fact in facts if isinstance(fact.event, ActivityPublished)]
    await connection.execute(_INSERT, [each.activity_id for each in published], [each.title for each in published])


_INSERT: Final[LiteralString] = "INSERT INTO activities (activity_id, title) SELECT * FROM unnest($1::uuid[], $2::text[])"

ACTIVITIES: Final = Projection(
    "activities", "registration", Path(__file__).with_suffix(".sql"), fold, rows={"activities": Common("titles; no view lists them")}
)

COLUMNS: Final = (
    Column("activity_title", "text", "活动", "Activity", of="activity_id"),
    Column("activity_id", "uuid", "活动标识", "Activity's id", hidden=True),
)
"""How a list says which activity it was."""
