"""Three oracles that share nothing agree: float64 autograd, rational arithmetic, and Caffe itself.

Caffe's own answer is taken from its forward alone, by central differences: the loss is quadratic,
so that (L(x+1) - L(x-1)) / 2 is its derivative, and with small integers and a power of two for the
batch every number on the way is one that float32 holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from caffe_impl.variants import LAYERS as PYTHON_LAYERS
from caffe_impl.variants import NETS, CaffeVariant
from caffe_impl.variants import variants as caffe_variants
from caffe_parity.contract import SHARED_GRADIENT, Array32, Array64, Case, Inputs, Layer, Shape
from reference import fills
from reference.fills import small_integers
from reference.layers import LAYERS
from studies.fuzz import rational
from studies.fuzz.execute import computed_layer, observe
from studies.fuzz.program import Program, Step
from studies.fuzz.rational import Index

MUTANTS = Path(__file__).parent / "known_bad"

SHAPES: tuple[tuple[Shape, Shape], ...] = (
    ((2, 3, 2, 2), (2, 3, 2, 2)),
    ((2, 2, 1, 3), (2, 4, 1, 3)),
    ((2, 2, 3), (2, 5)),
    ((4, 3), (4, 3)),
    ((1, 2, 1, 1), (1, 2, 1, 1)),
    ((2, 2, 1, 2, 2), (2, 2, 1, 2, 2)),
)

SETTINGS = (("none", 1.0), ("none", -2.0), ("split", 0.25), ("same-blob", 2.0))
"""What is shared, and the loss weight; a power of two, as the exact lane needs."""


def integer_cases(layer: str) -> Iterator[tuple[Case, Inputs]]:
    """Tiny cases with small integers that a layer is defined for."""
    rng = np.random.RandomState(3)
    for shapes in SHAPES:
        for sharing, weight in SETTINGS:
            same = sharing == "same-blob"
            if LAYERS[layer].refuses(*shapes) or (same and shapes[0] != shapes[1]):
                continue
            case = Case("oracles", *shapes, loss_weight=weight, sharing=sharing)
            x1 = small_integers(shapes[0], rng)
            yield case, Inputs(x1, x1 if same else small_integers(shapes[1], rng))


def moved(x: Array32, index: Index, by: float) -> Array32:
    """The array with one element moved."""
    copy = x.copy()
    copy[index] += np.float32(by)
    return copy


def by_differences(variant: CaffeVariant, case: Case, inputs: Inputs) -> dict[str, Array64]:
    """The gradients by central differences of the loss that Caffe's forward computes.

    The second consumer of a "split" case has a constant gradient, which is added.
    """
    same = case.sharing == "same-blob"
    steps = []
    for name, x in (("x1", inputs.x1), ("x2", inputs.x2)):
        if same and name == "x2":
            continue
        for index in np.ndindex(x.shape):
            for by in (1.0, -1.0):
                other = moved(x, index, by)
                x1, x2 = (other, inputs.x2) if name == "x1" else (inputs.x1, other)
                steps.append(Step(x1, x1 if same else x2, poisons=()))
    program = Program(case, "none", tuple(steps))
    losses = [each.tensors["loss"] for each in observe(variant, program)]
    values = np.array([float(loss) for loss in losses if loss is not None])
    slopes = case.weight * (values[::2] - values[1::2]) / 2
    dx1 = slopes[: inputs.x1.size].reshape(inputs.x1.shape)
    if same:
        return {"dx1": dx1}
    if case.sharing == "split":
        dx1 = dx1 + SHARED_GRADIENT
    return {"dx1": dx1, "dx2": slopes[inputs.x1.size :].reshape(inputs.x2.shape)}


def by_backward(variant: CaffeVariant, case: Case, inputs: Inputs) -> dict[str, Array64]:
    """The gradients that Caffe's backward computes, and the loss."""
    program = Program(case, "asked", (Step(inputs.x1, inputs.x2, poisons=(2.0**100,)),))
    found = {}
    for each in observe(variant, program):
        for name, value in each.tensors.items():
            assert value is not None
            found[name] = value.astype(float)
    return found


def by_fractions(layer: Layer, case: Case, inputs: Inputs) -> dict[str, Array64]:
    """The exact gradients and loss; in the exact lane float64 holds them."""
    exact = rational.evaluate(layer.summed, case, inputs)
    found = {"loss": np.array(float(exact.loss))}
    for name, x, dx in (("dx1", inputs.x1, exact.dx1), ("dx2", inputs.x2, exact.dx2)):
        found[name] = np.array([float(dx[index]) for index in np.ndindex(x.shape)]).reshape(x.shape)
    if case.sharing == "same-blob":
        found.pop("dx2")
    return found


def by_autograd(layer: Layer, case: Case, inputs: Inputs) -> dict[str, Array64]:
    """The gradients and the loss of the float64 reference."""
    found = layer.evaluate(case, inputs).tensors()
    return {name: value.astype(float) for name, value in found.items() if value is not None}


def unequal(a: dict[str, Array64], b: dict[str, Array64]) -> list[str]:
    """The gradients in which two oracles differ by any bit."""
    names = ("dx1", "dx2") if "dx2" in a or "dx2" in b else ("dx1",)
    return [name for name in names if not np.array_equal(a[name], b[name])]


@pytest.mark.parametrize("variant", caffe_variants(), ids=lambda each: f"{each.layer}-{each.name}")
def test_three_oracles_agree_on_every_caffe_variant(variant: CaffeVariant) -> None:
    """Differences of Caffe's forward, its backward, autograd and fractions give the same bits."""
    ran = 0
    for case, inputs in integer_cases(variant.layer):
        expectation = variant.expects(case)
        if expectation is not None and expectation.kind == "refused":
            continue
        layer = computed_layer(variant, expectation)
        exact = by_fractions(layer, case, inputs)
        backward = by_backward(variant, case, inputs)
        assert unequal(by_autograd(layer, case, inputs), exact) == []
        assert unequal(by_differences(variant, case, inputs), exact) == []
        assert unequal(backward, exact) == []
        assert backward["loss"] == exact["loss"]
        ran += 1
    assert ran >= 10


@pytest.mark.parametrize("layer", LAYERS.values(), ids=lambda layer: layer.name)
@pytest.mark.parametrize(
    "fill", ["bell", "positive", "cancelling", "mixed-scales", "huge", "tiny", "subnormal"]
)
def test_autograd_is_exact_up_to_float64(layer: Layer, fill: str) -> None:
    """On any values the float64 truth lies within float64 rounding of the rational one."""
    for shape in ((3, 5, 2), (2, 3, 1, 2), (5, 2)):
        for weight, sharing in ((3.7, "none"), (-0.3, "split"), (1e-38, "none")):
            case = Case("oracles", shape, shape, fill=fill, loss_weight=weight, sharing=sharing)
            inputs = fills.inputs(case)
            truth = layer.evaluate(case, inputs)
            assert rational.disagreement(layer, case, inputs, truth) == ""


@pytest.mark.parametrize("variant", caffe_variants(), ids=lambda each: f"{each.layer}-{each.name}")
def test_caffe_is_within_the_bound_of_the_exact_answer(variant: CaffeVariant) -> None:
    """Where something rounds, Caffe lies within the bound around the rational answer as well."""
    for fill in ("bell", "cancelling", "mixed-scales", "subnormal"):
        case = Case("oracles", (3, 5), (3, 5), fill=fill, loss_weight=3.7)
        inputs = fills.inputs(case)
        layer = LAYERS[variant.layer]
        exact = rational.evaluate(layer.summed, case, inputs)
        bound = layer.bound(case, inputs).worst
        found = by_backward(variant, case, inputs)
        assert abs(Fraction(float(found["loss"])) - exact.loss) <= Fraction(float(bound["loss"]))
        for name, dx in (("dx1", exact.dx1), ("dx2", exact.dx2)):
            for index, value in dx.items():
                error = abs(Fraction(float(found[name][index])) - value)
                assert error <= Fraction(float(bound[name][index]))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("IgnoresTopDiff", ["dx1", "dx2"]), ("WrongSign", ["dx2"]), ("BatchRolled", ["dx1", "dx2"])],
)
def test_central_differences_find_a_wrong_backward(name: str, wrong: list[str]) -> None:
    """A wrong backward contradicts its own forward: no other oracle is needed to see it."""
    text = (NETS / "channel_sum_python.prototxt").read_text()
    text = text.replace('"summed_euclidean_loss"', '"mutants"')
    text = text.replace('"SummedEuclideanLossLayer"', f'"{name}"')
    path = (str(PYTHON_LAYERS), str(MUTANTS))
    mutant = CaffeVariant("mutant", "channel_sum", lambda case: text, path=path)
    case, inputs = next(
        each for each in integer_cases("channel_sum") if each[0].loss_weight not in (0, 1)
    )
    case = replace(case, sharing="none")
    differences = by_differences(mutant, case, inputs)
    assert unequal(by_backward(mutant, case, inputs), differences) == wrong


def test_a_wrong_reference_is_found() -> None:
    """An autograd formula that is off in the last bits of float64 disagrees with the fractions."""
    layer = LAYERS["channel_sum"]
    case = Case("oracles", (3, 4, 2), (3, 4, 2), loss_weight=3.7)
    inputs = fills.inputs(case)
    truth = layer.evaluate(case, inputs)
    assert rational.disagreement(layer, case, inputs, truth) == ""
    assert truth.dx1 is not None
    assert "dx1" in rational.disagreement(
        layer, case, inputs, replace(truth, dx1=truth.dx1 * (1 + 1e-13))
    )
    assert "loss" in rational.disagreement(
        layer, case, inputs, replace(truth, loss=np.asarray(truth.loss * (1 + 1e-13)))
    )
