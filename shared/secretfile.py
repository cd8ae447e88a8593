"""A secret in a file, read again whenever it is needed: who replaces the file restarts nothing."""

from functools import cache
from pathlib import Path

from shared import logs
from shared.settings import SettingsError, read_secret

_log = logs.logger()


class SecretFile:
    """What a file says now. One that is broken, or just being replaced, leaves what it said before.

    Raises SettingsError when called while it could never be read. It is nowhere shown: `repr` names the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._said: str | None = None

    def __call__(self) -> str:
        try:
            self._said = read_secret(self._path)
        except SettingsError as error:
            if self._said is None:
                raise
            _log.error("secret_file_unreadable", error=type(error).__qualname__)
        return self._said

    def __repr__(self) -> str:
        return f"SecretFile({self._path.name})"


@cache
def secret_file(path: Path) -> SecretFile:
    """The one of a path: everybody in this process falls back on the same last word."""
    return SecretFile(path)
