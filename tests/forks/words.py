"""What is said between who wants a process and the server that forks it.

Of the standard library as little as can be: `python()` is there after milliseconds.

One SEQPACKET connection for each process. The first message says what is to run and carries its three files; the answers are its number,
and at the end its exit code. Whoever hangs up before that has it killed.
"""

import array
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from select import poll
from socket import AF_UNIX, SCM_RIGHTS, SOCK_SEQPACKET, SOL_SOCKET, socket
from typing import Any

SOCKET = "FORKS_SOCKET"
"""The environment's word for the server's address."""
CHECKOUT = "FORKS_CHECKOUT"
"""And for the folder whose code it has loaded."""
MESSAGE_BYTES_MAX = 200_000


def ask(line: socket, module: str, arguments: Sequence[str], environment: Mapping[str, str], folder: str, files: Sequence[int]) -> int:
    """Has a process made; its number."""
    said = json.dumps({"module": module, "arguments": list(arguments), "environment": dict(environment), "folder": folder}).encode()
    line.sendmsg([said], [(SOL_SOCKET, SCM_RIGHTS, array.array("i", files))])
    return int(line.recv(64))


def asked(line: socket) -> tuple[dict[str, Any], list[int]]:
    """What is to run, and its files. Nothing when nobody is there any more."""
    said, ancillary, _, _ = line.recvmsg(MESSAGE_BYTES_MAX, 64)
    files = array.array("i")
    for _level, _kind, data in ancillary:
        files.frombytes(data)
    return (json.loads(said) if said else {}), list(files)


def outcome(line: socket, seconds: float | None) -> int | None:
    """The exit code, None when the process still runs after `seconds`. A server that is gone has taken its processes with it."""
    waiting = poll()
    waiting.register(line, 1)  # POLLIN
    if not waiting.poll(None if seconds is None else seconds * 1000):
        return None
    return int(line.recv(64) or -signal.SIGKILL)


def main(arguments: Sequence[str]) -> None:
    """In Python's place: forks where that is the same, and becomes Python where it is not."""
    environment, here = os.environ, os.getcwd()  # noqa: PTH109  # pathlib takes as long to load as all the rest.
    ours = len(arguments) > 1 and arguments[0] == "-m" and arguments[1].startswith("services.")
    if not ours or environment.get("PYTHONPATH", here) != environment.get(CHECKOUT) or "LD_PRELOAD" in environment:
        os.execv(sys.executable, [sys.executable, *arguments])
    line = socket(AF_UNIX, SOCK_SEQPACKET)
    line.connect(environment[SOCKET])
    pid = ask(line, arguments[1], arguments[2:], environment, here, (0, 1, 2))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda said, _frame: os.kill(pid, said))
    code = outcome(line, None)
    if code is None or code < 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), -(code or -signal.SIGKILL))
    os._exit(code or 0)
