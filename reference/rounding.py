"""How far float32 rounding can carry a loss and its gradients from the truth. NumPy only.

docs/rounding.md derives it. In short: u = 2**-24 is the unit roundoff of float32, g(k) =
(1+u)**k - 1 bounds what k roundings do to a number, and the difference d of two sums has M elements
of T = terms(x1) + terms(x2) terms each:

    |fl(d) - d|   <= E = g(T-1) * (sum |x1| + sum |x2|)           u * |d| when T = 2
    |fl(L) - L|   <= [ g(M+3) * sum (|d|+E)**2 + sum E*(2|d|+E) ] / (2N)
    |fl(dx) - dx| <= |w|/N * [ g(4) * (|d|+E) + E ]

and what underflows is added. An overflow of an intermediate in some order, though not in all, makes
the bound infinite: both answers are right.

The *typical* size replaces the count k of roundings in g by 6*sqrt(k). The *exact lane*, in which
there is nothing to round and the bound is 0, is recognised, not declared.
"""

from collections.abc import Callable

import numpy as np

from caffe_parity.contract import (
    GRADIENT,
    LARGEST,
    SHARED_GRADIENT,
    SMALLEST_SUBNORMAL,
    UNIT_ROUNDOFF,
    Array64,
    Arrays,
    Bound,
    Case,
)

LAMBDA = 6.0

DX1, DX2 = GRADIENT + "x1", GRADIENT + "x2"

_ORACLE = 1.0 + 2.0**-20
"""Covers the rounding of the float64 truth and of this bound, both 2**-29 of what they bound."""


def worst_growth(roundings: int) -> float:
    """g(k) = (1+u)**k - 1, the largest relative change that k roundings can make."""
    return float(np.expm1(roundings * np.log1p(UNIT_ROUNDOFF)))


def typical_growth(roundings: int) -> float:
    """The relative change that k independent roundings exceed once in 3e7 times."""
    walk = LAMBDA * np.sqrt(roundings)
    return min(worst_growth(roundings), float(np.expm1(walk * np.log1p(UNIT_ROUNDOFF))))


def summed(kind: str, x: Array64) -> Array64:
    """Sums x (N, C, S...) over the axes of a layer, keeping them as extents of 1.

    Args:
        kind: "none", "channel" or "tail".
        x: the input.
    """
    axes = {"none": (), "channel": (1,), "tail": tuple(range(1, x.ndim))}[kind]
    return np.sum(x, axis=axes, keepdims=True) if axes else x


def _tail_like(x: Array64, ndim: int) -> Array64:
    """(N, 1, 1...) with as many axes as asked for; tail sums of inputs may differ in theirs."""
    return x.reshape(x.shape[0], *[1] * (ndim - 1)) if x.ndim != ndim else x


def bound(kind: str, case: Case, inputs: Arrays) -> Bound:
    """The rounding bound of one case of a layer that sums the axes `kind`.

    Args:
        kind: "none", "channel" or "tail".
        case: the loss weight, and what is shared.
        inputs: the float32 arrays.

    Returns:
        bounds for "loss", shape (), and the gradients of x1 and x2, shaped like the inputs.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return _bound(kind, case, inputs)


def _bound(kind: str, case: Case, inputs: Arrays) -> Bound:
    x1, x2 = inputs["x1"].astype(np.float64), inputs["x2"].astype(np.float64)
    sum1, sum2 = summed(kind, x1), summed(kind, x2)
    size1, size2 = summed(kind, np.abs(x1)), summed(kind, np.abs(x2))
    terms = x1.size // sum1.size + x2.size // sum2.size
    d = np.abs(sum1 - _tail_like(sum2, sum1.ndim))
    size = size1 + _tail_like(size2, size1.ndim)
    if _is_exact(case, inputs, d, size):
        zero = {name: np.zeros(()) for name in ("loss", DX1, DX2)}
        exact = _shaped(zero, inputs)
        return Bound(exact, exact)
    worst = _tensors(case, d, size, terms, worst_growth)
    typical = _tensors(case, d, size, terms, typical_growth)
    worst["loss"] = np.where(_may_overflow(d, size, terms), np.inf, worst["loss"])
    typical["loss"] = np.where(np.isinf(worst["loss"]), np.inf, typical["loss"])
    return Bound(_shaped(worst, inputs), _shaped(typical, inputs))


def _tensors(
    case: Case, d: Array64, size: Array64, terms: int, growth: Callable[[int], float]
) -> dict[str, Array64]:
    """The formulas of this module's docstring, for one way to count roundings."""
    samples, squares = d.shape[0], d.size
    error = UNIT_ROUNDOFF * d if terms == 2 else growth(terms - 1) * size
    loss = (growth(squares + 3) * np.sum((d + error) ** 2) + np.sum(error * (2 * d + error))) / (
        2 * samples
    )
    loss += (squares / (2 * samples) + 4) * SMALLEST_SUBNORMAL
    scale = abs(case.weight) / samples
    underflow = (2 * (d + error) + 4) * SMALLEST_SUBNORMAL
    dx = scale * (growth(4) * (d + error) + error) + underflow
    dx1 = dx
    if case.sharing == "same-blob":  # the one diff is the sum of both
        dx1 = 2 * dx + 2 * UNIT_ROUNDOFF * (scale * d + dx)
    elif case.sharing == "split":  # one more addition
        dx1 = dx + UNIT_ROUNDOFF * (scale * d + dx + SHARED_GRADIENT)
    return {"loss": loss * _ORACLE, DX1: dx1 * _ORACLE, DX2: dx * _ORACLE}


def _shaped(tensors: dict[str, Array64], inputs: Arrays) -> dict[str, Array64]:
    """Broadcasts the diffs' bounds over the axes that were summed; views, no copies."""
    x2_like = _tail_like(tensors[DX2], inputs["x2"].ndim) if tensors[DX2].ndim else tensors[DX2]
    return {
        "loss": np.asarray(tensors["loss"]),
        DX1: np.broadcast_to(tensors[DX1], inputs["x1"].shape),
        DX2: np.broadcast_to(x2_like, inputs["x2"].shape),
    }


def _may_overflow(d: Array64, size: Array64, terms: int) -> bool:
    """Whether the sum of squares can pass the largest float32 in some order."""
    error = worst_growth(terms - 1) * size
    total = (1 + worst_growth(d.size + 3)) * np.sum((d + error) ** 2)
    return bool(total > LARGEST)


def _is_exact(case: Case, inputs: Arrays, d: Array64, size: Array64) -> bool:
    """Whether no operation of any implementation in any order has anything to round."""
    if case.sharing != "none":
        return False
    whole = all(bool(np.all(np.trunc(x) == x)) for x in (inputs["x1"], inputs["x2"]))
    return (
        whole
        and _is_power_of_two(float(d.shape[0]))
        and (case.weight == 0 or _is_power_of_two(abs(case.weight)))
        and (case.weight == 0 or abs(case.weight) >= 2 * d.shape[0] * SMALLEST_SUBNORMAL)
        and bool(np.max(size) <= 2**24)
        and bool(np.sum(d * d) <= 2**24)
    )


def _is_power_of_two(value: float) -> bool:
    return bool(np.frexp(value)[0] == 0.5)
