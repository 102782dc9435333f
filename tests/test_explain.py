"""The explanations are right: each kind of corruption gets its own words, thin evidence none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from caffe_parity import Case, Layer
from caffe_parity.contract import GRADIENT, UNIT_ROUNDOFF, Array32, Array64, Shape
from caffe_parity.engine.compare import wrong
from caffe_parity.engine.explain import Failure, explain, picture
from reference.cases import by_name, case_of
from reference.layers import LAYERS
from tests.answers import right

DX1, DX2 = GRADIENT + "x1", GRADIENT + "x2"


@dataclass(frozen=True)
class Corruption:
    """A kind of mistake, and the code that its explanation must have.

    Attributes:
        make: the wrong tensor from the right one, the case, and what the diff held before.
        tensors: those that it makes sense for.
    """

    name: str
    code: str
    make: Callable[[Array64, Case, float], Array64]
    tensors: tuple[str, ...] = (DX1, DX2)


def _one_unwritten(right: Array64, poison: float) -> Array64:
    wrong = right.copy()
    wrong[0, 0] = poison
    return wrong


def _one_nan(right: Array64) -> Array64:
    wrong = right.copy()
    wrong[-1] = np.nan
    return wrong


def _one_element(right: Array64) -> Array64:
    wrong = right.copy()
    wrong.reshape(-1)[np.argmax(np.abs(right))] *= 1.0005
    return wrong


def _bfloat16(right: Array64) -> Array64:
    bits = right.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(np.float64)


def _count(case: Case) -> int:
    return int(np.prod(case.shapes["x1"][1:]))


def _per_channel(right: Array64) -> Array64:
    return right * (1 + 0.1 * np.arange(right.shape[1])).reshape(1, -1, *[1] * (right.ndim - 2))


def _per_sample(right: Array64) -> Array64:
    return right * (1 + 0.1 * np.arange(right.shape[0])).reshape(-1, *[1] * (right.ndim - 1))


ALL = ("loss", DX1, DX2)
CORRUPTIONS = (
    Corruption("weight ignored", "ignores-top-diff", lambda t, c, p: t / c.weight),
    Corruption("weight twice", "weight-twice", lambda t, c, p: t * c.weight),
    Corruption("weight in the loss", "weight-in-loss", lambda t, c, p: t * c.weight, ("loss",)),
    Corruption("sign", "sign", lambda t, c, p: -t),
    Corruption("zero", "zero", lambda t, c, p: 0 * t, ALL),
    Corruption("by count", "normaliser", lambda t, c, p: t / _count(c), ALL),
    Corruption("as MSELoss", "normaliser", lambda t, c, p: 2 * t / _count(c), ALL),
    Corruption("not by N", "normaliser", lambda t, c, p: t * c.shapes["x1"][0], ALL),
    Corruption("factor 2", "factor-2", lambda t, c, p: 2 * t, ALL),
    Corruption("factor 1/2", "factor-2", lambda t, c, p: t / 2, ALL),
    Corruption("factor 1.01", "constant-factor", lambda t, c, p: 1.01 * t),
    Corruption("batch rolled", "rolled", lambda t, c, p: np.roll(t, 1, 0)),
    Corruption("height rolled", "rolled", lambda t, c, p: np.roll(t, -1, 2)),
    Corruption("batch reversed", "reversed", lambda t, c, p: t[::-1]),
    Corruption("swapped", "swapped-axes", lambda t, c, p: t.swapaxes(2, 3).reshape(t.shape)),
    Corruption("unwritten", "unwritten-diff", lambda t, c, p: np.full_like(t, p)),
    Corruption("partly unwritten", "unwritten-diff", lambda t, c, p: _one_unwritten(t, p)),
    Corruption("accumulated", "accumulates-diff", lambda t, c, p: t + p),
    Corruption("nan", "nan", lambda t, c, p: _one_nan(t)),
    Corruption("infinite", "inf", lambda t, c, p: np.where(t == t.max(), np.inf, t)),
    Corruption("offset", "offset", lambda t, c, p: t + 0.125),
    Corruption("clipped", "saturated", lambda t, c, p: np.clip(t, -0.3, 0.3)),
    Corruption("first row", "broadcast", lambda t, c, p: np.broadcast_to(t[:, :, :1], t.shape)),
    Corruption("row mean", "broadcast", lambda t, c, p: 0 * t + t.mean(2, keepdims=True)),
    Corruption("factor by channel", "per-channel-factor", lambda t, c, p: _per_channel(t)),
    Corruption("factor by sample", "per-sample-factor", lambda t, c, p: _per_sample(t)),
    Corruption("float16", "precision", lambda t, c, p: t.astype(np.float16)),
    Corruption("bfloat16", "precision", lambda t, c, p: _bfloat16(t)),
    Corruption("one element", "elements", lambda t, c, p: _one_element(t)),
)  # fmt: skip
CASES = ("base", "odd", "weight-3.7", "weight-minus-2", "positive-odd", "channels-3-7", "only-dx1")


def spoilt(
    corruption: Corruption, tensor: str, case: Case
) -> tuple[dict[str, dict[str, Array32]], Failure]:
    """What channel_sum would answer with this mistake in every pass, and what is known of it.

    The right answer is a rounded one, too.
    """
    answered = right(LAYERS["channel_sum"], case)
    [expected] = answered.asked.expected
    rng = np.random.RandomState(0)
    noise = 1 + UNIT_ROUNDOFF * rng.uniform(-1, 1, expected.truth[tensor].shape)
    poisons = {each.name: each.poison for each in answered.plan.passes}
    passes = {}
    for name in answered.compared:
        spoilt = corruption.make(expected.truth[tensor] * noise, case, poisons[name])
        passes[name] = {tensor: np.asarray(spoilt).astype(np.float32)}
    known = Failure(
        tensor,
        tensor.replace(GRADIENT, "d"),
        tensor != "loss",
        expected.truth[tensor],
        expected.bound.worst[tensor],
        passes["first"][tensor].astype(np.float64),
        wrong(tensor, passes["first"][tensor], expected),
        case.shapes["x1"],
        weight=case.weight,
    )
    return passes, known


def explained(corruption: Corruption) -> list[tuple[str, str, str]]:
    """Case, tensor and code, or cause, of every finding about a corruption."""
    found = []
    for name in CASES:
        case = by_name(name)
        if case.weight == 1 and "weight" in corruption.name:
            continue  # it shows at other weights only
        for tensor in corruption.tensors:
            if tensor.removeprefix(GRADIENT) not in (*case.wanted, "loss"):
                continue
            passes, _ = spoilt(corruption, tensor, case)
            findings = right(LAYERS["channel_sum"], case).judged(**passes).findings
            codes = [each.cause or each.code.partition(":")[0] for each in findings]
            found.append((name, tensor, ", ".join(codes)))
    return found


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda corruption: corruption.name)
def test_corruption_gets_the_right_words(corruption: Corruption) -> None:
    """At least nine of ten failures of each kind are explained as what they are."""
    codes = explained(corruption)
    right = [code == corruption.code for _, _, code in codes]
    assert len(right) >= 4
    assert sum(right) >= 0.9 * len(right), codes


def test_random_noise_is_not_explained() -> None:
    """Where no hypothesis fits, how much is wrong is said and nothing else."""

    def noisy(t: Array64, c: Case, p: float) -> Array64:
        return t + np.random.RandomState(1).standard_normal(t.shape)

    corruption = Corruption("noise", "value", noisy)
    assert {code for _, _, code in explained(corruption)} <= {"value", "elements"}


def test_thin_evidence_is_not_explained() -> None:
    """A few numbers fit any pattern: of them only exact factors with a meaning are named."""
    corruption = Corruption("off", "value", lambda t, c, p: 1.2345 * t + 0.1, ALL)
    for name in ("one-number", "one-element"):
        for tensor in ALL:
            _, known = spoilt(corruption, tensor, by_name(name))
            assert explain(known).code == "few"


def test_stale_result_is_recognised_by_the_pass_before() -> None:
    """The right loss of the pass with other inputs, again; a constant is none."""
    answered = right(LAYERS["channel_sum"], by_name("base"))
    before = answered.passes["other"]["loss"]
    stale = {name: {"loss": before} for name in answered.compared}
    assert [each.code for each in answered.judged(**stale).findings] == ["stale-state"]
    constant = {"loss": np.full((), 12.5, np.float32)}
    always = dict.fromkeys((*answered.compared, "other"), constant)
    [found] = answered.judged(**always).findings
    assert (found.code, found.cause) == ("forward-value", "constant")


def test_extent_of_1_is_no_cause() -> None:
    """Without spatial axes, that the top diff is ignored is the one cause."""
    _, known = spoilt(CORRUPTIONS[0], DX1, by_name("weight-3.7-two-axes"))
    assert explain(known).words == "dx1 is off by exactly 1/loss_weight: the top diff is ignored"


def test_coinciding_factors_are_told_without_a_cause() -> None:
    """At weight 4 with N = 4, "weight ignored" and "divided by N twice" are one factor."""
    case = case_of("both", (4, 3, 5, 6), loss_weight=4)
    _, known = spoilt(CORRUPTIONS[0], DX1, case)
    assert explain(known).words == "dx1 is 0.25 (1/4) times what it should be, everywhere"


def test_top_diff_ignored_at_weight_0_is_recognised() -> None:
    """There every gradient is 0, and one that is not is that of another weight."""
    case = by_name("weight-0")
    answered = right(LAYERS["channel_sum"], case)
    ones = {"loss": np.ones((), np.float32)}
    at_1 = answered.asked.truth(answered.asked.inputs, ones)[DX1].astype(np.float32)
    passes = {name: {DX1: at_1} for name in answered.compared}
    [found] = [each for each in answered.judged(**passes).findings if each.tensor == DX1]
    assert found.code == "ignores-top-diff"
    assert found.words == "dx1 is not 0 at loss weight 0: the top diff is ignored"


def test_infinity_where_none_is_right_is_counted() -> None:
    """At a kink any number is right, and an infinity is not; it is no pattern's element either."""
    expected = np.arange(1.0, 361.0).reshape(4, 90)
    bound = np.full_like(expected, 1e-6)
    bound[1, 2] = np.inf
    actual = expected.copy()
    actual[1, 2] = np.inf
    failure = Failure(DX1, "dx1", True, expected, bound, actual, actual != expected, (4, 90))
    assert explain(failure).words == "1 of 360 elements of dx1 are infinite (at [1, 2])"
    doubled = replace(failure, actual=2 * actual, wrong=2 * actual != expected)
    words = "1 of 360 elements of dx1 are infinite (at [1, 2]); beside them, dx1 is twice"
    assert explain(doubled).words.startswith(words)


@pytest.mark.parametrize("factor", [1 / 3, 1 / 5, 5.0, 2 / 15])
def test_layer_that_is_no_loss_is_not_told_of_a_normaliser(factor: float) -> None:
    """Its tops have no N: a factor is told as the number that it is."""
    expected = np.random.RandomState(0).standard_normal((5, 3, 5))
    bound = np.full_like(expected, 1e-6)
    everywhere = np.ones(expected.shape, np.bool_)
    failure = Failure(
        "y", "y", False, expected, bound, factor * expected, everywhere, (5, 3, 5), is_loss=False
    )
    assert explain(failure).code == "constant-factor"
    assert explain(replace(failure, is_loss=True)).code in ("normaliser", "one-of-several")


def _of_a_loss(
    reference: Callable[..., torch.Tensor], made: Callable[..., torch.Tensor], shape: Shape
) -> dict[str, str]:
    """What is said of each tensor of a loss that computes another formula, by its tensor."""
    given = [reference, made]
    layers = [Layer("l", reference=each, inputs={"x1": shape, "x2": shape}) for each in given]
    should, does = (right(each, each.case(0)) for each in layers)
    found = should.judged(**does.passes).findings
    return {each.tensor: each.words for each in found}


ABSOLUTE = {
    "summed": lambda x1, x2: (x1 - x2).abs().sum(),
    "by N": lambda x1, x2: (x1 - x2).abs().sum() / len(x1),
    "averaged": lambda x1, x2: (x1 - x2).abs().mean(),
}
NORMALISED = {
    ("averaged", "summed"): "is off by N*C*S = 210: summed, not averaged over all elements",
    ("averaged", "by N"): "is off by C*S = 42: divided by N, not by the count of the input",
    ("by N", "summed"): "is off by N = 5: not divided by N",
    ("by N", "averaged"): "is off by 1/(C*S) = 1/42: divided by the count of the input, not by N",
    ("summed", "by N"): "is off by 1/N = 1/5: divided by N once too often",
    ("summed", "averaged"): "is off by 1/(N*C*S) = 1/210: averaged over all elements, not summed",
}


@pytest.mark.parametrize(("should", "does"), NORMALISED)
def test_what_an_l1_loss_is_divided_by_is_told(should: str, does: str) -> None:
    """Its gradients have two values only, and each factor is still a cause."""
    said = _of_a_loss(ABSOLUTE[should], ABSOLUTE[does], (5, 3, 2, 7))
    for tensor in ("loss", DX1, DX2):
        assert said[tensor].endswith(NORMALISED[should, does]), said


@pytest.mark.parametrize("n", [2, 3, 4, 7])
@pytest.mark.parametrize("of", ["loss", DX1])
def test_a_factor_of_n_is_no_missing_n_where_there_is_none(n: int, of: str) -> None:
    """A reference that sums has no N to be forgotten, also where the factor happens to be N."""
    square = {"sum": lambda x1, x2: ((x1 - x2) ** 2).sum(), "mean": lambda x1, x2: (x1 * x2).mean()}
    for name, reference in square.items():

        def larger(x1: Any, x2: Any, of: Callable[..., Any] = reference) -> Any:
            return n * of(x1, x2)

        told = _of_a_loss(reference, larger, (n, 5, 11))
        assert ("not divided by N" in told[of]) == (name == "mean" and n != 2), told
        assert name == "mean" or "N*C*S" not in told[of]


def test_a_reference_of_one_batch_size_is_no_mean() -> None:
    """Where it is not known whether the reference divides by N, no N is missing."""

    def fixed(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
        return ((x1 - x2).reshape(3, 77) ** 2).mean()

    told = _of_a_loss(fixed, lambda x1, x2: 3 * fixed(x1, x2), (3, 7, 11))
    assert "divided" not in told["loss"] and "3" in told[DX1]


def test_what_is_flushed_to_0_is_told_as_that() -> None:
    """Not as a diff that nobody wrote; beside it, what is right stays right."""
    tiny = np.float32(2.0**-131) * np.arange(1, 25, dtype=np.float32).reshape(4, 6)
    bound = np.full(tiny.shape, 2.0**-149)
    for expected, some in (
        (tiny, "24 of 24"),
        (np.where(tiny > tiny[1, 3], 1.0, tiny), "10 of 24"),
    ):
        truth = expected.astype(np.float64)
        actual = np.where(truth < 2.0**-126, 0.0, truth)
        failure = Failure(DX1, "dx1", True, truth, bound, actual, actual != truth, (4, 6))
        words = f"{some} elements of dx1 are flushed to 0: below float32's smallest normal number"
        assert explain(failure).words.startswith(words)
        other = replace(failure, actual=0 * actual, wrong=truth != 0, expected=truth * 2.0**20)
        assert explain(other).words == "dx1 is 0 everywhere: never written, or detached"


def test_picture_shows_where_it_is_wrong() -> None:
    """One character for each element of the worst plane: dots, powers of ten, N for a NaN."""

    def spoil(t: Array64, c: Case, p: float) -> Array64:
        wrong = t.copy()
        wrong[2, 1, 3, 4] = 1e6
        wrong[2, 1, 0, 0] = np.nan
        return wrong

    _, known = spoilt(Corruption("spot", "", spoil), DX1, by_name("base"))
    lines = picture(known).splitlines()
    assert lines[0] == "dx1[2, 1, :, :]"
    assert lines[1] == "  N....."
    assert lines[4] == "  ....9."
    assert lines[5] == "  ......"


def failed(
    expected: Array64,
    actual: Array64,
    bound: Array64 | float = 1e-6,
    shape: Shape | None = None,
    is_loss: bool = False,
) -> Failure:
    """A tensor "y" that is wrong wherever it is beyond its bound."""
    room = np.broadcast_to(np.asarray(bound, np.float64), expected.shape)
    with np.errstate(invalid="ignore"):
        off = ~(np.abs(actual - expected) <= room)
        off &= ~((actual == expected) | (np.isnan(actual) & np.isnan(expected)))
    return Failure(
        "y", "y", False, expected, room, actual, off, shape or expected.shape, is_loss=is_loss
    )


def said(expected: Array64, actual: Array64, **more: Any) -> str:
    """The code and the words of what is said of it."""
    found = explain(failed(expected, actual, **more))
    return f"{found.code}: {found.words}"


def rich(*shape: int) -> Array64:
    """Values between 1 and 2 of either sign, all different."""
    size = int(np.prod(shape))
    signs = np.where(np.arange(size) % 3 == 1, -1.0, 1.0)
    values = signs * (1 + np.random.RandomState(0).permutation(size) / size)
    return np.asarray(values.reshape(shape))


AXES = {0: "the batch", 1: "the channels", 2: "spatial axis 2", 3: "spatial axis 3"}


@pytest.mark.parametrize("shape", [(4, 3, 5, 7), (5, 4, 6), (6, 9)])
def test_values_in_the_wrong_places_are_told_by_axis(shape: Shape) -> None:
    """Shifted either way, reversed, repeated, or two axes for one another."""
    x = rich(*shape)
    for axis, what in list(AXES.items())[: len(shape)]:
        place = f"along {what} (axis {axis})"
        for shift in (1, -1):
            assert said(x, np.roll(x, shift, axis)) == f"rolled: y is shifted by {shift} {place}"
        assert said(x, np.flip(x, axis)) == f"reversed: y is reversed {place}"
        for index, name in ((0, "first"), (-1, "last")):
            one = np.broadcast_to(np.take(x, [index], axis), shape)
            assert said(x, one) == f"broadcast: y repeats its {name} slice along axis {axis}"
        for name, of in (("mean", np.mean), ("sum", np.sum)):
            one = np.broadcast_to(of(x, axis=axis, keepdims=True), shape)
            assert said(x, one) == f"broadcast: y repeats its {name} along axis {axis}"
    for first in range(len(shape)):
        for second in range(first + 1, len(shape)):
            swapped = np.swapaxes(x, first, second).reshape(shape)
            axes = "H and W" if (first, second) == (2, 3) else f"axes {first} and {second}"
            assert said(x, swapped) == f"swapped-axes: y has {axes} swapped"


@pytest.mark.parametrize("number", [0.25, -0.25, 3.0, 1e-3])
def test_an_offset_is_told_with_its_direction(number: float) -> None:
    """How much, and whether too much or too little."""
    much = "much" if number > 0 else "little"
    x = rich(4, 3, 5)
    assert said(x, x + number) == f"offset: y is {abs(number):.7g} too {much}, everywhere"
    assert said(x, 0 * x + 7.25) == "one-value: y is 7.25 everywhere"


def test_limits_are_told_that_are_reached() -> None:
    """One, or both; in how many elements."""
    x = rich(4, 3, 5)
    low, high = int(np.sum(x < -1.5)), int(np.sum(x > 1.5))
    assert (
        said(x, np.minimum(x, 1.5)) == f"saturated: {high} of 60 elements of y are cut off at 1.5"
    )
    assert (
        said(x, np.maximum(x, -1.5)) == f"saturated: {low} of 60 elements of y are cut off at -1.5"
    )
    words = f"saturated: {low + high} of 60 elements of y are cut off at -1.5 or 1.5"
    assert said(x, np.clip(x, -1.5, 1.5)) == words


def test_factors_of_slices_are_listed() -> None:
    """Up to six; a "?" where the truth is 0, so that there is none."""
    x = rich(7, 5, 3)
    by = 1 + np.arange(7.0)
    words = "y has a factor of its own for each sample: 1, 2, 3, 4, 5, 6, ..."
    assert said(x, x * by[:, None, None]) == f"per-sample-factor: {words}"
    x[:, 2] = 0
    by = np.array([1.0, 0.5, 9.0, -2.0, 0.25])
    words = "y has a factor of its own for each channel: 1, 0.5, ?, -2, 0.25"
    assert said(x, x * by[None, :, None]) == f"per-channel-factor: {words}"
    flat = rich(6, 4)  # four different values in each, which is enough
    assert said(flat, flat * (1 + np.arange(6.0))[:, None]).startswith("per-sample-factor: ")
    two = rich(2, 9, 5)
    two[1] *= 3
    words = "y has a factor of its own for each sample: 1, 3"
    assert said(rich(2, 9, 5), two) == f"per-sample-factor: {words}"
    few = np.sign(rich(7, 5, 3)) * (1 + np.arange(3.0))  # of three sizes in a slice
    assert not said(few, few * (1 + np.arange(7.0))[:, None, None]).startswith("per-")


@pytest.mark.parametrize("bits", range(2, 25))
def test_bits_of_mantissa_are_counted(bits: int) -> None:
    """From 4 to 21, the least that tells a format from a coincidence, and float32 from less."""
    x = rich(6, 5, 7)
    with_bits = np.round(x * 2.0 ** (bits - 1)) / 2.0 ** (bits - 1)
    kind = {8: ", as bfloat16 has", 11: ", as float16 and TF32 have"}.get(bits, "")
    words = f"precision: y has {bits} bits of mantissa{kind}; float32 has 24"
    assert (said(x, with_bits, bound=1e-12) == words) == (4 <= bits <= 21)
    zero, another = x.copy(), with_bits.copy()
    zero[1, 2, 3] = another[1, 2, 3] = 0  # exactly right, with a bound of 0
    assert (said(zero, another, bound=0.0) == words) == (4 <= bits <= 21)
    off = with_bits.copy()
    off[0, 0, 0] += 2.0 ** (2 - bits)  # it has as many bits, and is wrong by more than they explain
    assert not said(x, off, bound=1e-12).startswith("precision")


@pytest.mark.parametrize("count", [2, 3, 7, 63, 64, 65, 100])
def test_a_factor_is_told_as_a_quotient_of_small_counts(count: int) -> None:
    """Up to 64, beyond which one is found for any number."""
    x = rich(4, 3, 5)
    for above in (1, count - 1):
        factor = above / count
        quotient = f" ({above}/{count})" if count <= 64 else ""
        if factor != 0.5:
            words = f"y is {factor:.7g}{quotient} times what it should be, everywhere"
            assert said(x, factor * x) == f"constant-factor: {words}"
    assert said(x, x / 2) == "factor-2: y is half of what it should be: a 2 is missing"
    assert said(x, 2 * x) == "factor-2: y is twice what it should be: a 1/2 is missing"
    assert said(x, -x) == "sign: y has the wrong sign"
    assert said(x, 3 * x) == "constant-factor: y is 3 times what it should be, everywhere"


@pytest.mark.parametrize("different", [7, 8, 9, 10])
def test_patterns_need_more_than_eight_different_values(different: int) -> None:
    """Of fewer, any numbers have one."""
    x = np.resize(1 + np.arange(float(different)), 60).reshape(4, 15)
    patterns = (x + 0.3, 1.7 * x, np.minimum(x, different - 2), 0 * x + 2.3, np.flip(x, 1))
    for actual in patterns:
        code = explain(failed(x, actual)).code
        plain = code in ("few", "elements")
        assert plain == (different <= 8), (different, code)


def test_what_is_not_finite_is_counted_and_placed() -> None:
    """NaN and infinities on one side, and what else is wrong beside them."""
    x = rich(4, 3, 5)
    nan, inf = x.copy(), x.copy()
    nan[2, 1], inf[3, 0, 4] = np.nan, -np.inf
    assert said(x, nan) == "nan: 5 of 60 elements of y are NaN (axis 0: 2; axis 1: 1)"
    assert said(x, inf) == "inf: 1 of 60 elements of y are infinite (at [3, 0, 4])"
    assert said(nan, x) == (
        "not-nan: 5 of 60 elements of y are no NaN where the reference's are NaN "
        "(axis 0: 2; axis 1: 1)"
    )
    assert said(inf, x) == (
        "finite: 1 of 60 elements of y are finite where the reference's are infinite (at [3, 0, 4])"
    )
    beside = (
        "nan: 5 of 60 elements of y are NaN (axis 0: 2; axis 1: 1); beside them, y is twice what"
    )
    assert said(x, 2 * nan).startswith(beside)
    number = np.asarray(2.5)
    assert said(number, np.asarray(np.nan)) == "nan: y is NaN, expected 2.5"
    assert said(number, np.asarray(-np.inf)) == "inf: y is -inf, expected 2.5"


@pytest.mark.parametrize("shape", [(), (3, 20)])
def test_truth_beyond_float32_is_told_as_an_infinity(shape: Shape) -> None:
    """No percentage, and no factor, of a number that float32 does not have."""
    x = rich(*shape)
    words = said(1e50 * x, x)
    assert words.startswith(
        "finite: y is 1, expected inf (1e+50"
        if not shape
        else "finite: 60 of 60 elements of y are finite where the reference's are infinite ("
    )
    assert words.endswith("e+50 overflows float32)")
    x = np.abs(rich(4, 15))  # beside it, what is wrong is told as ever
    truth = x.copy()
    truth[1, 2] = 1e50
    assert "; beside them, y is twice what it should be" in said(truth, 2 * x)


def test_some_elements_that_are_wrong_alike_are_told_so() -> None:
    """One value, the wrong sign, or a factor, and where; two of them at least."""
    x = rich(4, 5, 6)
    changes: dict[str, Callable[[Any], Any]] = {
        "are 3.5": lambda part: 0 * part + 3.5,
        "have the wrong sign": lambda part: -part,
        "are 0.3333333 (1/3) times what they should be": lambda part: part / 3,
    }
    for words, change in changes.items():
        some, one = x.copy(), x.copy()
        some[1:3, 2] = change(some[1:3, 2])
        assert (
            said(x, some) == f"elements: 12 of 120 elements of y {words} (axis 0: 1, 2; axis 1: 2)"
        )
        one[1, 2, 3] = change(one[1, 2, 3])
        assert said(x, one).startswith("elements: 1 of 120 elements of y are wrong (at [1, 2, 3]);")


def test_where_and_by_how_much_is_told_without_an_explanation() -> None:
    """The axes along which only some are wrong, the first six; the worst, and what part of it."""
    x = rich(9, 8, 3)
    noise = 1e-2 * rich(9, 8, 3)[::-1, ::-1]
    for rows, where in (
        (slice(2, 4), " (axis 0: 2, 3)"),
        (slice(0, 8), " (axis 0: 0, 1, 2, 3, 4, 5, ...)"),
        (slice(3, 9), " (axis 0: 3, 4, 5, 6, 7, 8)"),
        (slice(0, 9), ""),
    ):
        off = x.copy()
        off[rows] += noise[rows]
        count = off[rows].size
        off[rows.start, 0, 0] = 3 * x[rows.start, 0, 0]
        by, part = 2 * x[rows.start, 0, 0], 200
        code = "elements" if count < 108 else "value"
        words = (
            f"{count} of 216 elements of y are wrong{where}; the worst by {by:.3g}, {part} % of it"
        )
        assert said(x, off) == f"{code}: {words}"
    x[4, 5, 1] = 0
    off = x.copy()
    off[4, 5, 1] = -8
    words = "1 of 216 elements of y are wrong (at [4, 5, 1]); the worst by -8"
    assert said(x, off) == f"elements: {words}"
    number = np.asarray(2.0)
    assert said(number, np.asarray(2.6)) == "few: y is off by 0.3 of its value: 2.6, expected 2"
    assert said(0 * number, np.asarray(2.6)) == "few: y is 2.6, expected 0"


def test_an_explanation_must_fit_the_elements_that_are_known_alone() -> None:
    """At a kink anything may stand; what lies just beyond the room of a prediction is no fit."""
    x = rich(4, 5, 6)
    bound = np.full(x.shape, 1e-6)
    bound[1] = np.inf
    kinked = 3 * x
    kinked[1] = 1e3
    known = failed(x, kinked, bound=bound)
    assert explain(replace(known, wrong=known.wrong & np.isfinite(bound))).words == (
        "y is 3 times what it should be"
    )
    for by, fits in ((7e-6, True), (3e-5, False)):  # the room is 8 bounds, and 16 u of the value
        off = 3 * x
        off[2, 2, 2] += by
        assert (explain(failed(x, off)).code == "constant-factor") == fits
    near = x * (1 + 2e-6)  # wrong, and yet the prediction is as near to the truth
    assert explain(failed(x, near)).code == "few"
    no_pattern = x + 1e-2 * np.cos(np.arange(x.size)).reshape(x.shape)
    assert explain(failed(x, no_pattern)).code == "value"


def test_a_divisor_beside_an_ignored_top_diff_is_told_with_it() -> None:
    """Two mistakes of one line, of a gradient alone, at a weight that tells them apart."""
    n, c, s = 7, 3, 55
    x = rich(n, c, 5, 11)
    divided = {
        c * s: f"1/(C*S) = 1/{c * s}: divided by the count of the input, not by N",
        c: f"1/C = 1/{c}: averaged over the channels, not summed",
        s: f"1/S = 1/{s}: divided by the spatial extent as well",
        n: f"1/N = 1/{n}: divided by N once too often",
    }
    for count, words in divided.items():
        both = replace(failed(x, x / (3.7 * count), is_loss=True), weight=3.7, is_gradient=True)
        assert explain(both).code == "ignores-top-diff"
        ignored = "and by 1/loss_weight: the top diff is ignored"
        assert explain(both).words == f"y is off by {words}; {ignored}"
        assert explain(replace(both, is_gradient=False)).code == "constant-factor"
        assert explain(replace(both, weight=1.0)).code == "constant-factor"


@pytest.mark.parametrize(
    ("shape", "factor", "words"),
    [
        ((7, 1), 1 / 7, "1/N = 1/7: divided by N once too often"),
        ((7, 1), 7, "N = 7: not divided by N"),
        ((7, 1, 1), 1 / 7, "1/N = 1/7: divided by N once too often"),
        ((1, 3, 5), 1 / 15, "1/(C*S) = 1/15: divided by the count of the input, not by N"),
        ((1, 3, 5), 15, "C*S = 15: divided by N, not by the count of the input"),
        ((1, 5), 1 / 5, "1/C = 1/5: averaged over the channels, not summed"),
        ((7, 5), 1 / 5, "1/C = 1/5: averaged over the channels, not summed"),
        ((7, 5), 1 / 25, "1/C^2 = 1/25: averaged over the channels, not summed, and squared"),
        ((7, 5), 1 / 35, "1/(N*C*S) = 1/35: averaged over all elements, not summed"),
        ((7, 5), 35, "N*C*S = 35: summed, not averaged over all elements"),
        ((7, 1, 5), 1 / 5, "1/S = 1/5: divided by the spatial extent as well"),
        ((7, 5, 3), 2 / 15, "2/(C*S) = 2/15: as torch's MSELoss divides"),
    ],
)
def test_a_count_that_is_another_one_as_well_is_told_once(
    shape: Shape, factor: float, words: str
) -> None:
    """Where an extent is 1, several counts are the same, and one cause is left."""
    x = rich(*shape)
    assert said(x, factor * x, is_loss=True) == f"normaliser: y is off by {words}"


def test_picture_has_twelve_rows_and_48_columns() -> None:
    """The plane in which the worst element lies; each digit is a power of ten."""
    x = np.zeros((2, 3, 15, 60))
    off = x.copy()
    off[1, 2, 0, :6] = (0.9e-6, 1.1e-6, 9e-6, 11e-6, 1e-3, 1e9)
    off[1, 2, 1, 47], off[1, 2, 11, 48], off[1, 2, 12, 0] = -2e-6, 5.0, 5.0
    lines = picture(failed(x, off)).splitlines()
    assert lines[0] == "y[1, 2, :, :]" and len(lines) == 13
    assert lines[1] == "  .11239" + "." * 42
    assert lines[2] == "  " + "." * 47 + "1"
    assert set("".join(lines[3:])) == {" ", "."}
    assert picture(failed(rich(9), 2 * rich(9))) == ""
    assert picture(failed(rich(2, 3), 2 * rich(2, 3))).splitlines()[0] == "y[:, :]"
