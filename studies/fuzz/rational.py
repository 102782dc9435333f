"""The third oracle: each layer in rational arithmetic, element by element, from the definition.

It shares no code with the formulas of `reference`, rounds nothing, and is slow: for tiny inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from caffe_parity.contract import SHARED_GRADIENT, TENSORS, Array32, Case, Inputs, Layer, Result

TINY = 64
"""The largest number of elements that this oracle is asked about in the search: 1 ms."""

FLOAT64 = 2.0**-29 * (1 + 2.0**-10)
"""A float64 rounding as a fraction of a float32 one; every growth (1+u)**k - 1 shrinks by at least
as much. The second factor covers the rounding of the bound."""

Index = tuple[int, ...]


@dataclass(frozen=True)
class Exact:
    """The loss and both gradients, without any rounding.

    Attributes:
        dx1, dx2: by index; in a "same-blob" case dx1 is the whole gradient of the one blob.
    """

    loss: Fraction
    dx1: dict[Index, Fraction]
    dx2: dict[Index, Fraction]


def evaluate(summed: str, case: Case, inputs: Inputs) -> Exact:
    """The layer that sums the axes `summed` ("none", "channel" or "tail"); finite inputs only."""

    def group(index: Index) -> Index:
        return {"none": index, "channel": index[:1] + index[2:], "tail": index[:1]}[summed]

    samples = inputs.x1.shape[0]
    d: dict[Index, Fraction] = {}
    for sign, x in ((1, inputs.x1), (-1, inputs.x2)):
        for index in np.ndindex(x.shape):
            d[group(index)] = d.get(group(index), Fraction(0)) + sign * Fraction(float(x[index]))
    loss = sum((each * each for each in d.values()), Fraction(0)) / (2 * samples)
    scale = Fraction(case.weight) / samples
    dx1 = {index: scale * d[group(index)] for index in np.ndindex(inputs.x1.shape)}
    dx2 = {index: -scale * d[group(index)] for index in np.ndindex(inputs.x2.shape)}
    if case.sharing == "same-blob":
        dx1 = {index: value + dx2[index] for index, value in dx1.items()}
    if case.sharing == "split":
        dx1 = {index: value + Fraction(SHARED_GRADIENT) for index, value in dx1.items()}
    return Exact(loss, dx1, dx2)


def is_finite(x: Array32) -> bool:
    """Whether rational numbers can hold every element."""
    return bool(np.all(np.isfinite(x)))


def disagreement(layer: Layer, case: Case, inputs: Inputs, truth: Result) -> str:
    """Where the float64 truth is farther from the exact one than float64 rounding; "" nowhere.

    float64 has no underflow here: what float32 inputs and a float32 weight make is above 2**-600.
    """
    exact = evaluate(layer.summed, case, inputs)
    bound = layer.bound(case, inputs)
    by_name: dict[str, dict[Index, Fraction]] = {
        "loss": {(): exact.loss},
        "dx1": exact.dx1,
        "dx2": exact.dx2,
    }
    for name in TENSORS:
        actual = truth.tensors()[name]
        if actual is None:
            continue
        for index, value in by_name[name].items():
            allowed = float(bound.worst[name][index]) * FLOAT64
            if np.isfinite(allowed) and abs(Fraction(float(actual[index])) - value) > allowed:
                return f"{name}{list(index)}: float64 {actual[index]}, exactly {float(value)}"
    return ""
