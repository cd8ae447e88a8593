"""The codec: what is written, what is read back, and what is parked or stops the reader."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, cast
from uuid import UUID

import pytest
from pydantic_core import from_json, to_json

from shared.codec import Codec, sees_nothing
from shared.contracts.event import Event, Json, PersonalText
from shared.contracts.topics import EVENTS, UPCASTERS
from shared.envelope import Record, Stream
from shared.errors import DeterministicError, NewerVersionError, PayloadError, UnknownEventTypeError
from shared.postgres import Pool
from shared.privacy import PersonalKeys, PersonErasedError

PERSON: Final = UUID("0197f3a4-5c00-7000-8000-000000000001")
OTHER: Final = UUID("0197f3a4-5c00-7000-8000-000000000002")
EVENT_ID: Final = UUID("0197f3a4-5c00-7000-8000-000000000003")
OTHER_EVENT_ID: Final = UUID("0197f3a4-5c00-7000-8000-000000000004")


class DeedTold(Event):
    """Somebody told of a deed. Version 1 had one `words`, version 2 counts them."""

    TYPE: ClassVar[str] = "tests.deed_told"
    VERSION: ClassVar[int] = 2

    volunteer_id: UUID
    deed: PersonalText
    witness: PersonalText = None
    words: int


class Rested(Event):
    """An event without personal data."""

    TYPE: ClassVar[str] = "tests.rested"

    minutes: int
    note: str = ""


def deed_told_v1_to_v2(body: Json) -> Json:
    """Version 1 had no count."""
    return body | {"words": 2}


CODEC: Final = Codec([DeedTold, Rested], {(DeedTold.TYPE, 1): deed_told_v1_to_v2})


class KeyTable:
    """What `PersonalKeys` asks of a database, in memory: rows of persons and their wrapped keys."""

    def __init__(self) -> None:
        self.rows: dict[UUID, bytes | None] = {}
        self._by = ""

    async def execute(self, _sql: str, subjects: Sequence[UUID], wrapped: Sequence[bytes], by: str, _with: str) -> None:
        self._by = by
        for subject, key in zip(subjects, wrapped, strict=True):
            self.rows.setdefault(subject, key)

    async def fetch(self, _sql: str, subjects: Sequence[UUID]) -> list[dict[str, Any]]:
        return [
            {"subject": each, "wrapped": self.rows[each], "wrapped_by": self._by, "wrapped_with": "a1", "follows_lost": False}
            for each in subjects
            if each in self.rows
        ]


@pytest.fixture
def keys() -> PersonalKeys:
    """Keys of persons, wrapped by a fresh key, in a table of their own."""
    return PersonalKeys(cast("Pool", KeyTable()), os.urandom(32))


def record(payload: bytes, *, event_type: str = DeedTold.TYPE, version: int = 2, event_id: UUID = EVENT_ID) -> Record:
    """A record around a payload; only what the codec reads matters."""
    return Record(
        service="tests",
        log_id=OTHER,
        position=1,
        stream=Stream("deed", PERSON),
        version=1,
        event_id=event_id,
        type=event_type,
        schema_version=version,
        time=datetime(2017, 3, 5, tzinfo=UTC),
        command_id=OTHER,
        correlation_id=OTHER,
        causation_id=None,
        actor="volunteer:x",
        partition_key=str(PERSON),
        traceparent=None,
        payload=payload,
    )


async def test_a_personal_field_is_sealed_in_the_log_and_read_with_the_key(keys: PersonalKeys) -> None:
    event = DeedTold(volunteer_id=PERSON, deed="扶老人过街", words=5)
    await keys.ensure(CODEC.subjects_of(event))
    payload = CODEC.encode(event, EVENT_ID, keys.seal)

    assert from_json(payload)["deed"].startswith("sealed:a1:")
    assert "扶老人过街".encode() not in payload
    assert CODEC.decode(record(payload), keys.unseal) == event
    assert CODEC.decode(record(payload), sees_nothing) == replace_deed(event, None)


def replace_deed(event: DeedTold, deed: str | None) -> DeedTold:
    """The same event as somebody reads it who has no key."""
    return event.model_copy(update={"deed": deed})


async def test_a_person_whose_key_is_destroyed_reads_none_and_can_not_be_written(keys: PersonalKeys) -> None:
    table = KeyTable()
    table.rows[PERSON] = None
    erased = PersonalKeys(cast("Pool", table), os.urandom(32))
    event = DeedTold(volunteer_id=PERSON, deed="a good deed", words=3)
    await keys.ensure([PERSON])
    payload = CODEC.encode(event, EVENT_ID, keys.seal)

    await erased.load([PERSON])
    assert CODEC.decode(record(payload), erased.unseal) == replace_deed(event, None)
    with pytest.raises(PersonErasedError):
        CODEC.encode(event, EVENT_ID, erased.seal)


def test_only_the_persons_of_filled_fields_need_a_key() -> None:
    assert CODEC.subjects_of(DeedTold(volunteer_id=PERSON, deed="a good deed", words=3)) == {PERSON}
    assert CODEC.subjects_of(DeedTold(volunteer_id=PERSON, deed=None, words=0)) == frozenset()
    assert CODEC.subjects_of(Rested(minutes=5)) == frozenset()


def test_a_filled_personal_field_is_never_written_without_a_seal() -> None:
    with pytest.raises(PayloadError, match="deed is personal"):
        CODEC.encode(DeedTold(volunteer_id=PERSON, deed="a good deed", words=3), EVENT_ID)
    CODEC.encode(DeedTold(volunteer_id=PERSON, deed=None, words=0), EVENT_ID)  # Nothing to seal.


def test_a_personal_field_that_stands_unsealed_in_the_log_is_refused() -> None:
    clear = to_json({"volunteer_id": PERSON, "deed": "a good deed", "words": 3})
    with pytest.raises(PayloadError, match="unsealed") as refused:
        CODEC.decode(record(clear))
    assert "good" not in str(refused.value)


async def test_a_sealed_field_passes_through_the_upcaster_bound_to_the_version_it_was_stored_in(keys: PersonalKeys) -> None:
    await keys.ensure([PERSON])
    sealed = keys.seal(PERSON, f"{EVENT_ID}/deed@1", "a good deed")
    old = record(to_json({"volunteer_id": PERSON, "deed": sealed}), version=1)

    assert CODEC.decode(old, keys.unseal) == DeedTold(volunteer_id=PERSON, deed="a good deed", words=2)

    restamped = record(to_json({"volunteer_id": PERSON, "deed": sealed, "words": 2}), version=2)
    with pytest.raises(PayloadError):
        CODEC.decode(restamped, keys.unseal)


async def test_a_sealed_text_opens_nowhere_but_in_its_place(keys: PersonalKeys) -> None:
    await keys.ensure([PERSON, OTHER])
    payload = CODEC.encode(DeedTold(volunteer_id=PERSON, deed="a good deed", words=3), EVENT_ID, keys.seal)
    body = from_json(payload)

    moved = {
        "to another event": record(payload, event_id=OTHER_EVENT_ID),
        "to another field": record(to_json(body | {"deed": None, "witness": body["deed"]})),
        "to another person": record(to_json(body | {"volunteer_id": str(OTHER)})),
        "with one letter changed": record(to_json(body | {"deed": body["deed"][:-8] + body["deed"][-8:].swapcase()})),
        "cut short": record(to_json(body | {"deed": body["deed"][:20]})),
        "under another algorithm": record(to_json(body | {"deed": body["deed"].replace("sealed:a1:", "sealed:b2:")})),
    }
    for how, each in moved.items():
        with pytest.raises(PayloadError):
            pytest.fail(f"opened after it was moved {how}: {CODEC.decode(each, keys.unseal)!r}")
    assert CODEC.decode(record(payload), keys.unseal) == DeedTold(volunteer_id=PERSON, deed="a good deed", words=3)


async def test_two_seals_of_the_same_text_are_not_equal(keys: PersonalKeys) -> None:
    """Else the log would tell who has the same number."""
    await keys.ensure([PERSON])
    assert keys.seal(PERSON, "here", "text") != keys.seal(PERSON, "here", "text")


def test_a_type_that_stands_in_no_contract_is_deterministic() -> None:
    with pytest.raises(UnknownEventTypeError, match=r"tests\.danced"):
        CODEC.decode(record(b"{}", event_type="tests.danced"))
    assert issubclass(UnknownEventTypeError, DeterministicError)


def test_a_newer_version_stops_the_reader_and_is_never_parked() -> None:
    with pytest.raises(NewerVersionError, match="v3 is newer than v2"):
        CODEC.decode(record(b"{}", version=3))
    assert not issubclass(NewerVersionError, DeterministicError)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b'{"minutes": "many"}',
        b'{"minutes": 1.5}',
        b'{"minutes": null}',
        b'{"minutes": ' + b"9" * 5000 + b"}",
        b"[" * 10_000,
        b'{"minutes": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    ],
)
@pytest.mark.parametrize("event_type", [Rested.TYPE, DeedTold.TYPE])
def test_a_payload_that_does_not_fit_is_a_payload_error_without_its_content(payload: bytes, event_type: str) -> None:
    with pytest.raises(PayloadError) as refused:
        CODEC.decode(record(payload, event_type=event_type, version=1))
    assert "many" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("version", [0, -1])
def test_a_version_below_one_is_a_payload_error(version: int) -> None:
    with pytest.raises(PayloadError):
        CODEC.decode(record(b'{"minutes": 1}', event_type=Rested.TYPE, version=version))


def test_a_field_that_this_reader_does_not_know_yet_is_ignored() -> None:
    later = record(b'{"minutes": 30, "place": "Reservoir"}', event_type=Rested.TYPE, version=1)
    assert CODEC.decode(later) == Rested(minutes=30)


def test_a_type_cannot_be_declared_twice() -> None:
    with pytest.raises(ValueError, match="declared twice"):
        Codec([Rested, Rested], {})


def test_the_codec_of_the_contracts_reads_every_type() -> None:
    codec = Codec(EVENTS, UPCASTERS)
    assert codec.types == {event.TYPE for event in EVENTS}
    assert codec.has_personal("registration.volunteer_registered")
    assert not codec.has_personal("hours.checked_in")
