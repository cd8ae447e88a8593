"""What an event, a personal field and a refusal are, in every contract."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict

Json = dict[str, Any]
"""A JSON object as Python holds it."""

Upcaster = Callable[[Json], Json]
"""One pure step from a payload of version n to one of n + 1; total on every golden example."""


class Event(BaseModel):
    """A fact. The same model is returned by `decide`, stored, carried by Kafka and read by others.

    `TYPE` and `VERSION` are the name on the wire (`service.snake_case`) and the schema version; never a Python path.
    Readers ignore fields they do not know, so an optional field may be added without a new version (D6).
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    TYPE: ClassVar[str]
    VERSION: ClassVar[int] = 1


class Part(BaseModel):
    """A value inside an event: a position of an activity, a posting of a ledger group."""

    model_config = ConfigDict(frozen=True, extra="ignore")


@dataclass(frozen=True, slots=True)
class Personal:
    """Marks a field that is sealed under the key of a person before it is stored (D12).

    `subject` names the sibling field that holds the person's id. A sealed field without its key reads None.
    """

    subject: str


PersonalText = Annotated[str | None, Personal("volunteer_id")]
"""A clear text about the volunteer named by `volunteer_id`: sealed in the log, None once the key is gone."""


def personal_fields(event_type: type[Event]) -> Mapping[str, Personal]:
    """The personal fields of an event model, by field name."""
    found: dict[str, Personal] = {}
    for name, info in event_type.model_fields.items():
        for mark in info.metadata:
            if isinstance(mark, Personal):
                found[name] = mark
    return found


@dataclass(frozen=True, slots=True)
class Refusal:
    """A decision that nothing happens, with a code that stands in the documentation.

    `detail` holds numbers and plain words that help the caller; it is kept with the command's answer. It never repeats a text that
    was asked with, not even a code: a number of a person is one too, where somebody mistook the field.
    """

    code: str
    detail: Mapping[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RefusalText:
    """How a refusal code is said: its HTTP status and one sentence in Chinese and English."""

    status: int
    zh: str
    en: str


SEALED_PREFIX: Final = "sealed:"
"""What a sealed field begins with in a stored payload: `sealed:<algorithm>:<base64url of nonce and ciphertext>`."""
