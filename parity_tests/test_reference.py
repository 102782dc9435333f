"""The truth is true: closed forms by hand, central differences, gradcheck; and it never drifts."""

from __future__ import annotations

import hashlib
from fractions import Fraction

import numpy as np
import pytest
import torch

from caffe_parity.contract import SHARED_GRADIENT, Case, Inputs, Layer
from reference import channel_sum, euclidean, fills, tail_sum
from reference.cases import CASES, by_name
from reference.layers import LAYERS

FORMULAS = {"euclidean": euclidean, "channel_sum": channel_sum, "tail_sum": tail_sum}

# x1 and x2 of shape (2, 2, 1, 2), small enough to work out by hand:
#   sample 0: x1 = [[1, 2], [3, 4]], x2 = [[0, 1], [1, 1]]   (channels down, width across)
#   sample 1: x1 = [[0, 1], [2, 0]], x2 = [[1, 1], [0, 3]]
X1 = np.array([1, 2, 3, 4, 0, 1, 2, 0], np.float32).reshape(2, 2, 1, 2)
X2 = np.array([0, 1, 1, 1, 1, 1, 0, 3], np.float32).reshape(2, 2, 1, 2)

# euclidean:   d = [1 1 2 3 | -1 0 2 -3], squares 1+1+4+9+1+0+4+9 = 29, over 2N = 4
# channel_sum: d = [4-1, 6-2 | 2-1, 1-4] = [3 4 | 1 -3], squares 9+16+1+9 = 35
# tail_sum:    d = [10-3 | 3-5] = [7 | -2], squares 49+4 = 53
BY_HAND = {
    "euclidean": (29 / 4, [[1, 1, 2, 3], [-1, 0, 2, -3]]),
    "channel_sum": (35 / 4, [[3, 4, 3, 4], [1, -3, 1, -3]]),
    "tail_sum": (53 / 4, [[7, 7, 7, 7], [-2, -2, -2, -2]]),
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=lambda layer: layer.name)
@pytest.mark.parametrize("weight", [1.0, 4.0, -2.0])
def test_closed_form_by_hand(layer: Layer, weight: float) -> None:
    """Loss and gradients equal the ones worked out by hand, to the bit; the loss has no weight."""
    loss, d = BY_HAND[layer.name]
    case = Case("by-hand", X1.shape, X2.shape, loss_weight=weight)
    result = layer.evaluate(case, Inputs(X1, X2))
    gradient = weight / 2 * np.array(d, float).reshape(X1.shape)
    assert result.loss == loss
    assert np.array_equal(result.dx1, gradient)  # type: ignore[arg-type]
    assert np.array_equal(result.dx2, -gradient)  # type: ignore[arg-type]


@pytest.mark.parametrize("layer", LAYERS.values(), ids=lambda layer: layer.name)
@pytest.mark.parametrize("name", ["base", "two-axes", "five-axes", "one-element", "weight-3.7"])
def test_central_differences_agree(layer: Layer, name: str) -> None:
    """(L(x+h) - L(x-h)) / 2h is the gradient: exact for a quadratic, in rational arithmetic."""
    case = by_name(name)
    inputs = fills.inputs(case)
    result = layer.evaluate(case, inputs)
    rng = np.random.RandomState(1)
    for which, gradient in (("x1", result.dx1), ("x2", result.dx2)):
        assert gradient is not None
        for _ in range(3):
            place = tuple(int(rng.randint(extent)) for extent in gradient.shape)
            slope = _central_difference(layer.summed, inputs, which, place)
            wanted = Fraction(case.weight) * slope
            # float64 autograd of some 400 terms; its own bound is 2**-29 of the float32 one.
            bound = layer.bound(case, inputs).worst["d" + which][place] * 2.0**-29
            assert abs(Fraction(float(gradient[place])) - wanted) <= Fraction(bound) * 4


def _central_difference(kind: str, inputs: Inputs, which: str, place: tuple[int, ...]) -> Fraction:
    step = Fraction(1, 1024)
    above = _loss(kind, inputs, which, place, step)
    below = _loss(kind, inputs, which, place, -step)
    return (above - below) / (2 * step)


def _loss(
    kind: str, inputs: Inputs, which: str, place: tuple[int, ...], step: Fraction
) -> Fraction:
    """The loss in rational arithmetic, with one element moved; shares no code with the formulas."""
    sums: dict[tuple[int, ...], Fraction] = {}
    for name, x, sign in (("x1", inputs.x1, 1), ("x2", inputs.x2, -1)):
        for index in np.ndindex(x.shape):
            key = {"none": index, "channel": (index[0], *index[2:]), "tail": index[:1]}[kind]
            value = Fraction(float(x[index]))
            if (name, index) == (which, place):
                value += step
            sums[key] = sums.get(key, Fraction(0)) + sign * value
    squares = sum((d * d for d in sums.values()), Fraction(0))
    return Fraction(squares, 2 * inputs.x1.shape[0])


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("shape", [(3, 2), (2, 3, 2), (2, 2, 3, 2), (1, 2, 2, 1, 3)])
def test_gradcheck(name: str, shape: tuple[int, ...]) -> None:
    """PyTorch's own gradcheck accepts each formula, at any number of axes."""
    generator = torch.Generator().manual_seed(0)
    x1, x2 = (
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for _ in range(2)
    )
    assert torch.autograd.gradcheck(FORMULAS[name].loss, (x1, x2))


def test_unequal_channels() -> None:
    """C1 != C2 gives the same d as the channel sums do by themselves."""
    case = by_name("channels-3-7")
    inputs = fills.inputs(case)
    d = inputs.x1.astype(float).sum(1) - inputs.x2.astype(float).sum(1)
    result = LAYERS["channel_sum"].evaluate(case, inputs)
    assert result.dx1 is not None
    assert result.dx2 is not None
    assert result.dx1.shape == (4, 3, 5, 6)
    assert result.dx2.shape == (4, 7, 5, 6)
    assert np.array_equal(result.dx2[:, 6], -d / 4)


def test_propagate_down_and_sharing() -> None:
    """Only the gradients that were asked for; a shared blob's is the sum of its readers'."""
    channel = LAYERS["channel_sum"]
    for name, missing in (("only-dx1", "dx2"), ("only-dx2", "dx1"), ("same-blob", "dx2")):
        case = by_name(name)
        tensors = channel.evaluate(case, fills.inputs(case)).tensors()
        assert [key for key, value in tensors.items() if value is None] == [missing]
    split = by_name("split")
    inputs = fills.inputs(split)
    alone = Case("alone", split.x1_shape, split.x2_shape, loss_weight=split.loss_weight)
    with_other, without = (channel.evaluate(case, inputs).dx1 for case in (split, alone))
    assert with_other is not None
    assert without is not None
    assert np.array_equal(with_other, without + SHARED_GRADIENT)


def test_refusals_say_what_does_not_fit() -> None:
    """Each layer refuses the shapes that its formula is not defined for, naming both."""
    for name, shapes in {
        "euclidean": ((4, 3, 5, 6), (4, 3, 30)),
        "channel_sum": ((4, 3, 5, 6), (4, 3, 6, 5)),
        "tail_sum": ((4, 3), (5, 3)),
    }.items():
        reason = LAYERS[name].refuses(*shapes)
        assert reason is not None
        assert str(shapes[0]) in reason
        assert str(shapes[1]) in reason


def test_inputs_are_the_same_bytes_everywhere() -> None:
    """The digest over every case's inputs is the one recorded when the cases were written."""
    digest = hashlib.sha256()
    for case in CASES:
        inputs = fills.inputs(case)
        for array in (inputs.x1, inputs.x2):
            digest.update(np.ascontiguousarray(array).astype("<f4").tobytes())
    assert digest.hexdigest()[:16] == "fa3294d423d06644"


def test_cases_cover_what_they_must() -> None:
    """No edit of the list drops a kind of case: axes, extents of 1, sizes, weights, sharing."""
    shapes = {case.x1_shape for case in CASES}
    assert {len(shape) for shape in shapes} == {2, 3, 4, 5}
    assert any(shape[0] == 1 for shape in shapes)
    assert any(shape[1] == 1 for shape in shapes)
    assert any(shape[2:] == (1, 1) for shape in shapes)
    assert any(shape[1] >= 512 for shape in shapes)
    assert any(int(np.prod(shape)) >= 10_000_000 for shape in shapes)
    assert any(case.x1_shape[1] != case.x2_shape[1] for case in CASES)
    assert {1, 3.7, -2, 0.25, 0} == {case.loss_weight for case in CASES}
    assert {(True, True), (True, False), (False, True)} == {c.propagate_down for c in CASES}
    assert {"none", "same-blob", "split"} == {case.sharing for case in CASES}
    assert set(fills.FILLS) == {case.fill for case in CASES}
    assert len({case.name for case in CASES}) == len(CASES)
