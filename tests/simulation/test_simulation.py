"""A thousand seeds for every run of the tests; many more by command: `make simulate SEEDS=100000`."""

import subprocess
import sys
from collections import Counter

import pytest

from tests.simulation.run import Outcome, simulate

SEEDS = range(1, 1001)

SITUATIONS = (
    "crashed before",
    "crashed after",
    "lost before",
    "lost after",
    "slow",
    "sleeps",
    "late page",
    "second owner",
    "fenced",
    "gap",
    "published again",
    "topic wiped",
    "topic deleted",
    "tail cut",
    "record withheld",
    "bad copy",
    "page repeated",
    "stranger between",
    "database restarted",
    "clock stepped",
    "clock strobing",
    "parked",
    "parked behind",
    "refused",
    "unknown",
    "answered from before",
    "waited for another log",
    "closed in time",
)
"""What must have happened in a thousand seeds, or they have shown nothing."""


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    """Of every seed."""
    return [simulate(seed) for seed in SEEDS]


def test_every_promise_is_kept_whatever_the_seed(outcomes: list[Outcome]) -> None:
    broken = {each.seed: each.failures for each in outcomes if each.failures}
    assert not broken, f"again, with a trace: python -m tests.simulation --seed {next(iter(broken))}"


def test_what_the_simulation_is_for_has_happened(outcomes: list[Outcome]) -> None:
    happened = sum((each.happened for each in outcomes), Counter[str]())
    assert {name: happened[name] for name in SITUATIONS if happened[name] < 20} == {}


def test_the_same_seed_is_the_same_run_also_in_another_process(outcomes: list[Outcome]) -> None:
    code = "from tests.simulation.run import simulate\nfor seed in range(1, 21): print(simulate(seed).fingerprint)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert other.stdout.split() == [each.fingerprint for each in outcomes[:20]]


def test_a_trace_tells_what_happened_and_changes_nothing(outcomes: list[Outcome]) -> None:
    told: list[str] = []
    assert simulate(1, told.append).fingerprint == outcomes[0].fingerprint
    assert any("publish" in line for line in told)
    assert any("COMMIT" in line for line in told)
