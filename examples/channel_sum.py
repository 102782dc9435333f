r"""The reference of a compiled layer, caffe_impl/cuda, which is compiled into a plug-in.

Check it with

    parity check caffe_impl/nets/channel_sum_cuda.prototxt \
        --load caffe_impl/cuda/channel_sum_euclidean_loss_layer.cpp \
        --reference examples/channel_sum.py:loss
"""

import torch


def loss(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
    """x1 is (N, C1, S...), x2 is (N, C2, S...)."""
    d = x1.sum(1) - x2.sum(1)  # N, S...
    return (d * d).sum() / (2 * x1.shape[0])
