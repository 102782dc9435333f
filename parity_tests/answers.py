"""What a layer of the suite must give: the float64 truth and its bound, also on other arrays."""

from __future__ import annotations

from dataclasses import replace

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
