"""HoursPolicy: the figures by which time is counted, from which day on. No clock, no IO."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final
from uuid import UUID, uuid5

from shared.contracts.event import Event, Refusal
from shared.contracts.hours import HoursPolicyAdopted

POLICY_STREAM_ID: Final = uuid5(UUID("5b0f6f4e-35f0-5c7d-8f0b-9a4f6f2f7c21"), "hours_policy")
"""All versions of one installation are one stream, so that two imports at once cannot both be the next one."""


@dataclass(frozen=True, slots=True)
class HoursPolicies:
    """The versions adopted so far, in the order of their days."""

    versions: tuple[HoursPolicyAdopted, ...] = ()


def adopt(policies: HoursPolicies, wanted: HoursPolicyAdopted, today: date) -> Sequence[Event] | Refusal:
    """Adopts one more version. A version is never edited, and never reaches back over days that were decided under another."""
    if wanted in policies.versions:
        return []
    if any(each.version == wanted.version for each in policies.versions):
        return Refusal("policy_version_exists", {"version": wanted.version})
    if policies.versions:
        last = policies.versions[-1]
        if wanted.effective_from <= max(last.effective_from, today):
            return Refusal("policy_not_later", {"last_effective_from": last.effective_from.isoformat(), "today": today.isoformat()})
    return [wanted]


def evolve(policies: HoursPolicies, event: HoursPolicyAdopted) -> HoursPolicies:
    """Folds the stream `hours_policy`."""
    return HoursPolicies((*policies.versions, event))
