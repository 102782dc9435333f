r"""Sigmoid cross entropy with a weight for each element.

Check it with

    parity check examples/weighted_bce_layer.py:WeightedBCELossLayer \
        --bottom x=4,3,5 --bottom t=4,3,5 --bottom weight=4,3,5 \
        --data t=binary --data weight=positive --grad x \
        --reference examples/weighted_bce.py:loss
"""

import caffe
import numpy as np


class WeightedBCELossLayer(caffe.Layer):
    """bottom[0]: logits; bottom[1]: labels of 0 and 1; bottom[2]: weights. Divided by N."""

    def setup(self, bottom, top):
        if len(bottom) != 3:
            raise ValueError("WeightedBCELoss needs 3 bottoms")

    def reshape(self, bottom, top):
        if len({tuple(bottom[index].shape) for index in range(3)}) != 1:
            raise ValueError("the bottoms must have one shape")
        top[0].reshape(1)

    def forward(self, bottom, top):
        x, t, weight = [bottom[index].data for index in range(3)]
        values = np.maximum(x, 0) - x * t + np.log1p(np.exp(-np.abs(x)))
        top[0].data[...] = np.sum(weight * values) / bottom[0].shape[0]

    def backward(self, top, propagate_down, bottom):
        if propagate_down[1] or propagate_down[2]:
            raise ValueError("WeightedBCELoss has no gradient for labels and weights")
        if propagate_down[0]:
            x, t, weight = [bottom[index].data for index in range(3)]
            scale = top[0].diff.flat[0] / bottom[0].shape[0]
            bottom[0].diff[...] = scale * weight * (1 / (1 + np.exp(-x)) - t)
