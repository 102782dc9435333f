"""Smooth L1 in PyTorch: the reference of smooth_l1_layer.py, and ports of it, one of them wrong."""

import torch
from torch.nn import functional


def loss(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
    """Written out as the paper does."""
    d = x1 - x2
    values = torch.where(d.abs() < 1, 0.5 * d * d, d.abs() - 0.5)
    return values.sum() / x1.shape[0]


def port(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
    """PyTorch's own, normalised as the Caffe layer does."""
    return functional.smooth_l1_loss(x1, x2, reduction="sum") / x1.shape[0]


def port_with_mean(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
    """Wrong: "mean" divides by the number of elements, not by N. It still trains, only slower."""
    return functional.smooth_l1_loss(x1, x2, reduction="mean")
