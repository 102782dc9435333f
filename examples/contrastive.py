"""Contrastive loss in PyTorch: the reference of contrastive_layer.py."""

import torch


def loss(x1: torch.Tensor, x2: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
    """x1 and x2 are (N, C), same is (N); the margin is 2."""
    distance = (x1 - x2).pow(2).sum(1).sqrt()
    gap = torch.clamp(2 - distance, min=0)
    return (same * distance**2 + (1 - same) * gap**2).sum() / (2 * x1.shape[0])
