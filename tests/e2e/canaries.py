"""A thousand invented persons whose names and numbers are found again wherever they got to, whatever a place has made of them.

All names begin alike, all phones, all ID numbers, and all other words about a person, with characters that stand nowhere else. So one
search finds every one of them, and one that was cut off too.
"""

import json
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from io import BytesIO
from typing import Any, Final, Literal
from urllib.parse import quote
from uuid import UUID, uuid4
from zipfile import ZipFile

from deploy.sample.year import id_number

Kind = Literal["name", "words", "phone", "id_number"]

PERSONS: Final = 1000

_BORN: Final = date(1971, 7, 18)
_BEGINNINGS: Final[Mapping[Kind, str]] = {
    "name": "龘靐齉爩",
    "words": "爨麤灪籱",
    "phone": "19917180",
    "id_number": id_number(_BORN, 0)[:14],
}
_NUMERALS: Final = str.maketrans("0123456789", "〇一二三四五六七八九")


@dataclass(frozen=True, slots=True)
class Canary:
    """One of them, by number from 0."""

    number: int
    id: UUID = field(default_factory=uuid4)

    @property
    def name(self) -> str:
        return _BEGINNINGS["name"] + f"{self.number:03d}".translate(_NUMERALS)

    @property
    def words(self) -> str:
        """What else is said of the person, in anybody's own words."""
        return _BEGINNINGS["words"] + f"{self.number:03d}".translate(_NUMERALS)

    @property
    def phone(self) -> str:
        return f"{_BEGINNINGS['phone']}{self.number:03d}"

    @property
    def id_number(self) -> str:
        return id_number(_BORN, self.number)

    @property
    def texts(self) -> Mapping[Kind, str]:
        """All of it, by kind."""
        return {"name": self.name, "words": self.words, "phone": self.phone, "id_number": self.id_number}


FORMS: Final[Mapping[str, Callable[[str], bytes]]] = {
    "plain": str.encode,
    "with JSON's escapes": lambda text: json.dumps(text).encode(),
    "with JSON's escapes, twice": lambda text: json.dumps(json.dumps(text)).encode(),
    "in base64": lambda text: b64encode(text.encode()),
    "in base64, after one byte": lambda text: b64encode(b"x" + text.encode()),
    "in base64, after two bytes": lambda text: b64encode(b"xx" + text.encode()),
    "in base64 of addresses": lambda text: urlsafe_b64encode(text.encode()),
    "in base64 of addresses, after one byte": lambda text: urlsafe_b64encode(b"x" + text.encode()),
    "in base64 of addresses, after two bytes": lambda text: urlsafe_b64encode(b"xx" + text.encode()),
    "in hexadecimal digits": lambda text: text.encode().hex().encode(),
    "in capital hexadecimal digits": lambda text: text.encode().hex().upper().encode(),
    "in an address": lambda text: quote(text).encode(),
    "in an address, small": lambda text: quote(text).lower().encode(),
    "in UTF-16": lambda text: text.encode("utf-16"),
    "in UTF-16, the other way round": lambda text: text.encode("utf-16-be"),
    "in GB 18030": lambda text: text.encode("gb18030"),
    "as Python shows bytes": lambda text: repr(text.encode()).encode(),
    "in HTML's numbers": lambda text: "".join(f"&#{ord(each)};" for each in text).encode(),
    "in HTML's hexadecimal numbers": lambda text: "".join(f"&#x{ord(each):X};" for each in text).encode(),
    "in a workbook": lambda text: _zipped(text.encode()),
}
"""What a text may have become on its way."""


def _zipped(content: bytes) -> bytes:
    out = BytesIO()
    with ZipFile(out, "w", 8) as made:
        made.writestr("sheet.xml", content)
    return out.getvalue()


def _inside_base64(plain: bytes) -> Iterator[bytes]:
    """The characters that follow from these bytes alone, at each of the three places in a group."""
    for before in range(3):
        for encode in (b64encode, urlsafe_b64encode):
            yield encode(bytes(before) + plain)[-(-before * 8 // 6) : (before + len(plain)) * 8 // 6]


def _as_it_is(text: str) -> set[bytes]:
    plain = text.encode()
    return {plain, text.encode("utf-16-le"), text.encode("utf-16-be"), text.encode("gb18030"), *_inside_base64(plain)}


def _in_small_letters(text: str) -> set[bytes]:
    plain = text.encode()
    escapes = json.dumps(text)[1:-1]
    forms = (
        escapes,
        escapes.replace("\\", "\\\\"),
        plain.hex(),
        quote(text),
        repr(plain)[2:-1],
        *("".join(form(ord(each)) for each in text) for form in _HTML),
    )
    return {each.lower().encode() for each in forms} - {plain}


_HTML: Final[tuple[Callable[[int], str], ...]] = (lambda code: f"&#{code};", lambda code: f"&#x{code:x};")
_NEEDLES: Final = {kind: (_as_it_is(text), _in_small_letters(text)) for kind, text in _BEGINNINGS.items()}
_NUMBERS: Final = {
    text.encode(): re.compile(text.encode() + rb"[0-9]{3}") for kind, text in _BEGINNINGS.items() if kind in {"phone", "id_number"}
}
"""A few digits in a row come about by chance among all those hashes: a number is found with what follows."""


def found_in(content: bytes) -> frozenset[Kind]:
    """Of which kinds there is a canary, in any form. A workbook is opened."""
    if content.startswith(b"PK\x03\x04"):
        with ZipFile(BytesIO(content)) as opened:
            return frozenset[Kind]().union(*(found_in(opened.read(name)) for name in opened.namelist()))
    small = content.lower()
    return frozenset(
        kind
        for kind, (exact, folded) in _NEEDLES.items()
        if any(_stands_in(each, content) for each in exact) or any(each in small for each in folded)
    )


def _stands_in(needle: bytes, content: bytes) -> bool:
    return needle in content and (needle not in _NUMBERS or _NUMBERS[needle].search(content) is not None)


def is_seen_through(content: bytes) -> bool:
    """Whether this place hides nothing: each canary, in each form, is found when it is put into the midst of a part of its content."""
    before, after = content[:500], content[-500:]
    return all(
        found_in(form(text) if name == "in a workbook" else before + form(text) + after) == {kind}
        for kind, text in Canary(0).texts.items()
        for name, form in FORMS.items()
    )


def body_of(canary: Canary, unit: str, **more: Any) -> dict[str, Any]:
    """What is said when one of them registers."""
    said = {
        "unit_code": unit,
        "name": canary.name,
        "id_number": canary.id_number,
        "phone": canary.phone,
        "skills": [canary.words],
        "consents": ["register"],
        "consent_text_version": "2017-1",
    }
    return {**said, **more}
