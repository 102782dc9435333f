"""The cases, as data: what is fed to every variant of every layer whose formula allows the shapes.

Add one by adding a line. Shapes are (N, C, S...); odd extents stand beside round ones because a
swapped axis shows only where extents differ.
"""

from __future__ import annotations

from typing import Any

from caffe_parity.contract import Case, Shape
from reference import fills


def case_of(name: str, x1: Shape, x2: Shape | None = None, **fields: Any) -> Case:
    """A case of x1 and x2, by default of one shape and with both gradients.

    Args:
        name: of the case; its seed, where none is given, is made from it.
        x1: its shape.
        x2: its shape; None for that of x1.
        fields: of `Case`; `fill` is one of `fills.FILLS`.
    """
    given = {"fill": "bell", "seed": sum(name.encode()), "loss_weight": 1.0, **fields}
    given.setdefault("gradients", ("x1", "x2"))
    return Case(name, {"x1": x1, "x2": x2 or x1}, fills.inputs, fills.other_inputs, **given)


_BASE = (4, 3, 5, 6)

CASES: tuple[Case, ...] = (
    # Shapes: 2 to 6 axes, one of everything, odd and round.
    case_of("odd", (5, 7, 11, 13)),
    case_of("round", (8, 16, 16, 16)),
    case_of("base", _BASE),
    case_of("two-axes", (7, 5)),
    case_of("three-axes", (3, 4, 9)),
    case_of("five-axes", (2, 3, 4, 5, 3)),
    case_of("six-axes", (2, 3, 2, 1, 3, 2)),
    case_of("one-sample", (1, 3, 4, 5)),
    case_of("one-channel", (4, 1, 6, 5)),
    case_of("unit-spatial", (6, 5, 1, 1)),
    case_of("one-element", (1, 1, 1, 1)),
    case_of("one-number", (1, 1)),
    case_of("512-channels", (2, 512, 7, 7)),
    case_of("many-samples", (257, 3, 2, 2)),
    case_of("1025-samples", (1025, 3, 2)),
    case_of("million", (8, 16, 100, 80)),
    # C1 != C2, which only a layer that sums the channels allows.
    case_of("channels-3-7", _BASE, (4, 7, 5, 6)),
    case_of("channels-6-1", (3, 6, 4, 4), (3, 1, 4, 4)),
    case_of("channels-4-9-two-axes", (5, 4), (5, 9)),
    case_of("channels-2-5-unit-spatial", (3, 2, 1, 1), (3, 5, 1, 1)),
    # Other spatial extents too, which only a layer that sums all of them allows.
    case_of("tails-differ", _BASE, (4, 2, 7)),
    # The exact lane: every summation order gives these bits.
    case_of("exact", _BASE, fill="integers"),
    case_of("exact-two-axes", (8, 5), fill="integers"),
    case_of("exact-unit-spatial", (2, 9, 1, 1), fill="integers", loss_weight=-2),
    case_of("exact-512-channels", (2, 512, 3, 3), fill="integers"),
    case_of("exact-channels-3-7", _BASE, (4, 7, 5, 6), fill="integers"),
    case_of("exact-quarter", (16, 5, 3, 7), fill="integers", loss_weight=0.25),
    case_of("exact-minus-two", (2, 4, 8, 3), fill="integers", loss_weight=-2),
    # The same where a threshold or a coincidence of extents may lie.
    case_of("exact-channels-1031-13", (2, 1031, 3), (2, 13, 3), fill="integers"),
    case_of("exact-2048-samples", (2048, 3), fill="integers", loss_weight=-2),
    case_of("exact-n-is-c", (8, 8, 3, 5), fill="integers"),
    case_of("exact-square", (4, 3, 5, 5), fill="integers", loss_weight=-2),
    case_of("exact-all-alike", (4, 4, 4, 4), fill="integers", loss_weight=0.25),
    case_of("exact-width-1", (4, 3, 7, 1), fill="integers"),
    case_of("exact-height-1", (4, 3, 1, 7), fill="integers"),
    # The same with every bit that a sum can have: half precision dies at any number of channels.
    case_of("exact-wide", (4, 13, 5, 7), fill="wide"),
    case_of("exact-wide-512-channels", (2, 512, 3), fill="wide", loss_weight=-2),
    case_of("exact-wide-1031-channels", (2, 1031, 2), fill="wide", loss_weight=0.25),
    case_of("exact-wide-difference", (2, 937), fill="wide-apart"),
    case_of("exact-wide-alike", (4, 13, 5, 7), fill="wide-alike", loss_weight=-2),
    case_of(
        "exact-10-million", (8, 64, 160, 125), (8, 2, 160, 125), fill="ternary", loss_weight=0.25
    ),
    # Integers that round all the same: the exact lane must not take them in.
    case_of("integers-weight-3.7", _BASE, fill="integers", loss_weight=3.7),
    case_of("integers-odd-batch", (5, 3, 4, 2), fill="integers"),
    # Values.
    case_of("positive", _BASE, fill="positive"),
    case_of("positive-odd", (5, 7, 11, 13), fill="positive", loss_weight=3.7),
    case_of("one-sided-1031-channels", (3, 1031, 2), fill="one-sided", loss_weight=3.7),
    case_of("equal", _BASE, fill="equal"),
    case_of("cancelling", (3, 24, 5, 6), fill="cancelling"),
    case_of("mixed-scales", (3, 12, 5, 6), fill="mixed-scales"),
    case_of("huge", _BASE, fill="huge"),
    case_of("overflowing", _BASE, fill="overflowing"),
    case_of("overflowing-sum", (257, 3, 2, 2), fill="near-overflow"),
    case_of("tiny", _BASE, fill="tiny"),
    case_of("faint", _BASE, fill="faint"),
    case_of("subnormal", _BASE, fill="subnormal"),
    case_of("nan", _BASE, fill="nan"),
    case_of("inf", _BASE, fill="inf"),
    case_of("inf-minus-inf", _BASE, fill="inf-minus-inf"),
    case_of("infs", (6, 3, 5, 2), fill="infs", loss_weight=-2),
    case_of("nans", (4, 3, 5, 2), fill="nans", loss_weight=3.7),
    # Loss weights: one weight is no test.
    case_of("weight-3.7", _BASE, loss_weight=3.7),
    case_of("weight-minus-2", _BASE, loss_weight=-2),
    case_of("weight-quarter", _BASE, loss_weight=0.25),
    case_of("weight-0", _BASE, loss_weight=0),
    case_of("weight-3.7-two-axes", (7, 5), loss_weight=3.7),
    # Which inputs get a gradient.
    case_of("only-dx1", _BASE, loss_weight=3.7, gradients=("x1",)),
    case_of("only-dx2", _BASE, loss_weight=3.7, gradients=("x2",)),
    case_of("only-dx2-two-axes", (7, 5), loss_weight=3.7, gradients=("x2",)),
    # Sharing.
    case_of("same-blob", _BASE, loss_weight=3.7, sharing="same-blob"),
    case_of("split", _BASE, loss_weight=3.7, sharing="split"),
    case_of("split-two-axes", (7, 5), loss_weight=3.7, sharing="split"),
)
"""Every case, in the order in which they run."""


def by_name(name: str) -> Case:
    """The case of that name.

    Raises:
        KeyError: there is none.
    """
    return {case.name: case for case in CASES}[name]
