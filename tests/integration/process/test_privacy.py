"""A person's texts open with that person's key, in their own place, until the key is destroyed."""

import os
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from shared.metrics import Metrics
from shared.migrate import migrate, roles_of
from shared.postgres import Pool, connect, open_pool
from shared.privacy import MIGRATIONS, KeyEncryptionError, PersonalKeys, PersonErasedError
from tests.conftest import Databases

KEY = os.urandom(32)
PLACE = "0197f3a4-5c00-7000-8000-00000000000e/name@1"


@pytest.fixture
async def pool(database: Databases) -> AsyncIterator[Pool]:
    dsn = database()
    owner = await connect(dsn, "owner")
    await migrate(owner, [MIGRATIONS])
    roles = await roles_of(owner)
    await owner.close()
    async with open_pool(dsn, "keys", 2, role=roles.app) as made:
        yield made


async def test_a_text_opens_with_the_persons_key_in_another_process_too(pool: Pool) -> None:
    person = uuid4()
    writer, reader = PersonalKeys(pool, KEY), PersonalKeys(pool, KEY)
    await writer.ensure([person])
    sealed = writer.seal(person, PLACE, "赵大山")
    assert sealed.startswith("sealed:a1:")
    assert "赵" not in sealed
    assert await reader.load([person]) == []
    assert reader.unseal(person, PLACE, sealed) == "赵大山"


async def test_equal_texts_do_not_look_alike_but_have_one_blind_index(pool: Pool) -> None:
    person, keys = uuid4(), PersonalKeys(pool, KEY)
    await keys.ensure([person])
    assert keys.seal(person, PLACE, "x") != keys.seal(person, PLACE, "x")
    assert keys.blind("id_number", "x") == PersonalKeys(pool, KEY).blind("id_number", "x")
    assert keys.blind("id_number", "x") != keys.blind("phone", "x")
    assert keys.blind("id_number", "x") != PersonalKeys(pool, os.urandom(32)).blind("id_number", "x")


async def test_a_text_that_was_moved_or_changed_does_not_open(pool: Pool) -> None:
    person, other, keys = uuid4(), uuid4(), PersonalKeys(pool, KEY)
    await keys.ensure([person, other])
    sealed = keys.seal(person, PLACE, "赵大山")
    for subject, place, text in ((other, PLACE, sealed), (person, PLACE + "1", sealed), (person, PLACE, sealed[:-2] + "AA")):
        with pytest.raises(ValueError, match="does not open"):
            keys.unseal(subject, place, text)


async def test_a_destroyed_key_reads_nothing_and_never_comes_back(pool: Pool) -> None:
    person, keys = uuid4(), PersonalKeys(pool, KEY)
    await keys.ensure([person])
    sealed = keys.seal(person, PLACE, "赵大山")
    async with pool.acquire() as connection, connection.transaction():
        await keys.destroy(person, connection)
    await keys.load([person])
    assert keys.unseal(person, PLACE, sealed) is None
    with pytest.raises(PersonErasedError):
        await keys.ensure([person])
    with pytest.raises(asyncpg.RaiseError):
        await pool.execute("UPDATE keys.person SET wrapped = '\\x00', destroyed_at = NULL WHERE subject = $1", person)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await pool.execute("DELETE FROM keys.person WHERE subject = $1", person)


async def test_the_wrong_key_file_says_so_instead_of_reading_nothing(pool: Pool) -> None:
    person, metrics = uuid4(), Metrics("hours", "test")
    await PersonalKeys(pool, KEY, metrics).ensure([person])
    with pytest.raises(KeyEncryptionError):
        await PersonalKeys(pool, os.urandom(32), metrics).load([person])
    assert metrics.key_unwrap_failures_total._value.get() == 1


async def test_two_processes_that_need_a_new_persons_key_at_once_use_one(pool: Pool) -> None:
    person = uuid4()
    one, two = PersonalKeys(pool, KEY), PersonalKeys(pool, KEY)
    await one.ensure([person])
    await two.ensure([person])
    assert two.unseal(person, PLACE, one.seal(person, PLACE, "x")) == "x"
