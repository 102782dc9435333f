r"""A layer that learns: each channel times a factor of its own, plus an offset.

Check it with

    parity check examples/channel_scale_layer.py:ChannelScaleLayer \
        --bottom x=3,4,2,5 --reference examples/channel_scale.py:scale
"""

import caffe
import numpy as np


class ChannelScaleLayer(caffe.Layer):
    """bottom[0]: (N, C, ...); blobs[0], blobs[1]: (C), the factors and the offsets."""

    def setup(self, bottom, top):
        if len(bottom) != 1:
            raise ValueError("ChannelScale needs 1 bottom")
        if not self.blobs:
            channels = bottom[0].shape[1]
            self.blobs.add_blob(channels)
            self.blobs.add_blob(channels)
            self.blobs[0].data[...] = 1
            self.blobs[1].data[...] = 0

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        factor, offset = (self.per_channel(blob.data, bottom[0]) for blob in self.blobs)
        top[0].data[...] = factor * bottom[0].data + offset

    def backward(self, top, propagate_down, bottom):
        dy = top[0].diff
        others = tuple(axis for axis in range(dy.ndim) if axis != 1)
        # Caffe has set these to 0; it counts on sums for iter_size and for shared parameters.
        self.blobs[0].diff[...] += np.sum(dy * bottom[0].data, axis=others)
        self.blobs[1].diff[...] += np.sum(dy, axis=others)
        if propagate_down[0]:
            bottom[0].diff[...] = dy * self.per_channel(self.blobs[0].data, bottom[0])

    @staticmethod
    def per_channel(values, bottom):
        """(C) as (1, C, 1, ...)."""
        return values.reshape([1, -1] + [1] * (len(bottom.shape) - 2))
