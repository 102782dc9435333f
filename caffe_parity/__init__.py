"""Compares Caffe layers and PyTorch ports with a reference, in the tests of your own repository.

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

from caffe_parity.packages import own_packages

with own_packages():
    from caffe_parity.check.findings import Finding
    from caffe_parity.comparison import Comparison, parametrize
    from caffe_parity.layer import BadLayer, CaffeNet, Layer, PythonLayer, net, python_layer

__all__ = [
    "BadLayer",
    "CaffeNet",
    "Comparison",
    "Finding",
    "Layer",
    "PythonLayer",
    "net",
    "parametrize",
    "python_layer",
]
