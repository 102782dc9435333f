r"""KL divergence of a softmax from given probabilities, as in distillation.

Check it with

    parity check examples/kl_layer.py:KLLossLayer \
        --bottom logits=4,6 --bottom target=4,6 --data target=probabilities --grad logits \
        --reference examples/kl.py:loss
"""

import caffe
import numpy as np


class KLLossLayer(caffe.Layer):
    """bottom[0]: logits (N, C); bottom[1]: probabilities (N, C), all above 0, no gradient."""

    def setup(self, bottom, top):
        if len(bottom) != 2:
            raise ValueError("KLLoss needs 2 bottoms")

    def reshape(self, bottom, top):
        if tuple(bottom[0].shape) != tuple(bottom[1].shape):
            raise ValueError("the bottoms must have one shape")
        top[0].reshape(1)

    def forward(self, bottom, top):
        shifted = bottom[0].data - np.max(bottom[0].data, axis=1, keepdims=True)
        total = np.sum(np.exp(shifted), axis=1, keepdims=True)
        self.prob = np.exp(shifted) / total
        target = bottom[1].data
        values = target * (np.log(target) - (shifted - np.log(total)))
        top[0].data[...] = np.sum(values) / bottom[0].shape[0]

    def backward(self, top, propagate_down, bottom):
        if propagate_down[1]:
            raise ValueError("KLLoss has no gradient for its target")
        if propagate_down[0]:
            target = bottom[1].data
            mass = np.sum(target, axis=1, keepdims=True)
            scale = top[0].diff.flat[0] / bottom[0].shape[0]
            bottom[0].diff[...] = scale * (mass * self.prob - target)
