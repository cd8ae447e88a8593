"""The bugs, what brings each to light, and who must say so. B12 comes with the certificates."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.local.places import CHECKOUT, JARS

PATCHES: Final = Path(__file__).with_name("patches")
COPIED: Final = ("services", "shared", "deploy", "tests", "pyproject.toml")


@dataclass(frozen=True)
class Bug:
    """`faults` are struck again and again for `minutes`, or once each. `voices` are who may be first to see it: an invariant by its number,
    or the function of the harness whose expectation fails.
    """

    code: str
    faults: str
    voices: frozenset[str]
    minutes: float | None = None
    small: bool = True
    seed: int = 7

    @property
    def patch(self) -> Path:
        """The one file of this number."""
        (found,) = PATCHES.glob(f"B{int(self.code[1:]):02}-*.patch")
        return found

    @property
    def name(self) -> str:
        """In words."""
        return self.patch.stem.partition("-")[2].replace("-", " ")


class PatchError(Exception):
    """A patch does not fit the tree any more: make it anew, or what it breaks has moved."""


def apply(patch: Path, tree: Path, *options: str) -> None:
    """Raises PatchError; with the option `--check` nothing is changed."""
    done = subprocess.run(("git", "apply", *options, str(patch)), cwd=tree, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise PatchError(f"{patch.name} does not apply: {done.stderr.strip()}")


def copy(tree: Path) -> None:
    """Everything that a run needs, by copy; the jars of Kafka are shared."""
    ignored = shutil.ignore_patterns("node_modules", "results")
    for name in COPIED:
        source = CHECKOUT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=ignored)
        else:
            shutil.copy2(source, tree / name)
    kept = tree / JARS.relative_to(CHECKOUT)
    kept.parent.mkdir(parents=True)
    kept.symlink_to(JARS)


def _bug(code: str, faults: str, *voices: str, minutes: float | None = None, small: bool = True) -> Bug:
    return Bug(code, faults, frozenset(voices), minutes, small)


_WHO_MISS_IT: Final = ("clients._is_the_same", "clerks._role", "clerks._consent", "season._judge_seats", "I12")
"""An answer that is taken back is missed by the next who builds upon it."""

BUGS: Final = (
    _bug("B1", "F14", "I1", "I3", "I4", *_WHO_MISS_IT, minutes=3),
    _bug("B2", "F1.5", "I17", "I3", "I4", "clients._is_the_same", "season._check_in", "season._check_out", minutes=3),
    _bug("B3", "F1.13", "clients._misbehave", minutes=3),
    _bug("B4", "F1.4", "I4", minutes=3),
    _bug("B5", "F1.8", "I5", minutes=3),
    _bug("B6", "F30", "processes.shown", "data.spoilt_on_its_way", minutes=3),
    _bug("B7", "F3", "I13", "I12", minutes=3),
    _bug("B8", "F29.1", "I13", "I12", "data._are_dropped", minutes=3),
    _bug("B9", "F5.1", "I13", "I12", "processes.sleeping_consumer", minutes=3),
    _bug("B10", "F24.3", "processes.shown", minutes=3),
    _bug("B11", "F1.13", "I9", "season._judge_seats", "season._sees_own", minutes=3),
    _bug("B13", "F1.13", "I8", "season._race", "season._approve", minutes=3),
    _bug("B14", "F1.13", "I8", "season._pending", minutes=3),
    _bug("B15", "F1.13", "I6"),
    _bug("B16", "F31.1", "data.poison_in_the_log", minutes=3),
    _bug("B17", "F36.1", "operators.retried_twice", minutes=3),
    _bug("B18", "F1.13", "season._pending", minutes=3),
    _bug("B19", "F1.13", "I14", minutes=3),
    _bug("B20", "F36.6", "I15", minutes=3),
)
