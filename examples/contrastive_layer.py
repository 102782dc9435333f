r"""Contrastive loss: pairs that belong together attract, others repel up to a margin.

Check it with

    parity check examples/contrastive_layer.py:ContrastiveLossLayer --param-str 2 \
        --bottom x1=6,5 --bottom x2=6,5 --bottom same=6 --data same=binary \
        --reference examples/contrastive.py:loss
"""

import caffe
import numpy as np


class ContrastiveLossLayer(caffe.Layer):
    """bottom[0], bottom[1]: (N, C); bottom[2]: (N), 1 for a pair; param_str: the margin."""

    def setup(self, bottom, top):
        if len(bottom) != 3:
            raise ValueError("ContrastiveLoss needs 3 bottoms")
        self.margin = np.float32(self.param_str)

    def reshape(self, bottom, top):
        if tuple(bottom[0].shape) != tuple(bottom[1].shape):
            raise ValueError("the first two bottoms must have one shape")
        top[0].reshape(1)

    def forward(self, bottom, top):
        n = bottom[0].shape[0]
        self.d = bottom[0].data - bottom[1].data
        self.same = bottom[2].data.reshape(n, 1)
        self.distance = np.sqrt(np.sum(self.d * self.d, axis=1, keepdims=True))
        self.gap = np.maximum(self.margin - self.distance, 0)
        total = np.sum(self.same * self.distance**2 + (1 - self.same) * self.gap**2)
        top[0].data[...] = total / (2 * n)

    def backward(self, top, propagate_down, bottom):
        repel = self.gap / np.maximum(self.distance, np.float32(1e-12))
        slope = (self.same - (1 - self.same) * repel) * self.d
        slope *= top[0].diff.flat[0] / bottom[0].shape[0]
        for index, sign in ((0, 1), (1, -1)):
            if propagate_down[index]:
                bottom[index].diff[...] = sign * slope
