"""`parity check`: what it finds, what it does not, what it says, and its exit status."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

import reference
from caffe_parity import progress
from caffe_parity.caffe.client import Caffe
from caffe_parity.caffe.layer_errors import hint
from caffe_parity.cli import objects
from caffe_parity.contract import GRADIENT, UNIT_ROUNDOFF, BadRequest
from caffe_parity.engine import data
from caffe_parity.engine.compare import compare, wrong
from caffe_parity.engine.functions import Tensors
from caffe_parity.engine.random_rounding import Evaluate, Source, as_inputs, expect
from caffe_parity.engine.sides import Sides
from caffe_parity.engine.structure import structure_of
from caffe_parity.layer import Layer
from caffe_parity.report.record import read
from studies import false_alarms
from tests.commands import check
from tests.net_text import input_layer, layer

ROOT = Path(__file__).parent.parent
PAGES = ("docs/check.md", "docs/porting.md")


@pytest.mark.parametrize("name", false_alarms.BREAKAGES)
def test_right_layers_agree_and_broken_ones_are_found(caffe: Caffe, name: str) -> None:
    """A correct example has no finding, and each way to break it is found under its code."""
    example = false_alarms.example_of(name, 3)
    assert not false_alarms.codes(example.run())
    assert all(each.caught for each in false_alarms.answers(example))


def test_every_example_with_a_layer_is_in_the_list() -> None:
    """Ten layers or more are correct, each with three breakages or more, and none is left out."""
    layers = {
        file.name.removesuffix("_layer.py") for file in (ROOT / "examples").glob("*_layer.py")
    }
    assert layers - {"forgetful"} == set(false_alarms.BREAKAGES)
    assert len(false_alarms.BREAKAGES) >= 8
    assert all(len(each) >= 3 for each in false_alarms.BREAKAGES.values())


FORGETFUL = ("examples/forgetful.prototxt", "--reference", "examples/forgetful.py:loss")


def test_finding_has_a_line_and_a_place_in_the_json(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 1; code and tensor have a line of their own; the JSON file has them in each case."""
    assert check(*FORGETFUL, "--cases", "2", "--json", "found.json") == 1
    lines = capsys.readouterr().out.splitlines()
    found = [each for each in lines if each.startswith("ignores-top-diff: ")]
    for line, name in zip(found, ("x1", "x2"), strict=True):
        assert f"the gradient of {name} is the same at every loss weight" in line
        assert line.endswith("[2 of 2 cases]")
    assert lines[-1].startswith("disagrees: 2 findings, 2 cases")
    report = read(folder / "found.json")
    assert not report.agrees and report.environment["caffe"]
    assert [each.case for each in report.results] == ["0", "1"]
    for record in report.results:
        assert {each.code for each in record.findings} == {"ignores-top-diff"}
        assert {each.tensor for each in record.findings} == {GRADIENT + "x1", GRADIENT + "x2"}


def test_port_with_another_normaliser_is_found_and_the_right_one_not(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The mean in place of the sum by N is named; PyTorch's own loss and a Module agree."""
    command = [*false_alarms.command_of("smooth_l1"), "--cases", "2", "--port"]
    assert check(*command, "examples/smooth_l1.py:port") == 0
    assert check(*command, "examples/smooth_l1.py:port_with_mean") == 1
    out = capsys.readouterr().out
    assert "port-forward: in the port, top is off by 1/(C*S) = 1/15" in out
    assert "port-gradient:x1: in the port, dx1 is off by 1/(C*S) = 1/15" in out
    command = [*false_alarms.command_of("softmax"), "--cases", "2", "--port"]
    assert check(*command, "examples/softmax.py:Port") == 0


LAYER = """
import caffe
{before}
class Layer(caffe.Layer):
    def setup(self, bottom, top):
        {setup}
    def reshape(self, bottom, top):
        top[0].reshape(1)
    def forward(self, bottom, top):
        {forward}
    def backward(self, top, propagate_down, bottom):
        {backward}
"""


def write_layer(
    folder: Path,
    name: str,
    before: str = "",
    setup: str = "pass",
    forward: str = "top[0].data[...] = 0.5 * (bottom[0].data ** 2).sum()",
    backward: str = "bottom[0].diff[...] = top[0].diff[0] * bottom[0].data",
) -> list[str]:
    """Writes a layer, half the sum of squares of x, and its reference; returns the arguments."""
    text = LAYER.format(before=before, setup=setup, forward=forward, backward=backward)
    (folder / f"{name}.py").write_text(text)
    (folder / "truth.py").write_text("def loss(x):\n    return 0.5 * (x * x).sum()\n")
    arguments = [f"{name}.py:Layer", "--bottom", "x=2,3", "--reference", "truth.py:loss"]
    return [*arguments, "--cases", "2"]


@pytest.mark.parametrize(
    ("forward", "code", "words"),
    [
        ("import os; print('farewell', flush=True); os.abort()", "crash", "SIGABRT"),
        ("bottom[0].data / undefined", "crash", "name 'undefined' is not defined"),
        ("import time; time.sleep(600)", "hang", "no answer from Caffe within 2 s"),
    ],
    ids=["abort", "raise", "sleep"],
)
def test_layer_that_crashes_or_hangs(
    caffe: Caffe,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    forward: str,
    code: str,
    words: str,
) -> None:
    """A verdict with exit status 1 that carries the reason and what was printed."""
    arguments = write_layer(folder, f"layer_{code}_{len(forward)}", forward=forward)
    caffe.start()
    assert check(*arguments, "--timeout", "2") == 1
    out = capsys.readouterr().out
    assert f"\n{code}: " in out
    assert words in out
    assert "farewell" in out or "farewell" not in forward
    assert "largest error" not in out


def test_a_hang_in_another_batch_alone_is_no_agreement(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To refuse one is a layer's right, and a note; to hang is none."""
    total = "top[0].data[...] = 0.5 * (bottom[0].data ** 2).sum()"
    forward = f"[__import__('time').sleep(600) for _ in range(len(bottom[0].data) != 2)]; {total}"
    arguments = write_layer(folder, "hanging_batch", forward=forward)
    assert check(*arguments, "--timeout", "2") == 1
    out = capsys.readouterr().out
    assert "\nother-batch: it cannot be given another batch: no answer from Caffe within 2 s" in out
    caffe.start()


PRINT = "print 'hello'"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"setup": "self.margin = float(self.param_str_)"}, "it is `param_str` now"),
        ({"before": PRINT}, "`print` is a function in Python 3"),
        ({"before": "import no_such_module"}, "No module named 'no_such_module'"),
        ({"setup": "self.n = xrange(3)"}, "it is `range` now"),
    ],
    ids=["param_str_", "print", "import", "xrange"],
)
def test_old_layer_is_refused_in_words(
    caffe: Caffe,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    fields: dict[str, str],
    words: str,
) -> None:
    """Exit 2: what is wrong with the source, where, and what to write instead."""
    name = "old_" + re.sub(r"\W", "", words)[:12]
    arguments = write_layer(folder, name, **fields)
    assert check(*arguments, "--param-str", "1") == 2
    said = capsys.readouterr().err
    assert words in said
    assert f"{name}.py" in said


NO_INPUT = 'layer { name: "d" type: "DummyData" top: "x" dummy_data_param { shape { dim: 1 } } }'
NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "loss" type: "Reduction" bottom: "x" top: "loss" loss_weight: 1 }
"""
TRUTH = """
import torch
NUMBER = 3
class Needs(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
def loss(x): return x.sum()
def other(y): return y.sum()
def two(x): return x, x
def raises(x): return x @ x
def leaves(x): raise SystemExit(0)
def named(x): return {"l": x.sum()}
def beside(x): return {"loss": x.sum(), "more": x}
"""
SUM = ("net.prototxt", "--reference", "truth.py:loss")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent.prototxt", "--reference", "truth.py:loss"], "cannot read the net absent"),
        (
            ["binary.prototxt", "--reference", "truth.py:loss"],
            "binary.prototxt is no text in UTF-8",
        ),
        (["text.prototxt", "--reference", "truth.py:loss"], "not a valid net prototxt"),
        (["no_input.prototxt", "--reference", "truth.py:loss"], "since the net has no inputs"),
        (["unknown.prototxt", "--reference", "truth.py:loss"], "Unknown layer type: NoSuchLayer"),
        (["net.prototxt"], "--reference"),
        (["net.prototxt", "--reference", "truth.py"], "expected MODULE:NAME or FILE.py:NAME"),
        (
            ["net.prototxt", "--reference", "absent.py:loss"],
            "there is no file absent.py: --reference names a file with a function in PyTorch of "
            "the net's inputs, such as `def loss(x1, x2): ...`",
        ),
        (["net.prototxt", "--reference", "no.such.module:loss"], "No module named 'no'"),
        (["net.prototxt", "--reference", "spoilt.py:loss"], "cannot be imported: SyntaxError"),
        (["net.prototxt", "--reference", "truth.py:lost"], "has no 'lost'; it has Needs, loss"),
        (["net.prototxt", "--reference", "truth.py:NUMBER"], "is int, not a function"),
        (["net.prototxt", "--reference", "truth.py:other"], "x as keyword arguments"),
        (["net.prototxt", "--reference", "truth.py:two"], "must return the net's 1 top (loss)"),
        (
            ["net.prototxt", "--reference", "truth.py:raises"],
            "cannot be evaluated: truth.py:10: RuntimeError",
        ),
        (["net.prototxt", "--reference", "truth.py:named"], "the reference returns no ['loss']"),
        (["net.prototxt", "--reference", "truth.py:beside"], "returns 'more', which would be"),
        ([*SUM, "--port", "truth.py:Needs"], "is a class that needs arguments"),
        ([*SUM, "--port", "truth.py:NUMBER"], "not callable"),
        ([*SUM, "--data", "x=norml"], "data kind 'norml': expected one of normal"),
        ([*SUM, "--data", "x=uniform:1"], "data kind 'uniform:1'"),
        ([*SUM, "--data", "x=int:5,1"], "must not exceed"),
        ([*SUM, "--data", "y=normal"], "NAME one of x"),
        ([*SUM, "--data", "x=onehot:4"], "needs axis 1 of that length"),
        ([*SUM, "--data", "x=int:1.5,3"], "expected whole numbers"),
        ([*SUM, "--data", "x=constant:nan"], "float32 cannot hold that number"),
        ([*SUM, "--data", "x=constant:1e39"], "float32 cannot hold that number"),
        ([*SUM, "--data", "x=normal", "--data", "x=positive"], "--data x is given twice"),
        ([*SUM, "--grad", "y"], "the net's inputs are x"),
        ([*SUM, "--bottom", "y=2,3"], "--bottom y: the inputs of net.prototxt are x"),
        ([*SUM, "--top", "x"], "--top and --param-str belong to"),
        ([*SUM, "--param-str", "x"], "--top and --param-str belong to"),
        ([*SUM, "--weights", "absent.caffemodel"], "--weights absent.caffemodel: there is no such"),
        ([*SUM, "--path", "absent"], "there is no such folder"),
        ([*SUM, "--load", "absent.so"], "there is no such file"),
        ([*SUM, "--load", "truth.py"], "does not fit this Caffe"),
        ([*SUM, "--cases", "0"], "--cases: expected a number from 1 to"),
        ([*SUM, "--inputs", "absent.npz"], "--inputs absent.npz"),
        ([*SUM, "--inputs", "truth.py"], "--inputs truth.py"),
        ([*SUM, "--inputs", "lacking.npz"], "lacks x; it has y"),
        ([*SUM, "--inputs", "objects.npz"], "--inputs objects.npz is no file of numbers"),
        ([*SUM, "--inputs", "words.npz"], "not numbers"),
        ([*SUM, "--inputs", "complex.npz"], "x is complex128, not numbers"),
        ([*SUM, "--inputs", "large.npz"], "x has 1e+300, which float32 cannot hold"),
        ([*SUM, "--inputs", "more.npz"], "also has z; the net's inputs are x"),
        ([*SUM, "--json", "absent/found.json"], "absent/found.json"),
        ([*SUM, "--json", "."], "--json . is a folder"),
        (["truth.py:Needs", "--reference", "truth.py:loss"], "needs --bottom NAME=SHAPE"),
        (
            ["net.prototxt", "--reference", "truth.py:leaves"],
            "cannot be evaluated: truth.py:11: SystemExit: 0",
        ),
        (
            ["truth.py:L", "--bottom", "x=2", "--bottom", "x=3", "--reference", "truth.py:loss"],
            "--bottom x is given twice",
        ),
        (
            ["gone.py:Layer", "--bottom", "x=2", "--reference", "truth.py:loss"],
            "there is no file gone.py",
        ),
        (
            ["truth.py:Layer", "--bottom", "x=2,no", "--reference", "truth.py:loss"],
            "expected NAME=SHAPE",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_request_is_status_2_with_words(
    caffe: Caffe,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    """What cannot be carried out is named, says what was expected, and is never a traceback."""
    unknown = NET.replace('"Reduction"', '"NoSuchLayer"')
    nets = {"net": NET, "text": "Dear net,", "no_input": NO_INPUT, "unknown": unknown}
    for name, text in nets.items():
        (folder / f"{name}.prototxt").write_text(text)
    (folder / "binary.prototxt").write_bytes(b"\xff\xfe\x00")
    (folder / "truth.py").write_text(TRUTH)
    (folder / "spoilt.py").write_text("def loss(x:\n")
    np.savez(folder / "lacking.npz", y=np.zeros((2, 3)))
    np.savez(folder / "objects.npz", x=np.array([None, {}], dtype=object))
    np.savez(folder / "words.npz", x=np.array(["a", "b"]))
    np.savez(folder / "complex.npz", x=np.full((2, 3), 1j))
    np.savez(folder / "large.npz", x=np.full((2, 3), 1e300))
    np.savez(folder / "more.npz", x=np.zeros((2, 3)), z=np.zeros(1))
    assert check(*arguments) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert "Traceback" not in said.err


def test_inputs_from_a_file_are_the_only_case(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--inputs sets shapes and values, and one case runs."""
    (folder / "net.prototxt").write_text(NET)
    (folder / "truth.py").write_text(TRUTH)
    np.savez(folder / "inputs.npz", x=np.ones((4, 5)))
    assert check(*SUM, "--inputs", "inputs.npz") == 0
    out = capsys.readouterr().out
    assert "x (4, 5) from the file" in out
    assert "agrees, 1 case," in out


X = input_layer("x", 3, 4)
BUILT_IN = {
    "in-place": (
        X + layer("ReLU", "x", "x") + layer("Reduction", "x", "loss", "loss_weight: 1"),
        "torch.relu(x).sum()",
    ),
    "in-place-output": (X + layer("TanH", "x", "x"), "torch.tanh(x)"),
    "two-tops": (
        X
        + layer("Slice", "x", "a b", "slice_param { axis: 0 slice_point: 2 }")
        + layer("Softmax", "a", "p"),
        '{"b": x[2:], "p": torch.softmax(x[:2], 1)}',
    ),
    "two-losses": (
        X
        + layer("Reduction", "x", "d", "loss_weight: 1")
        + layer("Power", "x", "dx", "power_param { power: 2 } loss_weight: 0.5"),
        "(x.sum(), x * x)",
    ),
}
"""Nets of Caffe's own layers, and what they compute. Tops are called like gradients, too."""


@pytest.mark.parametrize("name", BUILT_IN)
def test_nets_of_built_in_layers_agree(caffe: Caffe, folder: Path, name: str) -> None:
    """A layer may work in place, have several tops, or share its input with another loss."""
    net, result = BUILT_IN[name]
    (folder / "net.prototxt").write_text(net)
    # The name of this project's own package, which a user's file may have as well.
    (folder / "reference.py").write_text(f"import torch\ndef tops(x): return {result}\n")
    arguments = ["net.prototxt", "--reference", "reference.py:tops", "--cases", "2"]
    assert check(*arguments) == 0
    assert hasattr(reference, "__path__")
    assert sys.modules["reference"] is reference


PORT = """
import torch
class Half(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return 0.5 * (x * x).sum()
    @staticmethod
    def backward(ctx, grad):
        return ctx.saved_tensors[0] * {slope}
def loss(x): return Half.apply(x)
"""


@pytest.mark.parametrize(("slope", "status"), [("grad", 0), ("1", 1), ("-grad", 1)])
def test_backward_of_a_port_is_checked_with_its_upstream_gradient(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str], slope: str, status: int
) -> None:
    """A hand-written backward that ignores what comes from above, or turns its sign, is found."""
    arguments = write_layer(folder, "half_square")
    (folder / "port.py").write_text(PORT.format(slope=slope))
    assert check(*arguments, "--port", "port.py:loss") == status
    assert ("port-gradient:x: " in capsys.readouterr().out) == bool(status)


@pytest.mark.parametrize(("budget", "cases"), [("1e-9", 1), ("1e9", 3)])
def test_a_budget_leaves_cases_out_and_says_how_many(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str], budget: str, cases: int
) -> None:
    """One case always runs; what is left out stands in the last line and in the file."""
    arguments = write_layer(folder, "half_square")
    assert check(*arguments[:-2], "--cases", "3", "--budget", budget, "--json", "found.json") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"agrees, {cases} case")
    assert ("; 2 cases left out by --budget" in last) == (cases == 1)
    report = read(folder / "found.json")
    assert len(report.results) == cases
    assert report.selection.get("left_out") == (2 if cases == 1 else None)


def test_whoever_waits_is_told_where_it_is(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal there are whole lines, each with the case, what is done, and the time."""
    monkeypatch.setattr(progress, "EVERY", {True: 0.0, False: 0.0})
    assert check(*write_layer(folder, "half_square")) == 0
    told = capsys.readouterr().err.splitlines()
    assert any(
        re.fullmatch(
            r"  case 2 of 2: rounding the reference, 9 of 16 times, \d+ s(, about \d+ s left)?",
            line,
        )
        for line in told
    )
    assert any(re.match("  case 1 of 2: running caffe, ", line) for line in told)


FOREIGN = {
    "an integer": ("def ref(x):\n    return (x**2).long()\n", (), 1, "forward-value"),
    "a port that keeps its output": (
        "import torch\nclass Keeps(torch.nn.Module):\n    y = None\n    def forward(self, x):\n"
        "        self.y = x**2\n        return self.y\ndef ref(x):\n    return x**2\n",
        ("--port", "own.py:Keeps"),
        0,
        "agrees",
    ),
    "zeros": (
        "def ref(x):\n    return x**2\n",
        ("--data", "x=constant:0"),
        0,
        "of y is 0 in every",
    ),
    "one that sleeps": (
        "import time\ndef ref(x):\n    time.sleep(1000)\n",
        ("--timeout", "2"),
        2,
        "own.py:3: NoAnswer: no answer within 2 s (--timeout)",
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_whatever_a_function_does_it_has_an_answer(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """A result of another type, a module that cannot be copied, zeros, one that never returns."""
    source, more, status, words = FOREIGN[name]
    square = layer("Power", "x", "y", "power_param { power: 2 }")
    (folder / "net.prototxt").write_text(input_layer("x", 3, 4) + square)
    (folder / "own.py").write_text(source)
    arguments = ("net.prototxt", "--reference", "own.py:ref", "--cases", "2", *more)
    assert check(*arguments) == status
    assert words in "".join(capsys.readouterr())


@pytest.mark.parametrize("written", ["x.relu()", "torch.where(x >= 0, x, 0 * x)"])
def test_where_all_is_at_a_kink_nothing_is_proven(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str], written: str
) -> None:
    """A ReLU at 0 has several right gradients, though the inputs have no size to move them by."""
    (folder / "net.prototxt").write_text(input_layer("x", 3, 4) + layer("ReLU", "x", "y"))
    (folder / "own.py").write_text(f"import torch\ndef ref(x):\n    return {written}\n")
    arguments = ("net.prototxt", "--reference", "own.py:ref", "--data", "x=constant:0")
    assert check(*arguments, "--cases", "2") == 2
    assert capsys.readouterr().out.splitlines()[-1].startswith("unproven: dx")


def test_what_would_be_lost_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An option given twice; a file that is no result, though it is JSON; one file for two."""
    (folder / "package.json").write_text('{"name": "mine"}')
    for more, words in (
        (("--port", "a.py:f", "--port", "b.py:f"), "--port is given twice"),
        (("--grad", "x", "--grad=y"), "--grad is given twice"),
        (("--json", "package.json"), "package.json would replace a file"),
        (("--json", "a", "--page", "a"), "name the same file"),
    ):
        assert check(*FORGETFUL, *more) == 2
        assert words in capsys.readouterr().err
    assert "mine" in (folder / "package.json").read_text()


WINDOWS = {
    "own": "F.local_response_norm(x, 5, alpha={alpha}, beta={beta}, k={k})",
    "unfolded": "x / ({k} + {alpha} / 5 * F.pad(x**2, (0, 0, 0, 0, 2, 2)).unfold(1, 5, 1).sum(-1))"
    " ** {beta}",
}
"""LRN across channels, by PyTorch's own function and written out."""


@pytest.mark.parametrize(
    ("alpha", "beta", "k"), [(1.0, 0.75, 1.0), (0.8, 0.6, 2.0), (1e-4, 0.75, 1.0)]
)
@pytest.mark.parametrize("written", WINDOWS)
def test_lrn_agrees_though_its_sums_run_over_all_channels(
    caffe: Caffe, folder: Path, written: str, alpha: float, beta: float, k: float
) -> None:
    """Caffe's LRN agrees at its default alpha and at small ones; one of 1.001 times it does not."""
    said = f"lrn_param {{ local_size: 5 alpha: {alpha} beta: {beta} k: {k} }}"
    net = input_layer("x", 2, 64, 3, 4) + layer("LRN", "x", "y", said)
    (folder / "net.prototxt").write_text(net)
    right, off = (
        WINDOWS[written].format(alpha=factor * alpha, beta=beta, k=k) for factor in (1, 1.001)
    )
    (folder / "ref.py").write_text(
        "import torch.nn.functional as F\n"
        f"def right(x):\n    return {right}\ndef off(x):\n    return {off}\n"
    )
    for name, status in (("right", 0), ("off", 1)):
        assert check("net.prototxt", "--reference", f"ref.py:{name}", "--cases", "8") == status


ONE_SIDED = {
    "F.relu(x)": "relu",
    "F.leaky_relu(x, 0.1)": "leaky_relu",
    "x.abs()": "abs",
    "x.clamp(min=0)": "clamp at 0",
    "x.clamp_min(0.0)": "clamp_min",
    "torch.where(x > 0, x, 0.1 * x)": "gt and where",
    "torch.maximum(x, 0 * x)": "maximum",
    "F.threshold(x, 0, 0)": "threshold",
}
"""Decisions at 0, and how a note calls them."""


@pytest.mark.parametrize("written", ONE_SIDED)
def test_a_decision_that_always_falls_alike_is_told_with_its_line(
    folder: Path, written: str
) -> None:
    """Positive numbers alone do not show what a ReLU does; numbers of both signs do."""
    source = f"import torch\nimport torch.nn.functional as F\ndef top(x):\n    return {written}\n"
    (folder / "decides.py").write_text(source)
    top = objects.reference("decides.py:top")
    assert not isinstance(top, Layer)
    for kind, notes in (("positive", 1), ("normal", 0)):
        layer = Layer(
            "decides",
            reference=top,
            inputs={"x": (3, 4)},
            data={"x": kind},
            cases=3,
        )
        sides = Sides(layer)
        for case in layer.all_cases():
            sides.watch(case, structure_of(layer, case, None))
        told = [each.words for each in sides.notes()]
        assert len(told) == notes
        words = f"decides.py:4 (return {written}): {ONE_SIDED[written]} went the same way"
        assert all(each.startswith(words) for each in told)


def test_a_one_sided_case_stands_among_the_notes(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The check agrees, and says what it did not see."""
    (folder / "net.prototxt").write_text(input_layer("x", 3, 4) + layer("ReLU", "x", "y"))
    (folder / "ref.py").write_text("def top(x):\n    return x.relu()\n")
    arguments = ("net.prototxt", "--reference", "ref.py:top", "--cases", "2")
    assert check(*arguments, "--data", "x=positive") == 0
    assert "note: ref.py:2 (return x.relu()): relu went the same" in capsys.readouterr().out
    assert check(*arguments) == 0
    assert "note: " not in capsys.readouterr().out


def test_rounding_of_float32_lies_within_the_bound_and_a_small_mistake_does_not() -> None:
    """A softmax loss in float32 is within its bound; one that is off by 1e-4 is far beyond it."""
    rng = np.random.RandomState(0)
    arrays = {"x": rng.standard_normal((4, 9)).astype(np.float32)}

    def evaluate(inputs: Tensors) -> Tensors:
        x = inputs["x"].detach().requires_grad_()
        loss = torch.logsumexp(x, 1).sum()
        (grad,) = torch.autograd.grad(loss, [x])
        return {"dist": loss.detach(), GRADIENT + "x": grad}

    expected = expect(evaluate, as_inputs(arrays), set())
    assert not expected.bound.kinks
    single = evaluate({"x": torch.from_numpy(arrays["x"])})
    for name, value in single.items():
        got = value.numpy()
        assert not wrong(name, got, expected).any()
        assert wrong(name, got * np.float32(1.0001), expected).all()


def test_a_scaled_sum_rounds_the_product_too() -> None:
    """`add` with `alpha` is a product and a sum: where it cancels, the product's rounding stays."""
    y = torch.tensor([3.0, 5.0], dtype=torch.float64)

    def evaluate(inputs: Tensors) -> Tensors:
        return {"top": inputs["x"].add(inputs["y"], alpha=0.1)}

    expected = expect(evaluate, {"x": -0.1 * y, "y": y}, {"x", "y"})
    assert (expected.bound.worst["top"] > 0.5 * UNIT_ROUNDOFF * 0.1 * y.numpy()).all()


@pytest.mark.parametrize("value", [0.1, 0.3, 0.7, 1.1])
@pytest.mark.parametrize("shape", [(4096,), (3, 5000), (17, 40, 9)])
@pytest.mark.parametrize("operation", ["sum", "mean", "cumsum"])
def test_terms_that_are_alike_are_rounded_alike(
    operation: str, shape: tuple[int, ...], value: float
) -> None:
    """Equal numbers added one by one in float32 drift: that lies within the bound of their sum."""
    x = np.full(shape, value, np.float32)
    axis = len(shape) - 1
    tops = {
        "sum": lambda x: x.sum(axis),
        "mean": lambda x: x.mean(axis),
        "cumsum": lambda x: x.cumsum(axis),
    }
    add = np.add.accumulate(x, axis=-1, dtype=np.float32)
    count = np.float32(shape[-1])
    one_by_one = {"sum": add[..., -1], "mean": add[..., -1] / count, "cumsum": add}[operation]
    expected = expect(
        lambda inputs: {"top": tops[operation](inputs["x"])}, as_inputs({"x": x}), set()
    )
    assert not wrong("top", one_by_one, expected).any()
    off = np.abs(one_by_one - expected.truth["top"]).max()
    assert (
        expected.bound.worst["top"].max() < 8 * off + 64 * UNIT_ROUNDOFF * np.abs(x).sum(-1).max()
    )


@pytest.mark.parametrize("kernel", [28, (14, 28)])
@pytest.mark.parametrize("axes", [2, 3])
def test_average_over_a_window_is_rounded_as_a_sum(
    axes: int, kernel: int | tuple[int, int]
) -> None:
    """Its terms added one by one in float32, as Caffe's pooling does, of whatever sign."""
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    whole = sides if axes == 2 else (1, *sides)
    x = np.random.RandomState(0).uniform(1, 1.5, (1, 4, *whole)).astype(np.float32)
    pool = torch.nn.functional.avg_pool2d if axes == 2 else torch.nn.functional.avg_pool3d
    size = kernel if axes == 2 and isinstance(kernel, int) else whole
    expected = expect(
        lambda inputs: {"top": pool(inputs["x"], size)},
        as_inputs({"x": x}),
        set(),
    )
    rows = x.reshape(4, -1)
    sums = np.add.accumulate(rows, axis=-1, dtype=np.float32)[..., -1]
    one_by_one = (sums / np.float32(rows.shape[-1])).reshape(expected.truth["top"].shape)
    assert not wrong("top", one_by_one, expected).any()
    off = np.abs(one_by_one - expected.truth["top"]).max()
    walk = rows.shape[-1] ** 0.5 * UNIT_ROUNDOFF * 1.5
    assert walk < expected.bound.worst["top"].max() < 8 * off + 5 * walk


def test_the_bound_of_a_sum_grows_with_the_root_of_its_terms() -> None:
    """In whatever order: what one order of these terms is off by says nothing of another one."""
    for count in (64, 4096):
        x = np.random.RandomState(count).standard_normal(count).astype(np.float32)
        expected = expect(lambda inputs: {"top": inputs["x"].sum()}, as_inputs({"x": x}), set())
        walk = count**0.5 * UNIT_ROUNDOFF * float(np.abs(x).sum())
        assert 2 * walk < expected.bound.worst["top"] < 5 * walk


def test_what_nothing_rounds_has_the_bound_of_its_input() -> None:
    """4 times what the input's own rounding makes, and the result's own: 6 u |x|, and no more."""
    x = np.full(64, 1.5, np.float32)
    expected = expect(lambda inputs: {"top": inputs["x"]}, as_inputs({"x": x}), set())
    parts = expected.bound.worst["top"] / (UNIT_ROUNDOFF * x)
    assert (parts > 2).all() and (parts < 6.001).all()


def test_garbage_is_seen_after_a_reshape_too(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A layer that adds to its diffs once its batch is another than at first."""
    arguments = write_layer(
        folder,
        "half_square",
        setup="self.n = bottom[0].shape[0]",
        backward="bottom[0].diff[...] = top[0].diff[0] * bottom[0].data + "
        "(bottom[0].shape[0] != self.n) * bottom[0].diff",
    )
    assert check(*arguments) == 1
    assert "stale-state: " in capsys.readouterr().out


def test_a_huge_element_hides_no_other() -> None:
    """The bound of an ordinary element is its own, though one of them is 1e12 times as large."""
    x = np.linspace(1, 2, 64, dtype=np.float32)
    x[5] = 1e12
    expected = expect(lambda inputs: {"top": 3 * inputs["x"]}, as_inputs({"x": x}), set())
    got = (3 * x * np.float32(1.0001)).astype(np.float32)
    assert wrong("top", got, expected).all()


def _with_gradient(
    function: Callable[[torch.Tensor], torch.Tensor],
) -> Callable[[Tensors], Tensors]:
    def evaluate(inputs: Tensors) -> Tensors:
        x = inputs["x"].detach().requires_grad_()
        top = function(x)
        (grad,) = torch.autograd.grad((top * torch.arange(1, 1 + top.numel())).sum(), [x])
        return {"top": top.detach(), GRADIENT + "x": grad}

    return evaluate


def test_a_gradient_that_nearly_cancels_has_a_bound() -> None:
    """What is left of its sum is rounding altogether, and no kink, though ReLU could have one."""
    rng = np.random.RandomState(0)
    x, sent = 1 + rng.random_sample(500), rng.standard_normal(500)
    sent -= x * (sent @ x) / (x @ x)
    arrays = {"x": x.astype(np.float32), "sent": sent.astype(np.float32)}

    def evaluate(inputs: Tensors) -> Tensors:
        return {f"{GRADIENT}w": (torch.relu(inputs["x"]) * inputs["sent"]).sum().reshape(1)}

    expected = expect(evaluate, as_inputs(arrays), set())
    assert 1e-7 < expected.bound.worst[f"{GRADIENT}w"][0] < 1e-2


@pytest.mark.parametrize("scale", [2.0**-6, 1.0, 8.0])
def test_a_gradient_that_cancels_is_compared(scale: float) -> None:
    """That of what a normalisation takes away again is 0, with a bound: a wrong one is found."""
    y = torch.randn(32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def normalised(x: torch.Tensor) -> torch.Tensor:
        shifted = scale * y + x
        return (shifted - shifted.mean()) / (shifted.var() + 1e-5).sqrt()

    x = np.array([0.7], np.float32)
    expected = expect(_with_gradient(normalised), as_inputs({"x": x}), set())
    assert expected.truth[GRADIENT + "x"].tolist() == [0.0]
    assert expected.bound.worst[GRADIENT + "x"][0] < 2.0**-10 / scale
    assert wrong(GRADIENT + "x", np.array([0.01], np.float32) / scale, expected).all()
    found = compare(GRADIENT + "x", np.array([1e-8], np.float32), expected)
    assert (found.compared, found.proves) == (1, True)


@pytest.mark.parametrize("gradient", [(-0.5816408, 0.5848188), (1.2295009, -1.2255560)])
def test_a_gradient_that_is_all_rounding_may_round_in_another_form(
    gradient: tuple[float, float],
) -> None:
    """That of two numbers made to -1 and 1 is 0: autograd takes a mean last, Caffe's MVN first."""
    above = torch.tensor(gradient, dtype=torch.float32)
    x = torch.tensor([-2.2501411, -2.2385499])

    def of(upstream: torch.Tensor) -> Evaluate:
        def normalised(inputs: Tensors) -> Tensors:
            given = inputs["x"].detach().requires_grad_()
            centred = given - given.mean()
            top = centred / (centred.square().mean().sqrt() + 1e-9)
            return {GRADIENT + "x": torch.autograd.grad(top, given, upstream.double())[0]}

        return normalised

    def signed(source: Source) -> Evaluate:
        return of(above.where(source.whole(above.shape).ge(0), -above))

    expected = expect(of(above), {"x": x.double()}, set(), signed=signed)
    centred = x - x.mean()
    root = centred.square().mean().sqrt()
    top = centred / root
    caffe = (above - above.mean() - top * (above * top).mean()) / root
    assert not wrong(GRADIENT + "x", caffe.numpy(), expected).any()
    assert not compare(GRADIENT + "x", caffe.numpy(), expected).proves
    assert wrong(GRADIENT + "x", (above / root).numpy(), expected).all()
    alone = expect(of(above), {"x": x.double()}, set())
    assert wrong(GRADIENT + "x", caffe.numpy(), alone).any()


def test_a_saturated_gradient_is_not_zero_everywhere() -> None:
    """That of 1 - sigmoid(x) far out is no 0 for other inputs: it proves nothing."""

    def saturated(x: torch.Tensor) -> torch.Tensor:
        return 1 - x.sigmoid()

    x = np.array([36.0], np.float32)
    expected = expect(_with_gradient(saturated), as_inputs({"x": x}), set())
    assert expected.truth[GRADIENT + "x"][0] != 0
    right = expected.truth[GRADIENT + "x"].astype(np.float32)
    assert not compare(GRADIENT + "x", right, expected).proves
    assert wrong(GRADIENT + "x", np.array([1e-3], np.float32), expected).all()


@pytest.mark.parametrize("scale", [2.0**-10, 2.0**-6, 1.0, 16.0])
@pytest.mark.parametrize("name", ["elu", "selu", "celu", "expm1"])
def test_exp_minus_1_may_round_as_it_stands(name: str, scale: float) -> None:
    """Caffe's ELU subtracts 1 from a rounded exp(x); a bias of 1e-3 of it is found all the same."""
    function = getattr(functional, name, torch.expm1)
    x = -np.abs(np.random.RandomState(3).standard_normal(64)).astype(np.float32) * np.float32(scale)
    expected = expect(_with_gradient(function), as_inputs({"x": x}), set())
    factor = np.float32(expected.truth["top"][0] / np.expm1(np.float64(x[0])))
    plain = factor * (np.exp(x) - np.float32(1))
    slope = (plain + factor) * np.arange(1, 65, dtype=np.float32)
    assert not wrong("top", plain, expected).any()
    assert not wrong(GRADIENT + "x", slope, expected).any()
    assert wrong("top", plain * np.float32(1.001), expected).mean() > 0.5


def test_kinks_are_left_out_of_the_gradient() -> None:
    """|x| at 0 has no one gradient: that element, and no other, gets an infinite bound."""

    def evaluate(inputs: Tensors) -> Tensors:
        x = inputs["x"].detach().requires_grad_()
        (grad,) = torch.autograd.grad(x.abs().sum(), [x])
        return {"top": x.abs().sum().detach(), GRADIENT + "x": grad}

    x = np.array([1.0, 0.0, -2.0], np.float32)
    expected = expect(evaluate, as_inputs({"x": x}), set())
    assert np.isinf(expected.bound.worst[GRADIENT + "x"]).tolist() == [False, True, False]
    assert expected.bound.kinks[GRADIENT + "x"].tolist() == [False, True, False]


def test_random_rounding_does_not_import_the_compiler() -> None:
    """A check needs no torch._dynamo, whose import would cost it a second or two."""
    code = (
        "import sys, torch; from caffe_parity.engine.random_rounding import *\n"
        "expect(lambda t: {'top': t['x'].exp().sum()}, {'x': torch.ones(3).double()}, set())\n"
        "raise SystemExit('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120)
    assert done.returncode == 0


@pytest.mark.parametrize("text", ["normal", "uniform:-2,3", "positive", "int:-1,4", "binary"])
def test_kind_fills_as_it_says(text: str) -> None:
    """Values lie in the declared range, integers are whole, and the text comes back."""
    kind = data.parse(text)
    values = data.fill(kind, (50, 40), 0, np.random.RandomState(0))
    low, high = {
        "uniform": (-2, 3), "positive": (0.04, 2), "int": (-1, 4), "binary": (0, 1)
    }.get(kind.name, (-9, 9))  # fmt: skip
    assert values.dtype == np.float32
    assert low <= values.min() < values.max() <= high
    assert not kind.is_label or (values == np.round(values)).all()
    assert str(kind) == text


def test_kinds_over_axis_1() -> None:
    """Probabilities sum to one over axis 1, and one-hot vectors have one 1 there."""
    rng = np.random.RandomState(0)
    probabilities = data.fill(data.parse("probabilities"), (3, 4, 5), 0, rng)
    off = np.abs(probabilities.sum(1, dtype=np.float64) - 1)
    assert (off <= 4 * 2.0**-24).all()  # four terms, each rounded to float32 once
    hot = data.fill(data.parse("onehot:4"), (3, 4, 5), 0, rng)
    assert (hot.sum(1) == 1).all() and set(np.unique(hot)) == {0, 1}
    with pytest.raises(BadRequest, match="axis 1"):
        data.fill(data.parse("probabilities"), (3,), 0, rng)


def test_hint_is_empty_where_nothing_is_known() -> None:
    """No advice is better than a wrong one."""
    assert hint("ValueError: a label is out of range") == ""


def commands(page: str) -> list[str]:
    """The indented commands of a page, each on one line."""
    text = (ROOT / page).read_text().replace("\\\n", " ")
    lines = [line.strip() for line in re.findall(r"^    \S.*$", text, re.MULTILINE)]
    return [line for line in lines if line.startswith(("parity ", "sed ", "plugin=", "cp "))]


def typed(line: str, folder: Path, variables: str) -> list[str]:
    """The arguments that a shell would give to `parity`, after its variables are set."""
    python = f'python() {{ {shlex.quote(sys.executable)} "$@"; }}'
    script = f"{python}; parity() {{ printf '%s\\0' \"$@\"; }}; {variables}\n{line}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    printed = subprocess.check_output(["bash", "-c", script], cwd=folder, env=environment)
    return printed.decode().split("\0")[:-1]


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_the_page_do_what_it_says(
    caffe: Caffe, folder: Path, page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each indented command of the page ends with the exit status that stands behind it, or 0."""
    for name in ("nets", "cuda"):
        shutil.copytree(ROOT / "caffe_impl" / name, folder / "caffe_impl" / name)
    caffe.close()
    variables = ""
    checks = 0
    for line in commands(page):
        command, _, status = line.partition("  # exit status ")
        if command.startswith("plugin="):
            variables = command
        elif command.startswith("parity check "):
            got = check(*typed(command, folder, variables)[1:])
            assert got == int(status or 0), command + capsys.readouterr().out
            checks += 1
        else:  # it edits a layer, which Caffe's Python must import anew
            subprocess.run(["bash", "-c", command], cwd=folder, check=True)
            caffe.close()
    caffe.close()
    assert checks > 3


def codes_in(file: Path) -> set[str]:
    """The codes of findings that a source file can make, as far as they are written there."""
    makers = {"Finding", "_finding", "_wrong"}
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        first = node.args[0]
        if name in makers and isinstance(first, ast.JoinedStr):
            first = first.values[0]
        if name in makers and isinstance(first, ast.Constant) and isinstance(first.value, str):
            found.add(first.value.partition(":")[0].rstrip("-"))
    return found


def test_every_code_stands_on_the_page() -> None:
    """What a line of the output begins with can be looked up in docs/check.md."""
    engine = ROOT / "caffe_parity" / "engine"
    codes = set().union(*(codes_in(file) for file in engine.glob("*.py")))
    assert {"forward-value", "unwritten-diff", "not-deterministic", "mutates"} <= codes
    table = re.findall(r"^\| `([\w-]+)", (ROOT / "docs" / "check.md").read_text(), re.MULTILINE)
    assert {code for code in codes if not any(each.startswith(code) for each in table)} == set()
