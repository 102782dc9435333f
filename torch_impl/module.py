"""The plain port: three functions and a module that autograd differentiates. Copy what you need.

Each function stands alone; `SummedEuclideanLoss` chooses one of them.
"""

import torch
from torch import nn


def euclidean_loss(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
    """Caffe's EuclideanLoss: 1/(2N) times the sum of (x1 - x2)**2.

    Not `mse_loss`, which divides by the number of elements: the two differ by 2/(C*H*W).

    Args:
        x1: (N, C, S...).
        x2: of the same shape.

    Raises:
        ValueError: the shapes differ, or the batch is empty.
    """
    _check(x1, x2, x1.shape == x2.shape)
    d = x1 - x2  # N, C, S...
    return d.square().sum() / (2 * x1.shape[0])


def channel_sum_euclidean_loss(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
    """The Euclidean loss of the channel sums: 1/(2N) times the sum of (sum_c x1 - sum_c x2)**2.

    Args:
        x1: (N, C1, S...).
        x2: (N, C2, S...); C2 may differ from C1.

    Raises:
        ValueError: the shapes differ in another axis than 1, or the batch is empty.
    """
    _check(x1, x2, x1.shape[:1] + x1.shape[2:] == x2.shape[:1] + x2.shape[2:])
    d = x1.sum(1) - x2.sum(1)  # N, S...
    return d.square().sum() / (2 * x1.shape[0])


def tail_sum_euclidean_loss(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
    """What Caffe's Reduction (axis 1) + EuclideanLoss compute: all axes behind N are summed.

    Args:
        x1: (N, C1, S1...).
        x2: (N, C2, S2...); only N must be the same.

    Raises:
        ValueError: the batch sizes differ, or the batch is empty.
    """
    _check(x1, x2, x1.shape[0] == x2.shape[0])
    d = x1.flatten(1).sum(1) - x2.flatten(1).sum(1)  # N
    return d.square().sum() / (2 * x1.shape[0])


def _check(x1: torch.Tensor, x2: torch.Tensor, fit: bool) -> None:
    if not fit or x1.shape[0] == 0:
        raise ValueError(f"x1 {tuple(x1.shape)} and x2 {tuple(x2.shape)} do not fit, or are empty")


LOSSES = {
    "none": euclidean_loss,
    "channel": channel_sum_euclidean_loss,
    "tail": tail_sum_euclidean_loss,
}
"""The loss for each choice of summed axes."""


class SummedEuclideanLoss(nn.Module):
    """The Euclidean loss of two inputs that are summed over some axes first.

    Args:
        sum: "none", "channel" (axis 1) or "tail" (axis 1 to the last).

    Raises:
        ValueError: `sum` is none of these.
    """

    def __init__(self, sum: str = "channel") -> None:
        super().__init__()
        if sum not in LOSSES:
            raise ValueError(f"sum must be one of {', '.join(LOSSES)}, got {sum!r}")
        self.sum = sum

    def forward(self, x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
        """The scalar loss of x1 (N, C1, S...) and x2 (N, C2, S...)."""
        return LOSSES[self.sum](x1, x2)

    def extra_repr(self) -> str:
        return f"sum={self.sum!r}"
