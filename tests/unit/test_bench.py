"""What the bench says of what is not there, and of what it refuses."""

from dataclasses import replace

from tests.bench import report
from tests.bench.beside import EVENTSOURCING, Kind
from tests.bench.measure import Beside, Effort, Figure, Outcome, Spread

NOWHERE = Kind("nobody's store", ["no-such-package", "@nobody/no-such-package"], ["true"], "SELECT 1")
STEADY = Spread(1.0, 0.99, 1.01)
FIGURE = Figure("16 callers", "events/s", 5_000, STEADY, 1, refused=False)


def reported(outcome: Outcome, *, small: bool = False) -> dict[str, dict[str, object]]:
    return {"append-new1": report.bench_report(outcome, 0.0, 1.0, small=small)}


def test_a_peer_that_is_not_installed_says_what_is_missing() -> None:
    assert NOWHERE.missing() == ["no-such-package", "@nobody/no-such-package"]
    assert NOWHERE.state() == "not installed (no-such-package, @nobody/no-such-package): `make bench` installs it"


def test_one_that_is_installed_says_its_versions() -> None:
    assert replace(NOWHERE, packages=["pytest", "pydantic"]).state().startswith("pytest ")


def test_an_absent_peer_has_its_line_in_the_table_its_place_in_the_json_and_its_reason_in_the_goal() -> None:
    figure = replace(FIGURE, absent={NOWHERE.label: NOWHERE.state()})
    outcome = Outcome([figure], [], {"G1": figure.over(NOWHERE.label), "G4": figure.saved(NOWHERE.label)})
    (line,) = [each for each in report.table("append-new1", outcome) if NOWHERE.label in each]
    assert "not installed" in line
    said = reported(outcome)
    assert said["append-new1"]["figures"][0]["absent"] == {NOWHERE.label: NOWHERE.state()}  # type: ignore[index]
    goals = report.goals_report(said)
    assert goals["G1"]["measured"] is None
    assert goals["G1"]["reached"] == goals["G4"]["reached"] == f"not measured: {NOWHERE.state()}"


def test_every_peer_is_named_whether_it_is_there_or_not() -> None:
    assert EVENTSOURCING.label in report.peers()
    assert all(report.peers().values())


def test_a_goal_is_what_the_contender_says_unless_the_figure_was_refused_or_small() -> None:
    figure = replace(FIGURE, beside={"peer": Beside(500, Spread(10.0, 9.0, 11.0), Spread(12.0, 11.0, 13.0))})
    outcome = Outcome([figure], [], {"G1": figure.over("peer"), "G4": figure.saved("peer")})
    goals = report.goals_report(reported(outcome))
    assert (goals["G1"]["measured"], goals["G1"]["reached"]) == (10.0, "target")
    assert (goals["G4"]["measured"], goals["G4"]["reached"]) == (12.0, "target")
    noisy = replace(figure, refused=True)
    assert report.goals_report(reported(Outcome([noisy], [], {"G1": noisy.over("peer")})))["G1"]["reached"] == "refused (noisy)"
    assert report.goals_report(reported(outcome, small=True))["G1"]["reached"] == "small run"
    assert report.goals_report({})["G1"]["reached"] == "not measured: the bench was not run"


def test_small_is_one_pair_of_short_slices() -> None:
    assert (Effort(small=True).pairs, Effort(small=False).pairs) == (1, 9)
    assert Effort(small=True).slice_seconds < Effort(small=False).slice_seconds
