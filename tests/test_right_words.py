"""What is said of a broken layer is right: every mistake in every layer, in a real Caffe."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from caffe_parity import Layer, python_layer
from caffe_parity.caffe.client import Caffe
from caffe_parity.engine.judge import judge
from caffe_parity.nets import located

TEXT = """
import caffe
import numpy as np


class Broken(caffe.Layer):
    def setup(self, bottom, top):
        self.kept = None

    def reshape(self, bottom, top):
        x = bottom[0]
        top[0].reshape(*{shape})

    def forward(self, bottom, top):
        x, other = bottom[0].data, bottom[-1].data
        with np.errstate(all="ignore"):
            {forward}
        {value}
        top[0].data[...] = y

    def backward(self, top, propagate_down, bottom):
        x, other, diff, w = bottom[0].data, bottom[-1].data, bottom[0].diff, top[0].diff
        n = len(x)
        with np.errstate(all="ignore"):
            {weight}
            {gradient}
        {write}
"""


def _channel_sum(x: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
    return ((x.sum(1) - x2.sum(1)) ** 2).sum() / (2 * len(x))


def _cross_entropy(x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(x, label.long())


def _mean_of_kept(x: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    return (x * kept).sum(1) / kept.sum(1)


@dataclass(frozen=True)
class Right:
    """A layer that is right, as lines of Python.

    Attributes:
        shape, forward, gradient: of the top; what makes y of x; what makes g of w, the top's diff.
        more: the other inputs, and what they hold.
    """

    reference: Callable[..., Any]
    x: tuple[int, ...]
    shape: str
    forward: str
    gradient: str
    more: Mapping[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)


RIGHT = {
    "channel_sum": Right(
        _channel_sum,
        (5, 3, 4, 6),
        "(1,)",
        "self.d = (x.sum(1) - other.sum(1))[:, None]; y = (self.d**2.0).sum() / (2 * len(x))",
        "g = np.broadcast_to(w.flat[0] / n * self.d, x.shape)",
        {"x2": ((5, 3, 4, 6), "normal")},
    ),
    "softmax_loss": Right(
        _cross_entropy,
        (6, 5),
        "(1,)",
        "e = np.exp(x - x.max(1, keepdims=True)); self.p = e / e.sum(1, keepdims=True); "
        "self.hot = np.eye(5)[other.astype(int)]; y = -np.log((self.p * self.hot).sum(1)).mean()",
        "g = w.flat[0] / n * (self.p - self.hot)",
        {"label": ((6,), "int:0,4")},
    ),
    "relu": Right(torch.relu, (5, 4, 5, 3), "x.shape", "y = np.maximum(x, 0)", "g = w * (x > 0)"),
    "scale": Right(lambda input: 3 * input, (4, 5, 7), "x.shape", "y = 3 * x", "g = 3 * w"),
    "pooling": Right(
        lambda input: functional.avg_pool2d(input, 2),
        (4, 3, 6, 8),
        "(x.shape[0], x.shape[1], x.shape[2] // 2, x.shape[3] // 2)",
        "y = x.reshape(len(x), x.shape[1], x.shape[2] // 2, 2, x.shape[3] // 2, 2).mean((3, 5))",
        "g = (w / 4).repeat(2, 2).repeat(2, 3)",
    ),
    "mean_of_kept": Right(  # the reference is NaN in rows of which nothing is kept
        _mean_of_kept,
        (17, 3),
        "(x.shape[0],)",
        "y = (x * other).sum(1) / other.sum(1)",
        "g = other / other.sum(1, keepdims=True) * w[:, None]",
        {"kept": ((17, 3), "binary")},
    ),
}


@dataclass(frozen=True)
class Mistake:
    """A mistake that any layer can make.

    Attributes:
        where, line: "value" is what follows the top's y, "weight" what follows w, the top's diff,
            and "write" what writes the gradient g.
        words: patterns of what must be said of it, in order, and nothing else.
    """

    where: str
    line: str
    words: tuple[str, ...]


WRITE = "diff[...] = g"
TWICE = "gradient:x: dx is twice what it should be: a 1/2 is missing"
ADDED = "accumulates-diff:x: the diff of x is added to what it held"
SOME = r"unwritten-diff:x: \d+ of \d+ elements of x's diff are never written"
NAN = r"gradient:x: \d+ of \d+ elements of dx are NaN \(axis 0: 0\)"
STALE = "old = self.kept; self.kept = g.copy(); diff[...] = old if np.shape(old) == g.shape else g"
GRADIENTS = {
    "diff[...] = 0": ("gradient:x: dx is 0 everywhere: never written, or detached",),
    "diff[...] = -g": ("gradient:x: dx has the wrong sign$",),
    "diff[...] = 2 * g": (TWICE,),
    "diff[...] = 0.7 * g": (r"gradient:x: dx is 0\.7 \(7/10\) times what it should be",),
    "diff[...] += g": (ADDED,),
    "diff[...] += 2 * g": (ADDED, TWICE),
    "diff[...] = diff / 2 + g": ("accumulates-diff:x: the diff of x is computed from what it",),
    "pass": ("unwritten-diff:x: the diff of x is never written",),
    "diff[1:] = g[1:]": (SOME,),
    "diff[1:] = 2 * g[1:]": (SOME, TWICE),
    "diff[...] = g; diff[0] = np.nan": (NAN,),
    "diff[...] = 2 * g; diff[0] = np.nan": (f"{NAN}; beside them, dx is twice",),
    "diff[...] = g; diff[0] = np.inf": (r"gradient:x: \d+ of \d+ elements of dx are infinite",),
    "diff[...] = g[::-1]": (r"gradient:x: dx is reversed along the batch \(axis 0\)",),
    "diff[...] = g; x[...] = 0": ("mutates-bottom:x: the backward overwrites its own bottom x",),
    STALE: ("stale-state: the gradient of x is the one of the pass before",),
}
WEIGHTS = {
    "w = np.ones_like(w)": ("ignores-top-diff: the gradient of x is the same",),
    "w = w * abs(w)": ("gradient:x: ",),
}
TOPS = {
    "y = 2 * y": ("forward-value: top is twice what it should be",),
    "y = 7.25": ("forward-value: top is a constant, 7.25: it is the same for other inputs",),
    "y = 0": ("forward-value: top is 0 everywhere: never written?",),
    "y = y * np.nan": ("forward-value: .*NaN",),
    "y = y + np.random.rand()": ("not-deterministic: ",),
}
MISTAKES = [
    Mistake(where, line, words)
    for where, lines in (("write", GRADIENTS), ("weight", WEIGHTS), ("value", TOPS))
    for line, words in lines.items()
]


def findings_of(folder: Path, right: Right, mistake: Mistake) -> list[str]:
    """What is found, a line each, on the case with the shared input and one without."""
    lines = {"value": "pass", "weight": "pass", "write": WRITE, mistake.where: mistake.line}
    parts = {"shape": right.shape, "forward": right.forward, "gradient": right.gradient, **lines}
    name = f"broken_{abs(hash((right.forward, mistake)))}"
    (folder / f"{name}.py").write_text(TEXT.format(**parts))
    names = ["x", *right.more]
    layer = Layer(
        "broken",
        reference=lambda **given: right.reference(*(given[each] for each in names)),
        inputs={"x": right.x, **{each: shape for each, (shape, _) in right.more.items()}},
        data={each: kind for each, (_, kind) in right.more.items()},
        grad=["x"],
        variants={"caffe": located(python_layer(f"{name}.py:Broken"), folder)},
    )
    found: dict[tuple[str, str], str] = {}
    for number in (0, 2):
        for each in judge(layer, "caffe", layer.case(number)).findings:
            found.setdefault((each.code, each.tensor), f"{each.code}: {each.words}")
    return list(found.values())


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.line)
def test_mistake_is_told_as_what_it_is(caffe: Caffe, tmp_path: Path, mistake: Mistake) -> None:
    """In each layer the words are right, and there are no others."""
    for name, right in RIGHT.items():
        said = findings_of(tmp_path, right, mistake)
        assert len(said) == len(mistake.words), (name, said)
        for words, pattern in zip(said, mistake.words, strict=True):
            assert re.match(pattern, words), (name, words)
            assert not re.search(r"\bnan\b|e\+\d\d|; or is|by exactly 1/", words), (name, words)


def test_right_layers_are_right(caffe: Caffe, tmp_path: Path) -> None:
    """Without a mistake nothing is said."""
    for right in RIGHT.values():
        assert not findings_of(tmp_path, right, Mistake("write", WRITE, ()))
