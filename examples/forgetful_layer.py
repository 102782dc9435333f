"""A loss with a mistake that loss weight 1 hides: its backward ignores the top diff.

    parity check examples/forgetful.prototxt --reference examples/forgetful.py:loss
    sed -i 's|self.sign / |top[0].diff.flat[0] * self.sign / |' examples/forgetful_layer.py
    parity check examples/forgetful.prototxt --reference examples/forgetful.py:loss

The first command finds it and says what it means, the second mends it, the third agrees.
"""

import caffe
import numpy as np


class ForgetfulL1LossLayer(caffe.Layer):
    """bottom[0], bottom[1]: (N, ...); top[0]: sum |x1 - x2| / N."""

    def setup(self, bottom, top):
        if len(bottom) != 2:
            raise ValueError("L1Loss needs 2 bottoms")

    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        d = bottom[0].data - bottom[1].data
        self.sign = np.sign(d)
        top[0].data[...] = np.sum(np.abs(d)) / bottom[0].shape[0]

    def backward(self, top, propagate_down, bottom):
        slope = self.sign / bottom[0].shape[0]
        for index, sign in ((0, 1), (1, -1)):
            if propagate_down[index]:
                bottom[index].diff[...] = sign * slope
