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
    """What is adopted, by year, and which units are registered, by code, as they were last said."""

    by_year: Mapping[int, ProgrammeAdopted] = field(default_factory=dict)
    units: Mapping[str, UnitRegistered] = field(default_factory=dict)


def decide(programmes: Programmes, command: AdoptProgramme) -> Sequence[ProgrammeEvent] | Refusal:
    """The same file again changes nothing. An adopted year stays as it is; only units that it did not know may follow.

    A later year's file may say a unit anew (another name, another plan): it is registered again, as of that file.
    """
    known = programmes.by_year.get(command.programme.year)
    changed = [unit for unit in command.units if programmes.units.get(unit.code) != unit]
    if known is None:
        return [command.programme, *changed]
    if known != command.programme:
        return Refusal("programme_already_adopted", {"year": known.year})
    restated = [unit.code for unit in changed if unit.code in programmes.units]
    if restated:
        return Refusal("unit_already_registered", {"unit": restated[0]})
    return changed


def evolve(programmes: Programmes, event: ProgrammeEvent) -> Programmes:
    """The fold of the stream."""
    match event:
        case ProgrammeAdopted(year=year):
            return replace(programmes, by_year={**programmes.by_year, year: event})
        case UnitRegistered(code=code):
            return replace(programmes, units={**programmes.units, code: event})
