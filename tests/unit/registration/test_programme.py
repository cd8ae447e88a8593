"""A year's programme comes from a file, whole or not at all, and by two persons; the file of 2017 is in the tree."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import reduce
from pathlib import Path
from uuid import UUID

import pytest

from services.registration.domain import role
from services.registration.domain.programme import (
    ApproveProgramme,
    DeclineProgramme,
    LapseProgramme,
    ProgrammeEvent,
    ProgrammeFile,
    Programmes,
    ProposeProgramme,
    decide,
    evolve,
)
from services.registration.domain.role import Roles
from services.registration.programme_file import read_programme
from shared.contracts.event import Event, Refusal
from shared.contracts.registration import (
    ProgrammeAdopted,
    ProgrammeApproved,
    ProgrammeDeclined,
    ProgrammeLapsed,
    ProgrammeProposed,
    RoleGranted,
    RoleWithdrawn,
    UnitProposed,
    UnitRegistered,
)
from tests.unit.registration.people import ALICE, BOB, BUREAU_ADMIN, code_of, events_of

SAMPLE = (Path(__file__).parents[3] / "deploy/sample/programme-2017.yaml").read_text(encoding="utf-8")


NOW = datetime(2017, 3, 1, 1, tzinfo=UTC)
END = NOW + timedelta(days=7)
SECOND = replace(BUREAU_ADMIN, person_id=BOB)


def read(text: str) -> ProgrammeFile:
    file = read_programme(text)
    assert isinstance(file, ProgrammeFile), file
    return file


def propose(text: str, now: datetime = NOW) -> ProposeProgramme:
    return ProposeProgramme(read(text), BUREAU_ADMIN, now, END)


def approve(text: str, now: datetime = NOW) -> ApproveProgramme:
    return ApproveProgramme(read(text).proposal_id, SECOND, now)


def problems(text: str) -> list[str]:
    refusal = read_programme(text)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "programme_file_invalid"
    json.dumps(dict(refusal.detail), ensure_ascii=False).encode()  # It can be kept and answered.
    return str(refusal.detail["problems"]).split("; ")


def line_of(words: str) -> int:
    return next(number for number, line in enumerate(SAMPLE.splitlines(), 1) if words in line)


def and_then(programmes: Programmes, decided: Sequence[ProgrammeEvent] | Refusal) -> Programmes:
    assert not isinstance(decided, Refusal), decided
    return reduce(evolve, decided, programmes)


def after(*files: str) -> Programmes:
    """Each is proposed by one and approved by another."""
    programmes = Programmes()
    for file in files:
        programmes = and_then(programmes, decide(programmes, propose(file)))
        programmes = and_then(programmes, decide(programmes, approve(file)))
    return programmes


def proposed(file: str, *adopted: str) -> Programmes:
    """It waits for a second person."""
    programmes = after(*adopted)
    return and_then(programmes, decide(programmes, propose(file)))


def adopted_by(programmes: Programmes, file: str) -> Sequence[Event]:
    """What is said of programme and units when the file is proposed and approved."""
    waiting = and_then(programmes, decide(programmes, propose(file)))
    approved, *said = events_of(decide(waiting, approve(file)))
    assert isinstance(approved, ProgrammeApproved)
    return said


def test_the_programme_of_2017_has_the_notices_theme_carriers_and_groups() -> None:
    programme, *units = adopted_by(Programmes(), SAMPLE)
    assert isinstance(programme, ProgrammeAdopted)
    assert programme.theme == "弘扬雷锋精神,倡导志愿服务,践行群众路线,建设和谐水务"
    assert (len(programme.carriers), len(programme.target_groups), len(units)) == (7, 4, 7)
    assert {(each.month, each.day) for each in programme.occasions} >= {(3, 5), (3, 12), (3, 22)}


def test_the_same_file_again_changes_nothing() -> None:
    assert events_of(decide(proposed(SAMPLE), propose(SAMPLE))) == []
    assert events_of(decide(after(SAMPLE), propose(SAMPLE))) == []


def test_an_adopted_year_is_not_changed() -> None:
    assert code_of(decide(after(SAMPLE), propose(SAMPLE.replace("建设和谐水务", "建设美丽水务")))) == "programme_already_adopted"
    assert code_of(decide(after(SAMPLE), propose(SAMPLE.replace("name: 办公室", "name: 综合办公室")))) == "unit_already_registered"


MORE = SAMPLE + (
    "  - code: new-station\n    name: 新站\n    kind: subordinate_unit\n    parent: water-bureau\n"
    "    valid_from: 2017-06-01\n    planned_activities_per_month: 1\n"
)


def test_a_unit_that_an_adopted_year_did_not_know_may_follow_by_two_persons_too() -> None:
    (said, unit) = events_of(decide(after(SAMPLE), propose(MORE)))
    assert isinstance(said, ProgrammeProposed)
    assert isinstance(unit, UnitProposed)
    assert (said.programme, said.units, said.units_gone, unit.difference) == (None, 1, (), "new")
    (unit,) = adopted_by(after(SAMPLE), MORE)
    assert isinstance(unit, UnitRegistered)
    assert unit.code == "new-station"


def test_what_one_proposed_counts_once_another_person_has_approved_it() -> None:
    waiting = proposed(SAMPLE)
    assert (waiting.by_year, waiting.units) == ({}, {})
    assert code_of(decide(waiting, replace(approve(SAMPLE), asker=BUREAU_ADMIN))) == "approver_is_requester"
    approved = and_then(waiting, decide(waiting, approve(SAMPLE)))
    assert (set(approved.by_year), len(approved.units), approved.proposals) == ({2017}, 7, {})
    assert code_of(decide(approved, approve(SAMPLE))) == "programme_not_proposed"
    assert code_of(decide(Programmes(), approve(SAMPLE))) == "programme_not_proposed"


def test_what_is_approved_is_the_very_file_that_was_proposed() -> None:
    other = SAMPLE.replace("建设和谐水务", "建设美丽水务")
    assert code_of(decide(proposed(SAMPLE), approve(other))) == "programme_not_proposed"
    assert code_of(decide(proposed(SAMPLE), propose(other))) == "programme_already_proposed"


def test_a_proposal_that_nobody_approves_in_time_lapses_and_may_be_made_again() -> None:
    waiting, late = proposed(SAMPLE), END + timedelta(seconds=1)
    lapse = LapseProgramme(read(SAMPLE).proposal_id, END - timedelta(seconds=1))
    assert events_of(decide(waiting, lapse)) == []
    assert code_of(decide(waiting, approve(SAMPLE, END))) == "proposal_lapsed"  # Whether or not the deadline has fired.
    assert [type(each) for each in events_of(decide(waiting, replace(lapse, now=END)))] == [ProgrammeLapsed]
    lapsed = and_then(waiting, decide(waiting, replace(lapse, now=END)))
    assert events_of(decide(lapsed, replace(lapse, now=late))) == []
    assert [type(each) for each in events_of(decide(lapsed, propose(SAMPLE, late)))][:2] == [ProgrammeProposed, UnitProposed]
    assert [type(each) for each in events_of(decide(waiting, propose(SAMPLE, late)))][:2] == [ProgrammeLapsed, ProgrammeProposed]


def test_who_proposed_it_takes_it_back_and_anybody_else_rejects_it() -> None:
    waiting = proposed(SAMPLE)
    for asker, reason in ((BUREAU_ADMIN, "taken_back"), (SECOND, "rejected")):
        (declined,) = events_of(decide(waiting, DeclineProgramme(read(SAMPLE).proposal_id, asker)))
        assert isinstance(declined, ProgrammeDeclined)
        assert declined.reason_code == reason
    again = and_then(waiting, decide(waiting, DeclineProgramme(read(SAMPLE).proposal_id, SECOND)))
    assert code_of(decide(again, approve(SAMPLE))) == "programme_not_proposed"
    assert len(events_of(decide(again, propose(SAMPLE)))) == 8


def test_a_proposal_says_what_it_would_change() -> None:
    text = LATER.replace("code: tree-planting\n", "code: hedge-planting\n").replace("code: general-office\n", "code: main-office\n")
    text = text.replace("planned_activities_per_month: 2", "planned_activities_per_month: 3")
    said, *units = events_of(decide(after(SAMPLE), propose(text)))
    assert isinstance(said, ProgrammeProposed)
    assert (said.year, said.compared_with, said.units) == (2018, 2017, 7)
    assert (said.words_new, said.words_changed, said.words_gone) == (("carrier/hedge-planting",), (), ("carrier/tree-planting",))
    assert said.units_gone == ("general-office",)
    found = {each.unit.code: each.difference for each in units if isinstance(each, UnitProposed)}
    assert [code for code, difference in found.items() if difference == "new"] == ["main-office"]
    assert [code for code, difference in found.items() if difference == "changed"] == ["water-saving-office", "river-management-station"]


LATER = SAMPLE.replace("year: 2017", "year: 2018").replace("_on: 2017", "_on: 2018").replace("name: 办公室", "name: 综合办公室")


@pytest.mark.parametrize(("first", "second"), [(SAMPLE, LATER), (LATER, SAMPLE)], ids=["in order", "the older year later"])
def test_each_year_says_its_units_anew(first: str, second: str) -> None:
    programme, *units = adopted_by(after(first), second)
    assert isinstance(programme, ProgrammeAdopted)
    assert {each.year for each in units if isinstance(each, UnitRegistered)} == {programme.year}
    assert len(units) == 7
    assert events_of(decide(after(first, second), propose(first))) == []
    assert events_of(decide(after(first, second), propose(second))) == []


def test_a_code_that_is_used_twice_is_named_with_its_line() -> None:
    assert problems(SAMPLE.replace("code: tree-planting\n", "code: legal-outreach\n")) == [
        f"line {line_of('code: legal-outreach')}: this carrier code is used twice"
    ]


def test_several_mistakes_are_told_at_once_each_with_its_line() -> None:
    wrong = SAMPLE.replace("year: 2017", "year: soon").replace("day: 12", "day: 32").replace("kind: bureau", "kind: office park")
    lines = [line_of("year: 2017"), line_of("day: 12"), line_of("kind: bureau")]
    assert [each.partition(":")[0] for each in problems(wrong)] == [f"line {line}" for line in lines]


@pytest.mark.parametrize(
    ("found", "instead", "words"),
    [
        ("    day: 5\n", "    day: 31\n", "month 6 has no day 31"),
        ("parent: water-bureau", "parent: nowhere", "parent is not a unit named above"),
        ("ends_on: 2017-12-31", "ends_on: 2016-12-31", "must be days of 2017"),
        ("  theme:", "  thema:", "programme.theme"),
        ("name: 区水务局", 'name: "\\0"', "visible characters"),
        ("name: 区水务局", 'name: "\\ud800"', "unicode"),
        ("name: 区水务局", '"\\ud800": 1', ""),
        ("code: water-bureau", "code: Water Bureau", "pattern"),
        ("code: water-bureau", "code: yes", "valid string"),
        ("units:", "units: &all", ""),
        ("units:", "units: []\nothers:", "others"),
    ],
)
def test_a_mistake_is_told_in_its_words(found: str, instead: str, words: str) -> None:
    text = SAMPLE.replace(found, instead)
    assert text != SAMPLE
    if instead.endswith("&all"):
        assert read(text).units == read(SAMPLE).units
        return
    assert any(words in each for each in problems(text)), problems(text)


@pytest.mark.parametrize(
    "text",
    ["", "[", "a: b: c", "- 1", "programme: 3", "[" * 10_000, "\x00", "a: *b", '"\\ud800": 1\n"\\ud800": 2', "%TAG ! tag:x:\n---\n!y z"],
)
def test_what_is_no_programme_is_refused_and_never_fails(text: str) -> None:
    assert problems(text)[0].startswith("line ")


def test_a_file_of_references_to_references_is_refused_at_once() -> None:
    bomb = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 40))
    assert all("is referred to" in each for each in problems(bomb))


def test_a_role_is_granted_once_and_withdrawn_once() -> None:
    granted = RoleGranted(person_id=ALICE, role="unit_admin", unit_code="general-office")
    withdrawn = RoleWithdrawn(person_id=ALICE, role="unit_admin", unit_code="general-office", reason="岗位调整")

    def held(*events: RoleGranted | RoleWithdrawn) -> Roles:
        return reduce(role.evolve, events, Roles())

    def types(events: Sequence[Event]) -> list[type]:
        return [type(each) for each in events_of(events)]

    assert types(role.grant(held(), granted)) == [RoleGranted]
    assert types(role.grant(held(granted), granted)) == []
    assert types(role.withdraw(held(granted), withdrawn)) == [RoleWithdrawn]
    assert types(role.withdraw(held(granted, withdrawn), withdrawn)) == []
    assert types(role.grant(held(granted, withdrawn), granted)) == [RoleGranted]


def test_a_role_that_only_a_token_knows_can_be_withdrawn() -> None:
    withdrawn = RoleWithdrawn(person_id=UUID(int=5), role="kiosk", unit_code="general-office", reason="设备遗失")
    assert events_of(role.withdraw(Roles(), withdrawn)) == [withdrawn]
