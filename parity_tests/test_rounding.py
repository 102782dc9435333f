"""The rounding bound is a bound: against rational arithmetic, over every order of summation."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from caffe_parity import Case
from caffe_parity.contract import LARGEST, Arrays
from parity_tests.answers import expected_of
from reference import fills, rounding
from reference.cases import by_name, case_of
from reference.layers import LAYERS
from reference.rounding import DX1, DX2

ONE = np.float32(1)


def exact_loss(inputs: Arrays) -> tuple[Fraction, list[Fraction]]:
    """The loss and d of a channel sum over (N, C) inputs, in rational arithmetic."""
    d = [
        sum((Fraction(float(x)) for x in row1), Fraction(0))
        - sum((Fraction(float(x)) for x in row2), Fraction(0))
        for row1, row2 in zip(*inputs.values(), strict=True)
    ]
    squares = sum((each * each for each in d), Fraction(0))
    return Fraction(squares, 2 * len(d)), d


def one_by_one(values: list[np.float32]) -> np.float32:
    """A float32 sum in the given order."""
    total = values[0]
    for value in values[1:]:
        total = np.float32(total + value)
    return total


def adversarial(seed: int) -> Arrays:
    """(2, 3) inputs whose mantissas are full and whose exponents make every addition round."""
    rng = np.random.RandomState(seed)
    values = fills.uniform((4, 3), rng) * 2.0 ** rng.randint(-3, 4, size=(4, 3))
    signs = rng.choice([-1.0, 1.0], size=(4, 3)) if seed % 2 else 1.0
    values = (values * signs).astype(np.float32)
    return {"x1": values[:2], "x2": values[2:]}


def terms_of(inputs: Arrays, sample: int) -> list[np.float32]:
    """What is summed to a sample's d."""
    return [*inputs["x1"][sample], *-inputs["x2"][sample]]


@pytest.mark.parametrize("seed", range(6))
def test_bound_holds_in_every_order_of_summation(seed: int) -> None:
    """All 720 orders of the six terms of each d, and both of the squares, stay within the bound."""
    inputs = adversarial(seed)
    case = case_of("orders", (2, 3), loss_weight=3.7)
    limit = rounding.bound("channel", case, inputs)
    loss, d = exact_loss(inputs)
    weight = Fraction(case.weight)
    rows = [terms_of(inputs, n) for n in range(2)]
    sums = [{one_by_one(list(order)) for order in itertools.permutations(row)} for row in rows]
    assert max(len(each) for each in sums) > 1  # the order does matter
    scale = np.float32(np.float32(case.weight) / np.float32(2))
    for first, second in itertools.product(*sums):
        for squares in ([first * first, second * second], [second * second, first * first]):
            computed = np.float32(one_by_one(squares) * np.float32(0.25))
            assert abs(Fraction(float(computed)) - loss) <= Fraction(float(limit.worst["loss"]))
    for n, row in enumerate(sums):
        for each in row:
            error = abs(Fraction(float(scale * each)) - weight / 2 * d[n])
            assert error <= Fraction(float(limit.worst[DX1][n, 0]))


def test_bound_is_not_far_above_the_worst_order() -> None:
    """The bound is within a factor of 40 of what the worst order does: it is no blank cheque."""
    largest = Fraction(0)
    for seed in range(40):
        inputs = adversarial(seed)
        case = case_of("orders", (2, 3))
        limit = rounding.bound("channel", case, inputs)
        _, d = exact_loss(inputs)
        for n in range(2):
            for order in itertools.islice(itertools.permutations(terms_of(inputs, n)), 0, 720, 7):
                error = abs(Fraction(float(one_by_one(list(order)))) / 2 - d[n] / 2)
                largest = max(largest, error / Fraction(float(limit.worst[DX1][n, 0])))
    assert largest > Fraction(1, 40)


@pytest.mark.parametrize("layer", LAYERS)
def test_smallest_wrong_gradient_is_beyond_the_bound(layer: str) -> None:
    """On ordinary cases a gradient 0.01 % off fails: the bound is far below what a bug does."""
    for name in ("base", "odd", "two-axes", "weight-3.7", "positive"):
        expected = expected_of(LAYERS[layer], by_name(name))
        dx1, limit = expected.truth[DX1], expected.bound.worst[DX1]
        largest = np.unravel_index(int(np.argmax(np.abs(dx1))), dx1.shape)
        off = 1e-4 if layer != "tail_sum" else 1e-2  # thousands of terms, and no fewer roundings
        assert off * abs(dx1[largest]) > limit[largest]


def test_growth_is_that_of_rational_arithmetic() -> None:
    """g(k) is (1+u)^k - 1 to float64's precision, also where k*u is beyond 1."""
    u = Fraction(1, 2**24)
    for k in (1, 2, 100):
        exact = (1 + u) ** k - 1
        assert abs(Fraction(rounding.worst_growth(k)) - exact) <= exact * Fraction(1, 2**40)
    assert rounding.worst_growth(2**25) > 2  # e**2 - 1
    assert rounding.worst_growth(0) == 0


Growth = Callable[[int], Fraction]


def written_out(kind: str, case: Case, inputs: Arrays, growth: Growth) -> dict[str, list[Fraction]]:
    """The formulas of docs/rounding.md, element by element in rational arithmetic.

    Args:
        kind: "none", "channel" or "tail".
        case: its weight and sharing.
        inputs: (N, C) or (N, C, S) arrays.
        growth: how far a number of roundings changes a number.
    """
    u, h = Fraction(1, 2**24), Fraction(1, 2**149)

    def group_of(index: tuple[int, ...]) -> tuple[int, ...]:
        return {"none": index, "channel": (index[0], *index[2:]), "tail": index[:1]}[kind]

    groups: dict[tuple[int, ...], list[Fraction]] = {}
    for sign, x in zip((1, -1), inputs.values(), strict=True):
        for index, value in np.ndenumerate(x):
            groups.setdefault(group_of(index), []).append(sign * Fraction(float(value)))
    samples, squares = len(inputs["x1"]), len(groups)
    loss, dx1, dx2 = Fraction(0), {}, {}
    scale = abs(Fraction(case.weight)) / samples
    for key, group in groups.items():
        d, size = abs(sum(group, Fraction(0))), sum(map(abs, group), Fraction(0))
        error = u * d if len(group) == 2 else growth(len(group) - 1) * size
        loss += growth(squares + 3) * (d + error) ** 2 + error * (2 * d + error)
        dx = scale * (growth(4) * (d + error) + error) + (2 * (d + error) + 4) * h
        dx1[key] = dx2[key] = dx
        if case.sharing == "same-blob":
            dx1[key] = 2 * dx + 2 * u * (scale * d + dx)
        elif case.sharing == "split":
            dx1[key] = dx + u * (scale * d + dx + Fraction(1, 2))
    loss = loss / (2 * samples) + (Fraction(squares, 2 * samples) + 4) * h
    return {
        "loss": [loss],
        DX1: [dx1[group_of(index)] for index in np.ndindex(inputs["x1"].shape)],
        DX2: [dx2[group_of(index)] for index in np.ndindex(inputs["x2"].shape)],
    }


def worst(roundings: int) -> Fraction:
    """(1+u)^k - 1."""
    return (1 + Fraction(1, 2**24)) ** roundings - 1


def typical(roundings: int) -> Fraction:
    """The smaller of that and (1+u)^(6 sqrt(k)) - 1."""
    walk = float(np.expm1(6 * np.sqrt(roundings) * np.log1p(2.0**-24)))
    return min(worst(roundings), Fraction(walk))


SHAPES = {
    "none": ((3, 4, 2), (3, 4, 2)),
    "channel": ((3, 4, 2), (3, 60, 2)),
    "tail": ((3, 4, 2), (3, 50)),
}


@pytest.mark.parametrize(("size", "weight"), [(1.0, 3.7), (2.0**-140, -3.7), (2.0**20, 2.0**-140)])
@pytest.mark.parametrize("sharing", ["none", "same-blob", "split"])
@pytest.mark.parametrize("kind", SHAPES)
def test_bound_is_the_formula_of_the_derivation(
    kind: str, sharing: str, size: float, weight: float
) -> None:
    """Worst and typical are docs/rounding.md's formulas, no less, and 2^-19 more at most."""
    rng = np.random.RandomState(5)
    case = case_of("formula", *SHAPES[kind], loss_weight=weight, sharing=sharing)
    inputs = {k: (size * fills.bell(v, rng)).astype(np.float32) for k, v in case.shapes.items()}
    found = rounding.bound(kind, case, inputs)
    for growth, tensors in ((worst, found.worst), (typical, found.typical)):
        for name, formula in written_out(kind, case, inputs, growth).items():
            for value, each in zip(tensors[name].flat, formula, strict=True):
                assert each <= Fraction(value) <= each * (1 + Fraction(1, 2**19))


def test_margin_covers_float64() -> None:
    """What the bound is enlarged by is more than float64 rounds, and far less than it matters."""
    assert 2.0**-28 < rounding._ORACLE - 1 < 2.0**-19


def test_typical_is_exceeded_three_times_in_a_hundred_million() -> None:
    """Higham and Mary's 2*exp(-lambda^2/2), for the lambda in use."""
    assert 2.9e-8 < 2 * np.exp(-(rounding.LAMBDA**2) / 2) < 3.1e-8


def pair(x1: list[list[float]], x2: list[list[float]]) -> Arrays:
    """Two inputs."""
    return {"x1": np.array(x1, np.float32), "x2": np.array(x2, np.float32)}


def test_loss_may_overflow_from_the_first_order_that_does() -> None:
    """(1 + g(M+3)) * sum (|d|+E)^2 against the largest float32, exactly."""
    u = Fraction(1, 2**24)
    allowed = Fraction(LARGEST) / (1 + worst(2 + 3)) / (1 + u) ** 2
    large = np.float32(np.sqrt(float(allowed) * (1 - 2.0**-12)))
    rest = float(allowed - Fraction(float(large)) ** 2)
    just_below = np.float32(np.sqrt(rest))
    while Fraction(float(just_below)) ** 2 + Fraction(float(large)) ** 2 > allowed:
        just_below = np.nextafter(just_below, np.float32(0))
    just_above = just_below * np.float32(1 + 2.0**-14)  # 2^-25 of the sum: half a rounding
    case = case_of("overflow", (2, 1))
    for small, infinite in ((just_below, False), (just_above, True)):
        for sign in (1, -1):
            inputs = pair([[sign * float(large)], [float(small)]], [[0], [0]])
            found = rounding.bound("none", case, inputs)
            assert np.isinf(found.worst["loss"]) == np.isinf(found.typical["loss"]) == infinite


@pytest.mark.parametrize(
    ("x1", "x2", "weight", "exact"),
    [
        (2.0**23, 2.0**23, 1.0, True),  # the sum of absolute values is 2^24
        (2.0**23 + 1, 2.0**23 + 1, 1.0, False),
        (2.0**12, 0.0, 1.0, True),  # the square is 2^24
        (2.0**12 + 1, 0.0, 1.0, False),
        (3.0, 1.0, 0.0, True),
        (3.0, 1.0, -4.0, True),
        (3.0, 1.0, 3.0, False),
        (3.0, 1.0, 2.0**-147, True),  # w/(2N) is the smallest subnormal
        (3.0, 1.0, 2.0**-148, False),
        (3.5, 1.0, 1.0, False),
        (3.0, 1.5, 1.0, False),
    ],
)
def test_exact_lane_ends_where_something_rounds(
    x1: float, x2: float, weight: float, exact: bool
) -> None:
    """The bound is 0 up to the last integer, square and weight that float32 holds, then not."""
    case = case_of("edge", (2, 1), loss_weight=weight)
    found = rounding.bound("none", case, pair([[x1], [0]], [[x2], [0]]))
    assert all(np.any(each > 0) is not np.bool_(exact) for each in found.worst.values())


@pytest.mark.parametrize("sharing", ["same-blob", "split"])
def test_shared_inputs_are_not_exact(sharing: str) -> None:
    """What is added to a shared diff is none of the formula's integers."""
    case = case_of("shared", (1, 1), sharing=sharing)
    found = rounding.bound("none", case, pair([[3]], [[1]]))
    assert all(np.all(each > 0) for each in found.worst.values())


def test_batch_that_is_no_power_of_two_is_not_exact() -> None:
    """1/3 rounds."""
    found = rounding.bound("none", case_of("three", (3, 1)), pair([[1]] * 3, [[0]] * 3))
    assert all(np.all(each > 0) for each in found.worst.values())


def test_typical_never_exceeds_worst() -> None:
    """For few roundings the random walk's estimate would be larger than the worst case."""
    for k in (0, 1, 10, 36, 1000, 10**6):
        assert rounding.typical_growth(k) <= rounding.worst_growth(k)
    assert rounding.typical_growth(10**6) < rounding.worst_growth(10**6) / 100
