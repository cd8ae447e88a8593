"""What a service holds of a person, as values that a service's `main` fills in; `shared.http.disclosures` hands it out."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, LiteralString

from shared.audit import NoteRead
from shared.envelope import Stream


@dataclass(frozen=True, slots=True)
class Section:
    """One table of a person's copy: SQL over `api` views for the person $1, ordered; its columns are named as in the views."""

    name: str
    zh: str
    en: str
    sql: LiteralString


@dataclass(frozen=True, slots=True)
class PersonalData:
    """What a service holds of a person: the sealed fields of which stream, and the rows of which views."""

    category: str | None = None
    fields: Sequence[str] = ()
    sections: Sequence[Section] = ()


NOTHING_PERSONAL: Final = PersonalData()
"""Of a service that holds nothing of anybody."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The last word of a person's stream: their unit, their fields in the clear (None where nothing was said, or the key is gone)."""

    unit: str | None
    fields: Mapping[str, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Disclosing:
    """What disclosures need of a running service. `open_` is None for somebody who has no stream."""

    data: PersonalData
    note: NoteRead
    open_: Callable[[Stream], Coroutine[Any, Any, Opened | None]]
