"""`euclidean`: nothing is summed before the difference is squared. Caffe's own EuclideanLoss."""

from __future__ import annotations

import torch

from caffe_parity.contract import Shape


def loss(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
    """1/(2N) times the sum of (x1 - x2)**2.

    Args:
        x1: (N, C, S...).
        x2: of the same shape.
    """
    d = x1 - x2  # N, C, S...
    return (d * d).sum() / (2 * x1.shape[0])


def refuses(x1: Shape, x2: Shape) -> str | None:
    """Why the formula is not defined for these shapes, or None where it is."""
    return None if x1 == x2 else f"x1 {x1} and x2 {x2} must have one shape"
