r"""Euclidean loss over the elements that a mask leaves, divided by how many they are.

Check it with

    parity check examples/masked_layer.py:MaskedLossLayer \
        --bottom x1=3,2,4 --bottom x2=3,2,4 --bottom mask=3,2,4 --data mask=binary \
        --reference examples/masked.py:loss
"""

import caffe
import numpy as np


class MaskedLossLayer(caffe.Layer):
    """Three bottoms of one shape; bottom[2] is 0 or 1. An empty mask gives 0."""

    def setup(self, bottom, top):
        if len(bottom) != 3:
            raise ValueError("MaskedLoss needs 3 bottoms")

    def reshape(self, bottom, top):
        if len({tuple(bottom[index].shape) for index in range(3)}) != 1:
            raise ValueError("the bottoms must have one shape")
        top[0].reshape(1)

    def forward(self, bottom, top):
        mask = bottom[2].data
        self.d = mask * (bottom[0].data - bottom[1].data)
        self.count = max(np.sum(mask), 1)
        top[0].data[...] = np.sum(self.d * self.d) / (2 * self.count)

    def backward(self, top, propagate_down, bottom):
        scale = top[0].diff.flat[0] / self.count
        for index, sign in ((0, 1), (1, -1)):
            if propagate_down[index]:
                bottom[index].diff[...] = sign * scale * self.d
