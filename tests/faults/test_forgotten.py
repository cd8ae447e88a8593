"""Who looks for what is left of an erased person finds it, in whatever table it stands and however it is written."""

from uuid import uuid4

import pytest

from deploy.local.environment import SERVICES
from tests.faults.forgotten import check_erased, check_proofs
from tests.faults.invariants import BrokenError
from tests.faults.model import Erased
from tests.faults.system import System

NAME, ID_NUMBER = "孙小岸1", "990000198008010019"


@pytest.fixture
async def erased(system: System) -> Erased:
    """Somebody whose keys are destroyed in all services, and of whom nothing else is there."""
    person = Erased(uuid4(), NAME, ID_NUMBER)
    for service in SERVICES:
        await system.sql(service, _TOMBSTONE, person.volunteer_id)
    await check_erased(system, [person])
    return person


@pytest.mark.parametrize("service", SERVICES)
async def test_a_word_is_found_as_text_and_as_bytes_in_any_table(system: System, erased: Erased, service: str) -> None:
    for planted in (f"to_jsonb('about {NAME}, who left'::text)", f"'{ID_NUMBER}'::text", f"convert_to('{{\"name\":\"{NAME}\"}}', 'UTF8')"):
        await system.sql(service, f"CREATE TABLE lookup.planted AS SELECT 1 AS number, {planted} AS said")
        try:
            with pytest.raises(BrokenError, match=f"^I15: {erased.volunteer_id} can be read in lookup.planted of {service}"):
                await check_erased(system, [erased])
        finally:
            await system.sql(service, "DROP TABLE lookup.planted")
    await check_erased(system, [erased])


async def test_a_key_that_is_there_is_missed_by_its_tombstone(system: System, erased: Erased) -> None:
    other = Erased(uuid4(), "孙小岸2", "990000198008010020")
    for service in SERVICES[:2]:
        await system.sql(service, _TOMBSTONE, other.volunteer_id)
    with pytest.raises(BrokenError, match=f"^I15: {SERVICES[2]} has the key of {other.volunteer_id}"):
        await check_erased(system, [erased, other])


async def test_an_erasure_without_its_proof_is_none(system: System, erased: Erased) -> None:
    await check_proofs(system, [])
    with pytest.raises(BrokenError, match=r"^I15: \{\} are not registered"):
        await check_proofs(system, [erased])


_TOMBSTONE = "INSERT INTO keys.person (subject, wrapped, wrapped_by, destroyed_at) VALUES ($1, NULL, 'nothing', clock_timestamp())"
