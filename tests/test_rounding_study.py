"""The study of error/bound can find a violation, and finds none in a short run."""

from __future__ import annotations

import pytest

from studies import rounding_study


def test_study_counts_violations() -> None:
    """The study is no rubber stamp: a ratio above 1, or NaN, is a violation."""
    counted = rounding_study.Distribution()
    for ratio in (0.0, 0.5, 1.0, 1.0001, float("nan")):
        counted.add(ratio, 0.0)
    assert counted.violations == 2
    assert counted.counts == {None: 1, -1: 1, 0: 1, 1: 1, rounding_study.HIGHEST: 1}


def test_short_study_finds_no_violation(capsys: pytest.CaptureFixture[str]) -> None:
    """A hundred random cases of one Caffe variant and one port, with the printed figures."""
    for name in ("caffe-convolution", "torch-function"):
        assert rounding_study.main(["--cases", "100", "--variant", name]) == 0
    assert "0 violations" in capsys.readouterr().out
