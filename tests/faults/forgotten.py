"""What is left of persons whose data were erased, read in every table of every service as the superuser (I15)."""

from collections.abc import Collection, Mapping
from typing import Final

import asyncpg

from deploy.local.environment import SERVICES
from tests.faults.invariants import Left, check_forgotten, need
from tests.faults.model import Erased
from tests.faults.system import System

TRIES = 5
"""A table may be dropped while all of them are read: by a rebuild."""


async def check_erased(system: System, erased: Collection[Erased]) -> None:
    """Nobody can say any more who they were. Raises BrokenError."""
    for service in SERVICES if erased else ():
        for person, left in (await _left(system, service, erased)).items():
            check_forgotten(person, left)


async def check_proofs(system: System, erased: Collection[Erased]) -> None:
    """Every service has said that it did its part, and the lists show nobody under a name. Raises BrokenError."""
    proofs = {row["volunteer_id"]: row for row in await system.sql("registration", _PROOFS)}
    shown = {row["volunteer_id"]: row["standing"] for row in await system.sql("registration", _STANDINGS)}
    need(shown.keys() == {each.volunteer_id for each in erased}, "I15", f"{shown} are not registered any more, and erased were {erased}")
    for each in erased:
        need(shown[each.volunteer_id] == each.standing, "I15", f"{each.volunteer_id} is {shown[each.volunteer_id]}")
        proof = proofs.get(each.volunteer_id)
        need(proof is not None and proof["is_whole"], "I15", f"of the erasure of {each.volunteer_id} the proof is {proof}")


async def _left(system: System, service: str, erased: Collection[Erased]) -> Mapping[Erased, Left]:
    ids = [each.volunteer_id for each in erased]
    destroyed = {row["subject"] for row in await system.sql(service, _DESTROYED, ids)}
    found = await _found(system, service, [word for each in erased for word in each.words])
    return {
        each: Left(
            service,
            is_key_destroyed=each.volunteer_id in destroyed,
            clear_in=sorted(place for place, word in found if word in each.words),
        )
        for each in erased
    }


async def _found(system: System, service: str, words: list[str]) -> set[tuple[str, str]]:
    """In which tables which words stand, as text or as its bytes. The log itself is read by I14, event by event."""
    for more in reversed(range(TRIES)):
        tables = [row["name"] for row in await system.sql(service, _TABLES)]
        try:
            rows = await system.sql(service, " UNION ALL ".join(_WORDS_IN.format(table=each) for each in tables), words)
        except asyncpg.UndefinedTableError:
            if not more:
                raise
        else:
            return {(row["place"], row["word"]) for row in rows}
    raise AssertionError


_DESTROYED: Final = """
    SELECT subject FROM keys.person WHERE subject = ANY ($1::uuid[]) AND wrapped IS NULL AND destroyed_at IS NOT NULL
"""
_TABLES: Final = """
    SELECT format('%I.%I', nspname, relname) AS name FROM pg_class JOIN pg_namespace AS space ON space.oid = relnamespace
    WHERE relkind IN ('r', 'm') AND nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
        AND (nspname, relname) <> ('es', 'event') ORDER BY 1
"""
_WORDS_IN: Final = """
    SELECT '{table}' AS place, word FROM unnest($1::text[]) AS word WHERE EXISTS (
        SELECT FROM {table} AS line
        WHERE position(word IN line::text) > 0 OR position(encode(convert_to(word, 'UTF8'), 'hex') IN line::text) > 0
    )
"""
_PROOFS: Final = """
    SELECT volunteer_id, state, registration_receipt_at, hours_receipt_at, recognition_receipt_at, sign_in_destroyed,
        state = 'completed' AND sign_in_destroyed AND registration_receipt_at IS NOT NULL AND hours_receipt_at IS NOT NULL
            AND recognition_receipt_at IS NOT NULL AS is_whole
    FROM api.erasures
"""
_STANDINGS: Final = "SELECT volunteer_id, standing FROM api.volunteers WHERE standing <> 'registered'"
