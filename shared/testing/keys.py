"""Persons' keys in memory: real sealing is tried with `shared.privacy` itself, here only who has a key matters."""

from base64 import b64decode, b64encode
from collections.abc import Iterable
from uuid import UUID

from shared.contracts.event import SEALED_PREFIX
from shared.privacy import PersonErasedError


class MemoryKeys:
    """`shared.eventstore.submit.Keys` in memory. `made` are the persons with a key, `destroyed` those who were erased."""

    def __init__(self) -> None:
        self.made: set[UUID] = set()
        self.destroyed: set[UUID] = set()
        self._loaded: set[UUID] = set()

    async def ensure(self, subjects: Iterable[UUID]) -> None:
        """Makes the keys that are missing. Raises PersonErasedError."""
        wanted = set(subjects)
        if wanted & self.destroyed:
            raise PersonErasedError
        self.made |= wanted
        self._loaded |= wanted

    async def load(self, subjects: Iterable[UUID]) -> list[UUID]:
        """Loads keys; the persons that have none."""
        wanted = set(subjects)
        self._loaded |= wanted & self.made
        return sorted(wanted - self.made)

    def seal(self, subject: UUID, place: str, clear: str) -> str:
        """A text that only this class opens; `subject` must have been ensured."""
        if subject not in self._loaded:
            raise KeyError(subject)
        return SEALED_PREFIX + b64encode(f"{place}\n{clear}".encode()).decode()

    def unseal(self, subject: UUID, place: str, sealed: str) -> str | None:
        """The clear text, None for a person whose key is not loaded or was destroyed. Raises ValueError in another place."""
        if subject not in self._loaded or subject in self.destroyed:
            return None
        sealed_at, _, clear = b64decode(sealed.removeprefix(SEALED_PREFIX)).decode().partition("\n")
        if sealed_at != place:
            raise ValueError("sealed text does not open")
        return clear

    def blind(self, scope: str, text: str) -> str:
        """Equal for equal texts, and not the text."""
        return str(hash((scope, text)))
