"""`channel_sum`: the channels are summed before the difference is squared. The suite's subject."""

import torch

from reference.summed import summed_layer


def loss(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
    """1/(2N) times the sum over n, s of (sum_c x1[n,c,s] - sum_c x2[n,c,s])**2.

    Args:
        x1: (N, C1, S...).
        x2: (N, C2, S...); C2 may differ from C1.
    """
    d = x1.sum(1) - x2.sum(1)  # N, S...
    return (d * d).sum() / (2 * x1.shape[0])


LAYER = summed_layer("channel_sum", loss, "channel")
