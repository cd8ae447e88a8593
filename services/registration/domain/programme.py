"""Programme: the years' programmes and the units, in one stream of the installation, so that a file is adopted whole or not at all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from shared.contracts.event import Refusal
from shared.contracts.registration import ProgrammeAdopted, UnitRegistered

ProgrammeEvent = ProgrammeAdopted | UnitRegistered


@dataclass(frozen=True, slots=True)
class AdoptProgramme:
    """What a file says: one year's programme and the units it is for."""

    programme: ProgrammeAdopted
    units: tuple[UnitRegistered, ...]


@dataclass(frozen=True, slots=True)
class Programmes:
    """What is adopted, by year, and which units are registered, by year and code."""

    by_year: Mapping[int, ProgrammeAdopted] = field(default_factory=dict)
    units: Mapping[tuple[int, str], UnitRegistered] = field(default_factory=dict)


def decide(programmes: Programmes, command: AdoptProgramme) -> Sequence[ProgrammeEvent] | Refusal:
    """The same file again changes nothing. An adopted year stays as it is; only units that it did not know may follow.

    Another year's file says its units anew, so that each year keeps its plan, whatever order they are adopted in.
    """
    known = programmes.by_year.get(command.programme.year)
    if known is None:
        return [command.programme, *command.units]
    if known != command.programme:
        return Refusal("programme_already_adopted", {"year": known.year})
    changed = [unit for unit in command.units if programmes.units.get((unit.year, unit.code)) != unit]
    restated = [unit.code for unit in changed if (unit.year, unit.code) in programmes.units]
    if restated:
        return Refusal("unit_already_registered", {"unit": restated[0]})
    return changed


def evolve(programmes: Programmes, event: ProgrammeEvent) -> Programmes:
    """The fold of the stream."""
    match event:
        case ProgrammeAdopted(year=year):
            return replace(programmes, by_year={**programmes.by_year, year: event})
        case UnitRegistered(year=year, code=code):
            return replace(programmes, units={**programmes.units, (year, code): event})
