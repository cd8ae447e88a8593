"""A star policy is read from a file, line by line, and adopted once, for days to come."""

from datetime import date, timedelta
from pathlib import Path

import pytest

from services.recognition.application import read_policy
from services.recognition.domain.policy import StarPolicies, adopt, evolve, in_force
from shared.contracts.event import Refusal
from shared.contracts.recognition import StarPolicyAdopted

TODAY = date(2017, 1, 1)
TOMORROW = TODAY + timedelta(days=1)
SAMPLE = Path(__file__).parents[3] / "deploy" / "sample" / "star-policy.yaml"


def version(name: str = "one", day: date = TODAY, thresholds: tuple[int, ...] = (6000, 18000)) -> StarPolicyAdopted:
    return StarPolicyAdopted(version=name, effective_from=day, thresholds_minutes=thresholds)


def after(*events: StarPolicyAdopted) -> StarPolicies:
    policies = StarPolicies()
    for event in events:
        policies = evolve(policies, event)
    return policies


def test_the_sample_file_is_the_national_ladder() -> None:
    policy = read_policy(SAMPLE.read_text(encoding="utf-8"))
    assert isinstance(policy, StarPolicyAdopted)
    assert policy.thresholds_minutes == (6000, 18000, 36000, 60000, 90000)


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ('version: "a"\neffective_from: 2017-01-01\nthresholds_hours:\n  - 100\n  - many\n', 5, "thresholds_hours.1"),
        ('version: "a"\neffective_from: tomorrow\nthresholds_hours: [100]\n', 2, "effective_from"),
        ("version: 2012\neffective_from: 2017-01-01\nthresholds_hours: [100]\n", 1, "version"),
        ('version: "a"\neffective_from: 2017-01-01\nthresholds_hours: [100]\nbonus: 3\n', 4, "bonus"),
        ('version: "a"\nthresholds_hours: [100]\n', 1, "effective_from"),
        ('version: "a"\n  effective_from: 2017-01-01\n', 2, "mapping"),
        ('version: "a"\neffective_from: 2017-02-31\nthresholds_hours: [100]\n', 1, "YAML"),
        ("- 100\n", 1, ""),
        ("", 1, ""),
        ("[" * 2000, 1, ""),
        ("a: &a [x]\nb: *c\n", 2, "alias"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(text: str, line: int, word: str) -> None:
    refusal = read_policy(text)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "policy_file_wrong"
    assert refusal.detail["line"] == line
    assert word in str(refusal.detail["problems"])


def test_every_wrong_line_is_named_at_once() -> None:
    refusal = read_policy('version: ""\neffective_from: soon\nthresholds_hours: \n  - 0\n  - 100\n')
    assert isinstance(refusal, Refusal)
    assert [told[:6] for told in str(refusal.detail["problems"]).split("; ")] == ["line 1", "line 2", "line 4"]


def test_the_first_version_may_already_hold() -> None:
    assert adopt(after(), version(day=date(2012, 10, 23)), TODAY) == [version(day=date(2012, 10, 23))]


def test_the_same_version_again_changes_nothing() -> None:
    assert adopt(after(version()), version(), TODAY) == []


def test_a_version_is_never_edited() -> None:
    decided = adopt(after(version()), version(day=TOMORROW, thresholds=(100,)), TODAY)
    assert isinstance(decided, Refusal)
    assert decided.code == "policy_version_exists"


@pytest.mark.parametrize("day", [TODAY, TODAY - timedelta(days=1)])
def test_a_later_version_does_not_reach_back(day: date) -> None:
    decided = adopt(after(version(day=date(2012, 10, 23))), version("two", day), TODAY)
    assert isinstance(decided, Refusal)
    assert decided.code == "policy_not_later"


def test_a_later_version_begins_after_the_last_one() -> None:
    decided = adopt(after(version(day=date(2018, 1, 1))), version("two", date(2017, 6, 1)), TODAY)
    assert isinstance(decided, Refusal)
    assert decided.code == "policy_not_later"


@pytest.mark.parametrize("thresholds", [(), (0, 100), (100, 100), (200, 100), tuple(range(1, 12))])
def test_thresholds_rise_from_star_to_star(thresholds: tuple[int, ...]) -> None:
    decided = adopt(after(), version(thresholds=thresholds), TODAY)
    assert isinstance(decided, Refusal)
    assert decided.code == "thresholds_not_ascending"


def test_the_version_in_force_is_the_last_that_has_begun() -> None:
    one, two = version("one", date(2017, 1, 1)), version("two", date(2017, 7, 1))
    assert in_force([two, one], date(2016, 12, 31)) is None
    assert in_force([two, one], date(2017, 6, 30)) == one
    assert in_force([two, one], date(2017, 7, 1)) == two
