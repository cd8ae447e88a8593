"""`python -m tests.faults --profile smoke|long --seed N [--only F13,F5] [--minutes M] [--small]`; see `tests/faults/README.md`."""

import argparse
import asyncio
import fcntl
import logging
import signal
import sys
import tempfile
from pathlib import Path
from typing import TextIO

from tests.faults.nemesis.fault import LONG, SMOKE
from tests.faults.run import Options, Run

OVERTIME_MINUTES = 10.0
"""Past its time a run is ended: something in it waits for ever."""


async def _within_its_time(run: Run) -> None:
    task = asyncio.current_task()
    assert task is not None
    for each in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(each, task.cancel)
    async with asyncio.timeout(60 * ((run.options.minutes or run.profile.minutes) + OVERTIME_MINUTES)):
        await run.play()


def _alone() -> TextIO:
    """Waits until no other run goes on here, and keeps others waiting until it is closed: two would miss their goals by one another."""
    lock = (Path(tempfile.gettempdir()) / "leifeng-faults.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("another run of the faults goes on on this machine: waiting for its end", flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def main() -> None:
    """Ends with 1 when anything was not as it must be."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--profile", choices=(SMOKE, LONG), default=SMOKE)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="codes of faults, separated by commas: each of them once, and no others")
    parser.add_argument("--minutes", type=float, help="in all, instead of the profile's")
    parser.add_argument(
        "--small", action="store_true", help="one broker, one PostgreSQL and few people: not for faults of brokers and standbys"
    )
    given = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # What its brokers suffer is known here.
    alone = _alone()
    run = Run(Options(given.profile, given.seed, frozenset(filter(None, given.only.split(","))), given.minutes, given.small))
    try:
        asyncio.run(_within_its_time(run))
    except BaseException as error:  # noqa: BLE001  # Also when it was interrupted: what is known so far is kept.
        run.keep_failure(error)
        sys.exit(1)
    finally:
        alone.close()


if __name__ == "__main__":
    main()
