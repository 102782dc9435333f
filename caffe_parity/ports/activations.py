"""Caffe's layers of single numbers. Plain PyTorch, to be copied with what it calls."""

import math

import torch
from torch import Tensor
from torch.nn import functional


def gradient_of(value: Tensor, other: Tensor) -> Tensor:
    """The value, with the gradient of another expression: where Caffe's is not its forward's."""
    return _GradientOf.apply(value, other)  # type: ignore[no-any-return, no-untyped-call]


class _GradientOf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, value: Tensor, other: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient


def relu(x: Tensor, negative_slope: float = 0.0) -> Tensor:
    """x where it is positive, else negative_slope * x."""
    return functional.leaky_relu(x, negative_slope)


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """ReLU with a learned slope: one for each channel (axis 1), or one for all, of no axes."""
    slope = slope.reshape(slope.shape + (1,) * (x.dim() - 2)) if slope.dim() else slope
    return torch.where(x > 0, x, slope * x)


def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """x where it is positive, else alpha * (exp(x) - 1)."""
    return functional.elu(x, alpha)


def sigmoid(x: Tensor) -> Tensor:
    """Caffe computes it by tanh, and so rounds as that does."""
    return 0.5 * torch.tanh(0.5 * x) + 0.5


def tanh(x: Tensor) -> Tensor:
    """PyTorch's own."""
    return torch.tanh(x)


def bnll(x: Tensor) -> Tensor:
    """log(1 + exp(x)), without PyTorch's threshold at 20 and without overflow."""
    return 0.5 * (x + x.abs()) + torch.log(1 + torch.exp(-x.abs()))


def absval(x: Tensor) -> Tensor:
    """|x|; its gradient at 0 is 0."""
    return x.abs()


def power(x: Tensor, power: float = 1.0, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    """(shift + scale * x) ** power.

    Caffe's gradient is power * scale * y / (shift + scale * x), which is NaN where that is 0; but
    for the powers 0, 1 and 2.
    """
    if power * scale == 0:  # a constant: Caffe does not look at x
        return torch.full_like(x, shift).pow(power) + 0 * x.detach().sum()
    base = shift + scale * x
    if power == 1:
        return base
    if power == 2:
        return base * base
    y = base.pow(power)
    return gradient_of(y, power * y.detach() * base.abs().log())


def exp(x: Tensor, base: float | None = None, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    """Base ** (shift + scale * x); without a base e's. Caffe takes base ** shift out first."""
    rate = 1.0 if base is None else math.log(base)
    return math.exp(rate * shift) * torch.exp(scale * rate * x)


def log(x: Tensor, base: float | None = None, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    """The logarithm of shift + scale * x; without a base the natural one."""
    y = torch.log(shift + scale * x)
    return y if base is None else y / math.log(base)


def threshold(x: Tensor, threshold: float = 0.0) -> Tensor:
    """1 where x is larger, else 0. Caffe has no gradient for it."""
    return (x > threshold).to(x.dtype)


def clip(x: Tensor, least: float, most: float) -> Tensor:
    """x within these limits, at which the gradient passes."""
    return x.clamp(least, most)


def swish(x: Tensor, beta: float = 1.0) -> Tensor:
    """x * sigmoid(beta * x)."""
    return x * (0.5 * torch.tanh(0.5 * (beta * x)) + 0.5)


def dropout(x: Tensor, mask: Tensor | None = None, ratio: float = 0.5) -> Tensor:
    """x in phase TEST. In phase TRAIN, x * mask / (1 - ratio): a mask of 0 and 1, drawn by Caffe.

    Dropout's ratio is the part that is left out; what is kept is scaled up in training.
    """
    return x if mask is None else x * mask * (1 / (1 - ratio))
