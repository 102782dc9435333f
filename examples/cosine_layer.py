r"""Cosine loss: the mean of 1 - cos(x1, x2).

Check it with

    parity check examples/cosine_layer.py:CosineLossLayer \
        --bottom x1=5,7 --bottom x2=5,7 --reference examples/cosine.py:loss
"""

import caffe
import numpy as np


class CosineLossLayer(caffe.Layer):
    """bottom[0], bottom[1]: (N, C), no row of them 0."""

    def setup(self, bottom, top):
        if len(bottom) != 2:
            raise ValueError("CosineLoss needs 2 bottoms")

    def reshape(self, bottom, top):
        if tuple(bottom[0].shape) != tuple(bottom[1].shape):
            raise ValueError("the bottoms must have one shape")
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.lengths, self.units = [], []
        for index in range(2):
            length = np.sqrt(np.sum(bottom[index].data ** 2, axis=1, keepdims=True))
            self.lengths.append(length)
            self.units.append(bottom[index].data / length)
        self.cosine = np.sum(self.units[0] * self.units[1], axis=1, keepdims=True)
        top[0].data[...] = np.mean(1 - self.cosine)

    def backward(self, top, propagate_down, bottom):
        scale = top[0].diff.flat[0] / bottom[0].shape[0]
        for index in range(2):
            if propagate_down[index]:
                across = self.cosine * self.units[index] - self.units[1 - index]
                bottom[index].diff[...] = scale * across / self.lengths[index]
