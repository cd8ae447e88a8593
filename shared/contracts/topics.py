"""Who says what to whom, as data: services, stream categories, topics, and the event types each consumer reads.

Creation of topics, subscriptions, the AsyncAPI documents and the tests follow from these tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shared.contracts import hours, recognition, registration
from shared.contracts.event import Event, Upcaster

SERVICES: Final = ("registration", "hours", "recognition")

EVENTS: Final[tuple[type[Event], ...]] = registration.EVENTS + hours.EVENTS + recognition.EVENTS
"""Every event of every service, in its newest version."""

UPCASTERS: Final[Mapping[tuple[str, int], Upcaster]] = registration.UPCASTERS | hours.UPCASTERS | recognition.UPCASTERS

MESSAGE_BYTES_MAX: Final = 1024 * 1024
"""`max.message.bytes` of the event topics; a payload is capped far below (`codec.EVENT_BYTES_MAX`)."""


@dataclass(frozen=True, slots=True)
class Category:
    """A kind of stream. `key_field` names the event field that is the partition key, None means the stream's own id.

    The key is the record's key in Kafka, and what "key" means when one is parked (architecture, section 7).
    """

    name: str
    service: str
    key_field: str | None


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it is created: name without the installation's prefix, owner, settings; always one partition (D2)."""

    name: str
    owner: str
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Subscription:
    """What one consumer reads of one source log; every other type of that log is ignored by declaration (D8)."""

    consumer: str
    source: str
    types: frozenset[str]


CATEGORIES: Final[Mapping[str, Category]] = {
    category.name: category
    for category in (
        Category("programme", "registration", None),
        Category("role", "registration", "person_id"),
        Category("device", "registration", "device_id"),
        Category("volunteer", "registration", "volunteer_id"),
        Category("activity", "registration", "activity_id"),
        Category("hours_policy", "hours", None),
        Category("attendance", "hours", "volunteer_id"),
        Category("account", "hours", "volunteer_id"),
        Category("hours_erasure", "hours", "volunteer_id"),
        Category("star_policy", "recognition", None),
        Category("star", "recognition", "volunteer_id"),
        Category("recognition_erasure", "recognition", "volunteer_id"),
    )
}

_EVENT_LOG: Final = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "max.message.bytes": str(MESSAGE_BYTES_MAX),
    "compression.type": "producer",
}
_HEADS: Final = {"cleanup.policy": "compact", "max.message.bytes": "65536"}

TOPICS: Final[Mapping[str, Topic]] = {
    topic.name: topic
    for service in SERVICES
    for topic in (Topic(f"{service}.events", service, _EVENT_LOG), Topic(f"{service}.heads", service, _HEADS))
}


def _types(*events: type[Event]) -> frozenset[str]:
    return frozenset(event.TYPE for event in events)


_WITHDRAWALS: Final = _types(
    registration.RoleGranted,  # What is given again counts again, so grants are read too (D8).
    registration.RoleWithdrawn,
    registration.DeviceKeyIssued,
    registration.DeviceKeyRevoked,
    registration.ConsentGiven,
    registration.ConsentWithdrawn,
    registration.VolunteerDeregistered,
    registration.ErasureRequested,
    registration.ErasureDeclined,
    registration.PersonalDataErased,
    registration.ErasureCompleted,
)

SUBSCRIPTIONS: Final[tuple[Subscription, ...]] = (
    Subscription("registration.views", "registration", _types(*registration.EVENTS)),
    Subscription("registration.views", "hours", _types(hours.ServiceTimeConfirmed, hours.ServiceTimeCorrected, hours.ServiceTimeReversed)),
    Subscription("registration.views", "recognition", _types(recognition.StarGranted, recognition.StarWithdrawn, recognition.StarRevoked)),
    Subscription("registration.inbox", "registration", _types(*registration.EVENTS)),
    Subscription("registration.inbox", "hours", _types(hours.PersonalDataPurged)),
    Subscription("registration.inbox", "recognition", _types(recognition.PersonalDataPurged)),
    Subscription("registration.withdrawals", "registration", _WITHDRAWALS),
    Subscription("hours.views", "hours", _types(*hours.EVENTS)),
    Subscription("hours.views", "registration", _types(registration.UnitRegistered, registration.ActivityPublished)),
    Subscription("hours.inbox", "hours", _types(*hours.EVENTS)),
    Subscription(
        "hours.inbox",
        "registration",
        _types(
            registration.VolunteerRegistered,
            registration.ActivityPublished,
            registration.EnrollmentAccepted,
            registration.OfferAccepted,
            registration.EnrollmentWithdrawn,
            registration.ActivityHeld,
            registration.ActivityCancelled,
        ),
    ),
    Subscription("hours.withdrawals", "registration", _WITHDRAWALS),
    Subscription("recognition.views", "recognition", _types(*recognition.EVENTS)),
    Subscription("recognition.views", "registration", _types(registration.UnitRegistered)),
    Subscription("recognition.inbox", "recognition", _types(*recognition.EVENTS)),
    Subscription(
        "recognition.inbox",
        "hours",
        _types(hours.ServiceTimeConfirmed, hours.ServiceTimeCorrected, hours.ServiceTimeReversed),
    ),
    Subscription("recognition.inbox", "registration", _types(registration.VolunteerRegistered)),
    Subscription("recognition.withdrawals", "registration", _WITHDRAWALS),
)


def subscribed(consumer: str) -> Mapping[str, frozenset[str]]:
    """The event types that a consumer (`hours.views`) reads, by source log."""
    return {each.source: each.types for each in SUBSCRIPTIONS if each.consumer == consumer}
