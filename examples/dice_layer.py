r"""Soft Dice loss for segmentation: 1 - 2 sum(p t) / (sum p^2 + sum t^2), averaged over the batch.

Check it with

    parity check examples/dice_layer.py:DiceLossLayer \
        --bottom p=3,2,4,5 --bottom t=3,2,4,5 --data p=uniform:0,1 --data t=binary \
        --reference examples/dice.py:loss
"""

import caffe
import numpy as np

SMOOTH = np.float32(1)


class DiceLossLayer(caffe.Layer):
    """bottom[0]: probabilities (N, ...); bottom[1]: labels of 0 and 1, no gradient."""

    def setup(self, bottom, top):
        if len(bottom) != 2:
            raise ValueError("DiceLoss needs 2 bottoms")

    def reshape(self, bottom, top):
        if tuple(bottom[0].shape) != tuple(bottom[1].shape):
            raise ValueError("the bottoms must have one shape")
        top[0].reshape(1)

    def forward(self, bottom, top):
        n = bottom[0].shape[0]
        p, t = bottom[0].data.reshape(n, -1), bottom[1].data.reshape(n, -1)
        self.above = 2 * np.sum(p * t, axis=1, keepdims=True) + SMOOTH
        self.below = np.sum(p * p, axis=1, keepdims=True) + SMOOTH
        self.below += np.sum(t * t, axis=1, keepdims=True)
        top[0].data[...] = np.mean(1 - self.above / self.below)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[1]:
            raise ValueError("DiceLoss has no gradient for its labels")
        if propagate_down[0]:
            n = bottom[0].shape[0]
            p, t = bottom[0].data.reshape(n, -1), bottom[1].data.reshape(n, -1)
            slope = 2 * (p * self.above / self.below - t) / self.below
            slope *= top[0].diff.flat[0] / n
            bottom[0].diff[...] = slope.reshape(bottom[0].diff.shape)
