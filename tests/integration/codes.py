"""Which codes there can be, and which lists say them in words."""

import re
from collections.abc import Iterable, Mapping

from shared.http.query import Query
from shared.postgres import Connection

CODED = frozenset({"state", "standing", "outcome", "reason", "reason_code", "change", "posted_by", "hour_class", "kind", "role"})
"""Columns that hold one of a closed list of codes."""


async def allowed(connection: Connection, constraint: str) -> set[str]:
    """The codes that a CHECK of the read models lets in."""
    said: str = await connection.fetchval("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = $1", constraint)
    return set(re.findall(r"'(\w+)'::text", said))


def words_of(queries: Iterable[Query]) -> Mapping[str, set[str] | None]:
    """By list and column, the codes that have words."""
    coded = {f"{query.name}.{each.name}": each.words for query in queries for each in query.columns if each.name in CODED}
    return {name: None if words is None else set(words) for name, words in coded.items()}
