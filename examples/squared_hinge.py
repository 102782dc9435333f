"""Squared hinge loss in PyTorch: the reference of squared_hinge_layer.cpp."""

import torch


def loss(x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """x and label are (N, ...), labels 0 and 1."""
    gap = torch.clamp(1 - (2 * label - 1) * x, min=0)
    return (gap * gap).sum() / x.shape[0]
