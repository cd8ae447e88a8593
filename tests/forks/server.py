"""`python -m tests.forks.server SOCKET`: loads the three services once, and forks a process of one whenever it is asked."""

import contextlib
import gc
import importlib
import io
import os
import random
import runpy
import selectors
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from socket import AF_UNIX, SOCK_SEQPACKET, socket
from typing import Any, NoReturn

from deploy.local.children import tie
from tests.forks import words

LOADED = (
    "services.registration.main", "services.hours.main", "services.recognition.main", "shared.http.app", "faststream.kafka", "fastapi",
    "uvicorn.lifespan.on", "uvicorn.loops.auto", "uvicorn.protocols.http.auto", "tests.faults.orders",
)  # fmt: skip


def main(address: str) -> None:
    """Serves until it is ended, and its processes with it."""
    for name in LOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # Else the first collection of every process copies all of this.
    listener = socket(AF_UNIX, SOCK_SEQPACKET)
    listener.bind(f"{address}.new")
    listener.listen(64)
    Path(f"{address}.new").rename(address)
    Server(listener).run()


class Server:
    """The open lines, each with the process at its other end."""

    def __init__(self, listener: socket) -> None:
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, None)
        self._processes: dict[socket, tuple[int, int]] = {}

    def run(self) -> NoReturn:
        """One after the other: a fork takes milliseconds."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    line, _ = self._listener.accept()
                    self._selector.register(line, selectors.EVENT_READ, line)
                elif isinstance(key.fileobj, socket):
                    self._heard(key.fileobj)
                else:
                    self._ended(key.data)

    def _heard(self, line: socket) -> None:
        said, files = words.asked(line)
        if not said:  # Whoever wanted it is gone.
            if line in self._processes:
                os.kill(self._processes[line][0], signal.SIGKILL)
                self._selector.unregister(line)
            else:
                self._close(line)
            return
        server, pid = os.getpid(), os.fork()
        if pid == 0:
            self._become(server, said, files)
        for each in files:
            os.close(each)
        handle = os.pidfd_open(pid)
        self._processes[line] = (pid, handle)
        self._selector.register(handle, selectors.EVENT_READ, line)
        self._say(line, pid)

    def _ended(self, line: socket) -> None:
        pid, handle = self._processes.pop(line)
        _, status = os.waitpid(pid, 0)
        self._selector.unregister(handle)
        os.close(handle)
        self._say(line, os.waitstatus_to_exitcode(status))
        self._close(line)

    def _say(self, line: socket, number: int) -> None:
        with contextlib.suppress(OSError):
            line.send(str(number).encode())

    def _close(self, line: socket) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(line)
        line.close()

    def _become(self, server: int, said: dict[str, Any], files: Sequence[int]) -> NoReturn:
        """In the new process: what Python itself does between its start and the module."""
        code = 1
        try:
            self._selector.close()
            self._listener.close()
            for line, (_, handle) in self._processes.items():
                line.close()
                os.close(handle)
            tie(server, signal.SIGKILL)
            os.setsid()
            for number, file in enumerate(files):
                os.dup2(file, number)
            os.chdir(said["folder"])
            os.environ.clear()
            os.environ.update(said["environment"])
            at_once = bool(said["environment"].get("PYTHONUNBUFFERED"))
            sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
            sys.stdout = io.TextIOWrapper(open(1, "wb", closefd=False), "utf-8", write_through=at_once, line_buffering=at_once)  # noqa: SIM115
            sys.stderr = io.TextIOWrapper(open(2, "wb", closefd=False), "utf-8", "backslashreplace", line_buffering=True)  # noqa: SIM115
            random.seed()
            sys.argv = [said["module"], *said["arguments"]]
            runpy.run_module(said["module"], run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1])
