"""Whatever a layer, the system or the user does to a run: right verdicts, and nothing left behind.

Real processes and real faults. What one request to the worker can meet is also in test_worker.py;
here are the faults that reach beyond it: into the next request, the report, or another run.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffe_impl.variants import LAYERS, NETS
from caffe_parity.caffe import client
from caffe_parity.caffe.client import (
    Caffe,
    CaffeCrash,
    CaffeHang,
    LayerError,
    Op,
    RequestError,
)
from caffe_parity.caffe.interpreter import find
from caffe_parity.report.record import Record, Report
from tests.test_cli import MAIN_JOB, PARITY, ROOT, broken_layer, names_in, results
from tests.test_worker import forward, gone, python_net, still_works

UNRULY = """
import os, resource, signal, sys, time
import caffe
import numpy as np

KEPT = []

class Base(caffe.Layer):
    def setup(self, bottom, top): pass
    def reshape(self, bottom, top): top[0].reshape(1)
    def forward(self, bottom, top):
        self.act(bottom)
        top[0].data[...] = 7
    def backward(self, top, propagate_down, bottom): pass
    def act(self, bottom): pass

class ClosesAll(Base):
    def act(self, bottom): os.closerange(0, 256)

class ClosesAllAndStays(Base):
    def act(self, bottom):
        os.closerange(0, 256)
        time.sleep(600)

class Writes(Base):
    def act(self, bottom):
        for descriptor in range(3, 64):
            try:
                os.write(descriptor, b"Dear reader, " * 9)
            except OSError:
                pass

class Daemon(Base):
    def act(self, bottom):
        if os.fork() == 0:
            os.setsid()
            with open(os.environ["PARITY_TEST_PID"], "w") as file:
                file.write(str(os.getpid()))
            time.sleep(600)
        while not os.path.exists(os.environ["PARITY_TEST_PID"]):
            time.sleep(0.01)

class ForksOn(Base):
    def act(self, bottom): os.fork()

class GoesElsewhere(Base):
    def act(self, bottom): os.chdir("/")

class RedirectsStderr(Base):
    def act(self, bottom): os.dup2(0, 2)

class LimitsItself(Base):
    def act(self, bottom):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

class Leaks(Base):
    def act(self, bottom): KEPT.append(np.ones(1 << 23))  # 64 MiB

class FillsFiles(Base):
    def act(self, bottom): resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

class DiesLater(Base):
    def act(self, bottom):
        if os.fork() == 0:
            time.sleep(0.2)
            os.kill(os.getppid(), signal.SIGKILL)
            os._exit(0)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with misbehaving layers."""
    path = tmp_path_factory.mktemp("layers")
    (path / "unruly.py").write_text(UNRULY)
    return path


@pytest.fixture(scope="module")
def caffe() -> Iterator[Caffe]:
    """A Caffe of this module's own, with a short time-out."""
    with Caffe(find(), timeout=3) as each:
        yield each


def test_layer_that_closes_every_descriptor_is_a_crash(caffe: Caffe, folder: Path) -> None:
    """Without the protocol's pipes the worker cannot answer and ends; the next one works."""
    with pytest.raises(CaffeCrash, match="exit status 1"):
        forward(caffe, "ClosesAll", folder)
    assert still_works(caffe, folder)


def test_closed_pipe_of_a_worker_that_lives_on_is_a_hang(caffe: Caffe, folder: Path) -> None:
    """The end of the reply pipe does not make the client wait longer than the time-out."""
    pid = caffe.start()["pid"]
    with pytest.raises(CaffeHang, match="within 3 s"):
        forward(caffe, "ClosesAllAndStays", folder)
    assert gone(pid)
    assert still_works(caffe, folder)


def test_what_a_layer_writes_into_the_reply_pipe_is_no_answer(caffe: Caffe, folder: Path) -> None:
    """A layer that writes to every descriptor is a crash, and its words are not taken for data."""
    with pytest.raises(CaffeCrash, match="wrote into a descriptor"):
        forward(caffe, "Writes", folder)
    assert still_works(caffe, folder)


def test_child_that_comes_back_answers_nothing(caffe: Caffe, folder: Path) -> None:
    """A layer that forks and lets both go on gives one answer; the next is that of the next."""
    assert forward(caffe, "ForksOn", folder) == 7
    values = np.array([1, 2], np.float32)
    net = python_net("Base", folder)
    ops: list[Op] = [net, {"op": "set", "blob": "x", "array": values}, {"op": "data", "blob": "x"}]
    assert caffe.request(ops)[-1]["array"].tolist() == [1, 2]


def test_daemon_of_a_layer_dies_with_the_worker(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that moved to a session of its own ends when its worker does."""
    monkeypatch.setenv("PARITY_TEST_PID", str(tmp_path / "pid"))
    with Caffe(find(), timeout=10) as caffe:
        assert forward(caffe, "Daemon", folder) == 7
        daemon = int((tmp_path / "pid").read_text())
        assert Path(f"/proc/{daemon}").exists()
    assert gone(daemon)


@pytest.mark.parametrize("layer", ["GoesElsewhere", "RedirectsStderr", "LimitsItself", "Leaks"])
def test_next_request_does_not_inherit(
    caffe: Caffe, folder: Path, monkeypatch: pytest.MonkeyPatch, layer: str
) -> None:
    """A worker that a layer left elsewhere, mute, limited or bloated serves nobody else."""
    monkeypatch.setattr(client, "GROWTH_LIMIT", 1 << 25)
    assert still_works(caffe, folder)
    pid = caffe.pid
    assert forward(caffe, layer, folder) == 7
    assert still_works(caffe, folder)
    assert caffe.pid != pid


def test_net_does_not_outlive_its_request(caffe: Caffe, folder: Path) -> None:
    """So what goes wrong when it is destroyed is told to the request that built it."""
    caffe.request([python_net("Base", folder)])
    with pytest.raises(RequestError, match="there is no net yet"):
        caffe.request([{"op": "data", "blob": "x"}])


def test_worker_that_died_in_between_is_replaced(caffe: Caffe, folder: Path) -> None:
    """A worker found dead is nobody's verdict: the next request gets a fresh one and its answer."""
    assert forward(caffe, "DiesLater", folder) == 7
    pid = caffe.pid
    assert pid is not None
    assert gone(pid)
    assert still_works(caffe, folder)
    assert caffe.pid != pid


def stop(pid: int) -> None:
    """Stops a process and waits until it has: a busy one would still read what comes meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    for _ in range(500):
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
            return
        time.sleep(0.02)
    raise TimeoutError(f"process {pid} does not stop")


def test_worker_that_dies_before_it_reads_is_replaced(caffe: Caffe, folder: Path) -> None:
    """A request that the dying worker did not begin with is carried out by the next one."""
    pid = caffe.start()["pid"]
    stop(pid)  # so that it cannot begin
    killer = subprocess.Popen(["/bin/sh", "-c", f"sleep 0.5; kill -9 {pid}"])
    assert still_works(caffe, folder)
    assert caffe.pid != pid
    killer.wait()


def test_request_that_nobody_takes_is_a_hang(caffe: Caffe, folder: Path) -> None:
    """A worker that is stopped does not block the client, however long the request."""
    pid = caffe.start()["pid"]
    net = python_net("Base", folder)
    net["text"] += "\n#" + " " * (1 << 20)  # more than a pipe holds
    stop(pid)
    with pytest.raises(CaffeHang):
        caffe.request([net])
    assert gone(pid)
    assert still_works(caffe, folder)


@contextlib.contextmanager
def file_limit(size: int) -> Iterator[None]:
    """No file of this process may grow beyond this size, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def wide(folder: Path, layer: str) -> list[Op]:
    """Ops that send and ask for 4 MiB."""
    net = python_net(layer, folder, shape="dim: 1048576")
    zeros = np.zeros(1 << 20, np.float32)
    set_it = {"op": "set", "blob": "x", "array": zeros}
    return [net, set_it, {"op": "forward"}, {"op": "data", "blob": "x"}]


def test_no_room_for_the_request_is_an_error(folder: Path) -> None:
    """Shared memory that cannot grow on this side is a crash with words; later all is well."""
    with Caffe(find(), timeout=10) as caffe:
        caffe.start()
        with file_limit(1 << 20), pytest.raises(CaffeCrash, match=r"no memory .*File too large"):
            caffe.request(wide(folder, "Base"))
        assert not caffe.request(wide(folder, "Base"))[-1]["array"].any()


def test_no_room_for_the_reply_is_an_error(caffe: Caffe, folder: Path) -> None:
    """Shared memory that cannot grow on Caffe's side is an error; the next request has room."""
    with pytest.raises(LayerError, match="File too large"):
        caffe.request(wide(folder, "FillsFiles"))
    assert not caffe.request(wide(folder, "Base"))[-1]["array"].any()


def test_shared_memory_takes_no_place_in_a_file_system(caffe: Caffe, folder: Path) -> None:
    """The arrays lie in anonymous memory, so a full or absent /dev/shm does not matter."""
    caffe.request(wide(folder, "Base"))
    for pid in (os.getpid(), caffe.pid):
        links = [
            os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink()
        ]
        assert any(link.startswith("/memfd:parity-arrays") for link in links)
        maps = Path(f"/proc/{pid}/maps").read_text()
        assert not any("/dev/shm" in each for each in (*links, maps))


def own_memory(pid: int | None) -> int:
    """Bytes of memory that are a process's own."""
    _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(resident) - int(shared)) * mmap.PAGESIZE


@pytest.mark.parametrize("name", ["channel_sum_python", "channel_sum_convolution"])
def test_nets_by_the_thousand_take_no_memory(caffe: Caffe, name: str) -> None:
    """Ten thousand nets in one worker stay far below the growth at which it is replaced."""
    text = (NETS / f"{name}.prototxt").read_text()
    edits = {"gradients": ["x1", "x2"], "loss_weight": 2.0}
    net: Op = {"op": "net", "text": text, "path": [str(LAYERS)], "edits": edits}
    nets = [net, {"op": "forward"}, {"op": "backward"}] * 100
    caffe.request(nets)
    pid, before = caffe.pid, own_memory(caffe.pid)
    for _ in range(4):
        caffe.request(nets)
    assert caffe.pid == pid
    assert 10_000 * (own_memory(pid) - before) / 400 < client.GROWTH_LIMIT / 4


# A whole run. Its Python layer counts the nets that it is part of, over all workers, and does one
# thing at each even one; so each fault stands between two cases that must not notice it.
COUNTING = """
import ctypes, os, resource, shutil, signal, sys, time
import numpy as np
from pathlib import Path
from summed_euclidean_loss import SummedEuclideanLossLayer

HERE = Path(__file__).parent
FAULTS = (HERE / "faults").read_text().split()
LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]

def state():
    outputs = [os.readlink("/proc/self/fd/%d" % each) for each in range(3)]
    return repr([os.getcwd(), outputs, [resource.getrlimit(each) for each in LIMITS]])

class Counting(SummedEuclideanLossLayer):
    def setup(self, bottom, top):
        super().setup(bottom, top)
        counts = HERE / "counts"
        self.number = len(counts.read_text()) if counts.exists() else 0
        with counts.open("a") as file:
            file.write(".")
        if self.number == 0:
            (HERE / "state").write_text(state())
        assert state() == (HERE / "state").read_text()
        index = self.number // 2 - 1
        even = self.number % 2 == 0 and 0 <= index < len(FAULTS)
        self.fault = FAULTS[index] if even else "none"

    def forward(self, bottom, top):
        super().forward(bottom, top)
        fault, self.fault = self.fault, "none"
        getattr(self, fault)(bottom, top)

    def none(self, bottom, top): pass
    def segfault(self, bottom, top): ctypes.string_at(0)
    def abort(self, bottom, top): bottom[0].reshape(1, 1, 1, 1, 1); bottom[0].num
    def kill(self, bottom, top): os.kill(os.getpid(), signal.SIGKILL)
    def hang(self, bottom, top):
        (HERE / "hangs").write_text(str(os.getpid()))
        time.sleep(600)
    def print(self, bottom, top): sys.stdout.write("All is well. " * 100000)
    def close_output(self, bottom, top): os.close(1); os.close(2)
    def close_all(self, bottom, top): os.closerange(0, 256)
    def exit(self, bottom, top): ctypes.CDLL(None).exit(0)
    def raises(self, bottom, top): raise KeyError("no such thing")
    def fork(self, bottom, top):
        if os.fork() == 0:
            os.setsid()
            (HERE / "child").write_text(str(os.getpid()))
            time.sleep(600)
    def exhaust(self, bottom, top):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = used + (1 << 26)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        self.kept = [np.ones(1 << 20) for _ in range(64)]
    def spoil(self, bottom, top):
        bottom[0].data[...] += 1
        self.fault = "spoil"
    def remove_report(self, bottom, top): shutil.rmtree(str(HERE / "parity-report"))
"""

VERDICTS = {
    "segfault": ("crash", "signal SIGSEGV"),
    "kill": ("crash", "signal SIGKILL"),
    "hang": ("hang", "no answer from Caffe within 5 s"),
    "print": ("pass", ""),
    "close_output": ("pass", ""),
    "abort": ("crash", "Check failed: num_axes() <= 4"),
    "close_all": ("crash", "exit status 1"),
    "exit": ("crash", "exit status 0"),
    "raises": ("crash", "KeyError: 'no such thing'"),
    "fork": ("pass", ""),
    "exhaust": ("crash", "MemoryError"),
    "remove_report": ("pass", ""),
    # Last: it is looked at again, on a net on which it spoils nothing.
    "spoil": ("fail", "the same inputs on a fresh net give other results"),
}


TESTS = """
from dataclasses import replace
import caffe_parity
from reference.channel_sum import LAYER

MINE = caffe_parity.net("mine.prototxt", path={path!r})

@caffe_parity.parametrize(replace(LAYER, variants={{"caffe-net": MINE}}))
def test_mine(comparison):
    comparison.check()
"""


def counting_net(folder: Path, *faults: str) -> str:
    """Makes the net whose layer has these faults, and the tests of it; returns their file."""
    (folder / "counting.py").write_text(COUNTING)
    (folder / "faults").write_text(" ".join(faults))
    text = (NETS / "channel_sum_python.prototxt").read_text()
    text = text.replace("summed_euclidean_loss", "counting")
    (folder / "mine.prototxt").write_text(text.replace("SummedEuclideanLossLayer", "Counting"))
    return written_tests(folder, ".", str(LAYERS))


def written_tests(folder: Path, *path: str) -> str:
    """Makes a file with tests of mine.prototxt, its layers in these folders; returns its name."""
    (folder / "test_mine.py").write_text(TESTS.format(path=path))
    return "test_mine.py"


def started(
    module: str, *arguments: str, cwd: Path, preexec: Callable[[], None] | None = None
) -> subprocess.Popen[str]:
    """A run that goes on in a session of its own, as from another terminal."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(temporary(cwd)),
            "OMP_NUM_THREADS": "1",  # the runs share what processors there are
        },
        start_new_session=True,
        preexec_fn=preexec,
    )


def temporary(cwd: Path) -> Path:
    """The folder for temporary files of the runs in a folder."""
    folder = cwd / "temporary"
    folder.mkdir(exist_ok=True)
    return folder


def finished(run: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit status and what was printed."""
    said, _ = run.communicate(timeout=300)
    return run.returncode, said


def reported(cwd: Path) -> Report:
    """results.json, which fits its schema, beside a junit.xml that is whole."""
    assert names_in(cwd / "parity-report" / "junit.xml")
    return results(cwd / "parity-report")


def left_behind(cwd: Path) -> list[str]:
    """What a run that has ended left: processes with its folder for temporary files, and files."""
    mark = f"TMPDIR={temporary(cwd)}".encode()
    # pytest keeps the folders of its last runs itself, and xdist asks for some.
    left = [each.name for each in temporary(cwd).iterdir() if "pytest-of-" not in each.name]
    written = {each.name for each in (cwd / "parity-report").iterdir()}
    left += written - {"index.html", "results.json", "junit.xml"}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (process / "environ").read_bytes() and not gone(int(process.name)):
                left.append((process / "cmdline").read_text())
    return left


PROVE_NOTHING = {
    *("cancelling", "inf", "infs", "inf-minus-inf", "nan", "nans"),
    *("overflowing", "overflowing-sum", "subnormal"),
}
"""The cases of channel_sum that say nothing of a tensor: they overflow, or all is rounding."""


def test_suite_survives_every_fault(tmp_path: Path) -> None:
    """Each fault gets its own verdict, all cases around it pass, and nothing is left behind."""
    tests = counting_net(tmp_path, *VERDICTS)
    run = started(PARITY, "run", tests, "--timeout", "5", cwd=tmp_path)
    status, said = finished(run)
    assert status == 1, said
    got = reported(tmp_path)
    assert got.environment["caffe"]["blas"]
    assert not got.missing and len(got.results) > 2 * len(VERDICTS)
    faults = {2 * index + 2: name for index, name in enumerate(VERDICTS)}
    for number, each in enumerate(got.results):
        verdict, words = VERDICTS[faults[number]] if number in faults else ("pass", "")
        where = f"{each.case}, {faults.get(number, 'no fault')}: {each.reason}"
        if verdict == "pass" and each.case in PROVE_NOTHING:
            verdict, words = "unproven", ""
        assert each.verdict == verdict, where
        assert words in each.reason, where
    bad = sum(verdict != "pass" for verdict, _ in VERDICTS.values())
    assert f"channel_sum  caffe-net: {bad} of {len(got.results)} cases do not agree" in said
    assert gone(int((tmp_path / "child").read_text()))
    assert not left_behind(tmp_path)


@pytest.mark.parametrize("more", [(), ("-n", "1")], ids=["one", "xdist"])
def test_interrupt_keeps_what_already_ran(tmp_path: Path, more: tuple[str, ...]) -> None:
    """Ctrl-C while a layer hangs: status 2, both reports with what ran, and no process left."""
    run = started(PARITY, "run", counting_net(tmp_path, "none", "hang"), *more, cwd=tmp_path)
    for _ in range(6000):
        if (tmp_path / "hangs").exists() or run.poll() is not None:
            break
        time.sleep(0.02)
    os.killpg(run.pid, signal.SIGINT)
    status, said = finished(run)
    assert status == 2, said
    assert "Interrupted" in said
    got = reported(tmp_path)
    assert [each.verdict for each in got.results] == ["pass"] * 4
    total = len(got.results) + got.missing
    assert f"{got.missing} of {total} comparisons did not run" in said
    assert got.missing > 40
    assert more or got.environment["caffe"]["blas"]  # a process that is ended tells no more
    assert gone(int((tmp_path / "hangs").read_text()))
    assert not left_behind(tmp_path)


def without_seconds(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Records, to the bit, without what differs from run to run."""
    return [replace(each, seconds=0).as_json() for each in records]


def printed(said: str) -> list[str]:
    """The table and what disagrees, without the table's seconds."""
    _, _, rest = said.partition("compared with the float64 reference")
    return re.sub(r" +[\d.]+(?=  \d+ fail)", "", rest.partition("details:")[0]).splitlines()


def test_runs_at_once_and_in_parallel_say_the_same(tmp_path: Path) -> None:
    """A run alone and one under pytest-xdist, at once and with one report folder, agree in all."""
    broken_layer(tmp_path)
    options = ("run", written_tests(tmp_path), "-k", "base or exact or spatial")
    runs = [started(PARITY, *options, *more, cwd=tmp_path) for more in ((), ("-n", "2"))]
    alone_status, alone_said = finished(runs[0])
    first = reported(tmp_path)
    parallel_status, parallel_said = finished(runs[1])
    last = reported(tmp_path)
    assert (alone_status, parallel_status) == (1, 1), parallel_said
    assert len(first.results) > 10 and not first.missing
    assert {each.verdict for each in first.results} == {"pass", "fail"}
    assert without_seconds(first.results) == without_seconds(last.results)
    assert (first.selection, first.missing) == (last.selection, last.missing)
    assert first.environment == last.environment
    assert printed(alone_said) == printed(parallel_said) != []
    assert not left_behind(tmp_path)


def test_report_that_is_lost_at_the_end_is_said(tmp_path: Path) -> None:
    """A disk that is full when all has run: the table is shown, the loss is named, status 2."""

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    options = ("--variant", "torch-module", "--case", "base", "--layer", "tail_sum")
    run = started(MAIN_JOB, *options, cwd=tmp_path, preexec=full)
    status, said = finished(run)
    assert status == 2, said
    assert "tail_sum  torch-module" in said
    assert re.search(r"parity-report/results\.json: File too large", said)
    assert "details:" not in said
    assert "Traceback" not in said
    assert not (tmp_path / "parity-report" / "results.json").exists()
    assert not left_behind(tmp_path)


DYING = """
import os
import caffe_parity
import pytest

def loss(x):
    return (x * x).sum()

def dies(x):
    os.abort()

def layer(name, variants):
    return caffe_parity.Layer(name, loss, {"x": (2, 3)}, variants, cases=1)

@caffe_parity.parametrize(layer("dying", {"torch-dies": dies, "torch-port": loss}))
def test_that_dies(comparison):
    comparison.check()

@pytest.fixture
def gone():
    raise RuntimeError("it is gone")

@caffe_parity.parametrize(layer("lacking", {"torch-port": loss}))
def test_that_lacks_something(comparison, gone):
    comparison.check()

@pytest.mark.parametrize("number", range(3))
def test_of_something_else(number):
    pass

TWICE = layer("twice", {"torch-half": lambda x: loss(x) / 2})

@caffe_parity.parametrize(TWICE)
def test_first(comparison):
    comparison.check()

@caffe_parity.parametrize(TWICE)
def test_second(comparison):
    assert comparison.findings() != []
    comparison.record = comparison.record.__class__("twice", "torch-half", "0", "pass")
"""


def test_comparison_without_a_verdict_is_a_crash(tmp_path: Path) -> None:
    """The death of an xdist process, and an error of another kind, stand in the report, too.

    So does a failure beside a test of the same comparison that did not find it, and nothing that
    is no comparison is missed.
    """
    (tmp_path / "test_dying.py").write_text(DYING)
    run = started(PARITY, "run", "test_dying.py", "-n", "2", cwd=tmp_path)
    status, said = finished(run)
    assert status == 1, said
    got = reported(tmp_path)
    assert not got.missing
    assert {each.id: each.verdict for each in got.results} == {
        "dying-torch-dies-0": "crash",
        "dying-torch-port-0": "pass",
        "lacking-torch-port-0": "crash",
        "twice-torch-half-0": "fail",
    }
    died, _, lacking, _ = got.results
    assert re.search(r"could not be compared: worker '\w+' crashed while running", died.reason)
    assert lacking.reason == "it could not be compared: RuntimeError: it is gone"
    assert all(words in said for words in ("1 crash", died.reason, lacking.reason))
