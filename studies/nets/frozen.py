"""frozen.prototxt in PyTorch."""

from torch import Tensor
from torch.nn import functional


def net(x: Tensor, label: Tensor, param: list[Tensor]) -> Tensor:
    frozen, bias, weight, offset = param
    y = functional.conv2d(x, frozen, bias, stride=2, padding=1).relu().detach()
    return functional.cross_entropy(functional.linear(y.flatten(1), weight, offset), label.long())
