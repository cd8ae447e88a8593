"""The README is true: its commands work as they stand, its links lead somewhere, and its Chinese twin says the same commands."""

import json
import os
import random
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from deploy.local.environment import HOST, PORT_BASE, read_ports
from deploy.local.trouble import Trouble

CHECKOUT: Final = Path(__file__).resolve().parents[2]
README: Final = CHECKOUT / "README.md"
TWIN: Final = CHECKOUT / "README.zh-CN.md"
PAGES: Final = [README, TWIN, CHECKOUT / "ARCHITECTURE.md", CHECKOUT / "CONTRIBUTING.md", CHECKOUT / "CHANGELOG.md"]

INSTEAD: Final = {
    "make up": "make up DETACH=1",  # The other one stays in the foreground.
    "make test": "make --dry-run test",  # We are in it.
}

needs_tools = pytest.mark.skipif(not (shutil.which("curl") and shutil.which("make")), reason="the README's commands need curl and make")


def blocks_of(page: Path) -> list[str]:
    """The fenced blocks of shell commands, in order."""
    return re.findall(r"^```sh\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def links_of(page: Path) -> list[str]:
    """The targets of all links, tables included."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"<(http[^>\s]+)>", text)


def free_base() -> int:
    """A number from which on the ports of a whole stack are free; below those that tests/integration/local draws from."""
    for base in random.sample(range(8_000, 12_000, 100), 40):
        try:
            read_ports({PORT_BASE: str(base)}).check_free()
        except Trouble:
            continue
        return base
    raise AssertionError("no hundred ports are free")


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """The environment in which the README's commands mean a stack of their own, and what each usual port is there."""
    chosen = str(free_base())
    usual, ours = read_ports({}).named(), read_ports({PORT_BASE: chosen}).named()
    environment = {**os.environ, PORT_BASE: chosen, "LEIFENG_STATE": str(tmp_path / "state")}
    yield environment, {str(port): str(ours[name]) for name, port in usual.items()}
    subprocess.run(["make", "reset"], cwd=CHECKOUT, env=environment, capture_output=True, timeout=120, check=True)


def with_ports(text: str, ports: dict[str, str]) -> str:
    """Text about the usual ports as text about others."""
    return re.sub(r"(?<=:)\d{4,5}\b", lambda found: ports.get(found[0], found[0]), text)


def run(commands: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Commands as a reader's shell would run them, but that it ends at the first one that fails."""
    return subprocess.run(
        ["bash", "-xeuo", "pipefail", "-c", commands],
        cwd=CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=480,
        check=False,
    )


@needs_tools
@pytest.mark.timeout(600)
def test_every_command_and_every_local_link_of_the_readme_works(own_stack: tuple[dict[str, str], dict[str, str]]) -> None:
    environment, ports = own_stack
    blocks = blocks_of(README)
    ends = next(number for number, block in enumerate(blocks) if "make down" in block)
    done = run("".join(with_ports(INSTEAD.get(block.strip(), block) + "\n", ports) for block in blocks[:ends]), environment)
    everything = done.stdout
    assert done.returncode == 0, everything + done.stderr

    accepted = json.loads(next(line for line in everything.splitlines() if line.startswith('{"command_id"')))
    assert accepted["outcome"] == "accepted"
    assert "registration.volunteer_registered" in {event["type"] for event in accepted["events"]}
    answers = [json.loads(line) for line in re.findall(r'^\{"items".*?\}$', everything, re.MULTILINE)]
    assert len(answers) == 4
    assert all(answer["items"] and answer["freshness"] for answer in answers)
    assert re.search(r"^leifeng_command_outcomes_total\{.*accepted", everything, re.MULTILINE)
    assert "behind_events" in everything

    links = {with_ports(link, ports) for link in links_of(README) if HOST in link}
    assert len(links) >= 5
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for link in links:
        with direct.open(link, timeout=10) as answer:
            assert answer.status == 200, link

    last = run(with_ports(blocks[ends], ports), environment)
    assert last.returncode == 0, last.stdout + last.stderr
    assert "registration-api: runs" in last.stdout
    assert "stopped" in last.stdout
    assert "forgotten" in last.stdout


def test_the_readme_names_the_two_commands_first() -> None:
    assert [block.strip() for block in blocks_of(README)[:2]] == ["make up", "make test"]


def test_the_twin_has_the_same_commands_sections_and_links() -> None:
    assert blocks_of(TWIN) == blocks_of(README)

    def outline(page: Path) -> list[int]:
        return [len(marks) for marks in re.findall(r"^(#+) ", page.read_text(encoding="utf-8"), re.MULTILINE)]

    assert outline(TWIN) == outline(README)
    assert set(links_of(TWIN)) - {"README.md"} == set(links_of(README)) - {"README.zh-CN.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_to_a_file_leads_to_one(page: Path) -> None:
    for link in links_of(page):
        if not link.startswith(("http", "#")):
            assert (page.parent / link.partition("#")[0]).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_file_that_is_named_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = {
        *re.findall(r"`((?:services|shared|deploy|tests)/[\w./-]+)`", text),
        *re.findall(r" (tests/[\w/.]+)", "".join(blocks_of(page))),
    }
    assert [name for name in named if not (CHECKOUT / name).exists()] == []


@pytest.mark.parametrize("page", [CHECKOUT / "ARCHITECTURE.md", CHECKOUT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_a_name_of_the_code_that_is_spoken_of_stands_in_the_code(page: Path) -> None:
    files = [path for folder in ("services", "shared") for path in (CHECKOUT / folder).rglob("*") if path.suffix in {".py", ".sql"}]
    code = "\n".join(path.read_text(encoding="utf-8") for path in files)
    names = set(re.findall(r"`(\w*[a-z]_\w+|[A-Z]\w+)\b[^`/]*`", page.read_text(encoding="utf-8")))
    assert names
    assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", code)] == []


def test_every_make_target_that_is_spoken_of_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (CHECKOUT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    spoken_of = {target for page in PAGES for target in re.findall(r"(?:`|^)make ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE)}
    assert {"up", "test", "down", "reset", "check"} <= spoken_of <= targets
