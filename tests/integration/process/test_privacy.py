"""A person's texts open with that person's key, in their own place, until the key is destroyed."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from shared.metrics import Metrics
from shared.migrate import migrate, roles_of
from shared.postgres import Pool, connect, open_pool
from shared.privacy import MIGRATIONS, KeyEncryptionError, PersonalKeys, PersonErasedError
from shared.privacy.keyfile import KeyFile, read_ring, write_ring, write_secret
from tests.conftest import Databases
from tests.integration.relay.conftest import until

KEY = os.urandom(32)
PLACE = "0197f3a4-5c00-7000-8000-00000000000e/name@1"


@pytest.fixture
async def pool(database: Databases) -> AsyncIterator[Pool]:
    dsn = database()
    owner = await connect(dsn, "owner")
    await migrate(owner, [MIGRATIONS])
    roles = await roles_of(owner)
    await owner.close()
    async with open_pool(dsn, "keys", 3, role=roles.app) as made:
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


async def test_texts_of_both_ciphers_are_read_side_by_side_and_keys_are_wrapped_by_either(pool: Pool) -> None:
    person, later = uuid4(), uuid4()
    aes, sm4 = PersonalKeys(pool, KEY), PersonalKeys(pool, KEY, cipher="sm4-gcm")
    await aes.ensure([person])
    await sm4.ensure([person, later])
    texts = [aes.seal(person, PLACE, "一"), sm4.seal(person, PLACE, "二")]
    assert [text.split(":")[1] for text in texts] == ["a1", "s1"]
    reader = PersonalKeys(pool, KEY)
    await reader.load([person, later])
    assert [reader.unseal(person, PLACE, text) for text in texts] == ["一", "二"]
    assert await pool.fetchval("SELECT wrapped_with FROM keys.person WHERE subject = $1", later) == "s1"
    with pytest.raises(ValueError, match="not known here"):
        reader.unseal(person, PLACE, texts[0].replace(":a1:", ":z9:"))
    with pytest.raises(ValueError, match="does not open"):
        reader.unseal(person, PLACE, texts[0].replace(":a1:", ":s1:"))


async def test_keys_are_wrapped_by_a_new_key_while_others_go_on_with_the_old_file(pool: Pool, tmp_path: Path) -> None:
    """Who meets a key that its file does not name reads the file again at once; who wrote by the old one is found by the next round."""
    file = tmp_path / "key"
    write_secret(file, KEY.hex())
    running, persons = PersonalKeys(pool, KeyFile(file)), [uuid4() for _ in range(5)]
    await running.ensure(persons)
    sealed, index = running.seal(persons[0], PLACE, "赵大山"), running.blind("id_number", "x")
    async with pool.acquire() as connection, connection.transaction():
        await running.destroy(persons[4], connection)

    write_ring(file, read_ring(file).with_new())
    operator = PersonalKeys(pool, KeyFile(file))
    async with pool.acquire() as connection, connection.transaction():
        assert [await operator.rewrap(connection, 3) for _ in range(3)] == [3, 1, 0]
    await PersonalKeys(pool, KEY).ensure([uuid4()])
    async with pool.acquire() as connection, connection.transaction():
        assert await operator.rewrap(connection, 3) == 1
    assert await pool.fetchval("SELECT count(DISTINCT wrapped_by) FROM keys.person WHERE wrapped IS NOT NULL") == 1

    async with pool.acquire() as connection:
        assert await running.load_with(persons, connection) == []
    assert running.unseal(persons[0], PLACE, sealed) == "赵大山"
    assert running.unseal(persons[4], PLACE, sealed) is None
    assert operator.blind("id_number", "x") == index
    with pytest.raises(KeyEncryptionError):
        await PersonalKeys(pool, KEY).load(persons)


async def test_who_destroys_a_key_waits_for_whoever_is_writing_what_it_opened(pool: Pool) -> None:
    """So what they write in the clear is there to be cleared when the key is gone."""
    person, keys = uuid4(), PersonalKeys(pool, KEY)
    await keys.ensure([person])
    async with pool.acquire() as writing, pool.acquire() as erasing:
        transaction = writing.transaction()
        await transaction.start()
        await keys.load_with([person], writing)
        erasure = asyncio.create_task(keys.destroy(person, erasing))
        await until(lambda: _somebody_waits(pool))
        assert not erasure.done()
        await transaction.commit()
        await erasure
    assert await pool.fetchval("SELECT wrapped FROM keys.person WHERE subject = $1", person) is None


async def _somebody_waits(pool: Pool) -> bool:
    return bool(await pool.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND locktype = 'transactionid')"))
