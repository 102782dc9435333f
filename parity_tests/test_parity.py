"""The main job: every variant against the float64 reference, case by case."""

from __future__ import annotations

import pytest

from caffe_parity.engine.judge import Outcome
from parity_tests.machine import not_run


def test_parity(verdict: Outcome) -> None:
    """A variant computes each case of its layer within the rounding bound of the reference."""
    if verdict.verdict == "not run":
        not_run(verdict.reason)
    if not verdict.agrees:
        words = [each.words for each in verdict.explanations.values()] or [verdict.reason]
        pytest.fail(f"{verdict.verdict}: {'; '.join(words)}", pytrace=False)
