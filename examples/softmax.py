"""Softmax cross entropy in PyTorch: the reference of softmax_layer.py, and a port of it."""

import torch
from torch.nn import functional


def loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Labels arrive as the floating-point numbers that Caffe's blobs hold."""
    label = label.long()
    log_prob = functional.log_softmax(logits, dim=1)
    chosen = log_prob.gather(1, label.clamp(min=0).unsqueeze(1)).squeeze(1)
    kept = label != -1
    return -(chosen * kept).sum() / kept.sum().clamp(min=1)


class Port(torch.nn.Module):
    """PyTorch's own; where every label is ignored it gives NaN, and so this does not."""

    def forward(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Logits (N, C, S...), labels (N, S...)."""
        total = functional.cross_entropy(logits, label.long(), ignore_index=-1, reduction="sum")
        return total / (label != -1).sum().clamp(min=1)
