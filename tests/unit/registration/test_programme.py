"""A year's programme comes from a file, whole or not at all; the file of 2017 is in the tree."""

import json
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from uuid import UUID

import pytest

from services.registration.domain import role
from services.registration.domain.programme import AdoptProgramme, Programmes, decide, evolve
from services.registration.domain.role import Roles
from services.registration.programme_file import read_programme
from shared.contracts.event import Event, Refusal
from shared.contracts.registration import ProgrammeAdopted, RoleGranted, RoleWithdrawn, UnitRegistered
from tests.unit.registration.people import ALICE, code_of, events_of

SAMPLE = (Path(__file__).parents[3] / "deploy/sample/programme-2017.yaml").read_text(encoding="utf-8")


def read(text: str) -> AdoptProgramme:
    command = read_programme(text)
    assert isinstance(command, AdoptProgramme), command
    return command


def problems(text: str) -> list[str]:
    refusal = read_programme(text)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "programme_file_invalid"
    json.dumps(dict(refusal.detail), ensure_ascii=False).encode()  # It can be kept and answered.
    return str(refusal.detail["problems"]).split("; ")


def line_of(words: str) -> int:
    return next(number for number, line in enumerate(SAMPLE.splitlines(), 1) if words in line)


def after(*files: str) -> Programmes:
    programmes = Programmes()
    for file in files:
        decided = decide(programmes, read(file))
        assert not isinstance(decided, Refusal)
        programmes = reduce(evolve, decided, programmes)
    return programmes


def test_the_programme_of_2017_has_the_notices_theme_carriers_and_groups() -> None:
    programme, *units = events_of(decide(Programmes(), read(SAMPLE)))
    assert isinstance(programme, ProgrammeAdopted)
    assert programme.theme == "弘扬雷锋精神,倡导志愿服务,践行群众路线,建设和谐水务"
    assert (len(programme.carriers), len(programme.target_groups), len(units)) == (7, 4, 7)
    assert {(each.month, each.day) for each in programme.occasions} >= {(3, 5), (3, 12), (3, 22)}


def test_the_same_file_again_changes_nothing() -> None:
    assert events_of(decide(after(SAMPLE), read(SAMPLE))) == []


def test_an_adopted_year_is_not_changed() -> None:
    assert code_of(decide(after(SAMPLE), read(SAMPLE.replace("建设和谐水务", "建设美丽水务")))) == "programme_already_adopted"
    assert code_of(decide(after(SAMPLE), read(SAMPLE.replace("name: 办公室", "name: 综合办公室")))) == "unit_already_registered"


def test_a_unit_that_an_adopted_year_did_not_know_may_follow() -> None:
    more = SAMPLE + (
        "  - code: new-station\n    name: 新站\n    kind: subordinate_unit\n    parent: water-bureau\n"
        "    valid_from: 2017-06-01\n    planned_activities_per_month: 1\n"
    )
    (unit,) = events_of(decide(after(SAMPLE), read(more)))
    assert isinstance(unit, UnitRegistered)
    assert unit.code == "new-station"


LATER = SAMPLE.replace("year: 2017", "year: 2018").replace("_on: 2017", "_on: 2018").replace("name: 办公室", "name: 综合办公室")


@pytest.mark.parametrize(("first", "second"), [(SAMPLE, LATER), (LATER, SAMPLE)], ids=["in order", "the older year later"])
def test_each_year_says_its_units_anew(first: str, second: str) -> None:
    programme, *units = events_of(decide(after(first), read(second)))
    assert isinstance(programme, ProgrammeAdopted)
    assert {each.year for each in units if isinstance(each, UnitRegistered)} == {programme.year}
    assert len(units) == 7
    assert events_of(decide(after(first, second), read(first))) == []
    assert events_of(decide(after(first, second), read(second))) == []


def test_a_code_that_is_used_twice_is_named_with_its_line() -> None:
    assert problems(SAMPLE.replace("code: tree-planting\n", "code: legal-outreach\n")) == [
        f"line {line_of('code: legal-outreach')}: carrier code 'legal-outreach' is used twice"
    ]


def test_several_mistakes_are_told_at_once_each_with_its_line() -> None:
    wrong = SAMPLE.replace("year: 2017", "year: soon").replace("day: 12", "day: 32").replace("kind: bureau", "kind: office park")
    lines = [line_of("year: 2017"), line_of("day: 12"), line_of("kind: bureau")]
    assert [each.partition(":")[0] for each in problems(wrong)] == [f"line {line}" for line in lines]


@pytest.mark.parametrize(
    ("found", "instead", "words"),
    [
        ("    day: 5\n", "    day: 31\n", "month 6 has no day 31"),
        ("parent: water-bureau", "parent: nowhere", "parent 'nowhere' is not a unit named above"),
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
        assert read(text) == read(SAMPLE)
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
