"""Invented people and the few words that the tests of registration share."""

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from shared.codec import Codec
from shared.contracts import registration
from shared.contracts.event import Event, Refusal
from shared.envelope import Record, Stream
from shared.permissions import Actor, Role

UNIT = "water-saving-office"
ALICE, BOB, CAROL, DAVE, EVE = (UUID(int=0x0197F3A45C0070008000000000000000 + n) for n in range(1, 6))
BUREAU_ADMIN = Actor(UUID(int=90), Role.BUREAU_ADMIN, "water-bureau")
UNIT_ADMIN = Actor(UUID(int=91), Role.UNIT_ADMIN, UNIT)
STRANGE_ADMIN = Actor(UUID(int=92), Role.UNIT_ADMIN, "reservoir-station")


def herself(person_id: UUID) -> Actor:
    """A volunteer who acts for themself."""
    return Actor(person_id, Role.VOLUNTEER, UNIT)


def code_of(decided: Sequence[Event] | Refusal) -> str:
    """The code of what must be a refusal."""
    assert isinstance(decided, Refusal), decided
    return decided.code


def events_of(decided: Sequence[Event] | Refusal) -> Sequence[Event]:
    """The events of what must not be a refusal. Each of them survives the codec."""
    assert not isinstance(decided, Refusal), decided
    codec = Codec(registration.EVENTS, registration.UPCASTERS)
    for event in decided:
        payload = codec.encode(event, UUID(int=7), lambda _subject, place, clear: f"sealed:{place}|{clear}")
        record = Record(
            "registration", UUID(int=1), 1, Stream("volunteer", ALICE), 1, UUID(int=7), event.TYPE, event.VERSION,
            datetime(2017, 3, 1, tzinfo=UTC), UUID(int=2), UUID(int=3), None, "volunteer:x", "x", None, payload,
        )  # fmt: skip
        assert codec.decode(record, lambda _subject, place, sealed: sealed.removeprefix(f"sealed:{place}|")) == event
    return decided


def id_number(born: str = "19900305", sequence: str = "001") -> str:
    """A well-formed ID number of a place code that no place has."""
    digits = f"999999{born}{sequence}"
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return digits + "10X98765432"[sum(w * int(d) for w, d in zip(weights, digits, strict=True)) % 11]
