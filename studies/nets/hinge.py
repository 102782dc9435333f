"""hinge.prototxt in PyTorch."""

import torch
from torch import Tensor


def net(x: Tensor, label: Tensor) -> Tensor:
    right = torch.nn.functional.one_hot(label.long(), x.shape[1]) > 0
    over = (1 + torch.where(right, -x, x)).clamp(min=0)
    return over.sum() / len(x) + 0.5 * (over**2).sum() / len(x)
