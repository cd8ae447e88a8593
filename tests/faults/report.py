"""What a run reports (reliability.md 2.8): a line for each fault, one of all figures at the end, and the same as JSON."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from deploy.local.places import CHECKOUT
from tests.faults.clients import ANSWER_WITHIN_S, Asked

RESULTS = Path(__file__).with_name("results")


@dataclass
class Struck:
    """One fault, from its beginning until everything had caught up and all invariants held. Seconds since the run began, by `began`."""

    code: str
    name: str
    goal: float
    tolerated: bool
    began: float
    lasted: float = 0.0
    recovery: float | None = None
    silence: float = 0.0
    """For how long nothing at all was answered while it lasted."""
    outcome: str = "struck"
    """`as expected`, `skipped: ...`, or what went wrong."""

    @property
    def kind(self) -> str:
        """`F29` of `F29.1`."""
        return self.code.partition(".")[0]

    @property
    def survived(self) -> bool:
        return self.outcome == "as expected"

    def line(self) -> str:
        """For people."""
        goal = f"goal {self.goal:g} s" + (", missed" if self.recovery is not None and self.recovery > self.goal else "")
        recovered = "" if self.recovery is None else f", recovered in {self.recovery:.1f} s ({goal})"
        return f"{self.began:7.1f} s  {self.code:<4} {self.name}: {self.outcome} in {self.lasted:.1f} s{recovered}"


@dataclass
class Figures:
    """Of one run."""

    profile: str
    seed: int
    commit: str
    seconds: float = 0.0
    faults: list[Struck] = field(default_factory=list)
    acked: int = 0
    refused: int = 0
    misdeeds: int = 0
    unknown: int = 0
    availability_percent: float = 100.0
    lag_seconds_max: float = 0.0
    slowest_answer_seconds: float = 0.0
    events: int = 0
    minutes: int = 0
    digests: int = 0
    compared: int = 0
    """After so many heals too."""
    days: int = 0
    happened: dict[str, int] = field(default_factory=dict)

    def line(self) -> str:
        """All of it in one."""
        survived = [each for each in self.faults if each.survived]
        recoveries = [each.recovery for each in survived if each.recovery is not None]
        said = [
            f"seed {self.seed}, commit {self.commit}, {self.profile}, {self.seconds:.0f} s",
            f"{len(survived)} faults of {len({each.kind for each in survived})} kinds survived",
            f"{self.acked:,} acked, {self.refused:,} refused, {self.misdeeds:,} misdeeds",
            f"{self.unknown:,} unknown, all resolved",
            "0 lost, 0 doubled, 0 phantom, 0 skipped",
            f"{self.events:,} events in logs = topics, {self.digests}/9 digests equal"
            + (f", after {self.compared} heals too" if self.compared else ""),
            f"ledger 0 over {self.minutes:,} minutes",
            "recovery p50/p99/max " + "/".join(f"{each:.1f}" for each in _spread(recoveries)) + " s",
            f"availability under tolerated faults {self.availability_percent:.2f} %",
            f"lag at most {self.lag_seconds_max:.1f} s",
        ]
        return " · ".join(said)

    def keep(self, folder: Path) -> Path:
        """Writes the JSON; where."""
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"latest-{self.profile}.json"
        file.write_text(json.dumps(asdict(self) | {"line": self.line()}, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        return file


def availability(history: Sequence[Asked], struck: Sequence[tuple[float, float]]) -> float:
    """Of what was asked while a tolerated fault lasted, the percentage that was answered as soon as anybody waits for."""
    during = [asked for asked in history if any(begin <= asked.began_at <= end for begin, end in struck)]
    soon = sum(asked.answered_at - asked.began_at <= ANSWER_WITHIN_S for asked in during)
    return 100 * soon / len(during) if during else 100.0


def longest_silence(begin: float, end: float, history: Sequence[Asked]) -> float:
    """Between two instants, the longest time without any answer."""
    times = [begin, *sorted(asked.answered_at for asked in history if begin <= asked.answered_at <= end), end]
    return max(after - before for before, after in pairwise(times))


def _spread(seconds: Sequence[float]) -> tuple[float, float, float]:
    if len(seconds) < 2:
        return (seconds[0],) * 3 if seconds else (0.0, 0.0, 0.0)
    return median(seconds), quantiles(seconds, n=100, method="inclusive")[98], max(seconds)


def commit() -> str:
    """What is checked out, with a plus when something was changed since."""

    def git(*words: str) -> str:
        return subprocess.run(("git", *words), cwd=CHECKOUT, capture_output=True, text=True, timeout=10, check=False).stdout.strip()

    return (git("rev-parse", "--short", "HEAD") or "none") + ("+" if git("status", "--porcelain", "-uno") else "")


def keep_failure(folder: Path, figures: Figures, history: Sequence[Asked], why: str) -> None:
    """All that may help to understand a failed run, beside the logs that are in the folder already."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "why.txt").write_text(why, encoding="utf-8")
    figures.keep(folder)
    with (folder / "history.jsonl").open("w", encoding="utf-8") as file:
        for asked in history:
            said: dict[str, Any] = {name: getattr(asked, name) for name in Asked.__slots__} | {"command_id": str(asked.command_id)}
            file.write(json.dumps(said, ensure_ascii=False, default=str) + "\n")
