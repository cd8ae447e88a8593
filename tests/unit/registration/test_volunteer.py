"""A person is a volunteer by consent, once, and can leave without a trace of who they were."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.registration.domain.volunteer import (
    ErasePersonalData,
    GiveConsent,
    LeaveProgramme,
    RegisterVolunteer,
    Volunteer,
    VolunteerCommand,
    VolunteerEvent,
    WithdrawConsent,
    age,
    birth_date,
    decide,
    evolve,
)
from shared.contracts.event import Refusal
from shared.contracts.registration import (
    ConsentGiven,
    ConsentWithdrawn,
    GuardianConsentRecorded,
    PersonalDataErased,
    VolunteerDeregistered,
    VolunteerRegistered,
)
from tests.unit.registration.people import ALICE, BOB, BUREAU_ADMIN, STRANGE_ADMIN, UNIT, UNIT_ADMIN, code_of, events_of, herself, id_number

REGISTER = RegisterVolunteer(
    volunteer_id=ALICE,
    asker=herself(ALICE),
    number="V000000000001",
    unit_code=UNIT,
    is_unit_known=True,
    name="测试甲",
    id_number=id_number(),
    phone="13800000000",
    skills=("急救",),
    consents=frozenset({"register", "be_named"}),
    text_version="2017-1",
    guardian_name=None,
    today=date(2017, 3, 1),
)
CHILD = replace(REGISTER, id_number=id_number("20050301"), guardian_name="测试乙")


def after(*commands: VolunteerCommand) -> Volunteer:
    volunteer = Volunteer()
    for command in commands:
        decided = decide(volunteer, command)
        assert not isinstance(decided, Refusal), decided
        volunteer = reduce(evolve, decided, volunteer)
    return volunteer


def refused(volunteer: Volunteer, command: VolunteerCommand) -> str:
    return code_of(decide(volunteer, command))


def types_of(decided: Sequence[VolunteerEvent] | Refusal) -> list[type]:
    return [type(each) for each in events_of(decided)]


def test_a_registration_says_who_consented_to_what() -> None:
    registered, *consents = events_of(decide(Volunteer(), REGISTER))
    assert isinstance(registered, VolunteerRegistered)
    assert (registered.number, registered.name, registered.is_minor) == ("V000000000001", "测试甲", False)
    assert consents == [
        ConsentGiven(volunteer_id=ALICE, consent="register", text_version="2017-1"),
        ConsentGiven(volunteer_id=ALICE, consent="be_named", text_version="2017-1"),
    ]


def test_nobody_is_registered_without_consent() -> None:
    assert refused(Volunteer(), replace(REGISTER, consents=frozenset({"be_named"}))) == "no_consent"


def test_a_minor_needs_a_guardian() -> None:
    assert refused(Volunteer(), replace(CHILD, guardian_name=None)) == "no_consent"
    assert events_of(decide(Volunteer(), CHILD))[-1] == GuardianConsentRecorded(volunteer_id=ALICE, guardian_name="测试乙")


def test_one_is_of_age_on_the_eighteenth_birthday() -> None:
    born_on = REGISTER.today.replace(year=1999)
    assert not after(replace(REGISTER, id_number=id_number(born_on.strftime("%Y%m%d")))).is_minor
    assert after(replace(CHILD, id_number=id_number("19990302"))).is_minor
    assert age(date(2004, 2, 29), date(2022, 2, 28)) == 17


def test_a_name_is_kept_as_it_is_given() -> None:
    registered = events_of(decide(Volunteer(), replace(REGISTER, name="𠮷田·é")))[0]
    assert isinstance(registered, VolunteerRegistered)
    assert registered.name == "𠮷田·é"


def test_the_same_person_registers_once() -> None:
    assert refused(after(REGISTER), REGISTER) == "already_registered"


def test_who_left_comes_back_under_the_same_number() -> None:
    left = after(REGISTER, LeaveProgramme(ALICE, herself(ALICE)))
    registered = events_of(decide(left, replace(REGISTER, number="V000000000002")))[0]
    assert isinstance(registered, VolunteerRegistered)
    assert registered.number == "V000000000001"


def test_who_left_is_moved_to_another_unit_by_the_own_unit_the_bureau_or_themself_only() -> None:
    left = after(REGISTER, LeaveProgramme(ALICE, herself(ALICE)))
    elsewhere = replace(REGISTER, unit_code=STRANGE_ADMIN.unit)
    assert refused(left, replace(elsewhere, asker=STRANGE_ADMIN)) == "wrong_unit"
    assert refused(left, replace(elsewhere, asker=UNIT_ADMIN)) == "wrong_unit"
    for asker in (herself(ALICE), BUREAU_ADMIN):
        assert isinstance(events_of(decide(left, replace(elsewhere, asker=asker)))[0], VolunteerRegistered)
    assert isinstance(events_of(decide(left, replace(REGISTER, asker=UNIT_ADMIN)))[0], VolunteerRegistered)


def test_who_comes_back_is_the_person_with_the_id_number_that_is_known() -> None:
    left = after(REGISTER, LeaveProgramme(ALICE, herself(ALICE)))
    assert refused(left, replace(REGISTER, id_number=id_number(sequence="002"))) == "id_number_differs"
    assert after(REGISTER, LeaveProgramme(ALICE, herself(ALICE)), REGISTER).id_number == id_number()


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(id_number()[:-1] + ("0" if id_number()[-1] != "0" else "1"), id="check digit"),
        pytest.param(id_number("19900230"), id="30 February"),
        pytest.param(id_number("20170302"), id="born tomorrow"),
        pytest.param(id_number()[:-1], id="17 digits"),
        pytest.param("１" + id_number()[1:], id="wide digit"),
        pytest.param("", id="nothing"),
    ],
)
def test_what_is_not_an_id_number_is_refused(number: str) -> None:
    assert refused(Volunteer(), replace(REGISTER, id_number=number)) == "id_number_invalid"


def test_a_small_x_is_the_same_number_as_a_capital_one() -> None:
    number = next(found for n in range(100) if (found := id_number(sequence=f"{n:03d}")).endswith("X"))
    registered = events_of(decide(Volunteer(), replace(REGISTER, id_number=number.lower())))[0]
    assert isinstance(registered, VolunteerRegistered)
    assert registered.id_number == number


def test_the_check_digit_of_the_standards_own_example_holds() -> None:
    assert birth_date("11010519491231002X") == date(1949, 12, 31)  # GB 11643-1999, the number in its text.


@given(st.text(max_size=20))
def test_no_text_makes_the_id_check_fail(text: str) -> None:
    assert birth_date(text) is None or len(text) == 18


@pytest.mark.parametrize("phone", ["13800000000", "0533-1234567", "010-12345678"])
def test_mobiles_and_landlines_are_phones(phone: str) -> None:
    assert after(replace(REGISTER, phone=phone)).unit_code == UNIT


@pytest.mark.parametrize("phone", ["", "12345", "+8613800000000", "１3800000000", "13800000000\n"])
def test_what_is_not_a_phone_is_refused(phone: str) -> None:
    assert refused(Volunteer(), replace(REGISTER, phone=phone)) == "phone_invalid"


def test_those_without_a_phone_can_take_part() -> None:
    assert after(replace(REGISTER, phone=None)).number is not None


def test_a_volunteer_acts_for_themself_only() -> None:
    for command in (REGISTER, LeaveProgramme(ALICE, REGISTER.asker), ErasePersonalData(ALICE, REGISTER.asker)):
        assert refused(after(REGISTER), replace(command, asker=herself(BOB))) == "not_own_record"


def test_an_admin_acts_for_the_own_unit_and_the_bureau_for_all() -> None:
    assert refused(Volunteer(), replace(REGISTER, asker=STRANGE_ADMIN)) == "wrong_unit"
    assert after(replace(REGISTER, asker=UNIT_ADMIN)).unit_code == UNIT
    assert after(replace(REGISTER, asker=BUREAU_ADMIN)).unit_code == UNIT


def test_an_unknown_unit_and_an_unknown_volunteer_are_said() -> None:
    assert refused(Volunteer(), replace(REGISTER, is_unit_known=False)) == "unit_unknown"
    assert refused(Volunteer(), LeaveProgramme(ALICE, herself(ALICE))) == "volunteer_unknown"


def test_a_consent_can_be_withdrawn_and_given_again() -> None:
    volunteer = after(REGISTER)
    withdraw = WithdrawConsent(ALICE, herself(ALICE), "be_named")
    assert events_of(decide(volunteer, withdraw)) == [ConsentWithdrawn(volunteer_id=ALICE, consent="be_named")]
    assert events_of(decide(after(REGISTER, withdraw), withdraw)) == []
    again = GiveConsent(ALICE, herself(ALICE), "be_named", "2017-1", None)
    assert types_of(decide(after(REGISTER, withdraw), again)) == [ConsentGiven]
    assert events_of(decide(volunteer, again)) == []


def test_a_minors_later_consent_needs_the_guardian_too() -> None:
    child = after(replace(CHILD, consents=frozenset({"register"})))
    consent = GiveConsent(ALICE, herself(ALICE), "be_named", "2017-1", None)
    assert refused(child, consent) == "no_consent"
    assert types_of(decide(child, replace(consent, guardian_name="测试乙"))) == [ConsentGiven, GuardianConsentRecorded]


def test_who_left_has_no_consents_left_to_give() -> None:
    left = after(REGISTER, LeaveProgramme(ALICE, herself(ALICE)))
    assert left.consents == frozenset()
    assert refused(left, GiveConsent(ALICE, herself(ALICE), "be_named", "2017-1", None)) == "volunteer_left"
    assert events_of(decide(left, LeaveProgramme(ALICE, herself(ALICE)))) == []


def test_an_erasure_gives_the_id_number_back_and_leaves_nothing_personal() -> None:
    erase = ErasePersonalData(ALICE, herself(ALICE))
    assert events_of(decide(after(REGISTER), erase)) == [
        VolunteerDeregistered(volunteer_id=ALICE),
        PersonalDataErased(volunteer_id=ALICE, id_number=id_number()),
    ]
    assert after(REGISTER, erase).id_number is None


def test_of_an_erased_person_nothing_more_is_said() -> None:
    erased = after(REGISTER, ErasePersonalData(ALICE, herself(ALICE)))
    for command in (REGISTER, LeaveProgramme(ALICE, herself(ALICE)), WithdrawConsent(ALICE, herself(ALICE), "register")):
        assert refused(erased, command) == "person_erased"
    assert refused(erased, ErasePersonalData(ALICE, herself(ALICE))) == "person_erased"
