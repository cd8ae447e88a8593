"""Lines for the person who waits."""

import sys
import threading
import time
from typing import Final, TextIO

MEGABYTE: Final = 1_000_000


class Console:
    """Says what happens, with seconds since the start; on a terminal a running line is drawn over itself, elsewhere it comes every 5 s."""

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self._out = out
        self._begin = time.monotonic()
        self._live = out.isatty()
        self._drawn = False
        self._last = 0.0

    def elapsed(self) -> float:
        """Seconds since this console was made."""
        return time.monotonic() - self._begin

    def say(self, text: str) -> None:
        """One finished line."""
        self._write(("\r\033[K" if self._drawn else "") + f"[{self.elapsed():5.1f}s] {text}\n")
        self._drawn = False

    def tick(self, text: str) -> None:
        """A line that will soon be out of date."""
        now = time.monotonic()
        if now - self._last < (0.2 if self._live else 5.0):
            return
        self._last = now
        if self._live:
            self._write(f"\r\033[K[{self.elapsed():5.1f}s] {text}")
            self._drawn = True
        else:
            self.say(text)

    def pass_on(self, text: str) -> None:
        """What another console has said already."""
        if text:
            self._write(text)

    def _write(self, text: str) -> None:
        try:
            self._out.write(text)
            self._out.flush()
        except (BrokenPipeError, OSError):  # The reader is gone; what we do goes on.
            self._live = False


class Download:
    """Counts the bytes of several downloads at once."""

    def __init__(self, console: Console, label: str, total: int) -> None:
        self._console = console
        self._label = label
        self._total = total
        self._done = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """So many more bytes have come."""
        with self._lock:
            self._done += count
            share = 100 * self._done // max(1, self._total)
            self._console.tick(f"{self._label}: {self._done / MEGABYTE:.0f} of {self._total / MEGABYTE:.0f} MB, {share} %")
