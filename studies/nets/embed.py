"""embed.prototxt in PyTorch."""

from torch import Tensor
from torch.nn import functional


def net(word: Tensor, param: list[Tensor]) -> Tensor:
    weight, bias = param
    return (functional.embedding(word.long(), weight) + bias).repeat(1, 2, 1).flatten(1)


def port(word: Tensor, param: list[Tensor]) -> Tensor:
    weight, bias = param
    return (weight[word.long()] + bias).repeat(1, 2, 1).flatten(1)
