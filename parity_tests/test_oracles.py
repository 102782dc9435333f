"""Three oracles that share nothing agree: float64 autograd, rational arithmetic, and Caffe itself.

Caffe's own answer is taken from its forward alone, by central differences: the loss is quadratic,
so that (L(x+1) - L(x-1)) / 2 is its derivative, and with small integers and a power of two for the
batch every number on the way is one that float32 holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from caffe_impl.variants import variants as caffe_variants
from caffe_parity import CaffeNet, Case, Layer
from caffe_parity.caffe.client import Op
from caffe_parity.caffe.session import SESSION
from caffe_parity.contract import (
    GRADIENT,
    SHARED_GRADIENT,
    UNIT_ROUNDOFF,
    Arrays,
    Floating,
    Observation,
    Pass,
    Plan,
    Shape,
)
from caffe_parity.engine.judge import observed, plan_of, variant_of
from caffe_parity.engine.plan import FIRST, HUGE
from parity_tests.answers import STRUCTURE, computed_layer, expected_of
from parity_tests.bad_nets import net_of
from parity_tests.layers import LAYERS
from parity_tests.machine import not_run
from reference import rational
from reference.cases import case_of
from reference.fills import small_integers
from reference.layers import SUMMED
from reference.rounding import DX1, DX2

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


Tensors = Mapping[str, Floating]

CAFFE = [(layer, name) for layer, nets in caffe_variants().items() for name in nets]
IDS = [f"{layer}-{name}" for layer, name in CAFFE]


def integer_cases(layer: Layer) -> Iterator[Case]:
    """Tiny cases with small integers that a layer is defined for."""
    rng = np.random.RandomState(3)
    for shapes in SHAPES:
        for sharing, weight in SETTINGS:
            case = case_of("oracles", *shapes, loss_weight=weight, sharing=sharing)
            same = sharing == "same-blob"
            if not layer.allows(case) or (same and shapes[0] != shapes[1]):
                continue
            x1 = small_integers(shapes[0], rng)
            yield given(case, {"x1": x1, "x2": x1 if same else small_integers(shapes[1], rng)})


def given(case: Case, inputs: Arrays) -> Case:
    """The case with these arrays."""
    return replace(case, arrays=lambda case: inputs)


def by_differences(net: CaffeNet, case: Case) -> Tensors:
    """The gradients by central differences of the loss that Caffe's forward computes.

    The second consumer of a "split" case has a constant gradient, which is added.
    """
    inputs = {name: each for name, each in case.arrays(case).items() if name in case.fed}
    [loss] = net.outline(case, False).losses
    ops: list[Op] = net.net_ops(case)
    ops += [{"op": "set", "blob": name, "array": each} for name, each in inputs.items()]
    for name, x in inputs.items():
        for index in np.ndindex(x.shape):
            for by in (1.0, -1.0):
                moved = x.copy()
                moved[index] += np.float32(by)
                ops += [{"op": "set", "blob": name, "array": moved}, {"op": "forward"}]
                ops += [{"op": "data", "blob": loss}]
        ops += [{"op": "set", "blob": name, "array": x}]
    replies = SESSION.running(net.path).request(ops)
    values = np.array([float(each["array"].sum()) for each in replies if "array" in each])
    slopes = case.weight * (values[::2] - values[1::2]) / 2
    found, start = {}, 0
    for name, x in inputs.items():
        found[GRADIENT + name] = slopes[start : start + x.size].reshape(x.shape)
        start += x.size
    if case.sharing == "split":
        found[DX1] = found[DX1] + SHARED_GRADIENT
    return found


def by_backward(layer: Layer, name: str, case: Case) -> Tensors:
    """The gradients that Caffe's backward computes, and the loss."""
    seen, _ = observed(plan_of(layer, name, case))
    assert isinstance(seen, Observation), seen
    found = {k: each.astype(float) for k, each in seen.tensors[FIRST].items() if each is not None}
    return {**found, "loss": found["loss"].reshape(())}  # a Python layer's has the shape (1)


def by_fractions(layer: Layer, case: Case) -> Tensors:
    """The exact gradients and loss; in the exact lane float64 holds them."""
    inputs = case.arrays(case)
    exact = rational.evaluate(SUMMED[layer.name], case, inputs)
    found = {}
    for name, of in exact.items():
        shape = case.shapes.get(name.removeprefix(GRADIENT), ())
        found[name] = np.array([float(of[index]) for index in np.ndindex(shape)]).reshape(shape)
    return found


def unequal(a: Tensors, b: Tensors) -> list[str]:
    """The gradients in which two oracles differ by any bit."""
    names = [name for name in (DX1, DX2) if name in a or name in b]
    return [name for name in names if not np.array_equal(a[name], b[name])]


@pytest.mark.parametrize(("layer", "name"), CAFFE, ids=IDS)
def test_three_oracles_agree_on_every_caffe_variant(layer: str, name: str) -> None:
    """Differences of Caffe's forward, its backward, autograd and fractions give the same bits."""
    net = LAYERS[layer].variants[name]
    assert isinstance(net, CaffeNet)
    ran = 0
    for case in integer_cases(LAYERS[layer]):
        expectation = net.expects(case)
        if expectation is not None and expectation.kind == "refused":
            continue
        computed = computed_layer(LAYERS[layer], name, case)
        exact = by_fractions(computed, case)
        backward = by_backward(LAYERS[layer], name, case)
        assert unequal(expected_of(computed, case).truth, exact) == []
        assert unequal(by_differences(net, case), exact) == []
        assert unequal(backward, exact) == []
        assert backward["loss"] == exact["loss"]
        ran += 1
    assert ran >= 10


LARGE = 2**24
"""From here on float32 cannot count, nor hold every index."""


@pytest.mark.parametrize(
    ("layer", "name"), [(layer, name) for layer in LAYERS for name in LAYERS[layer].variants]
)
def test_more_than_2_to_the_24_elements(layer: str, name: str) -> None:
    """One pass over more than 2**24 elements is right to the bit, in the last of them as well.

    Most elements are 0, so that no sum is large; integers say what must come out.
    """
    variant = variant_of(LAYERS[layer], name)
    obstacle = variant.cannot_run()
    if obstacle:
        not_run(obstacle)
    shape1 = (2, 4, 2051, 1024)
    shape2 = shape1 if layer == "euclidean" else (2, 1, 2051, 1024)
    assert np.prod(shape1) > LARGE
    x1, x2 = np.zeros(shape1, np.float32), np.zeros(shape2, np.float32)
    x1[:, :, ::509, ::61] = np.array((-1, 0, 1, 2)).reshape(4, 1, 1)
    x2[:, :, ::251, ::127] = 1
    x1[1, 3, -1, -3:], x2[1, -1, -1, -2:] = (2, -5, 7), (3, -4)
    case = given(case_of("large", shape1, shape2, loss_weight=-2), {"x1": x1, "x2": x2})
    claim = variant.expects(case)
    summed = SUMMED[claim.layer if claim else layer]
    axes = {"none": (), "channel": (1,), "tail": (1, 2, 3)}[summed]
    sum1, sum2 = (x.sum(axes, dtype=np.float64, keepdims=True) if axes else x for x in (x1, x2))
    d = sum1 - sum2
    assert float(np.sum(d * d)) < LARGE  # nothing is rounded
    only = Pass(FIRST, {"x1": x1, "x2": x2}, None, HUGE, expected=0)
    found = variant.observe(Plan(case, STRUCTURE, ((only,),))).tensors[FIRST]
    loss, dx1, dx2 = (found[each] for each in ("loss", DX1, DX2))
    assert loss is not None and loss.sum() == np.sum(d * d) / 4
    assert dx1 is not None and np.all(dx1 == -d)
    assert dx2 is not None and np.all(dx2 == d)


LONGEST = 66
"""Up to here every extent is tried: a warp, a vector or an unrolled loop has an end before it."""


def extents() -> Iterator[Shape]:
    """Shapes in which each of N, C and S, H and W takes every value up to LONGEST."""
    for one in range(1, LONGEST + 1):
        another = LONGEST + 1 - one
        yield (one, another)
        yield (another, one, 7 * one % (LONGEST + 1))
        yield (2, 3, one, another)


@pytest.mark.parametrize(
    ("layer", "name"), [(layer, name) for layer in LAYERS for name in LAYERS[layer].variants]
)
def test_every_extent(layer: str, name: str) -> None:
    """What is wrong for some number of samples, channels or places alone is wrong here.

    x2 has the values of x1 in another order of the channels, but for a few, so that no sum is
    large, and the loss weight is a multiple of N. So a reciprocal and two products may round.
    """
    variant = variant_of(LAYERS[layer], name)
    obstacle = variant.cannot_run()
    if obstacle:
        not_run(obstacle)
    rng = np.random.RandomState(0)
    for shape in extents():
        if name == "torch-compiled" and (len(shape) != 3 or 1 in shape or shape[0] % 13):
            continue  # each new pattern of extents takes seconds
        n = shape[0]
        x1 = rng.randint(-8, 9, shape).astype(np.float32)
        x2 = np.roll(x1, 1, axis=1) if layer != "euclidean" else x1.copy()
        for sample in range(n):
            for value in (1, -2):
                x2[(sample, *(rng.randint(each) for each in shape[1:]))] += np.float32(value)
        case = given(case_of("extents", shape, loss_weight=-2 * n), {"x1": x1, "x2": x2})
        claim = variant.expects(case)
        summed = SUMMED[claim.layer if claim and claim.layer else layer]
        axes = {"none": (), "channel": (1,), "tail": tuple(range(1, len(shape)))}[summed]
        d = (x1 - x2).sum(axes, dtype=np.float64, keepdims=True) if axes else x1 - x2
        total = np.sum(np.square(d, dtype=np.float64))
        assert total < LARGE  # nothing is rounded
        only = Pass(FIRST, {"x1": x1, "x2": x2}, None, HUGE, expected=0)
        found = variant.observe(Plan(case, STRUCTURE, ((only,),))).tensors[FIRST]
        for tensor, truth in (("loss", total / (2 * n)), (DX1, -2 * d), (DX2, 2 * d)):
            computed = found[tensor]
            assert computed is not None
            assert np.all(np.abs(computed - truth) <= 3 * UNIT_ROUNDOFF * np.abs(truth)), shape


@pytest.mark.parametrize("layer", LAYERS.values(), ids=lambda layer: layer.name)
@pytest.mark.parametrize(
    "fill", ["bell", "positive", "cancelling", "mixed-scales", "huge", "tiny", "subnormal"]
)
def test_autograd_is_exact_up_to_float64(layer: Layer, fill: str) -> None:
    """On any values the float64 truth lies within float64 rounding of the rational one."""
    for shape in ((3, 5, 2), (2, 3, 1, 2), (5, 2)):
        for weight, sharing in ((3.7, "none"), (-0.3, "split"), (1e-38, "none")):
            case = case_of("oracles", shape, fill=fill, loss_weight=weight, sharing=sharing, seed=0)
            truth = expected_of(layer, case).truth
            assert len(truth) == 3
            assert rational.disagreement(layer, case, case.arrays(case), truth) == ""


@pytest.mark.parametrize(("layer", "name"), CAFFE, ids=IDS)
def test_caffe_is_within_the_bound_of_the_exact_answer(layer: str, name: str) -> None:
    """Where something rounds, Caffe lies within the bound around the rational answer as well."""
    for fill in ("bell", "cancelling", "mixed-scales", "subnormal"):
        case = case_of("oracles", (3, 5), fill=fill, loss_weight=3.7, seed=0)
        exact = rational.evaluate(SUMMED[layer], case, case.arrays(case))
        bound = expected_of(LAYERS[layer], case).bound.worst
        found = by_backward(LAYERS[layer], name, case)
        assert set(found) == set(exact)
        for tensor, of in exact.items():
            for index, value in of.items():
                error = abs(Fraction(float(found[tensor][index])) - value)
                assert error <= Fraction(float(bound[tensor][index]))


@pytest.mark.parametrize(
    ("bad", "wrong"),
    [("IgnoresTopDiff", [DX1, DX2]), ("WrongSign", [DX2]), ("BatchRolled", [DX1, DX2])],
)
def test_central_differences_find_a_wrong_backward(bad: str, wrong: list[str]) -> None:
    """A wrong backward contradicts its own forward: no other oracle is needed to see it."""
    net = net_of(bad)
    layer = replace(LAYERS["channel_sum"], variants={bad: net})
    case = next(case for case in integer_cases(layer) if case.loss_weight not in (0, 1))
    case = replace(case, sharing="none")
    assert unequal(by_backward(layer, bad, case), by_differences(net, case)) == wrong


def test_a_wrong_reference_is_found() -> None:
    """An autograd formula that is off in the last bits of float64 disagrees with the fractions."""
    layer = LAYERS["channel_sum"]
    case = case_of("oracles", (3, 4, 2), loss_weight=3.7, seed=0)
    inputs, truth = case.arrays(case), expected_of(layer, case).truth
    assert rational.disagreement(layer, case, inputs, truth) == ""
    for name, spoken in ((DX1, "dx1"), ("loss", "loss")):
        off = {**truth, name: np.asarray(truth[name] * (1 + 1e-13))}
        assert spoken in rational.disagreement(layer, case, inputs, off)
