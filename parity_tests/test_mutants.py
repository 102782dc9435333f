"""The suite can fail: every known-bad layer is refused, and for the right reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from caffe_impl.variants import LAYERS as PYTHON_LAYERS
from caffe_impl.variants import NETS, CaffeVariant
from caffe_parity.contract import Case
from caffe_parity.engine.judge import Outcome, judge
from reference.cases import CASES
from reference.layers import LAYERS

FOLDER = Path(__file__).parent / "known_bad"


@dataclass(frozen=True)
class Mutant:
    """A known-bad layer and what the suite must say of it.

    Attributes:
        name: its class in mutants.py.
        tensors: the tensors that must fail; all others must agree.
        code, words: the explanation that most failures must get.
    """

    name: str
    tensors: tuple[str, ...]
    code: str
    words: str


MUTANTS = (
    Mutant("IgnoresTopDiff", ("dx1", "dx2"), "ignores-top-diff", "off by exactly 1/loss_weight"),
    Mutant("WrongSign", ("dx2",), "sign", "wrong sign"),
    Mutant("DividedByCount", ("loss", "dx1", "dx2"), "normaliser", "divided by the count"),
    Mutant(
        "ChannelCountAsAxis", ("loss", "dx1", "dx2"), "wrong-axis", "the number of channels (3)"
    ),
    Mutant("OneElement", ("dx1",), "elements", "1 of "),
    Mutant("SecondNeverWritten", ("dx2",), "unwritten-diff", "never written"),
    Mutant("Accumulates", ("dx1", "dx2"), "accumulates-diff", "added to"),
    Mutant("NotANumber", ("dx1",), "nan", "NaN"),
    Mutant("StaleForward", ("loss", "dx1", "dx2"), "stale-state", "stale"),
    Mutant("HeightAndWidthSwapped", ("dx1", "dx2"), "swapped-axes", "H and W swapped"),
    Mutant("BatchRolled", ("dx1", "dx2"), "rolled", "along the batch"),
    Mutant("FewerBits", ("dx1", "dx2"), "precision", "18 bits of mantissa; float32 has 24"),
)


def variant(mutant: Mutant) -> CaffeVariant:
    """The mutant as a variant of channel_sum like any other."""
    text = (NETS / "channel_sum_python.prototxt").read_text()
    text = text.replace('"summed_euclidean_loss"', '"mutants"')
    text = text.replace('"SummedEuclideanLossLayer"', f'"{mutant.name}"')
    path = (str(PYTHON_LAYERS), str(FOLDER))
    return CaffeVariant(f"mutant-{mutant.name}", "channel_sum", lambda case: text, path=path)


def small_cases() -> list[Case]:
    """The cases that channel_sum allows, without the two large ones, which only take time."""
    refuses = LAYERS["channel_sum"].refuses
    return [
        case
        for case in CASES
        if not refuses(case.x1_shape, case.x2_shape) and "million" not in case.name
    ]


@cache
def outcomes(mutant: Mutant) -> list[Outcome]:
    """The mutant's verdict on every case."""
    return [judge(variant(mutant), case) for case in small_cases()]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_is_refused(mutant: Mutant) -> None:
    """The suite's own cases fail for every known-bad layer."""
    assert any(not outcome.agrees for outcome in outcomes(mutant))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_only_the_mutated_tensors_fail(mutant: Mutant) -> None:
    """Forward and each diff are judged apart: what a mutation leaves right is not blamed.

    Where both bottoms are one blob, its diff is the sum of both, and wrong if one of them is.
    """
    apart = [outcome for outcome in outcomes(mutant) if outcome.case != "same-blob"]
    failed = {
        name for outcome in apart for name, each in outcome.tensors.items() if not each.agrees
    }
    assert failed == set(mutant.tensors)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_explanation_is_the_right_one(mutant: Mutant) -> None:
    """The explanation that most failures get names the mutation."""
    explanations = [each for outcome in outcomes(mutant) for each in outcome.explanations.values()]
    codes = Counter(each.code for each in explanations)
    assert codes.most_common(1)[0][0] == mutant.code, codes
    assert any(mutant.words in each.words for each in explanations)


def test_good_layer_is_not_refused() -> None:
    """The layer that the mutants are made from agrees everywhere: it is the mutation that fails."""
    good = Mutant("Good", (), "", "")
    assert [outcome.case for outcome in outcomes(good) if not outcome.agrees] == []
