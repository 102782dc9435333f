"""Draws docs/training.svg: error and bound, step by step, in Caffe and in PyTorch.

    python -m studies.training_plot

Needs matplotlib (the dependency group `plots`) and a Caffe. The net is that of the tests, over 40
steps, with the channel sum at its end. Left, the learning rate is constant; right, it falls at step
21, and torch.optim.SGD leaves Caffe there and at no step before.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from caffe_parity import CaffeNet
from caffe_parity.training.in_caffe import train_in_caffe
from caffe_parity.training.recipe import Recipe, Trajectory, train
from caffe_parity.training.truth import Truth, truth_of
from parity_tests import training_nets as nets
from parity_tests.layers import LAYERS
from reference.cases import case_of
from torch_impl.caffe_sgd import CaffeSGD

PICTURE = Path(__file__).parent.parent / "docs" / "training.svg"
LAYER = LAYERS["channel_sum"]
CASE = case_of("training", (4, 3, 2, 3), (4, 5, 2, 3), loss_weight=2.5, seed=0)
STEPS, FALLS = 40, 20
PARAMETER = "learned2[0]"
COLOURS = {"Caffe": "tab:red", "torch.optim.SGD": "tab:blue"}


def caffe_training(solver: str = "") -> Trajectory:
    """The channel sum as a Convolution, trained by Caffe's own solver."""
    net = LAYER.variants["caffe-convolution"]
    assert isinstance(net, CaffeNet)
    training = nets.caffe_training(net, CASE, solver)
    return train_in_caffe(training, nets.initial(CASE), nets.batches(CASE, STEPS))


def falling(recipe: Recipe) -> Recipe:
    """The same with a learning rate that falls to a tenth."""

    def schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.StepLR(optimizer, FALLS, 0.1)

    return Recipe(recipe.loss, recipe.optimizer, schedule, recipe.loss_weight)


def caffe_sgd(recipe: Recipe) -> Recipe:
    """The same with Caffe's momentum."""

    def optimizer(params: dict[str, torch.Tensor]) -> torch.optim.Optimizer:
        groups = nets.groups(params)
        return CaffeSGD(groups, nets.RATE, nets.MOMENTUM, nets.DECAY)

    return Recipe(recipe.loss, optimizer, recipe.schedule, recipe.loss_weight)


def draw(axis: plt.Axes, truth: Truth, trainings: dict[str, Trajectory]) -> None:
    """Each training's largest error in one parameter, and the bound at the same step."""
    steps = np.arange(1, STEPS + 1)
    bounds = [each.bound.worst[PARAMETER].max() for each in truth.expected]
    axis.fill_between(steps, bounds, 1e-10, color="0.9", label="bound")
    axis.plot(steps, bounds, color="0.5", linewidth=1)
    for name, training in trainings.items():
        errors = [
            np.abs(seen[PARAMETER] - each.truth[PARAMETER]).max()
            for seen, each in zip(training, truth.expected, strict=True)
        ]
        axis.plot(steps, errors, marker=".", color=COLOURS[name], label=name)
    axis.set_yscale("log")
    axis.set_xlabel("step")
    axis.set_xlim(1, STEPS)


def main() -> None:
    """Trains and writes the picture."""
    first, data = nets.initial(CASE), nets.batches(CASE, STEPS)
    recipe = nets.recipe(LAYER.reference, CASE)
    constant = truth_of(recipe, first, data)
    caffe = truth_of(caffe_sgd(falling(recipe)), first, data)
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True)
    port = train(recipe, first, data, torch.float32)
    draw(axes[0], constant, {"Caffe": caffe_training(), "torch.optim.SGD": port})
    axes[0].set_title("constant learning rate: both agree")
    axes[0].set_ylabel(f"largest error in {PARAMETER}")
    axes[0].legend(loc="upper left")
    stepped = caffe_training(f'lr_policy: "step" stepsize: {FALLS} gamma: 0.1')
    port = train(falling(recipe), first, data, torch.float32)
    draw(axes[1], caffe, {"Caffe": stepped, "torch.optim.SGD": port})
    axes[1].axvline(FALLS + 1, color="0.3", linewidth=1, linestyle=":")
    axes[1].text(FALLS + 1.5, 2e-10, f"the rate falls at step {FALLS + 1}", color="0.3")
    axes[1].set_title("it falls to a tenth: torch.optim.SGD leaves Caffe")
    axes[1].set_ylim(1e-10, 1)
    figure.tight_layout()
    figure.savefig(PICTURE, metadata={"Date": None})


if __name__ == "__main__":
    main()
