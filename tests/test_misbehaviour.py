"""Whatever a reference, a port or a layer does, the command ends with a verdict or with words."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from caffe_parity.caffe.client import Caffe
from caffe_parity.cli.main import main
from caffe_parity.report.record import read
from tests.net_text import input_layer, layer

ROOT = Path(__file__).parent.parent
NET = input_layer("x", 2, 3) + layer("Power", "x", "y", "power_param { power: 2 }")
FUNCTIONS = """
import ctypes, multiprocessing, os, signal, subprocess, sys, threading, time
import torch

def good(x):
    return x * x

def exits(x):
    sys.exit(0)

def exits_past_python(x):
    os._exit(0)

def exits_in_c(x):
    ctypes.CDLL(None)._exit(0)

def becomes_another(x):
    os.execvp("true", ["true"])

def breaks_off(x):
    raise KeyboardInterrupt

def ends_generator(x):
    raise StopIteration

class Silent(BaseException):
    pass

def raises_no_exception(x):
    raise Silent

def reads_zero(x):
    ctypes.string_at(0)

def kills_itself(x):
    os.kill(os.getpid(), signal.SIGKILL)

def aborts(x):
    os.abort()

def recurses(x):
    return recurses(x)

def wants_all_memory(x):
    return torch.zeros(1 << 60)

def forks(x):
    os.fork()
    return x * x

def forks_by_multiprocessing(x):
    child = multiprocessing.get_context("fork").Process(target=good, args=(1,))
    child.start()
    child.join()
    return x * x

def has_a_thread(x):
    threading.Thread(target=lambda: time.sleep(1000)).start()
    return x * x

def prints_from_a_thread(x):
    threading.Thread(target=lambda: print("from a thread")).start()
    return x * x

def leaves_a_program(x):
    subprocess.Popen(["sleep", "4321"], start_new_session=True)
    return x * x

def closes_all(x):
    for each in range(3):
        os.close(each)
    return x * x

def changes_folder(x):
    os.chdir("/")
    return x * x

def is_complex(x):
    return (x * x).to(torch.complex128)

def is_sparse(x):
    return (x * x).to_sparse()

def is_meta(x):
    return (x * x).to("meta")

def is_none(x):
    return None

def is_text(x):
    return "y"

def is_generator(x):
    yield x

def is_two(x):
    return x, x

def has_no_name(x):
    return {"z": x}

def is_empty(x):
    return torch.empty(0)

def is_of_other_shape(x):
    return (x * x)[:, :2]

def is_random(x):
    return x * torch.rand(1)

def has_no_gradient(x):
    return (x * x).detach()

def changes_its_input(x):
    return x.detach().mul_(2) * x

class Exits(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * x
    @staticmethod
    def backward(ctx, grad):
        os._exit(0)

def exits_in_backward(x):
    return Exits.apply(x)

class Raises(Exits):
    @staticmethod
    def backward(ctx, grad):
        raise LookupError("in backward")

def raises_in_backward(x):
    return Raises.apply(x)

class OfOtherShape(Exits):
    @staticmethod
    def backward(ctx, grad):
        return grad[:, :1]

def gradient_of_other_shape(x):
    return OfOtherShape.apply(x)
"""
GOOD = {"good", "forks", "forks_by_multiprocessing", "has_a_thread", "prints_from_a_thread"}
GOOD |= {"leaves_a_program", "changes_folder"}
"""They compute what they should, whatever else they do."""

NAMES = [line[4 : line.index("(")] for line in FUNCTIONS.splitlines() if line.startswith("def ")]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the net and the functions, beside an empty $TMPDIR."""
    (tmp_path / "here").mkdir()
    (tmp_path / "tmp").mkdir()
    (tmp_path / "here" / "net.prototxt").write_text(NET)
    (tmp_path / "here" / "functions.py").write_text(FUNCTIONS)
    return tmp_path / "here"


def started(place: Path, *arguments: str, prefix: str = "") -> subprocess.Popen[str]:
    """`parity` in a process of its own, in that folder."""
    command = [sys.executable, "-m", "caffe_parity", *arguments]
    shell = ["sh", "-c", f'"$@" {prefix}', "sh"] if prefix else []
    return subprocess.Popen(
        [*shell, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(place.parent / "tmp")},
    )


def left(place: Path) -> list[str]:
    """What a run left behind: files in $TMPDIR, and processes that know it."""
    there = os.listdir(place.parent / "tmp")
    mark = f"TMPDIR={place.parent / 'tmp'}".encode()
    for each in Path("/proc").glob("[0-9]*"):
        try:
            found = mark in (each / "environ").read_bytes()
            if found:
                there.append((each / "cmdline").read_text())
        except OSError:
            continue
    return there


CHECK = ("check", "net.prototxt", "--cases", "1")


OUTSIDE = {
    "exits_in_c": "reference",
    "becomes_another": "port",
    "breaks_off": "reference",
    "reads_zero": "port",
    "kills_itself": "reference",
    "aborts": "port",
    "recurses": "port",
    "forks": "reference",
    "has_a_thread": "port",
    "leaves_a_program": "reference",
    "closes_all": "port",
}
"""What only a process of its own survives, and which role it has: one is enough, they are slow."""


def options_with(role: str, name: str) -> list[str]:
    """The options by which one function is the reference, or the port, and the other is right."""
    functions = {"reference": "good", "port": "good", role: name}
    return [f"--{role}=functions.py:{each}" for role, each in functions.items()]


def judge(role: str, name: str, status: int, said: str) -> None:
    """Holds that what was said fits the function, and the status that."""
    assert "Traceback" not in said and "internal error" not in said, said
    assert said.count("agrees, ") + said.count("disagrees:") <= 1, said
    if name in GOOD:
        assert status == 0 and "agrees, 1 case" in said, said
    else:
        assert status == 2 or (status == 1 and "disagrees:" in said), said
        silent = name == "closes_all"  # there is no place left to say it
        assert status == 1 or role in said or silent, said


@pytest.mark.parametrize("role", ["reference", "port"])
@pytest.mark.parametrize("name", [each for each in NAMES if each not in OUTSIDE])
def test_function_that_misbehaves(
    place: Path,
    caffe: Caffe,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    role: str,
    name: str,
) -> None:
    """0 if it is right, else 1 with a finding or 2 with words that name it."""
    monkeypatch.chdir(place)
    status = main([*CHECK, *options_with(role, name)])
    judge(role, name, status, "".join(capsys.readouterr()))


@pytest.mark.parametrize(("name", "role"), OUTSIDE.items())
def test_function_that_no_process_survives(place: Path, role: str, name: str) -> None:
    """The same; nothing is left in $TMPDIR or running."""
    with started(place, *CHECK, *options_with(role, name)) as process:
        said, _ = process.communicate(timeout=120)
    judge(role, name, process.returncode, said)
    assert not left(place)


def test_stdout_that_is_closed_or_read_in_part(place: Path) -> None:
    """The status is that of the verdict, and there is no complaint but for a full disk."""
    for prefix, status, words in (
        (">&-", 0, ""),
        ("| head -n 1; exit 0", 0, "checking net.prototxt against functions.py:good\n"),
        (">/dev/full", 2, "No space left on device"),
        ("2>&-", 0, "agrees, 1 case"),
    ):
        options = (*CHECK, "--reference", "functions.py:good")
        with started(place, *options, prefix=prefix) as process:
            said, _ = process.communicate(timeout=120)
        assert process.returncode == status, (prefix, said)
        assert words in said and "Traceback" not in said and "Errno" not in said, (prefix, said)
        assert bool(said) == bool(words)


def test_names_outside_the_encoding_of_the_terminal(place: Path) -> None:
    """They are printed as escapes, and the check is carried out."""
    name = os.fsdecode(b"net-\xff-\xc3\xa9.prototxt")
    (place / name).write_text(NET)
    command = [sys.executable, "-m", "caffe_parity", "check", name, "--cases", "1"]
    done = subprocess.run(
        [*command, "--reference", "functions.py:good", "--json", f"{name}.json"],
        capture_output=True,
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert rb"net-\udcff-\xe9.prototxt" in done.stdout
    assert (place / f"{name}.json").is_file()


SLOW = """
import time
calls = []
def slow(x):
    calls.append(1)
    if len(calls) > 60:
        open("begun", "w").close()
        while True:
            STEP
    return x * x
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_run_says_how_far_it_came(place: Path, number: signal.Signals) -> None:
    """It writes what it has, leaves nothing in $TMPDIR, and ends with 128 and the signal."""
    (place / "slow.py").write_text(SLOW.replace("STEP", "time.sleep(1)"))
    options = ("check", "net.prototxt", "--reference", "slow.py:slow", "--json", "found.json")
    with started(place, *options) as process:
        wait_for(place / "begun")
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "interrupted: 1 of 8 comparisons were made" in said
    assert f"ended by {number.name}" in said and "Traceback" not in said
    report = read(place / "found.json")
    assert (len(report.results), report.selected, report.agrees) == (1, 8, False)
    assert not left(place)


def test_what_nohup_has_ignored_stays_ignored(place: Path) -> None:
    """A run that is to outlive its terminal goes on when that hangs up."""
    step = "time.sleep(0 if len(calls) > 61 else 11)\n            break"  # longer than patience
    (place / "slow.py").write_text(SLOW.replace("STEP", step))
    options = ("check", "net.prototxt", "--reference", "slow.py:slow")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = started(place, *options)
    finally:
        signal.signal(signal.SIGHUP, before)
    with process:
        wait_for(place / "begun")
        process.send_signal(signal.SIGHUP)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert said.splitlines()[-1].startswith("agrees, 8 cases")


def wait_for(file: Path) -> None:
    """Waits until a file is there."""
    deadline = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


LAYER = """
import ctypes, os, sys, time
import caffe

class Bad(caffe.Layer):
    def setup(self, bottom, top):
        self.shaped = 0
        SETUP
    def reshape(self, bottom, top):
        self.shaped += 1
        RESHAPE
        top[0].reshape(*bottom[0].shape)
    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data ** 2
        FORWARD
    def backward(self, top, down, bottom):
        bottom[0].diff[...] = 2 * bottom[0].data * top[0].diff
        BACKWARD
"""
PLACES = ("SETUP", "RESHAPE", "FORWARD", "BACKWARD")
ENDLESS = '\n        while True: print("again " * 1000)'
DEEDS = {
    "raises": ('raise LookupError("found nothing")', "LookupError: found nothing"),
    "exits": ("sys.exit(0)", "SystemExit: 0"),
    "exits past Python": ("os._exit(0)", "exit status 0"),
    "aborts": ("os.abort()", "SIGABRT"),
    "reads zero": ("ctypes.string_at(0)", "memory that is not its own"),
    "hangs": ("time.sleep(1000)", "no answer from Caffe within 1.5 s"),
    "prints without end": (ENDLESS, "no answer from Caffe within 1.5 s"),
}
"""What a layer does that ends its net, and what is said of it."""


def layer_that(place: Path, **does: str) -> list[str]:
    """The command that checks a layer which does these things, by where."""
    text = LAYER
    for each in PLACES:
        text = text.replace(each, does.get(each, "pass"))
    name = f"bad{next(NUMBERS)}_layer.py"  # Caffe's Python imports a module of one name once
    (place / name).write_text(text)
    return ["check", f"{name}:Bad", "--bottom", "x=2,3", "--cases", "1"]


NUMBERS = itertools.count()


def said_of(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, without the numbers in the layers' names."""
    return re.sub(r"\bbad\d+_layer", "bad_layer", "".join(capsys.readouterr()))


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("deed", DEEDS)
def test_layer_that_ends_its_net(
    place: Path,
    caffe: Caffe,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    deed: str,
    where: str,
) -> None:
    """A crash or a hang, or a net that cannot be built: named, with the layer's line if it has one.

    The next check has a fresh process, and agrees.
    """
    monkeypatch.chdir(place)
    code, words = DEEDS[deed]
    command = layer_that(place, **{where: code})
    with_reference = [*command, "--reference", "functions.py:good"]
    status = main([*with_reference, "--timeout", "1.5"])
    said = said_of(capsys)
    assert "Traceback" not in said and "internal error" not in said, said
    assert words in said and status == (2 if where in ("SETUP", "RESHAPE") else 1), said
    assert len(said) < 25_000
    if deed in ("raises", "exits"):
        assert "bad_layer.py" in said
    assert main([*layer_that(place), "--reference", "functions.py:good"]) == 0
    assert not children_of_a_layer()


def children_of_a_layer() -> list[str]:
    """Programs that a layer has started and left."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = each.read_bytes()  # others' arguments, too, which need be no text
        except OSError:
            continue
        found += [str(text)] if b"sleep\x004322" in text else []
    return found


BESIDE = {
    "forks": ("FORWARD", "os.fork()", 0, ""),
    "leaves a program": ("FORWARD", "os.spawnlp(os.P_NOWAIT, 'sleep', 'sleep', '4322')", 0, ""),
    "changes the folder": ("FORWARD", "os.chdir('/')", 0, ""),
    "closes all descriptors": ("FORWARD", "os.closerange(0, 64)", 1, "crash: "),
    "closes its output": ("FORWARD", "os.closerange(1, 3)", 0, ""),
    "writes its bottom": ("FORWARD", "bottom[0].data[...] = 0", 1, "mutates-bottom:x"),
    "writes its bottom in backward": ("BACKWARD", "bottom[0].data[...] = 0", 1, "mutates-bottom:x"),
    "writes the top in backward": ("BACKWARD", "top[0].data[...] = 0", 0, ""),
    "adds to the diff": (
        "BACKWARD",
        "bottom[0].diff[...] += 2 * bottom[0].data * top[0].diff",
        1,
        "gradient:x",
    ),
    "changes a bottom's shape": (
        "FORWARD",
        "bottom[0].reshape(3, 2)",
        1,
        "",
    ),
    "gives another shape later": (
        "FORWARD",
        "top[0].reshape(3, 2)",
        1,
        "crash: a layer raised: bad_layer.py:17: ValueError: operands could not be broadcast",
    ),
    "counts": ("FORWARD", "self.shaped += 1; top[0].data[0, 0] += self.shaped", 1, ""),
    "raises for another batch": (
        "RESHAPE",
        "assert bottom[0].shape[0] == 2, 'two'",
        0,
        "note: it cannot be given another batch: a layer raised: bad_layer.py:11: AssertionError",
    ),
    "raises in a later reshape": (
        "RESHAPE",
        "assert self.shaped < 4, 'four'",
        1,
        "a layer raised: bad_layer.py:11: AssertionError: four",
    ),
}
"""What a layer does beside its work: where, the exit status, and what is said."""


@pytest.mark.parametrize("deed", BESIDE)
def test_layer_that_does_more_than_its_work(
    place: Path,
    caffe: Caffe,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    deed: str,
) -> None:
    """What it computes counts, or the finding has the name of what it did; nothing is left."""
    monkeypatch.chdir(place)
    where, code, status, words = BESIDE[deed]
    command = [*layer_that(place, **{where: code}), "--reference", "functions.py:good"]
    found = main([*command, "--timeout", "20"])
    said = said_of(capsys)
    assert "Traceback" not in said and "internal error" not in said, said
    assert found == status and words in said, said
    assert main([*layer_that(place), "--reference", "functions.py:good"]) == 0
    caffe.close()
    assert not children_of_a_layer()


TESTED = """
import caffe_parity
from functions import exits_in_c, good

LAYER = caffe_parity.Layer(
    "l", reference=good, inputs={"x": (2, 3)}, cases=2, variants={"torch-port": PORT}
)

@caffe_parity.parametrize(LAYER)
def test_parity(comparison):
    comparison.check()
"""


PYTEST = ["pytest", "-p", "caffe_parity.pytest_plugin"]


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        (["caffe_parity", "run", "test_it.py"], 2, "ended the process (with exit status 0)"),
        ([*PYTEST, "-n1", "--parity-json", "found.json", "test_it.py"], 1, "crashed while running"),
        ([*PYTEST, "--parity-json", "found.json", "test_it.py"], 0, ""),
    ],
    ids=["parity run", "pytest -n1", "pytest"],
)
def test_exit_past_python_in_a_test(
    place: Path, command: list[str], status: int, words: str
) -> None:
    """`parity run` and pytest-xdist see it; pytest alone has nobody left to see it.

    Then no results of an earlier run are left that could be taken for this one's.
    """
    file = place / ("parity-report" if "run" in command else "") / "found.json"
    test = place / "test_it.py"
    for port in ("good", "exits_in_c"):
        test.write_text(TESTED.replace("PORT", port))
        done = subprocess.run(
            [sys.executable, "-m", *command],
            capture_output=True,
            text=True,
            cwd=place,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(place.parent / "tmp")},
            timeout=120,
        )
        said = done.stdout + done.stderr
        if port == "good":
            assert done.returncode == 0, said
            assert file.exists() == (file.parent == place)
    assert done.returncode == status and words in said, said
    assert not file.exists() or not read(file).agrees
