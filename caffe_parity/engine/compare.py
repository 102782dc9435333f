"""Decides whether two tensors agree. The only place that knows a tolerance.

The tolerance is never chosen here: it is the bound that came with the truth. The test is
`error <= bound`, so that a NaN fails it.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from caffe_parity.contract import (
    GRADIENT,
    LARGEST,
    Agreement,
    Array64,
    Excerpt,
    Expected,
    Floating,
    Shape,
)

Bools = npt.NDArray[np.bool_]

WORST, EVEN = 32, 64
"""How many of the worst elements of a wrong tensor are kept, and how many at even distances."""

STRETCHES, PLANE = 48, 16
"""Into how many stretches a long axis is divided, and how many a side of the plane has."""


def missing(note: str, size: int) -> Agreement:
    """What stands for a tensor that is not there, or has another shape."""
    nan = math.nan
    return Agreement(math.inf, nan, nan, nan, nan, (), size, size, size, math.inf, True, note)


def as_float32(expected: Floating) -> Floating:
    """The truth with what float32 cannot hold as an infinity.

    A value rounds to infinity from half an ulp above the largest float32 on (IEEE 754, 4.3.1); the
    ulp there is 2**104.

    Args:
        expected: of any shape, not empty.
    """
    expected = np.asarray(expected, np.float64)  # a float32 reference cannot hold the limit
    limit = LARGEST + 2.0**103
    if -limit < np.min(expected) and np.max(expected) < limit:
        return expected
    return np.where(np.abs(expected) >= limit, np.copysign(np.inf, expected), expected)


def once(array: Floating) -> Floating:
    """The array without what broadcasting repeats: an extent of 1 along each such axis."""
    return array[tuple(slice(None) if step else slice(0, 1) for step in array.strides)]


def compare(name: str, actual: Floating, expected: Expected) -> Agreement:
    """Holds one tensor against the truth.

    Args:
        name: which one: a top, or GRADIENT + input.
        actual: what the variant computed, float32.
        expected: the truth and the bound of the case.
    """
    truth: Floating = expected.truth[name]
    if not fits(name, actual.shape, truth.shape):
        return missing(f"has shape {actual.shape}, expected {truth.shape}", truth.size)
    if actual.size == 0:
        return Agreement(0.0, 0.0, 0.0, math.nan, math.nan, (), 0, 0, 0, 0.0, True)
    truth = truth.reshape(actual.shape)
    worst, typical = (
        np.asarray(each[name]).reshape(actual.shape)
        for each in (expected.bound.worst, expected.bound.typical)
    )
    if not np.any(once(worst)) and np.array_equal(actual, truth):  # most of the exact lane
        first, size = (0,) * actual.ndim, actual.size
        held, asked = float(actual[first]), float(truth[first])
        return Agreement(0.0, 0.0, 0.0, held, asked, first, 0, size, size, 0.0, True)
    actual = actual.astype(np.float64)
    truth = as_float32(truth)
    kinks = expected.bound.kinks.get(name)
    left_out = None if kinks is None else kinks.reshape(actual.shape)
    fractions = _fractions(actual, truth, worst, left_out)
    multiples = fractions
    if expected.bound.typical is not expected.bound.worst:
        multiples = _fractions(actual, truth, typical, left_out)
    place = np.unravel_index(int(np.argmax(fractions)), fractions.shape)
    known: Bools = ~np.isnan(truth) & ~np.isposinf(worst)  # at a kink, the bound is infinite
    with np.errstate(invalid="ignore"):
        telling = known & ((np.abs(truth) > worst) | (truth == 0))
    if np.isinf(truth).all() and np.isfinite(expected.truth[name]).all():
        telling = np.zeros_like(known)  # of what overflows everywhere, anything larger does as well
    beyond = int(np.count_nonzero(~(fractions <= 1)))
    with np.errstate(invalid="ignore"):
        error = float(np.abs(actual[place] - truth[place]))
    return Agreement(
        fraction=float(fractions[place]),
        error=0.0 if fractions[place] == 0 else error,
        bound=float(worst[place]),
        actual=float(actual[place]),
        expected=float(truth[place]),
        worst_index=tuple(int(index) for index in place),
        wrong=beyond,
        size=actual.size,
        compared=int(np.count_nonzero(telling)),
        times_typical=float(np.max(multiples)),
        proves=bool(np.any(truth[telling])) or (bool(known.any()) and not np.any(truth[known])),
        excerpt=excerpt(fractions, actual, truth, worst) if beyond else None,
    )


def excerpt(fractions: Array64, actual: Floating, truth: Floating, bound: Array64) -> Excerpt:
    """What is kept of a tensor that is wrong.

    Args:
        fractions: error / bound per element; not empty.
        actual: what was computed, of the same shape as all of these.
        truth: what was expected.
        bound: the largest error that agrees.
    """
    flat = fractions.reshape(-1)
    worst = np.argpartition(flat, -min(WORST, flat.size))[-min(WORST, flat.size) :]
    even = np.arange(min(EVEN, flat.size)) * (flat.size - 1) // max(min(EVEN, flat.size) - 1, 1)
    places = np.union1d(worst, even)
    axes = range(fractions.ndim)
    along = (np.mean(fractions, axis=tuple(set(axes) - {each})) for each in axes)
    plane: Array64 = np.zeros((0, 0))
    if fractions.ndim > 2:
        plane = np.mean(fractions, axis=tuple(axes[:-2]))
        for axis in (0, 1):
            plane = _stretches(plane, PLANE, axis)
    return Excerpt(
        fractions.shape,
        tuple(_short(_stretches(each, STRETCHES, 0)) for each in along),
        tuple(map(_short, plane)),
        tuple(places.tolist()),
        *(_short(each.reshape(-1)[places]) for each in (actual, truth, bound)),
    )


def _stretches(values: Array64, most: int, axis: int) -> Array64:
    """The means over stretches of an axis, as even as can be, where it is longer than `most`."""
    parts = np.array_split(values, min(most, values.shape[axis]), axis)
    return np.stack([np.mean(each, axis) for each in parts], axis)


def _short(values: Floating) -> tuple[float, ...]:
    """Numbers to the nine digits that tell every float32 from its neighbours."""
    return tuple(float(f"{each:.9g}") for each in values.tolist())


def alike(one: Shape, another: Shape) -> bool:
    """Whether two shapes are the same, or one is the other with axes of 1 before or behind it.

    So are the (), the (1) and the (1, 1, 1, 1) of a loss, or the (N, C) and the (N, C, 1, 1) of a
    global pooling. As many elements alone are not enough: (2, 3) is not (3, 2), nor (6).
    """
    short, long = sorted((one, another), key=len)
    return any(
        long[start : start + len(short)] == short
        and set(long[:start] + long[start + len(short) :]) <= {1}
        for start in range(len(long) - len(short) + 1)
    )


def fits(name: str, actual: Shape, truth: Shape) -> bool:
    """Whether a tensor has the shape that is expected: of a gradient, exactly that."""
    return actual == truth if name.startswith(GRADIENT) else alike(actual, truth)


def wrong(name: str, actual: Floating, expected: Expected) -> Bools:
    """Which elements lie beyond their bound; of the truth's shape."""
    truth = expected.truth[name]
    kinks = expected.bound.kinks.get(name)
    worst = np.asarray(expected.bound.worst[name])
    actual = actual.reshape(truth.shape)
    if np.array_equal(actual, truth):  # most of the exact lane, whose bound of 0 takes longest
        return np.zeros(truth.shape, np.bool_)
    values = actual.astype(np.float64)
    return ~(_fractions(values, as_float32(truth) if truth.size else truth, worst, kinks) <= 1)


def _fractions(
    actual: Floating, expected: Floating, bound: Array64, left_out: Bools | None
) -> Array64:
    """error / bound per element.

    0 where nothing is wrong, infinite where the bound is 0, or where a NaN or an infinity stands
    on one side only.
    """
    with np.errstate(all="ignore"):
        fractions = np.asarray(np.abs(actual - expected) / bound)
        odd = ~np.isfinite(fractions)
        if odd.any():
            same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
            # An infinite bound means that some order of summation overflows: inf is right there;
            # at a kink, of which only the gradient is not known, it is not.
            overflow = np.isposinf(bound) & ~np.isnan(actual) & np.isfinite(expected)
            if left_out is not None:
                overflow &= ~left_out
            fractions[odd] = np.where(same | overflow, 0.0, np.inf)[odd]
    result: Array64 = fractions
    return result


def same_bits(a: Floating, b: Floating) -> bool:
    """Whether two tensors have the same shape, type and bits."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    integer = np.dtype(f"u{a.itemsize}")
    return np.array_equal(
        np.ascontiguousarray(a).view(integer), np.ascontiguousarray(b).view(integer)
    )
