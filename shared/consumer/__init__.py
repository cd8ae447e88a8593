"""How a service reads logs, its own included: in order, once, and nothing is skipped (D7, D8, D10)."""

from pathlib import Path
from typing import Final

from shared.migrate import MigrationSet

MIGRATIONS: Final = MigrationSet("consumer", Path(__file__).parent / "migrations")
