"""`python -m tests.faults.launcher SERVICE ROLE ORDER...`: a service process as it is, to which something is done from outside.

Orders are those of `tests.faults.orders`, and `clock=FILE`: the clock of the process is what libfaketime reads in the file, time and again.
"""

import importlib
import os
import sys
from pathlib import Path

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")


def main(service: str, role: str, *orders: str) -> None:
    """Begins again under another clock, as the same process, before anything big is loaded; steady clocks stay steady."""
    clocks = [order.removeprefix("clock=") for order in orders if order.startswith("clock=")]
    if clocks and "FAKETIME_TIMESTAMP_FILE" not in os.environ:
        fake = {"LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": clocks[0], "FAKETIME_NO_CACHE": "1", "DONT_FAKE_MONOTONIC": "1"}
        os.execve(sys.executable, [sys.executable, "-m", "tests.faults.launcher", service, role, *orders], {**os.environ, **fake})
    importlib.import_module("tests.faults.orders").run(service, role, [order for order in orders if not order.startswith("clock=")])


if __name__ == "__main__":
    main(*sys.argv[1:])
