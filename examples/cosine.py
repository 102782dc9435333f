"""Cosine loss in PyTorch: the reference of cosine_layer.py."""

import torch


def loss(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
    """x1 and x2 are (N, C)."""
    cosine = (x1 * x2).sum(1) / (x1.norm(dim=1) * x2.norm(dim=1))
    return (1 - cosine).mean()
