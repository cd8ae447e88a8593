"""The page says in Chinese what events and their fields are called."""

import re
from typing import get_args

import pytest

from services.hours import main as hours
from services.recognition import main as recognition
from services.registration import main as registration_main
from shared.contracts import registration
from shared.contracts.event import Event, Part, personal_fields
from shared.contracts.hours import HourClass, LedgerAccount, Posting
from shared.contracts.registration import ConsentKind, WithdrawalReason
from shared.contracts.topics import CATEGORIES, EVENTS
from shared.http.fields import CODES, DAY_ONLY, FIELDS_ZH, OPEN_EVENTS, OPEN_FIELDS
from shared.http.query import Query


@pytest.mark.parametrize("event", EVENTS, ids=lambda each: each.TYPE)
def test_every_event_and_every_field_has_a_name_in_chinese(event: type[Event]) -> None:
    assert re.fullmatch(r"[\u4e00-\u9fff]{2,10}", (event.__doc__ or "").partition(":")[0])
    assert event.model_fields.keys() <= FIELDS_ZH.keys()


def test_no_name_is_left_over() -> None:
    assert {name for event in EVENTS for name in event.model_fields} == FIELDS_ZH.keys()


def test_every_code_has_words() -> None:
    literals = {"account": LedgerAccount, "consent": ConsentKind, "hour_class": HourClass, "reason": WithdrawalReason}
    assert {name: set(said) for name, said in CODES.items()} == {name: set(get_args(each)) for name, each in literals.items()}


PERSONS = {
    *("volunteer_id", "person_id", "recorder_id", "approver_id", "requester_id", "checked_in_by", "clashes_with"),
    *("proposed_by", "approved_by", "declined_by", "decided_by"),
}
SAID_OF_PERSONS = {"is_minor", "consent", "text_version", "reason", "reason_code", "skills", "role", "number", "expires_at"}


def test_nothing_of_a_person_is_open_to_everybody() -> None:
    sealed = {name for event in EVENTS for name in personal_fields(event)}
    assert {"name", "id_number", "phone", "guardian_name"} <= sealed
    for category, names in OPEN_FIELDS.items():
        assert not names & (PERSONS | SAID_OF_PERSONS | sealed), category
    assert not OPEN_FIELDS["account"] & {name for name in FIELDS_ZH if name.endswith("_at") or name in {"at", "not_before", "not_after"}}


def test_what_is_open_is_a_field_of_some_event() -> None:
    parts: tuple[type[Part], ...] = (Posting, registration.Position, registration.Occasion)
    known = {name for each in (*EVENTS, *parts) for name in each.model_fields}
    assert frozenset().union(*OPEN_FIELDS.values()) <= known
    assert CATEGORIES.keys() - OPEN_FIELDS.keys() == {"volunteer", "role", "device", "attendance", "hours_erasure", "recognition_erasure"}
    assert OPEN_FIELDS.keys() >= DAY_ONLY


def test_of_stars_everything_stands_on_a_page_but_what_was_only_proposed() -> None:
    types = {event.TYPE for event in EVENTS if event.TYPE.startswith("recognition.star_") and "policy" not in event.TYPE}
    assert types - OPEN_EVENTS["star"] == {f"recognition.star_revocation_{what}" for what in ("proposed", "declined", "lapsed")}
    assert OPEN_EVENTS.keys() == {"star"}
    assert OPEN_EVENTS["star"] <= types


OPEN_LISTS = [query for each in (registration_main.SERVICE, hours.SERVICE, recognition.SERVICE) for query in each.queries if query.public]
MOMENTS = {"checked_in_at", "checked_out_at", "counts_from", "starts_at", "ends_at", "old_starts_at", "old_ends_at", "proposed_at"}
"""When somebody came and went, in lists of persons."""


@pytest.mark.parametrize("query", OPEN_LISTS, ids=lambda each: each.name)
def test_a_list_for_everybody_says_of_a_person_a_figure_and_no_more(query: Query) -> None:
    columns = {each.name for each in query.columns}
    said = columns & (PERSONS | SAID_OF_PERSONS | {"may_be_named", "masked_name", "checked_out_by"}) - {
        "number",
        "volunteer_id",
    }
    assert said == set()
    if "volunteer_id" in columns:
        assert not columns & MOMENTS
    assert not any(each.name.endswith("name") for each in query.columns if each.of == "volunteer_id")
