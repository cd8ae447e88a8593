"""What all peers written in Python share: lines in, lines out."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final
from uuid import UUID, uuid4

CONNECTIONS: Final = 16

Answer = Mapping[str, Any]


class Given:
    """What the program was started with."""

    def __init__(self) -> None:
        given: dict[str, Any] = json.loads(os.environ["BENCH_PEER"])
        self.dsn: str = given["dsn"]
        self.settings: dict[str, str] = given["settings"]
        self._proposed: dict[str, Any] = given["proposed"]
        self._confirmed: dict[str, Any] = given["confirmed"]

    def proposed(self) -> dict[str, Any]:
        """The body of one more event, of an entry of its own."""
        return {**self._proposed, "entry_id": str(uuid4())}

    def confirmed(self, entry: str) -> dict[str, Any]:
        """The body of the event that answers it."""
        return {**self._confirmed, "entry_id": entry}


def new_id() -> UUID:
    """Of a stream."""
    return uuid4()


def serve(doing: Mapping[str, Callable[..., Answer]]) -> None:
    """Does what it is asked until nobody asks any more; what is raised ends the program."""
    _say({"ready": True})
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        _say(doing[asked.pop("do")](**asked))


def _say(answer: Answer) -> None:
    print(json.dumps(answer), flush=True)
