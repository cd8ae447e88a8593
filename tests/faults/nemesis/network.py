"""What goes wrong between processes and their servers: slow, cut, silent or one-way connections."""

from tests.faults.nemesis.fault import Fault

FAULTS: tuple[Fault, ...] = ()
