"""What a part of a port may compute instead of its layers, to explain what it has made.

Each field of a layer's messages in turn gets the values that people give it by mistake: what it is
without being said, the other one of two, another word of its kind. Caffe's layers of the same form
are tried, and those mistakes of whole nets that no field says (BGR, channels last, gates, `cont`).
The catalogue of counterparts computes each from Caffe's own bottoms.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from caffe_parity.contract import GRADIENT
from caffe_parity.layer import Rival
from caffe_parity.ports.catalogue import Refused, evaluated
from caffe_parity.ports.layers import PORTS
from caffe_parity.whole.fields import said_of
from caffe_parity.whole.golden import Golden, Step

Tensors = dict[str, torch.Tensor]
Compute = Callable[[Tensors], Tensors]
"""From "bottom[0]" and "blob[0]" to "top[0]"."""

ALIKE = ("ReLU", "Sigmoid", "TanH", "ELU", "AbsVal", "BNLL", "Softmax", "Swish")
"""Types of one bottom and no parameters that people take for one another."""

EPS = (1e-3, 1e-5, 1e-6, 1e-8, 1e-9, 1e-10, 1e-12, 0.0)
"""What is added below a root here and there."""


USUAL = (1.0, 0.0, 0.01, 0.1, 0.2, 0.25, 0.5, 0.75, 2.0)
"""Numbers that many a setting has by default elsewhere."""


MOST_ORDERS = 4
"""Bottoms of which every order is tried: 23 others."""


@dataclass(frozen=True)
class Other:
    """Another thing that a layer may be taken for.

    Attributes:
        words: what is said of a tensor: "is as with lrn_param.alpha 0.02".
        compute: computes it.
    """

    words: str
    compute: Compute


def rivals(
    net: Golden,
    steps: Sequence[Step],
    tops: Sequence[str],
    bottoms: Sequence[str],
    key: Callable[[str], str],
) -> Iterator[Rival]:
    """What layers that are judged together would make if one of them were another.

    Args:
        net: the net.
        steps: the layers, in order.
        tops: the values that they give.
        bottoms: those that they take.
        key: the name of the gradient that they send back to a bottom.
    """
    known = {step.index: _as_said(net, step) for step in steps}
    if None in known.values():
        return
    right = _tried(net, steps, known, tops, bottoms, key)
    for step in steps:
        for other in others(net, step):
            chosen = {**known, step.index: other.compute}
            predicted = _tried(net, steps, chosen, tops, bottoms, key)
            # Where it changes nothing, as of a parameter that layers share, it explains nothing.
            predicted = {
                name: each
                for name, each in predicted.items()
                if name in right and not np.array_equal(each, right[name])
            }
            words = other.words.replace("{", "{{").replace("}", "}}")
            yield Rival("setting", "{tensor} " + words, predicted, dict.fromkeys(predicted, 0.0))


def _tried(*arguments: Any) -> dict[str, Any]:
    """What layers make; nothing where they cannot: another setting need not fit the shapes."""
    try:
        return _made(*arguments)
    except Exception:
        return {}


def _made(
    net: Golden,
    steps: Sequence[Step],
    chosen: Mapping[int, Any],
    tops: Sequence[str],
    bottoms: Sequence[str],
    key: Callable[[str], str],
) -> dict[str, Any]:
    values = {name: _leaf(net.values[name]) for name in bottoms}
    params = {name: _leaf(net.params[name]) for step in steps for name in step.params}
    made = dict(values)
    for step in steps:
        given = {f"bottom[{index}]": made[name] for index, name in enumerate(step.bottoms)}
        given |= {f"blob[{index}]": params[name] for index, name in enumerate(step.params)}
        if step.type == "Dropout" and net.masks:
            given["mask"] = torch.from_numpy(net.masks[step.tops[0]]).double()
        found = chosen[step.index](given)
        made |= {
            name: found[f"top[{index}]"].reshape(net.values[name].shape)
            for index, name in enumerate(step.tops)
            if f"top[{index}]" in found
        }
    results = {name: made[name] for name in tops}
    driven = [name for name in tops if made[name].requires_grad]
    leaves = {**{key(name): each for name, each in values.items()}}
    leaves |= {GRADIENT + name: each for name, each in params.items()}
    grads = torch.autograd.grad(
        [made[name] for name in driven],
        list(leaves.values()),
        [torch.from_numpy(net.diffs[name]).double().reshape(made[name].shape) for name in driven],
        allow_unused=True,
    )
    pairs = zip(leaves, grads, strict=True)
    results |= {name: each for name, each in pairs if each is not None}
    return {name: each.detach().numpy() for name, each in results.items()}


def _leaf(array: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(array, np.float64)).requires_grad_()


def _as_said(net: Golden, step: Step, said: Mapping[str, Any] | None = None) -> Compute | None:
    """What the catalogue computes of a layer; None where it has no counterpart of it."""
    type_ = step.type if said is None else said["type"]
    if type_ not in PORTS:
        return None
    try:
        calls = PORTS[type_].of(said_of(net, step, said))
    except (Refused, IndexError, KeyError):
        return None
    return partial(evaluated, calls)


def others(net: Golden, step: Step) -> Iterator[Other]:
    """What a layer may be taken for, the likeliest first."""
    compute = _as_said(net, step)
    if compute is None:
        return
    yield from _special(net, step, compute)
    same = net.values[step.bottoms[0]].shape == net.values[step.tops[0]].shape
    if same and len(step.bottoms) == 1:
        yield Other(
            f"is as without the layer {step.name} ({step.type})",
            lambda given: {"top[0]": given["bottom[0]"]},
        )
    for words, said in _settings(net, step):
        other = _as_said(net, step, said)
        if other is not None:
            yield Other(words, other)
    for type_ in ALIKE if step.type in ALIKE else ():
        other = _as_said(net, step, {"type": type_, "top": step.said["top"]})
        if type_ != step.type and other is not None:
            yield Other(f"is what a {type_} makes, and {step.name} is a {step.type}", other)


def _settings(net: Golden, step: Step) -> Iterator[tuple[str, dict[str, Any]]]:
    """The layer with another value of one field, and the words for it."""
    said = said_of(net, step)
    PORTS[step.type].of(said)
    for message in said.read:
        kind = net.messages["LayerParameter"][message]["type"]
        for name, about in net.messages[kind].items():
            given = said.message(message)
            if about["type"] in net.messages or f"{message}.{name}" in said.changing_nothing:
                continue
            theirs = given[name]
            for value in _values(name, about, theirs, step):
                layer = copy.deepcopy(dict(step.said))
                layer.setdefault(message, {})[name] = value
                if value is None:
                    del layer[message][name]
                shown = "left out" if value in (None, []) else _shown(value)
                own = f"has {_shown(theirs)}" if name in given else "does not say it"
                yield f"is as with {message}.{name} {shown}; {step.name} {own}", layer


def _values(name: str, about: Mapping[str, Any], theirs: Any, step: Step) -> Iterator[Any]:
    """Those that a field may have been given by mistake; None for unset."""
    if about["repeated"]:
        yield from [None] if theirs else []
    elif about["values"]:
        yield from (each for each in about["values"] if each != theirs)
    elif about["type"] == "bool":
        yield from (False, True)  # what is not said may be another one in each phase
    elif about["type"] == "float":
        size = float(step.fields.get("local_size", 1))
        tried = [about["default"], *(EPS if name == "eps" else USUAL)]
        tried += [each / 10 for each in range(1, 10) if name == "dropout_ratio"]
        tried += [theirs * size, theirs / size, -theirs, 2 * theirs, theirs / 2]
        yield from (each for each in dict.fromkeys(tried) if each != theirs)
    elif about["type"] in ("int32", "uint32"):
        yield None
        if name == "axis":
            yield from (each for each in range(4) if each != theirs)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _special(net: Golden, step: Step, compute: Compute) -> Iterator[Other]:
    """Mistakes that no field of the layer's says."""
    shape = net.values[step.bottoms[0]].shape
    if step.bottoms[0] in net.inputs:
        yield Other(
            "is as with an input of 0 to 1: Caffe's images are of 0 to 255",
            lambda given: compute({**given, "bottom[0]": given["bottom[0]"] / 255}),
        )
    if step.type == "Scale" and len(step.params) > 1:
        yield Other(
            "is as without the bias",
            lambda given: compute({**given, "blob[1]": torch.zeros_like(given["blob[1]"])}),
        )
    if step.type in ("Convolution", "InnerProduct") and len(shape) == 4:
        if shape[1] == 3:
            yield Other(
                "is as with the channels the other way round: Caffe's images are BGR, not RGB",
                lambda given: compute({**given, "bottom[0]": given["bottom[0]"].flip(1)}),
            )
        yield Other(
            "is as flattened with the channels last: Caffe's order is N, C, H, W",
            lambda given: compute(
                {**given, "bottom[0]": given["bottom[0]"].permute(0, 2, 3, 1).reshape(shape)}
            ),
        )
    if step.type == "Pooling" and step.fields["pool"] == "AVE":
        yield Other(
            "is as with count_include_pad false: Caffe counts the padding",
            lambda given: {"top[0]": _without_padding(given, step, compute)},
        )
    if step.type == "BatchNorm":
        yield Other(
            "is as with a variance over m - 1: Caffe normalises with that over m",
            lambda given: _unbiased(given, float(step.fields["eps"])),
        )
        yield Other(
            "is as with sums for statistics: Caffe divides them by the third blob",
            lambda given: compute({**given, "blob[2]": torch.ones_like(given["blob[2]"])}),
        )
    if step.type == "ContrastiveLoss" and not step.fields["legacy_version"]:
        margin = float(step.fields["margin"])
        yield Other(
            "is as without the 1e-4 that Caffe adds to the distance by which it divides",
            lambda given: {"top[0]": _contrastive(given, margin)},
        )
    if step.type in ("LSTM", "RNN"):
        yield Other(
            f"is as where {step.bottoms[1]} is 1 everywhere: the port does not begin anew where "
            "it is 0",
            lambda given: compute({**given, "bottom[1]": torch.ones_like(given["bottom[1]"])}),
        )
    if step.type == "LSTM":
        yield Other(
            "is as with the gates in the order i, f, g, o: Caffe's is i, f, o, g",
            lambda given: compute(
                {name: _swapped(each) if "blob" in name else each for name, each in given.items()}
            ),
        )
    if step.type == "Softmax":
        yield Other(
            "is the logarithm of what a Softmax makes",
            lambda given: {"top[0]": compute(given)["top[0]"].log()},
        )
    if step.type in ("Concat", "Eltwise") and len(step.bottoms) <= MOST_ORDERS:
        for order in list(permutations(range(len(step.bottoms))))[1:]:
            names = ", ".join(step.bottoms[index] for index in order)
            yield Other(
                f"is as with the bottoms of {step.name} in the order {names}",
                partial(_reordered, compute, order),
            )
    if step.type == "Crop":
        yield Other("is as with the crop in the middle", lambda given: _centred(given))


def _reordered(compute: Compute, order: Sequence[int], given: Tensors) -> Tensors:
    places = enumerate(order)
    return compute({f"bottom[{place}]": given[f"bottom[{index}]"] for place, index in places})


def _swapped(blob: torch.Tensor) -> torch.Tensor:
    """The blob whose gates are taken for i, f, g, o where they are i, f, o, g."""
    i, f, o, g = blob.chunk(4)
    return torch.cat([i, f, g, o])


def _without_padding(given: Tensors, step: Step, compute: Compute) -> torch.Tensor:
    """An average over what of a window lies within the bottom."""
    x = given["bottom[0]"]
    sums = compute({"bottom[0]": x})["top[0]"]
    return sums / compute({"bottom[0]": torch.ones_like(x)})["top[0]"]


def _unbiased(given: Tensors, eps: float) -> Tensors:
    x = given["bottom[0]"]
    axes = [each for each in range(x.ndim) if each != 1]
    mean = x.mean(axes, keepdim=True)
    return {"top[0]": (x - mean) / (x.var(axes, keepdim=True) + eps).sqrt()}


def _contrastive(given: Tensors, margin: float) -> torch.Tensor:
    one, other, same = (given[f"bottom[{index}]"] for index in range(3))
    square = (one - other).square().flatten(1).sum(1)
    apart = functional.relu(margin - square.sqrt()).square()
    same = same.flatten()
    return (same * square + (1 - same) * apart).sum() / (2 * len(one))


def _centred(given: Tensors) -> Tensors:
    x, wanted = given["bottom[0]"], given["bottom[1]"].shape
    for axis in range(2, x.ndim):
        x = x.narrow(axis, (x.shape[axis] - wanted[axis]) // 2, wanted[axis])
    return {"top[0]": x}
