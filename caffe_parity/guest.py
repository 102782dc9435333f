"""Code of the user's that runs in this process: a reference, a port, the modules they stand in.

Whatever it does, what was asked ends in a verdict or in words. What it raises, those who call it
tell; this module is about what no `except` sees: an exit past Python, and a fork.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn


class Interrupted(KeyboardInterrupt):
    """Somebody wants the command to end: Ctrl-C, SIGTERM or SIGHUP.

    Attributes:
        signal: its number.
    """

    def __init__(self, signal: int) -> None:
        super().__init__()
        self.signal = signal


class _Watch:
    """What the process that waits for this one knows of it; `cli.supervised` sets it.

    Attributes:
        told: is called with the name of what runs now, "" for nothing of the user's.
        scratch: is called with a folder that is to go, however this process ends.
        seconds: after which what runs now is interrupted; None for never.
        own_signals: whether Ctrl-C raises `Interrupted`, and KeyboardInterrupt is nobody's but the
            user's code.
    """

    told: Callable[[str], None] = staticmethod(lambda what: None)
    scratch: Callable[[str], None] = staticmethod(lambda folder: None)
    seconds: float | None = None
    own_signals: bool = False


class NoAnswer(Exception):
    """Code of the user's took longer than it may."""


WATCH = _Watch()


@contextlib.contextmanager
def running(what: str) -> Iterator[None]:
    """While code of the user's runs: it cannot end this process unseen, nor come back twice.

    Nor does another current folder outlast it: the user's files are named from the first one.

    Args:
        what: "the reference", as messages name it.
    """
    owner, leave, here = os.getpid(), os._exit, os.getcwd()

    def exit_past_python(status: int) -> NoReturn:
        if os.getpid() != owner:  # a child of its own, of multiprocessing for one
            leave(status)
        raise SystemExit(f"os._exit({status})")

    os._exit = exit_past_python
    WATCH.told(what)
    try:
        with _in_time(WATCH.seconds):
            yield
    finally:
        os._exit = leave
        if os.getpid() != owner:  # it forked, and both came back: one of them gives the verdict
            leave(0)
        WATCH.told("")
        with contextlib.suppress(OSError):  # it was removed
            os.chdir(here)


@contextlib.contextmanager
def _in_time(seconds: float | None) -> Iterator[None]:
    """Interrupts what runs too long, between two steps of Python; only the main thread can."""
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_: object) -> NoReturn:
        raise NoAnswer(f"no answer within {seconds:g} s (--timeout)")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def ends_the_run(error: BaseException) -> bool:
    """Whether an error that code of the user's let through is somebody's wish to end it all."""
    by_signal = isinstance(error, Interrupted)
    return by_signal or (isinstance(error, KeyboardInterrupt) and not WATCH.own_signals)
