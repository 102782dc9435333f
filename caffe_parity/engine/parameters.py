"""The parameter blobs of a net, and how a reference or a port gets them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from caffe_parity.contract import Array32, BadRequest

ARGUMENT = "param"
"""The argument by which a function asks for the parameters: a list, param[0], param[1], ..."""


@dataclass(frozen=True)
class Parameter:
    """A parameter blob.

    Attributes:
        name: `param[0]`, `param[1]`, ... in the net's order; blobs that layers share count once,
            those that BatchNorm keeps for itself not at all.
        layer, index: where Caffe has it.
        learned: whether Caffe computes its gradient: its lr_mult is not 0.
        initial: what the net's filler, or the layer's set-up, wrote into it.
    """

    name: str
    layer: str
    index: int
    learned: bool
    initial: Array32


def taken_by(function: Callable[..., Any]) -> bool:
    """Whether a function has an argument `param`."""
    target = function.forward if hasattr(function, "forward") else function
    try:
        return ARGUMENT in inspect.signature(target).parameters
    except (TypeError, ValueError):
        return False


def gathered(function: Callable[..., Any], params: Sequence[Parameter]) -> Callable[..., Any]:
    """The function with one keyword argument for each parameter, by name, in place of `param`."""

    def call(**tensors: torch.Tensor) -> Any:
        values = [tensors.pop(each.name) for each in params]
        return function(**tensors, **{ARGUMENT: values})

    return call


def loaded(module: torch.nn.Module, params: Sequence[Parameter]) -> Callable[..., Any]:
    """The module with one keyword argument for each parameter: they take the place of its own.

    Its own are matched by order, with all of the net's or with the learned ones only.

    Raises:
        BadRequest: their number or their shapes differ.
    """
    own = dict(module.named_parameters())
    learned = [each for each in params if each.learned]
    matched = learned if len(own) == len(learned) else list(params)
    shapes = [tuple(each.shape) for each in own.values()]
    if len(own) != len(matched) or not all(
        shape == each.initial.shape or (each.initial.size == 1 and torch.Size(shape).numel() == 1)
        for shape, each in zip(shapes, matched, strict=True)
    ):
        theirs = ", ".join(f"{name} {tuple(each.shape)}" for name, each in own.items()) or "none"
        raise BadRequest(
            f"the port's own parameters ({theirs}) are not those of the net ({described(params)}) "
            f"in order and shape: give its forward an argument `{ARGUMENT}`, a list of them"
        )

    def call(**tensors: torch.Tensor) -> Any:
        given = {each.name: tensors.pop(each.name) for each in params}
        dtype = next(iter(given.values())).dtype
        state = {
            name: each.to(dtype) if each.is_floating_point() else each
            for name, each in module.named_buffers()
        }
        for (name, each), source in zip(own.items(), matched, strict=True):
            state[name] = given[source.name].reshape(each.shape)
        return torch.func.functional_call(module, state, kwargs=tensors)

    return call


def described(params: Sequence[Parameter]) -> str:
    """The parameters in a line: name, shape, and where Caffe has it."""
    parts = [f"{each.name} {each.initial.shape} of {each.layer}" for each in params]
    return ", ".join(parts) or "none"
