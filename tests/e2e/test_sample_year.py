"""The lived-in year, played while every process is killed in turn, the player too: what the services show in the end is what was played."""

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from deploy.local.children import Child, last_lines
from deploy.local.environment import SERVICES
from deploy.local.kafka import LocalKafka
from deploy.local.places import CHECKOUT
from deploy.local.postgres import LocalPostgres
from deploy.sample.year import AUDITOR
from tests.e2e.stack import Stack, running

PLAYED_WITHIN_S: Final = 420.0
"""On an idle machine it takes well under a minute without the kills; the tests may share it."""


@pytest.fixture
def stack(tmp_path: Path, postgres_server: LocalPostgres, kafka_server: LocalKafka) -> Iterator[Stack]:
    """Six processes of the test's own, on the travelling clock."""
    with running(tmp_path, postgres_server, kafka_server) as made:
        yield made


def play(stack: Stack, number: int) -> Child:
    """Starts `python -m deploy.sample load` as the supervisor does."""
    said = {name: value for service in SERVICES for name, value in stack.environment(service).items()}
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **said, "LEIFENG_STATE": str(stack.folder)}
    log = stack.folder / f"sample-{number}.log"
    return Child("sample", [sys.executable, "-m", "deploy.sample", "load"], log=log, environment=environment, directory=CHECKOUT)


def days_played(player: Child) -> int:
    """How many activity days the player has told of."""
    return len(re.findall(r"^\d{4}-\d\d-\d\d: ", player.log.read_text(encoding="utf-8"), re.MULTILINE))


def play_until(player: Child, days: int, end: float) -> None:
    """Lets the year go on up to its `days`-th activity day."""
    while days_played(player) < days:
        assert player.running(), last_lines(player.log, 20)
        assert time.monotonic() < end, last_lines(player.log, 20)
        time.sleep(0.05)


def play_to_the_end(player: Child, end: float) -> None:
    """Lets the player finish, or fail."""
    while player.running():
        assert time.monotonic() < end, last_lines(player.log, 20)
        time.sleep(0.1)


@pytest.mark.timeout(PLAYED_WITHIN_S + 120)
async def test_a_year_in_which_every_process_is_killed_adds_up(stack: Stack) -> None:
    end = time.monotonic() + PLAYED_WITHIN_S
    player = play(stack, 1)
    try:
        for number, name in enumerate(list(stack.processes), 1):
            play_until(player, 2 * number, end)
            stack.kill(name)
            stack.start(name)
        play_until(player, 14, end)
        player.send(signal.SIGKILL)
        player = play(stack, 2)  # The same keys: it is given the first answers, and goes on where it was.
        play_to_the_end(player, end)
    finally:
        player.stop((signal.SIGKILL, 5.0))
    told = player.log.read_text(encoding="utf-8")
    assert player.exit_code() == 0, told[-2000:]
    assert "counted apart and equal: 40 volunteers" in told

    await stack.settled()
    clocks = [(await stack.sql(service, "SELECT clock FROM es.log"))[0]["clock"] for service in SERVICES]
    assert clocks == ["system", "system", "system"]
    for service in SERVICES:
        (log,) = await stack.sql(service, "SELECT count(*) AS events, max(position) AS head, count(DISTINCT event_id) AS ids FROM es.event")
        assert log["events"] == log["head"] == log["ids"]
        assert await stack.sql(service, "SELECT * FROM consumer.parked") == []
    assert (await stack.sql("hours", "SELECT imbalance_minutes FROM api.ledger_sum"))[0]["imbalance_minutes"] == 0
    (stars,) = await stack.sql("recognition", "SELECT count(*) FILTER (WHERE outcome = 'withdrawn') AS withdrawn FROM api.star_history")
    assert stars["withdrawn"] == 1

    async with stack.client("recognition", AUDITOR.name, AUDITOR.role, AUDITOR.unit) as auditor:
        (first, *_) = (await auditor.get("/api/v1/stars", params={"limit": "1"})).json()["items"]
        behind = (await auditor.get(first["details"])).json()["items"]
    assert behind[-1]["type"] == "recognition.star_granted"
    assert behind[-1]["payload"]["confirmed_minutes"] == first["confirmed_minutes"]


def test_an_answer_that_nobody_gives_is_said_in_one_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = Child("sample", [sys.executable, "-m", "deploy.sample", "load"], log=log, environment=dict(os.environ), directory=CHECKOUT)
    play_to_the_end(child, time.monotonic() + 60)
    assert child.exit_code() == 1
    assert log.read_text(encoding="utf-8").startswith("error: 'REGISTRATION_HTTP_PORT' is not set")
