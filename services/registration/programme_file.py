"""Reads a programme file: one year's programme, its words and its units, whole or not at all.

YAML; deploy/sample/programme-2017.yaml is one.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from datetime import date
from hashlib import sha256
from typing import Annotated, Final, Protocol
from uuid import UUID, uuid5

from pydantic import AfterValidator, BaseModel, Field

from services.registration.domain.programme import ProgrammeFile
from shared.contracts.event import Refusal
from shared.contracts.registration import Carrier, Occasion, ProgrammeAdopted, TargetGroup, UnitKind, UnitRegistered
from shared.files import Wrong, read_file

FILE_CHARACTERS_MAX: Final = 200_000

NAMESPACE: Final = UUID("6f1d1c61-0e0b-5a0c-9d53-2f5c1b3f7a11")
"""Programmes and units get their ids from their year and code, so that a file says the same whoever imports it."""

CODE: Final = r"^[a-z0-9]+(-[a-z0-9]+)*$"


def _visible(text: str) -> str:
    """YAML can spell characters that the log does not take: NUL, half of a surrogate pair, escape codes."""
    if not text.strip() or any(unicodedata.category(each) in ("Cc", "Cs") for each in text):
        raise ValueError("must be a line of visible characters")
    return text


_Code = Annotated[str, Field(max_length=60, pattern=CODE)]
_Line = Annotated[str, Field(max_length=200), AfterValidator(_visible)]


class _Coded(Protocol):
    @property
    def code(self) -> str: ...


class _Head(BaseModel):
    year: Annotated[int, Field(ge=1949, le=2199)]
    title: _Line
    theme: _Line
    purpose: Annotated[str, Field(max_length=2000), AfterValidator(_visible)]
    issuing_body: _Line
    document_reference: _Line
    issued_on: date
    starts_on: date
    ends_on: date


class _Word(BaseModel):
    code: _Code
    name_zh: _Line
    name_en: _Line


class _Occasion(_Word):
    month: Annotated[int, Field(ge=1, le=12)]
    day: Annotated[int, Field(ge=1, le=31)]


class _Unit(BaseModel):
    code: _Code
    name: _Line
    kind: UnitKind
    parent: _Code | None = None
    aliases: Annotated[list[_Line], Field(max_length=20)] = []
    valid_from: date
    planned_activities_per_month: Annotated[int, Field(ge=0, le=1000)]


class _File(BaseModel):
    programme: _Head
    carriers: Annotated[list[_Word], Field(min_length=1, max_length=100)]
    target_groups: Annotated[list[_Word], Field(max_length=100)]
    occasions: Annotated[list[_Occasion], Field(max_length=100)]
    units: Annotated[list[_Unit], Field(min_length=1, max_length=400)]  # One append holds 500 events.


def proposal_of(text: str) -> tuple[UUID, str]:
    """The id under which a file waits for a second person, and the SHA-256 of its text from which it follows."""
    digest = sha256(text.encode()).hexdigest()
    return uuid5(NAMESPACE, f"proposal/{digest}"), digest


def read_programme(text: str) -> ProgrammeFile | Refusal:
    """The programme and units that a file says, or the refusal that names every line that is wrong."""
    said = read_file(text, _File, "programme_file_invalid", _check)
    if isinstance(said, Refusal):
        return said
    year = said.programme.year
    programme = ProgrammeAdopted(
        programme_id=uuid5(NAMESPACE, f"programme/{year}"),
        carriers=tuple(Carrier(**each.model_dump()) for each in said.carriers),
        target_groups=tuple(TargetGroup(**each.model_dump()) for each in said.target_groups),
        occasions=tuple(Occasion(**each.model_dump()) for each in said.occasions),
        **said.programme.model_dump(),
    )
    return ProgrammeFile(*proposal_of(text), programme, tuple(_registered(each, year) for each in said.units))


def _registered(unit: _Unit, year: int) -> UnitRegistered:
    return UnitRegistered(
        unit_id=uuid5(NAMESPACE, f"unit/{unit.code}"),
        year=year,
        code=unit.code,
        name=unit.name,
        kind=unit.kind,
        parent_code=unit.parent,
        aliases=tuple(unit.aliases),
        valid_from=unit.valid_from,
        planned_activities_per_month=unit.planned_activities_per_month,
    )


def _check(file: _File) -> Iterator[Wrong]:
    """What no field can say alone."""
    head = file.programme
    if {head.starts_on.year, head.ends_on.year} != {head.year} or head.ends_on < head.starts_on:
        yield ("programme", "ends_on"), f"starts_on and ends_on must be days of {head.year}, in order"
    yield from _doubled("carriers", "carrier", file.carriers)
    yield from _doubled("target_groups", "target group", file.target_groups)
    yield from _doubled("occasions", "occasion", file.occasions)
    yield from _doubled("units", "unit", file.units)
    for index, occasion in enumerate(file.occasions):
        try:
            date(2016, occasion.month, occasion.day)  # A leap year: an occasion may be 29 February.
        except ValueError:
            yield ("occasions", index, "day"), f"month {occasion.month} has no day {occasion.day}"
    above = set[str]()
    for index, unit in enumerate(file.units):
        if unit.kind == "bureau" and unit.parent is not None:
            yield ("units", index, "parent"), "a bureau has no parent"
        elif unit.kind != "bureau" and unit.parent not in above:
            yield ("units", index, "parent"), "parent is not a unit named above"
        above.add(unit.code)


def _doubled(field: str, what: str, items: Sequence[_Coded]) -> Iterator[Wrong]:
    seen = set[str]()
    for index, item in enumerate(items):
        if item.code in seen:
            yield (field, index, "code"), f"this {what} code is used twice"
        seen.add(item.code)
