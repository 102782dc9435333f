"""Relations between a variant's own answers: no reference is asked, and each is exact to the bit.

The inputs are small integers and the batch is a power of two, so that no order of summation has
anything to round; where other inputs are used, the relation itself is exact (a power of two scales
every intermediate alike) or is held to the rounding bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest

from caffe_parity.contract import (
    PASSES,
    Case,
    Expectation,
    Inputs,
    Layer,
    Pass,
    Result,
    Run,
    Shape,
    Variant,
)
from parity_tests.machine import not_run
from parity_tests.registry import registered
from reference.fills import bell, small_integers
from reference.layers import LAYERS
from reference.rounding import summed
from studies.fuzz.execute import computed_layer

Compute = Callable[[Case, Inputs], Result]
Floats = npt.NDArray[np.floating]

SHAPES: tuple[tuple[Shape, Shape], ...] = (
    ((4, 3, 2, 5), (4, 3, 2, 5)),
    ((4, 3, 2, 5), (4, 6, 2, 5)),
    ((4, 3, 2, 5), (4, 2, 7)),
    ((2, 5, 1, 1), (2, 5, 1, 1)),
    ((8, 6), (8, 6)),
    ((2, 3, 2, 3, 2), (2, 3, 2, 3, 2)),
)
"""The batch is a power of two above 1, as the exact lane and the halving of the batch need."""

ONE_SHAPE = ("torch-compiled",)
"""Variants that need seconds for each new kind of shape; they get the first one that they allow."""


@dataclass(frozen=True)
class Setting:
    """A variant with one input.

    Attributes:
        layer: what the variant computes for these shapes.
        compute: runs it.
        exact: integers.
        rough: every mantissa bit in use.
    """

    layer: Layer
    compute: Compute
    case: Case
    exact: Inputs
    rough: Inputs


def setting(variant: Variant, shapes: tuple[Shape, Shape]) -> Setting:
    """The variant with integers, and with bell-shaped values, of these shapes."""
    case = Case("metamorphic", *shapes, loss_weight=2.0)
    rng = np.random.RandomState(5)
    exact = Inputs(*(small_integers(shape, rng) for shape in shapes))
    rough = Inputs(*(bell(shape, rng) for shape in shapes))

    def compute(case: Case, inputs: Inputs) -> Result:
        """Whatever the pass, the same bits."""
        # In C order: torch.compile takes seconds for every other one.
        inputs = Inputs(np.ascontiguousarray(inputs.x1), np.ascontiguousarray(inputs.x2))
        longer = Inputs(*(np.concatenate([x, x[:1]]) for x in (inputs.x1, inputs.x2)))
        other = Inputs(inputs.x1 + np.float32(1), inputs.x2)
        first, *others = [each.result for each in variant.run(case, inputs, other, longer).passes]
        for each in others:
            assert differences(each, first) == []
        return first

    return Setting(computed_layer(variant, variant.expects(case)), compute, case, exact, rough)


def differences(actual: Result, expected: Result) -> list[str]:
    """The names of the tensors that are not the same numbers."""
    names = []
    for name, wanted in expected.tensors().items():
        found = actual.tensors()[name]
        if found is None or wanted is None or not np.array_equal(found, wanted):
            names.append(name)
    return names


def both(result: Result) -> tuple[Floats, Floats]:
    """dx1 and dx2, which are there in every case of this file."""
    assert result.dx1 is not None
    assert result.dx2 is not None
    return result.dx1, result.dx2


def scaled(result: Result, loss: float, gradients: float) -> Result:
    """The result with its loss and its gradients multiplied."""
    dx1, dx2 = both(result)
    return Result(result.loss * np.float32(loss), dx1 * gradients, dx2 * gradients)


def channel_permutation(s: Setting) -> list[str]:
    """The channels of each input in an order of its own: their gradients move along.

    Where nothing is summed, both inputs get one order.
    """
    rng = np.random.RandomState(0)
    order1 = rng.permutation(s.case.x1_shape[1])
    order2 = order1 if s.layer.summed == "none" else rng.permutation(s.case.x2_shape[1])
    base = s.compute(s.case, s.exact)
    moved = s.compute(s.case, Inputs(s.exact.x1[:, order1], s.exact.x2[:, order2]))
    dx1, dx2 = both(base)
    return differences(moved, Result(base.loss, dx1[:, order1], dx2[:, order2]))


def batch_permutation(s: Setting) -> list[str]:
    """The samples in another order: the loss stays, the gradients move along."""
    order = np.roll(np.arange(s.case.x1_shape[0]), 1)
    base = s.compute(s.case, s.exact)
    moved = s.compute(s.case, Inputs(s.exact.x1[order], s.exact.x2[order]))
    dx1, dx2 = both(base)
    return differences(moved, Result(base.loss, dx1[order], dx2[order]))


def equal_shift(s: Setting) -> list[str]:
    """Both sums raised by the same amount: their difference does not notice."""
    terms = [
        x.size // summed(s.layer.summed, x.astype(float)).size for x in (s.exact.x1, s.exact.x2)
    ]
    shifted = Inputs(s.exact.x1 + np.float32(5 * terms[1]), s.exact.x2 + np.float32(5 * terms[0]))
    return differences(s.compute(s.case, shifted), s.compute(s.case, s.exact))


def input_scaling(s: Setting) -> list[str]:
    """Inputs times 2**k: gradients times 2**k, loss times 4**k, every bit of the mantissa kept."""
    base = s.compute(s.case, s.rough)
    wrong = []
    for factor in (2.0**-9, -(2.0**7)):
        inputs = Inputs(s.rough.x1 * np.float32(factor), s.rough.x2 * np.float32(factor))
        wrong += differences(s.compute(s.case, inputs), scaled(base, factor**2, factor))
    return wrong


def swapped_inputs(s: Setting) -> list[str]:
    """x1 and x2 change places: so do their gradients, since d only changes its sign."""
    base = s.compute(s.case, s.exact)
    case = replace(s.case, x1_shape=s.case.x2_shape, x2_shape=s.case.x1_shape)
    other = s.compute(case, Inputs(s.exact.x2, s.exact.x1))
    dx1, dx2 = both(base)
    return differences(other, Result(base.loss, dx2, dx1))


def batch_additivity(s: Setting) -> list[str]:
    """N*L of a batch is the sum of that over its halves, and N*dx is that of each half."""
    count = s.case.x1_shape[0]
    half = count // 2
    parts = []
    for part in (slice(0, half), slice(half, count)):
        inputs = Inputs(s.exact.x1[part], s.exact.x2[part])
        case = replace(s.case, x1_shape=inputs.x1.shape, x2_shape=inputs.x2.shape)
        parts.append(scaled(s.compute(case, inputs), half, half))
    (dx1, dx2), (other1, other2) = both(parts[0]), both(parts[1])
    added = Result(
        parts[0].loss + parts[1].loss,
        np.concatenate([dx1, other1]),
        np.concatenate([dx2, other2]),
    )
    return differences(scaled(s.compute(s.case, s.exact), count, count), added)


def weight_scaling(s: Setting) -> list[str]:
    """A loss weight times a power of two: the loss stays, the gradients are multiplied."""
    base = s.compute(s.case, s.rough)
    wrong = []
    for factor in (2.0**-5, -1.0, 2.0**10):
        case = replace(s.case, loss_weight=s.case.loss_weight * factor)
        wrong += differences(s.compute(case, s.rough), scaled(base, 1, factor))
    return wrong


def weight_linearity(s: Setting) -> list[str]:
    """Any loss weight is a factor of the gradients, within the rounding bounds of both."""
    case = replace(s.case, loss_weight=3.7)
    factor = case.weight / s.case.weight
    base, other = s.compute(s.case, s.rough), s.compute(case, s.rough)
    bounds = s.layer.bound(s.case, s.rough).worst, s.layer.bound(case, s.rough).worst
    wrong = [] if np.array_equal(base.loss, other.loss) else ["loss"]
    for name in ("dx1", "dx2"):
        one, three = base.tensors()[name], other.tensors()[name]
        assert one is not None
        assert three is not None
        error = np.abs(three.astype(float) - factor * one.astype(float))
        if not np.all(error <= bounds[1][name] + factor * bounds[0][name]):
            wrong.append(name)
    return wrong


def constant_gradients(s: Setting) -> list[str]:
    """A gradient is the same all along the summed axes, and dx2 is -dx1 there."""
    dx1, dx2 = both(s.compute(s.case, s.exact))
    if s.layer.summed == "none":
        return [] if np.array_equal(dx1, -dx2) else ["dx2"]
    wrong = []
    firsts = []
    for name, dx in (("dx1", dx1), ("dx2", dx2)):
        first = dx[:, :1] if s.layer.summed == "channel" else dx.reshape(len(dx), -1)[:, :1]
        firsts.append(first)
        like = first if s.layer.summed == "channel" else first.reshape(-1, *[1] * (dx.ndim - 1))
        if not np.array_equal(dx, np.broadcast_to(like, dx.shape)):
            wrong.append(name)
    return wrong + ([] if np.array_equal(firsts[0], -firsts[1]) else ["dx2"])


Relation = Callable[[Setting], list[str]]

RELATIONS: tuple[Relation, ...] = (
    channel_permutation,
    batch_permutation,
    equal_shift,
    input_scaling,
    swapped_inputs,
    batch_additivity,
    weight_scaling,
    weight_linearity,
    constant_gradients,
)


def settings(variant: Variant) -> Iterator[Setting]:
    """The shapes that a variant computes, as its own layer or as the one that it names."""
    for shapes in SHAPES:
        if LAYERS[variant.layer].refuses(*shapes):
            continue
        expectation = variant.expects(Case("metamorphic", *shapes))
        if expectation is not None and expectation.kind == "refused":
            continue
        yield setting(variant, shapes)
        if variant.name in ONE_SHAPE:
            return


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda relation: relation.__name__)
@pytest.mark.parametrize("variant", registered(), ids=lambda each: f"{each.layer}-{each.name}")
def test_relation_holds(variant: Variant, relation: Relation) -> None:
    """Every variant keeps every relation, whatever the shapes that its layer allows."""
    obstacle = variant.cannot_run()
    if obstacle:
        not_run(obstacle)
    for each in settings(variant):
        assert relation(each) == [], (each.case.x1_shape, each.case.x2_shape)


@dataclass(frozen=True)
class Imitation:
    """A channel sum in NumPy, right but for what `flaw` does to d (N, 1, S...) and the gradients.

    Attributes:
        flaw: maps the inputs to d; None for the right one.
        gradient: maps w, N and d to dx1; None for the right one.
        dx2_sign: -1 for the right one.
        last_channel: added to the last channel of dx1.
    """

    name: str
    flaw: Callable[[Floats, Floats], Floats] | None = None
    gradient: Callable[[float, int, Floats], Floats] | None = None
    dx2_sign: int = -1
    last_channel: float = 0.0
    layer: str = "channel_sum"

    def expects(self, case: Case) -> Expectation | None:
        return None

    def cannot_run(self) -> str | None:
        return None

    def run(self, case: Case, inputs: Inputs, other: Inputs, larger: Inputs) -> Run:
        result = self._result(case, inputs)
        return Run(tuple(Pass(name, poison, result) for name, poison in PASSES.items()))

    def _result(self, case: Case, inputs: Inputs) -> Result:
        x1, x2 = inputs.x1.astype(float), inputs.x2.astype(float)
        count = len(x1)
        plain = x1.sum(1, keepdims=True) - x2.sum(1, keepdims=True)
        d = plain if self.flaw is None else self.flaw(x1, x2)
        base = case.weight / count * d
        dx = base if self.gradient is None else self.gradient(case.weight, count, d)
        dx1 = np.broadcast_to(dx, x1.shape).copy()
        dx1[:, -1] += self.last_channel
        dx2 = np.broadcast_to(self.dx2_sign * dx, x2.shape)
        return Result(np.sum(d * d, keepdims=False) / (2 * count), dx1, dx2)


def _first_channel_twice(x1: Floats, x2: Floats) -> Floats:
    d: Floats = x1.sum(1, keepdims=True) + x1[:, :1] - x2.sum(1, keepdims=True)
    return d


def _first_sample_for_all(x1: Floats, x2: Floats) -> Floats:
    d: Floats = x1.sum(1, keepdims=True) - x2.sum(1, keepdims=True)
    d[-1] = d[0]
    return d


def _of_absolute_values(x1: Floats, x2: Floats) -> Floats:
    d: Floats = np.abs(x1).sum(1, keepdims=True) - np.abs(x2).sum(1, keepdims=True)
    return d


def _with_an_epsilon(x1: Floats, x2: Floats) -> Floats:
    d: Floats = x1.sum(1, keepdims=True) - x2.sum(1, keepdims=True) + 1e-6
    return d


WRONG: tuple[tuple[Imitation, Relation], ...] = (
    (Imitation("the first channel counts twice", _first_channel_twice), channel_permutation),
    (Imitation("the last sample is the first", _first_sample_for_all), batch_permutation),
    (Imitation("sums absolute values", _of_absolute_values), equal_shift),
    (Imitation("adds an epsilon", _with_an_epsilon), input_scaling),
    (Imitation("dx2 has the sign of dx1", dx2_sign=1), swapped_inputs),
    (
        Imitation("divides by N+1", gradient=lambda w, count, d: w / (count + 1) * d),
        batch_additivity,
    ),
    (
        Imitation("ignores the top diff", gradient=lambda w, count, d: d / count),
        weight_scaling,
    ),
    (
        Imitation("the top diff twice", gradient=lambda w, count, d: w * w / count * d),
        weight_linearity,
    ),
    (Imitation("the last channel is off", last_channel=0.5), constant_gradients),
)


@pytest.mark.parametrize(("wrong", "relation"), WRONG, ids=lambda each: "")
def test_relation_can_fail(wrong: Imitation, relation: Relation) -> None:
    """Each relation is broken by the mistake that it is there for, and by no right layer."""
    shapes = SHAPES[0]
    assert relation(setting(wrong, shapes)) != []
    assert relation(setting(Imitation("right"), shapes)) == []


def test_every_relation_is_shown_to_fail() -> None:
    """No relation is added without a mistake that breaks it."""
    assert {relation for _, relation in WRONG} == set(RELATIONS)
