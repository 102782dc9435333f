"""The third oracle: each layer in rational arithmetic, element by element, from the definition.

It shares no code with the formulas of `reference`, rounds nothing, and is slow: for tiny inputs.
"""

from collections.abc import Mapping
from fractions import Fraction

import numpy as np

from caffe_parity import Case, Layer
from caffe_parity.contract import GRADIENT, SHARED_GRADIENT, Array64, Arrays, spoken
from reference.layers import SUMMED

TINY = 64
"""The largest number of elements of both inputs for which it takes about a millisecond."""

FLOAT64 = 2.0**-29 * (1 + 2.0**-10)
"""A float64 rounding as a fraction of a float32 one; every growth (1+u)**k - 1 shrinks by at least
as much. The second factor covers the rounding of the bound."""

Index = tuple[int, ...]


Exact = dict[str, dict[Index, Fraction]]
"""The loss, at (), and the gradients, by tensor and index, without any rounding."""


def evaluate(summed: str, case: Case, inputs: Arrays) -> Exact:
    """The layer that sums the axes `summed` ("none", "channel" or "tail"); finite inputs only.

    In a "same-blob" case the gradient of x1 is the whole one of the one blob.
    """

    def group(index: Index) -> Index:
        return {"none": index, "channel": index[:1] + index[2:], "tail": index[:1]}[summed]

    samples = inputs["x1"].shape[0]
    d: dict[Index, Fraction] = {}
    for sign, name in ((1, "x1"), (-1, "x2")):
        for index, value in np.ndenumerate(inputs[name]):
            d[group(index)] = d.get(group(index), Fraction(0)) + sign * Fraction(float(value))
    loss = sum((each * each for each in d.values()), Fraction(0)) / (2 * samples)
    scale = Fraction(case.weight) / samples
    dx1 = {index: scale * d[group(index)] for index in np.ndindex(inputs["x1"].shape)}
    dx2 = {index: -scale * d[group(index)] for index in np.ndindex(inputs["x2"].shape)}
    if case.sharing == "same-blob":
        dx1 = {index: value + dx2[index] for index, value in dx1.items()}
    if case.sharing == "split":
        dx1 = {index: value + Fraction(SHARED_GRADIENT) for index, value in dx1.items()}
    gradients = {GRADIENT + name: dx for name, dx in (("x1", dx1), ("x2", dx2)) if name in case.fed}
    return {"loss": {(): loss}, **gradients}


def is_feasible(inputs: Arrays) -> bool:
    """Whether the inputs are tiny, and rational numbers can hold every element."""
    both = inputs.values()
    return sum(x.size for x in both) <= TINY and all(np.isfinite(x).all() for x in both)


def disagreement(layer: Layer, case: Case, inputs: Arrays, truth: Mapping[str, Array64]) -> str:
    """Where the float64 truth is farther from the exact one than float64 rounding; "" nowhere.

    float64 has no underflow here: what float32 inputs and a float32 weight make is above 2**-600.
    """
    exact = evaluate(SUMMED[layer.name], case, inputs)
    assert layer.bound is not None
    bound = layer.bound(case, inputs)
    for name, actual in truth.items():
        for index, value in exact[name].items():
            allowed = float(bound.worst[name][index]) * FLOAT64
            if np.isfinite(allowed) and abs(Fraction(float(actual[index])) - value) > allowed:
                place = f"{spoken(name)}{list(index)}"
                return f"{place}: float64 {actual[index]}, exactly {float(value)}"
    return ""
