"""The rounding bound is a bound: against rational arithmetic, over every order of summation."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

from parity_tests import rounding_study
from reference import fills, rounding
from reference.cases import by_name
from reference.contract import Case, Inputs
from reference.layers import LAYERS

ONE = np.float32(1)


def exact_loss(inputs: Inputs) -> tuple[Fraction, list[Fraction]]:
    """The loss and d of a channel sum over (N, C) inputs, in rational arithmetic."""
    d = [
        sum((Fraction(float(x)) for x in row1), Fraction(0))
        - sum((Fraction(float(x)) for x in row2), Fraction(0))
        for row1, row2 in zip(inputs.x1, inputs.x2, strict=True)
    ]
    squares = sum((each * each for each in d), Fraction(0))
    return Fraction(squares, 2 * len(d)), d


def one_by_one(values: list[np.float32]) -> np.float32:
    """A float32 sum in the given order."""
    total = values[0]
    for value in values[1:]:
        total = np.float32(total + value)
    return total


def adversarial(seed: int) -> Inputs:
    """(2, 3) inputs whose mantissas are full and whose exponents make every addition round."""
    rng = np.random.RandomState(seed)
    values = fills.uniform((4, 3), rng) * 2.0 ** rng.randint(-3, 4, size=(4, 3))
    signs = rng.choice([-1.0, 1.0], size=(4, 3)) if seed % 2 else 1.0
    values = (values * signs).astype(np.float32)
    return Inputs(values[:2], values[2:])


@pytest.mark.parametrize("seed", range(6))
def test_bound_holds_in_every_order_of_summation(seed: int) -> None:
    """All 720 orders of the six terms of each d, and both of the squares, stay within the bound."""
    inputs = adversarial(seed)
    case = Case("orders", (2, 3), (2, 3), loss_weight=3.7)
    limit = rounding.bound("channel", case, inputs)
    loss, d = exact_loss(inputs)
    weight = Fraction(case.weight)
    terms = [list(inputs.x1[n]) + list(-inputs.x2[n]) for n in range(2)]
    sums = [{one_by_one(list(order)) for order in itertools.permutations(row)} for row in terms]
    assert max(len(each) for each in sums) > 1  # the order does matter
    scale = np.float32(np.float32(case.weight) / np.float32(2))
    for first, second in itertools.product(*sums):
        for squares in ([first * first, second * second], [second * second, first * first]):
            computed = np.float32(one_by_one(squares) * np.float32(0.25))
            assert abs(Fraction(float(computed)) - loss) <= Fraction(float(limit.worst["loss"]))
    for n, row in enumerate(sums):
        for each in row:
            error = abs(Fraction(float(scale * each)) - weight / 2 * d[n])
            assert error <= Fraction(float(limit.worst["dx1"][n, 0]))


def test_bound_is_not_far_above_the_worst_order() -> None:
    """The bound is within a factor of 40 of what the worst order does: it is no blank cheque."""
    largest = Fraction(0)
    for seed in range(40):
        inputs = adversarial(seed)
        case = Case("orders", (2, 3), (2, 3))
        limit = rounding.bound("channel", case, inputs)
        _, d = exact_loss(inputs)
        for n in range(2):
            row = list(inputs.x1[n]) + list(-inputs.x2[n])
            for order in itertools.islice(itertools.permutations(row), 0, 720, 7):
                error = abs(Fraction(float(one_by_one(list(order)))) / 2 - d[n] / 2)
                largest = max(largest, error / Fraction(float(limit.worst["dx1"][n, 0])))
    assert largest > Fraction(1, 40)


@pytest.mark.parametrize("layer", LAYERS)
def test_smallest_wrong_gradient_is_beyond_the_bound(layer: str) -> None:
    """On ordinary cases a gradient 0.01 % off fails: the bound is far below what a bug does."""
    for name in ("base", "odd", "two-axes", "weight-3.7", "positive"):
        case = by_name(name)
        inputs = fills.inputs(case)
        truth = LAYERS[layer].evaluate(case, inputs)
        limit = LAYERS[layer].bound(case, inputs).worst["dx1"]
        assert truth.dx1 is not None
        largest = np.unravel_index(int(np.argmax(np.abs(truth.dx1))), truth.dx1.shape)
        off = 1e-4 if layer != "tail_sum" else 1e-2  # thousands of terms, and no fewer roundings
        assert off * abs(truth.dx1[largest]) > limit[largest]


def test_growth_is_that_of_rational_arithmetic() -> None:
    """g(k) is (1+u)^k - 1 to float64's precision, also where k*u is beyond 1."""
    u = Fraction(1, 2**24)
    for k in (1, 2, 100):
        exact = (1 + u) ** k - 1
        assert abs(Fraction(rounding.worst_growth(k)) - exact) <= exact * Fraction(1, 2**40)
    assert rounding.worst_growth(2**25) > 2  # e**2 - 1
    assert rounding.worst_growth(0) == 0


def test_typical_never_exceeds_worst() -> None:
    """For few roundings the random walk's estimate would be larger than the worst case."""
    for k in (0, 1, 10, 36, 1000, 10**6):
        assert rounding.typical_growth(k) <= rounding.worst_growth(k)
    assert rounding.typical_growth(10**6) < rounding.worst_growth(10**6) / 100


def test_study_counts_violations() -> None:
    """The study is no rubber stamp: a ratio above 1, or NaN, is a violation."""
    counted = rounding_study.Distribution()
    for ratio in (0.0, 0.5, 1.0, 1.0001, float("nan")):
        counted.add(ratio, 0.0)
    assert counted.violations == 2
    assert counted.counts == {None: 1, -1: 1, 0: 1, 1: 1, rounding_study.HIGHEST: 1}


def test_short_study_finds_no_violation(capsys: pytest.CaptureFixture[str]) -> None:
    """A hundred random cases of one Caffe variant and one port, with the printed figures."""
    for name in ("caffe-convolution", "torch-function"):
        assert rounding_study.main(["--cases", "100", "--variant", name]) == 0
    assert "0 violations" in capsys.readouterr().out
