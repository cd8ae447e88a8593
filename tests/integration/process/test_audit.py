"""Reads of personal data are written down in one chain that nobody changes unseen."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest
from structlog.testing import capture_logs

from shared import access
from shared.audit import CHAIN_START, MIGRATIONS, Chain, NoteRead, PersonalRead, _hash_of, check, noting
from shared.audit.heads import ChainHead, Publishing, ReadsFileError, append, head_of, read_file
from shared.migrate import migrate, roles_of
from shared.permissions import Actor, Role
from shared.postgres import Connection, Pool, connect, open_pool
from tests.conftest import Databases

ACTOR = Actor(UUID(int=7), Role.UNIT_ADMIN, "water-saving-office")
READ = PersonalRead(ACTOR, [uuid4()], ["name", "phone"], "reveal", "contact")


@dataclass
class Book:
    owner: Connection
    pool: Pool
    note: NoteRead


@pytest.fixture
async def book(database: Databases) -> AsyncIterator[Book]:
    dsn = database()
    owner = await connect(dsn, "owner")
    await migrate(owner, [access.MIGRATIONS, MIGRATIONS])
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


async def published(book: Book, *numbers: int) -> list[ChainHead]:
    """Reads until each of these numbers, and what is said of the chain then."""
    said = list[ChainHead]()
    for number in numbers:
        while (head := await head_of(book.pool)) is None or head.number < number:
            await book.note(READ)
        said.append(head)
    return said


async def written_anew(book: Book, number: int) -> None:
    """Who owns the database changes a row, and all hashes from there on."""
    await book.owner.execute("UPDATE audit.read SET reason = 'another reason' WHERE number = $1", number)
    digest = CHAIN_START
    for row in await book.owner.fetch("SELECT * FROM audit.read ORDER BY number"):
        digest = _hash_of(digest, row)
        await book.owner.execute("UPDATE audit.read SET hash = $2 WHERE number = $1", row["number"], digest)


async def test_a_chain_is_what_was_published_of_it(book: Book) -> None:
    said = await published(book, 3, 6)
    await book.note(READ)
    assert await check(book.owner, said) == Chain(7, agreed=6)
    assert await check(book.owner) == Chain(7)


async def test_an_end_that_was_cut_off_is_missed_by_what_was_published(book: Book) -> None:
    said = await published(book, 3, 6)
    await book.owner.execute("ALTER TABLE audit.read DISABLE TRIGGER read_never_changes")
    await book.owner.execute("DELETE FROM audit.read WHERE number > 4")
    assert await check(book.owner) == Chain(4), "by itself it is whole"
    assert await check(book.owner, said) == Chain(4, 5, "the rows up to 6 are cut off: the head was published with that number", 3)
    await published(book, 7)
    found = await check(book.owner, said)
    assert (found.broken_at, found.agreed) == (4, 3), "others were put in the place of what was cut off"


async def test_a_chain_that_was_written_anew_fits_itself_and_not_what_was_published(book: Book) -> None:
    said = await published(book, 3, 6)
    await book.owner.execute("ALTER TABLE audit.read DISABLE TRIGGER read_never_changes")
    await written_anew(book, 5)
    assert await check(book.owner) == Chain(6)
    found = await check(book.owner, said)
    assert (found.broken_at, found.agreed) == (4, 3)
    assert "a row up to 6 was changed" in found.what


async def test_a_worker_says_the_head_and_adds_a_line_a_day_to_the_file_which_only_grows(book: Book, tmp_path: Path) -> None:
    path = tmp_path / "reads.jsonl"
    worker = Publishing(book.pool, "hours", path)
    await worker.look()
    assert (worker.said(), path.exists()) == (None, False)
    (head,) = await published(book, 2)
    for _ in range(3):
        await worker.look()
    assert worker.said() == head.model_dump()
    (line,) = read_file(path, "hours")
    assert (line.number, line.hash, path.stat().st_mode & 0o777) == (2, head.hash, 0o600)
    yesterday = line.model_copy(update={"at": line.at - timedelta(days=1)})
    path.write_text(f"{yesterday.model_dump_json()}\n", encoding="utf-8")
    (later,) = await published(book, 3)
    await worker.look()
    assert [each.number for each in read_file(path, "hours")] == [2, 3]
    assert await check(book.owner, read_file(path, "hours")) == Chain(3, agreed=3)
    append(path, "hours", later, line.at)
    assert len(read_file(path, "hours")) == 3


async def test_a_file_that_is_another_service_s_or_none_is_left_as_it_is(book: Book, tmp_path: Path) -> None:
    (head,) = await published(book, 1)
    path = tmp_path / "reads.jsonl"
    append(path, "hours", head, datetime.now(UTC))
    for text, service in ((path.read_text(encoding="utf-8"), "registration"), ("no line\n", "hours")):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ReadsFileError):
            append(path, service, head, datetime.now(UTC))
        assert path.read_text(encoding="utf-8") == text
    with pytest.raises(ReadsFileError):
        append(tmp_path / "no folder" / "reads.jsonl", "hours", head, datetime.now(UTC))


async def test_an_end_that_is_cut_off_while_a_worker_looks_is_said_in_its_log(book: Book) -> None:
    await published(book, 3)
    worker = Publishing(book.pool, "hours", None)
    await worker.look()
    await book.owner.execute("ALTER TABLE audit.read DISABLE TRIGGER read_never_changes")
    await book.owner.execute("DELETE FROM audit.read WHERE number = 3")
    with capture_logs() as said:
        await worker.look()
    assert said == [{"event": "reads_cut_off", "log_level": "error", "was": 3, "now": 2}]
