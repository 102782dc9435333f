"""Caffe's SGD for PyTorch: it differs from torch.optim.SGD once the learning rate changes.

Caffe gathers the rate into its momentum, PyTorch applies it afterwards:

    Caffe     V = momentum * V + lr * g      W = W - V
    PyTorch   B = momentum * B + g           W = W - lr * B

At a constant rate V is lr * B. When the rate falls, Caffe's V still holds steps of the old size.
Copy what you need.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch


class CaffeSGD(torch.optim.Optimizer):
    """SGD as Caffe's SGDSolver computes it: momentum, L2 weight decay, any schedule.

    Caffe's `lr_mult` and `decay_mult` are parameter groups with their own `lr` and `weight_decay`.

    Args:
        params: parameters, or groups of them.
        lr: the learning rate, Caffe's `base_lr`.
        momentum: Caffe's `momentum`.
        weight_decay: Caffe's `weight_decay`, times the parameter and added to its gradient.
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], torch.Tensor] | None = None
    ) -> torch.Tensor | None:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                gradient = param.grad.add(param, alpha=group["weight_decay"])
                history = self.state[param].setdefault("history", torch.zeros_like(param))
                history.mul_(group["momentum"]).add_(gradient, alpha=group["lr"])
                param.sub_(history)
        return loss
