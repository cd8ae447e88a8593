"""Processes that cannot outlive whoever started them, and signals that cannot hit a stranger.

Linux only: a child asks the kernel for a signal at its parent's death, so that even SIGKILL of the parent leaves nothing behind.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Final, Self

from deploy.local.trouble import Trouble

_PR_SET_PDEATHSIG: Final = 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Identity:
    """One process for good: a number is used again after a while, a number with its start time is not."""

    pid: int
    started: str
    """Boot id and clock ticks since boot, as the kernel gives them."""

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Who has this number now; None when nobody has, or only a zombie that waits for its parent."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except OSError:
            return None
        fields = stat.rpartition(")")[2].split()  # The name before it may hold anything, brackets too.
        return None if fields[0] in "ZX" else cls(pid, f"{boot}/{fields[19]}")

    def lives(self) -> bool:
        """Whether this very process still runs."""
        return Identity.of(self.pid) == self

    def send(self, number: signal.Signals) -> bool:
        """Signal this very process; False when it is gone. The handle is opened first, so a reused number is never hit."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if not self.lives():
                return False
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)
        return True

    def gone(self, within: float) -> bool:
        """Wait up to `within` seconds for its end."""
        return wait_for(lambda: not self.lives(), within)


def wait_for(condition: Callable[[], bool], within: float, every: float = 0.02) -> bool:
    """Look every `every` seconds until `condition` holds; False when `within` seconds were not enough."""
    end = time.monotonic() + within
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(every)
    return True


def tie(parent: int, at_its_death: signal.Signals) -> None:
    """In a new process of `parent`: it gets the signal when the parent ends, and ends now if that has happened already."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(at_its_death))
    if os.getppid() != parent:  # It died between fork and the line above.
        os._exit(1)


@dataclass(frozen=True)
class Account:
    """An unprivileged user to run a child as."""

    name: str
    uid: int
    gid: int


class Child:
    """A process of ours. It gets `at_my_death` from the kernel when the starting process ends, however that ends."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        environment: Mapping[str, str],
        account: Account | None = None,
        directory: Path | None = None,
        at_my_death: signal.Signals = signal.SIGKILL,
    ) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("start children from the main thread: the kernel ties them to the thread that made them")
        self.name = name
        self.log = log
        tied = partial(tie, os.getpid(), at_my_death)
        with log.open("ab") as out:
            self._process: subprocess.Popen[bytes] = _spawn(command, out, dict(environment), account, directory, tied)
        identity = Identity.of(self._process.pid)
        self.identity = identity or Identity(self._process.pid, "ended at once")

    @property
    def pid(self) -> int:
        """Process number."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def running(self) -> bool:
        """Whether it still runs."""
        return self.exit_code() is None

    def send(self, number: signal.Signals) -> None:
        """Signal it, if it still runs. Its number is ours until we have waited for it, so no stranger is hit."""
        self._process.send_signal(number)

    def stop(self, *steps: tuple[signal.Signals, float]) -> None:
        """Each step is a signal and the seconds to wait for the end after it; SIGKILL comes last in any case."""
        for number, seconds in (*steps, (signal.SIGKILL, 10.0)):
            self.send(number)
            if self._ends(seconds):
                return
        raise Trouble(f"{self.name} (process {self.pid}) does not end, not even by SIGKILL")

    def _ends(self, seconds: float) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return not self.running()

    def last_words(self, lines: int = 5) -> str:
        """The end of its log."""
        return last_lines(self.log, lines)


def _spawn(
    command: Sequence[str | Path],
    out: IO[bytes],
    environment: dict[str, str],
    account: Account | None,
    directory: Path | None,
    tie: Callable[[], None],
) -> subprocess.Popen[bytes]:
    credentials = {} if account is None else {"user": account.uid, "group": account.gid, "extra_groups": list[int]()}
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]  # credentials are spread on purpose: absent is not None here.
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd=directory,
        start_new_session=True,  # Ctrl-C is for whoever started it; it ends its children in order.
        preexec_fn=tie,  # noqa: PLW1509  # One thread, and nothing but two system calls. After the change of user, which would clear it.
        **credentials,
    )


def last_lines(log: Path, lines: int) -> str:
    """The last lines of a log, or nothing when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
