"""Where the local stack keeps what it makes."""

import hashlib
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).resolve().parents[2]
STATE: Final = CHECKOUT / ".local"
JARS: Final = STATE / "kafka"  # Kept by `reset`: checked against the lock at every start, and the only large download.
SECRETS: Final = STATE / "secrets"
LOGS: Final = STATE / "log"
DATA: Final = STATE / "data"
RUN: Final = STATE / "run"


def fingerprint(path: Path) -> str:
    """Twelve hexadecimal digits that stand for a path in a file name."""
    return hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
