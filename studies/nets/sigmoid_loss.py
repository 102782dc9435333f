"""sigmoid_loss.prototxt in PyTorch."""

from torch import Tensor
from torch.nn import functional


def net(x: Tensor, t: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(x, t, reduction="sum") / len(x)


def port(x: Tensor, t: Tensor) -> Tensor:
    return (x.clamp(min=0) - x * t + (-x.abs()).exp().log1p()).sum() / len(x)
