"""The key file in the hands of two custodians: both halves give it back, one of them tells nothing of it (a one-time pad).

A half is a text that can be printed: lines `name: value`, the digits in groups. Each half carries a check of its own, so that a slip in
typing is found before the halves are put together, and the whole carries one too.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from typing import Final

from shared.errors import LeifengError
from shared.privacy.keyfile import KeyRing, name_of, parse_ring

TITLE: Final = "leifeng key escrow, form 1"
_GROUP_BYTES: Final = 2
_LINE_BYTES: Final = 16
_CHECK_DIGITS: Final = 8


class EscrowError(LeifengError):
    """The two halves do not give a key; the text says which of them is wrong, as far as that can be known."""


@dataclass(frozen=True, slots=True)
class Half:
    """One custodian's half."""

    service: str
    share: int
    custodian: str
    key: str
    made_on: date
    pair: str
    body: bytes

    def __repr__(self) -> str:
        return f"Half({self.service} {self.share} of {self.key})"

    def text(self) -> str:
        """As it is kept, or printed."""
        lines = [self.body[at : at + _LINE_BYTES].hex(" ", _GROUP_BYTES) for at in range(0, len(self.body), _LINE_BYTES)]
        said = {
            "service": self.service, "half": f"{self.share} of 2", "custodian": self.custodian, "key": self.key,
            "made": self.made_on.isoformat(), "pair": self.pair, "check": _check(self.body),
        }  # fmt: skip
        return "\n".join([TITLE, *(f"{name}: {value}" for name, value in said.items()), "", *lines]) + "\n"


def split(service: str, ring: KeyRing, custodians: tuple[str, str], made_on: date) -> tuple[Half, Half]:
    """The halves of a key file, for two custodians."""
    whole = ring.text().encode()
    whole += sha256(whole).digest()
    pad = secrets.token_bytes(len(whole))
    rest = bytes(one ^ other for one, other in zip(whole, pad, strict=True))
    key, pair = name_of(ring.current), secrets.token_hex(8)
    first, second = (
        Half(service, share, custodian, key, made_on, pair, body)
        for share, custodian, body in zip((1, 2), custodians, (pad, rest), strict=True)
    )
    return first, second


def join(service: str, first: str, second: str) -> KeyRing:
    """The key file of two halves, in either order. Raises EscrowError."""
    halves = [_read(service, text, which) for text, which in ((first, "first"), (second, "second"))]
    one, other = halves
    if one.pair != other.pair:
        raise EscrowError("the two halves were not made together: each is of another key or of another day")
    if {one.share, other.share} != {1, 2}:
        raise EscrowError("the same half was given twice")
    whole = bytes(left ^ right for left, right in zip(one.body, other.body, strict=True))
    text, digest = whole[:-32], whole[-32:]
    if sha256(text).digest() != digest:
        raise EscrowError("the two halves do not fit together")
    return parse_ring(text.decode())


def _read(service: str, text: str, which: str) -> Half:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines or lines[0] != TITLE:
        raise EscrowError(f"the {which} file is no half of a key")
    said: Mapping[str, str] = dict(_named(line) for line in lines[1:] if ": " in line)
    try:
        body = bytes.fromhex("".join(line for line in lines[1:] if ": " not in line).replace(" ", ""))
        half = Half(
            said["service"], int(said["half"].removesuffix(" of 2")), said["custodian"], said["key"], date.fromisoformat(said["made"]),
            said["pair"], body,
        )  # fmt: skip
    except (KeyError, ValueError):
        raise EscrowError(f"the {which} half lacks a line, or has a slip in it") from None
    if said.get("check") != _check(half.body):
        raise EscrowError(f"the {which} half has a slip in its digits")
    if half.service != service:
        raise EscrowError(f"the {which} half is of {half.service}, not of {service}")
    return half


def _named(line: str) -> tuple[str, str]:
    name, _, value = line.partition(": ")
    return name, value


def _check(body: bytes) -> str:
    return sha256(b"leifeng escrow half" + body).hexdigest()[:_CHECK_DIGITS]
