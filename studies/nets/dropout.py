"""dropout.prototxt in PyTorch."""

from torch import Tensor
from torch.nn import functional


def net(x: Tensor, label: Tensor, param: list[Tensor]) -> Tensor:
    w1, b1, w2, b2 = param
    return functional.cross_entropy((x @ w1.T + b1).relu() @ w2.T + b2, label.long())
