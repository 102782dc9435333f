"""mlp.prototxt in PyTorch."""

from torch import Tensor
from torch.nn import functional


def net(x: Tensor, label: Tensor, param: list[Tensor]) -> Tensor:
    w1, b1, w2, b2, w3 = param
    y = (x.flatten(1) @ w1.T + b1).relu()
    y = (y @ w2 + b2).sigmoid()
    return functional.cross_entropy(y @ w3.T, label.long())


def port(x: Tensor, label: Tensor, param: list[Tensor]) -> Tensor:
    w1, b1, w2, b2, w3 = param
    y = functional.relu(functional.linear(x.flatten(1), w1, b1))
    score = functional.linear(functional.linear(y, w2.T, b2).sigmoid(), w3)
    return -functional.log_softmax(score, 1).gather(1, label.long().unsqueeze(1)).mean()
