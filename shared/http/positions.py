"""Position tokens as they travel in headers: `service:log id:position` (D11)."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from shared.http.problems import ProblemError
from shared.tracing import parse_uuid

TOKENS_MAX: Final = 10
"""Tokens one request may carry."""


@dataclass(frozen=True, slots=True)
class PositionToken:
    """A place in a log that an answer has shown: whoever sends it back reads at least that far."""

    service: str
    log_id: UUID
    position: int

    def __str__(self) -> str:
        return f"{self.service}:{self.log_id}:{self.position}"


def parse_tokens(headers: list[str], services: frozenset[str]) -> tuple[PositionToken, ...]:
    """The tokens in the headers `After`, several or comma-separated. Raises ProblemError `after_invalid`."""
    texts = [text.strip() for header in headers for text in header.split(",") if text.strip()]
    if len(texts) > TOKENS_MAX:
        raise ProblemError("after_invalid", tokens_max=TOKENS_MAX)
    return tuple(_parse(text, services) for text in texts)


def _parse(text: str, services: frozenset[str]) -> PositionToken:
    service, _, rest = text.partition(":")
    log, _, position = rest.partition(":")
    log_id = parse_uuid(log)
    if service not in services or log_id is None or not (position.isascii() and position.isdigit()) or len(position) > 18:
        raise ProblemError("after_invalid")
    return PositionToken(service, log_id, int(position))
