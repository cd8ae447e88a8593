"""What hours says: who was there when, and which minutes count (domain.md 6.3).

Time served is integer minutes. A day is a civil day in Asia/Shanghai.
"""

from datetime import date, datetime
from typing import ClassVar, Final, Literal
from uuid import UUID

from shared.contracts.event import Event, Part, Upcaster

HourClass = Literal["timed", "backEntered", "transferred"]
"""时长类别: 系统计时, 补录, 转入 (domain.md 6.3)."""

LedgerAccount = Literal["served", "timed", "backEntered", "transferred", "over_cap"]
"""`served` is the world's side of each group (negative); the others are the volunteer's."""


class HoursPolicyAdopted(Event):
    """规则版本已采用: the values of domain.md 1.9 that hold from a day on; imported from a file, never edited."""

    TYPE: ClassVar[str] = "hours.hours_policy_adopted"

    version: str
    effective_from: date
    daily_cap_minutes: int
    pairs_per_activity_day_max: int
    check_in_early_minutes: int
    missed_check_out_after_minutes: int
    """How long after the scheduled end an open check-in becomes a missed check-out."""


class CheckedIn(Event):
    """已签到: recorded by a kiosk or leader, never by the person served for."""

    TYPE: ClassVar[str] = "hours.checked_in"

    volunteer_id: UUID
    activity_id: UUID
    unit_code: str
    pair: int
    """Which in/out pair of this person at this activity, from 1."""
    at: datetime
    counts_from: datetime
    """The later of check-in and scheduled start (domain.md 1.3): an early arrival is welcome and counts from the start."""
    slot_starts_at: datetime
    check_out_by: datetime
    """When an open pair becomes a missed check-out: the scheduled end and the policy's minutes after it."""
    recorder_id: UUID


class CheckedOut(Event):
    """已签退: closes the pair; it counts from `counts_from`, never later than `at`."""

    TYPE: ClassVar[str] = "hours.checked_out"

    volunteer_id: UUID
    activity_id: UUID
    unit_code: str
    pair: int
    counts_from: datetime
    at: datetime
    recorder_id: UUID
    checked_in_by: UUID
    """Who recorded the check-in. Neither recorder may approve the minutes."""
    slot_starts_at: datetime
    check_out_by: datetime


class CheckOutMissed(Event):
    """未签退: the pair was never closed; it counts nothing until a correction says what was served.

    So that there is something to correct, an entry of no minutes is proposed for the day that it counts from.
    """

    TYPE: ClassVar[str] = "hours.check_out_missed"

    volunteer_id: UUID
    activity_id: UUID
    unit_code: str
    pair: int
    checked_in_at: datetime
    counts_from: datetime
    checked_in_by: UUID
    slot_starts_at: datetime
    check_out_by: datetime


class ServiceTimeProposed(Event):
    """待认定: minutes of one civil day wait for confirmation by another person than the recorders; 0 after a missed check-out."""

    TYPE: ClassVar[str] = "hours.service_time_proposed"

    volunteer_id: UUID
    entry_id: UUID
    activity_id: UUID
    unit_code: str
    hour_class: HourClass
    served_on: date
    starts_at: datetime
    ends_at: datetime
    minutes: int
    recorder_id: UUID
    checked_in_by: UUID
    not_before: datetime
    """No correction may reach before the scheduled start ..."""
    not_after: datetime
    """... nor past the instant until which a check-out was accepted."""


class Posting(Part):
    """One line of a double-entry posting group: minutes on an account; a group sums to zero."""

    account: LedgerAccount
    minutes: int


class ServiceTimeConfirmed(Event):
    """已认定: the minutes count; what lies above the daily cap is posted to `over_cap`, shown and not lost."""

    TYPE: ClassVar[str] = "hours.service_time_confirmed"

    volunteer_id: UUID
    entry_id: UUID
    activity_id: UUID
    unit_code: str
    hour_class: HourClass
    served_on: date
    starts_at: datetime
    ends_at: datetime
    credited_minutes: int
    over_cap_minutes: int
    postings: tuple[Posting, ...]
    policy_version: str
    recorder_id: UUID
    approver_id: UUID


class ServiceTimeCorrected(Event):
    """已更正: an entry's interval was wrong. The postings are the difference; old and new stand side by side (domain.md 1.5)."""

    TYPE: ClassVar[str] = "hours.service_time_corrected"

    volunteer_id: UUID
    entry_id: UUID
    activity_id: UUID
    unit_code: str
    hour_class: HourClass
    served_on: date
    old_starts_at: datetime
    old_ends_at: datetime
    old_credited_minutes: int
    old_over_cap_minutes: int
    starts_at: datetime
    ends_at: datetime
    credited_minutes: int
    over_cap_minutes: int
    postings: tuple[Posting, ...]
    policy_version: str
    reason_code: str
    requester_id: UUID
    approver_id: UUID


class ServiceTimeReversed(Event):
    """已冲销: an entry counts nothing any more; the postings undo what it had."""

    TYPE: ClassVar[str] = "hours.service_time_reversed"

    volunteer_id: UUID
    entry_id: UUID
    activity_id: UUID
    unit_code: str
    hour_class: HourClass
    served_on: date
    credited_minutes: int
    over_cap_minutes: int
    postings: tuple[Posting, ...]
    reason_code: str
    requester_id: UUID
    approver_id: UUID


class PersonalDataPurged(Event):
    """个人信息已清除: this service has destroyed the key of a person whose erasure stands at `erased_position` of registration's log, and
    emptied what it showed and held back of them.
    """

    TYPE: ClassVar[str] = "hours.personal_data_purged"

    volunteer_id: UUID
    erased_position: int


EVENTS: Final[tuple[type[Event], ...]] = (
    HoursPolicyAdopted,
    CheckedIn,
    CheckedOut,
    CheckOutMissed,
    ServiceTimeProposed,
    ServiceTimeConfirmed,
    ServiceTimeCorrected,
    ServiceTimeReversed,
    PersonalDataPurged,
)

UPCASTERS: Final[dict[tuple[str, int], Upcaster]] = {}
