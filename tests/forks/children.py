"""What a test holds: the program that forks, and a child of its own number."""

import atexit
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from shutil import rmtree
from socket import AF_UNIX, SOCK_SEQPACKET, socket
from time import monotonic, sleep

from deploy.local.children import Child, Identity
from deploy.local.places import CHECKOUT
from tests.forks.words import CHECKOUT as HERE
from tests.forks.words import SOCKET, ask, outcome

READY_SECONDS_MAX = 60.0
PROGRAM = """#!{python} -IS
import sys
sys.path.insert(0, "{checkout}")
from tests.forks.words import main
main(sys.argv[1:])
"""


@cache
def _server() -> Path:
    """The address of this process's server, which ends with it."""
    folder = Path(tempfile.mkdtemp(prefix="leifeng-forks-"))
    address = folder / "socket"
    log = folder / "log"
    child = Child("forks", [sys.executable, "-m", "tests.forks.server", address], log=log, environment=dict(os.environ), directory=CHECKOUT)
    end = monotonic() + READY_SECONDS_MAX
    while not address.exists():
        assert child.running(), child.last_words(20)
        assert monotonic() < end, "the server of forks does not come up"
        sleep(0.02)
    maker = os.getpid()

    def clear() -> None:
        if os.getpid() == maker:
            child.stop()
            rmtree(folder, ignore_errors=True)

    atexit.register(clear)
    os.environ[SOCKET], os.environ[HERE] = str(address), str(CHECKOUT)
    return address


@cache
def python() -> str:
    """The program. Its server is started by the first who asks; the environment of whoever calls the program names it."""
    program = _server().with_name("python")
    program.write_text(PROGRAM.format(python=sys.executable, checkout=CHECKOUT), encoding="utf-8")
    program.chmod(0o700)
    return str(program)


def start(
    name: str,
    module: str,
    *arguments: str,
    log: Path,
    environment: Mapping[str, str],
    directory: Path = CHECKOUT,
    forked: bool = True,
) -> Child:
    """A process of a module: forked, or where that is not the same (other code, another clock) begun as Python begins."""
    if forked and directory == CHECKOUT and not any(each.startswith("clock=") for each in arguments):
        return Forked(name, module, *arguments, log=log, environment=environment)
    return Child(name, [sys.executable, "-m", module, *arguments], log=log, environment=environment, directory=directory)


class Forked(Child):
    """A service process that a test holds by its own number, as it holds any other child."""

    def __init__(self, name: str, module: str, *arguments: str, log: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        self._line = socket(AF_UNIX, SOCK_SEQPACKET)
        self._line.connect(str(_server()))
        with log.open("ab") as out, Path(os.devnull).open("rb") as nothing:
            self._pid = ask(self._line, module, arguments, environment, str(CHECKOUT), (nothing.fileno(), out.fileno(), out.fileno()))
        self._handle = os.pidfd_open(self._pid)
        self._code: int | None = None
        self.identity = Identity.of(self._pid) or Identity(self._pid, "ended at once")

    @property
    def pid(self) -> int:
        """Process number."""
        return self._pid

    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._outcome(0)

    def send(self, number: signal.Signals) -> None:
        """Signal it, if it still runs."""
        if self.exit_code() is None:
            try:
                signal.pidfd_send_signal(self._handle, number)
            except ProcessLookupError:
                return

    def _ends(self, seconds: float) -> bool:
        return self._outcome(seconds) is not None

    def _outcome(self, seconds: float) -> int | None:
        if self._code is None:
            self._code = outcome(self._line, seconds)
            if self._code is not None:
                self._line.close()
                os.close(self._handle)
        return self._code
