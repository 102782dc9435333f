"""Relations between a variant's own answers: no reference is asked, and each is exact to the bit.

The inputs are small integers and the batch is a power of two, so that no order of summation has
anything to round; where other inputs are used, the relation itself is exact (a power of two scales
every intermediate alike) or is held to the rounding bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from caffe_parity import Case, Expectation, Layer
from caffe_parity.contract import Arrays, Floating, Observation, Outline, Plan, Shape
from caffe_parity.engine.judge import observed, plan_of, variant_of
from parity_tests.answers import computed_layer, expected_of
from parity_tests.layers import LAYERS
from parity_tests.machine import not_run
from reference.cases import case_of
from reference.fills import bell, small_integers
from reference.layers import SUMMED
from reference.rounding import DX1, DX2, summed

Result = Mapping[str, Floating]
"""The loss and both gradients, by tensor."""

Compute = Callable[[Case, Arrays], Result]

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
    exact: Arrays
    rough: Arrays


def setting(layer: Layer, name: str, shapes: tuple[Shape, Shape]) -> Setting:
    """The variant with integers, and with bell-shaped values, of these shapes."""
    case = case_of("metamorphic", *shapes, loss_weight=2.0)
    rng = np.random.RandomState(5)
    exact = {k: small_integers(shape, rng) for k, shape in case.shapes.items()}
    rough = {k: bell(shape, rng) for k, shape in case.shapes.items()}

    def compute(case: Case, inputs: Arrays) -> Result:
        """Whatever the pass, the same bits."""
        # In C order: torch.compile takes seconds for every other one.
        inputs = {k: np.ascontiguousarray(each) for k, each in inputs.items()}
        shapes = {k: each.shape for k, each in inputs.items()}
        ready = plan_of(layer, name, replace(case, shapes=shapes, arrays=lambda case: inputs))
        seen, _ = observed(ready)
        assert isinstance(seen, Observation), seen
        names = [each.name for each in ready.plan.passes if each.expected is not None]
        first, *others = [whole(seen.tensors[name]) for name in names]
        assert len(others) == 2
        for each in others:
            assert differences(each, first) == []
        return first

    return Setting(computed_layer(layer, name, case), compute, case, exact, rough)


def whole(tensors: Mapping[str, Floating | None]) -> Result:
    """The tensors, which are all there in every case of this file; the loss as a scalar."""
    loss, dx1, dx2 = (tensors[name] for name in ("loss", DX1, DX2))
    assert loss is not None
    assert dx1 is not None
    assert dx2 is not None
    return {"loss": loss.reshape(()), DX1: dx1, DX2: dx2}


def differences(actual: Result, expected: Result) -> list[str]:
    """The names of the tensors that are not the same numbers."""
    return [name for name in expected if not np.array_equal(actual[name], expected[name])]


def scaled(result: Result, loss: float, gradients: float) -> Result:
    """The result with its loss and its gradients multiplied."""
    both = {name: result[name] * gradients for name in (DX1, DX2)}
    return {"loss": result["loss"] * np.float32(loss), **both}


def channel_permutation(s: Setting) -> list[str]:
    """The channels of each input in an order of its own: their gradients move along.

    Where nothing is summed, both inputs get one order.
    """
    rng = np.random.RandomState(0)
    order1 = rng.permutation(s.case.shapes["x1"][1])
    alike = SUMMED[s.layer.name] == "none"
    order2 = order1 if alike else rng.permutation(s.case.shapes["x2"][1])
    base = s.compute(s.case, s.exact)
    inputs = {"x1": s.exact["x1"][:, order1], "x2": s.exact["x2"][:, order2]}
    expected = {**base, DX1: base[DX1][:, order1], DX2: base[DX2][:, order2]}
    return differences(s.compute(s.case, inputs), expected)


def batch_permutation(s: Setting) -> list[str]:
    """The samples in another order: the loss stays, the gradients move along."""
    order = np.roll(np.arange(s.case.shapes["x1"][0]), 1)
    base = s.compute(s.case, s.exact)
    moved = s.compute(s.case, {name: each[order] for name, each in s.exact.items()})
    return differences(moved, {**base, DX1: base[DX1][order], DX2: base[DX2][order]})


def equal_shift(s: Setting) -> list[str]:
    """Both sums raised by the same amount: their difference does not notice."""
    kind = SUMMED[s.layer.name]
    terms = {k: x.size // summed(kind, x.astype(float)).size for k, x in s.exact.items()}
    others = {"x1": terms["x2"], "x2": terms["x1"]}
    shifted = {name: each + np.float32(5 * others[name]) for name, each in s.exact.items()}
    return differences(s.compute(s.case, shifted), s.compute(s.case, s.exact))


def input_scaling(s: Setting) -> list[str]:
    """Inputs times 2**k: gradients times 2**k, loss times 4**k, every bit of the mantissa kept."""
    base = s.compute(s.case, s.rough)
    wrong = []
    for factor in (2.0**-9, -(2.0**7)):
        inputs = {name: each * np.float32(factor) for name, each in s.rough.items()}
        wrong += differences(s.compute(s.case, inputs), scaled(base, factor**2, factor))
    return wrong


def swapped_inputs(s: Setting) -> list[str]:
    """x1 and x2 change places: so do their gradients, since d only changes its sign."""
    base = s.compute(s.case, s.exact)
    other = s.compute(s.case, {"x1": s.exact["x2"], "x2": s.exact["x1"]})
    return differences(other, {**base, DX1: base[DX2], DX2: base[DX1]})


def batch_additivity(s: Setting) -> list[str]:
    """N*L of a batch is the sum of that over its halves, and N*dx is that of each half."""
    count = s.case.shapes["x1"][0]
    half = count // 2
    one, another = (
        scaled(s.compute(s.case, {k: each[part] for k, each in s.exact.items()}), half, half)
        for part in (slice(0, half), slice(half, count))
    )
    added = {name: np.concatenate([one[name], another[name]]) for name in (DX1, DX2)}
    added["loss"] = one["loss"] + another["loss"]
    return differences(scaled(s.compute(s.case, s.exact), count, count), added)


def weight_scaling(s: Setting) -> list[str]:
    """A loss weight times a power of two: the loss stays, the gradients are multiplied."""
    base = s.compute(s.case, s.rough)
    wrong = []
    for factor in (2.0**-5, -1.0, 2.0**10):
        case = replace(s.case, loss_weight=s.case.weight * factor)
        wrong += differences(s.compute(case, s.rough), scaled(base, 1, factor))
    return wrong


def weight_linearity(s: Setting) -> list[str]:
    """Any loss weight is a factor of the gradients, within the rounding bounds of both."""
    case = replace(s.case, loss_weight=3.7)
    factor = case.weight / s.case.weight
    base, other = s.compute(s.case, s.rough), s.compute(case, s.rough)
    one, three = (expected_of(s.layer, each, s.rough).bound.worst for each in (s.case, case))
    wrong = [] if np.array_equal(base["loss"], other["loss"]) else ["loss"]
    for name in (DX1, DX2):
        error = np.abs(other[name].astype(float) - factor * base[name].astype(float))
        if not np.all(error <= three[name] + factor * one[name]):
            wrong.append(name)
    return wrong


def constant_gradients(s: Setting) -> list[str]:
    """A gradient is the same all along the summed axes, and dx2 is -dx1 there."""
    base, kind = s.compute(s.case, s.exact), SUMMED[s.layer.name]
    if kind == "none":
        return [] if np.array_equal(base[DX1], -base[DX2]) else [DX2]
    wrong = []
    firsts = []
    for name in (DX1, DX2):
        dx = base[name]
        first = dx[:, :1] if kind == "channel" else dx.reshape(len(dx), -1)[:, :1]
        firsts.append(first)
        like = first if kind == "channel" else first.reshape(-1, *[1] * (dx.ndim - 1))
        if not np.array_equal(dx, np.broadcast_to(like, dx.shape)):
            wrong.append(name)
    return wrong + ([] if np.array_equal(firsts[0], -firsts[1]) else [DX2])


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


def settings(layer: Layer, name: str) -> Iterator[Setting]:
    """The shapes that a variant computes, as its own layer or as the one that it names."""
    for shapes in SHAPES:
        case = case_of("metamorphic", *shapes)
        if not layer.allows(case):
            continue
        expectation = variant_of(layer, name).expects(case)
        if expectation is not None and expectation.kind == "refused":
            continue
        yield setting(layer, name, shapes)
        if name in ONE_SHAPE:
            return


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda relation: relation.__name__)
@pytest.mark.parametrize(
    ("layer", "name"), [(layer, name) for layer in LAYERS for name in LAYERS[layer].variants]
)
def test_relation_holds(layer: str, name: str, relation: Relation) -> None:
    """Every variant keeps every relation, whatever the shapes that its layer allows."""
    obstacle = variant_of(LAYERS[layer], name).cannot_run()
    if obstacle:
        not_run(obstacle)
    for each in settings(LAYERS[layer], name):
        assert relation(each) == [], each.case.shapes


def test_every_variant_has_its_shapes() -> None:
    """No relation passes because there was nothing to try: so many shapes each layer allows.

    EuclideanLoss refuses that of five axes; one pattern is enough for the compiled port.
    """
    for layer, count in (("euclidean", 4), ("channel_sum", 5), ("tail_sum", 6)):
        for name in LAYERS[layer].variants:
            fewer = name in ("caffe-native", "caffe-convolution", "caffe-slice-eltwise")
            expected = 1 if name in ONE_SHAPE else count - fewer
            assert len(list(settings(LAYERS[layer], name))) == expected, (layer, name)


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
    flaw: Callable[[Floating, Floating], Floating] | None = None
    gradient: Callable[[float, int, Floating], Floating] | None = None
    dx2_sign: int = -1
    last_channel: float = 0.0

    def expects(self, case: Case) -> Expectation | None:
        return None

    def cannot_run(self) -> str | None:
        return None

    def outline(self, case: Case, with_params: bool) -> Outline:
        return Outline(("loss",), ("loss",))

    def observe(self, plan: Plan) -> Observation:
        return Observation(
            {each.name: self._result(plan.case.weight, each.inputs) for each in plan.passes}
        )

    def _result(self, weight: float, inputs: Arrays) -> Result:
        x1, x2 = inputs["x1"].astype(float), inputs["x2"].astype(float)
        count = len(x1)
        plain = x1.sum(1, keepdims=True) - x2.sum(1, keepdims=True)
        d = plain if self.flaw is None else self.flaw(x1, x2)
        base = weight / count * d
        dx = base if self.gradient is None else self.gradient(weight, count, d)
        dx1 = np.broadcast_to(dx, x1.shape).copy()
        dx1[:, -1] += self.last_channel
        dx2 = np.broadcast_to(self.dx2_sign * dx, x2.shape)
        return {"loss": np.sum(d * d, keepdims=False) / (2 * count), DX1: dx1, DX2: dx2}


def _first_channel_twice(x1: Floating, x2: Floating) -> Floating:
    d: Floating = x1.sum(1, keepdims=True) + x1[:, :1] - x2.sum(1, keepdims=True)
    return d


def _first_sample_for_all(x1: Floating, x2: Floating) -> Floating:
    d: Floating = x1.sum(1, keepdims=True) - x2.sum(1, keepdims=True)
    d[-1] = d[0]
    return d


def _of_absolute_values(x1: Floating, x2: Floating) -> Floating:
    d: Floating = np.abs(x1).sum(1, keepdims=True) - np.abs(x2).sum(1, keepdims=True)
    return d


def _with_an_epsilon(x1: Floating, x2: Floating) -> Floating:
    d: Floating = x1.sum(1, keepdims=True) - x2.sum(1, keepdims=True) + 1e-6
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
    imitations: dict[str, Any] = {"right": Imitation("right"), "wrong": wrong}
    layer = replace(LAYERS["channel_sum"], variants=imitations)
    assert relation(setting(layer, "wrong", SHAPES[0])) != []
    assert relation(setting(layer, "right", SHAPES[0])) == []


def test_every_relation_is_shown_to_fail() -> None:
    """No relation is added without a mistake that breaks it."""
    assert {relation for _, relation in WRONG} == set(RELATIONS)
