"""How far something that takes its time has come, for whoever waits for it; all of it on stderr.

On a terminal there is a bar, from the third second on, with the time that is left; elsewhere, as in
the log of a CI job, a line now and then.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from caffe_parity.terminal import coloured, is_terminal

AFTER = 2.0
"""Seconds before which a terminal shows nothing: most of what is asked has ended by then."""

EVERY = {True: 0.2, False: 10.0}
"""Seconds from one look, or line, to the next on a terminal, and elsewhere."""


class Progress:
    """What is being done, shown not too often.

    Attributes:
        place: the step that `tell` speaks of, such as a case.
        part: how much of all is done by then, from 0 to 1; None where that is not known.
        took: the seconds that each step has taken, in their order.
    """

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.place = ""
        self.part: float | None = None
        self.took: dict[str, float] = {}
        self._stream = stream
        self._began: float | None = None
        self._since = 0.0
        self._told = 0.0
        self._step: str | None = None
        self._bar: Any = None
        self._seen: tuple[float | None, float] = (None, 0.0)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Shows what `tell` is told meanwhile; a terminal's bar is gone at the end."""
        self.begin()
        try:
            yield
        finally:
            self.close()

    def begin(self) -> None:
        """Shows what `tell` is told from here on."""
        self._began = self._told = time.monotonic()
        self.part = None

    def tell(self, words: str) -> None:
        """Tells what is being done at `place`, if that is shown, and it is time for a line."""
        if self._began is not None:
            self._show(f"  {self.place}: {words}", self.part, self._began)

    def __call__(self, step: str, detail: str = "", part: float | None = None) -> None:
        """Tells that a step is going on; its first line is there at once, but on a terminal.

        Args:
            step: the step; the time that is left is that of the step.
            detail: how far it is, such as "3 of 7".
            part: the same as a number from 0 to 1, if that is known.
        """
        now = time.monotonic()
        if self._step is None or self._began is None:
            self._began = now
        if step != self._step:
            self._ended()
            self._step, self._since, self._told = step, now, 0.0
        self._show(f"{step} {detail}".strip(), part, self._since)

    def _show(self, line: str, part: float | None, since: float) -> None:
        now, stream = time.monotonic(), self._stream or sys.stderr
        terminal = is_terminal(stream)
        if now - self._told < EVERY[terminal] and self._told:
            return
        if terminal and now - (self._began or now) < AFTER:
            return
        self._told = now
        seconds = now - since
        if part != self._seen[0]:  # the seconds that this part took
            self._seen = part, seconds
        whole = self._seen[1] / part if part and seconds > 1 else 0.0
        left = f", about {_spoken(whole - seconds)} left" if whole > seconds else ""
        times = f"{seconds:.0f} s{left}"
        if terminal:
            self._draw(line.strip(), part, times)
        else:
            print(line if self._step and not left else f"{line}, {times}", file=stream, flush=True)

    def _draw(self, line: str, part: float | None, times: str) -> None:
        """The bar. Nothing of rich runs beside: no thread, and no other stdout."""
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            stream = self._stream or sys.stderr
            plain = not coloured(stream)
            console = Console(file=stream, force_terminal=True, no_color=plain, highlight=False)
            self._bar = Bar(
                TextColumn("{task.description}", markup=False),
                BarColumn(20, complete_style="cyan", finished_style="cyan"),
                TextColumn("{task.fields[times]}", markup=False),
                console=console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._bar.add_task("", total=1, times="")
        total = None if part is None else 1
        self._bar.update(0, description=line, total=total, completed=part or 0, times=times)
        if self._bar.live.is_started:
            self._bar.refresh()
        else:
            self._bar.start()

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        self.aside()
        print(text, file=self._stream or sys.stderr, flush=True)
        self._told = 0.0

    def _ended(self) -> None:
        """The step that is going on, if one is, has taken so long."""
        if self._step is not None:
            seconds = time.monotonic() - self._since
            self.took[self._step] = self.took.get(self._step, 0.0) + seconds

    def close(self) -> None:
        """Nothing is going on any more."""
        self.aside()
        self._ended()
        self._began = self._step = None
        self._told = 0.0

    def mute(self) -> None:
        """Shows nothing any more: of a copy of the process that does."""
        self._began = self._bar = None

    def aside(self) -> None:
        """Takes the bar away, for a line on stdout; the next look brings it back."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _spoken(seconds: float) -> str:
    """A time that is left, as nobody needs it more exactly."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


PROGRESS = Progress()
"""Of this process."""
