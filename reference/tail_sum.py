"""`tail_sum`: everything behind the batch axis is summed before the difference is squared.

This is what Caffe's Reduction at axis 1 and EuclideanLoss compute: Reduction always reduces
through the last axis (caffe/src/caffe/layers/reduction_layer.cpp), so that it is a channel sum only
where nothing lies behind the channels.
"""

import torch

from reference.summed import summed_layer


def loss(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
    """1/(2N) times the sum over n of (sum_{c,s} x1[n,c,s] - sum_{c,s} x2[n,c,s])**2.

    Args:
        x1: (N, C1, S1...).
        x2: (N, C2, S2...); only N must be the same.
    """
    d = x1.flatten(1).sum(1) - x2.flatten(1).sum(1)  # N
    return (d * d).sum() / (2 * x1.shape[0])


LAYER = summed_layer("tail_sum", loss, "tail")
