"""The port with a hand-written backward: what Caffe's layers do, as autograd Functions.

Two functions, cut where the formula is: a linear one, whose backward spreads the gradient back over
the summed axes, and half a mean of squares, whose backward scales its input. Each saves nothing
but its inputs, so that a backward of the backward comes out right as well.
"""

from typing import Any

import torch
from torch.autograd import Function


class SummedDifference(Function):
    """d = (x1 summed) - (x2 summed); x1, x2: (N, K, M), summed over axis 1."""

    @staticmethod
    def forward(ctx: Any, x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
        ctx.shapes = (x1.shape, x2.shape)
        return x1.sum(1, keepdim=True) - x2.sum(1, keepdim=True)  # N, 1, M

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads  # N, 1, M
        shape1, shape2 = ctx.shapes
        want1, want2 = ctx.needs_input_grad
        return grad.expand(shape1) if want1 else None, (-grad).expand(shape2) if want2 else None


class HalfMeanSquare(Function):
    """1/(2N) times the sum of d**2; d: (N, ...)."""

    @staticmethod
    def forward(ctx: Any, d: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(d)
        return d.square().sum() / (2 * d.shape[0])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        (grad,) = grads  # the loss weight arrives here: leaving it out is the classical mistake
        (d,) = ctx.saved_tensors
        gradient: torch.Tensor = grad / d.shape[0] * d
        return gradient


def summed_euclidean_loss(x1: torch.Tensor, x2: torch.Tensor, sum: str = "channel") -> torch.Tensor:
    """The Euclidean loss of two inputs that are summed over some axes first.

    Args:
        x1: (N, C1, S...).
        x2: (N, C2, S...).
        sum: "none", "channel" (axis 1) or "tail" (axis 1 to the last).

    Raises:
        ValueError: the shapes do not fit, or `sum` is unknown.
    """
    shape1, shape2 = tuple(x1.shape), tuple(x2.shape)
    views = {  # (N, what is summed, what is kept)
        "none": ((shape1[0], 1, -1), shape1 == shape2),
        "channel": ((shape1[0], shape1[1], -1), (shape1[0], shape1[2:]) == (shape2[0], shape2[2:])),
        "tail": ((shape1[0], -1, 1), shape1[0] == shape2[0]),
    }
    if sum not in views:
        raise ValueError(f"sum must be one of {', '.join(views)}, got {sum!r}")
    view, fit = views[sum]
    if not fit or shape1[0] == 0:
        raise ValueError(f"x1 {shape1} and x2 {shape2} do not fit, or are empty")
    view2 = (view[0], shape2[1], -1) if sum == "channel" else view
    d = SummedDifference.apply(x1.reshape(view), x2.reshape(view2))  # type: ignore[no-untyped-call]
    loss: torch.Tensor = HalfMeanSquare.apply(d)  # type: ignore[no-untyped-call]
    return loss
