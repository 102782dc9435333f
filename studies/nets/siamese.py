"""siamese.prototxt in PyTorch."""

from torch import Tensor
from torch.nn import functional


def net(a: Tensor, b: Tensor, sim: Tensor, param: list[Tensor]) -> Tensor:
    one = functional.leaky_relu(functional.linear(a, *param), 0.1)
    other = functional.leaky_relu(functional.linear(b, *param), 0.1)
    return ((one - other) ** 2).sum() / (2 * len(a))
