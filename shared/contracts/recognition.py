"""What recognition says: which honours stand (domain.md 6.4)."""

from datetime import date
from typing import ClassVar, Final, Literal
from uuid import UUID

from shared.contracts.event import Event, Upcaster

StarDeclineReason = Literal["too_few_hours"]
"""Asking for a person who is no volunteer is a caller's slip: it is refused and leaves no event."""

StarWithdrawalReason = Literal["hours_corrected", "hours_reversed"]

StarRevocationReason = Literal["false_record", "hidden_faults", "serious_dishonesty", "discipline_or_crime", "moral_failure", "own_wish"]
"""Why an honour is taken: what practice names (domain.md, part 0 and 2.1), and the person's own wish, which is ours.

A failed warning is not among them, as there are no warnings. It is a code and never a text: what there is to say of a person stands in a
document of the bureau, which names the proposal; the log names no document, so that after an erasure nothing in it leads to a person.
"""

StarRevocationDeclineReason = Literal["taken_back", "rejected"]


class StarPolicyAdopted(Event):
    """评星规则已采用: thresholds in minutes for one to five stars, from a day on (domain.md 1.8)."""

    TYPE: ClassVar[str] = "recognition.star_policy_adopted"

    version: str
    effective_from: date
    thresholds_minutes: tuple[int, ...]
    """Ascending; the n-th is what n stars need."""
    reapply_after_revocation: bool = False
    """Whether a star that was revoked may be applied for again. No rule says it (domain.md is silent), so no is ours: what two persons took
    because of a person, a machine does not give back by itself, unless the bureau has said beforehand that it may."""


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


class StarRevocationProposed(Event):
    """已提出撤销: somebody wants a star taken, and those above it, which rest on it; until another person approves it, all are held."""

    TYPE: ClassVar[str] = "recognition.star_revocation_proposed"

    volunteer_id: UUID
    unit_code: str
    """The volunteer's unit when the star was applied for."""
    proposal_id: UUID
    stars: int
    reason_code: StarRevocationReason
    proposed_by: UUID


class StarRevocationDeclined(Event):
    """撤销未批准: who proposed it took it back, or another person rejected it; it may be proposed again."""

    TYPE: ClassVar[str] = "recognition.star_revocation_declined"

    volunteer_id: UUID
    proposal_id: UUID
    stars: int
    reason_code: StarRevocationDeclineReason
    declined_by: UUID


class StarRevocationLapsed(Event):
    """撤销提出失效: the star went in another way, with its hours or with one below it, so there is nothing left to decide."""

    TYPE: ClassVar[str] = "recognition.star_revocation_lapsed"

    volunteer_id: UUID
    proposal_id: UUID
    stars: int


class StarRevoked(Event):
    """已撤销星级: a second person approved what was proposed; said of each star that goes, the highest first.

    It rests on no minutes, as a withdrawal does (`StarWithdrawn`): the hours stay, and the star is not to be had for them again, unless it
    was given up at the person's own wish or the policy in force says otherwise (`reapply_after_revocation`).
    """

    TYPE: ClassVar[str] = "recognition.star_revoked"

    volunteer_id: UUID
    unit_code: str
    """The volunteer's unit when the star was applied for."""
    proposal_id: UUID
    stars: int
    reason_code: StarRevocationReason
    approved_by: UUID


class PersonalDataPurged(Event):
    """个人信息已清除: this service has destroyed the key of a person whose erasure stands at `erased_position` of registration's log, and
    emptied what it showed and held back of them.
    """

    TYPE: ClassVar[str] = "recognition.personal_data_purged"

    volunteer_id: UUID
    erased_position: int


EVENTS: Final[tuple[type[Event], ...]] = (
    StarPolicyAdopted,
    StarGranted,
    StarDeclined,
    StarWithdrawn,
    StarRevocationProposed,
    StarRevocationDeclined,
    StarRevocationLapsed,
    StarRevoked,
    PersonalDataPurged,
)

UPCASTERS: Final[dict[tuple[str, int], Upcaster]] = {}
