"""Inputs by name and seed: the same bytes on every platform and with every NumPy.

Only two things decide a value: the bit stream of MT19937 as `numpy.random.RandomState` draws it,
which NumPy has frozen (NEP 19), and float64 operations that IEEE 754 rounds correctly. No libm
function is called, so no last bit depends on the machine. `parity_tests/test_reference.py` pins
the digests.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache

import numpy as np

from caffe_parity.contract import Array32, Arrays, Case, Shape

Fill = Callable[[Case, np.random.RandomState], Arrays]

_TILE = 65521
"""Length of the block repeated in the arrays of the passes that are not compared; the largest
prime below 2**16, so that no axis length divides it and no two rows come out equal."""


def bell(shape: Shape, rng: np.random.RandomState) -> Array32:
    """A bell-shaped distribution of mean 0 and variance 1, every float32 mantissa bit in use.

    The sum of four uniforms (Irwin-Hall) has variance 4/12; sqrt(3) makes that 1.
    """
    count = int(np.prod(shape))
    total = np.zeros(count)
    for _ in range(4):
        total += rng.randint(0, 2**32, size=count, dtype=np.uint32)
    total = (total * 2.0**-32 - 2.0) * 1.7320508075688772
    return total.astype(np.float32).reshape(shape)


def uniform(shape: Shape, rng: np.random.RandomState) -> Array32:
    """Uniform over (0, 1]."""
    draws = rng.randint(0, 2**32, size=int(np.prod(shape)), dtype=np.uint32)
    return ((draws + 1.0) * 2.0**-32).astype(np.float32).reshape(shape)


def small_integers(shape: Shape, rng: np.random.RandomState) -> Array32:
    """Integers from -3 to 3, the inputs of the exact lane."""
    values: Array32 = rng.randint(-3, 4, size=shape).astype(np.float32)
    return values


def _ternary(case: Case, rng: np.random.RandomState) -> Arrays:
    """-1, 0, 1 with probabilities 1/4, 1/2, 1/4: exact also where ten million terms are summed."""

    def array(shape: Shape) -> Array32:
        bits = rng.randint(0, 2, size=(2, *shape), dtype=np.int8)
        values: Array32 = (bits[0] - bits[1]).astype(np.float32)
        return values

    return {name: array(shape) for name, shape in case.shapes.items()}


def _scaled(exponent: int) -> Fill:
    """Bell-shaped values times a power of two, which keeps every mantissa as it is."""

    def fill(case: Case, rng: np.random.RandomState) -> Arrays:
        factor = 2.0**exponent
        return {
            name: (bell(shape, rng) * factor).astype(np.float32)
            for name, shape in case.shapes.items()
        }

    return fill


def _positive(case: Case, rng: np.random.RandomState) -> Arrays:
    return {name: uniform(shape, rng) for name, shape in case.shapes.items()}


def _integers(case: Case, rng: np.random.RandomState) -> Arrays:
    return {name: small_integers(shape, rng) for name, shape in case.shapes.items()}


def _equal(case: Case, rng: np.random.RandomState) -> Arrays:
    x1 = bell(case.shapes["x1"], rng)
    return {"x1": x1, "x2": x1.copy()}


def _cancelling(case: Case, rng: np.random.RandomState) -> Arrays:
    """x2 holds x1's channels in another order plus a thousandth: large sums, tiny difference."""
    x1 = (1000.0 * uniform(case.shapes["x1"], rng)).astype(np.float32)
    noise = 0.001 * bell(case.shapes["x1"], rng)
    return {"x1": x1, "x2": (np.roll(x1, 1, axis=1) + noise).astype(np.float32)}


def _wide(low: int, high: int, reordered: bool = True) -> Fill:
    """x1: integers from 0 to 2**12; x2: x1's channels in another order, low to high added to each.

    The sums are large and their difference is small, so that whoever sums in fewer bits than
    float32 has is wrong however many channels there are, and in the exact lane that is seen.
    """

    def fill(case: Case, rng: np.random.RandomState) -> Arrays:
        x1 = rng.randint(0, 2**12 + 1, size=case.shapes["x1"])
        added = rng.randint(low, high + 1, size=x1.shape)
        x2 = (x1[:, ::-1] if reordered else x1) + added
        return {"x1": x1.astype(np.float32), "x2": x2.astype(np.float32)}

    return fill


def _one_sided(case: Case, rng: np.random.RandomState) -> Arrays:
    """Nothing cancels: the bound of the difference is as small as it can be for so many terms."""
    made = _positive(case, rng)
    return {"x1": made["x1"], "x2": -made["x2"]}


def _mixed_scales(case: Case, rng: np.random.RandomState) -> Arrays:
    """Neighbours that differ by up to twelve orders of magnitude."""

    def array(shape: Shape) -> Array32:
        return np.ldexp(bell(shape, rng), rng.randint(-20, 21, size=shape)).astype(np.float32)

    return {name: array(shape) for name, shape in case.shapes.items()}


def _with_value(value: float, both: bool = False) -> Fill:
    """Bell-shaped values with `value` at one place of x1, or at the same place of both."""

    def fill(case: Case, rng: np.random.RandomState) -> Arrays:
        made = {name: bell(shape, rng) for name, shape in case.shapes.items()}
        for array in list(made.values())[: 2 if both else 1]:
            array.reshape(-1)[array.size // 2] = value
        return made

    return fill


def _by_sample(*values: tuple[str, float]) -> Fill:
    """Bell-shaped values; sample by sample one element of an input is such a value.

    They stand at different places, so that none meets another in a sum; the samples behind the last
    of them are finite.
    """

    def fill(case: Case, rng: np.random.RandomState) -> Arrays:
        made = {name: bell(shape, rng) for name, shape in case.shapes.items()}
        for sample, (name, value) in enumerate(values):
            row = made[name][sample].reshape(-1)
            row[(7 * sample + 3) % row.size] = value
        return made

    return fill


FILLS: dict[str, Fill] = {
    "bell": _scaled(0),
    "positive": _positive,
    "integers": _integers,
    "ternary": _ternary,
    "wide": _wide(-1, 1),
    "wide-apart": _wide(3, 3),  # the difference needs 12 bits as well
    "wide-alike": _wide(-1, 1, reordered=False),  # for a layer that sums no channels
    "one-sided": _one_sided,
    "equal": _equal,
    "cancelling": _cancelling,
    "mixed-scales": _mixed_scales,
    "huge": _scaled(50),
    "overflowing": _scaled(80),  # d**2 is beyond FLT_MAX, d is not
    "near-overflow": _scaled(60),  # d**2 is not beyond FLT_MAX, a thousand of them are
    "tiny": _scaled(-40),
    "faint": _scaled(-64),  # the loss is just above the smallest normal number
    "subnormal": _scaled(-140),
    "nan": _with_value(float("nan")),
    "inf": _with_value(float("inf")),
    "inf-minus-inf": _with_value(float("inf"), both=True),
    "infs": _by_sample(*((name, sign * np.inf) for name in ("x1", "x2") for sign in (1, -1))),
    "nans": _by_sample(("x2", np.nan), ("x1", np.nan)),
}
"""The generators by the name that a case's `fill` holds."""


def inputs(case: Case) -> Arrays:
    """The arrays of a case; x2 is x1 itself where the case's sharing is "same-blob".

    Raises:
        KeyError: the case names a fill that is not in `FILLS`.
    """
    made = FILLS[case.fill](case, np.random.RandomState(case.seed))
    return {**made, "x2": made["x1"]} if case.sharing == "same-blob" else made


@cache
def _tile() -> Array32:
    return bell((_TILE,), np.random.RandomState(0))


@lru_cache(maxsize=2)  # all variants of a case get them, and they can be large
def other_inputs(case: Case, extra_samples: int = 0) -> Arrays:
    """Arrays with other values, for the passes that are run but not compared; not to be written to.

    Args:
        case: the case whose shapes they take.
        extra_samples: how much longer the batch axis is.
    """

    def array(shape: Shape, start: int) -> Array32:
        longer = (shape[0] + extra_samples, *shape[1:])
        return np.resize(np.roll(_tile(), start), longer)

    x1 = array(case.shapes["x1"], 0)
    return {"x1": x1, "x2": x1 if case.sharing == "same-blob" else array(case.shapes["x2"], 17)}
