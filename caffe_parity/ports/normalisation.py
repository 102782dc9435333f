"""Caffe's normalisations. Plain PyTorch, to be copied with what it calls."""

import torch
from torch import Tensor
from torch.nn import functional

from caffe_parity.ports.pooling import pooling


def lrn(x: Tensor, size: int = 5, alpha: float = 1.0, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """Across channels: alpha is divided by the size of the window, as in PyTorch."""
    return functional.local_response_norm(x, size, alpha, beta, k)


def lrn_within(x: Tensor, size: int = 5, alpha: float = 1.0, beta: float = 0.75) -> Tensor:
    """Within a channel: alpha is divided by size * size, and Caffe has 1 for k whatever k is."""
    half = (size - 1) // 2
    mean = pooling(x * x, "AVE", (size, size), (1, 1), (half, half))
    return x * (1 + alpha * mean).pow(-beta)


def batch_norm(
    x: Tensor, mean: Tensor, variance: Tensor, factor: Tensor, eps: float = 1e-5
) -> Tensor:
    """With stored statistics: both are sums, to be divided by the third blob, if that is not 0."""
    weight = torch.where(factor == 0, torch.zeros_like(factor), 1 / factor)
    shape = (1, -1) + (1,) * (x.dim() - 2)
    centered = x - (mean * weight).reshape(shape)
    return centered / ((variance * weight).reshape(shape) + eps).sqrt()


def batch_norm_training(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    factor: Tensor,
    eps: float = 1e-5,
    moving_average_fraction: float = 0.999,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """With the batch's own statistics; returns those to store as well.

    What is stored decays and is added to, and so does the factor: it counts, and no average is
    kept. The stored variance is that of m - 1, the one that normalises that of m.
    """
    rows = x.transpose(0, 1).flatten(1)
    shape = (1, -1) + (1,) * (x.dim() - 2)
    now = rows.mean(1)
    centered = x - now.reshape(shape)
    squares = (rows - now.unsqueeze(1)).square().mean(1)
    y = centered / (squares.reshape(shape) + eps).sqrt()
    count, decay = rows.shape[1], moving_average_fraction
    correction = count / (count - 1) if count > 1 else 1.0
    with torch.no_grad():
        kept = (decay * mean + now, decay * variance + correction * squares, decay * factor + 1)
    return y, *kept


def mvn(
    x: Tensor, normalize_variance: bool = True, across_channels: bool = False, eps: float = 1e-9
) -> Tensor:
    """Mean 0 and variance 1 for each channel, or each sample; eps is added to the root.

    Caffe's gradient is that of an eps of 0: it forgets that the root alone depends on x.
    """
    rows = x.flatten(1) if across_channels else x.flatten(2)
    centered = rows - rows.mean(-1, keepdim=True)
    if not normalize_variance:
        return centered.reshape(x.shape)
    root = centered.square().mean(-1, keepdim=True).sqrt()
    fixed = root.detach()
    total = (fixed + eps) + fixed / (fixed + eps) * (root - fixed)
    return (centered / total).reshape(x.shape)


def softmax(x: Tensor, axis: int = 1) -> Tensor:
    """Along an axis; 1 where nothing is said."""
    return functional.softmax(x, axis)
