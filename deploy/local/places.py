"""Where the local stack keeps what it makes."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).resolve().parents[2]
JARS: Final = CHECKOUT / ".local" / "kafka"
"""Kept by `reset`: checked against the lock at every start, and the only large download beside the wheels."""


@dataclass(frozen=True)
class Places:
    """The folders of one stack, all below `state`."""

    state: Path = CHECKOUT / ".local"

    @property
    def secrets(self) -> Path:
        """Passwords and keys, closed to others."""
        return self.state / "secrets"

    @property
    def logs(self) -> Path:
        """One file for each process, and the one before it as `.1`."""
        return self.state / "log"

    @property
    def data(self) -> Path:
        """What broker and database keep (the database's own files stand elsewhere for root)."""
        return self.state / "data"

    @property
    def run(self) -> Path:
        """Who runs now."""
        return self.state / "run"


def fingerprint(path: Path) -> str:
    """Twelve hexadecimal digits that stand for a path in a file name."""
    return hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
