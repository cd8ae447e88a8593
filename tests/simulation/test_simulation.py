"""Two hundred seeds for every run of the tests, a thousand in CI; many more by command: `make simulate SEEDS=100000`."""

import subprocess
import sys
from collections import Counter

import pytest

from tests.simulation.run import Outcome, seldom, simulate

BLOCKS = range(4)
SEEDS_IN_BLOCK = 50

played: dict[int, Outcome] = {}
"""What came of each seed, once it was played."""


def outcome_of(seed: int) -> Outcome:
    """Plays a seed, or remembers it."""
    if seed not in played:
        played[seed] = simulate(seed)
    return played[seed]


@pytest.mark.parametrize("block", BLOCKS)
def test_every_promise_is_kept_whatever_the_seed(block: int) -> None:
    first = block * SEEDS_IN_BLOCK + 1
    broken = {seed: failures for seed in range(first, first + SEEDS_IN_BLOCK) if (failures := outcome_of(seed).failures)}
    assert not broken, f"again, with a trace: make simulate SEED={next(iter(broken))}"


def test_what_the_simulation_is_for_has_happened() -> None:
    happened = sum((outcome_of(seed).happened for seed in range(1, len(BLOCKS) * SEEDS_IN_BLOCK + 1)), Counter[str]())
    assert seldom(happened, len(BLOCKS) * SEEDS_IN_BLOCK) == {}


def test_the_same_seed_is_the_same_run_also_in_another_process() -> None:
    code = "from tests.simulation.run import simulate\nfor seed in range(1, 11): print(simulate(seed).fingerprint)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert other.stdout.split() == [outcome_of(seed).fingerprint for seed in range(1, 11)]


def test_a_trace_tells_what_happened_and_changes_nothing() -> None:
    told: list[str] = []
    assert simulate(1, told.append).fingerprint == outcome_of(1).fingerprint
    assert any("publish" in line for line in told)
    assert any("COMMIT" in line for line in told)
