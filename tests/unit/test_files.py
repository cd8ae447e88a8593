"""Files that a command imports: read strictly, and every wrong line is named."""

from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from shared.contracts.event import Refusal
from shared.files import PROBLEMS_MAX, read_file


class Row(BaseModel):
    """A part of a file."""

    code: str
    number: int = 0


class File(BaseModel):
    """A file of these tests."""

    begins: date
    rows: list[Row]


GOOD = """begins: 2017-03-22
rows:
  - code: "one"
    number: 1
  - {code: two}
"""


def wrong(text: str) -> Refusal:
    found = read_file(text, File, "file_wrong")
    assert isinstance(found, Refusal)
    assert found.code == "file_wrong"
    return found


def test_a_file_that_is_right_is_read() -> None:
    assert read_file(GOOD, File, "x") == File(begins=date(2017, 3, 22), rows=[Row(code="one", number=1), Row(code="two")])


@pytest.mark.parametrize(
    ("before", "after", "line", "word"),
    [
        ("number: 1", 'number: "1"', 4, "rows.0.number"),
        ("number: 1", "number: 1.0", 4, "rows.0.number"),
        ("number: 1", "numbre: 1", 4, "rows.0.numbre"),
        ("{code: two}", "{number: 2}", 5, "rows.1.code"),
        ("{code: two}", "two", 5, "rows.1"),
        ("    number: 1", '    code: "two"', 4, "code: stands twice"),
        ("begins: 2017-03-22\n", "", 1, "begins"),
        ("2017-03-22", "2017-03-22 10:00:00", 1, "begins"),
        ("2017-03-22", "2017-02-30", 1, "YAML"),
        ("rows:", "rows", 3, "expected"),
        ("{code: two}", "{code: two", 6, ""),
        ("{code: two}", "*two", 5, "alias"),
        ("{code: two}", "!!python/object/apply:os.system [x]", 5, "constructor"),
        ("{code: two}", "{[1, 2]: two, {a: b}: c}", 5, "unhashable"),
        ("begins", "\x07begins", 1, "YAML"),
        ("{code: two}", "{code: two}\n---\nmore: 1", 6, "document"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_line(before: str, after: str, line: int, word: str) -> None:
    assert before in GOOD
    refusal = wrong(GOOD.replace(before, after, 1))
    assert (refusal.detail["line"], word in str(refusal.detail["problems"])) == (line, True), refusal


@pytest.mark.parametrize("word", ["赵大山", "'379901198005010018'", "19900000001", "Zhao"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("number: 1", "{word}: 1"),
        ("number: 1", "number: [{word}]"),
        ("begins:", "{word}: 1\n{word}: 2\nbegins:"),
        ("begins: 2017-03-22", "begins: {word}"),
        ("{code: two}", "*{word}"),
        ("{code: two}", "[&{word} a, &{word} b]"),
        ("{code: two}", "!{word} two"),
        ("{code: two}", "!{word}!a two"),
        ("{code: two}", "{code: two, {word}: {}}"),
        ("rows:", "rows: {word} {word}: {word}"),
        ("rows:", "%TAG !{word} {word}\nrows:"),
    ],
)
def test_what_stands_in_a_file_is_not_said_again(before: str, after: str, word: str) -> None:
    assert before in GOOD
    assert word.strip("'") not in str(wrong(GOOD.replace(before, after.replace("{word}", word), 1)).detail)


@pytest.mark.parametrize("text", ["", "# nothing\n", "null", "text", "[" * 3000, "- " * 3000, "&a [*a]", "a: &a {b: *a}", "1" * 5000])
def test_what_is_no_such_file_at_all_is_refused_in_its_first_line(text: str) -> None:
    assert wrong(text).detail["line"] == 1


def test_all_problems_are_named_up_to_a_limit() -> None:
    rows = "".join(f"  - {{code: {number}}}\n" for number in range(50))
    problems = str(wrong(f"begins: 2017-03-22\nrows:\n{rows}").detail["problems"])
    assert problems.count("line ") == PROBLEMS_MAX
    assert problems.startswith("line 3: rows.0.code")


def test_aliases_are_not_multiplied() -> None:
    """Nine levels of nine aliases would be half a thousand million rows."""
    levels = "".join(f"{name}: &{name} [{', '.join([f'*{below}'] * 9)}]\n" for below, name in zip("abcdefgh", "bcdefghi", strict=True))
    assert "write it out" in str(wrong(f"a: &a [x]\n{levels}").detail["problems"])


@given(st.text(max_size=200) | st.text("ab:-{}[]&*!#'\"\n 0.", max_size=60))
def test_no_text_is_more_than_wrong(text: str) -> None:
    found: Any = read_file(text, File, "file_wrong")
    assert isinstance(found, Refusal | File)
