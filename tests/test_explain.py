"""The explanations are right: each kind of corruption gets its own words, thin evidence none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

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
        said = _of_a_loss(reference, lambda x1, x2, f=reference: n * f(x1, x2), (n, 5, 11))
        assert ("not divided by N" in said[of]) == (name == "mean" and n != 2), said
        assert name == "mean" or "N*C*S" not in said[of]


def test_a_reference_of_one_batch_size_is_no_mean() -> None:
    """Where it is not known whether the reference divides by N, no N is missing."""
    fixed = lambda x1, x2: ((x1 - x2).reshape(3, 77) ** 2).mean()  # noqa: E731
    said = _of_a_loss(fixed, lambda x1, x2: 3 * fixed(x1, x2), (3, 7, 11))
    assert "divided" not in said["loss"] and "3" in said[DX1]


def test_what_is_flushed_to_0_is_told_as_that() -> None:
    """Not as a diff that nobody wrote; beside it, what is right stays right."""
    tiny = np.float32(2.0**-131) * np.arange(1, 25, dtype=np.float32).reshape(4, 6)
    bound = np.full(tiny.shape, 2.0**-149)
    for expected, some in ((tiny, "24 of 24"), (np.where(tiny > tiny[1, 3], 1.0, tiny), "10 of 24")):
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
