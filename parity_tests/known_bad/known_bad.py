"""Known-bad layers, each the good one with one line of thinking wrong. They run in a real Caffe.

Every class is a bug from the wild; `parity_tests/test_known_bad.py` says what the suite must say.
"""

import numpy as np
from summed_euclidean_loss import SummedEuclideanLossLayer as Good


class IgnoresTopDiff(Good):
    """The gradient of Caffe's own example layer: right at loss_weight 1 only."""

    def backward(self, top, propagate_down, bottom):
        top[0].diff[...] = 1
        Good.backward(self, top, propagate_down, bottom)


class WrongSign(Good):
    """x2's gradient with x1's sign."""

    def backward(self, top, propagate_down, bottom):
        Good.backward(self, top, propagate_down, bottom)
        if propagate_down[1]:
            bottom[1].diff[...] = -bottom[1].diff


class DividedByCount(Good):
    """A mean over all elements of the input where Caffe divides by N only."""

    def forward(self, bottom, top):
        Good.forward(self, bottom, top)
        top[0].data[...] *= np.float32(bottom[0].shape[0]) / np.float32(bottom[0].count)

    def backward(self, top, propagate_down, bottom):
        Good.backward(self, top, propagate_down, bottom)
        for i in range(2):
            if propagate_down[i]:
                bottom[i].diff[...] *= np.float32(bottom[0].shape[0]) / np.float32(bottom[0].count)


class ChannelCountAsAxis(Good):
    """`axis=shape[1]`: the number of channels taken for the number of the channel axis."""

    def summed(self, x):
        return x.sum(axis=x.shape[1], keepdims=True)


class OneElement(Good):
    """One element of one gradient off by 0.05 %."""

    def backward(self, top, propagate_down, bottom):
        Good.backward(self, top, propagate_down, bottom)
        if propagate_down[0]:
            largest = np.argmax(np.abs(bottom[0].diff))
            bottom[0].diff.flat[largest] *= np.float32(1.0005)


class SecondNeverWritten(Good):
    """A label needs no gradient, so x2's was left out."""

    def backward(self, top, propagate_down, bottom):
        Good.backward(self, top, [propagate_down[0], False], bottom)


class Accumulates(Good):
    """`+=`, as for parameters, where bottoms are overwritten."""

    def backward(self, top, propagate_down, bottom):
        held = [bottom[i].diff.copy() for i in range(2)]
        Good.backward(self, top, propagate_down, bottom)
        for i in range(2):
            if propagate_down[i]:
                bottom[i].diff[...] += held[i]


class NotANumber(Good):
    """0/0 where an input pair happens to be small."""

    def backward(self, top, propagate_down, bottom):
        Good.backward(self, top, propagate_down, bottom)
        if propagate_down[0]:
            bottom[0].diff.flat[0] = np.nan


class StaleForward(Good):
    """The difference is computed once and kept: the second batch gets the first one's loss."""

    def forward(self, bottom, top):
        if getattr(self, "d", None) is None:
            Good.forward(self, bottom, top)
            self.kept = top[0].data.copy()
        top[0].data[...] = self.kept


class HeightAndWidthSwapped(Good):
    """An image library's (W, H) where Caffe has (H, W)."""

    def backward(self, top, propagate_down, bottom):
        Good.backward(self, top, propagate_down, bottom)
        for i in range(2):
            if propagate_down[i] and bottom[i].diff.ndim == 4:
                shape = tuple(bottom[i].shape)
                bottom[i].diff[...] = bottom[i].diff.swapaxes(2, 3).copy().reshape(shape)


class BatchRolled(Good):
    """An off-by-one in the batch: every sample gets its neighbour's gradient."""

    def backward(self, top, propagate_down, bottom):
        Good.backward(self, top, propagate_down, bottom)
        for i in range(2):
            if propagate_down[i]:
                bottom[i].diff[...] = np.roll(bottom[i].diff, 1, axis=0)


class FewerBits(Good):
    """A gradient that passes through a format of 18 bits of mantissa: each element a little off."""

    def backward(self, top, propagate_down, bottom):
        Good.backward(self, top, propagate_down, bottom)
        for i in range(2):
            if propagate_down[i]:
                bits = bottom[i].diff.view(np.uint32)
                bits &= np.uint32(0xFFFFFFC0)
