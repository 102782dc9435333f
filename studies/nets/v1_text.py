"""v1_text.prototxt in PyTorch."""

from torch import Tensor
from torch.nn import functional


def net(data: Tensor, label: Tensor, param: list[Tensor]) -> Tensor:
    w1, b1, w2, b2 = param
    y = functional.conv2d(data, w1, b1, stride=2).relu()
    y = functional.avg_pool2d(y, 2, 2, ceil_mode=True)
    return functional.cross_entropy(functional.linear(y.flatten(1), w2, b2), label.flatten().long())
