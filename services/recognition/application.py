"""What recognition can be asked to do: one table of use cases, from which routes, rights and documents follow."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Annotated, Any, Final, Protocol
from uuid import UUID, uuid5

from pydantic import BaseModel, Field

from services.recognition.domain import policy, star
from services.recognition.domain.policy import StarPolicies
from services.recognition.domain.star import Confirmed, Person, Stars
from shared.application import AcknowledgeErasure, Aggregate, Asked, Claims, Nothing, Plan, UseCase, saying_purged
from shared.clock import civil_date
from shared.contracts.event import Refusal, RefusalText
from shared.contracts.recognition import PersonalDataPurged, StarPolicyAdopted, StarRevocationReason
from shared.envelope import Stream
from shared.errors import BehindParkedError
from shared.files import read_file
from shared.permissions import Role

STAR: Final = Aggregate("star", Stars(), star.evolve)
STAR_POLICY: Final = Aggregate("star_policy", StarPolicies(), policy.evolve)
"""Whether a person's data are gone."""


class LookUps(Protocol):
    """What must be known before deciding; `services.recognition.inbox.LookUps` reads it."""

    async def is_parked(self, volunteer_id: UUID) -> bool:
        """Whether facts of the person's registration, or of the policy, are held back."""

    async def person(self, volunteer_id: UUID) -> Person:
        """Whether somebody is a volunteer, of which unit, or was erased; that is known also while their facts are parked."""

    async def confirmed(self, volunteer_id: UUID) -> Confirmed | None:
        """The minutes that count; None while the person's hours are parked and nobody knows."""

    async def policies(self) -> Sequence[StarPolicyAdopted]:
        """Every version of the star policy."""


class AdoptStarPolicy(BaseModel):
    """采用评星规则: the text of a policy file (YAML), such as deploy/sample/star-policy.yaml."""

    file: Annotated[str, Field(min_length=1, max_length=20_000)]


class ApplyForStar(BaseModel):
    """申请评星: which star; left out, the next one after those held."""

    stars: Annotated[int, Field(ge=1, le=policy.STARS_MAX)] | None = None


class ProposeRevocation(BaseModel):
    """提出撤销: which star is to be taken, with those above it, and why; another person decides."""

    stars: Annotated[int, Field(ge=1, le=policy.STARS_MAX)]
    reason_code: StarRevocationReason


class Reassess(BaseModel):
    """重核: nothing to say, the state decides."""


class _PolicyFile(BaseModel):
    """What a policy file says. Hours in the file, as people speak of them; minutes everywhere else."""

    version: Annotated[str, Field(min_length=1, max_length=60)]
    effective_from: date
    thresholds_hours: Annotated[list[Annotated[int, Field(ge=1, le=100_000)]], Field(min_length=1, max_length=policy.STARS_MAX)]
    reapply_after_revocation: bool = False


def read_policy(text: str) -> StarPolicyAdopted | Refusal:
    """The policy that a file states, or a refusal that names every line that is wrong."""
    said = read_file(text, _PolicyFile, "policy_file_wrong")
    if isinstance(said, Refusal):
        return said
    minutes = tuple(hours * 60 for hours in said.thresholds_hours)
    return StarPolicyAdopted(
        version=said.version,
        effective_from=said.effective_from,
        thresholds_minutes=minutes,
        reapply_after_revocation=said.reapply_after_revocation,
    )


async def _adopt_star_policy(asked: Asked[AdoptStarPolicy], _lookups: LookUps) -> Plan[StarPolicies]:
    wanted, today = read_policy(asked.body.file), civil_date(asked.now)
    stream = Stream("star_policy", policy.POLICY_STREAM_ID)
    if isinstance(wanted, Refusal):
        return Plan(stream, STAR_POLICY, lambda _: wanted)
    return Plan(stream, STAR_POLICY, lambda policies: policy.adopt(policies, wanted, today))


async def _apply_for_star(asked: Asked[ApplyForStar], lookups: LookUps) -> Plan[Stars]:
    volunteer_id = asked.ids["volunteer_id"]
    person = await lookups.person(volunteer_id)
    stream, confirmed = Stream("star", volunteer_id), await lookups.confirmed(volunteer_id)
    if person.standing != "erased" and (confirmed is None or await lookups.is_parked(volunteer_id)):
        return Plan(stream, STAR, lambda _: Refusal("facts_parked"), keep_answer=False)
    command = star.ApplyForStar(
        volunteer_id=volunteer_id,
        wanted=asked.body.stars,
        person=person,
        asker=asked.actor,
        confirmed=confirmed or Confirmed(),
        policy=policy.in_force(await lookups.policies(), civil_date(asked.now)),
    )
    return Plan(stream, STAR, lambda stars: star.apply_for_star(stars, command))


def _on_revocation(command: star.RevocationCommand) -> Plan[Stars]:
    """All that must be known stands in the person's stream: who holds what, and what was proposed."""
    return Plan(Stream("star", command.volunteer_id), STAR, lambda stars: star.decide_revocation(stars, command))


async def _propose_revocation(asked: Asked[ProposeRevocation], _lookups: LookUps) -> Plan[Stars]:
    body, proposal_id = asked.body, uuid5(asked.command_id, "revocation")
    return _on_revocation(star.ProposeRevocation(asked.ids["volunteer_id"], proposal_id, body.stars, body.reason_code, asked.actor))


async def _approve_revocation(asked: Asked[Nothing], _lookups: LookUps) -> Plan[Stars]:
    return _on_revocation(star.ApproveRevocation(asked.ids["volunteer_id"], asked.ids["proposal_id"], asked.actor))


async def _decline_revocation(asked: Asked[Nothing], _lookups: LookUps) -> Plan[Stars]:
    return _on_revocation(star.DeclineRevocation(asked.ids["volunteer_id"], asked.ids["proposal_id"], asked.actor))


async def _reassess_stars(asked: Asked[Reassess], lookups: LookUps) -> Plan[Stars]:
    volunteer_id = asked.ids["volunteer_id"]
    stream, confirmed = Stream("star", volunteer_id), await lookups.confirmed(volunteer_id)
    if confirmed is None:  # Nothing is kept for an answer: the reaction is parked behind the person's hours, and follows their release.
        raise BehindParkedError("hours")
    return Plan(stream, STAR, lambda stars: star.reassess(stars, volunteer_id, confirmed))


ADOPT_STAR_POLICY: Final[UseCase[AdoptStarPolicy, LookUps]] = UseCase(
    name="adopt_star_policy",
    path="/star-policies",
    body=AdoptStarPolicy,
    roles=frozenset({Role.BUREAU_ADMIN}),
    plan=_adopt_star_policy,
    refusals=("policy_file_wrong", "thresholds_not_ascending", "policy_version_exists", "policy_not_later"),
    title_zh="采用评星规则",
    title_en="Adopt a star policy",
)

APPLY_FOR_STAR: Final[UseCase[ApplyForStar, LookUps]] = UseCase(
    name="apply_for_star",
    path="/volunteers/{volunteer_id}/stars",
    body=ApplyForStar,
    roles=frozenset({Role.VOLUNTEER, Role.UNIT_ADMIN, Role.BUREAU_ADMIN}),
    plan=_apply_for_star,
    refusals=(
        "not_own_record",
        "wrong_unit",
        "not_a_volunteer",
        "person_erased",
        "no_star_policy",
        "star_already_held",
        "star_out_of_order",
        "star_revoked",
        "facts_parked",
    ),
    title_zh="申请评星",
    title_en="Apply for a star",
)

_REVOKERS: Final = frozenset({Role.BUREAU_ADMIN})
"""Who decided revokes (domain.md 2.3): a star is the bureau's, granted by its policy. No unit's admin proposes or sees a revocation."""

PROPOSE_REVOCATION: Final[UseCase[ProposeRevocation, LookUps]] = UseCase(
    name="propose_revocation",
    path="/volunteers/{volunteer_id}/revocations",
    body=ProposeRevocation,
    roles=_REVOKERS,
    plan=_propose_revocation,
    refusals=("proposer_is_subject", "star_not_held", "revocation_already_proposed"),
    title_zh="提出撤销星级",
    title_en="Propose that a star be revoked",
)

APPROVE_REVOCATION: Final[UseCase[Nothing, LookUps]] = UseCase(
    name="approve_revocation",
    path="/volunteers/{volunteer_id}/revocations/{proposal_id}/approve",
    body=Nothing,
    roles=_REVOKERS,
    plan=_approve_revocation,
    refusals=("revocation_not_proposed", "approver_is_subject", "approver_is_requester"),
    title_zh="批准撤销星级",
    title_en="Revoke the star, as the second person",
)

DECLINE_REVOCATION: Final[UseCase[Nothing, LookUps]] = UseCase(
    name="decline_revocation",
    path="/volunteers/{volunteer_id}/revocations/{proposal_id}/decline",
    body=Nothing,
    roles=_REVOKERS,
    plan=_decline_revocation,
    refusals=("revocation_not_proposed", "approver_is_subject"),
    title_zh="不予撤销星级",
    title_en="Reject a revocation, or take it back",
)

REASSESS_STARS: Final[UseCase[Reassess, LookUps]] = UseCase(
    name="reassess_stars",
    path=None,
    body=Reassess,
    roles=frozenset({Role.SYSTEM}),
    plan=_reassess_stars,
    refusals=(),
    title_zh="重核星级",
    title_en="Reassess the stars held",
)


ACKNOWLEDGE_ERASURE: Final[UseCase[AcknowledgeErasure, LookUps]] = saying_purged(
    "recognition_erasure", lambda who, position: PersonalDataPurged(volunteer_id=who, erased_position=position)
)

USE_CASES: Final[tuple[UseCase[Any, LookUps], ...]] = (
    ADOPT_STAR_POLICY,
    APPLY_FOR_STAR,
    PROPOSE_REVOCATION,
    APPROVE_REVOCATION,
    DECLINE_REVOCATION,
    REASSESS_STARS,
    ACKNOWLEDGE_ERASURE,
)

IMPORTS: Final[frozenset[str]] = frozenset()
"""A policy file is small: it fits an ordinary command."""

CLAIMS: Final = Claims(of=lambda _event, _blind: ((), ()), refusals={})
"""Nothing here is unique across streams."""

REFUSALS: Final[Mapping[str, RefusalText]] = {
    "policy_file_wrong": RefusalText(422, "规则文件有误, problems 逐行说明", "The policy file is wrong; `problems` names the lines"),
    "thresholds_not_ascending": RefusalText(422, "各星门槛须逐级升高", "Each star must need more than the one before"),
    "policy_version_exists": RefusalText(
        409, "该版本已采用, 规则不得更改", "This version has been adopted with other values; none is ever edited"
    ),
    "policy_not_later": RefusalText(
        409, "新版本须晚于前一版本及今日生效", "A new version takes effect after the last one, and after today"
    ),
    "not_own_record": RefusalText(403, "只能为本人申请", "A volunteer applies for themself only"),
    "wrong_unit": RefusalText(403, "只能为本单位志愿者申请", "A unit admin applies for volunteers of the own unit only"),
    "not_a_volunteer": RefusalText(404, "没有此志愿者", "Nobody of this id is a volunteer"),
    "person_erased": RefusalText(410, "该人的个人信息已删除", "The person's data was erased"),
    "no_star_policy": RefusalText(409, "今日尚无有效的评星规则", "No star policy is in force today"),
    "star_already_held": RefusalText(409, "已持有该星级", "The volunteer holds this star already"),
    "star_out_of_order": RefusalText(409, "须逐级申请", "Stars are granted one after the other; `next` is the one to apply for"),
    "star_revoked": RefusalText(
        409, "该星级已被撤销, 按现行规则不得再申请", "This star was revoked; the policy in force gives it to nobody again"
    ),
    "star_not_held": RefusalText(409, "该志愿者未持有该星级", "The volunteer does not hold this star"),
    "revocation_already_proposed": RefusalText(
        409, "该星级已有待批准的撤销", "A revocation of this star waits for a second person already: `proposal_id`"
    ),
    "revocation_not_proposed": RefusalText(404, "没有待批准的此项撤销", "No revocation of this id waits for approval"),
    "proposer_is_subject": RefusalText(403, "不得提出撤销本人的星级", "Whose star it is does not propose that it be revoked"),
    "approver_is_subject": RefusalText(403, "不得决定本人星级的撤销", "Whose star it is decides nothing about its revocation"),
    "approver_is_requester": RefusalText(403, "提出人不得批准", "Who proposed it does not approve it"),
    "facts_parked": RefusalText(
        409, "所需资料待人工处理, 暂不能评星", "Facts that the decision rests on are parked; no star can be decided now"
    ),
}
