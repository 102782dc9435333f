"""How the modules of PyTorch hold the numbers of Caffe's layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from caffe_parity.contract import Shape
from caffe_parity.engine.compare import alike
from caffe_parity.whole.golden import Golden, Step

AS_IT_IS, TURNED, GATES, DIVIDED, NOTHING = (
    "as it is",
    "transposed",
    "gates i, f, o, g become i, f, g, o",
    "divided by",
    "zeros",
)
"""The ways in which a tensor of a port is made from Caffe's."""


@dataclass(frozen=True)
class Held:
    """What a tensor of a port is made of.

    Attributes:
        params: the net's parameters: one; a sum and what it is divided by; matrices that stand side
            by side; none for zeros.
        way: how, one of the words above.
    """

    params: tuple[str, ...]
    way: str = AS_IT_IS

    def of(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """The port's numbers, from those of the net's parameters."""
        value = values[0]
        if self.way == TURNED:
            return value.t()
        if self.way != DIVIDED and len(values) > 1:
            value = torch.cat([*values], 1)
        if self.way == GATES:
            i, f, o, g = value.chunk(4)
            return torch.cat([i, f, g, o])
        if self.way == DIVIDED:  # as Caffe does it, rounding twice; no gradient goes there
            divisor = values[1]
            return (value * (1 / divisor if divisor.any() else 0.0)).detach()
        return value

    def back(self, value: torch.Tensor) -> torch.Tensor | None:
        """The net's parameter, from the port's numbers; None where those do not tell."""
        if len(self.params) > 1:
            return None
        if self.way == TURNED:
            return value.t()
        if self.way == GATES:
            i, f, g, o = value.chunk(4)
            return torch.cat([i, f, o, g])
        return value if self.way == AS_IT_IS else None

    def shape(self, net: Golden) -> Shape:
        """The shape of these numbers in Caffe."""
        shapes = [net.params[name].shape for name in self.params]
        if self.way == DIVIDED or len(shapes) == 1:
            return shapes[0]
        return shapes[0][0], sum(each[1] for each in shapes)


def held(net: Golden, step: Step, module: nn.Module) -> Mapping[str, Held] | None:
    """The tensors of a module that a layer's parameters go into, by name.

    Convolution, Deconvolution, InnerProduct, Embed and PReLU keep their numbers in the order of
    PyTorch's weight and bias. A BatchNorm has sums of means and variances, and what both are
    divided by. Of an LSTM the four gates have another order, and one bias, not two; so of an RNN,
    whose outputs are those of a Linear and a tanh behind PyTorch's. What is read once for all steps
    has weights of its own, or stands behind each step's input. Any other module holds them where
    its own parameters have the same shapes in the same order.

    None where the two are not known to keep their numbers alike.
    """
    said = getattr(module, "blobs", None)  # of a module that names its parameters in Caffe's order
    if isinstance(said, tuple) and len(said) == len(step.params):
        found = {name: Held((param,)) for name, param in zip(said, step.params, strict=True)}
        good = all(
            alike(net.params[each.params[0]].shape, tuple(getattr(module, name).shape))
            for name, each in found.items()
        )
        return found if good else None
    if step.type == "BatchNorm":
        return _statistics(step, module)
    own: dict[str, torch.Tensor] = {
        name: each
        for name, each in module.named_buffers(recurse=False)
        if name in ("weight", "bias")  # which does not learn
    }
    own |= dict(module.named_parameters())
    pairs = list(_pairs(step, module, own))
    if {name for name, _ in pairs} != set(own):
        return None
    used = [name for _, each in pairs for name in each.params]
    if sorted(used) != sorted(step.params):
        return None
    shapes = [(each, tuple(own[name].shape)) for name, each in pairs if each.params]
    good = all(_fits(each.shape(net), each, shape) for each, shape in shapes)
    return dict(pairs) if good else None


def of_functions(step: Step) -> list[tuple[Held, bool]]:
    """What the tensors are made of that a function takes for a layer, and which of them learn.

    Of a recurrent layer's with the gates in Caffe's order; see `of_cell`.
    """
    if step.type == "BatchNorm":
        return [(Held((name, step.params[2]), DIVIDED), False) for name in step.params[:2]]
    turned = bool(step.fields.get("transpose"))
    return [
        (Held((name,), TURNED if turned and not number else AS_IT_IS), True)
        for number, name in enumerate(step.params)
    ]


def of_cell(step: Step, ending: str, joined: bool = False) -> Mapping[str, Held]:
    """What tensors are made of that have the names of a recurrent module's, and its gates' order.

    Args:
        step: an LSTM or an RNN.
        ending: of the names: "_l0" or "".
        joined: whether what is read once for all steps stands behind each step's input.
    """
    way = GATES if step.type == "LSTM" else AS_IT_IS
    static = of_static(step)
    return {
        f"weight_ih{ending}": Held((step.params[0], *(static if joined else ())), way),
        f"weight_hh{ending}": Held((step.params[2 + len(static)],), way),
        f"bias_ih{ending}": Held((step.params[1],), way),
        f"bias_hh{ending}": Held((), NOTHING),
    }


def of_static(step: Step) -> tuple[str, ...]:
    """The weights of what a recurrent layer reads once for all steps, its third bottom; or ()."""
    return step.params[2:3] if len(step.params) > {"LSTM": 3, "RNN": 5}[step.type] else ()


def _pairs(
    step: Step, module: nn.Module, own: Mapping[str, torch.Tensor]
) -> Iterator[tuple[str, Held]]:
    params = step.params
    cells = (nn.RNNBase, nn.RNNCellBase) if step.type in ("LSTM", "RNN") else ()
    inner = [name for name, each in module.named_modules() if isinstance(each, cells)]
    if len(inner) == 1:
        prefix = f"{inner[0]}." if inner[0] else ""
        ending = "_l0" if f"{prefix}weight_ih_l0" in own else ""
        rest = [name for name in own if not name.startswith(prefix + "weight_")]
        rest = [name for name in rest if not name.startswith(prefix + "bias_")] if prefix else []
        static = of_static(step)
        behind = [Held((name,)) for name in params[3 + len(static) :]]
        joined = bool(static) and len(rest) == len(behind)
        for name, each in of_cell(step, ending, joined).items():
            if name.startswith("weight") or f"{prefix}bias_ih{ending}" in own:
                yield prefix + name, each
        way = GATES if step.type == "LSTM" else AS_IT_IS
        alone = [] if joined else [Held((name,), way) for name in static]
        yield from zip(rest, [*alone, *behind], strict=False)
        return
    names = list(own)
    if set(names) <= {"weight", "bias"}:
        names = [name for name in ("weight", "bias") if name in own]
    turned = bool(step.fields.get("transpose"))  # of an InnerProduct
    for number, (name, param) in enumerate(zip(names, params, strict=False)):
        yield name, Held((param,), TURNED if turned and not number else AS_IT_IS)


def _statistics(step: Step, module: nn.Module) -> Mapping[str, Held] | None:
    buffers = dict(module.named_buffers(recurse=False))
    found = {
        name: Held((step.params[index], step.params[2]), DIVIDED)
        for index, name in enumerate(("running_mean", "running_var"))
        if buffers.get(name) is not None
    }
    if not found and len(buffers) == len(step.params):  # Caffe's own three
        return {name: Held((param,)) for name, param in zip(buffers, step.params, strict=True)}
    return found or None


def _fits(caffe: Shape, each: Held, port: Shape) -> bool:
    """Whether the numbers of a parameter are those of a tensor of that shape, one by one."""
    if each.way == TURNED:
        port = port[::-1]
    flat = caffe[:1] == port[:1] and math.prod(caffe) == math.prod(port)  # a Linear as a Conv2d
    return alike(caffe, port) or (flat and each.way == AS_IT_IS and len(caffe) == 2 < len(port))
