"""Which module of a port computes which layer of a net."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from caffe_parity.contract import BadRequest, Shape
from caffe_parity.engine.compare import alike
from caffe_parity.whole.golden import Golden, Step
from caffe_parity.whole.port import Call, Place

TAKES_SCALE = (torch.nn.modules.batchnorm._BatchNorm, torch.nn.modules.instancenorm._InstanceNorm)
"""The modules that do what in Caffe a BatchNorm and a Scale behind it do."""


@dataclass
class Matched:
    """What belongs to what.

    Attributes:
        steps: the layers that a call computes, in order: one, or a BatchNorm and its Scale.
        how: in what way it was found: "name", "--map", "what they share",
            "their weights" or "order".
        ends: the value that each of the port's results is, by the result's name or number.
    """

    steps: dict[Call, tuple[Step, ...]] = field(default_factory=dict)
    how: dict[Call, str] = field(default_factory=dict)
    ends: dict[str | int, str] = field(default_factory=dict)

    def add(self, call: Call, step: Step, how: str) -> None:
        """One pair more."""
        self.steps[call] = (step,)
        self.how[call] = how

    @property
    def places(self) -> dict[Call, Place]:
        """Which values each call takes and gives."""
        return {
            call: Place(steps[0].bottoms, steps[-1].tops[0]) for call, steps in self.steps.items()
        }

    def call_of(self, step: Step) -> Call | None:
        """The call that computes a layer."""
        return next((call for call, steps in self.steps.items() if step in steps), None)


def match(
    net: Golden,
    calls: Sequence[Call],
    modules: Mapping[str, torch.nn.Module],
    asked: Mapping[str, str],
) -> Matched:
    """Matches layers to calls: as asked, by name, by what they share, by their weights.

    Args:
        net: the net.
        calls: of the port, in order.
        modules: of the port, by name.
        asked: layer -> module, of --map.

    """
    found = Matched()
    left = list(net.steps)

    def pair(step: Step, module: str, how: str) -> bool:
        free = [call for call in calls if call.module == module and call not in found.steps]
        if not free or step not in left:
            return False
        found.add(free[0], step, how)
        left.remove(step)
        return True

    for step in net.steps:
        if step.name in asked:
            pair(step, asked[step.name], "--map")
    names = dict.fromkeys(call.module for call in calls)
    for wanted in (_plain, _last):  # the whole name before its last part
        known: dict[str, list[str]] = {}
        for name in names:
            known.setdefault(wanted(name), []).append(name)
        for step in net.steps:
            same = known.get(_plain(step.name), [])
            if len(same) == 1 and step.name not in asked:
                pair(step, same[0], "name")
    for step in net.steps:
        owner = _owner(net, step)
        call = found.call_of(owner) if owner else None
        if call:
            pair(step, call.module, "what they share")
    _by_weights(net, left, calls, modules, found)
    _with_scales(net, left, modules, found)
    return found


def _owner(net: Golden, step: Step) -> Step | None:
    """The layer that has the parameters which this one shares; None where it has its own."""
    if not step.params or step.type == "BatchNorm" or set(step.params) & set(net.owned):
        return None
    for other in net.steps:
        if other.type == step.type and set(other.params) <= set(net.owned) and other.params:
            pairs = list(zip(step.params, other.params, strict=False))
            if all(np.array_equal(net.params[one], net.params[two]) for one, two in pairs):
                return other
    return None


def must_be_there(
    asked: Mapping[str, str],
    net: Golden,
    calls: Sequence[Call],
    modules: Mapping[str, torch.nn.Module],
) -> None:
    """Checks what --map names.

    Raises:
        BadRequest: a layer or a module that is not there, or one that is not called.
    """
    called = {call.module for call in calls}
    steps = [step.name for step in net.steps]
    for layer, module in asked.items():
        if layer not in steps:
            raise BadRequest(f"--map {layer}={module}: the net's layers are {', '.join(steps)}")
        if module not in modules:
            names = ", ".join(name for name in modules if name)
            raise BadRequest(f"--map {layer}={module}: the port's modules are {names or 'none'}")
        if module not in called:
            raise BadRequest(
                f"--map {layer}={module}: the port has that module, but its forward does not call "
                "it, or it gives no tensor"
            )


def _plain(name: str) -> str:
    return re.sub(r"[^0-9a-z]", "_", name.lower())


def _last(name: str) -> str:
    return _plain(name.rpartition(".")[2])


def layouts(step: Step, module: torch.nn.Module) -> dict[str, Shape] | None:
    """The parameters of a module that a layer's blobs go into, in order, with their shapes.

    None where the two are not known to keep their numbers alike.
    """
    own = {name: tuple(each.shape) for name, each in module.named_parameters(recurse=False)}
    blobs = len(step.params)
    order = [name for name in ("weight", "bias") if name in own]
    if not blobs or len(own) != len(order) or blobs != len(order):
        return None
    return {name: own[name] for name in order}


def fits(net: Golden, step: Step, module: torch.nn.Module) -> bool:
    """Whether a layer's parameters have the shapes of a module's."""
    known = layouts(step, module)
    if known is None or step.type == "BatchNorm":
        return False
    shapes = [net.params[name].shape for name in step.params]
    return all(alike(one, other) for one, other in zip(shapes, known.values(), strict=True))


def _by_weights(
    net: Golden,
    left: list[Step],
    calls: Sequence[Call],
    modules: Mapping[str, torch.nn.Module],
    found: Matched,
) -> None:
    """Pairs what has the same numbers; else, where all of it fits, one after the other."""
    steps = [step for step in left if step.params and step.type != "BatchNorm"]
    free = [
        call
        for call in calls
        if call not in found.steps and any(True for _ in modules[call.module].parameters(False))
    ]
    for step in list(steps):
        same = [call for call in free if _same_numbers(net, step, modules[call.module])]
        if len(same) == 1:
            found.add(same[0], step, "their weights")
            free.remove(same[0])
            steps.remove(step)
            left.remove(step)
    fitting = {
        step.name: [call for call in free if fits(net, step, modules[call.module])]
        for step in steps
    }
    if len(steps) == len(free) and all(
        call in fitting[step.name] for step, call in zip(steps, free, strict=True)
    ):
        for step, call in zip(list(steps), free, strict=True):
            found.add(call, step, "order")
            left.remove(step)


def _same_numbers(net: Golden, step: Step, module: torch.nn.Module) -> bool:
    if not fits(net, step, module):
        return False
    known = layouts(step, module) or {}
    values = dict(module.named_parameters(recurse=False))
    return all(
        np.array_equal(
            net.params[name].reshape(-1), values[own].detach().float().numpy().reshape(-1)
        )
        for name, own in zip(step.params, known, strict=True)
    )


def _with_scales(
    net: Golden, left: list[Step], modules: Mapping[str, torch.nn.Module], found: Matched
) -> None:
    """A BatchNorm of PyTorch's with weights does what Caffe's Scale behind it does, too."""
    for call, steps in list(found.steps.items()):
        module = modules[call.module]
        if steps[0].type != "BatchNorm" or not isinstance(module, TAKES_SCALE):
            continue
        if not getattr(module, "affine", False):
            continue
        readers = [step for step in net.steps if steps[0].tops[0] in step.bottoms]
        if len(readers) == 1 and readers[0].type == "Scale" and readers[0] in left:
            found.steps[call] = (steps[0], readers[0])
            left.remove(readers[0])


def ends_of(net: Golden, results: Mapping[str | int, torch.Tensor]) -> dict[str | int, str]:
    """Which of the net's values a port returns: by name, else the outputs in order or by shape.

    Args:
        net: the net.
        results: what the port returns.
    """
    named: dict[str | int, str] = {key: str(key) for key in results if str(key) in net.values}
    if named:
        return named
    fitting = {
        key: [name for name in net.outputs if alike(net.values[name].shape, tuple(each.shape))]
        for key, each in results.items()
    }
    if len(results) == len(net.outputs) and all(
        name in fitting[key] for key, name in zip(results, net.outputs, strict=True)
    ):
        return dict(zip(results, net.outputs, strict=True))
    return {key: some[0] for key, some in fitting.items() if len(some) == 1}
