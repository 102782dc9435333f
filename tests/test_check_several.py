"""`parity check` of layers with several defects: none hides another; what is none is no finding."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

import caffe_parity
from caffe_parity.caffe.client import Caffe
from caffe_parity.engine.judge import judge
from caffe_parity.nets import located
from caffe_parity.report.record import Record, read
from tests.commands import check

LAYER = """
import caffe
import numpy as np

class Layer(caffe.Layer):
    def setup(self, bottom, top): pass
    def reshape(self, bottom, top): top[0].reshape(1)
    def forward(self, bottom, top):
        n = self.n = {batch}
        self.kept = bottom[0].data.copy()
        top[0].data[...] = 0.5 * np.sum(self.kept ** 2) / {divisor}
        {after_forward}
    def backward(self, top, propagate_down, bottom):
        n = len(self.kept)
        gradient = {factor} * self.kept / {divided} * {upstream}
        bottom[0].diff[{rows}] {how} gradient[{rows}]
        {after_backward}
"""
RIGHT = {
    "batch": "len(bottom[0].data)",
    "divisor": "n",
    "divided": "n",
    "factor": "1",
    "upstream": "top[0].diff[0]",
    "rows": ":",
    "how": "=",
    "after_forward": "pass",
    "after_backward": "pass",
}
KEPT = {"batch": "getattr(self, 'n', len(bottom[0].data))"}
DEFECTS = {
    "ignores-top-diff": {"upstream": "1"},
    "gradient:x": {"factor": "3"},
    "accumulates-diff:x": {"how": "+="},
    "unwritten-diff:x": {"rows": ":-1"},
    "mutates-bottom:x": {"after_forward": "bottom[0].data[...] *= 2"},
    "stale-state": KEPT,
    "second-backward": {"after_backward": "self.kept *= 9"},
}
"""By the code that each has, also beside others; the last one is a note."""


def half(x: torch.Tensor) -> torch.Tensor:
    """Half of the mean of the squared lengths of the samples."""
    return 0.5 * (x * x).sum() / x.shape[0]


def judged(folder: Path, name: str, **fields: str) -> Record:
    """What is said of one case of that layer with these fields."""
    (folder / f"{name}.py").write_text(LAYER.format(**{**RIGHT, **fields}))
    net = located(caffe_parity.python_layer(f"{name}.py:Layer"), folder)
    layer = caffe_parity.Layer("half", half, {"x": (4, 3)}, {"caffe": net}, cases=2)
    return judge(layer, "caffe", layer.case(1))


@pytest.mark.parametrize("count", range(len(DEFECTS) + 1))
def test_each_defect_has_its_finding_whatever_else_is_wrong(
    caffe: Caffe, tmp_path: Path, count: int
) -> None:
    """All combinations of so many: exactly the findings of each, and exactly its note."""
    for number, codes in enumerate(combinations(DEFECTS, count)):
        fields = {name: each for code in codes for name, each in DEFECTS[code].items()}
        record = judged(tmp_path, f"half{count}_{number}", **fields)
        assert {each.code for each in record.findings} == set(codes) - {"second-backward"}
        assert {each.code for each in record.notes} == set(codes) & {"second-backward"}
        assert record.agrees == (set(codes) <= {"second-backward"})


@pytest.mark.parametrize("upstream", ["top[0].diff[0]", "1"])
def test_loss_that_overwrites_its_own_weight_is_told(
    caffe: Caffe, tmp_path: Path, upstream: str
) -> None:
    """Caffe writes the weight of a loss once; beside it, what else is wrong is told as ever."""
    fields = {"upstream": upstream, "after_backward": "top[0].diff[...] *= 2"}
    record = judged(tmp_path, f"heavier{len(upstream)}", **fields)
    also = {"ignores-top-diff"} if upstream == "1" else set()
    assert {each.code for each in record.findings} == {"mutates-top-diff:top", *also}


KEEPS = {
    "top": KEPT,
    "gradient:x": {**KEPT, "divisor": "len(bottom[0].data)", "divided": "self.n"},
}
"""Where the N of the first batch is kept; the other tensor is right."""


@pytest.mark.parametrize("tensor", KEEPS)
def test_first_batch_that_is_kept_is_found(
    caffe: Caffe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensor: str
) -> None:
    """In the value or in the gradient alone, on the command line: exit 1, and stale-state."""
    monkeypatch.chdir(tmp_path)
    name = f"keeps_{tensor[:3]}"
    (tmp_path / f"{name}.py").write_text(LAYER.format(**{**RIGHT, **KEEPS[tensor]}))
    (tmp_path / "truth.py").write_text("def half(x): return 0.5 * (x * x).sum() / x.shape[0]\n")
    arguments = (f"{name}.py:Layer", "--bottom", "x=4,3", "--reference", "truth.py:half")
    assert check(*arguments, "--json", "found.json") == 1
    report = read(tmp_path / "found.json")
    assert len(report.results) == 8
    for record in report.results:
        assert [(each.code, each.tensor) for each in record.findings] == [("stale-state", tensor)]


@pytest.mark.parametrize("other", ["ignores-top-diff", "gradient:x", "unwritten-diff:x"])
def test_gradient_that_is_kept_is_found_beside_another_defect_of_it(
    caffe: Caffe, tmp_path: Path, other: str
) -> None:
    """What a net of another batch shows, though that very gradient is never right."""
    name = f"kept_{other.partition('-')[0].replace(':', '_')}"
    record = judged(tmp_path, name, **KEEPS["gradient:x"], **DEFECTS[other])
    found = {(each.code, each.tensor) for each in record.findings}
    assert found == {(other, "gradient:x"), ("stale-state", "gradient:x")}


SQUARE = """
import caffe
import numpy as np

class Layer(caffe.Layer):
    def setup(self, bottom, top): pass
    def reshape(self, bottom, top): top[0].reshape(*bottom[0].shape)
    def forward(self, bottom, top): top[0].data[...] = bottom[0].data ** 2
    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] += 3 * bottom[0].data * top[0].diff
"""
DISTANCE = """
import caffe
import numpy as np

class Layer(caffe.Layer):
    def setup(self, bottom, top): pass
    def reshape(self, bottom, top): top[0].reshape(1)
    def forward(self, bottom, top):
        self.d = bottom[0].data - bottom[1].data
        top[0].data[0] = np.sum(self.d ** 2) / 2
    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = self.d
        bottom[1].diff[...] = -self.d
"""


@pytest.mark.parametrize(
    ("source", "reference", "bottoms", "lines"),
    [
        (SQUARE, "x * x", ("x",), ["accumulates-diff:x: the diff of x", "gradient:x: dx is 1.5"]),
        (
            DISTANCE,
            "((x - y) ** 2).sum() / 2",
            ("x", "y"),
            ["ignores-top-diff: the gradient of x", "ignores-top-diff: the gradient of y"],
        ),
    ],
    ids=["no-loss", "two-bottoms"],
)
def test_each_finding_has_a_line_for_its_tensor(
    caffe: Caffe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    source: str,
    reference: str,
    bottoms: tuple[str, ...],
    lines: list[str],
) -> None:
    """Of a layer that is no loss as of one with two bottoms; and there is no other line."""
    monkeypatch.chdir(tmp_path)
    name = f"several_{len(bottoms)}"
    (tmp_path / f"{name}.py").write_text(source)
    (tmp_path / "truth.py").write_text(f"def top({', '.join(bottoms)}): return {reference}\n")
    arguments = [f"{name}.py:Layer", "--reference", "truth.py:top", "--cases", "2"]
    for each in bottoms:
        arguments += ["--bottom", f"{each}=3,4"]
    assert check(*arguments) == 1
    said = capsys.readouterr().out.splitlines()
    found = [line for line in said if line.endswith("[2 of 2 cases]")]
    for line, start in zip(found, lines, strict=True):
        assert line.startswith(start)
    assert f"disagrees: {len(lines)} findings" in said[-1]


CUBE = """
import caffe
import numpy as np

class Layer(caffe.Layer):
    def setup(self, bottom, top): pass
    def reshape(self, bottom, top): top[0].reshape(*bottom[0].shape)
    def forward(self, bottom, top):
        with np.errstate(over="ignore"):
            top[0].data[...] = {limit}(bottom[0].data ** 3)
    def backward(self, top, propagate_down, bottom):
        with np.errstate(over="ignore"):
            bottom[0].diff[...] = {limit}(3 * bottom[0].data ** 2 * top[0].diff)
"""
CUBES = """
import torch

def cube(x):
    return x ** 3

def port(x):
    return x * x * x

def negative(x):
    return -cube(x)
"""
HELD = "np.nan_to_num"
"""Puts the largest float32 in the place of an infinity."""


@pytest.mark.parametrize(("limit", "status"), [("", 0), (HELD, 1)])
def test_infinity_that_float32_must_give_is_right_everywhere(
    caffe: Caffe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, status: int
) -> None:
    """Where the truth is beyond float32, beside what is not; and its largest number is wrong.

    In Caffe and in a port, for tops and for gradients.
    """
    monkeypatch.chdir(tmp_path)
    name = f"cube_{status}"
    (tmp_path / f"{name}.py").write_text(CUBE.format(limit=limit))
    (tmp_path / "truth.py").write_text(CUBES)
    values = np.array([[1e13, -1e13, 1e20], [1.5, -2.0, -1e20]], np.float32)
    np.savez(tmp_path / "inputs.npz", x=values)
    layer = (f"{name}.py:Layer", "--bottom", "x=2,3", "--inputs", "inputs.npz")
    references = ("--reference", "truth.py:cube", "--port", "truth.py:port")
    assert check(*layer, *references, "--json", "found.json") == status
    net, port = read(tmp_path / "found.json").results
    assert (net.agrees, port.agrees) == (not status, True)
    assert set(port.tensors) == {"top", "gradient:x"}
    for each in (port, *([] if status else [net])):
        assert all(tensor.wrong == 0 for tensor in each.tensors.values())
    if status:
        assert {each.code for each in net.findings} == {"forward-value", "gradient:x"}
        assert net.tensors["top"].wrong == 4
    assert check(*layer, "--reference", "truth.py:negative") == 1
