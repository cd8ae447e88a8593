"""Who may do what: each role with each kind of matter, and the hands that stay apart."""

from typing import Any, Final
from uuid import UUID

import pytest

from shared.contracts.event import Refusal
from shared.permissions import APART, EVERYBODY, GRANTED, REACH, Actor, Duty, Resource, Role, barred, judge

PERSON: Final = UUID(int=1)
ANOTHER: Final = UUID(int=2)
HOME: Final = "water-saving-office"
AWAY: Final = "river-management-station"

MATTERS: Final[dict[str, Resource]] = {
    "own": Resource(unit=HOME, subject=PERSON),
    "own, of another unit": Resource(unit=AWAY, subject=PERSON),
    "another's, of the unit": Resource(unit=HOME, subject=ANOTHER),
    "another's, of another unit": Resource(unit=AWAY, subject=ANOTHER),
    "the unit's": Resource(unit=HOME),
    "another unit's": Resource(unit=AWAY),
    "somebody's of no unit": Resource(subject=ANOTHER),
    "nobody's": Resource(),
}

OWN_ONLY: Final = [None, None, "not_own_record", "not_own_record", "wrong_unit", "wrong_unit", "not_own_record", "wrong_unit"]
UNIT_ONLY: Final = [None, "wrong_unit", None, "wrong_unit", None, "wrong_unit", None, None]

EXPECTED: Final[dict[Role, list[str | None]]] = {
    Role.BUREAU_ADMIN: [None] * 8,
    Role.UNIT_ADMIN: UNIT_ONLY,
    Role.ACTIVITY_LEADER: UNIT_ONLY,
    Role.VOLUNTEER: OWN_ONLY,
    Role.KIOSK: UNIT_ONLY,
    Role.PUBLIC: ["wrong_unit"] * 8,
    Role.AUDITOR: [None] * 8,
    Role.OPS: ["wrong_unit"] * 8,
    Role.SYSTEM: [None] * 8,
}
"""What each role is told of each matter, once the action is open to the role."""


def code(refusal: Refusal | None) -> str | None:
    return None if refusal is None else refusal.code


@pytest.mark.parametrize("role", Role)
def test_how_far_a_role_reaches(role: Role) -> None:
    actor = Actor(PERSON, role, HOME)
    assert [code(judge(actor, {role}, matter)) for matter in MATTERS.values()] == EXPECTED[role]


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("matter", MATTERS.values(), ids=MATTERS)
def test_a_role_that_an_action_does_not_name_may_not_whatever_it_is_about(role: Role, matter: Resource) -> None:
    actor = Actor(PERSON, role, HOME)
    assert code(judge(actor, EVERYBODY - {role}, matter)) == code(judge(actor, EVERYBODY - {role})) == "role_not_allowed"


@pytest.mark.parametrize(
    ("duty", "matter", "expected"),
    [
        ("recorder", {"subject": PERSON}, "recorder_is_subject"),
        ("proposer", {"subject": PERSON}, "proposer_is_subject"),
        ("proposer", {"subject": ANOTHER, "recorders": [PERSON], "requesters": [PERSON]}, None),
        ("recorder", {"subject": ANOTHER, "recorders": [PERSON], "requesters": [PERSON]}, None),
        ("approver", {"subject": PERSON}, "approver_is_subject"),
        ("approver", {"subject": ANOTHER, "recorders": [ANOTHER, PERSON]}, "approver_is_recorder"),
        ("approver", {"subject": ANOTHER, "requesters": [PERSON]}, "approver_is_requester"),
        ("approver", {"subject": ANOTHER, "recorders": [ANOTHER], "requesters": [ANOTHER]}, None),
        (None, {"subject": PERSON, "recorders": [PERSON], "requesters": [PERSON]}, None),
    ],
)
@pytest.mark.parametrize("role", [Role.BUREAU_ADMIN, Role.UNIT_ADMIN, Role.ACTIVITY_LEADER, Role.KIOSK])
def test_recorder_is_not_subject_is_not_approver_in_any_role(
    role: Role, duty: Duty | None, matter: dict[str, Any], expected: str | None
) -> None:
    assert code(barred(Actor(PERSON, role, HOME), Resource(unit=HOME, **matter), duty)) == expected


def test_who_is_not_of_the_unit_is_told_so_first() -> None:
    matter = Resource(unit=AWAY, subject=PERSON)
    assert barred(Actor(PERSON, Role.UNIT_ADMIN, HOME), matter, "approver") == Refusal("wrong_unit")


def test_every_role_has_a_reach_and_only_what_belongs_to_no_person_or_to_all_is_not_granted() -> None:
    assert set(REACH) == set(Role)
    assert {Role.VOLUNTEER, Role.PUBLIC, Role.SYSTEM} == EVERYBODY - GRANTED
    assert all("subject" in hands for hands in APART.values())
