"""The catalogue of faults (reliability.md 2.5), by what they strike."""

from tests.faults.nemesis import clock, data, kafka, network, operators, postgres, privacy, processes
from tests.faults.nemesis.fault import Fault, Scene, Skipped

__all__ = ["FAULTS", "Fault", "Scene", "Skipped"]

FAULTS: tuple[Fault, ...] = tuple(
    fault for module in (processes, postgres, kafka, network, data, clock, operators, privacy) for fault in module.FAULTS
)
