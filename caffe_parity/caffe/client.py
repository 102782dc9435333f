"""Talks to `worker.py`: starts it, sends it ops, survives whatever happens in it.

The worker lives between requests, so that Caffe is imported once. When it dies or falls silent
the request ends in a typed error that carries what was printed, and the next request gets a fresh
worker. So it does when the last one left the worker in a state that others must not inherit: dead,
in another folder, under other limits, without its output, with much more memory than at first, or
with Python layers that have changed since.
Nothing is left behind: the arrays and the captured output lie in anonymous files, which vanish with
the processes that hold them.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import re
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from caffe_parity.caffe.interpreter import Interpreter, NoCaffe, verify
from caffe_parity.contract import Array32, ParityError, Shape

WORKER = Path(__file__).parent / "worker" / "worker.py"
ALIGNMENT = 64  # bytes, as in the worker
START_SECONDS = 120.0  # importing caffe takes 1 to 2 s; a cold disk may need far longer
OUTPUT_LIMIT = 20_000  # characters of captured output that an error carries
LOG_LIMIT = 1 << 26  # bytes; what a layer prints without end would else fill the memory
MESSAGE_LIMIT = 1 << 28  # bytes; any four printable characters make a larger length

GROWTH_LIMIT = 1 << 30
"""Bytes by which a worker's own memory may grow before the next request gets a fresh one.

Measured over 10,000 small nets in one worker: 40 KiB with built-in layers, 23.5 MiB with a Python
layer, which holds a reference to itself and is never freed, nor are the arrays that it keeps. The
whole suite takes 63 MiB. So only a layer that leaks, or keeps large arrays, gets here.
"""

SPIN = 2e-4  # seconds of looking for an answer before sleeping: to be woken takes some 2e-5
MOST_VIEWS = 256  # of the shared file, that are kept: to make one takes as long as a small copy

LINE_LIMIT = 2_000
"""Characters of a line; Caffe's list of its layer types has about 1,000."""

Op = dict[str, Any]
"""One op of the protocol; a NumPy array in it travels through the shared file."""


class CaffeError(ParityError):
    """Something went wrong on Caffe's side.

    Attributes:
        output: what the worker and its layers printed during the request.
    """

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(_clipped(message))
        self.output = _clipped(output)


def _clipped(text: str) -> str:
    """A text whose lines are none that fill a screen: what a layer prints may have no line ends."""
    return "\n".join(
        line if len(line) <= LINE_LIMIT else f"{line[:LINE_LIMIT]} [... {len(line)} characters]"
        for line in text.split("\n")
    )


class CaffeCrash(CaffeError):
    """The process ended: a failed CHECK, a signal, or an exit."""


class CaffeHang(CaffeError):
    """No answer within the time-out; the process was killed."""


class LayerError(CaffeError):
    """Python raised inside Caffe; the message is the exception.

    Attributes:
        traceback: the layer's own traceback.
    """

    def __init__(self, message: str, output: str, traceback: str) -> None:
        super().__init__(message, output)
        self.traceback = _clipped(traceback)


class NetError(CaffeError):
    """The net is not one that can be run."""


class RequestError(CaffeError):
    """The request was wrong."""


class NoDevice(CaffeError):
    """Caffe was to run on a GPU, and there is none; the message says what the driver said."""


class _NotAnAnswer(Exception):
    """What came through the reply pipe was not written by the worker."""


class _Process:
    """One worker process and the descriptors that lead to it."""

    def __init__(self, interpreter: Interpreter, mode: str) -> None:
        import fcntl  # this module's errors are wanted where Python has none, too

        self.arrays = os.memfd_create("parity-arrays")
        self.log = os.memfd_create("parity-output")
        fcntl.fcntl(self.log, fcntl.F_SETFL, os.O_APPEND)
        theirs_in, self.requests = os.pipe()
        self.replies, theirs_out = os.pipe()
        numbers = (theirs_in, theirs_out, self.arrays, GROWTH_LIMIT)
        arguments = [str(WORKER), *map(str, numbers)]
        if mode == "gpu":
            arguments.append("--gpu")
        # Linux sends the death signal when the parent *thread* ends: only the main one may ask.
        if threading.current_thread() is threading.main_thread():
            arguments.append("--die-with-parent")
        try:
            self.process = subprocess.Popen(
                [*interpreter.command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=self.log,
                stderr=self.log,
                env={**os.environ, **interpreter.environment, "PYTHONUNBUFFERED": "1"},
                pass_fds=(theirs_in, theirs_out, self.arrays),
                start_new_session=True,  # so that whatever it forks dies with it
            )
        except BaseException:
            for descriptor in (self.arrays, self.log, self.requests, self.replies):
                os.close(descriptor)
            raise
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        os.set_blocking(self.requests, False)
        os.set_blocking(self.replies, False)
        self.exit_watch = os.pidfd_open(self.process.pid)
        self._area: mmap.mmap | None = None
        self._views: dict[tuple[int, ...], Array32] = {}
        self.sent = 0  # bytes of the last message
        self.end = weakref.finalize(
            self,
            _end,
            self.process,
            (
                self.requests,
                self.replies,
                self.arrays,
                self.log,
                self.exit_watch,
            ),
        )

    def send(self, message: Mapping[str, Any], seconds: float) -> None:
        """Sends a message; to a process that has ended, nothing: `receive` says that it has.

        Raises:
            TimeoutError: it did not take it for that long.
        """
        body = _encode(message).encode()
        data = struct.pack(">I", len(body)) + body
        deadline = time.monotonic() + seconds
        self.sent, watch = 0, None
        while True:
            try:
                written = os.write(self.requests, data)
            except BrokenPipeError:
                return
            except BlockingIOError:
                written = 0
            self.sent += written
            data = data[written:]
            if not data:
                return
            events = {self.requests: select.POLLOUT, self.exit_watch: select.POLLIN}
            watch = watch or _watched(events)
            ready = _ready(watch, deadline - time.monotonic())
            if not ready:
                raise TimeoutError
            if self.requests not in ready:
                return

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """The next message, or None when the process ended instead.

        Raises:
            TimeoutError: it said nothing for that long.
            _NotAnAnswer: it was no message of the protocol.
        """
        deadline = time.monotonic() + seconds
        data, watch = self._soon(), None
        # A child that the layer forked may hold the pipe open, so its end is no proof; nor is it
        # when it comes: a layer may have closed the pipe and run on.
        while len(data) < 4 or len(data) < 4 + _length(data):
            watch = watch or _watched({self.replies: select.POLLIN, self.exit_watch: select.POLLIN})
            left = deadline - time.monotonic()
            ready = _ready(watch, min(1.0, left))
            if self.replies in ready:
                piece = os.read(self.replies, 1 << 16)
                data += piece
                if not piece:
                    watch.unregister(self.replies)
            elif self.exit_watch in ready:
                return None
            elif left <= 0:
                raise TimeoutError
            if os.fstat(self.log).st_size > LOG_LIMIT:
                os.ftruncate(self.log, 0)
        try:
            message = json.loads(data[4:])
        except ValueError as error:
            raise _NotAnAnswer from error
        if not isinstance(message, dict) or not {"results", "error", "caffe"} & message.keys():
            raise _NotAnAnswer
        return message

    def _soon(self) -> bytes:
        """What can be read within SPIN seconds; others that want the core get it."""
        end = time.monotonic() + SPIN
        while time.monotonic() < end:
            with contextlib.suppress(BlockingIOError):
                return os.read(self.replies, 1 << 16)
            os.sched_yield()
        return b""

    def view(self, offset: int, shape: Shape) -> Array32:
        """An array in the shared file, which is mapped once and again when it has grown.

        Raises:
            OSError: there is no memory for so long a file.
        """
        found = self._views.get((offset, *shape))
        if found is not None:
            return found
        count = math.prod(shape)
        end = offset + 4 * count
        if not count:
            return np.empty(shape, np.float32)
        if len(self._views) >= MOST_VIEWS:
            self._views.clear()
        if self._area is None or len(self._area) < end:
            size = os.fstat(self.arrays).st_size
            if end > size:  # allocated now, so that a lack of memory is an error and no SIGBUS
                os.posix_fallocate(self.arrays, size, end - size)
            self._area = mmap.mmap(self.arrays, max(size, end))
            self._views.clear()  # they would keep the old one
        view = np.frombuffer(self._area, np.float32, count, offset).reshape(shape)
        self._views[(offset, *shape)] = view
        return view

    @property
    def unread(self) -> bool:
        """Whether nothing of the last message has been read."""
        import fcntl
        import termios

        waiting = fcntl.ioctl(self.requests, termios.FIONREAD, b"\0" * 4)
        return int.from_bytes(waiting, sys.byteorder) == self.sent

    def output(self) -> str:
        """What was printed since the last call."""
        size = os.fstat(self.log).st_size
        if not size:
            return ""
        start = max(0, size - OUTPUT_LIMIT)
        text = os.pread(self.log, size - start, start).decode(errors="replace")
        os.ftruncate(self.log, 0)
        return ("[...]\n" if start else "") + text


_encode = json.JSONEncoder(check_circular=False, separators=(",", ":")).encode


def _length(data: bytes) -> int:
    """The length that a message begins with."""
    length: int = struct.unpack(">I", data[:4])[0]
    if length > MESSAGE_LIMIT:
        raise _NotAnAnswer
    return length


def _watched(events: Mapping[int, int]) -> select.poll:
    watch = select.poll()
    for descriptor, event in events.items():
        watch.register(descriptor, event)
    return watch


def _ready(watch: select.poll, seconds: float) -> set[int]:
    """The descriptors at which something happens within that time."""
    return {descriptor for descriptor, _ in watch.poll(max(0.0, 1000 * seconds))}


def _kill(process: subprocess.Popen[bytes]) -> int:
    """Kills the process and all that it started; returns its exit status."""
    if process.returncode is None:  # later its id may be another's
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def _end(process: subprocess.Popen[bytes], descriptors: Sequence[int]) -> None:
    """Kills the process and all that it started, and closes what led to it."""
    _kill(process)
    for descriptor in descriptors:
        os.close(descriptor)


class Caffe:
    """A real Caffe in another process; restarts by itself after a crash.

    Args:
        interpreter: how to start a Python that can import caffe.
        timeout: seconds that one request may take before it counts as a hang.
        mode: "gpu" runs Caffe on the first CUDA device; the Caffe must be one built with CUDA.
    """

    def __init__(
        self,
        interpreter: Interpreter,
        timeout: float = 60.0,
        mode: Literal["cpu", "gpu"] = "cpu",
    ) -> None:
        self.interpreter = interpreter
        self.timeout = timeout
        self.mode = mode
        self.greeting: dict[str, Any] = {}
        self._process: _Process | None = None

    def __enter__(self) -> Caffe:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the worker, if there is one."""
        if self._process is not None:
            self._process.end()
            self._process = None

    @property
    def pid(self) -> int | None:
        """The process id of the worker, or None when none is running."""
        return self._process.process.pid if self._process else None

    def launch(self) -> None:
        """Starts the worker if none is running, and does not wait until it has imported caffe.

        Raises:
            NoCaffe: the process cannot be started.
        """
        if self._process is None:
            self.greeting = {}
            try:
                self._process = _Process(self.interpreter, self.mode)
            except OSError as error:
                raise NoCaffe(f"{' '.join(self.interpreter.command)}: {error}") from error

    def start(self) -> dict[str, Any]:
        """Starts the worker if none is running; returns its greeting (versions, layer types).

        Raises:
            NoCaffe: the interpreter cannot import caffe, or in mode "gpu" its Caffe has no CUDA, or
                cannot use the device that there is.
            NoDevice: in mode "gpu", there is no CUDA device.
            CaffeHang: importing caffe took too long.
        """
        self.launch()
        assert self._process is not None
        if not self.greeting:
            with self._guarded(START_SECONDS) as process:
                greeting = process.receive(START_SECONDS)
            if greeting is None or "error" in greeting:
                output = self._process.output()
                self.close()
                raise self._not_started(greeting["error"] if greeting else None, output)
            self.greeting = greeting
        return self.greeting

    def request(self, ops: Sequence[Op]) -> list[dict[str, Any]]:
        """Carries out the ops in order; returns one result for each, arrays as NumPy copies.

        Raises:
            NetError, RequestError: what was asked cannot be done; nothing is broken.
            LayerError: a Python layer raised.
            CaffeCrash, CaffeHang: the worker is gone; the next request starts another.
            NoCaffe, NoDevice: as `start`.
        """
        results = self._attempted(ops)
        if results is None:
            self.close()
            results = self._attempted(ops)
        if results is None:
            raise self._crash()
        return results

    def _attempted(self, ops: Sequence[Op]) -> list[dict[str, Any]] | None:
        """The results, or None when the worker cannot serve the request and another one might.

        It ended before it began with it, of something that came before, or it has imported a Python
        layer that is another one by now.
        """
        self.start()
        with self._guarded(self.timeout) as process:
            process.output()
            process.send(self._laid_out(ops), self.timeout)
            reply = process.receive(self.timeout)
            if reply is None:
                if process.unread:
                    return None
                raise self._crash()
            if "error" in reply:
                if reply["error"]["kind"] == "stale":
                    return None
                raise self._typed(reply["error"])
            results: list[dict[str, Any]] = reply["results"]
            for result in results:
                if "array" in result:
                    place = result["array"]
                    result["array"] = process.view(place["offset"], place["shape"]).copy()
        return results

    def _not_started(self, error: Mapping[str, Any] | None, output: str) -> Exception:
        """What to raise without a greeting: `error` is the worker's; None if it just ended."""
        kind = error["kind"] if error else ""
        if error and kind == "no device":
            return NoDevice(error["message"], output)
        if error and kind == "no cuda":
            return NoCaffe(
                f"GPU mode needs a Caffe with CUDA; {error['message']}.",
                "set PARITY_CAFFE=cuda, or CAFFE_PYTHON to the Python of a Caffe with CUDA.",
            )
        verify(self.interpreter)  # raises NoCaffe with advice if that is the cause
        message = error["message"] if error else fatal_line(output)
        if self.mode == "gpu":
            message = message or "the worker ended"
            return NoCaffe(
                f"Caffe cannot use the CUDA device: {message}\n{output}".strip(),
                "compare the driver's CUDA version with that of this Caffe (nvidia-smi tells it).",
            )
        message = message or "the worker ended before it could import caffe"
        return NoCaffe(f"{' '.join(self.interpreter.command)}: {message}\n{output}".strip())

    @contextlib.contextmanager
    def _guarded(self, seconds: float) -> Iterator[_Process]:
        """Ends the worker when its answer does not come, or when this process is interrupted."""
        assert self._process is not None
        try:
            yield self._process
        except CaffeError:
            raise
        except TimeoutError:
            output = self._process.output()
            self.close()
            raise CaffeHang(f"no answer from Caffe within {seconds:g} s", output) from None
        except _NotAnAnswer:
            output = self._process.output()
            self.close()
            words = "the answer is none: a layer wrote into a descriptor that is not its own"
            raise CaffeCrash(words, output) from None
        except OSError as error:
            self.close()
            raise CaffeCrash(f"no memory for the arrays of the request: {error}") from error
        except BaseException:  # Ctrl-C: the worker is in the middle of something
            self.close()
            raise

    def _laid_out(self, ops: Sequence[Op]) -> dict[str, Any]:
        """The request with each array written to the shared file and replaced by its place."""
        assert self._process is not None
        places: dict[int, dict[str, Any]] = {}
        free, sent = 0, []
        for op in ops:
            if "array" in op:
                array = op["array"]
                if id(array) not in places:
                    self._process.view(free, array.shape)[...] = array
                    places[id(array)] = {"offset": free, "shape": array.shape}
                    free += -(-4 * array.size // ALIGNMENT) * ALIGNMENT
                op = {**op, "array": places[id(array)]}
            sent.append(op)
        return {"free": free, "ops": sent}

    def _typed(self, error: Mapping[str, Any]) -> CaffeError:
        assert self._process is not None
        output = self._process.output()
        if error["kind"] == "net":
            return NetError(error["message"], output)
        if error["kind"] == "request":
            return RequestError(error["message"], output)
        return LayerError(error["message"], output, error["traceback"])

    def _crash(self) -> CaffeCrash:
        assert self._process is not None
        status = _kill(self._process.process)
        output = self._process.output()
        self.close()
        how = f"exit status {status}" if status >= 0 else _signal_name(-status)
        return CaffeCrash(fatal_line(output) or f"the process ended with {how}", output)


def _signal_name(number: int) -> str:
    try:
        return f"signal {signal.Signals(number).name}"
    except ValueError:
        return f"signal {number}"


def fatal_line(output: str) -> str | None:
    """Caffe's own words in a log: the text of the first glog line of severity FATAL, or None.

    glog writes `Fmmdd hh:mm:ss.uuuuuu thread file:line] text`.
    """
    match = re.search(r"^F\d{4,8} [\d:.]+\s+\d+ (\S+\])\s?(.*)$", output, re.MULTILINE)
    return f"{match[1]} {match[2]}".strip() if match else None
