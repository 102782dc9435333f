"""Whether a function's gradient is that of its own value: central differences in float64.

Along a random direction v of all inputs at once, and with a random weight for each element of each
top, a right gradient g gives the same number in two ways, g . v and (f(x + h v) - f(x - h v)) / 2h.
It costs a few evaluations, however large the inputs are, and says nothing of a function that rounds
to float32, whose differences are those of its rounding.

What the second number is off by is derived, not chosen. The step makes h^2 f'''/6, which is a third
of how much the difference changes from h to 2h. The terms of the sum are rounded, each by some
2^-53 of itself, independently. Where that does not explain it, the function may amplify rounding:
then differences with steps that are hardly other ones scatter, and that is allowed as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from caffe_parity.contract import GRADIENT
from caffe_parity.engine.functions import Evaluation, Tensors

STEP = 2.0**-17
"""Of the inputs' size. A smaller one loses digits to rounding (2^-52 / h), a larger one to h^2."""

DIRECTIONS = 3
"""A gradient that is not the value's differs along each; where a kink lies within a step of the
inputs, some differ."""


def rounds_to_float32(evaluation: Evaluation, inputs: Tensors) -> bool:
    """Whether every result is a float32 number, also where the inputs are none.

    Raises:
        BadRequest: the function cannot be evaluated.
    """
    generator = torch.Generator().manual_seed(1)
    moved = {
        name: each * (1 + 2.0**-30 * _noise(each, generator)) if name in evaluation.wanted else each
        for name, each in inputs.items()
    }
    return all(
        torch.equal(each.nan_to_num(), each.float().to(each.dtype).nan_to_num())
        for each in evaluation.tops(moved).values()
    )


def misfits(evaluation: Evaluation, inputs: Tensors) -> list[str]:
    """The inputs and parameters whose gradient is not that of the function's own value.

    Args:
        evaluation: the function; its `wanted` are asked about.
        inputs: float64, parameters included; none of them is changed.

    Raises:
        BadRequest, RuntimeError: the function cannot be evaluated, or not differentiated.
    """
    if _fits(evaluation, inputs, evaluation.wanted, seed=0):  # of all at once: most often right
        return []
    return [
        name
        for name in evaluation.wanted
        if not any(_fits(evaluation, inputs, (name,), seed) for seed in range(DIRECTIONS))
    ]


def _fits(evaluation: Evaluation, inputs: Tensors, names: tuple[str, ...], seed: int) -> bool:
    generator = torch.Generator().manual_seed(seed)
    tops = {name: each.detach() for name, each in evaluation.tops(inputs).items()}
    weights = {name: _noise(each, generator) for name, each in tops.items()}
    gradients = evaluation(inputs, weights)
    ways = {name: _noise(inputs[name], generator) * _size(inputs[name]) for name in names}
    slope = sum(float((gradients[GRADIENT + name] * each).sum()) for name, each in ways.items())

    def value(moved: Mapping[str, torch.Tensor]) -> float:
        found = evaluation.tops({**inputs, **moved})
        return sum(float((found[name].detach() * each).sum()) for name, each in weights.items())

    def difference(step: float) -> float:
        forth, back = (
            value({name: inputs[name] + sign * step * each for name, each in ways.items()})
            for sign in (1, -1)
        )
        return (forth - back) / (2 * step)

    near, far = difference(STEP), difference(2 * STEP)
    if not (math.isfinite(near) and math.isfinite(far)):
        return True  # no value that has a slope, so nothing is shown
    terms = sum(float((tops[name] * each).square().sum()) for name, each in weights.items()) ** 0.5
    room = abs(near - far) + 2.0**-50 * terms / STEP
    if abs(slope - near) <= room:
        return True
    scattered = [near, *(difference(STEP * (1 + 0.1 * number)) for number in (1, 2, 3))]
    return bool(abs(slope - near) <= room + 2 * (max(scattered) - min(scattered)))


def _noise(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype)


def _size(value: torch.Tensor) -> float:
    """The usual size of a tensor's elements; 1 where all are 0."""
    return float(value.abs().mean()) or 1.0 if value.numel() else 1.0
