"""Caffe's losses, and Accuracy. Plain PyTorch, to be copied with what it calls."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from caffe_parity.ports.activations import gradient_of, sigmoid

FLT_MIN = 2.0**-126
LOG_THRESHOLD = 1e-20


def places(x: Tensor, label: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Scores (place, class) and labels (place), where the classes lie along an axis."""
    rows = x.movedim(axis, -1)
    return rows.reshape(-1, x.shape[axis]), label.detach().reshape(-1).long()


def divisor(mode: str, x: Tensor, axis: int, valid: Tensor) -> Tensor | float:
    """What a loss is divided by: all places, those not ignored, the batch, or 1; at least by 1."""
    outer, inner = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    if mode == "VALID":
        return valid.sum().clamp(min=1)
    return float(max({"FULL": outer * inner, "BATCH_SIZE": outer, "NONE": 1}[mode], 1))


def softmax_loss(
    x: Tensor,
    label: Tensor,
    normalization: str = "VALID",
    ignore_label: int | None = None,
    axis: int = 1,
) -> Tensor:
    """A label for each place. A probability counts as FLT_MIN at least, so a loss as 87.3 at most.

    The gradient does not know of that. `BATCH_SIZE` divides by the extents before the axis.
    """
    scores, target = places(x, label, axis)
    kept = torch.ones_like(target, dtype=torch.bool)
    if ignore_label is not None:
        kept = target != ignore_label
        scores, target = scores[kept], target[kept]
    index = target.unsqueeze(1)
    value = -torch.log(functional.softmax(scores, 1).gather(1, index).clamp(min=FLT_MIN))
    each = gradient_of(value, -functional.log_softmax(scores, 1).gather(1, index))
    return each.sum() / divisor(normalization, x, axis, kept)


def infogain_loss(
    x: Tensor,
    label: Tensor,
    infogain: Tensor,
    normalization: str = "VALID",
    ignore_label: int | None = None,
    axis: int = 1,
) -> Tensor:
    """The row of a label in the matrix weighs -log(probability), of at least 1e-20, of each class.

    The gradient does not know of that limit, nor is there one for the matrix.
    """
    scores, target = places(x, label, axis)
    kept = torch.ones_like(target, dtype=torch.bool)
    if ignore_label is not None:
        kept = target != ignore_label
        scores, target = scores[kept], target[kept]
    rows = infogain.detach().reshape(scores.shape[1], scores.shape[1])[target]
    value = -torch.log(functional.softmax(scores, 1).clamp(min=LOG_THRESHOLD))
    each = rows * gradient_of(value, -functional.log_softmax(scores, 1))
    return each.sum() / divisor(normalization, x, axis, kept)


def sigmoid_cross_entropy_loss(
    x: Tensor, target: Tensor, normalization: str = "BATCH_SIZE", ignore_label: int | None = None
) -> Tensor:
    """Divided by the batch if nothing is said.

    A target is ignored if its whole part is the label: with `ignore_label: 0` all below 1 are.
    """
    goal = target.detach().reshape(x.shape)
    kept = torch.ones_like(x, dtype=torch.bool)
    if ignore_label is not None:
        kept = goal.trunc() != ignore_label
    positive = (x >= 0).to(x.dtype)
    each = torch.log(1 + torch.exp(x - 2 * x * positive)) - x * (goal - positive)
    each = gradient_of(each, x * (sigmoid(x) - goal).detach())  # and so rounded as it is
    total = torch.where(kept, each, torch.zeros_like(each)).sum()
    if normalization == "FULL":
        return total / max(x.numel(), 1)
    return total / divisor(normalization, x, 1, kept)


def euclidean_loss(a: Tensor, b: Tensor) -> Tensor:
    """Half the sum of squares, divided by the batch and not by the count."""
    difference = a - b.reshape(a.shape)
    return difference.square().sum() / (2 * a.shape[0])


def hinge_loss(x: Tensor, label: Tensor, norm: str = "L1") -> Tensor:
    """max(0, 1 + x), and 1 - x for the label's class; L2 is squared and not halved."""
    scores = x.reshape(x.shape[0], -1)
    signs = 1 - 2 * functional.one_hot(label.detach().reshape(-1).long(), scores.shape[1])
    margin = functional.relu(1 + scores * signs.to(x.dtype))
    return (margin if norm == "L1" else margin.square()).sum() / x.shape[0]


def contrastive_loss(
    a: Tensor, b: Tensor, similar: Tensor, margin: float = 1.0, legacy: bool = False
) -> Tensor:
    """Half of d^2 of similar pairs, of max(margin - d, 0)^2 of others, or max(margin - d^2, 0).

    Caffe's gradient of d is divided by d + 1e-4, where d itself would be right.
    """
    squares = (a - b).reshape(a.shape[0], -1).square().sum(1)
    if legacy:
        apart = functional.relu(margin - squares)
    else:
        distance = squares.detach().sqrt()
        distance = gradient_of(distance, squares / (2 * (distance + 1e-4)))
        apart = functional.relu(margin - distance).square()
    each = torch.where(similar.detach().flatten() != 0, squares, apart)
    return each.sum() / (2 * a.shape[0])


def multinomial_logistic_loss(probability: Tensor, label: Tensor) -> Tensor:
    """-log of the label's probability, which counts as 1e-20 at least, also in the gradient."""
    rows = probability.reshape(probability.shape[0], -1)
    chosen = rows.gather(1, label.detach().reshape(-1, 1).long())
    limited = chosen.detach().clamp(min=LOG_THRESHOLD)
    each = gradient_of(-torch.log(limited), -chosen / limited)
    return each.sum() / rows.shape[0]


def accuracy(
    x: Tensor, label: Tensor, top_k: int = 1, ignore_label: int | None = None, axis: int = 1
) -> Tensor:
    """How often fewer than k other scores reach the label's: a tie counts as an error."""
    right, target, _ = correct(x, label, top_k, ignore_label, axis)
    return right.sum() / max(target.numel(), 1)


def accuracy_per_class(
    x: Tensor, label: Tensor, top_k: int = 1, ignore_label: int | None = None, axis: int = 1
) -> Tensor:
    """The second top of Accuracy: the same for the places of each label, 0 where there are none."""
    right, target, classes = correct(x, label, top_k, ignore_label, axis)
    empty = torch.zeros(classes, dtype=x.dtype, device=x.device)
    counts = empty.index_add(0, target, torch.ones_like(right))
    return empty.index_add(0, target, right) / counts.clamp(min=1)


def correct(
    x: Tensor, label: Tensor, top_k: int, ignore_label: int | None, axis: int
) -> tuple[Tensor, Tensor, int]:
    """For each place that is not ignored 1 or 0, and its label; and how many classes there are."""
    scores, target = places(x.detach(), label, axis)
    if ignore_label is not None:
        kept = target != ignore_label
        scores, target = scores[kept], target[kept]
    own = scores.gather(1, target.unsqueeze(1))
    right = (scores >= own).sum(1) <= top_k
    return right.to(x.dtype), target, scores.shape[1]
