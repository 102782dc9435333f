"""`euclidean`: nothing is summed before the difference is squared. Caffe's own EuclideanLoss."""

import torch

from reference.summed import summed_layer


def loss(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
    """1/(2N) times the sum of (x1 - x2)**2.

    Args:
        x1: (N, C, S...).
        x2: of the same shape.
    """
    d = x1 - x2  # N, C, S...
    return (d * d).sum() / (2 * x1.shape[0])


LAYER = summed_layer("euclidean", loss, "none")
