"""bias_before_norm.prototxt in PyTorch."""

from torch import Tensor
from torch.nn import functional


def net(x: Tensor, label: Tensor, param: list[Tensor]) -> Tensor:
    weight, bias, gamma, beta, last, offset = param
    y = functional.conv2d(x, weight, bias)
    y = functional.batch_norm(y, None, None, gamma, beta, training=True).relu()
    return functional.cross_entropy(functional.linear(y.flatten(1), last, offset), label.long())
