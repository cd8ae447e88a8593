"""Registration's database with volunteers of two units, and SQL logins that see the one or the other."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from services.registration.main import SERVICE
from shared.access import logins
from shared.migrate import Roles
from shared.postgres import Connection, connect
from shared.process import migrate_database
from tests.conftest import Databases

OURS = "water-saving-office"
THEIRS = "river-management-station"
SECRET = "7731"
"""Stands in every number and name of the other unit: whoever is shown it was shown too much."""


@dataclass(frozen=True)
class Base:
    """A database, by its owner's address and as its superuser sees it; `owner` is a connection."""

    dsn: str
    admin_dsn: str
    owner: Connection
    roles: Roles

    async def login(self, password: str, name: str) -> "asyncpg.Connection[asyncpg.Record]":
        """A session of somebody who knows the password."""
        place = self.dsn.rpartition("@")[2]
        return await asyncpg.connect(f"postgresql://{name}:{password}@{place}", timeout=5)


@pytest.fixture(scope="session")
async def template(database: Databases) -> str:
    """Migrated once, with rows of both units, then copied for each test."""
    dsn = database()
    owner = await connect(dsn, "tests")
    await migrate_database(owner, SERVICE, "system")
    for unit, mark in ((OURS, "1"), (THEIRS, SECRET)):
        await owner.execute("INSERT INTO views_1.units VALUES ($1, $2, 'office', NULL, '{}', '2017-01-01', 1, 2017)", unit, f"n{mark}")
        activity = uuid4()
        await owner.execute(_INSERT_ACTIVITY, activity, unit, f"t{mark}")
        for number in range(3):
            person = UUID(int=int(mark) * 100 + number)
            await owner.execute(_INSERT_VOLUNTEER, person, f"{mark}00{number}", unit, f"{mark}甲")
            await owner.execute("INSERT INTO views_1.enrollments VALUES ($1, $2, 'cleaner', 'seated', NULL, now())", activity, person)
    await owner.close()
    return dsn


@pytest.fixture
async def base(database: Databases, template: str) -> AsyncIterator[Base]:
    """A copy of the test's own."""
    dsn = database(template)
    owner = await connect(dsn, "tests")
    roles = Roles("scratch_owner")
    await owner.execute(f'GRANT CONNECT ON DATABASE "{dsn.rpartition("/")[2]}" TO {roles.reader}')  # A copy takes no rights with it.
    yield Base(dsn, database.admin(dsn), owner, roles)
    await owner.close()


LogIn = Callable[[Sequence[str] | None], Awaitable["asyncpg.Connection[asyncpg.Record]"]]


@pytest.fixture
async def log_in(base: Base) -> AsyncIterator[LogIn]:
    """Makes a login that sees these units (None is every unit), and gives a session of it. Forgotten when the test ends."""
    async with AsyncExitStack() as closing:

        async def make(units: Sequence[str] | None) -> "asyncpg.Connection[asyncpg.Record]":
            login, password = logins.Login(f"login_{uuid4().hex[:12]}", units), logins.new_password()
            async with base.owner.transaction():
                await logins.add(base.owner, base.roles, login, password, datetime.now(UTC) + timedelta(days=1))
            closing.push_async_callback(logins.remove, base.owner, login.name)
            session = await base.login(password, login.name)
            closing.push_async_callback(session.close, timeout=5)
            return session

        yield make


_INSERT_VOLUNTEER = """
    INSERT INTO views_1.volunteers (volunteer_id, number, unit_code, name, is_minor, skills, standing, registered_at,
        registered_position, named_position, is_place_known)
    VALUES ($1, $2, $3, $4, false, 'x', 'registered', now(), 1, NULL, true)
"""
_INSERT_ACTIVITY = """
    INSERT INTO views_1.activities (activity_id, unit_code, month, title, carrier, place, starts_at, ends_at, wait_list_max,
        has_risk, state)
    VALUES ($1, $2, '2017-03-01', $3, 'c', 'p', now(), now(), 0, false, 'open')
"""
