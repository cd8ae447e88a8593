"""Star: which stars a volunteer holds. Granted on application, withdrawn by itself when the hours are gone, revoked by two persons.

A star keeps the threshold it was granted under: a newer policy raises the bar for the next star and takes none away. No clock, no IO.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar, assert_never
from uuid import UUID

from shared.contracts.event import Refusal
from shared.contracts.recognition import (
    StarDeclined,
    StarGranted,
    StarPolicyAdopted,
    StarRevocationDeclined,
    StarRevocationDeclineReason,
    StarRevocationLapsed,
    StarRevocationProposed,
    StarRevocationReason,
    StarRevoked,
    StarWithdrawalReason,
    StarWithdrawn,
)
from shared.permissions import Actor, Resource, barred

StarEvent = (
    StarGranted | StarDeclined | StarWithdrawn | StarRevocationProposed | StarRevocationDeclined | StarRevocationLapsed | StarRevoked
)


K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Person:
    """Whom an application is for, as far as recognition has heard: `unknown` never registered, or has left."""

    standing: Literal["registered", "unknown", "erased"] = "unknown"
    unit_code: str | None = None


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A volunteer's confirmed minutes, what lies above the daily cap left out, and the last position of the hours log they rest on.

    `lowered_by` says what took minutes away last, if anything has.
    """

    minutes: int = 0
    position: int = 0
    lowered_by: StarWithdrawalReason | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """What a star that is held rests on."""

    threshold_minutes: int
    policy_version: str
    unit_code: str


@dataclass(frozen=True, slots=True)
class Proposal:
    """A revocation that waits for a second person."""

    stars: int
    reason_code: StarRevocationReason
    proposed_by: UUID


@dataclass(frozen=True, slots=True)
class Stars:
    """The stars that a volunteer holds, by number from 1; whose revocation is proposed; and which were revoked for a fault."""

    held: Mapping[int, Held] = field(default_factory=dict)
    proposals: Mapping[UUID, Proposal] = field(default_factory=dict)
    revoked: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class ApplyForStar:
    """申请评星, by the volunteer, or for them by their unit's or the bureau's admin (notice 七(二): for those without a phone).

    `wanted` None is the next star after those held.
    """

    volunteer_id: UUID
    wanted: int | None
    person: Person
    asker: Actor
    confirmed: Confirmed
    policy: StarPolicyAdopted | None


@dataclass(frozen=True, slots=True)
class ProposeRevocation:
    """提出撤销: that a star be taken, and those above it, which rest on it."""

    volunteer_id: UUID
    proposal_id: UUID
    stars: int
    reason_code: StarRevocationReason
    asker: Actor


@dataclass(frozen=True, slots=True)
class ApproveRevocation:
    """The second person: the star is taken. It is a matter of somebody's honour, so it is neither who proposed it nor whose star it is."""

    volunteer_id: UUID
    proposal_id: UUID
    asker: Actor


@dataclass(frozen=True, slots=True)
class DeclineRevocation:
    """The star stays. Who proposed it takes it back; anybody else rejects it, but for whose star it is."""

    volunteer_id: UUID
    proposal_id: UUID
    asker: Actor


RevocationCommand = ProposeRevocation | ApproveRevocation | DeclineRevocation


def apply_for_star(stars: Stars, command: ApplyForStar) -> Sequence[StarEvent] | Refusal:
    """Grants or declines the next star under the policy in force; the ladder is climbed one star at a time.

    Who was erased keeps the stars held, as nobody in particular, and is given none: an honour is somebody's. An application that was
    decided before recognition heard of the erasure stands.
    """
    person, policy, confirmed = command.person, command.policy, command.confirmed
    refused = barred(command.asker, Resource(unit=person.unit_code, subject=command.volunteer_id))
    if refused is not None:
        return refused
    if person.standing != "registered":
        return Refusal("person_erased" if person.standing == "erased" else "not_a_volunteer")
    if policy is None:
        return Refusal("no_star_policy")
    ladder = range(1, len(policy.thresholds_minutes) + 1)
    number = next((each for each in ladder if each not in stars.held), None)
    if command.wanted in stars.held or number is None:
        return Refusal("star_already_held", {"held": len(stars.held), "highest": len(ladder)})
    if command.wanted not in {None, number}:
        return Refusal("star_out_of_order", {"next": number})
    if number in stars.revoked and not policy.reapply_after_revocation:
        return Refusal("star_revoked", {"stars": number})
    threshold = policy.thresholds_minutes[number - 1]
    said = {
        "volunteer_id": command.volunteer_id,
        "unit_code": person.unit_code,
        "stars": number,
        "confirmed_minutes": confirmed.minutes,
        "threshold_minutes": threshold,
        "policy_version": policy.version,
        "hours_position": confirmed.position,
    }
    if confirmed.minutes < threshold:
        return [StarDeclined.model_validate(said | {"reason": "too_few_hours"})]
    return [StarGranted.model_validate(said)]


def reassess(stars: Stars, volunteer_id: UUID, confirmed: Confirmed) -> Sequence[StarEvent]:
    """Withdraws every star whose threshold is no longer met, the highest first. It asks what is due now, not what has happened.

    Minutes fall only by a correction or a reversal; what was last to take some away is the reason.
    """
    gone = [
        StarWithdrawn(
            volunteer_id=volunteer_id,
            unit_code=held.unit_code,
            stars=number,
            reason=confirmed.lowered_by or "hours_corrected",
            confirmed_minutes=confirmed.minutes,
            threshold_minutes=held.threshold_minutes,
            policy_version=held.policy_version,
            hours_position=confirmed.position,
        )
        for number, held in sorted(stars.held.items(), reverse=True)
        if confirmed.minutes < held.threshold_minutes
    ]
    return [*gone, *_lapsed(stars, volunteer_id, [each.stars for each in gone])]


def decide_revocation(stars: Stars, command: RevocationCommand) -> Sequence[StarEvent] | Refusal:
    """A proposal is answered once: what was approved, declined or has lapsed is not known any more."""
    if isinstance(command, ProposeRevocation):
        return _propose(stars, command)
    who, proposal_id, asker = command.volunteer_id, command.proposal_id, command.asker
    proposal = stars.proposals.get(proposal_id)
    if proposal is None:
        return Refusal("revocation_not_proposed")
    matter = Resource(unit=stars.held[proposal.stars].unit_code, subject=who, requesters=(proposal.proposed_by,))
    refused = barred(asker, matter, "approver")
    match command:
        case DeclineRevocation() if asker.person_id == proposal.proposed_by:
            return [_declined(command, proposal, "taken_back")]
        case _ if refused is not None:
            return refused
        case DeclineRevocation():
            return [_declined(command, proposal, "rejected")]
        case ApproveRevocation():
            gone = sorted((number for number in stars.held if number >= proposal.stars), reverse=True)
            revoked = [
                StarRevoked(
                    volunteer_id=who,
                    unit_code=stars.held[number].unit_code,
                    proposal_id=proposal_id,
                    stars=number,
                    reason_code=proposal.reason_code,
                    approved_by=asker.person_id,
                )
                for number in gone
            ]
            return [*revoked, *_lapsed(stars, who, gone, but=proposal_id)]
        case _:
            assert_never(command)


def _propose(stars: Stars, command: ProposeRevocation) -> Sequence[StarEvent] | Refusal:
    held = stars.held.get(command.stars)
    matter = Resource(unit=None if held is None else held.unit_code, subject=command.volunteer_id)
    refused = barred(command.asker, matter, "proposer")
    if refused is not None:
        return refused
    if held is None:
        return Refusal("star_not_held")
    waiting = next((each_id for each_id, each in stars.proposals.items() if each.stars == command.stars), None)
    if waiting is not None:
        return Refusal("revocation_already_proposed", {"proposal_id": str(waiting)})
    return [
        StarRevocationProposed(
            volunteer_id=command.volunteer_id,
            unit_code=held.unit_code,
            proposal_id=command.proposal_id,
            stars=command.stars,
            reason_code=command.reason_code,
            proposed_by=command.asker.person_id,
        )
    ]


def _declined(command: DeclineRevocation, proposal: Proposal, reason: StarRevocationDeclineReason) -> StarRevocationDeclined:
    return StarRevocationDeclined(
        volunteer_id=command.volunteer_id,
        proposal_id=command.proposal_id,
        stars=proposal.stars,
        reason_code=reason,
        declined_by=command.asker.person_id,
    )


def _lapsed(stars: Stars, volunteer_id: UUID, gone: Collection[int], but: UUID | None = None) -> Sequence[StarRevocationLapsed]:
    """What else was proposed about the stars that go."""
    return [
        StarRevocationLapsed(volunteer_id=volunteer_id, proposal_id=proposal_id, stars=proposal.stars)
        for proposal_id, proposal in stars.proposals.items()
        if proposal.stars in gone and proposal_id != but
    ]


def evolve(stars: Stars, event: StarEvent) -> Stars:
    """Folds the stream `star`."""
    match event:
        case StarGranted():
            held = Held(event.threshold_minutes, event.policy_version, event.unit_code)
            return replace(stars, held={**stars.held, event.stars: held}, revoked=stars.revoked - {event.stars})
        case StarWithdrawn(stars=number):
            return replace(stars, held=_without(stars.held, number))
        case StarRevocationProposed(proposal_id=proposal_id):
            proposal = Proposal(event.stars, event.reason_code, event.proposed_by)
            return replace(stars, proposals={**stars.proposals, proposal_id: proposal})
        case StarRevocationDeclined(proposal_id=proposal_id) | StarRevocationLapsed(proposal_id=proposal_id):
            return replace(stars, proposals=_without(stars.proposals, proposal_id))
        case StarRevoked(proposal_id=proposal_id, stars=number):
            # Who gave a star up is barred from nothing.
            barred_now = frozenset[int]() if event.reason_code == "own_wish" else frozenset({number})
            return Stars(_without(stars.held, number), _without(stars.proposals, proposal_id), stars.revoked | barred_now)
        case StarDeclined():
            return stars  # An answer, not a state: the next application is decided on its own.
        case _:
            assert_never(event)


def _without(known: Mapping[K, V], key: K) -> Mapping[K, V]:
    return {each: value for each, value in known.items() if each != key}
