"""L2 normalisation in PyTorch: the reference of l2_normalize_layer.py."""

import torch


def normalize(x: torch.Tensor) -> torch.Tensor:
    """x is (N, C, ...)."""
    return x / ((x * x).sum(1, keepdim=True) + 1e-6).sqrt()
