"""The page says in Chinese what events and their fields are called."""

import re
from typing import get_args

import pytest

from shared.contracts.event import Event
from shared.contracts.hours import HourClass, LedgerAccount
from shared.contracts.registration import ConsentKind, WithdrawalReason
from shared.contracts.topics import EVENTS
from shared.http.fields import CODES, FIELDS_ZH


@pytest.mark.parametrize("event", EVENTS, ids=lambda each: each.TYPE)
def test_every_event_and_every_field_has_a_name_in_chinese(event: type[Event]) -> None:
    assert re.fullmatch(r"[\u4e00-\u9fff]{2,10}", (event.__doc__ or "").partition(":")[0])
    assert event.model_fields.keys() <= FIELDS_ZH.keys()


def test_no_name_is_left_over() -> None:
    assert {name for event in EVENTS for name in event.model_fields} == FIELDS_ZH.keys()


def test_every_code_has_words() -> None:
    literals = {"account": LedgerAccount, "consent": ConsentKind, "hour_class": HourClass, "reason": WithdrawalReason}
    assert {name: set(said) for name, said in CODES.items()} == {name: set(get_args(each)) for name, each in literals.items()}
