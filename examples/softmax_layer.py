r"""A loss with labels: softmax cross entropy over axis 1; label -1 is ignored.

Check it with

    parity check examples/softmax.prototxt \
        --data label=int:-1,4 --reference examples/softmax.py:loss
"""

import caffe
import numpy as np

IGNORED = -1


class SoftmaxCrossEntropyLayer(caffe.Layer):
    """bottom[0]: logits (N, C, S...); bottom[1]: labels (N, S...), no gradient.

    Divided by the number of labels that are not ignored, or by 1 if all are.
    """

    def setup(self, bottom, top):
        if len(bottom) != 2:
            raise ValueError("SoftmaxCrossEntropy needs 2 bottoms")

    def reshape(self, bottom, top):
        logits, label = tuple(bottom[0].shape), tuple(bottom[1].shape)
        if (logits[0], *logits[2:]) != label:
            raise ValueError("the shapes of logits and labels do not fit")
        top[0].reshape(1)

    def forward(self, bottom, top):
        logits = bottom[0].data
        label = bottom[1].data.astype(int)
        classes = np.arange(logits.shape[1]).reshape((1, -1, *[1] * (label.ndim - 1)))
        self.chosen = label[:, np.newaxis] == classes  # N, C, S...; nowhere for an ignored one
        self.kept = (label != IGNORED)[:, np.newaxis]
        self.count = max(np.count_nonzero(self.kept), 1)
        shifted = logits - np.max(logits, axis=1, keepdims=True)
        total = np.sum(np.exp(shifted), axis=1, keepdims=True)
        self.prob = np.exp(shifted) / total
        top[0].data[...] = np.sum((np.log(total) - shifted) * self.chosen) / self.count

    def backward(self, top, propagate_down, bottom):
        if propagate_down[1]:
            raise ValueError("SoftmaxCrossEntropy has no gradient for its labels")
        if propagate_down[0]:
            scale = top[0].diff.flat[0] / self.count
            bottom[0].diff[...] = scale * (self.prob - self.chosen) * self.kept
