"""Decides whether two tensors agree. The only place in the suite that knows a tolerance.

The tolerance is never chosen here: it is the bound that came with the reference. The test is
`error <= bound`, so that a NaN fails it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from caffe_parity.contract import TENSORS, Array64, Bound, Case, Result, Run
from reference.rounding import LARGEST

Floating = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Agreement:
    """How far one tensor lies from the truth, at the place where it lies farthest.

    Attributes:
        name: "loss", "dx1" or "dx2".
        fraction: the error as a fraction of its bound; at most 1 when the tensor agrees.
        error, bound, actual, expected: at the worst place.
        worst_index: the worst place, () for a scalar.
        wrong, size: how many elements are beyond their bound, of how many.
        times_typical: the largest error as a multiple of what rounding typically does.
        proves: whether the bound is smaller than the largest expected value; where it is not, an
            all-zero tensor would agree as well.
        note: what is wrong beside the numbers, such as a shape; "" when nothing is.
    """

    name: str
    fraction: float
    error: float
    bound: float
    actual: float
    expected: float
    worst_index: tuple[int, ...]
    wrong: int
    size: int
    times_typical: float
    proves: bool
    note: str = ""

    @property
    def agrees(self) -> bool:
        """Whether every element lies within its bound."""
        return self.wrong == 0 and not self.note

    @property
    def suspicious(self) -> bool:
        """Within the worst case, yet far above what rounding typically does."""
        return self.agrees and self.times_typical > 1


def _refused(name: str, note: str, size: int) -> Agreement:
    nan = math.nan
    return Agreement(name, math.inf, nan, nan, nan, nan, (), size, size, math.inf, True, note)


def as_float32(expected: Floating) -> Floating:
    """The truth with what float32 cannot hold as an infinity.

    A value rounds to infinity from half an ulp above the largest float32 on (IEEE 754, 4.3.1); the
    ulp there is 2**104.

    Args:
        expected: of any shape, not empty.
    """
    limit = LARGEST + 2.0**103
    if -limit < np.min(expected) and np.max(expected) < limit:
        return expected
    return np.where(np.abs(expected) >= limit, np.copysign(np.inf, expected), expected)


def compare(name: str, actual: Floating, expected: Floating, bound: Bound) -> Agreement:
    """Holds one tensor against the truth.

    Args:
        name: "loss", "dx1" or "dx2"; chooses the bound.
        actual: what the variant computed, float32.
        expected: the truth, float64, of the same shape.
        bound: the rounding bound of the case.
    """
    if actual.shape != expected.shape:
        note = f"has shape {actual.shape}, expected {expected.shape}"
        return _refused(name, note, expected.size)
    if actual.size == 0:
        return Agreement(name, 0.0, 0.0, 0.0, math.nan, math.nan, (), 0, 0, 0.0, True)
    actual = actual.astype(np.float64)
    expected = as_float32(expected)
    worst, typical = bound.worst[name], bound.typical[name]
    if np.array_equal(actual, expected):  # most of the exact lane; saves the divisions
        fractions = multiples = np.broadcast_to(0.0, actual.shape)
    else:
        fractions = _fractions(actual, expected, worst)
        multiples = _fractions(actual, expected, typical)
    place = np.unravel_index(int(np.argmax(fractions)), fractions.shape)
    with np.errstate(invalid="ignore"):
        error = float(np.abs(actual[place] - expected[place]))
        largest = float(np.max(np.abs(expected), initial=0.0, where=np.isfinite(expected)))
    return Agreement(
        name=name,
        fraction=float(fractions[place]),
        error=0.0 if fractions[place] == 0 else error,
        bound=float(worst[place]),
        actual=float(actual[place]),
        expected=float(expected[place]),
        worst_index=tuple(int(index) for index in place),
        wrong=int(np.count_nonzero(~(fractions <= 1))),
        size=actual.size,
        times_typical=float(np.max(multiples)),
        proves=largest == 0 or bool(np.nanmax(worst, initial=0.0) < largest),
    )


def _fractions(actual: Floating, expected: Floating, bound: Array64) -> Array64:
    """error / bound per element.

    0 where nothing is wrong, infinite where the bound is 0, or where a NaN or an infinity stands
    on one side only.
    """
    with np.errstate(all="ignore"):
        fractions = np.asarray(np.abs(actual - expected) / bound)
        odd = ~np.isfinite(fractions)
        if odd.any():
            same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
            # An infinite bound means that some order of summation overflows: inf is right there.
            overflow = np.isposinf(bound) & ~np.isnan(actual) & np.isfinite(expected)
            fractions[odd] = np.where(same | overflow, 0.0, np.inf)[odd]
    result: Array64 = fractions
    return result


@dataclass(frozen=True)
class Comparison:
    """One tensor over all passes of a run.

    Attributes:
        worst: the pass's agreement that is farthest from the truth.
        failed_pass: the first pass that does not agree, or None.
    """

    worst: Agreement
    failed_pass: str | None


def compare_run(case: Case, run: Run, truth: Result, bound: Bound) -> Mapping[str, Comparison]:
    """Holds every tensor of every pass against the truth; forward and each diff are judged apart.

    A tensor that the truth has and the run lacks fails, except for the diffs at loss weight 0,
    where Caffe computes none.
    """
    result = {}
    for name in TENSORS:
        expected = truth.tensors()[name]
        if expected is None:
            continue
        worst: Agreement | None = None
        failed = None
        seen: Floating | None = None
        for each in run.passes:
            actual = each.result.tensors()[name]
            if actual is None:
                if case.weight == 0:
                    continue
                agreement = _refused(name, "was not computed", expected.size)
            elif seen is not None and _same_bits(actual, seen):
                continue  # the verdict of the earlier pass holds for these bits
            else:
                agreement = compare(name, actual, expected, bound)
                seen = actual
            if failed is None and not agreement.agrees:
                failed = each.name
            if worst is None or _rank(agreement) > _rank(worst):
                worst = agreement
        if worst is not None:
            result[name] = Comparison(worst, failed)
    return result


def _rank(agreement: Agreement) -> tuple[bool, float]:
    return (not agreement.agrees, agreement.fraction)


def _same_bits(a: Floating, b: Floating) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    integer = np.dtype(f"u{a.itemsize}")
    return np.array_equal(
        np.ascontiguousarray(a).view(integer), np.ascontiguousarray(b).view(integer)
    )
