"""Cursors, filters and position tokens."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import pytest

from shared.http.positions import PositionToken, parse_tokens
from shared.http.problems import ProblemError
from shared.http.query import Column, Filter, Query, read_cursor, read_filters, read_limit, write_cursor

PERSON = UUID("0197f3a4-5c00-7000-8000-000000000001")
LOG = UUID("0197f3a4-5c00-7000-8000-0000000000aa")
NOW = datetime(2017, 3, 5, tzinfo=UTC)
SERVICES = frozenset({"hours", "registration"})

BALANCES = Query(
    name="balances",
    path="/balances",
    sql="SELECT 1",
    columns=(
        Column("unit_code", "text", "单位", "Unit"),
        Column("person", "uuid", "编号", "Id"),
        Column("seen_at", "instant", "时间", "Seen"),
        Column("minutes", "integer", "分钟", "Minutes"),
    ),
    order=("minutes", "seen_at", "person"),
    roles=frozenset(),
    title_zh="余额",
    title_en="Balances",
    filters=(
        Filter("unit", "text", "单位", "Unit"),
        Filter("from", "date", "起", "From"),
        Filter("at", "instant", "时间", "At"),
        Filter("person", "uuid", "编号", "Id"),
        Filter("least", "integer", "至少", "At least"),
        Filter("open", "boolean", "开放", "Open"),
    ),
)


def test_a_cursor_brings_back_the_values_it_was_written_with() -> None:
    last = (-90, datetime(2017, 3, 5, 8, 0, 0, 123456, tzinfo=UTC), PERSON)
    filters = {"unit": "water-saving-office"}
    assert read_cursor(BALANCES, filters, write_cursor(BALANCES, filters, last)) == list(last)
    assert read_cursor(BALANCES, filters, None) is None


def test_a_cursor_of_other_filters_or_a_forged_one_is_refused() -> None:
    cursor = write_cursor(BALANCES, {"unit": "a"}, (1, datetime(2017, 3, 5, tzinfo=UTC), PERSON))
    for text in (cursor, cursor[:-4], "", "=", "W10", "é", "bnVsbA", "W1siYSJdXQ" * 300):
        with pytest.raises(ProblemError, match="cursor_invalid"):
            read_cursor(BALANCES, {"unit": "b"}, text)


@pytest.mark.parametrize(
    "last",
    [
        [2**63, "2017-03-05T08:00:00+00:00", str(PERSON)],
        [-(2**63) - 1, "2017-03-05T08:00:00+00:00", str(PERSON)],
        [1, "0001-01-01T00:00:00+08:00", str(PERSON)],
        [1, "9999-12-31T23:59:59-08:00", str(PERSON)],
        [1, "2017-03-05T08:00:00+00:00", "nobody"],
        [1.5, "2017-03-05T08:00:00+00:00", str(PERSON)],
        [[], {}, "x" * 100_000],
    ],
)
def test_a_cursor_made_by_hand_with_the_right_stamp_is_refused_where_its_values_are_none(last: list[Any]) -> None:
    stamp, *_ = json.loads(urlsafe_b64decode(write_cursor(BALANCES, {}, (1, NOW, PERSON)) + "=="))
    forged = urlsafe_b64encode(json.dumps([stamp, *last]).encode()).decode().rstrip("=")
    with pytest.raises(ProblemError, match="cursor_invalid"):
        read_cursor(BALANCES, {}, forged)


def test_the_largest_and_the_smallest_number_of_the_database_are_read() -> None:
    for number in (2**63 - 1, -(2**63)):
        assert read_filters(BALANCES, {"least": str(number)}) == {"least": number}


def test_filters_are_read_by_their_kinds() -> None:
    given = {
        "unit": "节水办",
        "from": "2017-03-05",
        "at": "2017-03-05T08:00:00+08:00",
        "person": str(PERSON),
        "least": "-5",
        "open": "true",
    }
    assert read_filters(BALANCES, given) == {
        "unit": "节水办",
        "from": date(2017, 3, 5),
        "at": datetime(2017, 3, 5, tzinfo=UTC),
        "person": PERSON,
        "least": -5,
        "open": True,
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("unit", ""),
        ("unit", "x" * 201),
        ("unit", "a\x00b"),
        ("from", "2017-13-01"),
        ("from", "20170305"),
        ("at", "2017-03-05T08:00:00"),
        ("person", "{0197f3a4-5c00-7000-8000-000000000001}"),
        ("person", "０" * 36),
        ("least", "１３８"),
        ("least", "1.0"),
        ("least", "9" * 20),
        ("least", "9223372036854775808"),
        ("least", "-9223372036854775809"),
        ("least", "9" * 19),
        ("at", "0001-01-01T00:00:00+08:00"),
        ("at", "9999-12-31T23:59:59-08:00"),
        ("at", "9999-12-31T23:59:59Z"),
        ("at", "10000-01-01T00:00:00Z"),
        ("from", "0000-01-01"),
        ("open", "yes"),
    ],
)
def test_a_filter_with_a_wrong_value_names_its_parameter(name: str, text: str) -> None:
    with pytest.raises(ProblemError) as caught:
        read_filters(BALANCES, {name: text})
    assert (caught.value.code, caught.value.members["parameter"]) == ("parameter_invalid", name)


@pytest.mark.parametrize("text", ["0", "201", "-1", "1e2", "９", ""])
def test_a_page_has_one_to_two_hundred_rows(text: str) -> None:
    with pytest.raises(ProblemError):
        read_limit(text)
    assert read_limit("200") == 200


def test_position_tokens_are_read_from_several_headers() -> None:
    tokens = [PositionToken("hours", LOG, 7), PositionToken("registration", LOG, 0), PositionToken("hours", LOG, 9)]
    assert parse_tokens([f"{tokens[0]}, {tokens[1]}", str(tokens[2])], SERVICES) == tuple(tokens)
    assert parse_tokens([], SERVICES) == ()


@pytest.mark.parametrize(
    "text", ["hours", "hours:1:2", f"payroll:{LOG}:1", f"hours:{LOG}:-1", f"hours:{LOG}:１", f"hours:{LOG}:{'9' * 19}", "x," * 11]
)
def test_a_malformed_token_is_refused(text: Any) -> None:
    with pytest.raises(ProblemError, match="after_invalid"):
        parse_tokens([text], SERVICES)
