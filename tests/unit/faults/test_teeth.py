"""The seeded bugs: each patch still fits the tree, each names a fault that there is, and a traceback is read for who spoke first."""

import traceback

import pytest

from deploy.local.places import CHECKOUT
from tests.faults.invariants import need
from tests.faults.nemesis import FAULTS
from tests.faults.teeth.__main__ import of_today, voices
from tests.faults.teeth.bugs import BUGS, PATCHES, Bug, PatchError, apply


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.code)
def test_every_patch_applies_to_the_tree_as_it_is(bug: Bug) -> None:
    apply(bug.patch, CHECKOUT, "--check")


def test_a_patch_that_fits_no_more_says_which() -> None:
    with pytest.raises(PatchError, match=r"B01-\S+\.patch does not apply"):
        apply(BUGS[0].patch, CHECKOUT / "deploy", "--check", "--include=*")


def test_every_patch_is_a_bug_and_every_bug_is_struck_by_faults_that_there_are() -> None:
    assert sorted(each.patch for each in BUGS) == sorted(PATCHES.iterdir())
    known = {code for fault in FAULTS for code in (fault.code, fault.code.partition(".")[0])}
    assert {fault for bug in BUGS for fault in bug.faults.split(",")} <= known


def test_two_by_turns_are_all_in_the_end() -> None:
    days = (len(BUGS) + 1) // 2
    assert {bug.code for day in range(1000, 1000 + days) for bug in of_today(day)} == {bug.code for bug in BUGS}


def test_who_spoke_is_the_invariant_or_the_function_that_asserted() -> None:
    def fails(does: object) -> Exception:
        try:
            does()  # type: ignore[operator]
        except AssertionError as error:
            return error
        raise AssertionError("nothing failed")

    told = ExceptionGroup("both", [fails(lambda: need(False, "I4", "a gap")), ConnectionError("no voice")])
    assert voices("".join(traceback.format_exception(told))) == ["I4"]
    told_by_a_fault = """
      | Traceback (most recent call last):
      |   File "/tmp/tree/tests/faults/nemesis/data.py", line 9, in poison_in_the_log
      |     await until(is_parked, 30, "poison parked")
      |   File "/tmp/tree/tests/faults/system.py", line 7, in until
      |     assert monotonic() - began < within, f"{what} did not come true within {within:g} s"
      | AssertionError: poison parked did not come true within 30 s
    """
    assert voices(told_by_a_fault) == ["data.poison_in_the_log"]
