"""Caffe's layers that add and multiply. Plain PyTorch, to be copied with what it calls."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from caffe_parity.ports.activations import gradient_of


def along(values: Tensor, x: Tensor, axis: int) -> Tensor:
    """Values that stand along the axes of x that begin with this one."""
    return values.reshape(values.shape + (1,) * (x.dim() - axis - values.dim()))


def scale(x: Tensor, factor: Tensor, bias: Tensor | None = None, axis: int = 1) -> Tensor:
    """x * factor + bias, both along the axes that begin with this one."""
    y = x * along(factor, x, axis)
    return y if bias is None else y + along(bias, x, axis)


def bias(x: Tensor, bias: Tensor, axis: int = 1) -> Tensor:
    """x + bias, which stands along the axes that begin with this one."""
    return x + along(bias, x, axis)


def eltwise_sum(*bottoms: Tensor, coeff: Sequence[float] = ()) -> Tensor:
    """The sum, each bottom times its coefficient."""
    weights = coeff or [1.0] * len(bottoms)
    terms = [w * x if w != 1 else x for w, x in zip(weights, bottoms, strict=True)]
    total = terms[0]
    for each in terms[1:]:
        total = total + each
    return total


def eltwise_product(*bottoms: Tensor, stable_gradient: bool = True) -> Tensor:
    """The product. Caffe's gradient without `stable_prod_grad` is y / x: NaN where x is 0."""
    y = bottoms[0]
    for each in bottoms[1:]:
        y = y * each
    if stable_gradient:
        return y
    logarithms = bottoms[0].abs().log()
    for each in bottoms[1:]:
        logarithms = logarithms + each.abs().log()
    return gradient_of(y, y.detach() * logarithms)


def eltwise_max(first: Tensor, second: Tensor, *others: Tensor) -> Tensor:
    """The largest. Of equal ones the second gets the gradient before the first, then the others."""
    y = torch.where(first > second, first, second)
    for each in others:
        y = torch.where(each > y, each, y)
    return y


def reduction(x: Tensor, operation: str = "SUM", axis: int = 0, coeff: float = 1.0) -> Tensor:
    """Reduces this axis *and all behind it*: SUM, ASUM (of magnitudes), SUMSQ (squares), MEAN."""
    rows = x.reshape(*x.shape[:axis], -1)
    if operation == "ASUM":
        rows = rows.abs()
    elif operation == "SUMSQ":
        rows = rows * rows
    y = rows.sum(-1)
    return (coeff / rows.shape[-1] if operation == "MEAN" else coeff) * y


def inner_product(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, axis: int = 1, transpose: bool = False
) -> Tensor:
    """A matrix product over this axis and all behind it; transposed, the weight is (in, out)."""
    return functional.linear(x.flatten(axis), weight.T if transpose else weight, bias)


def embed(index: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The rows of the weight with these numbers, which have no gradient."""
    rows = weight[index.detach().long()]
    return rows if bias is None else rows + bias
