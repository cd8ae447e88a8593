"""Migrations go forward, once, and say so when the files and the database disagree."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from shared.migrate import MigrationError, MigrationSet, migrate, roles_of
from shared.postgres import connect
from tests.conftest import Databases


def a_set(folder: Path, **files: str) -> MigrationSet:
    for name, sql in files.items():
        (folder / f"{name.removeprefix('m')}.sql").write_text(sql)
    return MigrationSet("rooms", folder)


async def test_files_are_applied_once_and_in_order(database: Databases, tmp_path: Path) -> None:
    connection = await connect(database(), "test")
    rooms = a_set(tmp_path, m0002_rooms_have_seats="ALTER TABLE room ADD seats integer", m0001_rooms_exist="CREATE TABLE room (id integer)")
    assert await migrate(connection, [rooms]) == 2
    assert await migrate(connection, [rooms]) == 0
    a_set(tmp_path, m0003_seats_are_counted="ALTER TABLE room ADD CHECK (seats > 0)")
    assert await migrate(connection, [rooms]) == 1
    await connection.close()


async def test_a_file_that_fails_leaves_nothing_of_itself(database: Databases, tmp_path: Path) -> None:
    connection = await connect(database(), "test")
    with pytest.raises(asyncpg.UndefinedTableError):
        await migrate(connection, [a_set(tmp_path, m0001_half="CREATE TABLE half (id integer); INSERT INTO nowhere VALUES (1)")])
    assert await connection.fetchval("SELECT to_regclass('half')") is None
    assert await migrate(connection, [a_set(tmp_path, m0001_half="CREATE TABLE half (id integer)")]) == 1
    await connection.close()


async def test_a_file_that_changed_after_it_was_applied_is_refused(database: Databases, tmp_path: Path) -> None:
    connection = await connect(database(), "test")
    await migrate(connection, [a_set(tmp_path, m0001_rooms_exist="CREATE TABLE room (id integer)")])
    with pytest.raises(MigrationError, match="another wording"):
        await migrate(connection, [a_set(tmp_path, m0001_rooms_exist="CREATE TABLE room (id bigint)")])
    await connection.close()


async def test_a_database_from_newer_code_is_refused(database: Databases, tmp_path: Path) -> None:
    connection = await connect(database(), "test")
    await migrate(connection, [a_set(tmp_path, m0001_rooms_exist="CREATE TABLE room (id integer)")])
    (tmp_path / "0001_rooms_exist.sql").unlink()
    with pytest.raises(MigrationError, match="does not know"):
        await migrate(connection, [MigrationSet("rooms", tmp_path)])
    await connection.close()


async def test_two_at_once_take_turns(database: Databases, tmp_path: Path) -> None:
    dsn = database()
    rooms = a_set(tmp_path, m0001_rooms_exist="CREATE TABLE room (id integer); SELECT pg_sleep(0.2)")
    first, second = await connect(dsn, "one"), await connect(dsn, "two")
    assert sorted(await asyncio.gather(migrate(first, [rooms]), migrate(second, [rooms]))) == [0, 1]
    await first.close()
    await second.close()


async def test_what_processes_act_as_may_do_what_the_files_grant_and_no_more(database: Databases, tmp_path: Path) -> None:
    dsn = database()
    owner = await connect(dsn, "owner")
    sql = 'CREATE TABLE room (id integer); GRANT SELECT, INSERT ON room TO :"app"; GRANT SELECT ON room TO :"reader"'
    await migrate(owner, [a_set(tmp_path, m0001_rooms_exist=sql)])
    roles = await roles_of(owner)
    app, reader = await connect(dsn, "app", role=roles.app), await connect(dsn, "reader", role=roles.reader)
    await app.execute("INSERT INTO room VALUES (1)")
    assert await reader.fetchval("SELECT id FROM room") == 1
    for session, forbidden in ((app, "DELETE FROM room"), (app, "DROP TABLE room"), (reader, "INSERT INTO room VALUES (2)")):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await session.execute(forbidden)
    for session in (owner, app, reader):
        await session.close()
