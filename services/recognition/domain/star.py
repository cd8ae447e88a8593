"""Star: which stars a volunteer holds. Granted on application, withdrawn by itself when the hours are gone. No clock, no IO.

A star keeps the threshold it was granted under: a newer policy raises the bar for the next star and takes none away.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import assert_never
from uuid import UUID

from shared.contracts.event import Event, Refusal
from shared.contracts.recognition import StarDeclined, StarGranted, StarPolicyAdopted, StarWithdrawalReason, StarWithdrawn
from shared.permissions import Actor, Resource, barred

StarEvent = StarGranted | StarDeclined | StarWithdrawn


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
class Stars:
    """The stars that a volunteer holds, by number from 1."""

    held: Mapping[int, Held] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ApplyForStar:
    """申请评星, by the volunteer, or for them by their unit's or the bureau's admin (notice 七(二): for those without a phone).

    `wanted` None is the next star after those held. `unit_code` None: nobody of this id is a volunteer.
    """

    volunteer_id: UUID
    wanted: int | None
    unit_code: str | None
    asker: Actor
    confirmed: Confirmed
    policy: StarPolicyAdopted | None


def apply_for_star(stars: Stars, command: ApplyForStar) -> Sequence[Event] | Refusal:
    """Grants or declines the next star under the policy in force; the ladder is climbed one star at a time."""
    policy, confirmed = command.policy, command.confirmed
    refused = barred(command.asker, Resource(unit=command.unit_code, subject=command.volunteer_id))
    if refused is not None:
        return refused
    if command.unit_code is None:
        return Refusal("not_a_volunteer")
    if policy is None:
        return Refusal("no_star_policy")
    ladder = range(1, len(policy.thresholds_minutes) + 1)
    number = next((each for each in ladder if each not in stars.held), None)
    if command.wanted in stars.held or number is None:
        return Refusal("star_already_held", {"held": len(stars.held), "highest": len(ladder)})
    if command.wanted not in {None, number}:
        return Refusal("star_out_of_order", {"next": number})
    threshold = policy.thresholds_minutes[number - 1]
    said = {
        "volunteer_id": command.volunteer_id,
        "unit_code": command.unit_code,
        "stars": number,
        "confirmed_minutes": confirmed.minutes,
        "threshold_minutes": threshold,
        "policy_version": policy.version,
        "hours_position": confirmed.position,
    }
    if confirmed.minutes < threshold:
        return [StarDeclined.model_validate(said | {"reason": "too_few_hours"})]
    return [StarGranted.model_validate(said)]


def reassess(stars: Stars, volunteer_id: UUID, confirmed: Confirmed) -> Sequence[Event]:
    """Withdraws every star whose threshold is no longer met, the highest first. It asks what is due now, not what has happened.

    Minutes fall only by a correction or a reversal; what was last to take some away is the reason.
    """
    return [
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


def evolve(stars: Stars, event: StarEvent) -> Stars:
    """Folds the stream `star`."""
    match event:
        case StarGranted():
            held = Held(event.threshold_minutes, event.policy_version, event.unit_code)
            return replace(stars, held={**stars.held, event.stars: held})
        case StarWithdrawn(stars=number):
            return replace(stars, held={each: held for each, held in stars.held.items() if each != number})
        case StarDeclined():
            return stars  # An answer, not a state: the next application is decided on its own.
        case _:
            assert_never(event)
