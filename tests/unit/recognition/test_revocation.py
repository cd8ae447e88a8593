"""A star is taken for a reason by two persons, of whom neither is whose star it is."""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.recognition.domain.star import (
    ApproveRevocation,
    Confirmed,
    DeclineRevocation,
    ProposeRevocation,
    RevocationCommand,
    StarEvent,
    Stars,
    apply_for_star,
    decide_revocation,
    evolve,
    reassess,
)
from shared.contracts.event import Event, Refusal
from shared.contracts.recognition import (
    StarGranted,
    StarRevocationDeclined,
    StarRevocationLapsed,
    StarRevocationProposed,
    StarRevoked,
    StarWithdrawn,
)
from shared.permissions import Actor, Role
from tests.unit.recognition.test_star import APPLICATION, LADDER, ONE_STAR, TWO_STARS, UNIT, WHO

THREE_STARS = TWO_STARS.model_copy(update={"stars": 3, "confirmed_minutes": 36000, "threshold_minutes": 36000})
ALL = (ONE_STAR, TWO_STARS, THREE_STARS)

ASKER, DEPUTY, HOLDER = (Actor(UUID(int=each), Role.BUREAU_ADMIN, "water-bureau") for each in (1, 2, WHO.int))
FIRST, SECOND, UNKNOWN = UUID(int=71), UUID(int=72), UUID(int=73)


def propose(stars: int = 2, proposal_id: UUID = FIRST, asker: Actor = ASKER) -> ProposeRevocation:
    return ProposeRevocation(WHO, proposal_id, stars, "serious_dishonesty", asker)


def proposed(stars: int = 2, proposal_id: UUID = FIRST, **other: Any) -> StarRevocationProposed:
    said = {"volunteer_id": WHO, "unit_code": UNIT, "reason_code": "serious_dishonesty", "proposed_by": ASKER.person_id}
    return StarRevocationProposed.model_validate(said | {"stars": stars, "proposal_id": proposal_id} | other)


def revoked(stars: int, proposal_id: UUID = FIRST, **other: Any) -> StarRevoked:
    said = {"volunteer_id": WHO, "unit_code": UNIT, "reason_code": "serious_dishonesty", "approved_by": DEPUTY.person_id}
    return StarRevoked.model_validate(said | {"stars": stars, "proposal_id": proposal_id} | other)


def declined(reason: str, by: Actor) -> StarRevocationDeclined:
    said = {"volunteer_id": WHO, "proposal_id": FIRST, "stars": 2, "reason_code": reason, "declined_by": by.person_id}
    return StarRevocationDeclined.model_validate(said)


def lapsed(stars: int, proposal_id: UUID) -> StarRevocationLapsed:
    return StarRevocationLapsed(volunteer_id=WHO, proposal_id=proposal_id, stars=stars)


def approve(proposal_id: UUID = FIRST, asker: Actor = DEPUTY) -> ApproveRevocation:
    return ApproveRevocation(WHO, proposal_id, asker)


def decline(proposal_id: UUID = FIRST, asker: Actor = DEPUTY) -> DeclineRevocation:
    return DeclineRevocation(WHO, proposal_id, asker)


WAITING = (*ALL, proposed())

CASES: dict[str, tuple[Sequence[StarEvent], RevocationCommand, Sequence[Event] | Refusal]] = {
    "a proposal takes nothing yet": (ALL, propose(), [proposed()]),
    "a star that is not held is not taken": ((ONE_STAR,), propose(2), Refusal("star_not_held")),
    "whose star it is does not propose it, whatever their role": (ALL, propose(asker=HOLDER), Refusal("proposer_is_subject")),
    "of one star one revocation waits": (
        WAITING, propose(proposal_id=SECOND), Refusal("revocation_already_proposed", {"proposal_id": str(FIRST)}),
    ),
    "of another star another one may": (WAITING, propose(3, SECOND), [proposed(3, SECOND)]),
    "a second person takes the star and those above it, the highest first": (WAITING, approve(), [revoked(3), revoked(2)]),
    "who proposed it does not approve it": (WAITING, approve(asker=ASKER), Refusal("approver_is_requester")),
    "whose star it is does not approve it": (WAITING, approve(asker=HOLDER), Refusal("approver_is_subject")),
    "what was never proposed is not approved": (WAITING, approve(UNKNOWN), Refusal("revocation_not_proposed")),
    "what else was proposed of a star that goes has lapsed": (
        (*WAITING, proposed(3, SECOND)), approve(), [revoked(3), revoked(2), lapsed(3, SECOND)],
    ),
    "what was proposed of a star that stays still waits": (
        (*WAITING, proposed(3, SECOND)), approve(SECOND), [revoked(3, SECOND)],
    ),
    "who proposed it takes it back": (WAITING, decline(asker=ASKER), [declined("taken_back", ASKER)]),
    "anybody else of the bureau rejects it": (WAITING, decline(), [declined("rejected", DEPUTY)]),
    "whose star it is does not reject it": (WAITING, decline(asker=HOLDER), Refusal("approver_is_subject")),
    "what was never proposed is not declined": (WAITING, decline(UNKNOWN), Refusal("revocation_not_proposed")),
    "what was taken back is not approved": (
        (*WAITING, declined("taken_back", ASKER)), approve(), Refusal("revocation_not_proposed"),
    ),
    "what was taken back may be proposed again": (
        (*WAITING, declined("taken_back", ASKER)), propose(proposal_id=SECOND), [proposed(proposal_id=SECOND)],
    ),
    "what was approved is not approved again": (
        (*WAITING, revoked(3), revoked(2)), approve(asker=Actor(UUID(int=3), Role.BUREAU_ADMIN, "water-bureau")),
        Refusal("revocation_not_proposed"),
    ),
    "what was approved is not rejected any more": ((*WAITING, revoked(3), revoked(2)), decline(), Refusal("revocation_not_proposed")),
    "a star that was revoked is not held": ((*WAITING, revoked(3), revoked(2)), propose(2, SECOND), Refusal("star_not_held")),
}  # fmt: skip


def after(*events: StarEvent) -> Stars:
    return reduce(evolve, events, Stars())


@pytest.mark.parametrize(("happened", "command", "expected"), CASES.values(), ids=CASES)
def test_two_persons_take_a_star(happened: Sequence[StarEvent], command: RevocationCommand, expected: Sequence[Event] | Refusal) -> None:
    assert decide_revocation(after(*happened), command) == expected


@pytest.mark.parametrize("command", [propose(proposal_id=SECOND), approve(), decline()])
def test_of_another_unit_nobody_decides_whose_word_goes_no_further_than_their_own(command: RevocationCommand) -> None:
    elsewhere = replace(command, asker=Actor(UUID(int=4), Role.UNIT_ADMIN, "another-office"))
    assert decide_revocation(after(*WAITING), elsewhere) == Refusal("wrong_unit")


def test_hours_that_are_gone_take_the_star_and_leave_nothing_to_decide() -> None:
    left = reassess(after(*WAITING), WHO, Confirmed(17999, 95, "hours_corrected"))
    assert [type(each) for each in left] == [StarWithdrawn, StarWithdrawn, StarRevocationLapsed]
    assert left[-1] == lapsed(2, FIRST)
    assert decide_revocation(reduce(evolve, left, after(*WAITING)), approve()) == Refusal("revocation_not_proposed")


def test_hours_that_take_another_star_leave_it_to_be_decided() -> None:
    left = reassess(after(*WAITING), WHO, Confirmed(18000, 95, "hours_corrected"))
    assert [type(each) for each in left] == [StarWithdrawn]
    assert decide_revocation(reduce(evolve, left, after(*WAITING)), approve()) == [revoked(2)]


RICH = replace(APPLICATION, confirmed=Confirmed(99999, 90))
LENIENT = replace(RICH, policy=LADDER.model_copy(update={"reapply_after_revocation": True}))
TAKEN = (*WAITING, revoked(3), revoked(2))


def number_granted(decided: Sequence[Event] | Refusal) -> int:
    assert not isinstance(decided, Refusal)
    (granted,) = decided
    assert isinstance(granted, StarGranted)
    return granted.stars


def test_hours_do_not_bring_a_star_back_that_was_revoked() -> None:
    assert apply_for_star(after(*TAKEN), RICH) == Refusal("star_revoked", {"stars": 2})


def test_a_policy_may_say_that_they_do() -> None:
    assert number_granted(apply_for_star(after(*TAKEN), LENIENT)) == 2


def test_a_star_that_the_policy_gave_back_is_as_any_other() -> None:
    """Whoever loses it with their hours may earn it again under a policy that gives nothing back."""
    again = after(*TAKEN, TWO_STARS)
    gone = reduce(evolve, reassess(again, WHO, Confirmed(6000, 95, "hours_reversed")), again)
    assert number_granted(apply_for_star(gone, RICH)) == 2
    assert apply_for_star(again, RICH) == Refusal("star_revoked", {"stars": 3})


def test_who_gave_a_star_up_may_apply_for_it_again() -> None:
    given_up = after(*ALL, proposed(reason_code="own_wish"), revoked(3, reason_code="own_wish"), revoked(2, reason_code="own_wish"))
    assert number_granted(apply_for_star(given_up, RICH)) == 2


def test_the_hours_of_who_lost_a_star_to_two_persons_still_count_for_those_below() -> None:
    assert reassess(after(*TAKEN), WHO, Confirmed(6000, 95)) == []
    assert list(after(*TAKEN).held) == [1]


STEPS = st.one_of(
    st.tuples(st.just("apply"), st.integers(0, 50000)),
    st.tuples(st.just("reassess"), st.integers(0, 50000)),
    st.tuples(st.just("propose"), st.integers(1, 3)),
    st.tuples(st.just("approve"), st.integers(0, 5)),
    st.tuples(st.just("decline"), st.integers(0, 5)),
)


@given(st.lists(STEPS, max_size=40))
def test_whatever_happens_stars_have_no_gap_and_what_waits_is_about_a_star_that_is_held(steps: list[tuple[str, int]]) -> None:
    stars, made = after(*ALL), 0
    decided: Sequence[StarEvent] | Refusal
    for what, number in steps:
        waiting = list(stars.proposals) or [UNKNOWN]
        proposal_id = waiting[number % len(waiting)]
        match what:
            case "apply":
                decided = apply_for_star(stars, replace(LENIENT, confirmed=Confirmed(number, 1)))
            case "reassess":
                decided = reassess(stars, WHO, Confirmed(number, 1, "hours_corrected"))
            case "propose":
                made += 1
                decided = decide_revocation(stars, propose(number, UUID(int=100 + made)))
            case "approve":
                decided = decide_revocation(stars, approve(proposal_id))
            case _:
                decided = decide_revocation(stars, decline(proposal_id))
        if isinstance(decided, Refusal):
            continue
        stars = reduce(evolve, decided, stars)
        about = [each.stars for each in stars.proposals.values()]
        assert sorted(stars.held) == list(range(1, len(stars.held) + 1))
        assert set(about) <= stars.held.keys()
        assert len(about) == len(set(about))
        assert not stars.revoked & stars.held.keys()
