"""The main job: every variant against the float64 reference, case by case."""

from __future__ import annotations

import caffe_parity
from parity_tests.layers import LAYERS


@caffe_parity.parametrize(*LAYERS.values())
def test_parity(comparison: caffe_parity.Comparison) -> None:
    """A variant computes each case of its layer within the rounding bound of the reference."""
    comparison.check()
