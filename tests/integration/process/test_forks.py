"""A forked process is what Python would have begun."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from deploy.local.children import Identity, wait_for
from deploy.local.places import CHECKOUT
from tests.forks.children import python, start


@pytest.mark.parametrize("words", [("--help",), ("log", "nonsense"), ("digest",), ("logins", "add")], ids=" ".join)
def test_a_command_says_and_ends_as_it_does_without_a_fork(words: Sequence[str]) -> None:
    said = [
        subprocess.run([program, "-m", "services.hours", *words], cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=False)
        for program in (python(), sys.executable)
    ]

    forked, begun = said
    assert (forked.returncode, forked.stderr) == (begun.returncode, begun.stderr)
    assert forked.stdout == begun.stdout


def test_other_code_and_other_programs_are_pythons_own() -> None:
    code = "import sys; print(sys.argv, 'httpx' in sys.modules)"
    said = subprocess.run([python(), "-c", code, "a"], capture_output=True, text=True, timeout=60, check=True)

    assert said.stdout == "['-c', 'a'] False\n"


def test_a_process_is_known_by_its_number_and_ends_by_a_signal(tmp_path: Path) -> None:
    child = start("waiting", "tests.integration.process.waiting", log=tmp_path / "log", environment=os.environ)
    assert wait_for(lambda: "waiting" in child.log.read_text(), 10)

    assert child.running()
    assert Identity.of(child.pid) == child.identity
    child.send(signal.SIGKILL)
    assert wait_for(lambda: not child.running(), 10)
    assert child.exit_code() == -signal.SIGKILL
    assert not child.identity.lives()
