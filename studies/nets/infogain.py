"""infogain.prototxt in PyTorch."""

from torch import Tensor


def net(x: Tensor, label: Tensor, h: Tensor) -> Tensor:
    return -(h[0, 0][label.long()] * x.log_softmax(1)).sum() / len(x)
