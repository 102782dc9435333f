"""What a layer's message says, and a module of PyTorch's says otherwise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from caffe_parity.contract import Shape
from caffe_parity.ports import convolution
from caffe_parity.ports.catalogue import Call, Refused, Said
from caffe_parity.ports.layers import PORTS
from caffe_parity.whole.golden import Golden, Step


def said_of(net: Golden, step: Step, said: Mapping[str, Any] | None = None) -> Said:
    """A layer of a net as the catalogue takes it, or with other fields of LayerParameter."""
    shapes = [net.values[name].shape for name in step.bottoms]
    return Said(step.said if said is None else said, shapes, net.messages, net.phase)


def arguments_of(net: Golden, step: Step) -> Mapping[str, Any]:
    """Those of the call that computes a layer in the catalogue, defaults among them.

    Raises:
        Refused, IndexError, KeyError: it has none.
    """
    call, *_ = PORTS[step.type].of(said_of(net, step))
    return call.arguments


def differences(net: Golden, step: Step, module: torch.nn.Module) -> list[str]:
    """In words, each setting of a module that is not the layer's; none where it is not known.

    What the layer's is, the catalogue says, or the shapes of its parameters.
    """
    rule = RULES.get(step.type)
    if rule is None:
        return []
    try:
        call, *_ = PORTS[step.type].of(said_of(net, step))
    except (Refused, IndexError, KeyError):
        return []
    kind = type(module).__name__
    shapes = [net.params[name].shape for name in step.params]
    return [
        f"{kind} has {name} {_shown(own)}, Caffe's {step.type} {_shown(theirs)}"
        for name, own, theirs in rule(
            Layer(call, len(net.values[step.bottoms[0]].shape), shapes), module
        )
        if _plain(own) != _plain(theirs)
    ]


CLAMP = (
    "Caffe's SoftmaxWithLoss takes the log of at least FLT_MIN, so that a sample adds 87.3 at most "
    "(softmax_loss_layer.cpp): .softmax(1).clamp(min=torch.finfo(torch.float32).tiny).log()"
)


def clamps(step: Step, net: Golden) -> bool:
    """Whether a layer takes the log of a probability so small that Caffe takes another one."""
    if step.type != "SoftmaxWithLoss":
        return False
    scores = torch.from_numpy(net.values[step.bottoms[0]]).double()
    smallest = scores.log_softmax(step.fields["axis"]).min()
    return bool(smallest < math.log(torch.finfo(torch.float32).tiny))


def _plain(value: Any) -> Any:
    """Numbers as Caffe keeps them, in float32."""
    if isinstance(value, bool) or not isinstance(value, float):
        return value
    return torch.tensor(value, dtype=torch.float32).item()


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Layer:
    """What is known of a layer: the call that computes it, its bottom's axes, its blobs' shapes."""

    call: Call
    axes: int
    blobs: Sequence[Shape]

    def __getitem__(self, name: str) -> Any:
        return self.call.arguments[name]


Rule = Callable[[Layer, Any], Iterator[tuple[str, Any, Any]]]


def _pair(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


def _convolution(layer: Layer, module: Any) -> Iterator[tuple[str, Any, Any]]:
    if not isinstance(module, nn.modules.conv._ConvNd):
        return
    outer, inner, *kernel = layer.blobs[0]
    turned = layer.call.function is convolution.deconvolution
    yield "out_channels", module.out_channels, inner * layer["group"] if turned else outer
    yield "kernel_size", _pair(module.kernel_size), tuple(kernel)
    for name, theirs in (("stride", "stride"), ("padding", "pad"), ("dilation", "dilation")):
        own = getattr(module, name)
        if not isinstance(own, str):
            yield name, _pair(own), layer[theirs]
    yield "padding_mode", module.padding_mode, "zeros"
    yield "groups", module.groups, layer["group"]
    yield "bias", module.bias is not None, len(layer.blobs) > 1


def _pooling(layer: Layer, module: Any) -> Iterator[tuple[str, Any, Any]]:
    is_max = isinstance(module, nn.MaxPool2d)
    if not is_max and not isinstance(module, nn.AvgPool2d):
        return
    if "kernel" not in layer.call.arguments:  # global
        return
    yield "the type of pooling", "MAX" if is_max else "AVE", layer["method"]
    yield "kernel_size", _pair(module.kernel_size), layer["kernel"]
    yield "stride", _pair(module.stride), layer["stride"]
    yield "padding", _pair(module.padding), layer["pad"]
    if layer["stride"] != (1, 1):  # else both come to the same
        yield "ceil_mode", module.ceil_mode, not layer["floor"]
    if not is_max and any(layer["pad"]):
        yield "count_include_pad", module.count_include_pad, True
    if is_max:
        yield "dilation", _pair(module.dilation), (1, 1)


def _lrn(layer: Layer, module: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(module, nn.LocalResponseNorm):
        for name in ("size", "alpha", "beta", "k"):
            yield name, getattr(module, name), layer.call.arguments.get(name, 1.0)


def _batch_norm(layer: Layer, module: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        yield "eps", float(module.eps), layer["eps"]


def _relu(layer: Layer, module: Any) -> Iterator[tuple[str, Any, Any]]:
    slope = getattr(module, "negative_slope", 0.0 if isinstance(module, nn.ReLU) else None)
    if slope is not None:
        yield "negative_slope", float(slope), layer["negative_slope"]


def _elu(layer: Layer, module: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(module, nn.ELU):
        yield "alpha", float(module.alpha), layer["alpha"]


def _dropout(layer: Layer, module: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(module, nn.modules.dropout._DropoutNd):
        alone = type(module) is nn.Dropout
        yield "what it drops:", "elements" if alone else "channels", "elements"
        yield "p", float(module.p), layer.call.arguments.get("ratio", module.p)


def _softmax(layer: Layer, module: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(module, (nn.Softmax, nn.LogSoftmax)) and module.dim is not None:
        yield "dim", module.dim % layer.axes, layer["axis"]


def _inner_product(layer: Layer, module: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(module, nn.Linear):
        yield "out_features", module.out_features, layer.blobs[0][int(layer["transpose"])]
        yield "bias", module.bias is not None, len(layer.blobs) > 1


RULES: Mapping[str, Rule] = {
    "Convolution": _convolution,
    "Deconvolution": _convolution,
    "Pooling": _pooling,
    "LRN": _lrn,
    "BatchNorm": _batch_norm,
    "ReLU": _relu,
    "ELU": _elu,
    "Dropout": _dropout,
    "Softmax": _softmax,
    "InnerProduct": _inner_product,
}
"""By type of layer: the name of a setting, the module's, and the layer's."""
