r"""A layer that is no loss: divides each sample by its length over the channels.

Check it with

    parity check examples/l2_normalize_layer.py:L2NormalizeLayer \
        --bottom x=3,4,2,5 --reference examples/l2_normalize.py:normalize
"""

import caffe
import numpy as np

TINY = np.float32(1e-6)  # added to the squares, so that a sample of zeros stays zeros


class L2NormalizeLayer(caffe.Layer):
    """bottom[0]: (N, C, ...); top[0]: of the same shape, of length 1 over axis 1."""

    def setup(self, bottom, top):
        if len(bottom) != 1:
            raise ValueError("L2Normalize needs 1 bottom")

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        x = bottom[0].data
        self.length = np.sqrt(np.sum(x * x, axis=1, keepdims=True) + TINY)
        top[0].data[...] = x / self.length

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            y, dy = top[0].data, top[0].diff
            along = np.sum(y * dy, axis=1, keepdims=True)
            bottom[0].diff[...] = (dy - y * along) / self.length
