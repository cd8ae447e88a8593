"""What of a caller's words an error may repeat."""

import pytest

from shared.fieldnames import UNNAMED, shown


@pytest.mark.parametrize("name", ["a", "unit_code", "daily_cap_minutes"])
def test_what_is_made_like_a_field_of_ours_is_named(name: str) -> None:
    assert shown(name) == name


@pytest.mark.parametrize(
    "name", ["", "赵大山", "Zhao", "zhao dashan", "19900000001", "v000000000001", "37990119800501001X", "_", "a" * 41, "a\n"]
)
def test_what_could_be_somebodys_name_or_number_is_not(name: str) -> None:
    assert shown(name) == UNNAMED
