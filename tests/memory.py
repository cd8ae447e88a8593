"""Where tests keep what they write: in memory, where there is room.

They end processes and no machines; and beside a disk what uses databases takes twice as long.
"""

import os
import shutil
from pathlib import Path


def in_memory(room_bytes: int) -> str | None:
    """A folder that no disk slows down, unless TMPDIR names another one; None where there is less room."""
    place = os.environ.get("TMPDIR") or "/dev/shm"
    return place if Path(place).is_dir() and shutil.disk_usage(place).free > room_bytes else None
