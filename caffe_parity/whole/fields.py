"""What a layer's message says, and a module of PyTorch's says otherwise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from caffe_parity.whole.golden import Golden, Step

Fields = Mapping[str, Any]


def differences(step: Step, module: torch.nn.Module) -> list[str]:
    """In words, each setting of a module that is not the layer's; none where it is not known."""
    rule = RULES.get(step.type)
    if rule is None:
        return []
    kind = type(module).__name__
    return [
        f"{kind} has {name} {_shown(own)}, Caffe's {step.type} {_shown(theirs)}"
        for name, own, theirs in rule(step.fields, module)
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


OVERWRITTEN = (
    "a layer behind it works on the same blob in place, so that Caffe's backward of this one reads "
    "what that has left there, and not what this one made"
)


def is_overwritten(step: Step) -> bool:
    """Whether a layer's backward reads a top that a layer in place has overwritten before."""
    reads = ("ELU", "Exp", "Power", "Sigmoid", "Softmax", "Swish", "TanH")
    return step.type in reads and any(top.endswith(f" ({step.name})") for top in step.tops)


def _plain(value: Any) -> Any:
    """Numbers as Caffe keeps them, in float32."""
    if isinstance(value, bool) or not isinstance(value, float):
        return value
    return torch.tensor(value, dtype=torch.float32).item()


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


Rule = Callable[[Fields, Any], Iterator[tuple[str, Any, Any]]]


def _pair(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


def extent(fields: Fields, name: str, usual: int) -> tuple[int, ...]:
    """kernel_size, stride or pad, of which a message may say one number, two, or _h and _w."""
    short = name.removesuffix("_size")
    if fields.get(f"{short}_h") or fields.get(f"{short}_w"):
        return fields.get(f"{short}_h", usual), fields.get(f"{short}_w", usual)
    said: Any = fields.get(name, usual)
    several = list(said) if isinstance(said, (list, tuple)) else [said]
    several = several or [usual]
    return tuple(several) if len(several) > 1 else (several[0], several[0])


def _convolution(fields: Fields, module: Any) -> Iterator[tuple[str, Any, Any]]:
    if not isinstance(module, nn.modules.conv._ConvNd):
        return
    yield "out_channels", module.out_channels, fields["num_output"]
    for name, own, usual in (
        ("kernel_size", "kernel_size", 1),
        ("stride", "stride", 1),
        ("pad", "padding", 0),
        ("dilation", "dilation", 1),
    ):
        value = getattr(module, own)
        if isinstance(value, str):
            continue
        yield own, _pair(value), extent(fields, name, usual)
    yield "groups", module.groups, fields["group"]
    yield "bias", module.bias is not None, fields["bias_term"]


def _pooling(fields: Fields, module: Any) -> Iterator[tuple[str, Any, Any]]:
    is_max = isinstance(module, nn.MaxPool2d)
    if not is_max and not isinstance(module, nn.AvgPool2d):
        return
    if fields["global_pooling"]:
        return
    yield "the type of pooling", "MAX" if is_max else "AVE", fields["pool"]
    yield "kernel_size", _pair(module.kernel_size), extent(fields, "kernel_size", 1)
    yield "stride", _pair(module.stride), extent(fields, "stride", 1)
    yield "padding", _pair(module.padding), extent(fields, "pad", 0)
    if extent(fields, "stride", 1) != (1, 1):  # else both come to the same
        yield "ceil_mode", module.ceil_mode, fields.get("round_mode", "CEIL") == "CEIL"
    if not is_max and any(extent(fields, "pad", 0)):
        yield "count_include_pad", module.count_include_pad, True
    if is_max:
        yield "dilation", _pair(module.dilation), (1, 1)


def _lrn(fields: Fields, module: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(module, nn.LocalResponseNorm):
        yield "size", module.size, fields["local_size"]
        for name in ("alpha", "beta", "k"):
            yield name, float(getattr(module, name)), fields[name]


def _batch_norm(fields: Fields, module: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        yield "eps", float(module.eps), fields["eps"]


def _relu(fields: Fields, module: Any) -> Iterator[tuple[str, Any, Any]]:
    slope = getattr(module, "negative_slope", 0.0 if isinstance(module, nn.ReLU) else None)
    if slope is not None:
        yield "negative_slope", float(slope), fields["negative_slope"]


def _elu(fields: Fields, module: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(module, nn.ELU):
        yield "alpha", float(module.alpha), fields["alpha"]


def _dropout(fields: Fields, module: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(module, nn.modules.dropout._DropoutNd):
        alone = type(module) is nn.Dropout
        yield "what it drops:", "elements" if alone else "channels", "elements"
        yield "p", float(module.p), fields["dropout_ratio"]


def _softmax(fields: Fields, module: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(module, (nn.Softmax, nn.LogSoftmax)):
        yield "dim", module.dim, fields["axis"]


def _inner_product(fields: Fields, module: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(module, nn.Linear):
        yield "out_features", module.out_features, fields["num_output"]
        yield "bias", module.bias is not None, fields["bias_term"]


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
