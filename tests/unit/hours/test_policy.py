"""A policy is read from a file, line by line, and adopted once, for days to come."""

from datetime import date, timedelta
from pathlib import Path

import pytest

from services.hours.application import read_policy
from services.hours.domain.policy import HoursPolicies, adopt, evolve
from shared.contracts.event import Refusal
from shared.contracts.hours import HoursPolicyAdopted
from tests.unit.hours.scenes import POLICY, folded

TODAY = date(2017, 6, 1)
SAMPLE = Path(__file__).parents[3] / "deploy" / "sample" / "hours-policy.yaml"


def later(days: int, version: str = "later", **figures: int) -> HoursPolicyAdopted:
    return POLICY.model_copy(update={"version": version, "effective_from": TODAY + timedelta(days=days), **figures})


def adopted(*events: HoursPolicyAdopted) -> HoursPolicies:
    return folded(evolve, HoursPolicies(), events)


def test_the_sample_file_has_the_usual_figures() -> None:
    policy = read_policy(SAMPLE.read_text(encoding="utf-8"))
    assert isinstance(policy, HoursPolicyAdopted)
    assert policy == POLICY.model_copy(update={"version": policy.version})


@pytest.mark.parametrize(
    ("before", "after", "line", "word"),
    [
        ("480", "0", 4, "daily_cap_minutes"),
        ("480", "eight hours", 4, "daily_cap_minutes"),
        ("480", "480.5", 4, "daily_cap_minutes"),
        ("pairs_per_activity_day_max: 3", "pairs_per_activity_day_max: 0", 5, "pairs_per_activity_day_max"),
        ("2017-01-01", "2017-02-29", 1, "YAML"),
        ("effective_from", "effective_form", 2, "effective_from"),
        ("effective_from: 2017-01-01", 'version: "b"', 3, "stands twice"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(before: str, after: str, line: int, word: str) -> None:
    text = SAMPLE.read_text(encoding="utf-8")
    assert before in text
    refusal = read_policy(text.replace(before, after, 1))
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.detail["line"]) == ("policy_file_wrong", line)
    assert word in str(refusal.detail["problems"])


def test_the_first_policy_may_have_begun_before_today() -> None:
    assert adopt(HoursPolicies(), POLICY, TODAY) == [POLICY]


def test_the_same_file_again_changes_nothing() -> None:
    assert adopt(adopted(POLICY), POLICY, TODAY) == []


def test_a_version_is_never_edited() -> None:
    edited = POLICY.model_copy(update={"daily_cap_minutes": 600})
    assert adopt(adopted(POLICY), edited, TODAY) == Refusal("policy_version_exists", {"version": "2017"})


@pytest.mark.parametrize("days", [-30, 0])
def test_a_new_version_never_reaches_back_over_days_that_were_decided(days: int) -> None:
    refusal = adopt(adopted(POLICY), later(days), TODAY)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "policy_not_later"


def test_a_new_version_begins_after_those_adopted() -> None:
    known = adopted(POLICY, later(10, "second"))
    refusal = adopt(known, later(10, "third"), TODAY)
    assert isinstance(refusal, Refusal)
    assert adopt(known, later(11, "third"), TODAY) == [later(11, "third")]
