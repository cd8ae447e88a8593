"""What goes wrong with the time of day."""

from tests.faults.nemesis.fault import Fault

FAULTS: tuple[Fault, ...] = ()
