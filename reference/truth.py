"""Evaluates a formula in float64 autograd: the ground truth that every variant is held against."""

from __future__ import annotations

from collections.abc import Callable

import torch

from caffe_parity.contract import SHARED_GRADIENT, Case, Inputs, Result

Formula = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def evaluate(formula: Formula, case: Case, inputs: Inputs) -> Result:
    """The loss and the gradients of one case, in float64, on the float32 inputs.

    Args:
        formula: maps x1, x2 to the scalar loss.
        case: the loss weight, which gradients are wanted, and what is shared.
        inputs: x1 (N, C1, S...) and x2 (N, C2, S...), float32.

    Returns:
        loss, shape (), unscaled; dx1 and dx2 shaped like the inputs, scaled with the loss weight;
        None where no gradient was asked for. In a "same-blob" case dx1 is the whole gradient of
        the one blob, in a "split" case it includes the second consumer's.
    """
    x1 = torch.from_numpy(inputs.x1).double().requires_grad_()
    same = case.sharing == "same-blob"
    x2 = x1 if same else torch.from_numpy(inputs.x2).double().requires_grad_()
    loss = formula(x1, x2)
    objective = case.weight * loss
    if case.sharing == "split":
        objective = objective + SHARED_GRADIENT * x1.sum()
    objective.backward()  # type: ignore[no-untyped-call]
    want1, want2 = case.propagate_down
    dx1 = x1.grad.numpy() if want1 and x1.grad is not None else None
    dx2 = x2.grad.numpy() if want2 and not same and x2.grad is not None else None
    return Result(loss.detach().numpy(), dx1, dx2)
