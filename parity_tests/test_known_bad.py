"""The suite can fail: every known-bad layer is refused, and for the right reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import cache

import pytest

from caffe_parity.engine.judge import judge
from caffe_parity.report.record import Record
from parity_tests.answers import verdict_if_right
from parity_tests.bad_nets import net_of
from reference.cases import by_name
from reference.layers import LAYERS
from reference.rounding import DX1, DX2

ALL = ("loss", DX1, DX2)


@dataclass(frozen=True)
class KnownBad:
    """A known-bad layer and what the suite must say of it.

    Attributes:
        name: its class in known_bad.py.
        tensors: the tensors that must fail; all others must agree.
        code, words: of the explanation, or else of the finding, that most failures must get.
    """

    name: str
    tensors: tuple[str, ...]
    code: str
    words: str


KNOWN_BAD = (
    KnownBad("IgnoresTopDiff", (DX1, DX2), "ignores-top-diff", "off by exactly 1/loss_weight"),
    KnownBad("WrongSign", (DX2,), "sign", "wrong sign"),
    KnownBad("DividedByCount", ALL, "normaliser", "divided by the count"),
    KnownBad("ChannelCountAsAxis", ALL, "wrong-axis", "the number of channels (3)"),
    KnownBad("OneElement", (DX1,), "elements", "1 of "),
    KnownBad("SecondNeverWritten", (DX2,), "unwritten-diff", "never written"),
    KnownBad("Accumulates", (DX1, DX2), "accumulates-diff", "added to"),
    KnownBad("NotANumber", (DX1,), "nan", "NaN"),
    KnownBad("StaleForward", ALL, "stale-state", "the one of the pass before"),
    KnownBad("HeightAndWidthSwapped", (DX1, DX2), "swapped-axes", "H and W swapped"),
    KnownBad("BatchRolled", (DX1, DX2), "rolled", "along the batch"),
    KnownBad("FewerBits", (DX1, DX2), "precision", "18 bits of mantissa; float32 has 24"),
)


@cache
def records(bad: KnownBad) -> list[Record]:
    """The verdict on every case but the two large ones, which only take time."""
    layer = replace(LAYERS["channel_sum"], variants={bad.name: net_of(bad.name)})
    return [
        judge(layer, bad.name, case) for case in layer.all_cases() if "million" not in case.name
    ]


@pytest.mark.parametrize("bad", KNOWN_BAD, ids=lambda bad: bad.name)
def test_it_is_refused(bad: KnownBad) -> None:
    """The suite's own cases fail for every known-bad layer."""
    assert any(each.wrong for each in records(bad))


@pytest.mark.parametrize("bad", KNOWN_BAD, ids=lambda bad: bad.name)
def test_only_what_is_bad_fails(bad: KnownBad) -> None:
    """Forward and each diff are judged apart: what a bad layer does right is not blamed.

    Where both bottoms are one blob, its diff is the sum of both, and wrong if one of them is.
    """
    apart = [each for each in records(bad) if each.case != "same-blob"]
    failed = {name for each in apart for name, tensor in each.tensors.items() if tensor.wrong}
    assert failed == set(bad.tensors)


@pytest.mark.parametrize("bad", KNOWN_BAD, ids=lambda bad: bad.name)
def test_explanation_is_the_right_one(bad: KnownBad) -> None:
    """The explanation that most failures get names what is bad."""
    findings = [found for each in records(bad) for found in each.findings]
    codes = Counter(each.cause or each.code.partition(":")[0] for each in findings)
    assert codes.most_common(1)[0][0] == bad.code, codes
    assert any(bad.words in each.words for each in findings)


def test_good_layer_is_not_refused() -> None:
    """The layer that the others are made from agrees everywhere: it is what is bad that fails."""
    layer = LAYERS["channel_sum"]
    for each in records(KnownBad("Good", (), "", "")):
        assert each.verdict == verdict_if_right(layer, by_name(each.case)), each.case
