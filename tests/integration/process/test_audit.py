"""Reads of personal data are written down in one chain that nobody changes unseen."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID, uuid4

import asyncpg
import pytest

from shared.audit import MIGRATIONS, Chain, NoteRead, PersonalRead, check, noting
from shared.migrate import migrate, roles_of
from shared.permissions import Actor, Role
from shared.postgres import Connection, Pool, connect, open_pool
from tests.conftest import Databases

ACTOR = Actor(UUID(int=7), Role.UNIT_ADMIN, "water-saving-office")
READ = PersonalRead(ACTOR, [uuid4()], ["name", "phone"], "reveal", "联系本人: 活动改期")


@dataclass
class Book:
    owner: Connection
    pool: Pool
    note: NoteRead


@pytest.fixture
async def book(database: Databases) -> AsyncIterator[Book]:
    dsn = database()
    owner = await connect(dsn, "owner")
    await migrate(owner, [MIGRATIONS])
    roles = await roles_of(owner)
    async with open_pool(dsn, "audit", 8, role=roles.app) as pool:
        yield Book(owner, pool, noting(pool))
    await owner.close()


async def test_each_read_is_a_link_and_readers_at_once_make_one_chain(book: Book) -> None:
    assert await check(book.owner) == Chain(0)
    numbers = await asyncio.gather(*(book.note(READ) for _ in range(20)))
    assert sorted(numbers) == list(range(1, 21))
    assert await check(book.owner) == Chain(20)
    row = await book.owner.fetchrow("SELECT actor, role, unit, subjects, fields, what, reason FROM audit.read WHERE number = 1")
    assert row is not None
    assert tuple(row.values()) == (
        ACTOR.person_id, "unit_admin", "water-saving-office", list(READ.subjects), ["name", "phone"], "reveal", READ.reason,
    )  # fmt: skip


async def test_who_writes_it_can_neither_change_nor_read_it(book: Book) -> None:
    await book.note(READ)
    for statement in ("UPDATE audit.read SET reason = 'x'", "DELETE FROM audit.read", "SELECT * FROM audit.read", "TRUNCATE audit.read"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await book.pool.execute(statement)
    for statement in ("UPDATE audit.read SET reason = 'x'", "DELETE FROM audit.read", "TRUNCATE audit.read"):
        with pytest.raises(asyncpg.PostgresError, match="append-only"):
            await book.owner.execute(statement)


@pytest.mark.parametrize(
    ("change", "number"),
    [
        ("UPDATE audit.read SET reason = 'another reason' WHERE number = 3", 3),
        ("UPDATE audit.read SET actor = gen_random_uuid() WHERE number = 4", 4),
        ("UPDATE audit.read SET at = at - interval '1 day' WHERE number = 5", 5),
        ("DELETE FROM audit.read WHERE number = 1", 1),
        ("DELETE FROM audit.read WHERE number = 3", 3),
        (
            "INSERT INTO audit.read SELECT 7, at, actor, role, unit, subjects, fields, what, reason, hash FROM audit.read WHERE number = 6",
            7,
        ),
    ],
)
async def test_what_is_changed_taken_out_or_put_in_by_hand_is_found(book: Book, change: str, number: int) -> None:
    for _ in range(6):
        await book.note(READ)
    await book.owner.execute("ALTER TABLE audit.read DISABLE TRIGGER read_never_changes")
    await book.owner.execute(change)
    assert (await check(book.owner)).broken_at == number
