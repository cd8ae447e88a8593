"""The simulation bites: each promise that is taken out of the product is missed, within a few seeds."""

import pytest

from tests.simulation.run import simulate
from tests.simulation.teeth import TEETH

SEEDS_MAX = 1000


@pytest.mark.parametrize("name", TEETH)
def test_what_is_broken_is_found(name: str) -> None:
    with TEETH[name]():
        assert any(simulate(seed).failures for seed in range(1, SEEDS_MAX + 1)), f"{SEEDS_MAX} seeds have not noticed"
