"""What the three layers share: each sums some axes, squares the difference, and divides by 2N."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from caffe_parity import Case, Layer, Rival
from caffe_parity.contract import GRADIENT, Arrays, Shape
from reference import rounding
from reference.cases import CASES

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

FIT: Mapping[str, Callable[[Shape, Shape], bool]] = {
    "none": lambda x1, x2: x1 == x2,
    "channel": lambda x1, x2: (x1[0], x1[2:]) == (x2[0], x2[2:]),
    "tail": lambda x1, x2: x1[0] == x2[0],
}
"""Whether a formula is defined for two shapes, by the axes that it sums."""


def summed_layer(name: str, loss: Loss, summed: str) -> Layer:
    """A layer with its derived bound and the cases that its formula is defined for.

    Args:
        name: of the layer.
        loss: maps x1, x2 to the scalar loss.
        summed: the axes that are summed before the difference is squared: "none", "channel" or
            "tail".
    """

    def allowed(case: Case) -> bool:
        return FIT[summed](case.shapes["x1"], case.shapes["x2"])

    return Layer(
        name,
        reference=loss,
        cases=tuple(case for case in CASES if allowed(case)),
        bound=partial(rounding.bound, summed),
        rivals=partial(_wrong_axes, summed),
        mistaken_for=_all,
        allows=allowed,
        reshapes=True,
        sources=(Path(__file__).parent,),
    )


def _all() -> Sequence[Layer]:
    from reference.layers import LAYERS  # which imports what imports this

    return tuple(LAYERS.values())


def _wrong_axes(summed: str, case: Case, inputs: Arrays) -> Iterator[Rival]:
    """The formula with the sum over another axis than the channels'."""
    x1, x2 = (inputs[name].astype(np.float64) for name in ("x1", "x2"))
    if x1.shape != x2.shape:
        return
    channels, samples = x1.shape[1], x1.shape[0]
    for axis in range(x1.ndim):
        if axis == 1 and summed == "channel":
            continue
        d = (x1 - x2).sum(axis, keepdims=True)
        words = f"{{tensor}} sums axis {axis}, not axis 1"
        if axis == channels:
            words += f": the number of channels ({channels}) was used as the axis"
        dx = np.broadcast_to(case.weight / samples * d, x1.shape)
        loss = np.asarray(np.sum(d * d) / (2 * samples))
        predicted = {"loss": loss, GRADIENT + "x1": dx, GRADIENT + "x2": -dx}
        yield Rival("wrong-axis", words, predicted, {})
