"""What people mistype, or do not know: the command names it, and says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from caffe_parity.caffe.client import Caffe
from tests.commands import check
from tests.net_text import input_layer, layer

ROOT = Path(__file__).parent.parent

POWER = layer("Power", "x", "y", "power_param { power: 2 }")
IN_TEST = "include { phase: TEST }"
FILES = {
    "net.prototxt": input_layer("x", 2, 3) + POWER,
    "arg_max.prototxt": input_layer("x", 2, 3) + POWER + layer("ArgMax", "x", "m"),
    "in_test.prototxt": input_layer("x", 2, 3)
    + layer("Power", "x", "y", f"{IN_TEST} power_param {{ power: 2 }}"),
    "half.prototxt": input_layer("x", 2, 3)
    + input_layer("t", 2, 3)
    + 'layer { name: "l" type: "EuclideanLoss" bottom: "x" bottom: "t" top: "l" loss_weight: 0.5 }',
    "two_tops.prototxt": input_layer("x", 4, 5)
    + input_layer("label", 4)
    + 'layer { name: "l" type: "SoftmaxWithLoss" bottom: "x" bottom: "label" top: "l" top: "p" }',
    "lstm.prototxt": input_layer("x", 3, 2, 4)
    + input_layer("cont", 3, 2)
    + 'layer { name: "l" type: "LSTM" bottom: "x" bottom: "cont" top: "y" '
    'recurrent_param { num_output: 4 weight_filler { type: "uniform" } } }',
    "data.prototxt": input_layer("x", 2, 3) + 'layer { name: "reader" type: "Python" top: "d" '
    'python_param { module: "layers" layer: "Reader" } }\n'
    'layer { name: "y" type: "Eltwise" bottom: "x" bottom: "d" top: "y" }',
    "filter.prototxt": input_layer("x", 6, 3)
    + input_layer("keep", 6)
    + 'layer { name: "f" type: "Filter" bottom: "x" bottom: "keep" top: "f" }',
    "layers.py": """
import caffe
class Reader(caffe.Layer):
    def setup(self, bottom, top): self.count = 0
    def reshape(self, bottom, top): top[0].reshape(2, 3)
    def forward(self, bottom, top):
        self.count += 1
        top[0].data[...] = self.count
    def backward(self, top, down, bottom): pass
class Late(caffe.Layer):
    def setup(self, bottom, top): self.count = 0
    def reshape(self, bottom, top):
        self.count += 1
        if self.count > 3: raise ValueError("the fourth time")
        top[0].reshape(*bottom[0].shape)
    def forward(self, bottom, top): top[0].data[...] = bottom[0].data ** 2
    def backward(self, top, down, bottom): bottom[0].diff[...] = 2 * bottom[0].data * top[0].diff
""",
    "truth.py": """
import threading
import torch
def square(x): return x * x
class Square(torch.nn.Module):
    def forward(self, x): return x * x
def both(x): return {"y": x * x, "m": x.argmax(1).reshape(2, 1, 1).to(x.dtype)}
def squares(x, t): return ((x - t) ** 2).sum() / 4
def softmax(x, label): return x.sum()
def same(x, cont): return x
def more(x): return x + 1
def kept(x, keep): return x[keep > 0]
def threaded(x):
    def fail(): raise ValueError("in a thread")
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    return x * x
""",
    "README.md": "# no numbers\n",
    "weights.caffemodel.h5": "",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caffe: Caffe) -> Path:
    """The current folder, with the files in it."""
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).write_text(text)
    Path("weights.caffemodel.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64))
    np.savez("given.npz", x=np.ones((3, 2, 4)), cont=np.ones((3, 2)))
    return tmp_path


NET = ("net.prototxt", "--reference", "truth.py:square", "--cases", "1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["", *NET[1:]], ["NET is empty: expected a .prototxt file, or FILE.py:CLASS"]),
        (
            ["layers.py", *NET[1:]],
            ["layers.py is a Python file: expected FILE.py:CLASS; its classes are Reader, Late"],
        ),
        ([*NET, "--timeout", "inf"], ["--timeout inf: expected a number of seconds above 0 and"]),
        (
            [*NET, "--inputs", "README.md"],
            ["--inputs README.md is no file of numbers: expected what np.savez(FILE, x=...)"],
        ),
        ([*NET, "--data", "x=int:0,16777217"], ["int:0,16777217", "beyond 2**24 = 16777216"]),
        (
            ["net.prototxt", "--reference", "truth.py:Square"],
            ["'truth.py:Square' is a class", "def reference(x): return Square().double()(x)"],
        ),
        (
            [*NET, "--weights", "weights.caffemodel.h5"],
            ["weights.caffemodel.h5: HDF5, which is not read here; net.save(FILE) in pycaffe"],
        ),
        (
            ["two_tops.prototxt", "--reference", "truth.py:softmax", "--data", "label=int:0,4"],
            ["a SoftmaxWithLoss with a second top Caffe 1.0 itself refuses: leave that top out"],
        ),
        (
            ["lstm.prototxt", "--reference", "truth.py:same", "--inputs", "given.npz"],
            ["cont says where a sequence begins, and has no gradient: --grad x asks for those"],
        ),
    ],
)
def test_request_that_cannot_be_carried_out(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: Sequence[str], words: Sequence[str]
) -> None:
    """Status 2, what is wrong, and what to do."""
    assert check(*arguments) == 2
    said = capsys.readouterr().err
    assert all(each in said for each in words), said


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["arg_max.prototxt", "--reference", "truth.py:both"], 0, "tops:   y, m"),
        (["in_test.prototxt", "--reference", "truth.py:square"], 0, "phase: TEST, since nothing"),
        (
            ["half.prototxt", "--reference", "truth.py:squares"],
            0,
            "loss_weight: 0.5 of l in the net; 1, 2.5 and -0.75 take its place, so the reference",
        ),
        (
            ["data.prototxt", "--reference", "truth.py:more"],
            1,
            "reader makes d out of nothing, other data in each forward if it reads some: --bottom",
        ),
        (
            ["layers.py:Late", "--bottom", "x=2,3", "--reference", "truth.py:square"],
            1,
            "a layer raised: layers.py:14: ValueError: the fourth time",
        ),
        (
            ["filter.prototxt", "--reference", "truth.py:kept", "--data", "keep=binary"],
            0,
            "C++ of a layer divided by 0, as Caffe's own does where a blob has no elements",
        ),
    ],
)
def test_what_the_net_is(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: Sequence[str],
    status: int,
    words: str,
) -> None:
    """It is judged right, and what is unusual about it is said."""
    assert check(*arguments, "--cases", "3") == status
    assert words in capsys.readouterr().out


def test_layer_without_a_gradient_alone_is_told(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ArgMax beside another top gets no upstream gradient; alone it is asked, and says so."""
    net = input_layer("x", 2, 3) + layer("ArgMax", "x", "m")
    Path("alone.prototxt").write_text(net)
    Path("index.py").write_text("def index(x): return x.argmax(1).reshape(2, 1, 1).to(x.dtype)\n")
    of_index = ("alone.prototxt", "--reference", "index.py:index", "--cases", "1")
    assert check(*of_index) == 1
    assert "--grad '' compares the forward alone" in capsys.readouterr().out
    assert check(*of_index, "--grad", "") == 0


def test_a_wrong_layer_in_phase_test_is_found(place: Path) -> None:
    """The net of that phase is what is compared, not an empty one."""
    Path("wrong.py").write_text("def cube(x): return x * x * x\n")
    assert check("in_test.prototxt", "--reference", "wrong.py:cube", "--cases", "1") == 1


TESTS = """
import caffe_parity
from truth import square
LAYER = caffe_parity.Layer(
    "square", reference=square, inputs={"x": (2, 3)}, variants={"port": square}, cases=2)
@caffe_parity.parametrize(LAYER)
def test_square(comparison):
    comparison.check()
"""


def parity(place: Path, *arguments: str) -> tuple[int, str]:
    """`parity` in a process of its own, with an empty $TMPDIR."""
    (place / "tmp").mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "caffe_parity", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(place / "tmp")},
        timeout=120,
    )
    return done.returncode, done.stdout


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder."""
    return {each.name: each.read_bytes() for each in folder.iterdir()}


def test_a_run_of_nothing_loses_nothing(place: Path) -> None:
    """Whatever was mistyped, the report of the run before is as it was; -n leaves no folders."""
    (place / "test_square.py").write_text(TESTS)
    (place / "test_none.py").write_text("x = 1\n")
    (place / "test_plain.py").write_text("def test_plain(): pass\n")
    (place / "test_broken.py").write_text("import nothing_of_that_name\n")
    status, said = parity(place, "run", "test_square.py", "-n", "2")
    assert status == 0, said
    assert not list((place / "tmp").iterdir())
    before = contents(place / "parity-report")
    assert {*before} == {"index.html", "results.json", "junit.xml"}
    for name, words in (("none", "nothing was compared: "), ("plain", "nothing was compared: ")):
        status, said = parity(place, "run", f"test_{name}.py")
        assert status == 2 and words in said, said
        assert contents(place / "parity-report") == before, name
    status, said = parity(place, "run", "test_square.py", "--variant", "prot")
    assert status == 2 and "Did you mean 'port'" in said
    assert contents(place / "parity-report") == before
    status, _ = parity(place, "run", "test_broken.py")
    assert status == 2
    assert contents(place / "parity-report")["results.json"] == before["results.json"]


def test_exception_in_a_thread_is_told_in_a_line(place: Path) -> None:
    """Once, with its place, and no traceback."""
    status, said = parity(place, "check", *NET[:2], "truth.py:threaded", "--cases", "1")
    assert status == 0
    assert said.count("note: a thread ended with an exception: ") == 1
    assert "truth.py:14: ValueError: in a thread" in said and "Traceback" not in said
