"""What a run of the fault harness says of itself."""

import json
import random
from pathlib import Path

from tests.faults.clients import Asked
from tests.faults.nemesis import FAULTS
from tests.faults.nemesis.fault import SMOKE
from tests.faults.report import Figures, Struck, availability, longest_silence
from tests.faults.run import BY_FAULT, HEAVY, in_turn, is_heavy, kind_of


def struck(code: str, recovery: float | None, outcome: str = "as expected") -> Struck:
    return Struck(code, "postmaster killed", 5, False, 10.0, 2.0, recovery, outcome=outcome)


def test_a_fault_is_one_line_and_a_missed_goal_is_said() -> None:
    assert struck("F9", 3.25).line() == "   10.0 s  F9   postmaster killed: as expected in 2.0 s, recovered in 3.2 s (goal 5 s)"
    assert struck("F9", 7).line().endswith("recovered in 7.0 s (goal 5 s, missed)")
    assert struck("F9", None, "skipped: no disk").line() == "   10.0 s  F9   postmaster killed: skipped: no disk in 2.0 s"


def test_the_last_line_counts_what_survived_by_kind(tmp_path: Path) -> None:
    figures = Figures("smoke", 7, "abc", faults=[struck("F29.1", 1), struck("F29.2", 3), struck("F9", 2), struck("F1", None, "failed")])
    assert "3 faults of 2 kinds survived" in figures.line()
    assert "recovery p50/p99/max 2.0/3.0/3.0 s" in figures.line()
    kept = json.loads(figures.keep(tmp_path).read_text())
    assert (kept["seed"], kept["commit"], kept["line"]) == (7, "abc", figures.line())
    assert len(kept["faults"]) == 4


def test_available_is_what_was_answered_while_somebody_waited() -> None:
    def asked(began: float, took: float) -> Asked:
        return Asked("hours", ("p", "kiosk", "u"), "/x", {}, "k", began_at=began, answered_at=began + took)

    history = [asked(1, 0.1), asked(2, 6), asked(3, 4.9), asked(11, 60), asked(2.5, 1)]
    assert availability(history, [(0, 10)]) == 75
    assert availability(history, []) == 100


def test_the_longest_silence_is_between_answers_and_at_both_ends() -> None:
    def asked(at: float) -> Asked:
        return Asked("hours", ("p", "kiosk", "u"), "/x", {}, "k", answered_at=at)

    assert longest_silence(0, 10, [asked(1), asked(4), asked(2), asked(9), asked(30)]) == 5
    assert longest_silence(0, 10, [asked(7)]) == 7
    assert longest_silence(0, 10, []) == 10


def test_each_kind_of_fault_comes_before_any_comes_again() -> None:
    chosen = [each for each in FAULTS if SMOKE in each.profiles]
    kinds = {kind_of(each) for each in chosen}
    for seed in range(20):
        turn = in_turn(chosen, random.Random(seed))
        assert len(turn) == len(chosen)
        assert {kind_of(each) for each in turn[: len(kinds)]} == kinds
    assert in_turn(chosen, random.Random(1)) == in_turn(chosen, random.Random(1)) != in_turn(chosen, random.Random(2))


def test_of_so_many_faults_one_is_heavy_and_none_is_forgotten() -> None:
    chosen = [each for each in FAULTS if SMOKE in each.profiles]
    assert {each.code for each in FAULTS} | {kind_of(each) for each in FAULTS} >= HEAVY
    for seed in range(20):
        turn = in_turn(chosen, random.Random(seed), heavy_every=5)
        assert {each.code for each in turn} == {each.code for each in chosen}
        assert [number for number, each in enumerate(turn, 1) if is_heavy(each)] == list(range(5, len(turn) + 1, 5))


def test_what_is_claimed_of_a_fault_is_of_one_that_there_is() -> None:
    assert set(BY_FAULT) <= {each.code for each in FAULTS}
