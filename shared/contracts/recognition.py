"""What recognition says: which honours stand (domain.md 6.4)."""

from datetime import date
from typing import ClassVar, Final, Literal
from uuid import UUID

from shared.contracts.event import Event, Upcaster

StarDeclineReason = Literal["too_few_hours"]
"""Asking for a person who is no volunteer is a caller's slip: it is refused and leaves no event."""

StarWithdrawalReason = Literal["hours_corrected", "hours_reversed"]


class StarPolicyAdopted(Event):
    """评星规则已采用: thresholds in minutes for one to five stars, from a day on (domain.md 1.8)."""

    TYPE: ClassVar[str] = "recognition.star_policy_adopted"

    version: str
    effective_from: date
    thresholds_minutes: tuple[int, ...]
    """Ascending; the n-th is what n stars need."""


class StarGranted(Event):
    """已评星: the `stars`-th star, on application, decided from the confirmed hours known at that moment."""

    TYPE: ClassVar[str] = "recognition.star_granted"

    volunteer_id: UUID
    unit_code: str
    """The volunteer's unit when the star was applied for."""
    stars: int
    confirmed_minutes: int
    threshold_minutes: int
    policy_version: str
    hours_position: int
    """The last position of the hours log that the figure rests on, so that it can be explained."""


class StarDeclined(Event):
    """未评星: with the reason and what is missing."""

    TYPE: ClassVar[str] = "recognition.star_declined"

    volunteer_id: UUID
    unit_code: str
    """The volunteer's unit when the star was applied for."""
    stars: int
    reason: StarDeclineReason
    confirmed_minutes: int
    threshold_minutes: int
    policy_version: str
    hours_position: int


class StarWithdrawn(Event):
    """已撤星: a correction or reversal took the hours away; the star goes by itself.

    Threshold and policy version are those it was granted under: a newer policy takes no star away.
    """

    TYPE: ClassVar[str] = "recognition.star_withdrawn"

    volunteer_id: UUID
    unit_code: str
    """The volunteer's unit when the star was applied for."""
    stars: int
    reason: StarWithdrawalReason
    confirmed_minutes: int
    threshold_minutes: int
    policy_version: str
    hours_position: int


class PersonalDataPurged(Event):
    """个人信息已清除: this service has destroyed the key of a person whose erasure stands at `erased_position` of registration's log, and
    emptied what it showed and held back of them.
    """

    TYPE: ClassVar[str] = "recognition.personal_data_purged"

    volunteer_id: UUID
    erased_position: int


EVENTS: Final[tuple[type[Event], ...]] = (StarPolicyAdopted, StarGranted, StarDeclined, StarWithdrawn, PersonalDataPurged)

UPCASTERS: Final[dict[tuple[str, int], Upcaster]] = {}
