"""`python -m tests.faults.teeth [B5 ...|--two]`: breaks a copy of the tree, runs the harness on it, and says which checker saw it and when.

Ends with 1 when a bug stays unseen, is seen by nobody who should have seen it, or when its patch does not apply any more.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep

from tests.faults import report
from tests.faults.run import ROOM_BYTES_MIN
from tests.faults.teeth.bugs import BUGS, Bug, PatchError, apply, copy
from tests.memory import in_memory

SEEN_WITHIN_S = 120.0
"""From the start of the run, with the servers' own start in it."""
ENDED_WITHIN_S = 60.0
_FRAME = re.compile(r'File ".*?tests/faults/(?:nemesis/)?(\w+)\.py", line \d+, in (\w+)')
_RAISED = re.compile(r"^[\s|]*(?:[\w.]+\.)?(?:AssertionError|BrokenError)(?:: (I\d+):)?")


@dataclass(frozen=True)
class Outcome:
    """What became of one bug. `voices` are those who spoke."""

    code: str
    name: str
    caught: bool
    voices: Sequence[str]
    seconds: float
    why: str = ""

    def line(self) -> str:
        """For people."""
        by = f"caught by {', '.join(self.voices)}" if self.caught else f"NOT CAUGHT: {self.why}"
        return f"{self.code:<4} {self.name}: {by}, after {self.seconds:.0f} s"


def voices(why: str) -> list[str]:
    """Who says in a traceback that something is not as it must be: an invariant's number, else the function that asserted."""
    found, last = list[str](), ""
    for line in why.splitlines():
        if frame := _FRAME.search(line):
            last = last if frame[2] in {"until", "need"} else f"{frame[1]}.{frame[2]}"
        elif raised := _RAISED.match(line):
            found.append(raised[1] or last)
    return list(dict.fromkeys(found))


def hunt(bug: Bug, within: float) -> Outcome:
    """Runs the harness on a broken copy, for as long as it may take. What was not caught leaves its folder behind."""
    folder = Path(tempfile.mkdtemp(prefix=f"leifeng-{bug.code}-", dir=in_memory(ROOM_BYTES_MIN)))
    folder.chmod(0o755)  # A database server runs as somebody else.
    tree, own = folder / "tree", folder / "tmp"
    for each in (tree, own):
        each.mkdir()
    copy(tree)
    try:
        apply(bug.patch, tree)
    except PatchError as error:
        outcome = Outcome(bug.code, bug.name, False, (), 0.0, str(error))
    else:
        outcome = _run(bug, tree, own, within)
    if outcome.caught:
        shutil.rmtree(folder)
        return outcome
    return replace(outcome, why=f"{outcome.why}; all of it is in {folder}")


def _run(bug: Bug, tree: Path, own: Path, within: float) -> Outcome:
    command = [sys.executable, "-m", "tests.faults", "--seed", str(bug.seed), "--only", bug.faults]
    command += ["--small"] if bug.small else []
    command += ["--minutes", str(bug.minutes)] if bug.minutes else []
    said = own / "said.txt"
    with said.open("wb") as out:
        began = monotonic()
        process = subprocess.Popen(
            command, cwd=tree, env={**os.environ, "PYTHONPATH": str(tree), "TMPDIR": str(own)}, stdout=out, stderr=subprocess.STDOUT
        )
        try:
            seen_at = _until_seen(process, said, began + within)
            if seen_at is not None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(ENDED_WITHIN_S)
        finally:  # Told to end, a run ends all that it has started.
            _end(process)
    seconds = (seen_at or monotonic()) - began
    lines = said.read_text(errors="replace").splitlines()
    told = [each.read_text() for each in own.glob("*/why.txt")]
    if seen_at is None or process.returncode == 0 or not told:
        return Outcome(bug.code, bug.name, False, (), seconds, f"nobody has said anything; {lines[-1] if lines else 'no word at all'}")
    spoke = voices(told[0])
    right = [each for each in spoke if each in bug.voices]
    first = next((each for each in lines if each.startswith("FAILED")), "")
    return Outcome(bug.code, bug.name, bool(right), right or spoke, seconds, "" if right else f"{first[:500]} ({spoke})")


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(ENDED_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _until_seen(process: "subprocess.Popen[bytes]", said: Path, end: float) -> float | None:
    """When the run says that something has failed, or ends; None when neither came in time."""
    while monotonic() < end:
        if process.poll() is not None or any(word in said.read_bytes() for word in (b": failed: ", b": broken off ")):
            return monotonic()
        sleep(0.1)
    return None


def of_today(day: int) -> Sequence[Bug]:
    """Two of them, others each day, until all have had their turn."""
    return [BUGS[(2 * day + n) % len(BUGS)] for n in range(2)]


def main() -> None:
    """One line for each bug, then one for all."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.teeth", description=__doc__)
    parser.add_argument(
        "codes", nargs="*", choices=["", *(each.code for each in BUGS)], default="", metavar="B5", help="which; all if none is named"
    )
    parser.add_argument("--two", action="store_true", help="two, by turns")
    parser.add_argument(
        "--within", type=float, default=SEEN_WITHIN_S, help="seconds that each may take, on a machine that is busy otherwise"
    )
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    chosen = (
        of_today(datetime.now(UTC).date().toordinal())
        if given.two
        else [each for each in BUGS if not given.codes or each.code in given.codes]
    )
    outcomes = []
    for bug in chosen:
        outcomes.append(hunt(bug, given.within))
        print(outcomes[-1].line(), flush=True)
    caught = [each for each in outcomes if each.caught]
    mean = sum(each.seconds for each in caught) / max(len(caught), 1)
    print(f"{len(caught)} of {len(outcomes)} seeded bugs caught, mean time to detection {mean:.0f} s")
    if len(outcomes) == len(BUGS):
        report.RESULTS.mkdir(parents=True, exist_ok=True)
        kept = {"commit": report.commit(), "mean_seconds": round(mean, 1), "bugs": [asdict(each) for each in outcomes]}
        (report.RESULTS / "latest-teeth.json").write_text(json.dumps(kept, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    sys.exit(len(caught) != len(outcomes))


if __name__ == "__main__":
    main()
