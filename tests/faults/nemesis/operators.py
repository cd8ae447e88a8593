"""What operators do wrong."""

from tests.faults.nemesis.fault import Fault

FAULTS: tuple[Fault, ...] = ()
