"""StarPolicy: how many confirmed minutes each star needs, from which day on. No clock, no IO."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final
from uuid import UUID, uuid5

from shared.contracts.event import Event, Refusal
from shared.contracts.recognition import StarPolicyAdopted

POLICY_STREAM_ID: Final = uuid5(UUID("8c1d9a52-6d4e-5c0f-9f6a-2f1c7b0e4d11"), "star_policy")
"""All versions of one installation are one stream, so that two imports at once cannot both be the next one."""

STARS_MAX: Final = 10
"""A ladder has up to this many stars; the national one has five (domain.md 1.8)."""


@dataclass(frozen=True, slots=True)
class StarPolicies:
    """The versions adopted so far, in the order of their days."""

    versions: tuple[StarPolicyAdopted, ...] = ()


def adopt(policies: StarPolicies, wanted: StarPolicyAdopted, today: date) -> Sequence[Event] | Refusal:
    """Adopts one more version. A version is never edited, and never reaches back over days that were decided under another."""
    if wanted in policies.versions:
        return []
    thresholds = wanted.thresholds_minutes
    if not 1 <= len(thresholds) <= STARS_MAX or not all(low < high for low, high in zip((0, *thresholds), thresholds, strict=False)):
        return Refusal("thresholds_not_ascending", {"stars": len(thresholds)})
    if any(each.version == wanted.version for each in policies.versions):
        return Refusal("policy_version_exists", {"version": wanted.version})
    if policies.versions:
        last = policies.versions[-1]
        if wanted.effective_from <= max(last.effective_from, today):
            return Refusal("policy_not_later", {"last_effective_from": last.effective_from.isoformat(), "today": today.isoformat()})
    return [wanted]


def in_force(policies: Sequence[StarPolicyAdopted], day: date) -> StarPolicyAdopted | None:
    """The version that holds on `day`: the last one that has begun."""
    begun = [each for each in policies if each.effective_from <= day]
    return max(begun, key=lambda each: each.effective_from, default=None)


def evolve(policies: StarPolicies, event: StarPolicyAdopted) -> StarPolicies:
    """Folds the stream `star_policy`."""
    return StarPolicies((*policies.versions, event))
