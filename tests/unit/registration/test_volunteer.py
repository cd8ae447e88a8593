"""A person is a volunteer by consent, once, and can leave without a trace of who they were."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.registration.domain.volunteer import (
    ApproveErasure,
    DeclineErasure,
    GiveConsent,
    LeaveProgramme,
    RecordReceipt,
    RegisterVolunteer,
    RequestErasure,
    Volunteer,
    VolunteerCommand,
    VolunteerEvent,
    WithdrawConsent,
    age,
    birth_date,
    decide,
    evolve,
    is_place_known,
)
from shared.contracts.event import Refusal
from shared.contracts.registration import (
    ConsentGiven,
    ConsentWithdrawn,
    ErasureCompleted,
    ErasureDeclined,
    ErasureReceiptRecorded,
    ErasureRequested,
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
TODAY = REGISTER.today
CHILD = replace(REGISTER, id_number=id_number("20020301"), guardian_name="测试乙")
ASKED = RequestErasure(ALICE, herself(ALICE), "不再参加")
APPROVED = ApproveErasure(ALICE, BUREAU_ADMIN)


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
    for command in (REGISTER, LeaveProgramme(ALICE, REGISTER.asker), RequestErasure(ALICE, REGISTER.asker)):
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
    again = GiveConsent(ALICE, herself(ALICE), "be_named", "2017-1", None, TODAY)
    assert types_of(decide(after(REGISTER, withdraw), again)) == [ConsentGiven]
    assert events_of(decide(volunteer, again)) == []


def test_a_minors_later_consent_needs_the_guardian_too() -> None:
    child = after(replace(CHILD, consents=frozenset({"register"})))
    consent = GiveConsent(ALICE, herself(ALICE), "be_named", "2017-1", None, TODAY)
    assert refused(child, consent) == "no_consent"
    assert types_of(decide(child, replace(consent, guardian_name="测试乙"))) == [ConsentGiven, GuardianConsentRecorded]


def test_who_left_has_no_consents_left_to_give() -> None:
    left = after(REGISTER, LeaveProgramme(ALICE, herself(ALICE)))
    assert left.consents == frozenset()
    assert refused(left, GiveConsent(ALICE, herself(ALICE), "be_named", "2017-1", None, TODAY)) == "volunteer_left"
    assert events_of(decide(left, LeaveProgramme(ALICE, herself(ALICE)))) == []


def test_under_fourteen_nobody_is_named_in_public_whoever_agrees() -> None:
    child = replace(CHILD, id_number=id_number("20050301"))
    assert refused(Volunteer(), child) == "too_young_to_be_named"
    registered = after(replace(child, consents=frozenset({"register"})))
    named = GiveConsent(ALICE, herself(ALICE), "be_named", "2017-1", "测试乙", TODAY)
    assert refused(registered, named) == "too_young_to_be_named"
    assert refused(registered, replace(named, today=date(2019, 2, 28))) == "too_young_to_be_named"
    assert types_of(decide(registered, replace(named, today=date(2019, 3, 1)))) == [ConsentGiven, GuardianConsentRecorded]
    assert types_of(decide(registered, replace(named, guardian_name=None, today=date(2023, 3, 1)))) == [ConsentGiven], "of age meanwhile"


def test_of_whom_the_age_is_not_known_any_more_a_minor_is_not_named() -> None:
    lost = replace(after(replace(CHILD, consents=frozenset({"register"}))), id_number=None)
    named = GiveConsent(ALICE, herself(ALICE), "be_named", "2017-1", "测试乙", date(2030, 1, 1))
    assert refused(lost, named) == "too_young_to_be_named"


@pytest.mark.parametrize(("number", "known"), [("11", True), ("37", True), ("81", True), ("82", True), ("83", True), ("99", False)])
def test_a_place_that_nobody_knows_is_a_warning_and_no_refusal(number: str, known: bool) -> None:
    assert is_place_known(f"{number}0000") == known
    registered, *_ = events_of(decide(Volunteer(), REGISTER))
    assert isinstance(registered, VolunteerRegistered)
    assert not registered.is_place_known


def test_an_erasure_needs_a_second_person_who_is_neither_who_asked_nor_whose_data_it_is() -> None:
    requested = events_of(decide(after(REGISTER), ASKED))
    assert requested == [ErasureRequested(volunteer_id=ALICE, requested_by=ALICE, reason="不再参加")]
    asked = after(REGISTER, ASKED)
    assert events_of(decide(asked, ASKED)) == [], "asked once"
    assert refused(after(REGISTER), APPROVED) == "erasure_not_requested"
    herself_as_admin = replace(BUREAU_ADMIN, person_id=ALICE)
    assert refused(asked, replace(APPROVED, asker=herself_as_admin)) == "approver_is_subject"
    by_admin = after(REGISTER, replace(ASKED, asker=BUREAU_ADMIN))
    assert refused(by_admin, APPROVED) == "approver_is_requester"
    assert types_of(decide(by_admin, replace(APPROVED, asker=replace(BUREAU_ADMIN, person_id=BOB)))) == [
        VolunteerDeregistered, PersonalDataErased,
    ]  # fmt: skip


def test_an_erasure_gives_the_id_number_back_and_leaves_nothing_personal() -> None:
    assert events_of(decide(after(REGISTER, ASKED), APPROVED)) == [
        VolunteerDeregistered(volunteer_id=ALICE),
        PersonalDataErased(volunteer_id=ALICE, id_number=id_number()),
    ]
    assert after(REGISTER, ASKED, APPROVED).id_number is None


def test_a_request_is_taken_back_by_the_person_and_declined_for_other_reasons_by_the_bureau_and_may_be_made_again() -> None:
    asked, back = after(REGISTER, ASKED), DeclineErasure(ALICE, herself(ALICE), "taken_back")
    assert events_of(decide(asked, back)) == [ErasureDeclined(volunteer_id=ALICE, reason_code="taken_back")]
    assert refused(asked, replace(back, reason_code="kept_by_law")) == "not_own_decision"
    by_bureau = replace(back, asker=BUREAU_ADMIN, reason_code="kept_by_law")
    assert types_of(decide(asked, by_bureau)) == [ErasureDeclined]
    assert refused(after(REGISTER), back) == "erasure_not_requested"
    assert refused(after(REGISTER, ASKED, back), APPROVED) == "erasure_not_requested"
    assert types_of(decide(after(REGISTER, ASKED, back), ASKED)) == [ErasureRequested]


def test_an_erasure_is_completed_when_every_service_has_said_so_once() -> None:
    services = frozenset({"registration", "hours"})
    first = RecordReceipt(ALICE, BUREAU_ADMIN, "hours", 7, services)
    last = replace(first, service="registration", position=9)
    erased = after(REGISTER, ASKED, APPROVED)
    assert events_of(decide(after(REGISTER, ASKED), first)) == [], "what is not erased here needs no receipt"
    assert events_of(decide(erased, first)) == [ErasureReceiptRecorded(volunteer_id=ALICE, service="hours", receipt_position=7)]
    half = after(REGISTER, ASKED, APPROVED, first)
    assert events_of(decide(half, first)) == []
    assert types_of(decide(half, last)) == [ErasureReceiptRecorded, ErasureCompleted]
    assert events_of(decide(after(REGISTER, ASKED, APPROVED, first, last), last)) == []


def test_of_an_erased_person_nothing_more_is_said() -> None:
    erased = after(REGISTER, ASKED, APPROVED)
    for command in (REGISTER, LeaveProgramme(ALICE, herself(ALICE)), WithdrawConsent(ALICE, herself(ALICE), "register"), ASKED, APPROVED):
        assert refused(erased, command) == "person_erased"
