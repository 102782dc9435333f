"""The cases, as data: what is fed to every variant of every layer whose formula allows the shapes.

Add one by adding a line. Shapes are (N, C, S...); odd extents stand beside round ones because a
swapped axis shows only where extents differ.
"""

from __future__ import annotations

from caffe_parity.contract import Case, Shape


def _case(name: str, shape: Shape, x2: Shape | None = None, **fields: object) -> Case:
    return Case(name, shape, x2 or shape, seed=sum(name.encode()), **fields)  # type: ignore[arg-type]


_BASE = (4, 3, 5, 6)

CASES: tuple[Case, ...] = (
    # Shapes: 2 to 5 axes, one of everything, odd and round.
    _case("odd", (5, 7, 11, 13)),
    _case("round", (8, 16, 16, 16)),
    _case("base", _BASE),
    _case("two-axes", (7, 5)),
    _case("three-axes", (3, 4, 9)),
    _case("five-axes", (2, 3, 4, 5, 3)),
    _case("one-sample", (1, 3, 4, 5)),
    _case("one-channel", (4, 1, 6, 5)),
    _case("unit-spatial", (6, 5, 1, 1)),
    _case("one-element", (1, 1, 1, 1)),
    _case("one-number", (1, 1)),
    _case("512-channels", (2, 512, 7, 7)),
    _case("many-samples", (257, 3, 2, 2)),
    _case("million", (8, 16, 100, 80)),
    # C1 != C2, which only a layer that sums the channels allows.
    _case("channels-3-7", _BASE, (4, 7, 5, 6)),
    _case("channels-6-1", (3, 6, 4, 4), (3, 1, 4, 4)),
    _case("channels-4-9-two-axes", (5, 4), (5, 9)),
    _case("channels-2-5-unit-spatial", (3, 2, 1, 1), (3, 5, 1, 1)),
    # Other spatial extents too, which only a layer that sums all of them allows.
    _case("tails-differ", _BASE, (4, 2, 7)),
    # The exact lane: every summation order gives these bits.
    _case("exact", _BASE, fill="integers"),
    _case("exact-two-axes", (8, 5), fill="integers"),
    _case("exact-unit-spatial", (2, 9, 1, 1), fill="integers", loss_weight=-2),
    _case("exact-512-channels", (2, 512, 3, 3), fill="integers"),
    _case("exact-channels-3-7", _BASE, (4, 7, 5, 6), fill="integers"),
    _case("exact-quarter", (16, 5, 3, 7), fill="integers", loss_weight=0.25),
    _case("exact-minus-two", (2, 4, 8, 3), fill="integers", loss_weight=-2),
    _case(
        "exact-10-million", (8, 64, 160, 125), (8, 2, 160, 125), fill="ternary", loss_weight=0.25
    ),
    # Integers that round all the same: the exact lane must not take them in.
    _case("integers-weight-3.7", _BASE, fill="integers", loss_weight=3.7),
    _case("integers-odd-batch", (5, 3, 4, 2), fill="integers"),
    # Values.
    _case("positive", _BASE, fill="positive"),
    _case("positive-odd", (5, 7, 11, 13), fill="positive", loss_weight=3.7),
    _case("equal", _BASE, fill="equal"),
    _case("cancelling", (3, 24, 5, 6), fill="cancelling"),
    _case("mixed-scales", (3, 12, 5, 6), fill="mixed-scales"),
    _case("huge", _BASE, fill="huge"),
    _case("overflowing", _BASE, fill="overflowing"),
    _case("overflowing-sum", (257, 3, 2, 2), fill="near-overflow"),
    _case("tiny", _BASE, fill="tiny"),
    _case("subnormal", _BASE, fill="subnormal"),
    _case("nan", _BASE, fill="nan"),
    _case("inf", _BASE, fill="inf"),
    _case("inf-minus-inf", _BASE, fill="inf-minus-inf"),
    # Loss weights: one weight is no test.
    _case("weight-3.7", _BASE, loss_weight=3.7),
    _case("weight-minus-2", _BASE, loss_weight=-2),
    _case("weight-quarter", _BASE, loss_weight=0.25),
    _case("weight-0", _BASE, loss_weight=0),
    _case("weight-3.7-two-axes", (7, 5), loss_weight=3.7),
    # Which inputs get a gradient.
    _case("only-dx1", _BASE, loss_weight=3.7, propagate_down=(True, False)),
    _case("only-dx2", _BASE, loss_weight=3.7, propagate_down=(False, True)),
    _case("only-dx2-two-axes", (7, 5), loss_weight=3.7, propagate_down=(False, True)),
    # Sharing.
    _case("same-blob", _BASE, loss_weight=3.7, sharing="same-blob"),
    _case("split", _BASE, loss_weight=3.7, sharing="split"),
    _case("split-two-axes", (7, 5), loss_weight=3.7, sharing="split"),
)
"""Every case, in the order in which they run."""


def by_name(name: str) -> Case:
    """The case of that name.

    Raises:
        KeyError: there is none.
    """
    return {case.name: case for case in CASES}[name]
