"""The three layers: each formula with the truth and the rounding bound that belong to it."""

from __future__ import annotations

from functools import partial
from types import ModuleType

from caffe_parity.contract import Layer
from reference import channel_sum, euclidean, rounding, tail_sum, truth


def _layer(name: str, summed: str, module: ModuleType) -> Layer:
    return Layer(
        name=name,
        summed=summed,
        evaluate=partial(truth.evaluate, module.loss),
        bound=partial(rounding.bound, summed),
        refuses=module.refuses,
    )


LAYERS: dict[str, Layer] = {
    layer.name: layer
    for layer in (
        _layer("euclidean", "none", euclidean),
        _layer("channel_sum", "channel", channel_sum),
        _layer("tail_sum", "tail", tail_sum),
    )
}
"""Every layer by name, in the order in which they are reported."""
