"""The comparison lets nothing through: NaN, infinities, shapes, single elements, tiny gradients."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from caffe_parity.contract import PASSES, Bound, Pass, Result, Run
from caffe_parity.engine.compare import as_float32, compare, compare_run
from reference import fills
from reference.cases import by_name
from reference.layers import LAYERS
from reference.rounding import UNIT_ROUNDOFF


def bound(worst: npt.ArrayLike, typical: npt.ArrayLike | None = None) -> Bound:
    """A bound for dx1."""
    chosen = worst if typical is None else typical
    return Bound({"dx1": np.asarray(worst, float)}, {"dx1": np.asarray(chosen, float)})


def agrees(actual: list[float], expected: list[float], worst: list[float]) -> bool:
    """Whether one tensor agrees."""
    return compare(
        "dx1", np.array(actual, np.float32), np.array(expected), bound(np.array(worst))
    ).agrees


@pytest.mark.parametrize(
    ("actual", "expected", "worst", "right"),
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
    actual: list[float], expected: list[float], worst: list[float], right: bool
) -> None:
    """`error <= bound`, with what is not finite on the same footing."""
    assert agrees(actual, expected, worst) is right


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
    found = compare("dx1", empty.astype(np.float32), empty, bound(empty))
    assert found.agrees and found.proves and not found.suspicious
    assert (found.fraction, found.error, found.bound, found.times_typical) == (0, 0, 0, 0)
    assert (found.wrong, found.size) == (0, 0)


@pytest.mark.parametrize("value", [1.0, math.nan, math.inf])
def test_right_tensor_has_no_error(value: float) -> None:
    """Equal values, NaN and infinities among them, are reported with an error of 0."""
    expected = np.array([2.0, value])
    found = compare("dx1", expected.astype(np.float32), expected, bound(np.ones(2)))
    assert found.agrees
    assert (found.fraction, found.error, found.times_typical) == (0, 0, 0)
    assert (found.wrong, found.size, found.worst_index) == (0, 2, (0,))
    assert (found.actual, found.expected, found.bound) == (2.0, 2.0, 1.0)


def test_nan_alone_has_no_error() -> None:
    """One NaN where the truth has one: neither wrong nor less than right."""
    nan = np.full(1, math.nan)
    found = compare("dx1", nan.astype(np.float32), nan, bound(nan))
    assert (found.fraction, found.error, found.wrong) == (0, 0, 0)


def test_allowed_overflow_is_no_error() -> None:
    """Where some order overflows, an infinity counts as right, not as barely right."""
    found = compare(
        "dx1", np.array([np.inf, 1], np.float32), np.array([1e38, 1.5]), bound([np.inf, 1.0])
    )
    assert (found.fraction, found.worst_index, found.error) == (0.5, (1,), 0.5)


def test_other_shape_does_not_agree() -> None:
    """A tensor of another shape never agrees, also where it would broadcast."""
    found = compare("dx1", np.ones((1, 3), np.float32), np.ones((2, 3)), bound(np.ones((2, 3))))
    assert not found.agrees
    assert found.note == "has shape (1, 3), expected (2, 3)"
    assert found.proves and found.fraction == found.times_typical == math.inf
    assert (found.wrong, found.size, found.worst_index) == (6, 6, ())


def test_one_element_in_ten_million() -> None:
    """One wrong element is found wherever it stands, with its index and both values."""
    expected = np.ones((10, 1000, 1000))
    actual = expected.astype(np.float32)
    actual[7, 123, 999] = 1.0005
    found = compare("dx1", actual, expected, bound(np.full(expected.shape, 1e-6)))
    assert (found.wrong, found.worst_index) == (1, (7, 123, 999))
    assert (found.actual, found.expected) == (float(np.float32(1.0005)), 1.0)


def test_suspicious_is_within_the_bound_and_not_typical() -> None:
    """The second grade: no failure, but named with its factor."""
    found = compare(
        "dx1", np.ones(1, np.float32), np.array([1.3]), bound(np.ones(1), np.full(1, 0.1))
    )
    assert found.agrees
    assert found.suspicious
    assert 2.9 < found.times_typical < 3.1
    assert replace(found, times_typical=1.5).suspicious
    assert not replace(found, times_typical=1.0).suspicious


def test_bound_that_proves_nothing_is_marked() -> None:
    """Where the bound is larger than every value, zeros would agree, and `proves` says so."""
    weak = compare("dx1", np.zeros(2, np.float32), np.full(2, 0.5), bound(np.ones(2)))
    assert weak.agrees
    assert not weak.proves
    at_limit = compare("dx1", np.zeros(2, np.float32), np.full(2, 0.5), bound(np.full(2, 0.5)))
    assert at_limit.agrees and not at_limit.proves
    strong = compare("dx1", np.full(2, 0.5, np.float32), np.full(2, 0.5), bound(np.full(2, 1e-6)))
    assert strong.proves
    nearly = compare("dx1", np.zeros(2, np.float32), np.full(2, 0.5), bound(np.full(2, 0.9)))
    assert not nearly.proves
    nowhere_finite = np.full(2, math.nan)
    assert compare("dx1", nowhere_finite, nowhere_finite, bound(np.ones(2))).proves
    all_zero = compare("dx1", np.zeros(2, np.float32), np.zeros(2), bound(np.ones(2)))
    assert all_zero.proves  # there is nothing but zeros to tell them from
    small = compare("dx1", np.zeros(2, np.float32), np.full(2, 1.0), bound(np.full(2, 0.9)))
    assert small.proves and not small.agrees


def run_of(**changes: Result) -> tuple[Run, Result]:
    """A run over the case "base" that is right but for the passes given, and the truth."""
    case = by_name("base")
    truth = LAYERS["channel_sum"].evaluate(case, fills.inputs(case))
    assert truth.dx1 is not None and truth.dx2 is not None
    right = Result(*(each.astype(np.float32) for each in (truth.loss, truth.dx1, truth.dx2)))
    passes = tuple(Pass(name, poison, changes.get(name, right)) for name, poison in PASSES.items())
    return Run(passes), right


@pytest.mark.parametrize("name", PASSES)
def test_every_pass_counts(name: str) -> None:
    """A mistake in one pass only, on the same net or after a reshape, fails the case."""
    case = by_name("base")
    inputs = fills.inputs(case)
    layer = LAYERS["channel_sum"]
    _, right = run_of()
    assert right.dx1 is not None
    wrong = Result(right.loss, np.roll(right.dx1, 1, 0), right.dx2)
    run, _ = run_of(**{name: wrong})
    truth, limit = layer.evaluate(case, inputs), layer.bound(case, inputs)
    found = compare_run(case, run, truth, limit)
    assert {key: each.failed_pass for key, each in found.items()} == {
        "loss": None,
        "dx1": name,
        "dx2": None,
    }


def test_pass_with_another_shape_fails() -> None:
    """A later pass is compared unless its bits, shape and type are those of an earlier one."""
    case = by_name("base")
    inputs = fills.inputs(case)
    layer = LAYERS["channel_sum"]
    truth, limit = layer.evaluate(case, inputs), layer.bound(case, inputs)
    _, right = run_of()
    assert right.dx1 is not None
    for other in (right.dx1[:1], right.dx1.reshape(-1)):
        run, _ = run_of(second=Result(right.loss, other, right.dx2))
        assert compare_run(case, run, truth, limit)["dx1"].failed_pass == "second"


def test_only_gradient_asked_for_is_compared() -> None:
    """A gradient that the truth lacks is passed over, and the one behind it is not."""
    case = by_name("only-dx2")
    inputs = fills.inputs(case)
    layer = LAYERS["channel_sum"]
    truth, limit = layer.evaluate(case, inputs), layer.bound(case, inputs)
    assert truth.dx1 is None and truth.dx2 is not None
    wrong = Result(truth.loss.astype(np.float32), None, -truth.dx2.astype(np.float32))
    run, _ = run_of(**dict.fromkeys(PASSES, wrong))
    found = compare_run(case, run, truth, limit)
    assert {key: each.failed_pass for key, each in found.items()} == {"loss": None, "dx2": "first"}


def test_missing_gradient_fails_except_at_weight_0() -> None:
    """A gradient that was asked for and not computed fails; Caffe computes none at weight 0."""
    layer = LAYERS["channel_sum"]
    _, right = run_of()
    without = Result(right.loss, None, right.dx2)
    run, _ = run_of(**dict.fromkeys(PASSES, without))
    for name, fails in (("base", True), ("weight-0", False)):
        case = by_name(name)
        inputs = fills.inputs(case)
        truth, limit = layer.evaluate(case, inputs), layer.bound(case, inputs)
        found = compare_run(case, run, truth, limit)
        assert (("dx1" in found) and found["dx1"].failed_pass is not None) is fails
        if not fails:  # what a later pass computes is compared all the same
            assert right.dx1 is not None
            wrong = Result(right.loss, right.dx1 + np.float32(1), right.dx2)
            run, _ = run_of(first=without, second=wrong, reshaped=without)
            assert compare_run(case, run, truth, limit)["dx1"].failed_pass == "second"


@pytest.mark.parametrize("layer", LAYERS)
def test_exact_lane_is_recognised(layer: str) -> None:
    """Exactly the cases that are named exact have a bound of 0 everywhere."""
    for name in ("exact", "exact-quarter", "exact-two-axes", "exact-512-channels"):
        case = by_name(name)
        limit = LAYERS[layer].bound(case, fills.inputs(case))
        assert all(not np.any(each) for each in limit.worst.values())
    for name in ("base", "weight-3.7", "subnormal"):
        case = by_name(name)
        limit = LAYERS[layer].bound(case, fills.inputs(case))
        assert all(np.all(each > 0) for each in limit.worst.values())


@pytest.mark.parametrize("order", ["forward", "backward", "sorted", "pairwise"])
@pytest.mark.parametrize("name", ["base", "512-channels", "positive-odd", "cancelling"])
def test_bound_holds_for_adversarial_orders(name: str, order: str) -> None:
    """A float32 loss and gradient summed one by one, in awkward orders, stay within the bound."""
    case = by_name(name)
    inputs = fills.inputs(case)
    layer = LAYERS["tail_sum"]
    truth, limit = layer.evaluate(case, inputs), layer.bound(case, inputs)
    n = case.x1_shape[0]
    both = np.concatenate([inputs.x1.reshape(n, -1), -inputs.x2.reshape(n, -1)], axis=1)
    d = np.array([one_by_one(row, order) for row in both], np.float32)
    loss = one_by_one(d * d, order) / np.float32(2 * n)
    dx1 = np.float32(case.weight) / np.float32(n) * d
    assert abs(float(loss) - float(truth.loss)) <= limit.worst["loss"]
    assert truth.dx1 is not None
    errors = np.abs(dx1.astype(float) - truth.dx1[(slice(None),) + (0,) * (truth.dx1.ndim - 1)])
    assert np.all(errors <= limit.worst["dx1"][(slice(None),) + (0,) * (truth.dx1.ndim - 1)])


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
