"""Smooth L1 in a test file of one's own: a Caffe layer and a port against one reference."""

import smooth_l1

import caffe_parity

LAYER = caffe_parity.Layer(
    "smooth_l1",
    reference=smooth_l1.loss,
    inputs={"x1": (4, 3, 5), "x2": (4, 3, 5)},
    variants={
        "caffe-python": caffe_parity.python_layer("smooth_l1_layer.py:SmoothL1LossLayer"),
        "torch-port": smooth_l1.port,
    },
)


@caffe_parity.parametrize(LAYER)
def test_parity(comparison):
    """Every variant computes the reference's loss and its gradients."""
    comparison.check()
