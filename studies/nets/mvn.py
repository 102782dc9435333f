"""mvn.prototxt in PyTorch."""

from torch import Tensor


def net(x: Tensor) -> Tensor:
    x = x - x.mean((2, 3), keepdim=True)
    y = x / ((x**2).mean((2, 3), keepdim=True).sqrt() + 1e-9)
    return (y - y.mean((1, 2, 3), keepdim=True)).tanh()
