"""rnn.prototxt in PyTorch."""

import torch
from torch import Tensor


def net(x: Tensor, cont: Tensor, param: list[Tensor]) -> Tensor:
    weight, bias, recurrent, weight_out, bias_out = param
    h = x.new_zeros(x.shape[1], recurrent.shape[1])
    carry = [torch.zeros_like(cont[0]), *cont]
    out = []
    for step, keep in zip(x, carry, strict=True):
        h = (step @ weight.T + bias + (keep.unsqueeze(1) * h) @ recurrent.T).tanh()
        out.append((h @ weight_out.T + bias_out).tanh())
    return torch.stack(out)
