"""The training in float64, and how far float32 may carry each parameter from it after t steps.

The truth is that training. It is run again and again with every operation rounded at random
as float32 rounds (`caffe_parity.engine.random_rounding` derives it): those of the loss and of its
backward, and those of the optimizer. The rounded parameters and momentum buffers are what the next
step begins with, so an error travels on as the training itself carries it: a step that contracts
shrinks it, a learning rate near the limit of stability lets it grow, and momentum keeps it for some
1/(1 - momentum) steps. What the runs differ by after step t is what rounding does until step t:
nobody chose how fast the bound grows.

Nothing else is rounded. Initial parameters and batches are float32 numbers, the same for both
frameworks. The settings are not: Caffe reads 0.1 as the float32 next to it, an error that is the
same in every step and so does not average out. Each run has therefore settings of its own, each of
them off by up to u = 2**-24 of itself from the first step to the last.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from caffe_parity.contract import Arrays, BadRequest, Bound, Expected
from caffe_parity.engine.functions import Tensors
from caffe_parity.engine.random_rounding import expect
from caffe_parity.engine.threads import one_thread
from caffe_parity.training.recipe import LOSS, Recipe, largest, settings, steps

SETTINGS = "settings"


@dataclass(frozen=True)
class Truth:
    """The float64 training, and how far float32 may be from it.

    Attributes:
        recipe, initial, batches: what was trained.
        expected: the state after each step, and its bound.
    """

    recipe: Recipe
    initial: Arrays
    batches: Sequence[Arrays]
    expected: Sequence[Expected]


def truth_of(recipe: Recipe, initial: Arrays, batches: Sequence[Arrays]) -> Truth:
    """The float64 training and its bounds; it takes seconds, so keep it for several comparisons.

    Args:
        recipe: what is trained.
        initial: the parameters to begin with, float32.
        batches: the inputs of each step, float32.

    Raises:
        BadRequest: there is no batch, or no parameter.
    """
    if not batches or not initial:
        raise BadRequest("a training needs at least one batch and one parameter")
    places = settings(recipe.optimizer({k: torch.tensor(v) for k, v in initial.items()}))

    def evaluate(inputs: Tensors) -> Tensors:
        factors = inputs[SETTINGS].tolist()

        def adjust(_: int, optimizer: torch.optim.Optimizer, __: Tensors) -> None:
            for (index, key), factor in zip(places, factors, strict=True):
                optimizer.param_groups[index][key] *= factor

        trained = steps(recipe, initial, batches, torch.float64, adjust)
        return {
            f"{number}:{name}": value
            for number, state in enumerate(trained)
            for name, value in state.items()
        }

    with one_thread(largest(batches)):
        found = expect(evaluate, {SETTINGS: torch.ones(len(places), dtype=torch.float64)}, set())

    def after(step: int) -> Expected:
        names = {name: f"{step}:{name}" for name in (LOSS, *initial)}
        bound = {name: found.bound.worst[each] for name, each in names.items()}
        truth = {name: found.truth[each] for name, each in names.items()}
        return Expected(truth, Bound(bound, bound))

    return Truth(recipe, initial, batches, [after(step) for step in range(len(batches))])
