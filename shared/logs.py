"""One JSON object a line on standard output (operations.md 3.3), with nothing in it that a person could be known by.

Texts pass only under the names in `SAFE_TEXTS`; numbers, booleans, UUIDs, instants and enums pass under any name; every other value is
replaced. An exception is logged as its type and its places in our code, never its message: a database puts values into messages.
"""

import json
import logging
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from datetime import UTC, date, datetime
from enum import Enum
from hashlib import sha256
from time import monotonic
from types import MappingProxyType
from typing import Any, Final, TextIO
from uuid import UUID

import structlog
from structlog.types import EventDict, FilteringBoundLogger, WrappedLogger

SAFE_TEXTS: Final = frozenset(
    {
        "event", "level", "time", "service", "version", "logger", "trace_id", "correlation_id", "causation_id", "command_id",
        "command", "stream", "outcome", "code", "cause", "reason", "route", "method", "role", "consumer", "source", "topic", "type",
        "state", "stage", "step", "error", "where", "process", "migration", "pool", "query", "deadline", "reaction", "address",
    }
)  # fmt: skip
"""Names under which a text is written as it stands. `address` is a host and port of our own settings, never a caller's."""

REDACTED: Final = "[redacted]"

NOISY_LINES_PER_SECOND_MAX: Final = 1
"""A Kafka client whose broker is away writes some forty lines a second (stack.md 3); more than this a second says nothing new."""

_NOISY: Final = ("aiokafka", "faststream", "kafka")


def configure(service: str, version: str, *, level: str = "INFO", out: TextIO | None = None) -> None:
    """Sends every log line of this process, also those of libraries, through one JSON renderer. Call once, at start."""

    def complete(logger: WrappedLogger | None, method: str, line: EventDict) -> EventDict:
        """One step and not one for each thing that is added: every request writes a line."""
        said: EventDict = {**_bound.get(), **line}
        said["level"] = _LEVELS.get(method, method)
        said["time"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        said["service"], said["version"] = service, version
        return redact(logger, method, places_instead_of_messages(logger, method, said))

    def render(_logger: WrappedLogger | None, _method: str, line: EventDict) -> str:
        return _WRITER.encode(line)

    stream = out or sys.stdout
    structlog.configure(  # Our own lines go straight to the stream: `logging`, which those of libraries pass through, costs twice as much.
        processors=[complete, render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.addFilter(_once_a_second())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder(allow=()), complete],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in (*_NOISY, "uvicorn", "uvicorn.access", "uvicorn.error", "asyncio"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(logging.WARNING)


def logger(**bound: object) -> FilteringBoundLogger:
    """A logger; call as `log.info("seat_offered", stream=..., outcome=...)`: the event is a word, values are fields."""
    made: FilteringBoundLogger = structlog.get_logger(**bound)
    return made


class bound:  # noqa: N801  # Reads as the `with` that it is for.
    """Within this block every line of this task carries `fields` (correlation_id, causation_id, trace_id, command)."""

    __slots__ = ("_fields", "_token")

    def __init__(self, **fields: UUID | str | int | None) -> None:
        self._fields = fields

    def __enter__(self) -> None:
        said = {name: str(value) for name, value in self._fields.items() if value is not None}
        self._token = _bound.set({**_bound.get(), **said})

    def __exit__(self, *_: object) -> None:
        _bound.reset(self._token)


_bound: Final[ContextVar[Mapping[str, str]]] = ContextVar("bound", default=MappingProxyType({}))


_WRITER: Final = json.JSONEncoder(ensure_ascii=False, default=str)
_LEVELS: Final = {"exception": "error", "warn": "warning"}
"""Of which level a call is that is not named by it."""


def pseudonym(stream: str) -> str:
    """`category-xxxxxxxx`: a stream as logs name it. Lines about one stream can be put together, the id cannot be read back."""
    return f"{stream.partition('-')[0]}-{sha256(stream.encode()).hexdigest()[:8]}"


def redact(_logger: WrappedLogger | None, _method: str, line: EventDict) -> EventDict:
    """Replaces every value that is not of a safe kind or a text under a safe name."""
    return {name: value if name in SAFE_TEXTS or name.startswith("_") or _is_safe(value) else REDACTED for name, value in line.items()}


def places_instead_of_messages(_logger: WrappedLogger | None, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Turns `exc_info` into the error's type and the places it passed through."""
    info = line.pop("exc_info", None)
    error = info[1] if isinstance(info, tuple) else info if isinstance(info, BaseException) else sys.exc_info()[1] if info else None
    if error is not None:
        frames = traceback.extract_tb(error.__traceback__)[-8:]
        line["error"] = type(error).__qualname__
        line["where"] = " < ".join(f"{_short(frame.filename)}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    return line


def _short(path: str) -> str:
    return "/".join(path.split("/")[-3:])


def _is_safe(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_safe(each) for each in value)
    return value is None or isinstance(value, (bool, int, float, UUID, datetime, date, Enum))


def _once_a_second() -> logging.Filter:
    last: dict[tuple[str, int], float] = {}

    class Quiet(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            if not record.name.startswith(_NOISY):
                return True
            key, now = (record.pathname, record.lineno), monotonic()
            if now - last.get(key, -1.0) < 1.0 / NOISY_LINES_PER_SECOND_MAX:
                return False
            last[key] = now
            return True

    return Quiet()
