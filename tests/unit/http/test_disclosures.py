"""What a person is given in a workbook is text: nothing in it is ever a formula or a link."""

import re
from datetime import UTC, date, datetime
from io import BytesIO
from typing import get_args
from zipfile import ZipFile

import pytest

from shared.audit import ReadReason
from shared.http.audited import WHY
from shared.http.disclosures import cell, workbook
from shared.http.personal import Section

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "＝1+1", "＋1", "－1", "＠A1", "=HYPERLINK(0)"]


@pytest.mark.parametrize("text", FORMULAS)
def test_what_a_spreadsheet_could_take_for_a_formula_has_an_apostrophe_before_it(text: str) -> None:
    assert cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["赵大山", "1990", "a=b", ""])
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert cell(text) == text


def test_instants_are_told_by_the_wall_clock_and_nothing_is_empty() -> None:
    assert cell(datetime(2017, 3, 1, 1, tzinfo=UTC)) == "2017-03-01 09:00:00"
    assert cell(date(2017, 3, 1)) == "2017-03-01"
    assert cell(None) == ""


def test_a_workbook_holds_texts_and_numbers_and_no_formula_and_no_link() -> None:
    rows = [{"title": text, "link": "https://example.invalid", "minutes": 90, "is_minor": False} for text in FORMULAS]
    made = workbook({"name": "=cmd|x", "phone": None}, [(Section("entries", "认定", "Entries", ""), rows)])
    with ZipFile(BytesIO(made)) as opened:
        sheets = {name: opened.read(name).decode() for name in opened.namelist() if name.startswith("xl/worksheets/sheet")}
        texts = opened.read("xl/sharedStrings.xml").decode()
        assert not any("hyperlink" in name or "externalLink" in name for name in opened.namelist())
    assert len(sheets) == 2
    assert not any(re.search(r"<f[ >]|<hyperlink", sheet) for sheet in sheets.values())
    assert "'=cmd|x" in texts.replace("&apos;", "'")
    assert "<v>90</v>" in sheets["xl/worksheets/sheet2.xml"]


def test_every_reason_for_a_read_has_words() -> None:
    assert set(WHY) == set(get_args(ReadReason))
