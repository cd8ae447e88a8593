"""What goes wrong with Kafka."""

from tests.faults.nemesis.fault import Fault

FAULTS: tuple[Fault, ...] = ()
