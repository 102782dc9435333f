"""contrastive_loss.prototxt in PyTorch."""

from torch import Tensor


def net(a: Tensor, b: Tensor, sim: Tensor) -> Tensor:
    squared = ((a - b) ** 2).sum(1)
    far = (3 - squared).clamp(min=0)
    return (sim * squared + (1 - sim) * far).sum() / (2 * len(a))


def port(a: Tensor, b: Tensor, sim: Tensor) -> Tensor:
    squared = (a - b).pow(2).sum(1)
    return (sim * squared + (1 - sim) * (3 - squared).relu()).mean() / 2
