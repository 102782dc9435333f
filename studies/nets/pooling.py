"""pooling.prototxt in PyTorch."""

from torch import Tensor
from torch.nn import functional


def net(x: Tensor) -> tuple[Tensor, Tensor]:
    mean = functional.avg_pool2d(x, 3, 2, 1, ceil_mode=True)
    most = functional.max_pool2d(x, 3, 2, ceil_mode=True)
    return mean, most.mean((2, 3), keepdim=True)
