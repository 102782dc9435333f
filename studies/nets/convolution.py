"""convolution.prototxt in PyTorch."""

from torch import Tensor
from torch.nn import functional


def net(x: Tensor, param: list[Tensor]) -> Tensor:
    w1, b1, w2, b2 = param
    y = functional.conv2d(x, w1, b1, stride=2, padding=(1, 0), groups=2)
    return functional.conv2d(y, w2, b2, padding=1, dilation=2)


def port(x: Tensor, param: list[Tensor]) -> Tensor:
    return net(x, param)
