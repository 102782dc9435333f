"""What a layer of the suite must give: the float64 truth and its bound, also on other arrays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from caffe_parity import Case, Layer
from caffe_parity.contract import Arrays, Expected, Structure
from caffe_parity.engine.expected import question
from caffe_parity.engine.judge import variant_of
from reference.layers import LAYERS

STRUCTURE = Structure(outputs=("loss",), is_loss=True)
"""What every layer of the suite is seen from outside."""


def expected_of(layer: Layer, case: Case, inputs: Arrays | None = None) -> Expected:
    """What the layer must give.

    Args:
        layer: one of the suite's.
        case: its loss weight, and what is shared.
        inputs: the arrays, where they are not those of the case.
    """
    if inputs is not None:
        case = replace(case, arrays=lambda case: inputs)
    [expected] = question(layer, case, STRUCTURE).expected
    return expected


def computed_layer(layer: Layer, name: str, case: Case) -> Layer:
    """The layer that a variant must compute on a case: its own, or the one that it says."""
    claim = variant_of(layer, name).expects(case)
    return LAYERS[claim.layer] if claim is not None and claim.kind == "as-layer" else layer


def verdict_if_right(layer: Layer, case: Case) -> str:
    """What is said of a right answer: "pass", or "unproven" where zeros would be as right.

    They are where every element of a tensor is smaller than its bound, or is no number, and not
    all of them are 0.
    """
    expected = expected_of(layer, case)
    for name, truth in expected.truth.items():
        worst = expected.bound.worst[name]
        there = np.where(np.isnan(truth) | np.isposinf(worst), 0.0, np.abs(truth))
        all_zero = not np.any(truth) and bool(np.all(np.isfinite(worst)))
        if not all_zero and not np.any(there > worst):
            return "unproven"
    return "pass"
