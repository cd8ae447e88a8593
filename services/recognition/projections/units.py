"""Units: what each is called, as registration said last. Lists show the name beside the code."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, LiteralString

from shared.access import OfUnit
from shared.consumer.values import Fact, Projection
from shared.contracts.registration import UnitRegistered
from shared.http.query import Column, Filter
from shared.postgres import Connection


async def fold(connection: Connection, facts: Sequence[Fact]) -> None:
    """A unit is called what it was called last."""
    names = {fact.event.code: fact.event.name for fact in facts if isinstance(fact.event, UnitRegistered)}
    await connection.execute(_UPSERT, list(names), list(names.values()))


_UPSERT: Final[LiteralString] = """
    INSERT INTO units (code, name) SELECT * FROM unnest($1::text[], $2::text[])
    ON CONFLICT (code) DO UPDATE SET name = excluded.name
"""

UNITS: Final = Projection("units", "registration", Path(__file__).with_suffix(".sql"), fold, rows={"units": OfUnit("code")})

COLUMNS: Final = (
    Column("unit_name", "text", "单位", "Unit"),
    Column("unit_code", "text", "单位代码", "Unit's code", hidden=True),
)
"""How every list says which unit it was."""

BY_UNIT: Final = Filter("unit", "text", "单位", "Unit", choices="SELECT code, name, name FROM api.units ORDER BY code")
