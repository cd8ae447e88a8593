"""The event log of one service: append under one lock, read, and nothing else (D2, D3)."""

from pathlib import Path
from typing import Final

from shared.migrate import MigrationSet

MIGRATIONS: Final = MigrationSet("eventstore", Path(__file__).parent / "migrations")
