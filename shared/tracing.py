"""W3C trace context and correlation ids: what ties one wish of a person together across three services.

The traceparent of a command is stored with its events, so the trace survives the relay (operations.md 3.3).
"""

import os
import re
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from asyncpg.pgproto import pgproto

_TRACEPARENT: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass(frozen=True, slots=True)
class Trace:
    """One span of a trace. `str()` is the header `traceparent`."""

    trace_id: str
    span_id: str
    sampled: bool

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def parse_traceparent(text: str | None) -> Trace | None:
    """Reads version 00 of the header. None for anything else: a wrong header never fails a request (W3C, section 3.2)."""
    found = _TRACEPARENT.fullmatch(text) if text else None
    if found is None:
        return None
    trace_id, span_id, flags = found.groups()
    if set(trace_id) == {"0"} or set(span_id) == {"0"}:
        return None
    return Trace(trace_id, span_id, sampled=bool(int(flags, 16) & 1))


def child_of(parent: Trace | None) -> Trace:
    """A new span under `parent`, or the root of a new trace."""
    span_id = os.urandom(8).hex()
    if parent is None:
        return Trace(os.urandom(16).hex(), span_id, sampled=False)
    return Trace(parent.trace_id, span_id, parent.sampled)


def parse_uuid(text: str) -> UUID | None:
    """A UUID in its usual form of 36 ASCII characters, as ids and correlation ids arrive; None for braces, URNs and wide digits."""
    return pgproto.UUID(text) if _UUID.fullmatch(text) else None
