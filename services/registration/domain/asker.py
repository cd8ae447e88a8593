"""Who asks, as far as rules read it: own record, own unit, or the whole bureau."""

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from shared.contracts.event import Refusal

Reach = Literal["own", "unit", "bureau"]


@dataclass(frozen=True, slots=True)
class Asker:
    """A person and how far their word goes: `own` acts for themself, `unit` for those of their unit, `bureau` for all."""

    person_id: UUID
    unit: str
    reach: Reach

    def barred_from_unit(self, unit_code: str) -> Refusal | None:
        """The refusal when the asker may not act for this unit."""
        if self.reach == "bureau" or (self.reach == "unit" and self.unit == unit_code):
            return None
        return Refusal("wrong_unit", {"unit": unit_code})

    def barred_from_record(self, volunteer_id: UUID, unit_code: str) -> Refusal | None:
        """The refusal when the asker may not act for this volunteer of this unit."""
        if self.reach == "own":
            return None if self.person_id == volunteer_id else Refusal("not_own_record")
        return self.barred_from_unit(unit_code)
