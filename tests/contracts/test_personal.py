"""No event says in the clear what may be about a person: each text in it is sealed, or stands here with the reason why it is not (D12)."""

from collections.abc import Iterator, Mapping
from datetime import date, datetime
from itertools import chain
from typing import Any, ClassVar, Final, Literal, get_args, get_origin
from uuid import UUID

import pytest

from shared.contracts.event import Event, Part, Personal, PersonalText, personal_fields
from shared.contracts.topics import EVENTS

SAYS_NO_WORDS: Final = frozenset({UUID, int, bool, date, datetime, type(None)})
"""Kinds of values in which nobody can write anything."""

CODES: Final = "the code of a unit, or of what a programme or activity names: it is taken only where it is one that was published before"

OPEN: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (
            *("registration.role_granted.unit_code", "registration.role_withdrawn.unit_code", "registration.device_key_issued.unit_code"),
            *("registration.device_key_revoked.unit_code", "registration.volunteer_registered.unit_code"),
            *("registration.activity_published.unit_code", "registration.activity_published.carrier"),
            *("registration.activity_published.target_group", "registration.activity_published.occasion"),
            *("registration.activity_held.unit_code", "registration.activity_cancelled.unit_code"),
            *("registration.capacity_changed.position", "registration.enrollment_accepted.position"),
            *("registration.enrollment_waitlisted.position", "registration.enrollment_withdrawn.position"),
            *("registration.seat_offered.position", "registration.offer_accepted.position", "registration.offer_expired.position"),
            *("hours.checked_in.unit_code", "hours.checked_out.unit_code", "hours.check_out_missed.unit_code"),
            *("hours.service_time_proposed.unit_code", "hours.service_time_confirmed.unit_code"),
            *("hours.service_time_corrected.unit_code", "hours.service_time_reversed.unit_code"),
            *("recognition.star_granted.unit_code", "recognition.star_declined.unit_code", "recognition.star_withdrawn.unit_code"),
            *("recognition.star_revocation_proposed.unit_code", "recognition.star_revoked.unit_code"),
        ),
        CODES,
    ),
    **dict.fromkeys(
        (
            *("registration.role_granted.role", "registration.role_withdrawn.role", "registration.erasure_receipt_recorded.service"),
            *("hours.service_time_corrected.reason_code", "hours.service_time_reversed.reason_code"),
        ),
        "a word of a closed list, which the command's body checks",
    ),
    **dict.fromkeys(
        (
            *(
                f"registration.{programme}.{name}"
                for programme in ("programme_adopted", "programme_proposed.programme")
                for name in (
                    *("title", "theme", "purpose", "issuing_body", "document_reference"),
                    *(f"{words}.{name}" for words in ("carriers", "target_groups", "occasions") for name in ("code", "name_zh", "name_en")),
                )
            ),
            *(
                f"registration.{unit}.{name}"
                for unit in ("unit_registered", "unit_proposed.unit")
                for name in ("code", "name", "parent_code", "aliases")
            ),
            *(f"registration.programme_proposed.{codes}" for codes in ("words_new", "words_changed", "words_gone", "units_gone")),
        ),
        "the programme is a published document of the bureau, and names units and no persons",
    ),
    **dict.fromkeys(
        (
            *("registration.activity_published.title", "registration.activity_published.place"),
            *("registration.activity_published.risk_note", "registration.activity_published.insurance"),
            *("registration.activity_published.positions.code", "registration.activity_published.positions.name"),
            "registration.activity_published.positions.duties",
        ),
        "an activity's plan is public: it is what volunteers choose by, before anybody has a seat",
    ),
    **dict.fromkeys(
        ("registration.activity_held.result", "registration.activity_cancelled.reason"),
        "what came of an activity is shown to everybody, and about the activity; there is no person whose key it could be sealed under",
    ),
    "registration.programme_proposed.file_digest": "the digest of that document",
    "registration.device_key_issued.name": "what a device is called, by where it stands",
    "registration.device_key_issued.key_digest": "the digest of 256 random bits",
    "registration.device_key_issued.networks": "where a machine of the bureau stands",
    "registration.volunteer_registered.number": "drawn by chance, and public: it is what a person is told apart by where no name may stand",
    "registration.consent_given.text_version": "a year and a number, which name the text that was agreed to",
    **dict.fromkeys(
        (
            *("hours.hours_policy_adopted.version", "recognition.star_policy_adopted.version"),
            *("hours.service_time_confirmed.policy_version", "hours.service_time_corrected.policy_version"),
            *("recognition.star_granted.policy_version", "recognition.star_declined.policy_version"),
            "recognition.star_withdrawn.policy_version",
        ),
        "what a published policy calls itself",
    ),
}
"""Every text that stands unsealed in a log and on Kafka, for ever. A new one is sealed, unless no person can be meant by it."""


def _kinds(annotation: Any) -> Iterator[tuple[str, Any]]:
    """What a field can hold, by its path below the field."""
    if get_origin(annotation) is Literal:
        return
    if isinstance(annotation, type) and issubclass(annotation, Part | Event):
        for name, info in annotation.model_fields.items():
            yield from ((f".{name}{path}", kind) for path, kind in _kinds(info.annotation))
    elif get_origin(annotation) is dict:
        yield "", dict  # What its keys say, nobody has declared.
    elif (members := get_args(annotation)) and annotation is not Ellipsis:
        yield from chain.from_iterable(map(_kinds, members))
    elif annotation is not Ellipsis:
        yield "", annotation


def unsealed(event: type[Event]) -> set[str]:
    """The places of an event at which somebody could write something that is not sealed."""
    sealed = personal_fields(event)
    return {
        f"{event.TYPE}.{name}{path}"
        for name, info in event.model_fields.items()
        if name not in sealed
        for path, kind in _kinds(info.annotation)
        if kind not in SAYS_NO_WORDS
    }


@pytest.mark.parametrize("event", EVENTS, ids=lambda each: each.TYPE)
def test_every_text_of_an_event_is_sealed_or_public_for_a_reason(event: type[Event]) -> None:
    assert unsealed(event) <= OPEN.keys(), "seal it (PersonalText), or say in OPEN why no person can be meant by it"


def test_the_list_of_what_is_public_names_nothing_that_is_not_there() -> None:
    assert OPEN.keys() <= set().union(*map(unsealed, EVENTS))
    assert all(reason.strip() for reason in OPEN.values())


class _Line(Part):
    said: tuple[str, ...] = ()


class _Noted(Event):
    TYPE: ClassVar[str] = "tests.noted"

    volunteer_id: UUID
    minutes: int
    kind: Literal["own", "foreign"]
    note: str | None
    lines: tuple[_Line, ...]
    more: dict[str, int]
    thanks: PersonalText


def test_a_text_is_found_wherever_an_event_may_hold_one() -> None:
    assert unsealed(_Noted) == {"tests.noted.note", "tests.noted.lines.said", "tests.noted.more"}
    assert personal_fields(_Noted) == {"thanks": Personal("volunteer_id")}
