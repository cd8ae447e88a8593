"""What goes wrong with records and rows."""

from tests.faults.nemesis.fault import Fault

FAULTS: tuple[Fault, ...] = ()
