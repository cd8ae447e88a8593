"""What goes wrong with PostgreSQL."""

from tests.faults.nemesis.fault import Fault

FAULTS: tuple[Fault, ...] = ()
