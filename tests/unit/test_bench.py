"""What the bench says of what is not there, and of what it refuses."""

import re
from dataclasses import asdict, replace
from xml.etree import ElementTree as ET

from tests.bench import report
from tests.bench.beside import EVENTSOURCING, Kind, states, with_library
from tests.bench.measure import Beside, Effort, Figure, Found, Outcome, Slice, Spread
from tests.bench.plots import curves, page

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
    assert {EVENTSOURCING.label, "orjson"} <= states().keys()
    assert all(states().values())


def test_a_contender_whose_library_is_not_there_is_absent_by_name() -> None:
    async def nothing() -> Slice:
        return Slice(1, 1.0)

    assert with_library("pytest", {"theirs": nothing}) == ({"theirs": nothing}, {})
    against, absent = with_library("no-such-package", {"theirs": nothing})
    assert not against
    assert absent["theirs"].startswith("not installed")


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


def test_a_small_run_is_held_against_half_the_floor_where_it_can_say_something() -> None:
    figure = replace(FIGURE, beside={"peer": Beside(500, Spread(2.9, 2.9, 2.9))})
    (said,) = report.below_half(reported(Outcome([figure], [], {"G1": figure.over("peer")}), small=True)["append-new1"])
    assert said.startswith("G1 (")
    assert said.endswith("2.9, half the floor is 3")
    held: dict[str, Found] = {"G1": (3.0, figure), "G1b.emmett": "not installed", "G3": (0.1, figure), "G11.rss": (260.0, figure)}
    assert report.below_half(reported(Outcome([figure], [], held), small=True)["append-new1"]) == []
    assert len(report.below_half(reported(Outcome([figure], [], {"G11.rss": (261.0, figure)}), small=True)["append-new1"])) == 1


def test_small_is_one_pair_of_short_slices_and_a_large_run_leaves_out_what_is_too_large() -> None:
    small, full = Effort(small=True), Effort(small=False, events_max=1_000_000)
    assert (small.pairs, full.pairs) == (1, 9)
    assert small.slice_seconds < full.slice_seconds
    assert small.sizes((100_000, 10_000_000), (10,)) == (10,)
    assert full.sizes((100_000, 1_000_000, 10_000_000), (10,)) == [100_000, 1_000_000]
    assert replace(full, events_max=10).sizes((100_000, 1_000_000), (10,)) == (100_000,)


def drawn(*figures: Figure, name: str = "append-new1") -> str:
    benches = {name: report.bench_report(Outcome(figures, [], {"G1": (7.5, figures[0])}), 0.0, 1.0, small=False)}
    machine = {"cpus": 2, "python": "3.11", "fdatasync_us": 100, "packages": {"asyncpg": "0.32"}}
    return page({"machine": machine, "peers": {"peer": "1.0"}, "goals": report.goals_report(benches), "benches": benches})


def test_the_page_draws_every_goal_every_figure_and_what_each_contender_has() -> None:
    figure = replace(FIGURE, name="a < b", beside={"peer & co": Beside(500, Spread(10.0, 9.0, 11.0))}, absent={"other": "not installed"})
    said = drawn(figure)
    assert "a &lt; b" in said
    assert "x10" in said
    assert "other: not installed" in said
    drawings = [ET.fromstring(each) for each in re.findall(r"<svg.*?</svg>", said, re.DOTALL)]
    goals, bars = drawings
    assert len(goals.findall("circle")) == 1
    assert [round(float(each.attrib["width"])) for each in bars.findall("rect")] == [370, 37]


def test_what_goes_over_sizes_is_drawn_as_a_curve() -> None:
    figures = [
        replace(FIGURE, name=f"append at {size}", beside={"the same at 100000": Beside(1, Spread(ratio, ratio, ratio))})
        for size, ratio in ((1_000_000, 0.99), (10_000_000, 0.9))
    ]
    ((_, unit, lines),) = curves("growth", [asdict(each) for each in figures])
    assert unit == "events"
    assert lines == [("append", [(100_000, 1.0), (1_000_000, 0.99), (10_000_000, 0.9)])]
    assert "polyline" in drawn(*figures, name="growth")
    assert list(curves("codec", [asdict(FIGURE)])) == []
