r"""Triplet loss: mean of max(0, |a - p|^2 - |a - n|^2 + margin).

Check it with

    parity check examples/triplet_layer.py:TripletLossLayer --param-str 0.3 \
        --bottom anchor=6,5 --bottom positive=6,5 --bottom negative=6,5 \
        --reference examples/triplet.py:loss
"""

import caffe
import numpy as np


class TripletLossLayer(caffe.Layer):
    """Three bottoms of shape (N, C); param_str: the margin."""

    def setup(self, bottom, top):
        if len(bottom) != 3:
            raise ValueError("TripletLoss needs 3 bottoms")
        self.margin = np.float32(self.param_str)

    def reshape(self, bottom, top):
        if len({tuple(bottom[index].shape) for index in range(3)}) != 1:
            raise ValueError("the bottoms must have one shape")
        top[0].reshape(1)

    def forward(self, bottom, top):
        anchor, positive, negative = [bottom[index].data for index in range(3)]
        near = np.sum((anchor - positive) ** 2, axis=1)
        far = np.sum((anchor - negative) ** 2, axis=1)
        hinge = near - far + self.margin
        self.active = (hinge > 0).astype(np.float32)[:, np.newaxis]  # N, 1
        top[0].data[...] = np.mean(np.maximum(hinge, 0))

    def backward(self, top, propagate_down, bottom):
        anchor, positive, negative = [bottom[index].data for index in range(3)]
        scale = self.active * (2 * top[0].diff.flat[0] / bottom[0].shape[0])
        slopes = (negative - positive, positive - anchor, anchor - negative)
        for index in range(3):
            if propagate_down[index]:
                bottom[index].diff[...] = scale * slopes[index]
