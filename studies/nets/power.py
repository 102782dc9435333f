"""power.prototxt in PyTorch."""

import math

from torch import Tensor
from torch.nn import functional


def net(x: Tensor) -> Tensor:
    y = (0.5 * x + 0.1) ** 2
    z = (2 * y + 1).log() / math.log(10)
    return functional.softplus((1 - 3 * z).abs())
