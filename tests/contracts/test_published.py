"""The published language keeps its word: what was ever written can be read, and nobody is told of a change by surprise."""

import os
import re
from base64 import urlsafe_b64decode
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, cast
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from jsonschema import Draft202012Validator, FormatChecker, ValidationError
from pydantic_core import from_json, to_json

from shared.codec import Codec
from shared.contracts.event import Event, Json, Part, personal_fields
from shared.contracts.topics import CATEGORIES, EVENTS, SERVICES, SUBSCRIPTIONS, TOPICS, UPCASTERS, Subscription
from shared.envelope import Record, Stream
from shared.postgres import Pool
from shared.privacy import PersonalKeys
from shared.privacy.keyfile import name_of
from tests.contracts.published import PERSON_KEY, Published, all_versions, committed, drafted, generated, newest, text_of, widens

CODEC: Final = Codec(EVENTS, UPCASTERS)
TYPES: Final = {event.TYPE: event for event in EVENTS}
LOG: Final = UUID("0197f3a4-5c00-7000-8000-0000000000aa")

versions = pytest.mark.parametrize("published", all_versions(), ids=lambda each: each.file_name)
events = pytest.mark.parametrize("event", EVENTS, ids=lambda each: each.TYPE)


def record(published: Published, payload: bytes) -> Record:
    """The record in which a payload would stand in a log."""
    service = published.type.partition(".")[0]
    return Record(
        service=service,
        log_id=LOG,
        position=1,
        stream=Stream("example", LOG),
        version=1,
        event_id=published.event_id,
        type=published.type,
        schema_version=published.version,
        time=datetime(2017, 3, 22, tzinfo=UTC),
        command_id=LOG,
        correlation_id=LOG,
        causation_id=None,
        actor="system:examples",
        partition_key=str(LOG),
        traceparent=None,
        payload=payload,
    )


class _TheOneKey:
    """The table of keys that holds the key of every person of the examples."""

    def __init__(self, wrapping: bytes) -> None:
        self._wrapping = AESGCM(wrapping)
        self._rest = {"wrapped_by": name_of(wrapping), "wrapped_with": "a1", "follows_lost": False}

    async def fetch(self, _sql: str, subjects: Sequence[UUID]) -> list[dict[str, Any]]:
        nonce = bytes(12)
        return [
            {"subject": each, "wrapped": nonce + self._wrapping.encrypt(nonce, PERSON_KEY, each.bytes), **self._rest} for each in subjects
        ]


@events
def test_the_schema_of_the_newest_version_is_the_one_that_was_published(event: type[Event]) -> None:
    assert newest(event).schema() == generated(event), "CONTRIBUTING.md, change an event, says how"


@versions
def test_an_example_fits_the_schema_of_its_version(published: Published) -> None:
    schema = published.schema()
    Draft202012Validator.check_schema(schema)
    assert schema["$id"] == f"urn:leifeng:schema:{published.type}:{published.version}"
    assert schema["title"] == published.type
    Draft202012Validator(schema, format_checker=FormatChecker()).validate(from_json(published.example()))


@versions
def test_an_example_of_every_version_is_read_as_the_newest(published: Published) -> None:
    event = CODEC.decode(record(published, published.example()))
    assert type(event) is TYPES[published.type]


@events
def test_what_an_example_says_survives_the_codec(event: type[Event]) -> None:
    """But for personal fields, which read none without their key. An optional field that was added since is not in the example."""
    published = newest(event)
    example = from_json(published.example())
    said = CODEC.decode(record(published, published.example()))
    written = CODEC.encode(said, published.event_id)
    assert CODEC.decode(record(published, written)) == said
    assert {name: value for name, value in from_json(written).items() if name in example} == example | dict.fromkeys(personal_fields(event))


@pytest.mark.parametrize("published", [each for each in all_versions() if CODEC.has_personal(each.type)], ids=lambda each: each.file_name)
async def test_the_sealed_texts_of_an_example_still_open(published: Published) -> None:
    wrapping = os.urandom(32)
    keys = PersonalKeys(cast("Pool", _TheOneKey(wrapping)), wrapping)
    marks = personal_fields(TYPES[published.type])
    body = from_json(published.example())
    await keys.load([UUID(body[mark.subject]) for mark in marks.values()])
    event = CODEC.decode(record(published, published.example()), keys.unseal)

    for name in marks:
        assert body[name].startswith("sealed:a1:")
        raw = urlsafe_b64decode(body[name].removeprefix("sealed:a1:") + "==")
        clear = AESGCM(PERSON_KEY).decrypt(raw[:12], raw[12:], f"{published.event_id}/{name}@{published.version}".encode()).decode()
        assert getattr(event, name) == clear


@events
def test_a_reader_of_the_schema_is_told_when_something_is_missing_or_of_another_kind(event: type[Event]) -> None:
    published = newest(event)
    validator = Draft202012Validator(published.schema(), format_checker=FormatChecker())
    body = from_json(published.example())
    for name in published.schema()["required"]:
        with pytest.raises(ValidationError):
            validator.validate({each: value for each, value in body.items() if each != name})
        with pytest.raises(ValidationError):
            validator.validate(body | {name: {"not": "this"}})


def test_nothing_published_is_ever_removed() -> None:
    assert set(committed()) == set(all_versions())


def test_every_older_version_has_its_upcaster_and_no_upcaster_leads_nowhere() -> None:
    assert set(UPCASTERS) == {(each.type, each.version) for each in all_versions()} - {(event.TYPE, event.VERSION) for event in EVENTS}


def test_an_activity_of_version_one_has_one_position_in_version_two() -> None:
    published = Published("registration.activity_published", 1)
    event = CODEC.decode(record(published, published.example()))
    capacity = from_json(published.example())["capacity"]
    assert [(each.code, each.capacity) for each in event.positions] == [("general", capacity)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("step", UPCASTERS.items(), ids=lambda each: f"{each[0][0]}.v{each[0][1]}")
def test_an_upcaster_leaves_its_argument_alone(step: Any) -> None:
    (event_type, version), upcaster = step
    body = from_json(Published(event_type, version).example())
    before = to_json(body)
    upcaster(body)
    assert to_json(body) == before


@events
def test_a_type_is_named_after_its_service_and_its_class(event: type[Event]) -> None:
    service = event.__module__.rpartition(".")[2]
    assert service in SERVICES
    assert f"{service}.{re.sub('(?<!^)(?=[A-Z])', '_', event.__name__).lower()}" == event.TYPE


@events
def test_a_personal_field_names_the_person_beside_it(event: type[Event]) -> None:
    for mark in personal_fields(event).values():
        assert event.model_fields[mark.subject].annotation is UUID


@pytest.mark.parametrize("subscription", SUBSCRIPTIONS, ids=lambda each: f"{each.consumer}<{each.source}")
def test_a_subscription_names_types_that_exist_in_the_log_it_reads(subscription: Subscription) -> None:
    service, _, purpose = subscription.consumer.partition(".")
    assert service in SERVICES
    assert purpose in {"views", "inbox", "withdrawals"}
    assert f"{subscription.source}.events" in TOPICS
    assert subscription.types
    assert subscription.types <= {each for each in TYPES if each.startswith(f"{subscription.source}.")}


def test_a_consumer_reads_each_log_by_one_subscription() -> None:
    pairs = [(each.consumer, each.source) for each in SUBSCRIPTIONS]
    assert len(pairs) == len(set(pairs))


@pytest.mark.parametrize("subscription", SUBSCRIPTIONS, ids=lambda each: f"{each.consumer}<{each.source}")
def test_every_consumer_can_read_every_example_of_what_it_subscribes_to(subscription: Subscription) -> None:
    for published in all_versions():
        if published.type in subscription.types:
            assert CODEC.decode(record(published, published.example())).TYPE in subscription.types


def test_a_partition_key_is_a_field_of_some_event_of_its_service() -> None:
    for category in CATEGORIES.values():
        assert category.service in SERVICES
        if category.key_field is not None:
            assert any(category.key_field in event.model_fields for event in EVENTS if event.TYPE.startswith(f"{category.service}.")), (
                category.name
            )


# How the schemas themselves are compared.


class _Seat(Part):
    row: int


class _Sat(Event):
    TYPE: ClassVar[str] = "tests.sat"
    seat: _Seat
    seats: int


class _SeatWithNote(Part):
    row: int
    note: str = ""


class _SatSomewhere(Event):
    """A sentence that says it better."""

    TYPE: ClassVar[str] = "tests.sat"
    seat: _Seat
    seats: int
    where: str | None = None


class _SatWhere(Event):
    TYPE: ClassVar[str] = "tests.sat"
    seat: _Seat
    seats: int
    where: str


class _SatOnText(Event):
    TYPE: ClassVar[str] = "tests.sat"
    seat: _Seat
    seats: str


class _SatDown(Event):
    TYPE: ClassVar[str] = "tests.sat"
    seat: _Seat


class _SatWithLessOnTheSeat(Event):
    TYPE: ClassVar[str] = "tests.sat"
    seat: _SeatWithNote
    seats: int


def _named_alike(schema: Json) -> Json:
    """The same part under the same name."""
    return cast("Json", from_json(text_of(schema).replace("_SeatWithNote", "_Seat")))


def test_an_optional_field_may_be_added_within_a_version_and_nothing_else() -> None:
    old = generated(_Sat)
    assert widens(old, old)
    assert widens(old, generated(_SatSomewhere))
    assert widens(old, _named_alike(generated(_SatWithLessOnTheSeat)))
    for changed in (_SatWhere, _SatOnText, _SatDown):
        assert not widens(old, generated(changed)), changed
    assert not widens(generated(_SatSomewhere), old)
    assert not widens(_named_alike(generated(_SatWithLessOnTheSeat)), old)


def test_saying_it_better_is_no_change() -> None:
    class Said(_Sat):
        """Quite another sentence."""

    assert generated(Said) == generated(_Sat)


@events
def test_a_draft_for_a_new_event_is_a_sound_example(event: type[Event]) -> None:
    Draft202012Validator(generated(event)).validate(drafted(event))
