"""A file that is read again when it changes: what is rotated in it counts without a restart."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from time import monotonic
from typing import Final, Generic, TypeVar

from shared import logs
from shared.settings import SettingsError, read_secret

REREAD_SECONDS: Final = 5.0
"""A file is looked at again at most this often, unless somebody cannot wait."""

T = TypeVar("T")

_log = logs.logger()


class Followed(Generic[T]):
    """What `read` makes of a file, while a process runs. At the start it raises what `read` raises.

    Later, a file that is away, or that `read` does not take by one of `errors`, leaves what it was: it may just be being replaced.
    """

    def __init__(self, path: Path, read: Callable[[Path], T], *errors: type[Exception]) -> None:
        self._path = path
        self._read = read
        self._errors: tuple[type[Exception], ...] = (OSError, *errors)
        self._stamp = _changed_at(path) if path.exists() else None  # Before it is read: what changes in between is read again.
        self._content = read(path)
        self._looked_at = monotonic()

    def current(self) -> T:
        """What the file holds, seconds old at most."""
        return self.look() if monotonic() - self._looked_at > REREAD_SECONDS else self._content

    def look(self) -> T:
        """What the file holds now."""
        self._looked_at = monotonic()
        try:
            stamp = _changed_at(self._path)
            if stamp != self._stamp:
                self._content, self._stamp = self._read(self._path), stamp
                _log.info("file_read_again", state=self._path.name)
        except self._errors as error:
            _log.error("file_unreadable", state=self._path.name, error=type(error).__qualname__)
        return self._content

    def __repr__(self) -> str:
        return f"Followed({self._path.name})"  # What it holds may be a secret.


@cache
def secret_file(path: Path) -> Followed[str]:
    """A secret in a file: everybody in this process falls back on the same last word. Raises SettingsError when it was never readable."""
    return Followed(path, read_secret, SettingsError)


def _changed_at(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_ino
