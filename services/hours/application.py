"""What hours can be asked to do: one table of use cases, from which routes, rights and documents follow."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Annotated, Any, Final, Literal, Protocol
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, Field

from services.hours.domain import account, attendance, policy
from services.hours.domain.account import Account
from services.hours.domain.attendance import Activity, Attendance, Standing
from services.hours.domain.day import civil_day, day_of
from services.hours.domain.policy import HoursPolicies
from shared.application import AcknowledgeErasure, Aggregate, Asked, Claims, Nothing, Plan, UseCase, saying_purged
from shared.clock import CIVIL_ZONE, civil_date
from shared.contracts.event import Refusal, RefusalText
from shared.contracts.hours import HoursPolicyAdopted, PersonalDataPurged
from shared.envelope import Stream
from shared.files import read_file
from shared.permissions import Role

HOURS_POLICY: Final = Aggregate("hours_policy", HoursPolicies(), policy.evolve)
ATTENDANCE: Final = Aggregate("attendance", Attendance(), attendance.evolve)
ACCOUNT: Final = Aggregate("account", Account(), account.evolve)
"""Whether a person's data are gone."""


@dataclass(frozen=True, slots=True)
class Door:
    """What is known at the door of one activity about one person. `is_parked`: events of either are held back, so nobody knows."""

    activity: Activity | None
    standing: Standing
    is_enrolled: bool
    policy: HoursPolicyAdopted | None
    is_parked: bool = False


class LookUps(Protocol):
    """What must be known before deciding; `services.hours.inbox.LookUps` reads it."""

    async def at_the_door(self, activity_id: UUID, volunteer_id: UUID, day: date) -> Door:
        """Activity, enrolment, and the policy in force on `day`."""

    async def policy_on(self, day: date) -> HoursPolicyAdopted | None:
        """The policy version in force on `day`."""


Instant = Annotated[
    AwareDatetime,
    Field(ge=datetime(2000, 1, 1, tzinfo=UTC), lt=datetime(2200, 1, 1, tzinfo=UTC)),
    AfterValidator(lambda instant: instant.astimezone(UTC)),
]
"""An instant with its offset; kept in UTC, so that equal instants have equal bytes."""

ServedOn = Annotated[date, Field(ge=date(2000, 1, 1), le=date(2199, 12, 31))]
"""The civil day of an entry, in Asia/Shanghai. Its year names the account."""

CorrectionReason = Literal["check_out_missed", "wrong_time", "objection_upheld"]
ReversalReason = Literal["false_record", "duplicate", "turned_down", "objection_upheld"]


class AdoptHoursPolicy(BaseModel):
    """采用时长规则: the text of a policy file (YAML), such as deploy/sample/hours-policy.yaml."""

    file: Annotated[str, Field(min_length=1, max_length=20_000)]


class MissCheckOut(BaseModel):
    """未签退: which pair, and when it was due."""

    pair: int
    due_at: Instant


class ProposeServiceTime(BaseModel):
    """待认定: what one pair served on one civil day."""

    activity_id: UUID
    unit_code: str
    served_on: date
    starts_at: Instant
    ends_at: Instant
    recorder_id: UUID
    checked_in_by: UUID
    not_before: Instant
    not_after: Instant


class ConfirmServiceTime(BaseModel):
    """确认时长: the day that the entry names."""

    served_on: ServedOn


class CorrectServiceTime(BaseModel):
    """更正: what was really served, on the same day. `requester_id` asked for it: the volunteer or a recorder, and not who approves."""

    served_on: ServedOn
    starts_at: Instant
    ends_at: Instant
    reason: CorrectionReason
    requester_id: UUID


class ReverseServiceTime(BaseModel):
    """冲销: the entry is void. `requester_id` is who asked for it: the volunteer or a recorder, and not who approves."""

    served_on: ServedOn
    reason: ReversalReason
    requester_id: UUID


class _PolicyFile(BaseModel):
    """What a policy file says (domain.md 1.9 has the usual figures)."""

    version: Annotated[str, Field(min_length=1, max_length=60)]
    effective_from: ServedOn
    daily_cap_minutes: Annotated[int, Field(ge=1, le=24 * 60)]
    pairs_per_activity_day_max: Annotated[int, Field(ge=1, le=20)]
    check_in_early_minutes: Annotated[int, Field(ge=0, le=24 * 60)]
    missed_check_out_after_minutes: Annotated[int, Field(ge=1, le=24 * 60)]


def read_policy(text: str) -> HoursPolicyAdopted | Refusal:
    """The policy that a file states, or a refusal that names every line that is wrong."""
    found = read_file(text, _PolicyFile, "policy_file_wrong")
    return found if isinstance(found, Refusal) else HoursPolicyAdopted.model_validate(found.model_dump())


async def _adopt_hours_policy(asked: Asked[AdoptHoursPolicy], _lookups: LookUps) -> Plan[HoursPolicies]:
    wanted, today = read_policy(asked.body.file), civil_date(asked.now)
    stream = Stream("hours_policy", policy.POLICY_STREAM_ID)
    if isinstance(wanted, Refusal):
        return Plan(stream, HOURS_POLICY, lambda _: wanted)
    return Plan(stream, HOURS_POLICY, lambda policies: policy.adopt(policies, wanted, today))


async def _check_in(asked: Asked[Nothing], lookups: LookUps) -> Plan[Attendance]:
    activity_id, volunteer_id = asked.ids["activity_id"], asked.ids["volunteer_id"]
    stream = _attendance(activity_id, volunteer_id)
    today = day_of(asked.now, CIVIL_ZONE)
    door = await lookups.at_the_door(activity_id, volunteer_id, today.on)
    if door.is_parked and door.standing != "erased":  # That is known whatever is parked.
        return Plan(stream, ATTENDANCE, lambda _: Refusal("registration_parked"), keep_answer=False)
    command = attendance.CheckIn(
        volunteer_id=volunteer_id,
        activity_id=activity_id,
        activity=door.activity,
        standing=door.standing,
        is_enrolled=door.is_enrolled,
        recorder=asked.actor,
        policy=door.policy,
        now=asked.now,
        today=today,
    )
    return Plan(stream, ATTENDANCE, lambda state: attendance.check_in(state, command))


async def _check_out(asked: Asked[Nothing], _lookups: LookUps) -> Plan[Attendance]:
    activity_id, volunteer_id = asked.ids["activity_id"], asked.ids["volunteer_id"]
    command = attendance.CheckOut(volunteer_id, activity_id, asked.actor, asked.now)
    return Plan(_attendance(activity_id, volunteer_id), ATTENDANCE, lambda state: attendance.check_out(state, command))


async def _miss_check_out(asked: Asked[MissCheckOut], _lookups: LookUps) -> Plan[Attendance]:
    activity_id, volunteer_id = asked.ids["activity_id"], asked.ids["volunteer_id"]
    command = attendance.MissCheckOut(volunteer_id, activity_id, asked.body.pair, asked.now)
    return Plan(
        _attendance(activity_id, volunteer_id),
        ATTENDANCE,
        lambda state: attendance.miss_check_out(state, command),
        keep_answer=asked.now >= asked.body.due_at,  # "Not due" is never kept as an answer.
    )


async def _propose_service_time(asked: Asked[ProposeServiceTime], _lookups: LookUps) -> Plan[Account]:
    volunteer_id, body = asked.ids["volunteer_id"], asked.body
    command = account.Propose(
        volunteer_id=volunteer_id,
        entry_id=asked.ids["entry_id"],
        activity_id=body.activity_id,
        unit_code=body.unit_code,
        served_on=body.served_on,
        starts_at=body.starts_at,
        ends_at=body.ends_at,
        recorder_id=body.recorder_id,
        checked_in_by=body.checked_in_by,
        not_before=body.not_before,
        not_after=body.not_after,
    )
    return Plan(_account(volunteer_id, body.served_on), ACCOUNT, lambda state: account.propose(state, command))


async def _confirm_service_time(asked: Asked[ConfirmServiceTime], lookups: LookUps) -> Plan[Account]:
    volunteer_id, served_on = asked.ids["volunteer_id"], asked.body.served_on
    command = account.Confirm(
        volunteer_id=volunteer_id,
        entry_id=asked.ids["entry_id"],
        served_on=served_on,
        approver=asked.actor,
        policy=await lookups.policy_on(served_on),
    )
    return Plan(_account(volunteer_id, served_on), ACCOUNT, lambda state: account.confirm(state, command))


async def _correct_service_time(asked: Asked[CorrectServiceTime], lookups: LookUps) -> Plan[Account]:
    volunteer_id, body = asked.ids["volunteer_id"], asked.body
    command = account.Correct(
        volunteer_id=volunteer_id,
        entry_id=asked.ids["entry_id"],
        day=civil_day(body.served_on, CIVIL_ZONE),
        starts_at=body.starts_at,
        ends_at=body.ends_at,
        reason_code=body.reason,
        requester_id=body.requester_id,
        approver=asked.actor,
        policy=await lookups.policy_on(body.served_on),
        now=asked.now,
    )
    return Plan(_account(volunteer_id, body.served_on), ACCOUNT, lambda state: account.correct(state, command))


async def _reverse_service_time(asked: Asked[ReverseServiceTime], lookups: LookUps) -> Plan[Account]:
    volunteer_id, body = asked.ids["volunteer_id"], asked.body
    command = account.Reverse(
        volunteer_id=volunteer_id,
        entry_id=asked.ids["entry_id"],
        served_on=body.served_on,
        reason_code=body.reason,
        requester_id=body.requester_id,
        approver=asked.actor,
        policy=await lookups.policy_on(body.served_on),
    )
    return Plan(_account(volunteer_id, body.served_on), ACCOUNT, lambda state: account.reverse(state, command))


def _attendance(activity_id: UUID, volunteer_id: UUID) -> Stream:
    return Stream("attendance", attendance.attendance_id(activity_id, volunteer_id))


def _account(volunteer_id: UUID, served_on: date) -> Stream:
    return Stream("account", account.account_id(volunteer_id, served_on.year))


_RECORDERS: Final = frozenset({Role.KIOSK, Role.ACTIVITY_LEADER, Role.UNIT_ADMIN})
_APPROVERS: Final = frozenset({Role.UNIT_ADMIN, Role.BUREAU_ADMIN})
_ITSELF: Final = frozenset({Role.SYSTEM})

ADOPT_HOURS_POLICY: Final[UseCase[AdoptHoursPolicy, LookUps]] = UseCase(
    name="adopt_hours_policy",
    path="/hours-policies",
    body=AdoptHoursPolicy,
    roles=frozenset({Role.BUREAU_ADMIN}),
    plan=_adopt_hours_policy,
    refusals=("policy_file_wrong", "policy_version_exists", "policy_not_later"),
    title_zh="采用时长规则",
    title_en="Adopt an hours policy",
)

CHECK_IN: Final[UseCase[Nothing, LookUps]] = UseCase(
    name="check_in",
    path="/activities/{activity_id}/attendance/{volunteer_id}/check-in",
    body=Nothing,
    roles=_RECORDERS,
    plan=_check_in,
    refusals=(
        "activity_unknown",
        "recorder_is_subject",
        "wrong_unit",
        "volunteer_unknown",
        "person_erased",
        "activity_cancelled",
        "activity_over",
        "not_enrolled",
        "already_checked_in",
        "no_hours_policy",
        "too_early",
        "too_many_pairs",
        "registration_parked",
    ),
    title_zh="签到",
    title_en="Check in",
)

CHECK_OUT: Final[UseCase[Nothing, LookUps]] = UseCase(
    name="check_out",
    path="/activities/{activity_id}/attendance/{volunteer_id}/check-out",
    body=Nothing,
    roles=_RECORDERS,
    plan=_check_out,
    refusals=("not_checked_in", "recorder_is_subject", "wrong_unit", "ends_before_start", "check_out_missed"),
    title_zh="签退",
    title_en="Check out",
)

MISS_CHECK_OUT: Final[UseCase[MissCheckOut, LookUps]] = UseCase(
    name="miss_check_out",
    path=None,
    body=MissCheckOut,
    roles=_ITSELF,
    plan=_miss_check_out,
    refusals=(),
    title_zh="未签退",
    title_en="Give up an open check-in",
)

PROPOSE_SERVICE_TIME: Final[UseCase[ProposeServiceTime, LookUps]] = UseCase(
    name="propose_service_time",
    path=None,
    body=ProposeServiceTime,
    roles=_ITSELF,
    plan=_propose_service_time,
    refusals=(),
    title_zh="提请认定时长",
    title_en="Propose service time",
)

CONFIRM_SERVICE_TIME: Final[UseCase[ConfirmServiceTime, LookUps]] = UseCase(
    name="confirm_service_time",
    path="/accounts/{volunteer_id}/entries/{entry_id}/confirm",
    body=ConfirmServiceTime,
    roles=_APPROVERS,
    plan=_confirm_service_time,
    refusals=(
        "entry_unknown",
        "wrong_unit",
        "approver_is_subject",
        "approver_is_recorder",
        "entry_reversed",
        "already_confirmed",
        "nothing_to_confirm",
        "no_hours_policy",
        "overlapping_service",
    ),
    title_zh="确认时长",
    title_en="Confirm service time",
)

CORRECT_SERVICE_TIME: Final[UseCase[CorrectServiceTime, LookUps]] = UseCase(
    name="correct_service_time",
    path="/accounts/{volunteer_id}/entries/{entry_id}/correct",
    body=CorrectServiceTime,
    roles=_APPROVERS,
    plan=_correct_service_time,
    refusals=(
        "entry_unknown",
        "wrong_unit",
        "approver_is_subject",
        "approver_is_recorder",
        "approver_is_requester",
        "requester_unknown",
        "entry_reversed",
        "ends_before_start",
        "interval_outside_day",
        "ends_in_future",
        "interval_outside_activity",
        "overlapping_service",
        "no_hours_policy",
    ),
    title_zh="更正时长",
    title_en="Correct service time",
)

REVERSE_SERVICE_TIME: Final[UseCase[ReverseServiceTime, LookUps]] = UseCase(
    name="reverse_service_time",
    path="/accounts/{volunteer_id}/entries/{entry_id}/reverse",
    body=ReverseServiceTime,
    roles=_APPROVERS,
    plan=_reverse_service_time,
    refusals=(
        "entry_unknown",
        "wrong_unit",
        "approver_is_subject",
        "approver_is_recorder",
        "approver_is_requester",
        "requester_unknown",
        "entry_reversed",
        "no_hours_policy",
    ),
    title_zh="冲销时长",
    title_en="Reverse service time",
)


ACKNOWLEDGE_ERASURE: Final[UseCase[AcknowledgeErasure, LookUps]] = saying_purged(
    "hours_erasure", lambda who, position: PersonalDataPurged(volunteer_id=who, erased_position=position)
)

USE_CASES: Final[tuple[UseCase[Any, LookUps], ...]] = (
    ADOPT_HOURS_POLICY,
    CHECK_IN,
    CHECK_OUT,
    MISS_CHECK_OUT,
    PROPOSE_SERVICE_TIME,
    CONFIRM_SERVICE_TIME,
    CORRECT_SERVICE_TIME,
    REVERSE_SERVICE_TIME,
    ACKNOWLEDGE_ERASURE,
)

REFUSALS: Final[Mapping[str, RefusalText]] = {
    "policy_file_wrong": RefusalText(422, "规则文件有误, problems 逐行说明", "The policy file is wrong; `problems` names the lines"),
    "policy_version_exists": RefusalText(
        409, "该版本已采用, 规则不得更改", "This version has been adopted with other values; none is ever edited"
    ),
    "policy_not_later": RefusalText(
        409, "新版本须晚于已有版本及今日生效", "A new version must take effect after those adopted, and after today"
    ),
    "no_hours_policy": RefusalText(409, "当日尚无时长规则", "No hours policy is in force on that day"),
    "activity_unknown": RefusalText(404, "没有此活动", "There is no such activity"),
    "volunteer_unknown": RefusalText(404, "没有此志愿者", "There is no such volunteer"),
    "person_erased": RefusalText(410, "该人的个人信息已删除", "The person's data was erased"),
    "wrong_unit": RefusalText(403, "该活动不属于本单位", "The activity is another unit's"),
    "recorder_is_subject": RefusalText(403, "不得为本人签到签退", "Nobody records their own attendance"),
    "activity_cancelled": RefusalText(409, "活动已取消", "The activity was cancelled"),
    "activity_over": RefusalText(409, "活动已结束", "The activity is over"),
    "not_enrolled": RefusalText(409, "未被录用, 不能签到", "The volunteer has no seat at this activity"),
    "too_early": RefusalText(409, "尚未到签到时间", "The door is not open yet"),
    "already_checked_in": RefusalText(409, "已签到, 尚未签退", "The volunteer is checked in already"),
    "too_many_pairs": RefusalText(409, "当日签到次数已达上限", "No more check-ins at this activity today"),
    "registration_parked": RefusalText(
        409, "该活动或志愿者的资料待人工处理", "Events of this activity or volunteer are parked; nobody can be checked in now"
    ),
    "not_checked_in": RefusalText(409, "没有待签退的签到", "There is no check-in to close"),
    "ends_before_start": RefusalText(
        422, "结束须晚于开始; 更正的时段至少一分钟", "The end must be after the start; a corrected interval is a minute at least"
    ),
    "check_out_missed": RefusalText(409, "已过签退期限, 须更正", "It is too late to check out; a correction must say what was served"),
    "entry_unknown": RefusalText(404, "该日没有此条时长", "There is no such entry on that day"),
    "entry_reversed": RefusalText(409, "该条时长已冲销", "The entry was reversed"),
    "approver_is_subject": RefusalText(403, "不得审核本人的时长", "Nobody approves their own hours"),
    "approver_is_recorder": RefusalText(403, "签到签退的记录人不得审核", "Who recorded the attendance may not approve it"),
    "approver_is_requester": RefusalText(403, "提出人不得自行审核", "Who asked for it may not approve it"),
    "requester_unknown": RefusalText(
        422, "提出人须为志愿者本人或签到签退的记录人", "Only the volunteer, or who recorded the attendance, can have asked for it"
    ),
    "already_confirmed": RefusalText(409, "该条时长已认定", "The entry counts already"),
    "nothing_to_confirm": RefusalText(409, "未签退, 须先更正实际时间", "The check-out was missed: a correction must say what was served"),
    "overlapping_service": RefusalText(409, "与已认定的时段重叠", "It overlaps time that counts already"),
    "interval_outside_day": RefusalText(
        422, "更正不得跨出当日", "A correction stays within the entry's civil day; reverse it and enter the other day instead"
    ),
    "ends_in_future": RefusalText(422, "结束时间晚于现在", "The end lies in the future"),
    "interval_outside_activity": RefusalText(422, "超出活动时段", "The interval reaches outside the activity's time slot"),
}

CLAIMS: Final = Claims(of=lambda _event, _blind: ((), ()), refusals={})
"""Nothing of hours is unique across streams."""

IMPORTS: Final = frozenset({ADOPT_HOURS_POLICY.name})
