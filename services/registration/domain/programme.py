"""Programme: the years' programmes and the units, in one stream of the installation, so that a file is adopted whole or not at all.

A file says at once what counts for everybody, so two persons have a hand in it: one proposes it, another approves what was proposed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import assert_never
from uuid import UUID

from shared.contracts.event import Refusal
from shared.contracts.registration import (
    Carrier,
    Difference,
    Occasion,
    ProgrammeAdopted,
    ProgrammeApproved,
    ProgrammeDeclined,
    ProgrammeDeclineReason,
    ProgrammeLapsed,
    ProgrammeProposed,
    TargetGroup,
    UnitProposed,
    UnitRegistered,
)
from shared.permissions import Actor, Resource, barred

ProgrammeEvent = (
    ProgrammeProposed | UnitProposed | ProgrammeApproved | ProgrammeDeclined | ProgrammeLapsed | ProgrammeAdopted | UnitRegistered
)


@dataclass(frozen=True, slots=True)
class ProgrammeFile:
    """What a file says: one year's programme and the units it is for. `proposal_id` follows from `digest`, that of the text."""

    proposal_id: UUID
    digest: str
    programme: ProgrammeAdopted
    units: tuple[UnitRegistered, ...]


@dataclass(frozen=True, slots=True)
class ProposeProgramme:
    """Puts a file before another person, until `expires_at`."""

    file: ProgrammeFile
    asker: Actor
    now: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class ApproveProgramme:
    """The second person: what was proposed is adopted."""

    proposal_id: UUID
    asker: Actor
    now: datetime


@dataclass(frozen=True, slots=True)
class DeclineProgramme:
    """It is not adopted. Who proposed it takes it back; anybody else rejects it."""

    proposal_id: UUID
    asker: Actor


@dataclass(frozen=True, slots=True)
class LapseProgramme:
    """The time in which it could be approved is over."""

    proposal_id: UUID
    now: datetime


ProgrammeCommand = ProposeProgramme | ApproveProgramme | DeclineProgramme | LapseProgramme


@dataclass(frozen=True, slots=True)
class Proposal:
    """What waits for a second person. `programme` None: the year is adopted, and only `units` follow."""

    year: int
    proposed_by: UUID
    expires_at: datetime
    programme: ProgrammeAdopted | None
    units: tuple[UnitRegistered, ...] = ()


@dataclass(frozen=True, slots=True)
class Programmes:
    """What is adopted, by year, which units are registered, by year and code, and what waits for a second person."""

    by_year: Mapping[int, ProgrammeAdopted] = field(default_factory=dict)
    units: Mapping[tuple[int, str], UnitRegistered] = field(default_factory=dict)
    proposals: Mapping[UUID, Proposal] = field(default_factory=dict)


def decide(programmes: Programmes, command: ProgrammeCommand) -> Sequence[ProgrammeEvent] | Refusal:
    """A proposal is answered once: what was approved, declined or has lapsed is not known any more."""
    if isinstance(command, ProposeProgramme):
        return _propose(programmes, command)
    proposal_id, proposal = command.proposal_id, programmes.proposals.get(command.proposal_id)
    match command:
        case LapseProgramme(now=now):
            is_due = proposal is not None and proposal.expires_at <= now
            return [ProgrammeLapsed(proposal_id=proposal_id, year=proposal.year)] if proposal is not None and is_due else []
        case _ if proposal is None:
            return Refusal("programme_not_proposed")
        case DeclineProgramme(asker=asker):
            reason: ProgrammeDeclineReason = "taken_back" if asker.person_id == proposal.proposed_by else "rejected"
            return [ProgrammeDeclined(proposal_id=proposal_id, year=proposal.year, reason_code=reason)]
        case ApproveProgramme(asker=asker, now=now):
            refused = barred(asker, Resource(requesters=(proposal.proposed_by,)), "approver")
            if refused is not None:
                return refused
            if proposal.expires_at <= now:
                return Refusal("proposal_lapsed")
            approved = ProgrammeApproved(proposal_id=proposal_id, year=proposal.year, approved_by=asker.person_id)
            programme = [] if proposal.programme is None else [proposal.programme]
            return [approved, *programme, *proposal.units]
        case _:
            assert_never(command)


def _propose(programmes: Programmes, command: ProposeProgramme) -> Sequence[ProgrammeEvent] | Refusal:
    """The same file again changes nothing. An adopted year stays as it is; only units that it did not know may follow.

    Another year's file says its units anew, so that each year keeps its plan, whatever order they are adopted in.
    """
    file = command.file
    year = file.programme.year
    known = programmes.by_year.get(year)
    if known is not None and known != file.programme:
        return Refusal("programme_already_adopted", {"year": year})
    units = [unit for unit in file.units if programmes.units.get((year, unit.code)) != unit]
    restated = [unit.code for unit in units if (year, unit.code) in programmes.units]
    if restated:
        return Refusal("unit_already_registered", {"unit": restated[0]})
    if known is not None and not units:
        return []
    waiting = [(each_id, each) for each_id, each in programmes.proposals.items() if each.year == year]
    for each_id, each in waiting:
        if each.expires_at > command.now:
            other = Refusal("programme_already_proposed", {"year": year, "proposal_id": str(each_id)})
            return [] if each_id == file.proposal_id else other
    lapsed = [ProgrammeLapsed(proposal_id=each_id, year=year) for each_id, _ in waiting]
    return [*lapsed, *_proposed(programmes, command, units)]


def _proposed(programmes: Programmes, command: ProposeProgramme, units: Sequence[UnitRegistered]) -> Iterator[ProgrammeEvent]:
    file = command.file
    year = file.programme.year
    is_new = year not in programmes.by_year
    before = max(programmes.by_year, default=None)
    words = _words(file.programme)
    old_words = {} if before is None else _words(programmes.by_year[before])
    old_units = {code: unit for (of, code), unit in programmes.units.items() if of == before}
    yield ProgrammeProposed(
        proposal_id=file.proposal_id,
        year=year,
        proposed_by=command.asker.person_id,
        file_digest=file.digest,
        expires_at=command.expires_at,
        programme=file.programme if is_new else None,
        units=len(units),
        compared_with=before,
        words_new=tuple(code for code in words if code not in old_words) if is_new else (),
        words_changed=tuple(code for code, word in words.items() if old_words.get(code, word) != word) if is_new else (),
        words_gone=tuple(code for code in old_words if code not in words) if is_new else (),
        units_gone=tuple(sorted(old_units.keys() - {unit.code for unit in units})) if is_new else (),
    )
    for unit in units:
        yield UnitProposed(proposal_id=file.proposal_id, unit=unit, difference=_difference(old_units.get(unit.code), unit))


def _words(programme: ProgrammeAdopted) -> Mapping[str, Carrier | TargetGroup | Occasion]:
    """By kind and code, such as `carrier/tree-planting`."""
    return {
        **{f"carrier/{each.code}": each for each in programme.carriers},
        **{f"target_group/{each.code}": each for each in programme.target_groups},
        **{f"occasion/{each.code}": each for each in programme.occasions},
    }


def _difference(before: UnitRegistered | None, unit: UnitRegistered) -> Difference:
    """Whether anything but the year is said anew."""
    if before is None:
        return "new"
    return "same" if before.model_copy(update={"year": unit.year}) == unit else "changed"


def evolve(programmes: Programmes, event: ProgrammeEvent) -> Programmes:
    """The fold of the stream."""
    match event:
        case ProgrammeProposed(proposal_id=proposal_id):
            proposal = Proposal(event.year, event.proposed_by, event.expires_at, event.programme)
            return replace(programmes, proposals={**programmes.proposals, proposal_id: proposal})
        case UnitProposed(proposal_id=proposal_id, unit=unit):
            proposal = programmes.proposals[proposal_id]
            proposal = replace(proposal, units=(*proposal.units, unit))
            return replace(programmes, proposals={**programmes.proposals, proposal_id: proposal})
        case (
            ProgrammeApproved(proposal_id=proposal_id)
            | ProgrammeDeclined(proposal_id=proposal_id)
            | ProgrammeLapsed(proposal_id=proposal_id)
        ):
            rest = {each_id: each for each_id, each in programmes.proposals.items() if each_id != proposal_id}
            return replace(programmes, proposals=rest)
        case ProgrammeAdopted(year=year):
            return replace(programmes, by_year={**programmes.by_year, year: event})
        case UnitRegistered(year=year, code=code):
            return replace(programmes, units={**programmes.units, (year, code): event})
        case _:
            assert_never(event)
