"""How ids are made, so that every repeat is the same command (architecture, section 7)."""

import os
import time
from hashlib import sha1
from uuid import UUID

from asyncpg.pgproto import pgproto


def named_id(namespace: UUID, name: str) -> UUID:
    """What `uuid5` makes (RFC 9562, 5.5), as the driver's UUID: a command needs several, and makes, writes and compares them for less."""
    made = bytearray(sha1(namespace.bytes + name.encode(), usedforsecurity=False).digest()[:16])
    made[6] = made[6] & 0x0F | 0x50
    made[8] = made[8] & 0x3F | 0x80
    return pgproto.UUID(bytes(made))


def random_id() -> UUID:
    """What `uuid4` makes, as the driver's UUID."""
    made = bytearray(os.urandom(16))
    made[6] = made[6] & 0x0F | 0x40
    made[8] = made[8] & 0x3F | 0x80
    return pgproto.UUID(bytes(made))


def new_id() -> UUID:
    """A UUIDv7 (RFC 9562, 5.7): milliseconds since 1970, then random bits."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    return UUID(int=value & ~(0x3 << 62) | 0x2 << 62)


def event_id(command_id: UUID, index: int) -> UUID:
    """The id of the `index`-th event (from 0) of a command."""
    return named_id(command_id, str(index))


def reaction_command_id(reaction: str, index: int, source_event: UUID) -> UUID:
    """The id of the `index`-th command with which a reaction answers an event."""
    return named_id(source_event, f"reaction/{reaction}/{index}")


def deadline_command_id(name: str, set_by: UUID) -> UUID:
    """The id of the command that a deadline fires; `set_by` is the event that set it."""
    return named_id(set_by, f"deadline/{name}")
