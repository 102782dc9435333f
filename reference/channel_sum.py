"""`channel_sum`: the channels are summed before the difference is squared. The suite's subject."""

from __future__ import annotations

import torch

from caffe_parity.contract import Shape


def loss(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
    """1/(2N) times the sum over n, s of (sum_c x1[n,c,s] - sum_c x2[n,c,s])**2.

    Args:
        x1: (N, C1, S...).
        x2: (N, C2, S...); C2 may differ from C1.
    """
    d = x1.sum(1) - x2.sum(1)  # N, S...
    return (d * d).sum() / (2 * x1.shape[0])


def refuses(x1: Shape, x2: Shape) -> str | None:
    """Why the formula is not defined for these shapes, or None where it is."""
    if (x1[0], x1[2:]) == (x2[0], x2[2:]):
        return None
    return f"x1 {x1} and x2 {x2} may differ in axis 1 only, the channels"
