"""Every alert and every operator's command has its page in deploy/runbooks, and no page is without."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import typer
from typer.core import TyperGroup

from services.registration.main import SERVICE
from shared.process import command_line

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
PAGES: Final = {page.name: page.read_text(encoding="utf-8") for page in (DEPLOY / "runbooks").glob("*.md") if page.name != "README.md"}
INDEX: Final = (DEPLOY / "runbooks" / "README.md").read_text(encoding="utf-8")
RUNBOOK_OF: Final = dict(
    re.findall(
        r"- alert: (\w+)\n(?:(?!- alert:).)*?runbook: deploy/runbooks/(\S+)\n",
        (DEPLOY / "prometheus" / "rules.yml").read_text(encoding="utf-8"),
        re.DOTALL,
    )
)
ALERTS: Final = re.findall(r"- alert: (\w+)", (DEPLOY / "prometheus" / "rules.yml").read_text(encoding="utf-8"))
PROCESSES: Final = {"api", "worker", "all"}


def commands(command: Any, *said: str) -> Iterator[str]:
    """What can be typed, groups followed through."""
    if isinstance(command, TyperGroup):
        for name, each in command.commands.items():
            yield from commands(each, *said, name)
    else:
        yield " ".join(said)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_links_to_a_page_that_speaks_of_it_and_the_index_has_both(alert: str) -> None:
    page = RUNBOOK_OF[alert]
    assert f"`{alert}`" in PAGES[page]
    assert re.search(rf"`{alert}`.*\[{re.escape(page)}\]", INDEX)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_linked_by_an_alert_or_a_command_says_which_and_leads_to_pages_that_exist(page: str) -> None:
    assert page in RUNBOOK_OF.values() or re.search(rf"^\| `[a-z-]+` \| \[{re.escape(page)}\]", INDEX, re.MULTILINE)
    assert f"]({page})" in INDEX
    assert set(re.findall(r"`([A-Z]\w+[a-z])` (?:fires|or `)", PAGES[page])) <= RUNBOOK_OF.keys()
    assert set(re.findall(r"[\w-]+\.md", PAGES[page])) <= PAGES.keys()


def test_the_index_names_no_page_and_no_alert_that_is_not_there() -> None:
    assert set(re.findall(r"\]\((\S+)\)", INDEX)) == PAGES.keys()
    assert set(re.findall(r"`([A-Z]\w+)`(?=,? .*\|)", INDEX)) == set(ALERTS)


def test_every_command_of_an_operator_is_tried_on_some_page() -> None:
    tried = set()
    for block in re.findall(r"```sh\n(.*?)```", "".join(PAGES.values()), re.DOTALL):
        for said in re.findall(r"python -m services\.\w+ ([a-z -]+)", block):
            words = said.split()
            tried |= {words[0], " ".join(words[:2])}
    there = set(commands(typer.main.get_command(command_line(SERVICE)))) - PROCESSES
    assert "log read-only" in there
    assert there <= tried
