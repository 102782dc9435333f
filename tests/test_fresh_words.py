"""Twelve mistakes whose words were decided from the mistake alone, before any of them was run.

At the first run ten had them; two gradients, marked below, were told without a cause. None was told
wrongly. (The one thing changed since, but for these two, is that a port's only result is "top".)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest
import torch
from torch.nn import functional

from caffe_parity import Layer
from caffe_parity.contract import Shape
from caffe_parity.engine.judge import judge
from caffe_parity.report.one_layer import lines
from caffe_parity.report.record import Report

Function = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Fresh:
    """A port that computes something else than the reference.

    Attributes:
        right, wrong: the reference and the port.
        inputs: their shapes.
        words: a pattern for the line of each finding, by its code; there must be no other.
        never: what none of them may say.
    """

    right: Function
    wrong: Function
    inputs: Mapping[str, Shape]
    words: Mapping[str, str]
    never: str = r"N = |C\*S"
    data: Mapping[str, str] = field(default_factory=dict)


def _smooth(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return functional.smooth_l1_loss(x, y, reduction="sum")


X, XY = {"x": (5, 3, 6, 4)}, {"x": (5, 3, 6, 4), "y": (5, 3, 6, 4)}
PLAIN = r"\d+ of \d+ elements of \w+ are wrong"
FRESH = {
    "a smooth L1 that forgets N": Fresh(
        lambda x, y: _smooth(x, y) / len(x),
        _smooth,
        XY,
        {
            "port-forward": "loss is off by N = 5: not divided by N",
            "port-gradient:x": "dx is off by N = 5: not divided by N",
            "port-gradient:y": "dy is off by N = 5: not divided by N",
        },
        never=r"C\*S",
    ),
    "a mean over everything where N divides": Fresh(
        lambda x, y: ((x - y) ** 2).sum() / len(x),
        lambda x, y: ((x - y) ** 2).mean(),
        XY,
        {
            "port-forward": r"loss is off by 1/\(C\*S\) = 1/72: divided by the count",
            "port-gradient:x": r"dx is off by 1/\(C\*S\) = 1/72: divided by the count",
            "port-gradient:y": r"dy is off by 1/\(C\*S\) = 1/72: divided by the count",
        },
        never="N = ",
    ),
    "a sum that is five times too large, with five samples": Fresh(
        lambda x, y: ((x - y) ** 2).sum(),
        lambda x, y: 5 * ((x - y) ** 2).sum(),
        XY,
        {
            "port-forward": "loss is ",
            "port-gradient:x": "dx is 5 times what it should be",
            "port-gradient:y": "dy is 5 times what it should be",
        },
        never="divided|average|mean|N",
    ),
    "a norm whose root is forgotten": Fresh(
        lambda x: x / (1 + (x * x).sum(1, keepdim=True)).sqrt(),
        lambda x: x / (1 + (x * x).sum(1, keepdim=True)),
        X,
        {"port-forward": PLAIN, "port-gradient:x": PLAIN},
        never="everywhere|factor of its own|times",
    ),
    "a slope of 0.1 below 0": Fresh(
        torch.relu,
        lambda x: functional.leaky_relu(x, 0.1),
        X,
        {"port-forward": PLAIN, "port-gradient:x": PLAIN},  # decided: "are 0.1", of one top diff
        never="everywhere|cut off",
    ),
    "the batch in reverse": Fresh(
        torch.sinh,
        lambda x: torch.sinh(x).flip(0),
        X,
        {
            "port-forward": r"top is reversed along the batch \(axis 0\)",
            "port-gradient:x": PLAIN,  # the top diff is in reverse, not what it is multiplied with
        },
    ),
    "a factor for each channel": Fresh(
        torch.sinh,
        lambda x: torch.sinh(x) * torch.tensor([1.0, 1.5, 2.5], dtype=x.dtype).reshape(3, 1, 1),
        X,
        {
            "port-forward": "top has a factor of its own for each channel: 1, 1.5, 2.5",
            "port-gradient:x": "dx has a factor of its own for each channel: 1, 1.5, 2.5",
        },
    ),
    "a ReLU that ends at 6": Fresh(
        lambda x: torch.relu(8 * x),
        lambda x: functional.relu6(8 * x),
        X,
        {
            "port-forward": r"\d+ of \d+ elements of top are cut off at 6$",
            "port-gradient:x": r"\d+ of \d+ elements of dx are 0",
        },
        never="never written|flushed",
    ),
    "a factor that is detached": Fresh(
        lambda x: x * x,
        lambda x: x * x.detach(),
        X,
        {"port-gradient:x": "dx is half of what it should be"},
    ),
    "a softmax over the wrong axis": Fresh(
        lambda x: torch.softmax(x, 1),
        lambda x: torch.softmax(x, 2),
        X,
        {"port-forward": PLAIN, "port-gradient:x": PLAIN},
        never="everywhere|times|swapped",
    ),
    "a sum in bfloat16": Fresh(
        lambda x: x * 3,
        lambda x: (x * 3).bfloat16().to(x.dtype),
        X,
        {
            "port-forward": "top has 8 bits of mantissa, as bfloat16 has",
            "port-gradient:x": PLAIN,  # decided: "has 8 bits", which the 3 behind it hides
        },
    ),
    "0.1 too much": Fresh(
        torch.tanh,
        lambda x: torch.tanh(x) + 0.1,
        X,
        {"port-forward": "top is 0.1 too much, everywhere"},
    ),
}


def said(fresh: Fresh) -> dict[str, str]:
    """What a check prints of each finding, over eight cases, by its code."""
    layer = Layer(
        "fresh",
        reference=fresh.right,
        inputs=fresh.inputs,
        data=fresh.data,
        variants={"torch-port": fresh.wrong},
    )
    records = [judge(layer, "torch-port", case) for case in layer.all_cases()]
    shown = lines(Report("check", {}, {}, tuple(records), len(records)), 0.0)
    found = (line.partition(": ") for line in shown if line.startswith("port-"))
    return {code: words.removeprefix("in the port, ") for code, _, words in found}


@pytest.mark.parametrize("name", FRESH)
def test_fresh_mistake_has_the_words_that_were_decided_before(name: str) -> None:
    """Each finding says what the mistake is, and none something else."""
    fresh = FRESH[name]
    found = said(fresh)
    assert set(found) == set(fresh.words), found
    for code, pattern in fresh.words.items():
        assert re.match(pattern.removesuffix("$"), found[code]), found
        assert not re.search(fresh.never, found[code]), found
