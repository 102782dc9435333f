"""The truth is true: closed forms by hand, central differences, gradcheck; and it never drifts."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from caffe_parity import Layer
from caffe_parity.contract import GRADIENT, SHARED_GRADIENT, Arrays
from parity_tests.answers import expected_of
from reference import channel_sum, euclidean, fills, tail_sum
from reference.cases import CASES, by_name, case_of
from reference.layers import LAYERS, SUMMED

FORMULAS = {"euclidean": euclidean, "channel_sum": channel_sum, "tail_sum": tail_sum}
DX1, DX2 = GRADIENT + "x1", GRADIENT + "x2"

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
    case = case_of("by-hand", X1.shape, X2.shape, loss_weight=weight)
    truth = expected_of(layer, case, {"x1": X1, "x2": X2}).truth
    gradient = weight / 2 * np.array(d, float).reshape(X1.shape)
    assert truth["loss"] == loss
    assert np.array_equal(truth[DX1], gradient)
    assert np.array_equal(truth[DX2], -gradient)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=lambda layer: layer.name)
@pytest.mark.parametrize("name", ["base", "two-axes", "five-axes", "one-element", "weight-3.7"])
def test_central_differences_agree(layer: Layer, name: str) -> None:
    """(L(x+h) - L(x-h)) / 2h is the gradient: exact for a quadratic, in rational arithmetic."""
    case = by_name(name)
    inputs = fills.inputs(case)
    expected = expected_of(layer, case)
    rng = np.random.RandomState(1)
    for which in inputs:
        gradient = expected.truth[GRADIENT + which]
        for _ in range(3):
            place = tuple(int(rng.randint(extent)) for extent in gradient.shape)
            slope = _central_difference(SUMMED[layer.name], inputs, which, place)
            wanted = Fraction(case.weight) * slope
            # float64 autograd of some 400 terms; its own bound is 2**-29 of the float32 one.
            bound = expected.bound.worst[GRADIENT + which][place] * 2.0**-29
            assert abs(Fraction(float(gradient[place])) - wanted) <= Fraction(bound) * 4


def _central_difference(kind: str, inputs: Arrays, which: str, place: tuple[int, ...]) -> Fraction:
    step = Fraction(1, 1024)
    above = _loss(kind, inputs, which, place, step)
    below = _loss(kind, inputs, which, place, -step)
    return (above - below) / (2 * step)


def _loss(
    kind: str, inputs: Arrays, which: str, place: tuple[int, ...], step: Fraction
) -> Fraction:
    """The loss in rational arithmetic, with one element moved; shares no code with the formulas."""
    sums: dict[tuple[int, ...], Fraction] = {}
    for (name, x), sign in zip(inputs.items(), (1, -1), strict=True):
        for index in np.ndindex(x.shape):
            key = {"none": index, "channel": (index[0], *index[2:]), "tail": index[:1]}[kind]
            value = Fraction(float(x[index]))
            if (name, index) == (which, place):
                value += step
            sums[key] = sums.get(key, Fraction(0)) + sign * value
    squares = sum((d * d for d in sums.values()), Fraction(0))
    return Fraction(squares, 2 * inputs["x1"].shape[0])


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
    d = inputs["x1"].astype(float).sum(1) - inputs["x2"].astype(float).sum(1)
    truth = expected_of(LAYERS["channel_sum"], case).truth
    assert truth[DX1].shape == (4, 3, 5, 6)
    assert truth[DX2].shape == (4, 7, 5, 6)
    assert np.array_equal(truth[DX2][:, 6], -d / 4)


def test_propagate_down_and_sharing() -> None:
    """Only the gradients that were asked for; a shared blob's is the sum of its readers'."""
    channel = LAYERS["channel_sum"]
    for name, missing in (("only-dx1", DX2), ("only-dx2", DX1), ("same-blob", DX2)):
        truth = expected_of(channel, by_name(name)).truth
        assert {"loss", DX1, DX2} - set(truth) == {missing}
    split = by_name("split")
    alone = replace(split, sharing="none")
    with_other, without = (expected_of(channel, case).truth[DX1] for case in (split, alone))
    assert np.array_equal(with_other, without + SHARED_GRADIENT)


def test_no_layer_takes_what_its_formula_is_not_defined_for() -> None:
    """Each layer has the cases whose shapes fit its formula, and none else."""
    for name, shapes in {
        "euclidean": ((4, 3, 5, 6), (4, 3, 30)),
        "channel_sum": ((4, 3, 5, 6), (4, 3, 6, 5)),
        "tail_sum": ((4, 3), (5, 3)),
    }.items():
        layer = LAYERS[name]
        assert not layer.allows(case_of("other", *shapes))
        assert layer.allows(case_of("alike", shapes[0]))
        assert layer.all_cases() == tuple(case for case in CASES if layer.allows(case))
    channel, same, tail = (
        set(LAYERS[name].all_cases()) for name in ("channel_sum", "euclidean", "tail_sum")
    )
    assert {case.name for case in tail - channel} == {"tails-differ"}
    assert all(len({shape[1] for shape in case.shapes.values()}) == 2 for case in channel - same)


def test_inputs_are_the_same_bytes_everywhere() -> None:
    """The digest over every case's inputs is the one recorded when the cases were written."""
    digest = hashlib.sha256()
    for case in CASES:
        inputs = fills.inputs(case)
        for array in inputs.values():
            digest.update(np.ascontiguousarray(array).astype("<f4").tobytes())
    assert digest.hexdigest()[:16] == "7f925b90de6763e8"


def test_cases_cover_what_they_must() -> None:
    """No edit of the list drops a kind of case: axes, extents of 1, sizes, weights, sharing."""
    shapes = {case.shapes["x1"] for case in CASES}
    assert {len(shape) for shape in shapes} == {2, 3, 4, 5, 6}
    assert any(shape[0] == 1 for shape in shapes)
    assert any(shape[1] == 1 for shape in shapes)
    assert any(shape[2:] == (1, 1) for shape in shapes)
    assert any(shape[1] >= 512 for shape in shapes)
    assert all(any(shape[axis] > 1024 for shape in shapes) for axis in (0, 1))
    assert any(shape[0] == shape[1] > 1 for shape in shapes)
    assert any(shape[2:3] == shape[3:4] > (1,) for shape in shapes)
    assert all(any(len(s) == 4 and s[axis] == 1 < s[5 - axis] for s in shapes) for axis in (2, 3))
    assert any(int(np.prod(shape)) >= 10_000_000 for shape in shapes)
    assert any(case.shapes["x1"][1] != case.shapes["x2"][1] for case in CASES)
    assert {1, 3.7, -2, 0.25, 0} == {case.loss_weight for case in CASES}
    assert {("x1", "x2"), ("x1",), ("x2",)} == {case.gradients for case in CASES}
    assert {"none", "same-blob", "split"} == {case.sharing for case in CASES}
    assert set(fills.FILLS) == {case.fill for case in CASES}
    assert len({case.name for case in CASES}) == len(CASES)
