"""What a body may not hold, each with its own code."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict

from shared.http import body as bodies
from shared.http.body import COMMAND_LIMITS, BodyLimits, canonical, parse_json, parse_model, read_body
from shared.http.problems import ProblemError


class Line(BaseModel):
    """A part of a body; it ignores what it does not know, as stored events do."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    minutes: int


class Order(BaseModel):
    """A body with every kind of field that matters here."""

    count: int = 0
    note: str = ""
    person: UUID | None = None
    lines: tuple[Line, ...] = ()


def code_of(raw: bytes) -> str:
    """The code of the problem that a body meets."""
    try:
        parse_json(raw, COMMAND_LIMITS)
        parse_model(raw, Order)
    except ProblemError as problem:
        return problem.code
    return "accepted"


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "json_malformed"),
        (b"{", "json_malformed"),
        (b'{"count": 1}}', "json_malformed"),
        (b"\xef\xbb\xbf{}", "json_malformed"),
        (b'{"note": "a\nb"}', "json_malformed"),
        (b'{"count": 01}', "json_malformed"),
        (b'{"note": "\xff"}', "body_not_utf8"),
        ("{}".encode("utf-16"), "body_not_utf8"),
        (b'{"count": 1, "count": 2}', "json_duplicate_key"),
        (b'{"lines": [{"minutes": 1, "minutes": 1}]}', "json_duplicate_key"),
        (b'{"count": NaN}', "json_number_not_finite"),
        (b'{"count": -Infinity}', "json_number_not_finite"),
        (b'{"count": 1e999}', "json_number_not_finite"),
        (b'{"count": 9223372036854775808}', "json_integer_too_large"),
        (b'{"count": ' + b"9" * 30 + b"}", "json_integer_too_large"),
        (b'{"count": ' + b"9" * 6000 + b"}", "json_integer_too_large"),
        (b"[" * 33 + b"]" * 33, "json_too_deep"),
        (b'{"a":' * 2000 + b"1" + b"}" * 2000, "json_too_deep"),
        (b'{"lines": [' + b"1," * 1000 + b"1]}", "json_array_too_long"),
        (b'{"note": "a\\u0000b"}', "text_has_nul"),
        (b'{"a\\u0000": 1}', "text_has_nul"),
        (b'{"note": "\\ud800"}', "text_has_lone_surrogate"),
        (b'{"note": "\\udc00\\ud800"}', "text_has_lone_surrogate"),
        (b'{"unknown": 1}', "field_unknown"),
        (b'{"lines": [{"minutes": 1, "extra": 2}]}', "field_unknown"),
        (b'{"lines": [{}]}', "field_missing"),
        (b'{"count": "1"}', "field_wrong_type"),
        (b'{"count": 1.0}', "field_wrong_type"),
        (b'{"count": true}', "field_wrong_type"),
        (b'{"count": null}', "field_wrong_type"),
        (b'{"person": "somebody"}', "field_wrong_type"),
        (b"[]", "field_wrong_type"),
        (b'"text"', "field_wrong_type"),
    ],
)
def test_a_body_that_three_parsers_would_take_is_refused_with_its_own_code(raw: bytes, code: str) -> None:
    assert code_of(raw) == code


def test_brackets_inside_texts_are_no_nesting() -> None:
    raw = b'{"note": "' + b"[{" * 500 + b'"}'
    assert parse_json(raw, COMMAND_LIMITS) == {"note": "[{" * 500}


def test_nesting_of_exactly_thirty_two_levels_is_read() -> None:
    assert parse_json(b"[" * 32 + b"]" * 32, COMMAND_LIMITS)


def test_characters_beyond_the_basic_plane_and_middle_dots_are_kept_as_they_are() -> None:
    raw = '{"note": "𠮷田·阿卜杜拉 \\ud842\\udfb7 豈"}'.encode()
    parse_json(raw, COMMAND_LIMITS)
    assert parse_model(raw, Order).note == "𠮷田·阿卜杜拉 𠮷 豈"


def test_a_finding_names_its_place_and_repeats_no_value() -> None:
    raw = b'{"lines": [{"minutes": 1}, {"minutes": "secret"}]}'
    with pytest.raises(ProblemError) as caught:
        parse_model(raw, Order)
    assert [each["pointer"] for each in caught.value.members["errors"]] == ["/lines/1/minutes"]
    assert "secret" not in str(caught.value.members)


@pytest.mark.parametrize(
    ("raw", "pointer"),
    [
        ('{"remark": 1}', "/remark"),
        ('{"赵大山": 1}', "/?"),
        ('{"19900000001": 1}', "/?"),
        ('{"lines": [{"minutes": 1, "Zhao Dashan": 2}]}', "/lines/0/?"),
    ],
)
def test_a_key_that_is_no_fields_name_is_not_said_again(raw: str, pointer: str) -> None:
    with pytest.raises(ProblemError, match="field_unknown") as caught:
        parse_model(raw.encode(), Order)
    assert [each["pointer"] for each in caught.value.members["errors"]] == [pointer]


def test_nor_is_it_where_a_text_below_it_cannot_be_kept() -> None:
    with pytest.raises(ProblemError, match="text_has_nul") as caught:
        parse_json(r'{"赵大山": [{"note": "\u0000"}]}'.encode(), COMMAND_LIMITS)
    assert caught.value.members == {"pointer": "/?/0/note"}


def test_bodies_that_say_the_same_have_the_same_canonical_bytes() -> None:
    one = parse_json(b'{"a": 1, "b": {"c": "\\u4e2d", "d": null}}', COMMAND_LIMITS)
    other = parse_json('{"b":{"d":null,"c":"中"},"a":1}'.encode(), COMMAND_LIMITS)
    assert canonical(one) == canonical(other)
    assert canonical(one) != canonical({"a": 1})


JSON = {"content-type": "application/json"}


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    """A body that arrives in parts."""
    for part in parts:
        yield part


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"'])
async def test_json_in_utf8_is_what_a_command_takes(kind: str) -> None:
    assert await read_body({"content-type": kind}, chunks(b"{", b"}"), COMMAND_LIMITS) == b"{}"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/json; charset=gb18030"},
        {"content-type": "application/jsonp"},
        {**JSON, "content-encoding": "gzip"},
    ],
)
async def test_anything_but_plain_json_in_utf8_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(ProblemError, match="content_type_unsupported"):
        await read_body(headers, chunks(b"{}"), COMMAND_LIMITS)


async def test_a_body_over_the_cap_is_refused_before_it_is_read_and_while_it_is() -> None:
    limits = BodyLimits(bytes_max=10)
    with pytest.raises(ProblemError, match="body_too_large"):
        await read_body({**JSON, "content-length": "11"}, chunks(), limits)
    with pytest.raises(ProblemError, match="body_too_large"):
        await read_body({**JSON, "content-length": "2"}, chunks(b"123456", b"12345"), limits)
    assert await read_body(JSON, chunks(b"12345", b"12345"), limits) == b"1234512345"


async def test_a_body_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    monkeypatch.setattr(bodies, "BODY_SECONDS_MAX", 0.02)
    with pytest.raises(ProblemError, match="body_too_slow"):
        await read_body(JSON, endless(), COMMAND_LIMITS)
