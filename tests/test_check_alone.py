"""Each question that `parity check` asks, alone: a layer or a port that fails it and no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

import caffe_parity
from caffe_parity.caffe.client import Caffe
from caffe_parity.contract import Case, Structure
from caffe_parity.engine import judge as judging
from caffe_parity.engine.data import SCALES
from caffe_parity.engine.expected import question
from caffe_parity.engine.judge import judge
from caffe_parity.nets import located
from caffe_parity.report.record import Record
from tests.imitation import Imitation

HEAD = """
import caffe
import numpy as np

class Layer(caffe.Layer):
    passes = backwards = 0
    def setup(self, bottom, top): pass
    def reshape(self, bottom, top):
"""
LOSS = """
        top[0].reshape(1)
    def forward(self, bottom, top):
        self.passes += 1
        x1, x2 = bottom[0].data, bottom[1].data
        self.d = x1 - x2
        BEFORE
        top[0].data[...] = 0.5 * np.sum(self.d ** 2)
        FORWARD
    def backward(self, top, propagate_down, bottom):
        self.backwards += 1
        w, d = top[0].diff[0], self.d
        BACKWARD
        bottom[0].diff[...] = w * d
        bottom[1].diff[...] = -w * d
        AFTER
"""
TOPS = """
        top[0].reshape(*bottom[0].shape)
        top[1].reshape(*bottom[0].shape)
    def forward(self, bottom, top):
        x = bottom[0].data
        top[0].data[...] = 2 * x
        top[1].data[...] = x * x
        FORWARD
    def backward(self, top, propagate_down, bottom):
        x, u, v = bottom[0].data, top[0].diff, top[1].diff
        bottom[0].diff[...] = 2 * u + 2 * x * v
        AFTER
"""
PARAMS = """
        top[0].reshape(*bottom[0].shape)
        if not self.blobs:
            self.blobs.add_blob(3)
            self.blobs.add_blob(3)
    def forward(self, bottom, top):
        self.passes += 1
        x, a, b = bottom[0].data, self.blobs[0].data, self.blobs[1].data
        top[0].data[...] = a * x + b
        FORWARD
    def backward(self, top, propagate_down, bottom):
        self.backwards += 1
        x, a, dy = bottom[0].data, self.blobs[0].data, top[0].diff
        da, db = np.sum(dy * x, axis=0), np.sum(dy, axis=0)
        BACKWARD
        self.blobs[0].diff[...] += da
        self.blobs[1].diff[...] += db
        bottom[0].diff[...] = dy * a
        AFTER
"""


def distance(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
    """Half the squared distance."""
    return 0.5 * ((x1 - x2) ** 2).sum()


def tops(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two tops, both compared."""
    return 2 * x, x * x


def scaled(x: torch.Tensor, param: list[torch.Tensor]) -> torch.Tensor:
    """A learned factor and offset of each column."""
    return param[0] * x + param[1]


CASES = range(5)
"""One is of scale 8, one of scale 1/64, and in one the first input is shared."""

SHAPES = {LOSS: {"x1": (4, 3), "x2": (4, 3)}, TOPS: {"x": (4, 3)}, PARAMS: {"x": (4, 3)}}
REFERENCES: dict[str, Callable[..., Any]] = {LOSS: distance, TOPS: tops, PARAMS: scaled}


@dataclass(frozen=True)
class Fault:
    """A layer that is wrong where one question alone sees it.

    Attributes:
        edits: what is done at which place of the layer.
        findings: the codes and tensors that are found, in each case that shows it.
        cases: those cases, of five.
        layer: the source that is edited.
    """

    edits: dict[str, str]
    findings: set[tuple[str, str]]
    cases: tuple[int, ...] = tuple(CASES)
    layer: str = LOSS


DX1, DX2 = ("gradient:x1", "gradient:x1"), ("gradient:x2", "gradient:x2")
STALE_TOP = ("stale-state", "top")
FAULTS = {
    **{
        f"only at loss weight {weight}": Fault(
            {"AFTER": f"bottom[1].diff[...] *= 1.01 if w == {weight} else 1"}, {DX2}
        )
        for weight in (1.0, 2.5, -0.75)
    },
    **{
        f"only in pass {number}": Fault(
            {"FORWARD": f"top[0].data[...] *= 1.01 if self.passes == {number} else 1"}, {STALE_TOP}
        )
        for number in (5, 6, 7)
    },
    "only the backward mutates": Fault(
        {"AFTER": "bottom[1].data[...] += 1"}, {("mutates-bottom:x2", "x2")}
    ),
    "only the forward mutates": Fault(
        {"FORWARD": "bottom[1].data[...] += 1"}, {("mutates-bottom:x2", "x2")}
    ),
    **{
        f"only in the case of scale {SCALES[number]:g}": Fault(
            {"FORWARD": f"top[0].data[...] *= 1.01 if {low} < np.abs(x1).max() < {high} else 1"},
            {("forward-value", "top")},
            (number,),
        )
        for number, low, high in ((3, 9, 99), (4, 0.0, 0.1))
    },
    "only one element": Fault({"AFTER": "bottom[0].diff[3, 2] *= 1.001"}, {DX1}),
    "only the first input is looked at": Fault(
        {
            "BEFORE": "same = self.passes > 1 and np.array_equal(x1, self.kept); "
            "self.kept = x1.copy(); self.d = self.of if same else self.d; self.of = self.d"
        },
        {STALE_TOP, ("stale-state", "gradient:x1"), ("stale-state", "gradient:x2")},
        (1, 3),
    ),
    "only the second input is looked at": Fault(
        {
            "BEFORE": "same = self.passes > 1 and np.array_equal(x2, self.kept); "
            "self.kept = x2.copy(); self.d = self.of if same else self.d; self.of = self.d"
        },
        {STALE_TOP, ("stale-state", "gradient:x1"), ("stale-state", "gradient:x2")},
        (0, 2, 4),
    ),
    "wrong, and by little otherwise after a larger batch": Fault(
        {
            "BEFORE": "self.most = max(len(x1), getattr(self, 'most', 0))",
            "AFTER": "bottom[0].diff[...] *= -1 - 1e-3 * (self.most > len(d))",
        },
        {DX1, ("stale-state", "gradient:x1")},
    ),
    "wrong in a batch of another size alone": Fault(
        {
            "BEFORE": "self.least = min(len(x1), getattr(self, 'least', 9))",
            "AFTER": "bottom[0].diff[...] *= 1 + 1e-3 * (self.least < len(d))",
        },
        {("stale-state", "gradient:x1")},
    ),
    "added to, beside a first batch that is kept": Fault(
        {
            "BACKWARD": "self.n = n = getattr(self, 'n', len(d)); d = d * len(d) / n; "
            "old = bottom[0].diff.copy()",
            "AFTER": "bottom[0].diff[...] += old; bottom[1].diff[...] = -w * self.d",
        },
        {("accumulates-diff:x1", "gradient:x1"), ("stale-state", "gradient:x1")},
    ),
    "a random number": Fault(
        {"FORWARD": "top[0].data[...] += np.random.rand()"}, {("not-deterministic", "")}
    ),
    "a random number, and an input that is overwritten": Fault(
        {
            "FORWARD": "top[0].data[...] += np.random.rand()",
            "AFTER": "bottom[1].data[...] += 1; bottom[0].diff[...] *= 2",
        },
        {("not-deterministic", ""), ("mutates-bottom:x2", "x2")},
    ),
    "all is of the pass before": Fault(
        {"BEFORE": "self.d, self.of = getattr(self, 'of', self.d), self.d"},
        {STALE_TOP, ("stale-state", "gradient:x1"), ("stale-state", "gradient:x2")},
    ),
    "a gradient that is not written": Fault(
        {"BACKWARD": "old = bottom[0].diff.copy()", "AFTER": "bottom[0].diff[1:] = old[1:]"},
        {("unwritten-diff:x1", "gradient:x1")},
    ),
    "a gradient that is added to": Fault(
        {"BACKWARD": "old = bottom[0].diff.copy()", "AFTER": "bottom[0].diff[...] += old"},
        {("accumulates-diff:x1", "gradient:x1")},
    ),
    "a top diff that is ignored": Fault(
        {"BACKWARD": "w = 1"},
        {("ignores-top-diff", "gradient:x1"), ("ignores-top-diff", "gradient:x2")},
    ),
    "a parameter's gradient that is not written": Fault(
        {"AFTER": "self.blobs[1].diff[...] -= db"},
        {("unwritten-diff:param[1]", "gradient:param[1]")},
        layer=PARAMS,
    ),
    "an exception": Fault({"FORWARD": "raise ValueError('no')"}, {("crash", "")}),
    "a NaN": Fault({"AFTER": "bottom[0].diff[2, 1] = np.nan"}, {DX1}),
    "an infinity": Fault({"FORWARD": "top[0].data[...] = np.inf"}, {("forward-value", "top")}),
    "only the second parameter's gradient": Fault(
        {"BACKWARD": "db *= 1.001"}, {("gradient:param[1]", "gradient:param[1]")}, layer=PARAMS
    ),
    "only the second parameter's diff is replaced": Fault(
        {"AFTER": "self.blobs[1].diff[...] = db"},
        {("overwrites-param-diff:param[1]", "gradient:param[1]")},
        layer=PARAMS,
    ),
    "only what is added up, and by little": Fault(
        {"AFTER": "self.blobs[1].diff[...] += 1e-4 * (self.backwards == 6)"},
        {("stale-state", "gradient:param[1]")},
        layer=PARAMS,
    ),
    "only the second parameter is overwritten": Fault(
        {"AFTER": "self.blobs[1].data[...] += 1"},
        {("mutates-param:param[1]", "param[1]")},
        layer=PARAMS,
    ),
    "only the inputs are looked at, not the parameters": Fault(
        {
            "FORWARD": "same = self.passes > 1 and np.array_equal(x, self.kept); "
            "self.kept = x.copy(); self.top = self.top if same else top[0].data.copy(); "
            "top[0].data[...] = self.top"
        },
        {STALE_TOP},
        (1, 3),
        PARAMS,
    ),
    "only the second top": Fault(
        {"FORWARD": "top[1].data[...] *= 1.01"}, {("forward-value", "top1")}, layer=TOPS
    ),
    "only the second top's diff": Fault(
        {"AFTER": "bottom[0].diff[...] = 2 * u + 2 * x"},
        {("gradient:x", "gradient:x")},
        layer=TOPS,
    ),
}


def source_of(fault: Fault) -> str:
    """The layer with the fault."""
    source = HEAD + fault.layer
    for place in ("BEFORE", "FORWARD", "BACKWARD", "AFTER"):
        source = source.replace(place, fault.edits.get(place, "pass"))
    return source


@cache
def layer_of(source: str) -> tuple[caffe_parity.Layer, tuple[Case, ...]]:
    """The layer that a source should compute, and its cases; its variants are put in later."""
    made = caffe_parity.Layer(
        "mine", REFERENCES[source], SHAPES[source], {"mine": REFERENCES[source]}, cases=len(CASES)
    )
    return made, made.all_cases()


@cache
def structure_of(source: str) -> Structure:
    """What is compared of it."""
    made, cases = layer_of(source)
    return judging.seen_from_outside(made, imitation(Fault({}, set(), layer=source)), cases[0])


def imitation(fault: Fault) -> Imitation:
    """The layer with the fault, in this process."""
    return Imitation(source_of(fault), ("top0", "top1") if fault.layer == TOPS else ("top",))


def imitated(fault: Fault) -> list[Record]:
    """What is said of it in each case; what is asked of all of them is found once."""
    made, cases = layer_of(fault.layer)
    made.variants["mine"] = imitation(fault)  # type: ignore[index]
    with patch.object(judging, "question", QUESTION):
        return [judge(made, "mine", case, structure_of(fault.layer)) for case in cases]


QUESTION = cache(question)


def in_caffe(fault: Fault, folder: Path, module: str) -> list[Record]:
    """In a real Caffe, which imports a module of that name once, in two cases that show it."""
    made, cases = layer_of(fault.layer)
    (folder / f"{module}.py").write_text(source_of(fault))
    declared = caffe_parity.python_layer(f"{module}.py:Layer")
    if fault.layer == TOPS:
        declared = caffe_parity.net(f"{module}.prototxt")
    (folder / f"{module}.prototxt").write_text(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 3 } } }\n'
        'layer { name: "mine" type: "Python" bottom: "x" top: "top0" top: "top1" '
        f'python_param {{ module: "{module}" layer: "Layer" }} }}\n'
    )
    variant = replace(made, variants={"mine": located(declared, folder)})
    return [judge(variant, "mine", cases[number]) for number in fault.cases[:2]]


def found_in(records: list[Record]) -> list[set[tuple[str, str]]]:
    """The codes and tensors of each."""
    return [{(each.code, each.tensor) for each in record.findings} for record in records]


@pytest.mark.parametrize("name", FAULTS)
def test_a_layer_that_is_wrong_in_one_way_alone_is_found_there(name: str) -> None:
    """In the cases that show it, exactly those findings; and none in any other."""
    fault = FAULTS[name]
    expected = [fault.findings if case in fault.cases else set() for case in CASES]
    records = imitated(fault)
    assert found_in(records) == expected
    bad = "crash" if name == "an exception" else "fail"
    assert [each.verdict for each in records] == [bad if each else "pass" for each in expected]
    for each in (each for each in records if each.findings):
        assert each.reason and (
            bad == "crash" or set(each.tensors) >= {"top"} or fault.layer == TOPS
        )
        if any(tensor.wrong for tensor in each.tensors.values()):
            assert "beyond the bound, worst" in each.reason


@pytest.mark.parametrize("name", FAULTS)
def test_a_real_caffe_finds_the_same(caffe: Caffe, tmp_path: Path, name: str) -> None:
    """What is imitated is what Caffe does."""
    module = f"alone_{list(FAULTS).index(name)}"
    records = in_caffe(FAULTS[name], tmp_path, module)
    assert records and all(each == FAULTS[name].findings for each in found_in(records))


RIGHT = [Fault({}, set(), layer=each) for each in (LOSS, TOPS, PARAMS)]


@pytest.mark.parametrize("number", range(len(RIGHT)))
def test_the_layers_without_a_fault_agree(caffe: Caffe, tmp_path: Path, number: int) -> None:
    """So what is found is the fault."""
    for records in (imitated(RIGHT[number]), in_caffe(RIGHT[number], tmp_path, f"right_{number}")):
        assert [each.verdict for each in records] == ["pass"] * len(records)
        assert not any(each.notes for each in records)


@pytest.mark.parametrize("factor", [9, 1.001])
def test_what_a_second_backward_alone_shows_is_a_note(factor: float) -> None:
    """However little it is, for each gradient that it changes."""
    fault = Fault({"AFTER": f"self.d = self.d * np.float32({factor})"}, set())
    for record in imitated(fault):
        assert record.verdict == "pass"
        notes = [(each.code, each.tensor) for each in record.notes]
        assert notes == [("second-backward", name) for name in ("gradient:x1", "gradient:x2")]


FIXED = "raise ValueError('made for another batch')"


@pytest.mark.parametrize("demands", [False, True])
def test_a_net_that_fixes_its_batch(demands: bool) -> None:
    """A finding where the layer demands it, else a note; and the other net is judged all the same.

    Where it must take one, all is on one net, which then cannot be run.
    """
    fault = Fault(
        {"BEFORE": f"n = self.n = getattr(self, 'n', len(x1))\n        if n != len(x1): {FIXED}"},
        set(),
    )
    made = caffe_parity.Layer(
        "mine",
        distance,
        SHAPES[LOSS],
        {"mine": Imitation(source_of(fault))},
        cases=1,
        reshapes=demands,
    )
    record = judge(made, "mine", made.case(0))
    assert record.verdict == ("crash" if demands else "pass")
    told = record.findings if demands else record.notes
    assert [each.code for each in told] == ["crash" if demands else "other-batch"]
    assert "made for another batch" in told[0].words


def test_what_is_unproven_says_why() -> None:
    """None of the elements could be compared; or those that could are 0, and the rest is small."""

    def no_number(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
        return torch.sqrt(-1 - x1 * x1) + x2

    def cancels(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
        return torch.where(x1 > 0, 0 * x1, (x1 + 2.0**40) - 2.0**40) + 0 * x2

    words = []
    for reference in (no_number, cancels):
        made = caffe_parity.Layer(
            "mine", reference, SHAPES[LOSS], {"torch-port": reference}, cases=1
        )
        record = judge(made, "torch-port", made.case(0))
        assert record.verdict == "unproven" and not record.agrees and not record.wrong
        words += [each.words for each in record.findings]
    assert any("none of the 12 elements of" in each for each in words)
    assert any("are 0; each other has a bound as large as its value" in each for each in words)


def _draws(x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x) + 0.001 * torch.randn_like(x)


def _overwrites(x: torch.Tensor) -> torch.Tensor:
    top = torch.tanh(x)
    x.data.zero_()
    return top


@pytest.mark.parametrize(
    ("port", "codes"),
    [
        (torch.tanh, []),
        (_draws, ["port-not-deterministic"]),
        (_overwrites, ["port-mutates-bottom:x"]),
        (lambda x: 2 * torch.tanh(x), ["port-forward", "port-gradient:x"]),
    ],
)
def test_a_port_that_draws_numbers_or_overwrites_its_input_is_told_so(
    port: Callable[..., torch.Tensor], codes: list[str]
) -> None:
    """And neither a wrong one nor a right one is."""
    made = caffe_parity.Layer(
        "tanh", lambda x: torch.tanh(x), {"x": (4, 3)}, {"port": lambda x: port(x)}, cases=1
    )
    assert [each.code for each in judge(made, "port", made.all_cases()[0]).findings] == codes


@pytest.mark.parametrize("loss", [False, True])
@pytest.mark.parametrize(("shift", "verdict"), [(200.0, "unproven"), (80.0, "pass")])
def test_what_overflows_everywhere_proves_nothing(shift: float, verdict: str, loss: bool) -> None:
    """Another formula overflows as well; where some elements do not, they prove it."""
    made = caffe_parity.Layer(
        "exp",
        lambda x: (x + shift).exp().sum() if loss else (x + shift).exp(),
        {"x": (8, 9)},
        {"port": lambda x: (x + shift).exp().sum() if loss else (x + shift).exp()},
        grad=[],
        cases=1,
    )
    record = judge(made, "port", made.all_cases()[0])
    assert (record.verdict, "overflow" in record.reason) == (verdict, verdict == "unproven")
