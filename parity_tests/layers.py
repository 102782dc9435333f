"""The three layers with all their variants: what `tox -e parity` compares."""

from __future__ import annotations

from dataclasses import replace

from caffe_impl.variants import variants as caffe_variants
from caffe_parity import Layer
from reference.layers import LAYERS as FORMULAS
from torch_impl.variants import variants as torch_variants

_CAFFE, _TORCH = caffe_variants(), torch_variants()

LAYERS: dict[str, Layer] = {
    name: replace(layer, variants={**_CAFFE[name], **_TORCH[name]})
    for name, layer in FORMULAS.items()
}
"""By name, in the order in which they are reported; a new variant is added to its framework's."""
