"""Events to stored bytes and back: one place for versions, upcasters and the shape of sealed fields."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol
from uuid import UUID

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from shared.contracts.event import SEALED_PREFIX, Event, Json, Upcaster, personal_fields
from shared.errors import NewerVersionError, PayloadError, UnknownEventTypeError

EVENT_BYTES_MAX: Final = 64 * 1024
"""Cap of a payload, far below the topics' 1 MiB `max.message.bytes` (D4)."""


class Stored(Protocol):
    """What an event is read of: a record of the log, or of Kafka, or as much of one as a fold needs."""

    @property
    def event_id(self) -> UUID:
        """Its id, which sealed fields are bound to."""

    @property
    def type(self) -> str:
        """Its name on the wire."""

    @property
    def schema_version(self) -> int:
        """In which version it was written."""

    @property
    def payload(self) -> bytes:
        """Its bytes."""


Seal = Callable[[UUID, str, str], str]
"""(subject, place, clear text) -> sealed text that begins with SEALED_PREFIX. The place is `event id/field@version`: a sealed text
cannot be moved to another event, field or version."""

Unseal = Callable[[UUID, str, str], str | None]
"""(subject, place, sealed text) -> clear text, or None when the key is not there."""


def sees_nothing(_subject: UUID, _place: str, _sealed: str) -> str | None:
    """The `Unseal` of a reader that holds no keys: every personal field reads None."""
    return None


class Codec:
    """Knows every event type and version of the contracts it is given.

    Raises, when reading: UnknownEventTypeError, NewerVersionError, PayloadError. Their texts carry no content.
    """

    def __init__(self, events: Sequence[type[Event]], upcasters: Mapping[tuple[str, int], Upcaster]) -> None:
        self._models: dict[str, type[Event]] = {}
        for model in events:
            if model.TYPE in self._models:
                raise ValueError(f"{model.TYPE} is declared twice")
            self._models[model.TYPE] = model
        # What `model_validate_json` calls, without its way there: a fold reads a stream's every event.
        self._read: dict[str, Callable[[bytes], Event]] = {model.TYPE: model.__pydantic_validator__.validate_json for model in events}
        self._upcasters = dict(upcasters)
        self._personal = {model.TYPE: personal_fields(model) for model in events}

    @property
    def types(self) -> frozenset[str]:
        """Every type this codec can read."""
        return frozenset(self._models)

    def has_personal(self, event_type: str) -> bool:
        """Whether events of this type carry sealed fields."""
        return bool(self._personal.get(event_type))

    def subjects_of(self, event: Event) -> frozenset[UUID]:
        """The persons whose key is needed to write this event: those with a personal field that is filled."""
        marks = self._personal[event.TYPE]
        return frozenset(getattr(event, mark.subject) for name, mark in marks.items() if getattr(event, name) is not None)

    def sealed_about(self, event_type: str, payload: bytes, person: UUID) -> frozenset[str] | None:
        """The fields of a stored payload that are sealed about `person`; None for a type or a payload that cannot be read."""
        marks = self._personal.get(event_type)
        try:
            body = from_json(payload)
        except ValueError:
            return None
        if marks is None or not isinstance(body, dict):
            return None
        return frozenset(name for name, mark in marks.items() if str(body.get(mark.subject)) == str(person))

    def encode(self, event: Event, event_id: UUID, seal: Seal | None = None) -> bytes:
        """The bytes that are stored and published under `event_id`. `seal` is required where a personal field is filled (PayloadError)."""
        marks = self._personal[event.TYPE]
        if not marks:
            return event.model_dump_json().encode()
        body: Json = event.model_dump(mode="json")
        for name, mark in marks.items():
            clear = body[name]
            if clear is None:
                continue
            if seal is None:
                raise PayloadError(f"{event.TYPE}.{name} is personal and must be sealed")
            body[name] = seal(getattr(event, mark.subject), f"{event_id}/{name}@{event.VERSION}", clear)
        return to_json(body)

    def decode(self, record: Stored, unseal: Unseal = sees_nothing) -> Event:
        """The event of a record in its newest version; sealed fields are opened by `unseal`, or read None."""
        model = self._models.get(record.type)
        if model is None:
            raise UnknownEventTypeError(f"{record.type} stands in no contract")
        if record.schema_version > model.VERSION:
            raise NewerVersionError(f"{record.type} v{record.schema_version} is newer than v{model.VERSION}")
        marks = self._personal[record.type]
        try:
            if not marks and record.schema_version == model.VERSION:
                return self._read[record.type](record.payload)
            body = from_json(record.payload)
            if not isinstance(body, dict):
                raise PayloadError(f"{record.type} v{record.schema_version} is not an object")
            for version in range(record.schema_version, model.VERSION):
                body = self._upcasters[record.type, version](body)
            for name, mark in marks.items():
                held = body.get(name)
                if isinstance(held, str) and held.startswith(SEALED_PREFIX):
                    # Sealed fields are bound to the version they were stored in, and pass through upcasters unchanged.
                    body[name] = unseal(UUID(str(body[mark.subject])), f"{record.event_id}/{name}@{record.schema_version}", held)
                elif held is not None:
                    raise PayloadError(f"{record.type}.{name} stands unsealed in the log")
            return model.model_validate(body)
        except (ValidationError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise PayloadError(f"{record.type} v{record.schema_version} does not fit its schema: {type(error).__name__}") from None
