"""Reads a JSON body strictly, before any model sees it: what three parsers would silently accept is refused with its own code.

Python's, orjson's and msgspec's readers all keep the last of two equal keys; the first takes NaN, 1e999 and lone surrogates; none minds
U+0000, which PostgreSQL refuses later (reliability.md 5.1). So this reader decides once, at the edge.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from shared.fieldnames import shown
from shared.http.problems import ProblemError

BODY_SECONDS_MAX: Final = 10.0
"""A body that takes longer to arrive is given up (408)."""

DEPTH_MAX: Final = 32

INTEGER_MIN: Final = -(2**63)
INTEGER_MAX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """How much a command takes: bytes of the body, elements of one array (security.md 4.2)."""

    bytes_max: int = 256 * 1024
    array_max: int = 1000


COMMAND_LIMITS: Final = BodyLimits()
IMPORT_LIMITS: Final = BodyLimits(bytes_max=5 * 1024 * 1024, array_max=20_000)
"""For commands that import a file."""

M = TypeVar("M", bound=BaseModel)

_BRACKETS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_JSON_TYPE: Final = re.compile(r'application/json\s*(;\s*charset="?utf-8"?\s*)?', re.IGNORECASE)


async def read_body(headers: Mapping[str, str], chunks: AsyncIterator[bytes], limits: BodyLimits) -> bytes:
    """The bytes of a request's body. Raises ProblemError for the wrong kind, a size over the cap, or a body that never ends."""
    if not _JSON_TYPE.fullmatch(headers.get("content-type", "")) or headers.get("content-encoding", "identity") != "identity":
        raise ProblemError("content_type_unsupported")
    told = headers.get("content-length", "")
    if told.isascii() and told.isdigit() and int(told[:12]) > limits.bytes_max:
        raise ProblemError("body_too_large", bytes_max=limits.bytes_max)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS_MAX):
            async for chunk in chunks:
                body += chunk
                if len(body) > limits.bytes_max:
                    raise ProblemError("body_too_large", bytes_max=limits.bytes_max)
    except TimeoutError:
        raise ProblemError("body_too_slow") from None
    return bytes(body)


def parse_json(raw: bytes, limits: BodyLimits) -> Any:
    """The JSON value of `raw`. Raises ProblemError with the code of what is wrong, and where it is known, a `pointer`."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ProblemError("body_not_utf8") from None
    _check_depth(raw)
    try:
        value = _READER.decode(text)
    except json.JSONDecodeError as error:
        raise ProblemError("json_malformed", line=error.lineno, column=error.colno) from None
    _check(value, "", limits)
    return value


def parse_model(raw: bytes, model: type[M]) -> M:
    """The model in a body that `parse_json` accepted: unknown fields refused at every depth, no type converted.

    Raises ProblemError with the code of the first finding and all findings in `errors`, each with a JSON pointer; no value is repeated,
    nor a key that is no field's name.
    """
    try:
        return model.model_validate_json(raw, strict=True, extra="forbid")
    except ValidationError as error:
        found = [
            {
                "pointer": "".join(f"/{_step(step)}" for step in each["loc"]),
                "code": _field_code(each["type"]),
                "detail": each["msg"],
            }
            for each in error.errors(include_url=False, include_input=False, include_context=False)[:20]
        ]
        raise ProblemError(str(found[0]["code"]), errors=found) from None


def canonical(value: Any) -> bytes:
    """The same bytes for bodies that say the same: keys sorted, no white space. What the idempotency fingerprint is taken of."""
    return _WRITER.encode(value).encode()


def _check_depth(raw: bytes) -> None:
    # Before parsing: the reader itself would meet the interpreter's recursion limit.
    if raw.count(b"[") + raw.count(b"{") <= DEPTH_MAX:
        return
    depth = 0
    for match in _BRACKETS.finditer(raw):
        mark = match.group()
        if mark in b"[{":
            depth += 1
            if depth > DEPTH_MAX:
                raise ProblemError("json_too_deep", depth_max=DEPTH_MAX)
        elif mark in b"]}":
            depth -= 1


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ProblemError("json_duplicate_key")
    return made


def _integer(text: str) -> int:
    if len(text) > 20 or not INTEGER_MIN <= int(text) <= INTEGER_MAX:
        raise ProblemError("json_integer_too_large")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ProblemError("json_number_not_finite")
    return value


def _constant(_name: str) -> NoReturn:
    raise ProblemError("json_number_not_finite")


_READER: Final = json.JSONDecoder(object_pairs_hook=_pairs, parse_int=_integer, parse_float=_float, parse_constant=_constant)
_WRITER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _check(value: Any, pointer: str, limits: BodyLimits) -> None:
    if isinstance(value, str):
        _check_text(value, pointer)
    elif isinstance(value, list):
        if len(value) > limits.array_max:
            raise ProblemError("json_array_too_long", pointer=pointer, array_max=limits.array_max)
        for index, each in enumerate(value):
            _check(each, f"{pointer}/{index}", limits)
    elif isinstance(value, dict):
        for key, each in value.items():
            _check_text(key, pointer)
            _check(each, f"{pointer}/{_step(key)}", limits)


def _check_text(text: str, pointer: str) -> None:
    if text.isascii() and "\x00" not in text:
        return
    if "\x00" in text:
        raise ProblemError("text_has_nul", pointer=pointer)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ProblemError("text_has_lone_surrogate", pointer=pointer) from None


def _step(step: str | int) -> str:
    """A step of a JSON pointer: keys are the caller's own words, so one that is no field's name is `?`."""
    return shown(step) if isinstance(step, str) else str(step)


def _field_code(kind: str) -> str:
    if kind == "extra_forbidden":
        return "field_unknown"
    if kind == "missing":
        return "field_missing"
    if kind.endswith(("_type", "_parsing", "_attributes_type")) or kind in {"int_from_float", "is_instance_of"}:
        return "field_wrong_type"
    return "field_wrong_value"
