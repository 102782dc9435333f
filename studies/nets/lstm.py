"""lstm.prototxt in PyTorch."""

import torch
from torch import Tensor


def net(x: Tensor, cont: Tensor, param: list[Tensor]) -> Tensor:
    weight, bias, recurrent = param
    c = h = x.new_zeros(x.shape[1], recurrent.shape[1])
    carry = [torch.zeros_like(cont[0]), *cont]
    out = []
    for step, keep in zip(x, carry, strict=True):
        gates = step @ weight.T + bias + (keep.unsqueeze(1) * h) @ recurrent.T
        i, f, o, g = gates.chunk(4, dim=1)
        c = keep.unsqueeze(1) * f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        out.append(h)
    return torch.stack(out)
