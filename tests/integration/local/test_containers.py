"""docker-compose.yml and what it needs, as far as it can be judged without Docker."""

import asyncio
import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest
import yaml

from deploy.local.compose import write_compose_environment
from deploy.local.environment import SERVICES, read_ports, service_environment
from deploy.local.keys import Keys
from deploy.local.places import CHECKOUT, Places
from deploy.local.postgres import LocalPostgres, installed_programs
from shared.access import grants

COMPOSE = CHECKOUT / "docker-compose.yml"


def test_the_compose_file_is_what_the_compose_specification_allows() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("role", ["migrate", "api", "worker"])
def test_a_container_gets_the_settings_that_the_local_stack_gives(service: str, role: str, tmp_path: Path) -> None:
    container = yaml.safe_load(COMPOSE.read_text())["services"][f"{service}-{role}"]
    assert container["environment"].keys() == service_environment(service, read_ports({}), Keys(tmp_path)).keys()
    assert container["build"]["args"] == {"SERVICE": service}
    assert container["command"] == [role]


def test_every_variable_of_the_compose_file_is_written_and_closed_to_others(tmp_path: Path) -> None:
    written = write_compose_environment(Places(tmp_path / "state"), tmp_path)
    assert written.stat().st_mode & 0o777 == 0o600
    told = dict(line.split("=", 1) for line in written.read_text().splitlines())
    assert told.keys() == set(re.findall(r"\$\{(\w+)", COMPOSE.read_text()))
    assert write_compose_environment(Places(tmp_path / "state"), tmp_path).read_text() == "".join(f"{k}={v}\n" for k, v in told.items())
    files = [Path(secret["file"].split("/")[-1]) for secret in yaml.safe_load(COMPOSE.read_text())["secrets"].values()]
    assert all((Path(told["LEIFENG_KEYS"]) / file).stat().st_mode & 0o777 == 0o600 for file in files)


def _mounted(folder: Path) -> Path:
    """A folder with what the compose file puts before PostgreSQL's first start."""
    for each in yaml.safe_load(COMPOSE.read_text())["services"]["postgres"]["volumes"]:
        source, _, target = each.partition(":")
        if target.startswith("/docker-entrypoint-initdb.d/"):
            (folder / Path(target.removesuffix(":ro")).name).symlink_to(CHECKOUT / source)
    return folder


async def test_the_containers_script_makes_what_the_local_stack_makes(own_postgres: Callable[..., LocalPostgres], tmp_path: Path) -> None:
    server = own_postgres(fsync=False)
    passwords = {f"{service.upper()}_PASSWORD": f"it's {service}" for service in SERVICES}
    environment = {
        "PATH": f"{installed_programs()}:{os.environ['PATH']}",
        "PGHOST": "127.0.0.1",
        "PGPORT": str(server.port),
        "PGPASSWORD": server.password,
        "POSTGRES_USER": "admin",
    }
    script = _mounted(tmp_path) / "databases.sh"
    run = functools.partial(subprocess.run, [script], env=environment | passwords, capture_output=True, text=True, timeout=60, check=False)
    done = await asyncio.to_thread(run)
    assert done.returncode == 0, done.stderr
    for service in SERVICES:
        name = f"leifeng_{service}"
        connection = await asyncpg.connect(
            host="127.0.0.1", port=server.port, user=name, database=name, password=passwords[f"{service.upper()}_PASSWORD"]
        )
        try:
            assert await connection.fetchval("select rolcreaterole and not rolsuper from pg_roles where rolname = current_user")
            assert list(await grants.open_to_everybody(connection)) == []
            assert await connection.fetchval("select pg_try_advisory_lock(1)")
        finally:
            await connection.close()
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(
            host="127.0.0.1", port=server.port, user="leifeng_hours", database="leifeng_registration", password=passwords["HOURS_PASSWORD"]
        )


def test_a_lock_names_no_address_and_the_validators_lock_neither() -> None:
    for lock in CHECKOUT.glob("requirements*.lock"):
        assert "://" not in lock.read_text(), lock.name
    packages = json.loads((CHECKOUT / "tests" / "node" / "package-lock.json").read_text())["packages"]
    assert not any("resolved" in package for package in packages.values())
