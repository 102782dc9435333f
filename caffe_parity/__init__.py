"""Proof that a Caffe layer and its PyTorch counterpart compute the same, in tests of one's own.

    import caffe_parity

    LAYER = caffe_parity.Layer(
        "smooth_l1",
        reference=reference,
        inputs={"x1": (4, 3, 5), "x2": (4, 3, 5)},
        variants={
            "caffe-python": caffe_parity.python_layer("layers/smooth_l1.py:SmoothL1LossLayer"),
            "torch-port": SmoothL1(),
        },
    )

    @caffe_parity.parametrize(LAYER)
    def test_parity(comparison):
        comparison.check()

What is named here is public, and nothing else is.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caffe_parity.contract import BadRequest, Bound, Case, Expectation, Finding, ParityError
    from caffe_parity.engine.caffe_net import CaffeNet
    from caffe_parity.engine.port import Port
    from caffe_parity.layer import BadLayer, Layer, Rival
    from caffe_parity.nets import net, python_layer
    from caffe_parity.testing import Comparison, parametrize

__all__ = [
    "BadLayer",
    "BadRequest",
    "Bound",
    "CaffeNet",
    "Case",
    "Comparison",
    "Expectation",
    "Finding",
    "Layer",
    "ParityError",
    "Port",
    "Rival",
    "net",
    "parametrize",
    "python_layer",
]

_MODULES = {
    "contract": ("BadRequest", "Bound", "Case", "Expectation", "Finding", "ParityError"),
    "engine.caffe_net": ("CaffeNet",),
    "engine.port": ("Port",),
    "layer": ("BadLayer", "Layer", "Rival"),
    "nets": ("net", "python_layer"),
    "testing": ("Comparison", "parametrize"),
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for when it is: pytest's plugin, in here too, needs no PyTorch."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"caffe_parity.{module}"), name)
    raise AttributeError(f"module 'caffe_parity' has no attribute {name!r}")
