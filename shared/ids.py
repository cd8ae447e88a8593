"""How ids are made, so that every repeat is the same command (architecture, section 7)."""

import os
import time
from uuid import UUID, uuid5


def new_id() -> UUID:
    """A UUIDv7 (RFC 9562, 5.7): milliseconds since 1970, then random bits."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    return UUID(int=value & ~(0x3 << 62) | 0x2 << 62)


def event_id(command_id: UUID, index: int) -> UUID:
    """The id of the `index`-th event (from 0) of a command."""
    return uuid5(command_id, str(index))


def reaction_command_id(reaction: str, index: int, source_event: UUID) -> UUID:
    """The id of the `index`-th command with which a reaction answers an event."""
    return uuid5(source_event, f"reaction/{reaction}/{index}")


def deadline_command_id(name: str, set_by: UUID) -> UUID:
    """The id of the command that a deadline fires; `set_by` is the event that set it."""
    return uuid5(set_by, f"deadline/{name}")
