"""What a fault is, and what it gets to work with."""

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.faults.clerks import Clerks
from tests.faults.clients import Clients
from tests.faults.season import Season
from tests.faults.system import until

if TYPE_CHECKING:
    from tests.faults.cluster import Cluster

SMOKE, LONG = "smoke", "long"
BOTH = frozenset({SMOKE, LONG})
ONLY_LONG = frozenset({LONG})
ANSWERS_WITHIN_S = 60.0


class Skipped(Exception):
    """This machine does not allow the fault; the text says what is missing."""


@dataclass
class Scene:
    """A running cluster with clients in front of it that never stop asking."""

    cluster: "Cluster"
    clients: Clients
    season: Season
    clerks: Clerks
    random: random.Random
    profile: str
    """`smoke` or `long`."""
    happened: Counter[str] = field(default_factory=Counter)
    """Facts that a run claims to have met ("sometimes" assertions); a fault or a checker that saw one counts it."""

    async def answers(self, n: int = 10, within: float = ANSWERS_WITHIN_S, service: str = "") -> float:
        """Until `n` more commands are answered, if need be those of one service; the seconds that it took. Fails after `within`."""
        enough = self.answered(service) + n
        return await until(lambda: self.answered(service) >= enough, within, f"{n} more answers {service}")

    def answered(self, service: str = "") -> int:
        """How many commands have been answered, of one service or of all."""
        return self.clients.answered[service] if service else self.clients.answered.total()

    @contextmanager
    def unharmed(self) -> Iterator[None]:
        """A block in which no process of ours ends or is started anew."""
        before = self.cluster.pids()
        yield
        assert self.cluster.pids() == before, "a process has ended"

    def lasts(self, *, smoke: float, long: float) -> float:
        """The seconds of a fault in this profile."""
        return smoke if self.profile == SMOKE else long


@dataclass(frozen=True)
class Fault:
    """One entry of the catalogue (reliability.md 2.5)."""

    code: str
    name: str
    goal_seconds: float
    """From healed until nothing is in arrears any more."""
    tolerated: bool
    """Whether commands must go on being answered while it lasts."""
    profiles: frozenset[str]
    strike: Callable[[Scene], Awaitable[None]]
    """Injects it, waits while clients go on, heals it in any case. Raises AssertionError when what must happen did not, and Skipped."""
