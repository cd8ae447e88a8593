"""The three services as they are shipped, on a Kafka that asks who one is: they do their work, and none of their secrets is seen."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import httpx
import pytest

from deploy.local.environment import SERVICES
from deploy.local.kafka import _java_program
from deploy.local.places import CHECKOUT
from deploy.local.postgres import LocalPostgres
from shared.contracts.rights import CREATOR
from shared.credentials import PasswordRefusedError, why_not
from shared.privacy.keyfile import read_ring
from tests.e2e.stack import Stack, command
from tests.e2e.stage import Stage, accepted, on, rows
from tests.integration.recover.conftest import Ran, run
from tests.integration.secured.conftest import ADMIN, Broker, secret
from tests.integration.secured.credentials import set_password

CLIENT_SECRET = "hush-of-the-provider"
PATHS = ("/metrics", "/readyz", "/api/v1/openapi.json", "/asyncapi.json", "/permissions.json", "/", "/api/v1/nothing")
COMMANDS = ("doctor", "acls print", "keys status", "log status", "verify")


class SecuredStack(Stack):
    """Each service comes into Kafka as its own user and into PostgreSQL by a password in a file; topics are made by another user."""

    def __init__(self, folder: Path, postgres: LocalPostgres, broker: Broker) -> None:
        super().__init__(folder, postgres, broker.server, clock="travel")
        self.broker = broker
        self.prefix = ""
        self.user_of = {service: service for service in SERVICES}
        for service in SERVICES:
            secret(folder / f"{service}.password", self.keys.database_password(service))
        secret(folder / "client.secret", CLIENT_SECRET)

    def dsn(self, service: str, role: str | None = None) -> str:
        """The test's own way into a database: with the password that counts now."""
        if role is not None:
            return super().dsn(service, role)
        password = (self.folder / f"{service}.password").read_text().strip()
        return self.postgres.dsn(self.database(service), self.database(service), password)

    def environment(self, service: str) -> dict[str, str]:
        """The settings of one service."""
        prefix, user = service.upper(), self.user_of[service]
        dsn = f"postgresql://{self.database(service)}@127.0.0.1:{self.postgres.port}/{self.database(service)}"
        return super().environment(service) | {
            f"{prefix}_POSTGRES_DSN": dsn,
            f"{prefix}_POSTGRES_PASSWORD_FILE": str(self.folder / f"{service}.password"),
            f"{prefix}_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            f"{prefix}_KAFKA_USER": user,
            f"{prefix}_KAFKA_PASSWORD_FILE": str(self.broker.folder / f"{user}.password"),
            f"{prefix}_KAFKA_CA_FILE": str(self.broker.authority.ca_file),
            f"{prefix}_OIDC_CLIENT_SECRET_FILE": str(self.folder / "client.secret"),
        }

    async def run(self, service: str, *arguments: str, user: str | None = None, **settings: str) -> Ran:
        """A command of a service as typed, as its own user in Kafka or as another."""
        before, self.user_of[service] = self.user_of[service], user or service
        try:
            return await run(service, self.environment(service) | settings, *arguments)
        finally:
            self.user_of[service] = before

    def secrets(self) -> dict[str, str]:
        """Every secret of every service, by what it is."""
        found = {f"{service} database": self.keys.database_password(service) for service in SERVICES}
        found |= {f"{user} in Kafka": password for user, password in self.broker.passwords.items()}
        found["provider"] = CLIENT_SECRET
        for service in SERVICES:
            ring = read_ring(self.keys.encryption_key_file(service))
            found |= {f"{service} key": ring.current.hex(), f"{service} index": ring.index_key.hex()}
            found[f"{service} fingerprint"] = ring.fingerprint_key.hex()
        [signs] = re.findall(r'"d": ?"([^"]+)"', self.keys.issuer_private_file.read_text())
        return found | {"token signing key": signs}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, granted: Broker) -> Iterator[SecuredStack]:
    """Migrated as the user that makes topics; each process then runs as its service's own. What PostgreSQL acknowledges, it keeps."""
    folder = tmp_path_factory.mktemp("stack")
    postgres = LocalPostgres(folder / "postgres", "a-password-of-the-test-run")
    postgres.start()
    made = SecuredStack(folder, postgres, granted)
    made.user_of = dict.fromkeys(SERVICES, CREATOR)
    made.migrate()
    made.user_of = {service: service for service in SERVICES}
    made.start()
    yield made
    made.remove()
    postgres.remove()


@pytest.fixture(scope="module")
async def stage(stack: SecuredStack) -> AsyncIterator[Stage]:
    """The same with its programme and policies adopted, and every consumer at the head of every log that it reads."""
    made = Stage(stack)
    await made.set()
    yield made
    await made.close()


async def test_an_event_of_each_service_is_sealed_published_and_read_by_the_others(stage: Stage, stack: SecuredStack) -> None:
    day = await stage.day(not_before=date(2017, 3, 5))
    volunteer = await stage.volunteer("赵大山")
    activity = await stage.activity(on(day, "09:00"), on(day, "12:00"))
    confirmed = await stage.confirm(await stage.served(volunteer, activity, on(day, "08:50"), on(day, "11:30")))
    applicant = stage.self_("recognition", volunteer.id)
    star = accepted(await command(applicant, f"/volunteers/{volunteer.id}/stars", {}, After=confirmed["position"]))
    seen = await rows(stage.bureau("registration"), "/volunteer-overview", f"{confirmed['position']}, {star['position']}")
    [row] = [each for each in seen if each["volunteer_id"] == str(volunteer.id)]
    assert (row["timed_minutes"], row["stars"]) == (150, 1)
    for service in SERVICES:
        verified = await stack.run(service, "verify")
        assert verified.code == 0, verified.out


@pytest.mark.parametrize("service", SERVICES)
async def test_doctor_says_that_a_service_may_do_what_it_needs_and_nothing_else(stage: Stage, stack: SecuredStack, service: str) -> None:
    healthy = await stack.run(service, "doctor")
    assert f"ok    rights: {service} may do in Kafka what {service} needs, and nothing else" in healthy.out, healthy.out
    assert "ok    topics: as declared" in healthy.out
    assert healthy.code == 0, healthy.out


async def test_doctor_names_a_user_who_may_too_much_or_too_little_and_a_password_that_does_not_count(
    stage: Stage, stack: SecuredStack, tmp_path: Path
) -> None:
    another = await stack.run("hours", "doctor", user="recognition")
    assert another.code == 1
    assert re.search(r"bad   rights: recognition may not .*WRITE topic hours.events; .*`acls apply`", another.out), another.out
    most = await stack.run("hours", "doctor", user=ADMIN)
    assert re.search(r"bad   rights: admin may .*DELETE, .* topic hours.events; .*the cluster", most.out), most.out
    wrong = await stack.run("hours", "doctor", HOURS_KAFKA_PASSWORD_FILE=str(secret(tmp_path / "wrong", "hush-wrong")))
    assert "bad   rights: could not be looked at (PasswordRefusedError): Kafka has no user hours with the password in wrong" in wrong.out
    nobody = await stack.run("hours", "acls", "apply", user="hours")
    assert (nobody.code, "as the cluster's administrator" in nobody.out) == (2, True), nobody.out


RIGHTS, PASSWORD = (CHECKOUT / "deploy" / "runbooks" / "acls.md").read_text(encoding="utf-8").split("**To change a password.**")


async def typed(page: str, stack: SecuredStack, broker: Broker, folder: Path) -> list[str]:
    """What the commands of a page say, each as it is written there, typed in `folder`, where Kafka's own tool is."""
    outs = []
    for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL):
        process = await asyncio.create_subprocess_exec(
            "bash", "-euc", block, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            env={
                **os.environ, **stack.environment("registration"), "PYTHONPATH": str(CHECKOUT),
                "PATH": os.pathsep.join((str(folder), str(Path(sys.executable).parent), os.environ["PATH"])),
                "ADMIN_PASSWORD_FILE": str(broker.folder / "admin.password"),
                "CREATOR_PASSWORD_FILE": str(broker.folder / "creator.password"),
                "NEW_PASSWORD_FILE": str(folder / "new"),
            },
        )  # fmt: skip
        async with asyncio.timeout(120):
            out, _ = await process.communicate()
        assert process.returncode == 0, f"{block}\n{out.decode()}"
        outs.append(out.decode())
    return outs


def put_kafkas_tool(folder: Path, broker: Broker, class_path: str) -> None:
    """`kafka-configs.sh` as Kafka ships it, from the jars that are here; and how the administrator comes in by it."""
    tool = folder / "kafka-configs.sh"
    tool.write_text(f'#!/bin/sh\nexec "{_java_program()}" -cp "{class_path}" kafka.admin.ConfigCommand "$@"\n')
    tool.chmod(0o700)
    login = "org.apache.kafka.common.security.scram.ScramLoginModule required"
    lines = (
        "security.protocol=SASL_SSL", "sasl.mechanism=SCRAM-SHA-512", "ssl.truststore.type=PEM",
        f"ssl.truststore.location={broker.authority.ca_file}",
        f'sasl.jaas.config={login} username="{ADMIN}" password="{broker.passwords[ADMIN]}";',
    )  # fmt: skip
    secret(folder / "admin.properties", "\n".join(lines))


async def test_the_runbook_gives_the_rights_and_makes_the_topics(stage: Stage, stack: SecuredStack, broker: Broker, tmp_path: Path) -> None:
    printed, applied, _, doctor = await typed(RIGHTS, stack, broker, tmp_path)
    assert "--allow-principal 'User:hours' --operation DescribeConfigs --operation Read --operation Write --topic 'hours.events'" in printed
    assert "0 given, 0 taken away" in applied
    assert "ok    rights: registration may do in Kafka what registration needs" in doctor


async def test_the_runbook_changes_a_password_in_kafka_while_everything_runs(
    stage: Stage, stack: SecuredStack, broker: Broker, kafka_class_path: str, tmp_path: Path
) -> None:
    who, old, new = broker.as_("registration"), broker.passwords["registration"], "hush-rotated-by-the-book"
    pids = {name: child.pid for name, child in stack.processes.items()}
    put_kafkas_tool(tmp_path, broker, kafka_class_path)
    secret(tmp_path / "new", new)
    try:
        *_, healthy = await typed(PASSWORD, stack, broker, tmp_path)
        assert "ok    rights: registration may do in Kafka what registration needs" in healthy
        assert not (tmp_path / "new.properties").exists()
        assert (broker.folder / "registration.password").read_text().strip() == new
        assert isinstance(await why_not(replace(who, password_file=secret(tmp_path / "old", old))), PasswordRefusedError)
        assert await why_not(replace(who, password_file=tmp_path / "new")) is None
        await stage.volunteer("孙大河")
        await stack.settled(60)
    finally:
        await set_password(broker.as_(ADMIN), "registration", old)
        secret(broker.folder / "former", old).replace(broker.folder / "registration.password")
    assert {name: child.pid for name, child in stack.processes.items() if child.running()} == pids


async def test_a_secret_that_is_open_to_everybody_keeps_a_process_from_starting(stack: SecuredStack, tmp_path: Path) -> None:
    for setting in (
        "KEY_FILE", "TOKEN_SIGNING_KEY_FILE", "OIDC_CLIENT_SECRET_FILE", "POSTGRES_PASSWORD_FILE", "KAFKA_PASSWORD_FILE",
    ):  # fmt: skip
        file = secret(tmp_path / setting.lower(), "hush-open")
        file.chmod(0o644)
        refused = await stack.run("registration", "all", **{f"REGISTRATION_{setting}": str(file)})
        assert refused.code == 2
        told = f"REGISTRATION_{setting} is wrong: {file.name} is open to everybody on this machine: chmod 600"
        assert refused.out.strip() == told


async def test_passwords_are_changed_while_everything_runs(stage: Stage, stack: SecuredStack, broker: Broker) -> None:
    """Of hours, in Kafka and in PostgreSQL; then every connection is cut."""
    old = dict(broker.passwords)
    await set_password(broker.as_(ADMIN), "hours", "hush-rotated")
    secret(broker.folder / "new", "hush-rotated").replace(broker.folder / "hours.password")
    await stack.sql("hours", f"ALTER ROLE \"{stack.database('hours')}\" PASSWORD 'hush-rotated-too'")
    secret(stack.folder / "new", "hush-rotated-too").replace(stack.folder / "hours.password")
    pids = {name: child.pid for name, child in stack.processes.items()}
    try:
        await asyncio.to_thread(broker.server.stop)
        await stack.sql("hours", f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{stack.database('hours')}'")
        broker.server.launch()
        await asyncio.to_thread(broker.server.wait_until_up)
        day = await stage.day()
        volunteer = await stage.volunteer("钱小河")
        activity = await stage.activity(on(day, "09:00"), on(day, "12:00"))
        await stack.settled(60)
        await stage.confirm(await stage.served(volunteer, activity, on(day, "08:50"), on(day, "11:30")))
        await stack.settled(60)
    finally:
        broker.server.launch()
        await asyncio.to_thread(broker.server.wait_until_up)
        await set_password(broker.as_(ADMIN), "hours", old["hours"])
        secret(broker.folder / "old", old["hours"]).replace(broker.folder / "hours.password")
    assert {name: child.pid for name, child in stack.processes.items() if child.running()} == pids


async def test_no_secret_is_in_anything_that_a_process_says(stage: Stage, stack: SecuredStack) -> None:
    """Last: it looks at all that was said so far, on a bad day too."""
    said = [(path.name, path.read_text(encoding="utf-8", errors="replace")) for path in stack.folder.glob("*.log*")]
    assert {name.removesuffix(".log") for name, _ in said} >= {f"{service}-{role}" for service in SERVICES for role in ("api", "worker")}
    async with httpx.AsyncClient(timeout=10) as client:
        for name in stack.processes:
            said += [(f"{name} {path}", (await client.get(stack.url(name) + path)).text) for path in PATHS]
            answer = await client.post(f"{stack.url(name)}/api/v1/programmes", json={"file": "{"}, headers={"Authorization": "Bearer x"})
            said.append((f"{name} refusal", answer.text))
    for service in SERVICES:
        said += [(f"{service} {words}", (await stack.run(service, *words.split())).out) for words in COMMANDS]
    unreachable = await stack.run(
        "hours", "doctor", HOURS_KAFKA_CA_FILE=str(stack.folder / "nowhere"), HOURS_POSTGRES_DSN="postgresql://x@127.0.0.1:1/x"
    )
    said.append(("hours doctor without anything", unreachable.out))
    found = [(what, where) for where, text in said for what, hush in stack.secrets().items() if hush in text or "hush-rotated" in text]
    assert not found
    assert all(len(hush) >= 16 for hush in stack.secrets().values())
