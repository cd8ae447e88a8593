"""What goes wrong with our own processes."""

from tests.faults.nemesis.fault import Fault

FAULTS: tuple[Fault, ...] = ()
