r"""Smooth L1 as detection nets use it: quadratic within 1, linear beyond, summed and divided by N.

Check it with

    parity check examples/smooth_l1_layer.py:SmoothL1LossLayer \
        --bottom x1=4,3,5 --bottom x2=4,3,5 --reference examples/smooth_l1.py:loss
"""

import caffe
import numpy as np


class SmoothL1LossLayer(caffe.Layer):
    """bottom[0], bottom[1]: (N, ...); top[0]: sum of f(x1 - x2) / N."""

    def setup(self, bottom, top):
        if len(bottom) != 2:
            raise ValueError("SmoothL1Loss needs 2 bottoms")

    def reshape(self, bottom, top):
        if tuple(bottom[0].shape) != tuple(bottom[1].shape):
            raise ValueError("the bottoms must have one shape")
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.d = bottom[0].data - bottom[1].data
        size = np.abs(self.d)
        values = np.where(size < 1, 0.5 * self.d * self.d, size - np.float32(0.5))
        top[0].data[...] = np.sum(values) / bottom[0].shape[0]

    def backward(self, top, propagate_down, bottom):
        slope = np.clip(self.d, -1, 1) * (top[0].diff.flat[0] / bottom[0].shape[0])
        for index, sign in ((0, 1), (1, -1)):
            if propagate_down[index]:
                bottom[index].diff[...] = sign * slope
