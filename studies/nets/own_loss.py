"""own_loss.prototxt in PyTorch."""

from torch import Tensor
from torch.nn import functional


def net(x: Tensor, t: Tensor, param: list[Tensor]) -> Tensor:
    return 0.25 * ((functional.linear(x, *param).tanh() - t) ** 2).sum()


def port(x: Tensor, t: Tensor, param: list[Tensor]) -> Tensor:
    weight, bias = param
    return ((x @ weight.T + bias).tanh() - t).square().mean() * t.numel() / 4
