"""A command in a process of its own, whose end another one waits for.

A reference or a port runs in the same process as the command, and can end it: an exit past Python,
a segfault in its C++, the kernel where memory is short. Whoever waits knows whether there was a
verdict, and without one the exit status is 2. It also ends what was left running. The process is
forked before anything large is imported, which takes a millisecond.
"""

from __future__ import annotations

import atexit
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn, TextIO

from caffe_parity.guest import WATCH, Interrupted

PATIENCE = 10.0
"""Seconds in which it must end after SIGTERM or SIGHUP; code of the user's may ignore them."""

NOTE = 4096
"""Bytes for the name of what runs."""

AGAIN = 1.0
"""Seconds in which a second Ctrl-C is the first one: both processes are sent it."""

_SUBREAPER, _DEATH_SIGNAL = 36, 1  # <sys/prctl.h>
_BY_KERNEL = 0x80  # SI_KERNEL: from the terminal, which both processes belong to


def supervised(command: Callable[[], int]) -> int:
    """Runs a command; returns its exit status, or 2 and says why if it ended without one.

    Only Linux lends what this needs; elsewhere the command runs as it is.
    """
    _open_all_streams()
    if sys.platform != "linux":
        return command()
    import ctypes
    import mmap

    system = ctypes.CDLL(None)
    note = mmap.mmap(-1, NOTE)
    read, tell = os.pipe()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_ending(), signal.SIGCHLD})
    parent, child = os.getpid(), os.fork()
    if not child:
        system.prctl(_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:
            signal.raise_signal(signal.SIGTERM)  # as soon as it is no longer blocked
        _work(command, tell, note, before)
    os.close(tell)
    system.prctl(_SUBREAPER, 1)
    ended, killed = _waited_for(child)
    told = _everything(read).split(b"\0")
    verdicts = [int(each[1:]) for each in told if each[:1] == b"E"]
    status = killed or ended
    if verdicts != [ended]:
        _remove([os.fsdecode(each[1:]) for each in told if each[:1] == b"S"])
        if not killed:
            status = 2
        if sys.stderr.isatty():
            print("\x1b[?25h", end="", file=sys.stderr)  # the cursor, which a bar hides
        running = bytes(note[:]).rstrip(b"\0").decode(errors="replace")
        print(f"parity: {_no_verdict(ended, killed, running)}", file=_heedless(sys.stderr, True))
    _end_what_is_left()
    return status


def _ending() -> tuple[signal.Signals, ...]:
    every = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    return tuple(each for each in every if signal.getsignal(each) != signal.SIG_IGN)  # nohup


def _work(command: Callable[[], int], tell: int, note: Any, mask: Any) -> NoReturn:
    """Runs the command, in the child, and tells its exit status at the end."""

    def running(what: str) -> None:
        text = what.encode(errors="replace")[:NOTE]
        note[:] = text.ljust(NOTE, b"\0")

    def scratch(folder: str) -> None:
        os.write(tell, b"S" + os.fsencode(folder) + b"\0")

    WATCH.told, WATCH.scratch, WATCH.own_signals = running, scratch, True
    threading.excepthook = _in_a_thread
    handled = _ending()
    for each in handled:
        signal.signal(each, _Interrupt())
    os.register_at_fork(  # a child of multiprocessing ends as any other does
        after_in_child=lambda: [signal.signal(each, signal.SIG_DFL) for each in handled] and None
    )
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    sys.stdout, sys.stderr = _heedless(sys.stdout, False), _heedless(sys.stderr, True)
    status = 2
    try:
        status = command()
        sys.stdout.flush()
    except Interrupted as interrupted:
        status = 128 + interrupted.signal
    except OSError as error:  # a full disk
        print(f"parity: the output cannot be written: {error.strerror}", file=sys.stderr)
        status = 2
    atexit._run_exitfuncs()  # threads of the user's that run on are not waited for
    try:
        os.write(tell, b"E%d\0" % status)
    except OSError:  # the verdict cannot be told, nor could what led to it be trusted
        running("the reference or the port, which closed file descriptors that are not its own,")
        status = 2
    os._exit(status)


def _in_a_thread(arguments: threading.ExceptHookArgs) -> None:
    """Tells of an exception in a thread of the user's, which nobody else hears of."""
    import traceback

    frames = traceback.extract_tb(arguments.exc_traceback)
    place = f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""
    said = f"{place}{arguments.exc_type.__name__}: {arguments.exc_value}"
    if said not in _told:
        _told.add(said)
        print(f"note: a thread ended with an exception: {said}", file=sys.stderr)


_told: set[str] = set()
"""Exceptions of threads: a reference runs many times."""


class _Interrupt:
    """What Ctrl-C, SIGTERM and SIGHUP do; after the last two nothing interrupts the cleaning up."""

    def __init__(self) -> None:
        self.last = -AGAIN

    def __call__(self, number: int, frame: object) -> None:
        if number != signal.SIGINT:
            for each in _ending():
                signal.signal(each, signal.SIG_IGN)
        elif time.monotonic() - self.last < AGAIN:
            return
        self.last = time.monotonic()
        raise Interrupted(number)


def _waited_for(child: int) -> tuple[int, int]:
    """How the child ended, and the exit status if it was killed since it did not end by itself."""
    waited = {*_ending(), signal.SIGCHLD}
    deadline = asked = killed = 0.0
    while True:
        left = max(0.0, deadline - time.monotonic()) if deadline else 1e6
        said = signal.sigtimedwait(waited, left)
        if said is None:
            os.kill(child, signal.SIGKILL)
            deadline, killed = 0.0, asked
        elif said.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status), int(killed)
        elif said.si_signo != signal.SIGINT or said.si_code != _BY_KERNEL:
            os.kill(child, said.si_signo)
            if said.si_signo != signal.SIGINT and not deadline:
                deadline, asked = time.monotonic() + PATIENCE, 128 + said.si_signo


def _everything(descriptor: int) -> bytes:
    """What is in a pipe, which other processes may hold open."""
    os.set_blocking(descriptor, False)
    data = b""
    try:
        while piece := os.read(descriptor, 1 << 16):
            data += piece
    except BlockingIOError:
        pass
    return data


def _no_verdict(ended: int, killed: int, running: str) -> str:
    if killed:
        return f"ended by force: {running or 'it'} did not stop within {PATIENCE:g} s"
    if running and ended == -signal.SIGKILL:
        return (
            f"the process was killed (SIGKILL) while {running} ran, so there is no verdict: most "
            "often the system does that where there is not memory enough"
        )
    try:
        how = f"with exit status {ended}" if ended >= 0 else f"by {signal.Signals(-ended).name}"
    except ValueError:
        how = f"by signal {-ended}"
    if running:
        return (
            f"{running} ended the process ({how}), so there is no verdict: it must return, or "
            "raise an error that says what is wrong"
        )
    return f"the process ended {how} before there was a verdict (is there memory enough?)"


def _remove(folders: list[str]) -> None:
    import shutil

    for each in folders:
        shutil.rmtree(each, ignore_errors=True)


def _end_what_is_left() -> None:
    """Kills what the command started and left: it belongs to this process now."""
    while left := _children():
        for each in left:
            os.kill(each, signal.SIGKILL)
            os.waitpid(each, 0)


def _children() -> list[int]:
    found = []
    own = str(os.getpid())
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat") as file:
                    _, _, fields = file.read().rpartition(")")  # a name may have brackets
            except OSError:
                continue  # it has ended
            if fields.split()[1] == own:
                found.append(int(name))
    return found


def _open_all_streams() -> None:
    """Opens what the caller has closed: the next file must not be taken for standard output."""
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(opened, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115


class _Pipe(io.FileIO):
    """An output whose reader may have gone, as `head` does: nobody misses what follows."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(memoryview(data))


class _Harmless(io.TextIOWrapper):
    """An output of which GitHub Actions takes no line for a command, whoever wrote it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        from caffe_parity.report.annotations import Harmless

        super().__init__(*arguments, **options)
        self.made_harmless = Harmless()

    def write(self, text: str, /) -> int:
        super().write(self.made_harmless(text))
        return len(text)


def _heedless(stream: TextIO, by_line: bool) -> TextIO:
    """The same output, which neither a gone reader nor a name in another encoding stops."""
    kind = _Harmless if os.environ.get("GITHUB_ACTIONS") == "true" else io.TextIOWrapper
    return kind(
        io.BufferedWriter(_Pipe(stream.fileno(), "wb", closefd=False)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=by_line or stream.isatty(),
    )
