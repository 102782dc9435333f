"""Says what a wrong tensor means: which line of thinking is off, in words.

An explanation is a hypothesis that predicts the whole tensor: it is given only when every element
lies within rounding of the prediction, and the prediction itself lies well away from the truth.
Where none fits, the explanation says how much is wrong and no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

import numpy as np

from caffe_parity.contract import LITTLE, UNIT_ROUNDOFF, Array64, Shape
from caffe_parity.engine.compare import Bools, as_float32
from caffe_parity.layer import Rival

SLACK = 8
"""How many bounds a prediction may be off: a wrong formula rounds elsewhere than the right one."""

CLOSE = 16 * UNIT_ROUNDOFF
"""The relative rounding that is granted to a prediction on top: a factor has some of its own."""

FAINT = 16
"""So many times that rounding an error must be, somewhere, for a pattern that does not fit to be
none: a smaller one is half rounding itself."""

LARGEST_COUNT = 64
"""Up to which a factor is told as a quotient of two counts, such as labels that are left over all.
Some 3/pi^2 * 64^2 = 1245 quotients lie in [0, 1], each 2 * CLOSE wide: by chance one in 400 is."""

SMALLEST = 2.0**-126
"""The smallest normal float32: what is smaller has fewer bits, or is flushed to 0."""


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
        expected, bound: the truth and its bound, float64; where the bound is infinite (a kink, an
            overflow, an element that was not written), no hypothesis is held against the element.
        actual: what was computed; of the truth's shape.
        wrong: which elements do not agree.
        shape: (N, C, S...) of the input that a normaliser may come from.
        is_loss: whether it is a loss or a loss's gradient: others have no loss weight and no N.
        weight: the upstream gradient, where it is one number, else 1.
        unweighted: at loss weight 0, the gradient at 1.
        rivals: other formulas that it may be.
        averages: whether the reference's loss is a mean over the samples; where it is none, no
            factor comes of an N that is missing.
    """

    tensor: str
    name: str
    is_gradient: bool
    expected: Array64
    bound: Array64
    actual: Array64
    wrong: Bools
    shape: Shape
    is_loss: bool = True
    weight: float = 1.0
    unweighted: Array64 | None = None
    rivals: Callable[[], Iterator[Rival]] = lambda: iter(())
    averages: Callable[[], bool] = lambda: True

    @cached_property
    def known(self) -> Bools:
        """The elements that a hypothesis must predict."""
        known: Bools = np.isfinite(self.bound) & np.isfinite(self.expected)
        return known

    @cached_property
    def is_rich(self) -> bool:
        """Whether the truth has enough different values for a pattern in it to mean anything."""
        return np.unique(self.expected[self.known]).size > FEW

    def only(self, elements: Bools) -> Failure:
        """As if the truth of the others were not known, and they were right."""
        bound = np.where(elements, self.bound, np.inf)
        return replace(self, bound=bound, wrong=self.wrong & elements)


def explain(failure: Failure) -> Explanation:
    """The first hypothesis that predicts the whole tensor, or what can be said without one.

    A truth that float32 does not reach is an infinity.
    """
    held = np.asarray(as_float32(failure.expected), np.float64)
    beyond = failure.wrong & np.isinf(held) & np.isfinite(failure.expected)
    if beyond.any():
        found = _explain(replace(failure, expected=held))
        largest = max(failure.expected[beyond].tolist(), key=abs)
        return replace(found, words=f"{found.words} ({largest:.7g} overflows float32)")
    return _explain(failure)


def _explain(failure: Failure) -> Explanation:
    with np.errstate(all="ignore"):
        for hypothesis in HYPOTHESES:
            found = hypothesis(failure)
            if found is not None:
                return (_rival(failure) if found.code in LITTLE else None) or found
        return _not_finite(failure) or _same_mistake(failure) or _scattered(failure)


def _fits(failure: Failure, predicted: Array64, extra: Array64 | float = 0.0) -> bool:
    """Whether the prediction explains every element, and is not the truth itself.

    `extra` is the rounding of the prediction's own formula, where that is another one.
    """
    if failure.actual.shape != predicted.shape:
        return False
    known = failure.known
    room = _room(failure, predicted) + extra
    differs = known & (np.abs(predicted - failure.expected) > 4 * room)
    off = np.abs(failure.actual - predicted)
    same = (failure.actual == predicted) | (np.isnan(failure.actual) & np.isnan(predicted))
    right = same | (np.isfinite(off) & (off <= room))
    return bool(np.all(right | ~(known | failure.wrong)) and np.any(differs))


def _room(failure: Failure, predicted: Array64) -> Array64:
    """How far from a prediction a value is still explained by it."""
    known = failure.known
    bound = np.where(known, failure.bound, np.max(failure.bound, where=known, initial=0.0))
    return SLACK * bound + CLOSE * np.abs(predicted)


def _zero(failure: Failure) -> Explanation | None:
    """Nothing at all, where there should be something: of such a tensor any factor says little."""
    found = failure.actual[failure.known | failure.wrong]
    if np.any(found) or not np.any(failure.expected[failure.known]):
        return None
    why = "never written, or detached" if failure.is_gradient else "never written?"
    return Explanation("zero", f"{failure.name} is 0 everywhere: {why}")


def _flushed(failure: Failure) -> Explanation | None:
    """Nothing where there is less than the smallest normal number, and right elsewhere."""
    small = np.abs(failure.expected) < SMALLEST
    if not _fits(failure, np.where(small, 0.0, failure.expected)):
        return None
    which = f"{_count(failure.wrong)} of {failure.name} are" if small.ndim else f"{failure.name} is"
    words = f"{which} flushed to 0: below float32's smallest normal number, 1.2e-38"
    return Explanation("flushed", words)


def _precision(failure: Failure) -> Explanation | None:
    """Right as far as a shorter format holds it: no value uses the last bits of float32."""
    if not failure.is_rich or np.any(failure.wrong & ~failure.known):
        return None
    actual, expected = failure.actual[failure.known], failure.expected[failure.known]
    if not np.all(np.isfinite(actual)):
        return None
    mantissas = (np.frexp(actual[actual != 0])[0] * 2.0**24).astype(np.int64)
    used = int(np.bitwise_or.reduce(mantissas))
    bits = 24 - ((used & -used).bit_length() - 1)
    if not 4 <= bits <= 21:
        return None
    room = 2.0 ** (1 - bits) * np.abs(expected) + failure.bound[failure.known]
    if not np.all(np.abs(actual - expected) <= room):
        return None
    kind = {8: ", as bfloat16 has", 11: ", as float16 and TF32 have"}.get(bits, "")
    words = f"{failure.name} has {bits} bits of mantissa{kind}; float32 has 24"
    return Explanation("precision", words)


def _ratios(failure: Failure) -> Iterator[tuple[float, str, str]]:
    """Factors that a mistake makes: the factor, a code, and the words for it."""
    n, c, *spatial = (*failure.shape, 1, 1)[: max(2, len(failure.shape))]
    s = int(np.prod(spatial))
    w = failure.weight
    yield -1.0, "sign", "has the wrong sign"
    yield 2.0, "factor-2", "is twice what it should be: a 1/2 is missing"
    yield 0.5, "factor-2", "is half of what it should be: a 2 is missing"
    if not failure.is_loss:
        return
    if failure.is_gradient and w not in (0.0, 1.0):
        off = "is off by exactly 1/loss_weight: the top diff is ignored"
        yield 1 / w, "ignores-top-diff", off
        yield -1 / w, "ignores-top-diff", off + ", and the sign is wrong"
        yield w, "weight-twice", "is off by exactly loss_weight: the top diff is applied twice"
    if not failure.is_gradient and w not in (0.0, 1.0):
        yield w, "weight-in-loss", "is multiplied with loss_weight: Caffe does that itself"
    count, all_ = c * s, n * c * s
    divisors = [
        (c, f"1/C = 1/{c}: averaged over the channels, not summed"),
        (c * c, f"1/C^2 = 1/{c * c}: averaged over the channels, not summed, and squared"),
        (s, f"1/S = 1/{s}: divided by the spatial extent as well"),
        (n, f"1/N = 1/{n}: divided by N once too often"),
    ]
    if c > 1 and s > 1:  # else the count is one of the others
        words = f"1/(C*S) = 1/{count}: divided by the count of the input, not by N"
        divisors.insert(0, (count, words))
    if n > 1 and count > 1:
        divisors.append((all_, f"1/(N*C*S) = 1/{all_}: averaged over all elements, not summed"))
    divisors = [each for each in divisors if each[0] > 1]
    for divisor, words in divisors:
        yield 1 / divisor, "normaliser", f"is off by {words}"
    yield 2 / count, "normaliser", f"is off by 2/(C*S) = 2/{count}: as torch's MSELoss divides"
    if failure.averages():
        yield float(n), "normaliser", f"is off by N = {n}: not divided by N"
        if count > 1:
            words = f"is off by C*S = {count}: divided by N, not by the count of the input"
            yield float(count), "normaliser", words
        if n > 1 and count > 1:
            words = f"is off by N*C*S = {all_}: summed, not averaged over all elements"
            yield float(all_), "normaliser", words
    if failure.is_gradient and w not in (0.0, 1.0):
        for divisor, words in divisors:
            both = f"is off by {words}; and by 1/loss_weight: the top diff is ignored"
            yield 1 / (divisor * w), "ignores-top-diff", both


def _ratio(failure: Failure) -> Explanation | None:
    """The truth times one factor; what makes it is told where one thing only does."""
    expected = failure.expected
    looked_at = np.where(failure.known, np.abs(expected), 0.0)
    if not np.any(looked_at):
        return None
    found = [each for each in _ratios(failure) if _fits(failure, each[0] * expected)]
    if len({words for _, _, words in found}) == 1:
        _, code, words = found[0]
        return Explanation(code, f"{failure.name} {words}")
    largest = np.unravel_index(int(np.argmax(looked_at)), expected.shape)
    factor = float(failure.actual[largest] / expected[largest])
    if found:  # where N, C and the weight coincide, or the bound is wide, none can be told
        factors = [each for each, _, _ in found]
        if max(factors) - min(factors) > CLOSE * abs(factors[0]):
            return None
        factor = factors[0]
    elif not (failure.is_rich and np.isfinite(factor) and _fits(failure, factor * expected)):
        return None
    everywhere = ", everywhere" if expected.size > 1 and failure.known.all() else ""
    words = f"{failure.name} is {_factor(factor)} what it should be{everywhere}"
    return Explanation("one-of-several" if found else "constant-factor", words)


def _factor(factor: float) -> str:
    """A factor, with the quotient of small counts that it is: "0.3333333 (1/3) times"."""
    quotient = Fraction(factor).limit_denominator(LARGEST_COUNT)
    exact = quotient.denominator > 1 and abs(float(quotient) / factor - 1) < CLOSE
    return f"{factor:.7g}{f' ({quotient})' if exact else ''} times"


def _at_weight_0(failure: Failure) -> Explanation | None:
    """The gradient of another loss weight than 0, at which it must be 0."""
    if failure.unweighted is None or not _fits(failure, failure.unweighted):
        return None
    words = f"{failure.name} is not 0 at loss weight 0: the top diff is ignored"
    return Explanation("ignores-top-diff", words)


def _rearranged(failure: Failure) -> Explanation | None:
    """The right values in the wrong places."""
    expected, name = failure.expected, failure.name
    if not failure.is_rich:
        return None
    for axis in range(expected.ndim):
        what = {0: "the batch", 1: "the channels"}.get(axis, f"spatial axis {axis}")
        for shift in (1, -1):
            if _fits(failure, np.roll(expected, shift, axis)):
                words = f"{name} is shifted by {shift} along {what} (axis {axis})"
                return Explanation("rolled", words)
        if _fits(failure, np.flip(expected, axis)):
            return Explanation("reversed", f"{name} is reversed along {what} (axis {axis})")
    for first in range(expected.ndim):
        for second in range(first + 1, expected.ndim):
            swapped = np.swapaxes(expected, first, second).reshape(expected.shape)
            if _fits(failure, swapped):
                axes = "H and W" if (first, second) == (2, 3) else f"axes {first} and {second}"
                return Explanation("swapped-axes", f"{name} has {axes} swapped")
    return None


def _rival(failure: Failure) -> Explanation | None:
    """Another formula."""
    for rival in failure.rivals():
        predicted = rival.predicted.get(failure.tensor)
        if predicted is None:
            continue
        finite = np.max(failure.bound, where=failure.known, initial=0.0)
        rounding = rival.rounding.get(failure.tensor, SLACK * finite)
        if _fits(failure, predicted.reshape(failure.expected.shape), rounding):
            return Explanation(rival.code, rival.words.format(tensor=failure.name))
    return None


def _factors(failure: Failure) -> Explanation | None:
    """A factor of its own for each sample, or for each channel."""
    if failure.expected.ndim < 2 or not failure.is_rich:
        return None
    expected = np.where(failure.known, failure.expected, 0.0)
    actual = np.where(failure.known, failure.actual, 0.0)
    for axis, what in ((0, "sample"), (1, "channel")):
        rest = tuple(other for other in range(expected.ndim) if other != axis)
        squares = np.sum(expected * expected, axis=rest, keepdims=True)
        said = squares > 0
        # Too few different values in a slice, and any wrong ones have a factor.
        slices = np.moveaxis(expected, axis, 0)[said.reshape(-1)]
        if len(slices) < 2 or min(np.unique(each).size for each in slices) < 4:
            continue
        factors = np.sum(actual * expected, axis=rest, keepdims=True) / np.where(said, squares, 1)
        if np.all(np.isfinite(factors)) and _fits(failure, factors * failure.expected):
            parts = [
                f"{factor:.6g}" if one else "?"
                for factor, one in zip(factors.reshape(-1), said.reshape(-1), strict=True)
            ]
            shown = ", ".join(parts[:6]) + (", ..." if len(parts) > 6 else "")
            words = f"{failure.name} has a factor of its own for each {what}: {shown}"
            return Explanation(f"per-{what}-factor", words)
    return None


def _offset(failure: Failure) -> Explanation | None:
    """The same amount too much everywhere."""
    if not failure.is_rich:
        return None
    offset = float(np.median((failure.actual - failure.expected)[failure.known]))
    if _fits(failure, failure.expected + offset, CLOSE * abs(offset)):
        much = f"{abs(offset):.7g} too {'much' if offset > 0 else 'little'}"
        return Explanation("offset", f"{failure.name} is {much}, everywhere")
    return None


def _saturated(failure: Failure) -> Explanation | None:
    """Right between two limits, and at a limit beyond them."""
    actual, wrong = failure.actual[failure.known], failure.wrong
    if not failure.is_rich or not np.all(np.isfinite(actual)):
        return None
    low, high = float(np.min(actual)), float(np.max(actual))
    if low < high and _fits(failure, np.clip(failure.expected, low, high)):
        limits = [f"{each:.7g}" for each in (low, high) if np.any(failure.actual[wrong] == each)]
        words = f"{_count(wrong)} of {failure.name} are cut off at {' or '.join(limits)}"
        return Explanation("saturated", words)
    return None


def _broadcast(failure: Failure) -> Explanation | None:
    """One slice or the mean of an axis, repeated along it."""
    expected = failure.expected
    if not failure.is_rich:
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
            if _fits(failure, np.broadcast_to(slice_, expected.shape)):
                words = f"{failure.name} repeats {what} along axis {axis}"
                return Explanation("broadcast", words)
    return None


def _one_value(failure: Failure) -> Explanation | None:
    """One number in every element."""
    values = failure.actual[failure.known]
    if not failure.is_rich or np.any(values != values[0]) or not values[0]:
        return None
    return Explanation("one-value", f"{failure.name} is {values[0]:.7g} everywhere")


FEW = 8
"""Of so many different values and fewer, patterns say nothing."""

HYPOTHESES = (
    _flushed,
    _zero,
    _precision,
    _ratio,
    _at_weight_0,
    _rearranged,
    _rival,
    _broadcast,
    _offset,
    _one_value,
    _saturated,
    _factors,
)
"""In the order in which they are tried: what is known for certain first, what fits easily last."""


def _not_finite(failure: Failure) -> Explanation | None:
    """What is NaN or infinite on one side only; and what is wrong with the other elements."""
    actual, expected, wrong, name = failure.actual, failure.expected, failure.wrong, failure.name
    kinds = (
        ("nan", np.isnan(actual), "NaN"),
        ("not-nan", np.isnan(expected), "no NaN where the reference's are NaN"),
        ("inf", np.isinf(actual), "infinite"),
        ("finite", np.isinf(expected), "finite where the reference's are infinite"),
    )
    found = ((code, wrong & odd, what) for code, odd, what in kinds if np.any(wrong & odd))
    code, odd, what = next(found, ("", wrong, ""))
    if not code:
        return None
    if actual.ndim == 0:
        words = f"{name} is {actual:.7g}, expected {expected:.7g}".replace("nan", "NaN")
        return Explanation(code, words)
    words = f"{_count(odd)} of {name} are {what}{_where(odd)}"
    others = failure.only(~odd)
    beside = f"; beside them, {_explain(others).words}" if np.any(others.wrong) else ""
    return Explanation(code, words + beside)


def _same_mistake(failure: Failure) -> Explanation | None:
    """Some elements are wrong, and all of them in the same way."""
    wrong, name = failure.wrong, failure.name
    actual, expected = failure.actual[wrong], failure.expected[wrong]
    if actual.size < 2 or np.all(wrong | ~failure.known):
        return None
    which = f"{_count(wrong)} of {name} "
    if np.all(actual == actual[0]):
        return Explanation("elements", f"{which}are {actual[0] + 0.0:.7g}{_where(wrong)}")
    some = failure.only(wrong)
    sizes = np.unique(np.abs(expected)).size
    if sizes > FEW / 2 and _fits(some, -failure.expected):
        return Explanation("elements", f"{which}have the wrong sign{_where(wrong)}")
    if sizes <= FEW:
        return None
    largest = int(np.argmax(np.abs(expected)))
    factor = float(actual[largest] / expected[largest])
    if _fits(some, factor * failure.expected):
        words = f"{which}are {_factor(factor)} what they should be{_where(wrong)}"
        return Explanation("elements", words)
    return None


def _scattered(failure: Failure) -> Explanation:
    """No hypothesis fits: how many elements, where, and by how much."""
    actual, wrong, name = failure.actual, failure.wrong, failure.name
    if actual.ndim == 0:
        found, truth = float(actual), float(failure.expected)
        by = f"off by {(found - truth) / truth:.3g} of its value: " if truth else ""
        words = f"{name} is {by}{found:.7g}, expected {truth:.7g}"
        return Explanation("few", words)
    place = np.unravel_index(
        int(np.argmax(np.where(wrong, np.abs(actual - failure.expected), -1.0))), actual.shape
    )
    expected = failure.expected[place]
    by = f"{actual[place] - expected:.3g}"
    if expected:
        by += f", {100 * (actual[place] - expected) / expected:.3g} % of it"
    code = "elements" if wrong.mean() < 0.5 else "value"
    error = np.abs(actual - failure.expected)
    faint = np.all(error[wrong] <= FAINT * _room(failure, failure.expected)[wrong])
    return Explanation(
        code if failure.is_rich and not faint else "few",
        f"{_count(wrong)} of {name} are wrong{_where(wrong)}; the worst by {by}",
    )


def _count(wrong: Bools) -> str:
    return f"{np.count_nonzero(wrong)} of {wrong.size} elements"


def _where(wrong: Bools) -> str:
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
        fraction = np.where(np.isfinite(fraction), fraction, np.inf)
        fraction = np.where(failure.wrong, fraction, 0.0)
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
