"""The goals of performance.md section 4, and how far a measured value goes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Goal:
    """What is asked. A goal whose floor is above its moonshot is better when it is lower."""

    what: str
    floor: float
    target: float
    moonshot: float
    small: bool = False
    """Whether a small run says enough of it to be held against half the floor: ratios that neither a start nor a few slices decide."""

    def reached(self, measured: float) -> str:
        """none, floor, target or moonshot."""
        lower = self.floor > self.moonshot
        found = "none"
        for name, bar in (("floor", self.floor), ("target", self.target), ("moonshot", self.moonshot)):
            if (measured <= bar) if lower else (measured >= bar):
                found = name
        return found

    def half_floor(self) -> float:
        """What even a noisy small run must reach."""
        return self.floor * 2 if self.floor > self.moonshot else self.floor / 2

    def holds_half(self, measured: float) -> bool:
        """Whether it does."""
        return measured <= self.half_floor() if self.floor > self.moonshot else measured >= self.half_floor()


GOALS: Final[Mapping[str, Goal]] = {
    "G1": Goal("append, 16 callers, new stream: rate over eventsourcing's", 6, 9, 13, small=True),
    "G1b.functions": Goal("the same over eventsourcing with its DB functions", 2, 3, 4, small=True),
    "G1b.emmett": Goal("the same over Emmett", 3, 5, 6.5, small=True),
    "G1b.message-db": Goal("the same over message-db", 3, 4, 6, small=True),
    "G1b.eventsource-py": Goal("the same over eventsource-py", 4, 7, 9, small=True),
    "G2": Goal("command on 20 events, 16 callers, each reads its stream: rate over eventsourcing's", 4, 7, 10, small=True),
    "G2.shipped": Goal("the same with the cache as shipped", 4, 7, 10, small=True),
    "G3": Goal("one caller: rate over eventsourcing's", 1.5, 2, 2.7),
    "G4": Goal("CPU of an appended event: eventsourcing's over ours", 6, 10, 18),
    "G5": Goal("HTTP command, 16 connections: rate over the reference app's (FastAPI, guarded insert)", 0.8, 1.3, 2.2),
    "G6": Goal("live projection from bytes: events/s over plain COPY of the same rows", 0.12, 0.20, 0.27, small=True),
    "G7": Goal("offline rebuild over plain COPY", 0.15, 0.25, 0.40),
    "G7b": Goal("rebuild over eventsourcing's ProjectionRunner", 12, 25, 40),
    "rebuild.p99": Goal("p99 of 100 commands/s beside a rebuild over that without one", 1.5, 1.2, 1.05),
    "G8.p50": Goal("500 commands/s end to end over (append alone + bare transport), p50", 6, 4, 2.5),
    "G8.p99": Goal("the same, p99", 5, 3, 1.5),
    "G9": Goal("highest load with p99 < 100 ms and no growing lag for 60 s, commands/s", 500, 1000, 2000),
    "G10.append": Goal("append at 10 M events over that at 100 k", 0.85, 0.92, 0.97),
    "G10.load": Goal("command that reads its stream, at 10 M events over that at 100 k", 0.85, 0.92, 0.97),
    "G10.page": Goal("page of the relay at 10 M events over that at 100 k", 0.85, 0.92, 0.97),
    "G10.snapshot": Goal("append at 10 M events after a snapshot was held for ten minutes over without one", 0.75, 0.85, 0.95),
    "G11.rss": Goal("RSS of the largest process after 1 M events, MiB", 130, 100, 80, small=True),
    "G11.growth": Goal("what the RSS of one grew most from 100 k to 1 M events, MiB", 15, 5, 2),
    "G12.cpu": Goal("idle: CPU of a service, % of one core", 3, 1, 0.3),
    "G12.statements": Goal("idle: statements a second of a service", 50, 10, 2, small=True),
    "G13": Goal("throughput of 256 waiting callers over that of 64", 0.7, 0.8, 0.9, small=True),
}
