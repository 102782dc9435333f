"""Talks to `worker.py`: starts it, sends it ops, survives whatever happens in it.

The worker lives between requests, so that Caffe is imported once. When it dies or falls silent
the request ends in a typed error that carries what was printed, and the next request gets a fresh
worker. Nothing is left behind: the arrays and the captured output lie in anonymous files, which
vanish with the processes that hold them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import re
import selectors
import signal
import struct
import subprocess
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from caffe_impl.runtime.interpreter import Interpreter, NoCaffe, verify
from reference.contract import Array32

WORKER = Path(__file__).with_name("worker.py")
ALIGNMENT = 64  # bytes, as in the worker
START_SECONDS = 120.0  # importing caffe takes 1 to 2 s; a cold disk may need far longer
OUTPUT_LIMIT = 20_000  # characters of captured output that an error carries

Op = dict[str, Any]
"""One op of the protocol; a NumPy array in it travels through the shared file."""


class CaffeError(Exception):
    """Something went wrong on Caffe's side.

    Attributes:
        output: what the worker and its layers printed during the request.
    """

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output


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
        self.traceback = traceback


class NetError(CaffeError):
    """The net is not one that can be run."""


class RequestError(CaffeError):
    """The request was wrong."""


class _Process:
    """One worker process and the descriptors that lead to it."""

    def __init__(self, interpreter: Interpreter) -> None:
        self.arrays = os.memfd_create("parity-arrays")
        self.log = os.memfd_create("parity-output")
        fcntl.fcntl(self.log, fcntl.F_SETFL, os.O_APPEND)
        theirs_in, self.requests = os.pipe()
        self.replies, theirs_out = os.pipe()
        arguments = [str(WORKER), str(theirs_in), str(theirs_out), str(self.arrays)]
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
        self.exit_watch = os.pidfd_open(self.process.pid)
        self.end = weakref.finalize(
            self,
            _end,
            self.process,
            (self.requests, self.replies, self.arrays, self.log, self.exit_watch),
        )

    def send(self, message: Mapping[str, Any]) -> None:
        body = json.dumps(message).encode()
        data = struct.pack(">I", len(body)) + body
        with contextlib.suppress(BrokenPipeError):  # it is dead: receive() says of what
            while data:
                data = data[os.write(self.requests, data) :]

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """The next message, or None when the process ended instead.

        Raises:
            TimeoutError: it said nothing for that long.
        """
        deadline = time.monotonic() + seconds
        data = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self.replies, selectors.EVENT_READ)
            # A child that the layer forked may hold the pipe open, so its end is no proof.
            selector.register(self.exit_watch, selectors.EVENT_READ)
            while len(data) < 4 or len(data) < 4 + struct.unpack(">I", data[:4])[0]:
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    raise TimeoutError
                descriptors = {key.fd for key, _ in ready}
                if self.replies not in descriptors:
                    return None
                piece = os.read(self.replies, 1 << 16)
                if not piece:
                    return None
                data += piece
        message: dict[str, Any] = json.loads(data[4:])
        return message

    def output(self) -> str:
        """What was printed since the last call."""
        size = os.fstat(self.log).st_size
        start = max(0, size - OUTPUT_LIMIT)
        text = os.pread(self.log, size - start, start).decode(errors="replace")
        os.ftruncate(self.log, 0)
        return ("[...]\n" if start else "") + text


def _end(process: subprocess.Popen[bytes], descriptors: Sequence[int]) -> None:
    """Kills the process and all that it started, and closes what led to it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for descriptor in descriptors:
        os.close(descriptor)


class Caffe:
    """A real Caffe in another process; restarts by itself after a crash.

    Args:
        interpreter: how to start a Python that can import caffe.
        timeout: seconds that one request may take before it counts as a hang.
    """

    def __init__(self, interpreter: Interpreter, timeout: float = 60.0) -> None:
        self.interpreter = interpreter
        self.timeout = timeout
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
        """Starts the worker if none is running, and does not wait until it has imported caffe."""
        if self._process is None:
            self.greeting = {}
            self._process = _Process(self.interpreter)

    def start(self) -> dict[str, Any]:
        """Starts the worker if none is running; returns its greeting (versions, layer types).

        Raises:
            NoCaffe: the interpreter cannot import caffe.
            CaffeHang: importing caffe took too long.
        """
        self.launch()
        assert self._process is not None
        if not self.greeting:
            greeting = self._receive(START_SECONDS)
            if greeting is None or "error" in greeting:
                message = "the worker ended before it could import caffe"
                if greeting is not None:
                    message = greeting["error"]["message"]
                output = self._process.output()
                self.close()
                verify(self.interpreter)  # raises NoCaffe with advice if that is the cause
                raise NoCaffe(f"{' '.join(self.interpreter.command)}: {message}\n{output}".strip())
            self.greeting = greeting
        return self.greeting

    def request(self, ops: Sequence[Op]) -> list[dict[str, Any]]:
        """Carries out the ops in order; returns one result for each, arrays as NumPy copies.

        Raises:
            NetError, RequestError: what was asked cannot be done; nothing is broken.
            LayerError: a Python layer raised.
            CaffeCrash, CaffeHang: the worker is gone; the next request starts another.
            NoCaffe: the interpreter cannot import caffe.
        """
        self.start()
        assert self._process is not None
        self._process.output()
        try:
            self._process.send(self._laid_out(ops))
        except OSError as error:
            self.close()
            raise CaffeCrash(f"no memory for the arrays of the request: {error}") from error
        reply = self._receive(self.timeout)
        if reply is None:
            raise self._crash()
        if "error" in reply:
            raise self._typed(reply["error"])
        results: list[dict[str, Any]] = reply["results"]
        for result in results:
            if "array" in result:
                result["array"] = self._copied(result["array"])
        return results

    def _receive(self, seconds: float) -> dict[str, Any] | None:
        assert self._process is not None
        try:
            return self._process.receive(seconds)
        except TimeoutError:
            output = self._process.output()
            self.close()
            raise CaffeHang(f"no answer from Caffe within {seconds:g} s", output) from None
        except BaseException:  # Ctrl-C: the worker is in the middle of something
            self.close()
            raise

    def _laid_out(self, ops: Sequence[Op]) -> dict[str, Any]:
        """The request with each array written to the shared file and replaced by its place."""
        assert self._process is not None
        arrays = [op["array"] for op in ops if "array" in op]
        places: dict[int, dict[str, Any]] = {}
        free = 0
        for array in arrays:
            if id(array) not in places:
                places[id(array)] = {"offset": free, "shape": list(array.shape)}
                free += -(-4 * array.size // ALIGNMENT) * ALIGNMENT
        if free > os.fstat(self._process.arrays).st_size:
            os.ftruncate(self._process.arrays, free)
        if free:
            with mmap.mmap(self._process.arrays, free) as area:
                for array in {id(array): array for array in arrays}.values():
                    offset = places[id(array)]["offset"]
                    view = np.frombuffer(area, np.float32, array.size, offset)
                    view[...] = array.reshape(-1)
                    del view  # the map cannot be closed while a view of it lives
        return {
            "free": free,
            "ops": [
                {**op, "array": places[id(op["array"])]} if "array" in op else op for op in ops
            ],
        }

    def _copied(self, reference: Mapping[str, Any]) -> Array32:
        assert self._process is not None
        shape = tuple(reference["shape"])
        array = np.empty(shape, np.float32)
        if array.size:
            end = reference["offset"] + array.nbytes
            with mmap.mmap(self._process.arrays, end, prot=mmap.PROT_READ) as area:
                view = np.frombuffer(area, np.float32, array.size, reference["offset"])
                array[...] = view.reshape(shape)
                del view
        return array

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
        status = self._process.process.wait()
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
