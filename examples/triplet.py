"""Triplet loss in PyTorch: the reference of triplet_layer.py."""

import torch


def loss(anchor: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """All are (N, C); the margin is 0.3."""
    near = (anchor - positive).pow(2).sum(1)
    far = (anchor - negative).pow(2).sum(1)
    return torch.clamp(near - far + 0.3, min=0).mean()
