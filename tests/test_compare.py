"""The comparison lets nothing through: NaN, infinities, shapes, single elements, tiny gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from caffe_parity import Bound, Case, Layer
from caffe_parity.contract import (
    GRADIENT,
    UNIT_ROUNDOFF,
    Agreement,
    Array32,
    Array64,
    Expected,
)
from caffe_parity.engine.compare import as_float32, compare, same_bits, wrong
from caffe_parity.engine.expected import question
from reference import fills
from reference.cases import by_name
from reference.layers import LAYERS
from tests.answers import LOSS, right

DX1, DX2 = GRADIENT + "x1", GRADIENT + "x2"


def of_dx1(
    truth: npt.ArrayLike, worst: npt.ArrayLike, typical: npt.ArrayLike | None = None
) -> Expected:
    """The truth and the bound of dx1."""
    chosen = worst if typical is None else typical
    bound = Bound({DX1: np.asarray(worst, float)}, {DX1: np.asarray(chosen, float)})
    return Expected({DX1: np.asarray(truth, float)}, bound)


def compared(
    actual: npt.ArrayLike,
    truth: npt.ArrayLike,
    worst: npt.ArrayLike,
    typical: npt.ArrayLike | None = None,
) -> Agreement:
    """How far a dx1 is from its truth."""
    return compare(DX1, np.asarray(actual, np.float32), of_dx1(truth, worst, typical))


@pytest.mark.parametrize(
    ("actual", "truth", "worst", "agrees"),
    [
        ([1.0], [1.0], [0.0], True),
        ([1.0], [1.0 + 2**-30], [0.0], False),  # the exact lane knows no rounding
        ([1.0], [1.5], [0.5], True),  # at the bound
        ([1.0], [1.5000001], [0.5], False),  # beyond it
        ([math.nan], [1.0], [math.inf], False),
        ([1.0], [math.nan], [1.0], False),
        ([math.nan], [math.nan], [math.nan], True),
        ([math.inf], [math.inf], [math.nan], True),
        ([-math.inf], [math.inf], [math.inf], False),
        ([math.inf], [1.0], [1.0], False),
        ([1.0], [math.inf], [math.inf], False),
        ([math.inf], [1e39], [1.0], True),  # float32 cannot hold it
        ([math.inf], [1e38], [math.inf], True),  # some order of summation overflows
        ([math.nan], [1e38], [math.inf], False),
        ([0.0, 0.0], [1e-30, 0.0], [1e-36, 1e-36], False),  # a tiny gradient is not zero
    ],
)
def test_agreement(
    actual: list[float], truth: list[float], worst: list[float], agrees: bool
) -> None:
    """`error <= bound`, with what is not finite on the same footing; every judgement is that."""
    values, expected = np.array(actual, np.float32), of_dx1(truth, worst)
    assert compare(DX1, values, expected).agrees is agrees
    assert (not wrong(DX1, values, expected).any()) is agrees


@pytest.mark.parametrize("exponent", [*range(-149, -120), -60, 0, 60, 120])
def test_error_within_the_bound_agrees_at_any_size(exponent: int) -> None:
    """And no other: a bound of 0, or a subnormal one, is no wider than it is."""
    error = 2.0**exponent
    for bound in (0.0, error / 2, np.nextafter(error, 0), error, np.nextafter(error, 1), 2 * error):
        for truth in (0.0, -3 * error):
            values, expected = np.array([truth + error], np.float32), of_dx1([truth], [bound])
            assert float(values[0]) - truth == error
            assert compare(DX1, values, expected).agrees == (error <= bound), bound
            assert bool(wrong(DX1, values, expected).any()) == (error > bound), bound


@pytest.mark.parametrize("sign", [1, -1])
def test_truth_overflows_where_float32_does(sign: int) -> None:
    """Infinite from the midpoint on that IEEE 754 rounds up, and not one bit sooner."""
    midpoint = 2.0**128 - 2.0**103
    just_below = np.nextafter(midpoint, 0)
    with np.errstate(over="ignore"):
        assert np.isinf(np.float32(midpoint)) and np.isfinite(np.float32(just_below))
    for value in (midpoint, just_below, 1.0):
        infinite = value == midpoint
        for others in ([], [-1.0], [1.0]):  # of either sign beside it
            [first, *rest] = as_float32(np.array([sign * value, *others]))
            assert first == (sign * np.inf if infinite else sign * value)
            assert rest == others


def test_tensor_without_elements_agrees() -> None:
    """Where there is nothing to be wrong, nothing is: no error, no suspicion, and it is proved."""
    empty = np.zeros((0, 3))
    found = compared(empty.astype(np.float32), empty, empty)
    assert found.agrees and found.proves and not found.suspicious
    assert (found.fraction, found.error, found.bound, found.times_typical) == (0, 0, 0, 0)
    assert (found.wrong, found.size, found.compared) == (0, 0, 0)


@pytest.mark.parametrize("value", [1.0, math.nan, math.inf])
def test_right_tensor_has_no_error(value: float) -> None:
    """Equal values, NaN and infinities among them, are reported with an error of 0."""
    expected = np.array([2.0, value])
    found = compared(expected.astype(np.float32), expected, np.ones(2))
    assert found.agrees
    assert (found.fraction, found.error, found.times_typical) == (0, 0, 0)
    assert (found.wrong, found.size, found.worst_index) == (0, 2, (0,))
    assert (found.actual, found.expected, found.bound) == (2.0, 2.0, 1.0)


def test_nan_alone_has_no_error() -> None:
    """One NaN where the truth has one: neither wrong nor less than right."""
    nan = np.full(1, math.nan)
    found = compared(nan.astype(np.float32), nan, nan)
    assert (found.fraction, found.error, found.wrong) == (0, 0, 0)


def test_allowed_overflow_is_no_error() -> None:
    """Where some order overflows, an infinity counts as right, not as barely right."""
    found = compared(np.array([np.inf, 1], np.float32), np.array([1e38, 1.5]), [np.inf, 1.0])
    assert (found.fraction, found.worst_index, found.error) == (0.5, (1,), 0.5)


def test_other_shape_does_not_agree() -> None:
    """A tensor of another shape never agrees, also where it would broadcast."""
    found = compared(np.ones((1, 3), np.float32), np.ones((2, 3)), np.ones((2, 3)))
    assert not found.agrees
    assert found.note == "has shape (1, 3), expected (2, 3)"
    assert found.proves and found.fraction == found.times_typical == math.inf
    assert (found.wrong, found.size, found.worst_index) == (6, 6, ())


def test_one_element_in_ten_million() -> None:
    """One wrong element is found wherever it stands, with its index and both values."""
    expected = np.ones((10, 1000, 1000))
    actual = expected.astype(np.float32)
    actual[7, 123, 999] = 1.0005
    found = compared(actual, expected, np.full(expected.shape, 1e-6))
    assert (found.wrong, found.worst_index) == (1, (7, 123, 999))
    assert (found.actual, found.expected) == (float(np.float32(1.0005)), 1.0)


def test_suspicious_is_within_the_bound_and_not_typical() -> None:
    """The second grade: no failure, but named with its factor."""
    found = compared(np.ones(1, np.float32), np.array([1.3]), np.ones(1), np.full(1, 0.1))
    assert found.agrees
    assert found.suspicious
    assert 2.9 < found.times_typical < 3.1
    assert replace(found, times_typical=1.5).suspicious
    assert not replace(found, times_typical=1.0).suspicious


def test_bound_that_proves_nothing_is_marked() -> None:
    """Where the bound is larger than every value, zeros would agree, and `proves` says so."""
    weak = compared(np.zeros(2, np.float32), np.full(2, 0.5), np.ones(2))
    assert weak.agrees
    assert not weak.proves
    at_limit = compared(np.zeros(2, np.float32), np.full(2, 0.5), np.full(2, 0.5))
    assert at_limit.agrees and not at_limit.proves
    strong = compared(np.full(2, 0.5, np.float32), np.full(2, 0.5), np.full(2, 1e-6))
    assert strong.proves
    nearly = compared(np.zeros(2, np.float32), np.full(2, 0.5), np.full(2, 0.9))
    assert not nearly.proves
    nowhere = np.full(2, math.nan)
    nothing = compared(nowhere, nowhere, np.ones(2))
    assert nothing.agrees and not nothing.proves and not nothing.compared
    hidden = compared(np.array([1e9, 0], np.float32), np.array([1e9, 0.5]), np.ones(2))
    assert hidden.agrees and hidden.proves and (hidden.compared, hidden.size) == (1, 2)
    all_zero = compared(np.zeros(2, np.float32), np.zeros(2), np.ones(2))
    assert all_zero.proves  # there is nothing but zeros to tell them from
    small = compared(np.zeros(2, np.float32), np.full(2, 1.0), np.full(2, 0.9))
    assert small.proves and not small.agrees


def test_same_bits_are_of_the_same_shape_and_type() -> None:
    """Zeros of either sign differ, one NaN does not from itself; nor does a view from its array."""
    one = np.array([0.0, math.nan], np.float32)
    assert same_bits(one, one.copy()) and same_bits(one, np.repeat(one, 2)[::2])
    for another in (-one, one.reshape(1, 2), one[:1], one.astype(np.float64)):
        assert not same_bits(one, another)


def test_gradient_of_another_shape_does_not_agree() -> None:
    """Nor where it has as many elements; a top may hold its one number as (1) or as ()."""
    found = compared(np.ones(6), np.ones((2, 3)), np.ones((2, 3)))
    assert (found.agrees, found.note) == (False, "has shape (6,), expected (2, 3)")
    number, none = np.ones(()), {"loss": np.zeros(())}
    loss = compare("loss", np.ones(1, np.float32), Expected({"loss": number}, Bound(none, none)))
    assert loss.agrees


def test_kink_leaves_out_its_own_gradient_alone() -> None:
    """There, several finite values are right and none is compared; all else still is."""
    kink = {DX1: np.array([False, True])}
    worst = {DX1: np.array([1e-6, np.inf])}
    bound = Bound(worst, worst, kink)
    expected = Expected({DX1: np.ones(2)}, bound)
    for values, wrong_ones in (((1, -7), 0), ((2, 1), 1), ((1, np.nan), 1), ((1, np.inf), 1)):
        found = compare(DX1, np.array(values, np.float32), expected)
        assert (found.wrong, found.compared, found.size) == (wrong_ones, 1, 2)
        assert found.proves
    zeros = compare(DX1, np.zeros(2, np.float32), Expected({DX1: np.zeros(2)}, bound))
    assert zeros.compared == 1


OURS = LAYERS["channel_sum"]
THEIRS = Layer("theirs", OURS.reference, {"x1": (4, 3, 5, 6), "x2": (4, 3, 5, 6)}, cases=2)
PASSES = {
    "of the suite": (OURS, by_name("base"), ("first", "second", "reshaped")),
    "of a user": (
        THEIRS,
        THEIRS.case(0),
        ("first", "upstream 2", "upstream 3", "second", "remade", "reshaped"),
    ),
}


@pytest.mark.parametrize("whose", PASSES)
def test_every_pass_counts(whose: str) -> None:
    """A mistake in one pass only, of a loss or of a gradient, is a finding of that tensor alone."""
    layer, case, names = PASSES[whose]
    answered = right(layer, case)
    assert answered.compared == names
    assert not answered.judged().findings
    for name in names:
        for tensor in ("loss", DX1, DX2):
            value = answered.passes[name][tensor]
            spoilt = np.roll(value, 1, 0) if value.ndim else value * np.float32(1.001)
            found = answered.judged(**{name: {tensor: spoilt}})
            assert {each.tensor for each in found.findings} == {tensor}, name
            agreement = found.tensors.pop(tensor)
            assert agreement.wrong == spoilt.size, name  # the numbers of the pass that is wrong
            assert all(each.agrees for each in found.tensors.values())


def test_pass_with_another_shape_fails() -> None:
    """A later pass is compared unless its bits, shape and type are those of an earlier one."""
    answered = right(OURS, by_name("base"))
    value = answered.passes["second"][DX1]
    for other in (value[:1], value.reshape(-1)):
        found = answered.judged(second={DX1: other})
        assert {each.tensor for each in found.findings} == {DX1}


def test_only_gradient_asked_for_is_compared() -> None:
    """A gradient that the case does not ask for is passed over, and the one behind it is not."""
    answered = right(OURS, by_name("only-dx2"))
    assert DX1 not in answered.passes["first"]
    wrong_sign = {DX1: None, DX2: -answered.passes["first"][DX2]}
    found = answered.judged(first=wrong_sign, second=wrong_sign, reshaped=wrong_sign)
    assert [(each.tensor, each.cause) for each in found.findings] == [(DX2, "sign")]
    assert set(found.tensors) == {"loss", DX2}


def test_missing_gradient_fails_except_at_weight_0() -> None:
    """A gradient that was asked for and not computed fails; Caffe computes none at weight 0."""
    without: dict[str, Array32 | None] = {DX1: None}
    for name, count in (("base", 1), ("weight-0", 0)):
        answered = right(OURS, by_name(name))
        found = answered.judged(first=without, second=without, reshaped=without)
        assert [each.cause for each in found.findings] == ["not-computed"] * count
        assert (DX1 in found.tensors) == bool(count)
    # What a later pass computes is compared all the same.
    one = np.ones((4, 3, 5, 6), np.float32)
    found = answered.judged(first=without, second={DX1: one}, reshaped=without)
    assert {each.tensor for each in found.findings} == {DX1}


def bound_of(layer: Layer, case: Case) -> Mapping[str, Array64]:
    """The derived worst case of each tensor."""
    assert layer.bound is not None
    return layer.bound(case, fills.inputs(case)).worst


@pytest.mark.parametrize("layer", LAYERS.values(), ids=lambda layer: layer.name)
def test_exact_lane_is_recognised(layer: Layer) -> None:
    """Exactly the cases that are named exact have a bound of 0 everywhere."""
    for name in ("exact", "exact-quarter", "exact-two-axes", "exact-512-channels"):
        assert all(not np.any(each) for each in bound_of(layer, by_name(name)).values())
    for name in ("base", "weight-3.7", "subnormal"):
        assert all(np.all(each > 0) for each in bound_of(layer, by_name(name)).values())


@pytest.mark.parametrize("order", ["forward", "backward", "sorted", "pairwise"])
@pytest.mark.parametrize("name", ["base", "512-channels", "positive-odd", "cancelling"])
def test_bound_holds_for_adversarial_orders(name: str, order: str) -> None:
    """A float32 loss and gradient summed one by one, in awkward orders, stay within the bound."""
    case = by_name(name)
    [expected] = question(LAYERS["tail_sum"], case, LOSS).expected
    n = case.shapes["x1"][0]
    x1, x2 = (each.reshape(n, -1) for each in fills.inputs(case).values())
    both = np.concatenate([x1, -x2], axis=1)
    d = np.array([one_by_one(row, order) for row in both], np.float32)
    loss = one_by_one(d * d, order) / np.float32(2 * n)
    dx1 = np.float32(case.weight) / np.float32(n) * d
    assert abs(float(loss) - expected.truth["loss"]) <= expected.bound.worst["loss"]
    truth, worst = (
        each[DX1].reshape(n, -1)[:, 0] for each in (expected.truth, expected.bound.worst)
    )
    assert np.all(np.abs(dx1.astype(float) - truth) <= worst)


def one_by_one(values: np.ndarray, order: str) -> np.float32:
    """A float32 sum in a stated order."""
    if order == "pairwise":
        return np.float32(np.sum(values, dtype=np.float32))
    chosen = {
        "forward": values,
        "backward": values[::-1],
        "sorted": values[np.argsort(-np.abs(values))],  # the large ones first: the worst for it
    }[order]
    total = np.float32(0)
    for value in chosen:
        total = np.float32(total + value)
    return total


def test_unit_roundoff_is_float32s() -> None:
    """u is half the distance from 1 to the next float32."""
    assert np.finfo(np.float32).eps / 2 == UNIT_ROUNDOFF


@pytest.mark.parametrize(
    ("worst", "telling"), [([0, 0, 0, 0], 4), ([0, 1, 1, 0], 3), ([0, 1, 3, 1], 2)], ids=str
)
def test_what_is_equal_tells_where_its_bound_does(worst: list[float], telling: int) -> None:
    """Of equal tensors, what lies within a bound that is not 0 has told nothing."""
    truth = [1.0, 0.5, 2.0, 0.0]
    found = compared(truth, truth, worst)
    assert (found.wrong, found.size, found.compared, found.proves) == (0, 4, telling, True)
    assert (found.fraction, found.times_typical, found.bound) == (0, 0, 0)
