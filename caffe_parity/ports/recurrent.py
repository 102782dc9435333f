"""Caffe's recurrent layers. Plain PyTorch, to be copied with what it calls."""

import torch
from torch import Tensor
from torch.nn import functional

from caffe_parity.ports.activations import gradient_of


def unit_tanh(x: Tensor) -> Tensor:
    """As LSTMUnit computes it and its gradient, which round worse than those of tanh."""
    y = 2 * torch.sigmoid(2 * x) - 1
    return gradient_of(y, x * (1 - y * y).detach())


def lstm_unit(cell: Tensor, gates: Tensor, cont: Tensor) -> tuple[Tensor, Tensor]:
    """The next cell and output (1, N, D).

    The gates (1, N, 4 D) are in the order i, f, o, g; PyTorch's i, f, g, o.
    `cont` (1, N) is 0 where a sequence begins, else 1: the forget gate is multiplied with it. Caffe
    takes the product for a sigmoid in its gradient, which between 0 and 1 it is not.
    """
    i, f, o, g = gates.chunk(4, -1)
    forget = cont.detach().unsqueeze(-1) * torch.sigmoid(f)
    forget = gradient_of(forget, f * (forget * (1 - forget)).detach())
    cell = forget * cell + torch.sigmoid(i) * unit_tanh(g)
    return cell, torch.sigmoid(o) * unit_tanh(cell)


def lstm(
    x: Tensor,
    cont: Tensor,
    weight: Tensor,
    bias: Tensor,
    recurrent: Tensor,
    static: Tensor | None = None,
    static_weight: Tensor | None = None,
    hidden: Tensor | None = None,
    cell: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Steps (T, N, ...) to outputs (T, N, D), and the last output and cell (1, N, D).

    Where `cont` (T, N) is 0 a sequence begins: neither output nor cell of before counts. One bias,
    not two; `static` (N, ...) is added to the gates of every step. Without `hidden` and `cell`
    Caffe goes on where its forward before ended, which here begins with 0. It passes no gradient
    through the states that it takes or gives.
    """
    keep = cont.detach().unsqueeze(-1)
    gates = functional.linear(x.flatten(2), weight, bias)
    if static is not None and static_weight is not None:
        gates = gates + functional.linear(static.flatten(1), static_weight)
    size = recurrent.shape[1]
    h = x.new_zeros(1, x.shape[1], size) if hidden is None else hidden.detach()
    c = x.new_zeros(1, x.shape[1], size) if cell is None else cell.detach()
    outputs = []
    for step in range(x.shape[0]):
        one = slice(step, step + 1)
        now = gates[one] + functional.linear(keep[one] * h, recurrent)
        c, h = lstm_unit(c, now, cont[one])
        outputs.append(h)
    return torch.cat(outputs), h.detach(), c.detach()


def rnn(
    x: Tensor,
    cont: Tensor,
    weight: Tensor,
    bias: Tensor,
    recurrent: Tensor,
    output_weight: Tensor,
    output_bias: Tensor,
    static: Tensor | None = None,
    static_weight: Tensor | None = None,
    hidden: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Steps (T, N, ...) to outputs (T, N, D), and the last hidden state (1, N, D); else as `lstm`.

    Unlike PyTorch's, its outputs are tanh of a matrix product of the hidden states, not these.
    """
    keep = cont.detach().unsqueeze(-1)
    inputs = functional.linear(x.flatten(2), weight, bias)
    if static is not None and static_weight is not None:
        inputs = inputs + functional.linear(static.flatten(1), static_weight)
    h = x.new_zeros(1, x.shape[1], recurrent.shape[1]) if hidden is None else hidden.detach()
    outputs = []
    for step in range(x.shape[0]):
        one = slice(step, step + 1)
        h = torch.tanh(inputs[one] + functional.linear(keep[one] * h, recurrent))
        outputs.append(torch.tanh(functional.linear(h, output_weight, output_bias)))
    return torch.cat(outputs), h.detach()
