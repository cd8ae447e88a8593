"""How a service reads logs, its own included: in order, once, and nothing is skipped (D7, D8, D10)."""

from pathlib import Path
from typing import Final

from shared.consumer.setting import Kafka, Setting
from shared.migrate import MigrationSet

__all__ = ["MIGRATIONS", "Kafka", "Setting"]

MIGRATIONS: Final = MigrationSet("consumer", Path(__file__).parent / "migrations")
