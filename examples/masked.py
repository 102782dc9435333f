"""Masked Euclidean loss in PyTorch: the reference of masked_layer.py."""

import torch


def loss(x1: torch.Tensor, x2: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """All have one shape."""
    return (mask * (x1 - x2) ** 2).sum() / (2 * mask.sum().clamp(min=1))
