"""Each variant of the three layers at the end of a small net that learns.

Two 1x1 convolutions make x1 and x2 from data, so that both gradients of the loss train something.
Their biases learn twice as fast and do not decay, as most of Caffe's published nets have it.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch.nn.functional import conv2d

from caffe_parity import CaffeNet, Case
from caffe_parity.caffe.session import SESSION
from caffe_parity.contract import Arrays, Shape, Variant
from caffe_parity.engine.functions import Function, Tensors
from caffe_parity.engine.port import Port
from caffe_parity.training.in_caffe import CaffeTraining, train_in_caffe
from caffe_parity.training.recipe import Recipe, Trajectory, train
from caffe_parity.training.truth import Truth
from reference.fills import bell

CHANNELS = 2
"""Of the data; x1 and x2 have those of the case."""

RATE, MOMENTUM, DECAY = 0.002, 0.9, 0.01
"""Of the small nets. None of them is a float32 number, so that what Caffe reads is rounded."""

BIAS_RATE = 2.0
"""The biases' lr_mult."""


def below(case: Case) -> str:
    """The layers that make x1 and x2: "learned1" of the input "data1", "learned2" of "data2"."""
    return "".join(_learned(name[1:], shape) for name, shape in case.shapes.items())


def _learned(number: str, shape: Shape) -> str:
    dims = " ".join(f"dim: {extent}" for extent in _data_shape(shape))
    return f"""
layer {{
  name: "data{number}"
  type: "Input"
  top: "data{number}"
  input_param {{ shape {{ {dims} }} }}
}}
layer {{
  name: "learned{number}"
  type: "Convolution"
  bottom: "data{number}"
  top: "x{number}"
  param {{ lr_mult: 1 decay_mult: 1 }}
  param {{ lr_mult: {BIAS_RATE} decay_mult: 0 }}
  convolution_param {{ num_output: {shape[1]} kernel_size: 1 }}
}}
"""


def _data_shape(shape: Shape) -> Shape:
    return (shape[0], CHANNELS, *shape[2:])


def caffe_training(net: CaffeNet, case: Case, solver: str = "") -> CaffeTraining:
    """A variant's own net on top of the learned layers.

    Args:
        net: which one.
        case: its shapes, with two spatial axes, and the loss weight.
        solver: text that is added to the solver's; a field that is there already is replaced.
    """
    return CaffeTraining(
        net=net.text(case),
        solver=(
            f'base_lr: {RATE} lr_policy: "fixed" momentum: {MOMENTUM} weight_decay: {DECAY} '
            + solver
        ),
        path=net.path,
        libraries=tuple(net.libraries(SESSION.running(net.path))),
        edits={"below": below(case), "loss_weight": case.weight},
    )


def trained(variant: Variant, case: Case, truth: Truth) -> Trajectory:
    """A variant's training from the truth's first weights and on its batches, in float32."""
    if isinstance(variant, CaffeNet):
        return train_in_caffe(caffe_training(variant, case), truth.initial, truth.batches)
    assert isinstance(variant, Port)
    return train(recipe(variant.function, case), truth.initial, truth.batches, torch.float32)


def recipe(loss: Function, case: Case) -> Recipe:
    """The same net with a loss in PyTorch, and torch.optim.SGD.

    Args:
        loss: maps x1 and x2 to the loss: a formula of the reference, or a port.
        case: its loss weight.
    """
    return Recipe(partial(_net, loss), sgd, loss_weight=case.weight)


def _net(loss: Function, params: Tensors, inputs: Tensors) -> torch.Tensor:
    x1, x2 = (
        conv2d(inputs[f"data{n}"], params[f"learned{n}[0]"], params[f"learned{n}[1]"])
        for n in (1, 2)
    )
    made: torch.Tensor = loss(x1=x1, x2=x2)
    return made


def sgd(params: Tensors) -> torch.optim.Optimizer:
    """torch.optim.SGD with the settings of the solver, the biases in a group of their own."""
    return torch.optim.SGD(groups(params), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)


def groups(params: Tensors) -> list[dict[str, object]]:
    """The weights and the biases as parameter groups: Caffe's lr_mult and decay_mult."""
    weights = [param for name, param in params.items() if name.endswith("[0]")]
    biases = [param for name, param in params.items() if name.endswith("[1]")]
    return [{"params": weights}, {"params": biases, "lr": BIAS_RATE * RATE, "weight_decay": 0.0}]


def initial(case: Case) -> Arrays:
    """The learned layers' first weights, from the case's seed."""
    rng = np.random.RandomState([case.seed, 1])
    return {
        f"learned{name[1:]}[{index}]": bell(shape, rng) / np.float32(2)
        for name, (_, channels, *_) in case.shapes.items()
        for index, shape in enumerate([(channels, CHANNELS, 1, 1), (channels,)])
    }


def batches(case: Case, count: int) -> list[Arrays]:
    """The data of so many steps, from the case's seed."""
    rng = np.random.RandomState([case.seed, 2])
    return [
        {f"data{name[1:]}": bell(_data_shape(shape), rng) for name, shape in case.shapes.items()}
        for _ in range(count)
    ]
