"""Each wall holds: a violation planted in a copy of the tree is found under the name of the wall it breaks, and under no other."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Final

import pytest

CHECKOUT: Final = Path(__file__).resolve().parents[2]
PREFIX: Final = "importlinter:contract:"

PLANTS: Final = [
    ("services", "services/hours/application.py", "from services.registration.domain import volunteer"),
    ("services", "services/recognition/inbox.py", "from services.hours import inbox"),
    ("rooms", "services/hours/projections/__init__.py", "from services.hours import application"),
    ("rooms", "services/registration/application.py", "from services.registration import main"),
    ("rooms", "services/registration/utils.py", ""),
    ("domain", "services/hours/domain/account.py", "import time"),
    ("domain", "services/hours/domain/account.py", "import asyncio"),
    ("domain", "services/registration/domain/activity.py", "import pydantic"),
    ("domain", "services/recognition/domain/star.py", "from shared.clock import system_clock"),
    ("domain", "services/recognition/domain/__init__.py", "from shared import ids"),
    ("library", "shared/clock.py", "import services"),
    ("product", "services/hours/main.py", "from shared import testing"),
    ("product", "services/hours/main.py", "from deploy.local import places"),
    ("product", "shared/postgres.py", "from tests import conftest"),
    ("language", "shared/contracts/hours.py", "from shared.contracts import registration"),
    ("language", "shared/contracts/common.py", ""),
    ("shared", "shared/clock.py", "from shared.http import query"),
    ("shared", "shared/utils.py", ""),
]


def contracts() -> configparser.ConfigParser:
    """The walls as they are written."""
    parser = configparser.ConfigParser()
    parser.read(CHECKOUT / ".importlinter", encoding="utf-8")
    return parser


NAMES: Final = {
    section.removeprefix(PREFIX): contracts()[section]["name"] for section in contracts().sections() if section.startswith(PREFIX)
}


def lint(tree: Path) -> tuple[int, set[str], str]:
    """Exit code, the names of the broken walls, and all that was said."""
    run = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = run.stdout + run.stderr
    return run.returncode, {name for name in NAMES.values() if f"{name} BROKEN" in said}, said


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the walls are about."""
    copy = tmp_path_factory.mktemp("walls")
    for package in ("services", "shared"):
        shutil.copytree(CHECKOUT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CHECKOUT / ".importlinter", copy)
    return copy


def test_the_tree_as_it_stands_breaks_no_wall(tree: Path) -> None:
    code, broken, said = lint(tree)
    assert (code, broken) == (0, set()), said
    assert f"{len(NAMES)} kept, 0 broken" in said


@pytest.mark.parametrize(("wall", "file", "planted"), PLANTS, ids=[f"{wall}: {file}: {planted}" for wall, file, planted in PLANTS])
def test_a_violation_breaks_its_wall_and_no_other(tree: Path, wall: str, file: str, planted: str) -> None:
    path = tree / file
    before = path.read_text(encoding="utf-8") if path.exists() else None
    try:
        path.write_text((before or "") + f"\n{planted}\n", encoding="utf-8")
        code, broken, said = lint(tree)
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_text(before, encoding="utf-8")
    assert code != 0
    assert broken == {NAMES[wall]}, said


def test_every_wall_is_attacked() -> None:
    assert {wall for wall, _, _ in PLANTS} == set(NAMES)


def test_a_decision_is_kept_from_everything_the_project_depends_on() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.split(r"[^\w.-]", each, maxsplit=1)[0].lower() for each in project["dependencies"]}
    forbidden = set(contracts()[PREFIX + "domain"]["forbidden_modules"].split())
    imported_as: dict[str, set[str]] = {}
    for name, owners in packages_distributions().items():
        for owner in owners:
            imported_as.setdefault(owner.lower().replace("_", "-"), set()).add(name)
    for distribution in needed:
        assert imported_as[distribution] & forbidden, distribution
