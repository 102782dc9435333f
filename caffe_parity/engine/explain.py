"""Says what a wrong tensor means: which line of thinking is off, in words.

An explanation is a hypothesis that predicts the whole tensor: it is given only when every element
lies within rounding of the prediction, and the prediction itself lies well away from the truth.
Where none fits, the explanation says how much is wrong and no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from caffe_parity.contract import UNIT_ROUNDOFF, Array64, Shape
from caffe_parity.layer import Rival

SLACK = 8
"""How many bounds a prediction may be off: a wrong formula rounds elsewhere than the right one."""

CLOSE = 16 * UNIT_ROUNDOFF
"""The relative rounding that is granted to a prediction on top: a factor has some of its own."""

LARGEST_COUNT = 64
"""Up to which a factor is told as a quotient of two counts, such as labels that are left over all.
Some 3/pi^2 * 64^2 = 1245 quotients lie in [0, 1], each 2 * CLOSE wide: by chance one in 400 is."""


@dataclass(frozen=True)
class Explanation:
    """What a failure means.

    Attributes:
        code: a stable word for it, such as "sign".
        words: one sentence for people.
    """

    code: str
    words: str


@dataclass(frozen=True)
class Failure:
    """Everything that is known about a tensor that does not agree.

    Attributes:
        tensor: its key: a top's name, or GRADIENT + input.
        name: as it is called in a sentence, such as "dx1".
        is_gradient: whether it is a gradient.
        expected, bound: the truth and its bound, float64; at a kink the bound is infinite.
        actual: what was computed; of the truth's shape.
        shape: (N, C, S...) of the input that a normaliser may come from.
        weight: the upstream gradient, where it is one number, else 1.
        rivals: other formulas that it may be.
    """

    tensor: str
    name: str
    is_gradient: bool
    expected: Array64
    bound: Array64
    actual: Array64
    shape: Shape
    weight: float = 1.0
    rivals: Callable[[], Iterator[Rival]] = lambda: iter(())


def explain(failure: Failure) -> Explanation:
    """The first hypothesis that predicts the whole tensor, or what can be said without one."""
    with np.errstate(all="ignore"):
        for hypothesis in HYPOTHESES:
            found = hypothesis(failure, failure.actual)
            if found is not None:
                return found
        return _scattered(failure, failure.actual)


def _fits(
    failure: Failure, actual: Array64, predicted: Array64, extra: Array64 | float = 0.0
) -> bool:
    """Whether the prediction explains every element, and is not the truth itself.

    `extra` is the rounding of the prediction's own formula, where that is another one.
    """
    if actual.shape != predicted.shape:
        return False
    room = SLACK * failure.bound + CLOSE * np.abs(predicted) + extra
    differs = np.abs(predicted - failure.expected) > 4 * room
    same = (actual == predicted) | (np.isnan(actual) & np.isnan(predicted))
    return bool(np.all(same | (np.abs(actual - predicted) <= room)) and np.any(differs))


def _wrong(failure: Failure, actual: Array64) -> npt.NDArray[np.bool_]:
    same = np.isnan(actual) & np.isnan(failure.expected) | (actual == failure.expected)
    within: npt.NDArray[np.bool_] = np.abs(actual - failure.expected) <= failure.bound
    wrong: npt.NDArray[np.bool_] = ~(within | same)
    return wrong


def _not_finite(failure: Failure, actual: Array64) -> Explanation | None:
    odd = np.isnan(actual) & ~np.isnan(failure.expected)
    if odd.any():
        return Explanation("nan", f"{_count(odd)} of {failure.name} are NaN{_where(odd)}")
    odd = np.isinf(actual) & np.isfinite(failure.expected)
    if odd.any():
        return Explanation("inf", f"{_count(odd)} of {failure.name} are infinite{_where(odd)}")
    return None


def _precision(failure: Failure, actual: Array64) -> Explanation | None:
    """Right as far as a shorter format holds it: no value uses the last bits of float32."""
    if not _is_rich(failure.expected):
        return None
    finite = actual[np.isfinite(actual) & (actual != 0)]
    mantissas = (np.frexp(finite)[0] * 2.0**24).astype(np.int64)
    used = int(np.bitwise_or.reduce(mantissas))
    bits = 24 - ((used & -used).bit_length() - 1)
    if not 4 <= bits <= 21:
        return None
    room = 2.0 ** (1 - bits) * np.abs(failure.expected) + failure.bound
    same = (actual == failure.expected) | (np.isnan(actual) & np.isnan(failure.expected))
    if not np.all(same | (np.abs(actual - failure.expected) <= room)):
        return None
    kind = {8: ", as bfloat16 has", 11: ", as float16 and TF32 have"}.get(bits, "")
    words = f"{failure.name} has {bits} bits of mantissa{kind}; float32 has 24"
    return Explanation("precision", words)


def _ratios(failure: Failure) -> Iterator[tuple[float, str, str]]:
    """Factors that a mistake makes: the factor, a code, and the words for it."""
    n, c, *spatial = (*failure.shape, 1, 1)[: max(2, len(failure.shape))]
    s = int(np.prod(spatial))
    w = failure.weight
    yield 0.0, "zero", "is 0 everywhere"
    yield -1.0, "sign", "has the wrong sign"
    if failure.is_gradient and w not in (0.0, 1.0):
        off = "is off by exactly 1/loss_weight: the top diff is ignored"
        yield 1 / w, "ignores-top-diff", off
        yield -1 / w, "ignores-top-diff", off + ", and the sign is wrong"
        yield w, "weight-twice", "is off by exactly loss_weight: the top diff is applied twice"
    if not failure.is_gradient and w not in (0.0, 1.0):
        yield w, "weight-in-loss", "is multiplied with loss_weight: Caffe does that itself"
    divisors = {
        c * s: f"1/(C*S) = 1/{c * s}: divided by the count of the input, not by N",
        c: f"1/C = 1/{c}: averaged over the channels, not summed",
        s: f"1/S = 1/{s}: divided by the spatial extent as well",
        n: f"1/N = 1/{n}: divided by N twice",
    }
    for divisor, words in divisors.items():
        if divisor > 1:
            yield 1 / divisor, "normaliser", f"is off by {words}"
    yield 2 / (c * s), "normaliser", f"is off by 2/(C*S) = 2/{c * s}: as torch's MSELoss divides"
    if n > 1:
        yield float(n), "normaliser", f"is off by N = {n}: not divided by N"
    yield 2.0, "factor-2", "is twice what it should be: the 1/2 of 1/(2N)"
    yield 0.5, "factor-2", "is half of what it should be: the 1/2 of 1/(2N)"
    if failure.is_gradient and w not in (0.0, 1.0):
        for divisor, words in divisors.items():
            if divisor > 1:
                both = f"is off by {words}; and by 1/loss_weight: the top diff is ignored"
                yield 1 / (divisor * w), "ignores-top-diff", both


def _ratio(failure: Failure, actual: Array64) -> Explanation | None:
    expected = failure.expected
    if not np.any(expected):
        return None
    found = [
        (code, words)
        for factor, code, words in _ratios(failure)
        if _fits(failure, actual, factor * expected)
    ]
    if found:  # where N, C or the weight coincide, one case alone cannot tell them apart
        words = "; or ".join(dict.fromkeys(words for _, words in found))
        return Explanation(found[0][0], f"{failure.name} {words}")
    if not _is_rich(expected):
        return None
    largest = np.unravel_index(int(np.argmax(np.abs(expected))), expected.shape)
    factor = float(actual[largest] / expected[largest])
    if np.isfinite(factor) and _fits(failure, actual, factor * expected):  # one nobody named
        fraction = Fraction(factor).limit_denominator(LARGEST_COUNT)
        exact = f" ({fraction})" if abs(float(fraction) / factor - 1) < CLOSE else ""
        words = f"{failure.name} is {factor:.7g}{exact} times what it should be, everywhere"
        return Explanation("constant-factor", words)
    return None


def _rearranged(failure: Failure, actual: Array64) -> Explanation | None:
    """The right values in the wrong places."""
    expected, name = failure.expected, failure.name
    if not _is_rich(expected):
        return None
    for axis in range(expected.ndim):
        what = {0: "the batch", 1: "the channels"}.get(axis, f"spatial axis {axis}")
        for shift in (1, -1):
            if _fits(failure, actual, np.roll(expected, shift, axis)):
                words = f"{name} is shifted by {shift} along {what} (axis {axis})"
                return Explanation("rolled", words)
        if _fits(failure, actual, np.flip(expected, axis)):
            return Explanation("reversed", f"{name} is reversed along {what} (axis {axis})")
    for first in range(expected.ndim):
        for second in range(first + 1, expected.ndim):
            swapped = np.swapaxes(expected, first, second).reshape(expected.shape)
            if _fits(failure, actual, swapped):
                axes = "H and W" if (first, second) == (2, 3) else f"axes {first} and {second}"
                return Explanation("swapped-axes", f"{name} has {axes} swapped")
    return None


def _rival(failure: Failure, actual: Array64) -> Explanation | None:
    """Another formula."""
    for rival in failure.rivals():
        predicted = rival.predicted.get(failure.tensor)
        if predicted is None:
            continue
        rounding = rival.rounding.get(failure.tensor, SLACK * np.max(failure.bound))
        if _fits(failure, actual, predicted.reshape(failure.expected.shape), rounding):
            return Explanation(rival.code, rival.words.format(tensor=failure.name))
    return None


def _factors(failure: Failure, actual: Array64) -> Explanation | None:
    """A factor of its own for each sample, or for each channel."""
    expected = failure.expected
    if expected.ndim < 2 or not np.all(np.isfinite(expected)):
        return None
    for axis, what in ((0, "sample"), (1, "channel")):
        # Too few different values in a slice, and any wrong ones have a factor.
        if expected.shape[axis] < 2 or np.unique(np.take(expected, 0, axis)).size < 4:
            continue
        rest = tuple(other for other in range(expected.ndim) if other != axis)
        squares = np.sum(expected * expected, axis=rest, keepdims=True)
        factors = np.sum(actual * expected, axis=rest, keepdims=True) / squares
        if np.all(np.isfinite(factors)) and _fits(failure, actual, factors * expected):
            shown = ", ".join(f"{factor:.6g}" for factor in factors.reshape(-1)[:6])
            words = f"{failure.name} has a factor of its own for each {what}: {shown}"
            return Explanation(f"per-{what}-factor", words)
    return None


def _offset(failure: Failure, actual: Array64) -> Explanation | None:
    """The same amount too much everywhere."""
    if not _is_rich(failure.expected):
        return None
    offset = float(np.median(actual - failure.expected))
    if _fits(failure, actual, failure.expected + offset, CLOSE * abs(offset)):
        return Explanation("offset", f"{failure.name} is {offset:.7g} too much, everywhere")
    return None


def _saturated(failure: Failure, actual: Array64) -> Explanation | None:
    """Right between two limits, and at a limit beyond them."""
    if not _is_rich(failure.expected):
        return None
    low, high = float(np.min(actual)), float(np.max(actual))
    if low < high and _fits(failure, actual, np.clip(failure.expected, low, high)):
        wrong = _wrong(failure, actual)
        words = f"{_count(wrong)} of {failure.name} are cut off at {low:.7g} or {high:.7g}"
        return Explanation("saturated", words)
    return None


def _broadcast(failure: Failure, actual: Array64) -> Explanation | None:
    """One slice or the mean of an axis, repeated along it."""
    expected = failure.expected
    if not _is_rich(expected):
        return None
    for axis in range(expected.ndim):
        if expected.shape[axis] < 2:
            continue
        for slice_, what in (
            (np.take(expected, [0], axis), "its first slice"),
            (np.take(expected, [-1], axis), "its last slice"),
            (np.mean(expected, axis, keepdims=True), "its mean"),
            (np.sum(expected, axis, keepdims=True), "its sum"),
        ):
            if _fits(failure, actual, np.broadcast_to(slice_, expected.shape)):
                words = f"{failure.name} repeats {what} along axis {axis}"
                return Explanation("broadcast", words)
    return None


def _is_rich(expected: Array64) -> bool:
    """Whether the truth has enough different values for a pattern in it to mean anything."""
    return expected.size > 8 and np.unique(expected).size > 8


HYPOTHESES = (
    _not_finite,
    _precision,
    _ratio,
    _rearranged,
    _rival,
    _broadcast,
    _offset,
    _saturated,
    _factors,
)
"""In the order in which they are tried: what is known for certain first, what fits easily last."""


def _scattered(failure: Failure, actual: Array64) -> Explanation:
    """No hypothesis fits: how many elements, where, and by how much."""
    wrong = _wrong(failure, actual)
    name = failure.name
    if actual.ndim == 0:
        relative = float((actual - failure.expected) / failure.expected) if failure.expected else 1
        return Explanation("value", f"{name} is off by {relative:.3g} of its value")
    place = np.unravel_index(
        int(np.argmax(np.where(wrong, np.abs(actual - failure.expected), -1.0))), actual.shape
    )
    expected = failure.expected[place]
    by = f"{actual[place] - expected:.3g}"
    if expected:
        by += f", {100 * (actual[place] - expected) / expected:.3g} % of it"
    return Explanation(
        "elements" if wrong.mean() < 0.5 else "value",
        f"{_count(wrong)} of {name} are wrong{_where(wrong)}; the worst by {by}",
    )


def _count(wrong: npt.NDArray[np.bool_]) -> str:
    if wrong.ndim == 0:
        return "the value"
    return f"{np.count_nonzero(wrong)} of {wrong.size} elements"


def _where(wrong: npt.NDArray[np.bool_]) -> str:
    """The one index, or the indices of the axes along which only some are wrong."""
    if wrong.ndim == 0 or wrong.all():
        return ""
    places = np.argwhere(wrong)
    if len(places) == 1:
        return f" (at {places[0].tolist()})"
    parts = []
    for axis in range(wrong.ndim):
        touched = np.unique(places[:, axis])
        if len(touched) < wrong.shape[axis]:
            shown = ", ".join(str(index) for index in touched[:6])
            parts.append(f"axis {axis}: {shown}{', ...' if len(touched) > 6 else ''}")
    return f" ({'; '.join(parts)})" if parts else ""


ROWS, COLUMNS = 12, 48
"""The largest picture of an error, in characters."""


def picture(failure: Failure) -> str:
    """The error over the last two axes of the worst sample and channel, one character an element.

    `.` is within the bound, a digit is how many powers of ten beyond it (9 for more), `N` a NaN.
    """
    actual = failure.actual
    if actual.ndim < 2:
        return ""
    with np.errstate(all="ignore"):
        fraction = np.abs(actual - failure.expected) / failure.bound
        fraction = np.where(actual == failure.expected, 0.0, fraction)
        fraction = np.where(np.isnan(fraction), np.inf, fraction)
    place = np.unravel_index(int(np.argmax(fraction)), fraction.shape)
    plane = fraction[place[:-2]][:ROWS, :COLUMNS]
    odd = np.isnan(actual[place[:-2]])[:ROWS, :COLUMNS]
    with np.errstate(divide="ignore"):
        powers = np.clip(np.ceil(np.log10(np.maximum(plane, 1e-300))), 1, 9)
    lines = [f"{failure.name}[{', '.join(map(str, place[:-2]))}{', ' if place[:-2] else ''}:, :]"]
    for row in range(plane.shape[0]):
        characters = [
            "N" if odd[row, column] else "." if plane[row, column] <= 1 else str(int(power))
            for column, power in enumerate(powers[row])
        ]
        lines.append("  " + "".join(characters))
    return "\n".join(lines)
