"""A Caffe Python layer: the Euclidean loss of two inputs that are summed over some axes first.

Copy this file next to a model; it needs NumPy and pycaffe only, Python 3.6 or later.

    layer {
      name: "loss"  type: "Python"  bottom: "x1"  bottom: "x2"  top: "loss"
      python_param {
        module: "summed_euclidean_loss"  layer: "SummedEuclideanLossLayer"  param_str: "channel"
      }
      loss_weight: 1    # Python layers have none by default, and then they train nothing
    }
"""

import caffe
import numpy as np

SUMS = ("none", "channel", "tail")


class SummedEuclideanLossLayer(caffe.Layer):
    """L = 1/(2N) * sum of d**2, where d = (x1 summed) - (x2 summed).

    bottom[0]: x1, (N, C1, S...); bottom[1]: x2, (N, C2, S...); top[0]: the loss, one element.
    param_str: the axes that are summed: "none", "channel" (axis 1), "tail" (axis 1 to the last).

    The gradient of x1 is +top.diff/N * d, that of x2 the negative, both spread back over the summed
    axes. top.diff holds the loss weight. C1 may differ from C2 unless nothing is summed.
    """

    def setup(self, bottom, top):
        if len(bottom) != 2 or len(top) != 1:
            raise ValueError(
                "SummedEuclideanLoss needs 2 bottoms and 1 top, got %d and %d"
                % (len(bottom), len(top))
            )
        self.sum = self.param_str.strip()
        if self.sum not in SUMS:
            raise ValueError(
                "SummedEuclideanLoss: param_str must be one of %s, got %r"
                % (", ".join(SUMS), self.param_str)
            )

    def reshape(self, bottom, top):
        # shape[0], never .num: that aborts the process on a blob of more than four axes.
        x1, x2 = tuple(bottom[0].shape), tuple(bottom[1].shape)
        if min(len(x1), len(x2)) < 2:
            raise ValueError("x1 %s and x2 %s need the axes (N, C, ...)" % (x1, x2))
        if x1[0] == 0:
            raise ValueError("the batch is empty: x1 has shape %s" % (x1,))
        must_agree = {
            "none": (x1, x2),
            "channel": ((x1[0], *x1[2:]), (x2[0], *x2[2:])),
            "tail": (x1[0], x2[0]),
        }[self.sum]
        if must_agree[0] != must_agree[1]:
            raise ValueError(
                "x1 %s and x2 %s do not fit for a loss that sums %r" % (x1, x2, self.sum)
            )
        top[0].reshape(1)

    def summed(self, x):
        """x (N, C, S...) with the summed axes kept as extents of 1."""
        if self.sum == "none":
            return x
        axes = (1,) if self.sum == "channel" else tuple(range(1, x.ndim))
        return x.sum(axis=axes, keepdims=True)

    def forward(self, bottom, top):
        s1, s2 = self.summed(bottom[0].data), self.summed(bottom[1].data)
        self.d = s1 - s2.reshape(s1.shape)  # N, C or 1, S... or 1...
        # Squared and added in double: this sum has the most terms, and all of one sign. einsum
        # makes no array of the squares, which would be twice the size of an input's.
        flat = self.d.ravel()
        total = np.einsum("i,i", flat, flat, dtype=np.float64)
        top[0].data[...] = total / (2 * bottom[0].shape[0])

    def backward(self, top, propagate_down, bottom):
        scale = top[0].diff.flat[0] / np.float32(bottom[0].shape[0])
        for i, sign in enumerate((1, -1)):  # by index: pycaffe cannot iterate over bottom
            if propagate_down[i]:
                shape = tuple(bottom[i].shape)
                if self.sum == "none":  # d is as large as the diff: not two arrays of that size
                    np.multiply(self.d, sign * scale, out=bottom[i].diff)
                    continue
                gradient = sign * scale * self.d  # broadcast over the summed axes below
                if self.sum == "tail":
                    gradient = gradient.reshape((shape[0],) + (1,) * (len(shape) - 1))
                bottom[i].diff[...] = gradient
