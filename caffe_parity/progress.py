"""How far something that takes its time has come, for whoever waits for it.

Nothing is shown until a command asks for it. On a terminal one line is written over; elsewhere, as
in the log of a CI job, there is a line now and then. Both go to stderr.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

EVERY = {True: 0.2, False: 10.0}
"""Seconds from one line to the next on a terminal, and elsewhere."""


class Progress:
    """What is being done, shown not too often."""

    def __init__(self) -> None:
        self.place = ""
        self._began: float | None = None
        self._told = 0.0

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Shows what is told from here on; a terminal's line is gone at the end."""
        self._began = self._told = time.monotonic()
        try:
            yield
        finally:
            self._began = None
            if sys.stderr.isatty():
                print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def tell(self, words: str) -> None:
        """Tells what is being done at `place`, if it is time for a line."""
        now = time.monotonic()
        terminal = sys.stderr.isatty()
        if self._began is None or now - self._told < EVERY[terminal]:
            return
        self._told = now
        line = f"  {self.place}: {words}, {now - self._began:.0f} s"
        print(
            f"\r\x1b[K{line}" if terminal else line, end="" if terminal else "\n", file=sys.stderr
        )
        sys.stderr.flush()


PROGRESS = Progress()
"""Of this process."""
