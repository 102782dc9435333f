"""slice_concat.prototxt in PyTorch."""

import torch
from torch import Tensor


def net(x: Tensor) -> Tensor:
    a, b, c = torch.split(x, [1, 2, 3], dim=1)
    return torch.cat([c, b.relu(), 2 ** (0.5 * a + 0.25), a], dim=1)


def port(x: Tensor) -> Tensor:
    return torch.cat([x[:, 3:], x[:, 1:3].relu(), 2 ** (0.5 * x[:, :1] + 0.25), x[:, :1]], dim=1)
