"""What is trained in PyTorch, and the training itself: in float64 the truth, in float32 a port."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from caffe_parity.contract import Arrays, Floating
from caffe_parity.engine.functions import Tensors
from caffe_parity.engine.threads import one_thread

State = dict[str, Floating]
"""One step: LOSS, and each parameter by name after the step."""

Trajectory = list[State]
"""The states after step 1, 2, ...; the state of step t is element t - 1."""

LOSS = "loss"
"""What a step minimised: the sum of all losses with their weights, before the update."""

Adjust = Callable[[int, torch.optim.Optimizer, Tensors], None]
"""Called with the number of a step, from 1, the optimizer and the parameters by name, after the
step's backward and before its update."""


@dataclass(frozen=True)
class Recipe:
    """A net as a function of its parameters, and how it is trained.

    Attributes:
        loss: maps parameters and inputs, both by name, to the scalar that is minimised. A parameter
            has the name of its layer in Caffe and the number of its blob, such as "ip1[0]"; an
            input the name of its blob.
        optimizer: makes the optimizer for parameters by name.
        schedule: makes the learning-rate schedule of that optimizer; it steps after each update.
        loss_weight: multiplies `loss`, as the loss weight of a net with one loss does.
    """

    loss: Callable[[Tensors, Tensors], torch.Tensor]
    optimizer: Callable[[Tensors], torch.optim.Optimizer]
    schedule: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler] | None = None
    loss_weight: float = 1.0


def train(
    recipe: Recipe,
    initial: Arrays,
    batches: Sequence[Arrays],
    dtype: torch.dtype,
    adjust: Adjust | None = None,
) -> Trajectory:
    """Takes one step for each batch.

    Args:
        recipe: what to train.
        initial: the parameters to begin with, float32.
        batches: the inputs of each step, float32.
        dtype: torch.float64 for the truth, torch.float32 for a port.
        adjust: changes the optimizer or the gradients of a step; the optimizer's settings are set
            back after the step.
    """
    with one_thread(largest(batches)):
        return [
            {name: each.numpy() for name, each in state.items()}
            for state in steps(recipe, initial, batches, dtype, adjust)
        ]


def largest(batches: Sequence[Arrays]) -> int:
    """The number of elements of the largest input."""
    return max(array.size for batch in batches for array in batch.values())


def steps(
    recipe: Recipe,
    initial: Arrays,
    batches: Iterable[Arrays],
    dtype: torch.dtype,
    adjust: Adjust | None = None,
) -> Iterator[Tensors]:
    """As `train`, one step at a time."""
    params = {name: each.requires_grad_() for name, each in _tensors(initial, dtype).items()}
    weight = float(np.float32(recipe.loss_weight))  # as Caffe holds it
    optimizer = recipe.optimizer(params)
    names = settings(optimizer)
    schedule = recipe.schedule(optimizer) if recipe.schedule else None
    for number, batch in enumerate(batches, 1):
        optimizer.zero_grad()
        loss = weight * recipe.loss(params, _tensors(batch, dtype))
        loss.backward()  # type: ignore[no-untyped-call]
        groups = optimizer.param_groups
        given = [(groups[index], key, groups[index][key]) for index, key in names]
        if adjust:
            adjust(number, optimizer, params)
        optimizer.step()
        for group, key, value in given:
            group[key] = value
        if schedule:
            schedule.step()
        yield {
            LOSS: loss.detach().clone(),
            **{name: each.detach().clone() for name, each in params.items()},
        }


def _tensors(arrays: Arrays, dtype: torch.dtype) -> Tensors:
    """Copies, so that no training changes what it was given."""
    return {name: torch.tensor(array, dtype=dtype) for name, array in arrays.items()}


def settings(optimizer: torch.optim.Optimizer) -> list[tuple[int, str]]:
    """Where an optimizer holds the numbers that it was given, such as "lr": group and key."""
    return [
        (index, key)
        for index, group in enumerate(optimizer.param_groups)
        for key, value in group.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    ]
