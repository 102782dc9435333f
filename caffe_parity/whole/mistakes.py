"""Mistakes with a layer that no field of it says: what each makes, and the words for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import permutations, product
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from caffe_parity.ports.catalogue import Refused
from caffe_parity.whole.fields import arguments_of
from caffe_parity.whole.golden import Golden, Step

Tensors = dict[str, torch.Tensor]
Change = Callable[[torch.Tensor], torch.Tensor]
Compute = Callable[[Tensors], Tensors]
"""From "bottom[0]" and "blob[0]" to "top[0]"."""

ALIKE = ("ReLU", "Sigmoid", "TanH", "ELU", "AbsVal", "BNLL", "Softmax", "Swish")
"""Types of one bottom and no parameters that people take for one another."""

FUNCTIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Hardsigmoid": functional.hardsigmoid,
    "Hardtanh": functional.hardtanh,
    "Softsign": functional.softsign,
    "ReLU6": functional.relu6,
    "LeakyReLU": functional.leaky_relu,
    "LeakyReLU (0.1)": partial(functional.leaky_relu, negative_slope=0.1),
    "LeakyReLU (0.2)": partial(functional.leaky_relu, negative_slope=0.2),
    "GELU": functional.gelu,
    "GELU (approximate='tanh')": partial(functional.gelu, approximate="tanh"),
    "Hardswish": functional.hardswish,
    "SELU": functional.selu,
    "CELU": functional.celu,
    "LogSigmoid": functional.logsigmoid,
    "Mish": functional.mish,
}
"""What people put in the place of such a layer, by the module's name in PyTorch."""

WEIGHED = ("Convolution", "Deconvolution", "InnerProduct")
"""The types of layers that multiply with weights."""

SMOOTHED = (0.1, 0.2, 0.05, 0.01)
"""What `label_smoothing` often is."""

SETTING = "setting of "
"""How the code of a rival begins that says which of the layers is another."""

CLASSES = 64
"""Of as many classes and fewer, every one is tried as a label."""

SAME = 2.0**-40
"""Of a factor in float64: less is rounding."""

COUNTED = ("is divided by", "is a sum")
"""How it begins what a loss is divided by."""

MOST_ORDERS = 4
"""Bottoms of which every order is tried: 23 others."""


@dataclass(frozen=True)
class Other:
    """Another thing that a layer may be taken for.

    Attributes:
        words: what is said of a tensor: "is as with lrn_param.alpha 0.02".
        compute: computes it.
        code: how the code of the rival begins.
    """

    words: str
    compute: Compute
    code: str = SETTING


def mistakes(net: Golden, step: Step, compute: Compute) -> Iterator[Other]:
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
    yield from _weights(net, step, compute)
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
        size = int(np.prod(arguments_of(net, step).get("kernel", shape[2:])))
        yield Other(
            "is the sum over a window, not its mean",
            lambda given: {"top[0]": compute(given)["top[0]"] * size},
        )
    if step.type == "Slice":
        yield from _slices(net, step)
    is_max = step.type == "Pooling" and step.fields["pool"] == "MAX"
    if is_max and any(arguments_of(net, step).get("pad", ())):
        yield Other(
            "is as with zeros for the padding, which may be a maximum: Caffe leaves it out",
            partial(_of_zeros, arguments_of(net, step)),
        )
    if step.type == "LRN":
        yield Other(
            "is as scaled to the length 1 over the channels, as by functional.normalize",
            lambda given: {"top[0]": functional.normalize(given["bottom[0]"])},
        )
    if step.type == "MVN" and step.fields["normalize_variance"]:
        yield Other(
            "is as with eps added to the variance: Caffe adds it to the root of that",
            partial(_below_the_root, (1, 2, 3)[not step.fields["across_channels"] :], step),
        )
    if step.type == "BatchNorm":
        yield Other(
            "is as with a variance over m - 1: Caffe normalises with that over m",
            lambda given: _unbiased(given, float(step.fields["eps"])),
        )
        for words, function in (
            ("without the mean taken off", lambda x, mean, var, eps: x / (var + eps).sqrt()),
            ("with the variance for its root", lambda x, mean, var, eps: (x - mean) / (var + eps)),
            (
                "with eps behind the root: Caffe adds it to the variance",
                lambda x, mean, var, eps: (x - mean) / (var.sqrt() + eps),
            ),
        ):
            yield Other(f"is as {words}", partial(_normalised, net, step, function))
        for words, normalised in (
            ("each sample's", lambda x, eps: functional.instance_norm(x, eps=eps)),
            (
                "each sample's, over all channels",
                lambda x, eps: functional.layer_norm(x, x.shape[1:], eps=eps),
            ),
        ):
            yield Other(
                f"is as with statistics that are {words}",
                partial(_of_samples, normalised, float(step.fields["eps"])),
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
        yield Other(
            "is as with the sequence backwards",
            lambda given: {"top[0]": compute(_turned(given, _backwards))["top[0]"].flip(0)},
        )
        if shape[0] != shape[1]:
            yield Other(
                "is as with the batch first: Caffe's sequences lie along the first axis",
                lambda given: {
                    "top[0]": compute(_turned(given, _batch_first))["top[0]"].transpose(0, 1)
                },
            )
        yield Other(
            "is as with the sequence backwards, and what it makes of it, too",
            lambda given: compute(_turned(given, _backwards)),
        )
    if step.type == "LSTM" and len(step.params) == len(step.bottoms) + 1 in (3, 4):
        yield from _cells(step)
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
    if step.type == "Eltwise" and step.fields["operation"] == "SUM":
        coefficients = list(step.fields["coeff"]) or [1.0] * len(step.bottoms)
        for index, name in enumerate(step.bottoms):
            yield Other(
                f"is as with the other sign for {name}",
                partial(_summed, [-c if i == index else c for i, c in enumerate(coefficients)]),
            )
            if coefficients[index] != 1 and sum(each != 1 for each in coefficients) > 1:
                yield Other(
                    f"is as with coefficient 1 for {name}",
                    partial(
                        _summed, [1.0 if i == index else c for i, c in enumerate(coefficients)]
                    ),
                )
        yield Other("is the product of the bottoms, not their sum", _multiplied)
    if step.type == "PReLU":
        for words, change in (
            ("the first slope", lambda a: a.flatten()[:1].expand_as(a)),
            ("the mean of the slopes", lambda a: a.mean().expand_as(a)),
        ):
            yield Other(
                f"is as with {words} for all channels",
                partial(_with, compute, "blob[0]", change),
            )
    if step.type in ("Concat", "Eltwise") and len(step.bottoms) <= MOST_ORDERS:
        for order in list(permutations(range(len(step.bottoms))))[1:]:
            names = ", ".join(step.bottoms[index] for index in order)
            yield Other(
                f"is as with the bottoms of {step.name} in the order {names}",
                partial(_reordered, compute, order),
            )
    if step.type == "Eltwise":
        yield Other("is the mean of the bottoms", lambda given: _reduced(given, torch.mean))
        yield Other("is the smallest of the bottoms", lambda given: _reduced(given, torch.amin))
    if step.type == "Crop":
        yield Other("is as with the crop in the middle", lambda given: _centred(given))
    yield from _losses(net, step, compute)


def _cells(step: Step) -> Iterator[Other]:
    """Mistakes with the formula of an LSTM."""
    cont = step.bottoms[1]
    tried: list[tuple[str, dict[str, Any]]] = [
        (f"where {cont} does not set the cell to 0", {"kept": (True, False)}),
        (f"where {cont} does not set the output to 0", {"kept": (False, True)}),
        ("without the tanh of the cell", {"squash": lambda c: c}),
        ("with 1 added to the forget gate", {"forget": 1.0}),
        ("with a hard sigmoid", {"gate": functional.hardsigmoid}),
        ("with a cell that is detached from step to step", {"detached": True}),
    ]
    for order in [*permutations("ifog")][1:]:
        named = f"with the gates in the order {', '.join(order)}: Caffe's is i, f, o, g"
        tried.append((named, {"order": order}))
    for words, changes in tried:
        yield Other(f"is as {words}", partial(_lstm, **changes))


def _lstm(
    given: Tensors,
    order: Sequence[str] = "ifog",
    kept: tuple[bool, bool] = (True, True),
    squash: Callable[[torch.Tensor], torch.Tensor] = torch.tanh,
    gate: Callable[[torch.Tensor], torch.Tensor] = torch.sigmoid,
    forget: float = 0.0,
    detached: bool = False,
) -> Tensors:
    """What a loop over the formula of an LSTM makes.

    Args:
        given: the bottoms and blobs.
        order: of the gates.
        kept: whether `cont` is multiplied with the output, and with the cell.
        squash: of the cell.
        gate: of the gates.
        forget: what is added to the forget gate.
        detached: whether no gradient goes from step to step through the cell.
    """
    x, bias, *static, weight = (given[key] for key in sorted(given) if key.startswith("blob["))
    steps = given["bottom[0]"].flatten(2) @ x.t() + bias
    for each in static:  # what it reads once for all steps
        steps = steps + given["bottom[2]"].flatten(1) @ each.t()
    h = c = steps.new_zeros(steps.shape[1], weight.shape[1])
    made = []
    for step, cont in zip(steps, given["bottom[1]"].unsqueeze(-1), strict=True):
        sums = step + (h * cont if kept[0] else h) @ weight.t()
        of = dict(zip(order, sums.chunk(4, 1), strict=True))
        before = c * cont if kept[1] else c
        c = gate(of["f"] + forget) * before + gate(of["i"]) * of["g"].tanh()
        c = c.detach() if detached else c
        h = gate(of["o"]) * squash(c)
        made.append(h)
    return {"top[0]": torch.stack(made)}


def scaled(step: Step, compute: Compute) -> Iterator[tuple[str, float, Callable[[float], Compute]]]:
    """Mistakes with a number in them: the words for it, Caffe's number, and what it makes."""

    def blob(index: int) -> Callable[[float], Compute]:
        name = f"blob[{index}]"
        return lambda number: partial(_with, compute, name, lambda each: number * each)

    if step.type in (*WEIGHED, "Scale"):
        yield "is as with the weights times {:g}", 1.0, blob(0)
    if step.type in (*WEIGHED, "Scale") and len(step.params) > 1:
        yield "is as with the bias times {:g}", 1.0, blob(1)
    if step.type == "Eltwise" and step.fields["operation"] == "SUM":
        coefficients = list(step.fields["coeff"]) or [1.0] * len(step.bottoms)
        for index, name in enumerate(step.bottoms):
            words = f"is as with coefficient {{:g}} for {name}"
            rest = coefficients[:index], coefficients[index + 1 :]

            def of(number: float, rest: Any = rest) -> Compute:
                return partial(_summed, [*rest[0], number, *rest[1]])

            yield words, coefficients[index], of


def functions(step: Step) -> Iterator[Other]:
    """What PyTorch has in the place of a layer of the same form."""
    for name, other in FUNCTIONS.items() if step.type in ALIKE else ():
        yield Other(
            f"is what PyTorch's {name} makes, and {step.name} is Caffe's {step.type}",
            partial(_by_function, other),
        )
    if step.type == "ELU":
        alpha = float(step.fields["alpha"])
        yield Other(
            f"is what PyTorch's CELU makes, and {step.name} is Caffe's ELU",
            partial(_by_function, partial(functional.celu, alpha=alpha)),
        )
        yield Other(
            f"is what PyTorch's LeakyReLU ({alpha:g}) makes, and {step.name} is Caffe's ELU",
            partial(_by_function, partial(functional.leaky_relu, negative_slope=alpha)),
        )


def _losses(net: Golden, step: Step, compute: Compute) -> Iterator[Other]:
    """Mistakes with a loss that no field of it says."""
    if step.type == "EuclideanLoss":
        for words, function in (
            (
                "the sum of the squares: Caffe divides by 2N",
                partial(functional.mse_loss, reduction="sum"),
            ),
            (
                "the mean of the squares, as MSELoss's: Caffe's is the sum by 2N",
                functional.mse_loss,
            ),
            ("what L1Loss makes: Caffe takes the squares", functional.l1_loss),
            ("what SmoothL1Loss makes: Caffe takes the squares", functional.smooth_l1_loss),
        ):
            yield Other(f"is {words}", partial(_of_two, function))
    if step.type == "ContrastiveLoss":
        yield Other(
            f"is as with 1 - {step.bottoms[2]}: 1 stands for alike in Caffe",
            lambda given: compute({**given, "bottom[2]": 1 - given["bottom[2]"]}),
        )
        margin = float(step.fields["margin"])
        yield Other(
            "is as without the square of what is left of the margin",
            lambda given: {"top[0]": _contrastive(given, margin, power=1)},
        )
    if step.type != "SoftmaxWithLoss":
        return
    axis = int(step.fields["axis"])
    classes = net.values[step.bottoms[0]].shape[axis]
    yield Other(
        "is as with a softmax before it: the layer takes scores, and makes its own",
        lambda given: compute({**given, "bottom[0]": given["bottom[0]"].softmax(axis)}),
    )
    yield Other(
        "is as with the scores for the logarithms of probabilities: no softmax is taken",
        lambda given: {"top[0]": functional.nll_loss(given["bottom[0]"], _labels(given, axis))},
    )
    for other, change in (
        (f"{classes - 1} - {step.bottoms[1]}: the classes are reversed", lambda x: classes - 1 - x),
        (f"0 for each {step.bottoms[1]}", torch.zeros_like),
        (f"the samples of {step.bottoms[1]} reversed", lambda x: x.flip(0)),
    ):
        yield Other(f"is as with {other}", partial(_with, compute, "bottom[1]", change))
    for over in range(net.values[step.bottoms[0]].ndim):
        if over != axis:
            yield Other(
                f"is as with a softmax over axis {over}, not over the classes",
                partial(_softmax_over, compute, over, axis, step.fields.get("ignore_label")),
            )
    for shift in (1, -1):
        yield Other(
            f"is as with {step.bottoms[1]} {shift:+d}: Caffe's labels begin at 0",
            partial(_relabelled, compute, shift, classes),
        )
    if classes > CLASSES:
        return
    for much in SMOOTHED:
        yield Other(
            f"is as with label_smoothing {much:g}: Caffe has none",
            partial(_smoothed, compute, much, classes),
        )


def normaliser(net: Golden, step: Step, factor: float, same: float = SAME) -> str:
    """What a loss is divided by that is some times Caffe's, in words; "" for no count of it.

    Args:
        net: the net.
        step: the loss.
        factor: how often the port's is Caffe's.
        same: of the factor, what is rounding.
    """
    try:
        said = arguments_of(net, step)
    except (Refused, IndexError, KeyError):
        return ""
    shape = net.values[step.bottoms[0]].shape
    axis = int(said.get("axis", 1))
    n, c = int(np.prod(shape[:axis])), shape[axis] if len(shape) > axis else 1
    s = int(np.prod(shape[axis + 1 :]))
    labels = net.values[step.bottoms[1]]
    counts = {"N": n, "all elements": n * c * s, "C": c}
    counts |= {"N*H*W": n * s, "H*W": s, "C*H*W": c * s} if s > 1 else {}
    valid = labels.size
    if said.get("ignore_label") is not None:
        valid = int((np.trunc(labels) != said["ignore_label"]).sum())
        counts["the labels that count"] = valid
    modes = {"BATCH_SIZE": n, "FULL": n * s, "VALID": valid, "NONE": 1}
    modes |= {"FULL": n * c * s} if step.type == "SigmoidCrossEntropyLoss" else {}
    halved = step.type in ("EuclideanLoss", "ContrastiveLoss")
    theirs = 2 * n if halved else modes.get(said.get("normalization", ""), n)
    if not theirs:
        return ""
    tried = {"": 1, "2": 2, **counts, **{f"2*{name}": 2 * each for name, each in counts.items()}}
    own = theirs / factor if factor else 0.0

    def shown(number: int) -> str:
        names = [name for name, each in tried.items() if each == number and name not in ("", "2")]
        return " = ".join([str(number), *names[:2]])

    of_it = [each for each in tried.values() if abs(each - own) <= same * each]
    if of_it and of_it[0] != theirs:
        mode = next((name for name, each in modes.items() if each == of_it[0]), "")
        also = f", as with normalization {mode}" if mode and "normalization" in said else ""
        if step.type == "EuclideanLoss" and of_it[0] == n * c * s:
            also = ", as MSELoss does"
        does = f"{COUNTED[0]} {shown(of_it[0])}" if of_it[0] != 1 else f"{COUNTED[1]}, not divided"
        missing = ": the half is missing" if 2 * of_it[0] == theirs and halved else ""
        return f"{does}{also}; Caffe's {step.type} divides by {shown(theirs)}{missing}"
    for base in (2, 10):
        if abs(factor * np.log(base) - 1) <= same:
            return f"has logarithms to the base {base}; Caffe's are natural"
    simple = Fraction(factor).limit_denominator(CLASSES)
    if simple not in (0, 1, -1) and abs(float(simple) - factor) <= same * abs(factor):
        return f"is {simple} times Caffe's, which divides by {shown(theirs)}"
    return ""


def _weights(net: Golden, step: Step, compute: Compute) -> Iterator[Other]:
    """Mistakes with a layer's weights, its bias, and where a convolution begins."""
    shape = net.values[step.bottoms[0]].shape
    if step.type not in WEIGHED:
        return

    def of_weights(words: str, change: Change) -> Other:
        return Other(words, partial(_with, compute, "blob[0]", change))

    if step.type == "InnerProduct":
        yield of_weights(
            "is as with the weights transposed, not only told in another shape",
            lambda w: w.reshape(w.shape[::-1]).t(),
        )
    else:
        size = net.values[step.tops[0]].shape[2:]
        for mode, more in (
            ("nearest", {}),
            ("bilinear", {"align_corners": True}),
            ("bilinear", {"align_corners": False}),
            ("bicubic", {"align_corners": False}),
        ):
            if step.type == "Deconvolution" and len(size) == 2:
                words = ", ".join([f"mode={mode}", *(f"{k}={v}" for k, v in more.items())])
                yield Other(
                    f"is what functional.interpolate makes with {words}",
                    partial(_interpolated, size, mode, more),
                )
        yield of_weights("is as with the kernel turned by 180 degrees", lambda w: w.flip(2, 3))
        yield of_weights("is as with the kernel's H and W swapped", lambda w: w.transpose(2, 3))
        groups = int(step.fields["group"])
        if shape[1] == net.values[step.tops[0]].shape[1] and int(step.fields["group"]) == 1:
            yield of_weights(
                "is as with the weights' first two axes swapped", lambda w: w.transpose(0, 1)
            )
        for apart in sorted({groups, shape[1] // groups}) if groups > 1 else ():
            yield Other(
                "is as with groups of channels that lie apart: Caffe's are neighbours",
                partial(_with, compute, "bottom[0]", partial(_shuffled, groups=apart)),
            )
    if step.type == "Convolution" and len(shape) == 4:
        said = arguments_of(net, step)
        for mode in ("reflect", "replicate", "circular") if any(said["pad"]) else ():
            yield Other(
                f"is as with padding_mode {mode}: Caffe pads with zeros",
                partial(_padded, compute, mode, said),
            )
        for before, words in ((True, "before the image"), (False, "behind it")):
            yield Other(
                f"is as with more of the padding {words}: Caffe's is the same on both sides",
                partial(_uneven, compute, arguments_of(net, step)["stride"], before),
            )
    if len(step.params) > 1:
        yield Other(
            "is as with twice the bias",
            lambda given: compute({**given, "blob[1]": 2 * given["blob[1]"]}),
        )


def uneven_windows(net: Golden, step: Step) -> Iterator[Other]:
    """A pooling that pads another number of rows before than behind."""
    said = arguments_of(net, step) if step.type == "Pooling" else {}
    if len(said.get("pad", ())) != 2:
        return
    (high, wide), most = said["pad"], 2 * max(said["pad"]) or 1
    for before, behind in product(range(most + 1), repeat=2):
        if before != behind and before + behind <= most:
            caffes = f"{high} on each side" if high == wide else f"{high}, {wide} on each side"
            yield Other(
                f"is as padded by {before} before and {behind} behind the image: Caffe pads by "
                f"{caffes}",
                partial(_pooled, said, step.fields["pool"], (before, behind) * 2),
            )


def _pooled(said: Mapping[str, Any], pool: str, pad: Sequence[int], given: Tensors) -> Tensors:
    """A pooling of what is padded before, with zeros or nothing."""
    if pool == "MAX":
        padded = functional.pad(given["bottom[0]"], pad, value=-torch.inf)
        made = functional.max_pool2d(padded, said["kernel"], said["stride"], ceil_mode=True)
    else:
        padded = functional.pad(given["bottom[0]"], pad)
        made = functional.avg_pool2d(padded, said["kernel"], said["stride"], ceil_mode=True)
    return {"top[0]": made}


def _below_the_root(axes: tuple[int, ...], step: Step, given: Tensors) -> Tensors:
    x = given["bottom[0]"] - given["bottom[0]"].mean(axes, keepdim=True)
    variance = (x * x).mean(axes, keepdim=True)
    return {"top[0]": x / (variance + float(step.fields["eps"])).sqrt()}


def _slices(net: Golden, step: Step) -> Iterator[Other]:
    """A Slice whose tops lie in another order, or begin elsewhere."""
    said = step.said.get("slice_param", {})
    axis = int(said.get("slice_dim", said.get("axis", 1)))
    sizes = [net.values[name].shape[axis] for name in step.tops]
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    for order in [*permutations(range(len(sizes)))][1:] if len(sizes) <= MOST_ORDERS else ():
        at = {each: sum(sizes[one] for one in order[:place]) for place, each in enumerate(order)}
        names = ", ".join(step.tops[index] for index in order)
        changed = [at[index] for index in range(len(sizes))]
        yield Other(
            f"is as with the tops of {step.name} in the order {names}",
            partial(_narrowed, axis, changed, sizes),
        )
    for index, size in enumerate(sizes):
        for start in range(min(sum(sizes) - size, CLASSES) + 1):
            changed = [start if one == index else each for one, each in enumerate(starts)]
            if start != starts[index]:
                yield Other(
                    f"is as where {step.tops[index]} begins at {start} along axis {axis}, and in "
                    f"Caffe at {starts[index]}",
                    partial(_narrowed, axis, changed, sizes),
                )


def _narrowed(axis: int, starts: Sequence[int], sizes: Sequence[int], given: Tensors) -> Tensors:
    x = given["bottom[0]"]
    pairs = enumerate(zip(starts, sizes, strict=True))
    return {f"top[{index}]": x.narrow(axis, start, size) for index, (start, size) in pairs}


def _interpolated(
    size: Sequence[int], mode: str, more: Mapping[str, Any], given: Tensors
) -> Tensors:
    return {"top[0]": functional.interpolate(given["bottom[0]"], tuple(size), mode=mode, **more)}


def _padded(compute: Compute, mode: str, said: Mapping[str, Any], given: Tensors) -> Tensors:
    """A convolution of what is padded in another way: of more, in steps, from within."""
    high, wide = said["pad"]
    padded = functional.pad(given["bottom[0]"], (wide, wide, high, high), mode=mode)
    weight, bias = given["blob[0]"], given.get("blob[1]")
    made = functional.conv2d(
        padded, weight, bias, said["stride"], 0, said.get("dilation", 1), said.get("group", 1)
    )
    return {"top[0]": made}


def _uneven(compute: Compute, stride: Sequence[int], before: bool, given: Tensors) -> Tensors:
    """A convolution whose windows begin one earlier, or one later, than its padding says."""
    x, (high, wide) = given["bottom[0]"], compute(given)["top[0]"].shape[2:]
    if before:
        made = compute({**given, "bottom[0]": functional.pad(x, (1, 0, 1, 0))})["top[0]"]
    else:
        rows, columns = (each - 1 for each in stride)
        padded = functional.pad(x, (columns, 1, rows, 1))
        made = compute({**given, "bottom[0]": padded})["top[0]"][:, :, 1:, 1:]
    return {"top[0]": made[:, :, :high, :wide]}


def _with(compute: Compute, name: str, change: Change, given: Tensors) -> Tensors:
    """What a layer makes of another tensor in the place of one."""
    return compute({**given, name: change(given[name])})


def _of_two(function: Callable[..., torch.Tensor], given: Tensors) -> Tensors:
    return {
        "top[0]": function(given["bottom[0]"], given["bottom[1]"].reshape_as(given["bottom[0]"]))
    }


def _labels(given: Tensors, axis: int) -> torch.Tensor:
    """The labels in the shape of the scores without their axis."""
    shape = list(given["bottom[0]"].shape)
    del shape[axis]
    return given["bottom[1]"].reshape(shape).long()


def _softmax_over(
    compute: Compute, other: int, axis: int, ignored: int | None, given: Tensors
) -> Tensors:
    """The loss of logarithms that are normalised over another axis, divided as Caffe's is."""
    index = -100 if ignored is None else ignored
    right, tried = (
        functional.nll_loss(
            given["bottom[0]"].log_softmax(each).movedim(axis, 1),
            _labels(given, axis),
            ignore_index=index,
            reduction="sum",
        )
        for each in (axis, other)
    )
    return {"top[0]": tried * (compute(given)["top[0]"] / right).detach()}


def _relabelled(compute: Compute, shift: int, classes: int, given: Tensors) -> Tensors:
    return compute({**given, "bottom[1]": (given["bottom[1]"].detach() + shift) % classes})


def _smoothed(compute: Compute, much: float, classes: int, given: Tensors) -> Tensors:
    """The loss with a part of each label's weight spread over all classes."""
    label = given["bottom[1]"].detach()
    each = [
        compute({**given, "bottom[1]": torch.full_like(label, number)})["top[0]"]
        for number in range(classes)
    ]
    rest = torch.stack(each).sum(0)
    return {"top[0]": (1 - much) * compute(given)["top[0]"] + much / classes * rest}


def _shuffled(x: torch.Tensor, groups: int) -> torch.Tensor:
    """The channels that lie `groups` apart, one behind the other."""
    apart = x.reshape(len(x), -1, groups, *x.shape[2:])
    return apart.transpose(1, 2).reshape(x.shape)


def _turned(given: Tensors, change: Change) -> Tensors:
    """A sequence and its `cont` in another order."""
    return {
        k: change(each) if k in ("bottom[0]", "bottom[1]") else each for k, each in given.items()
    }


def _backwards(x: torch.Tensor) -> torch.Tensor:
    return x.flip(0)


def _batch_first(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(0, 1)


def _summed(coefficients: Sequence[float], given: Tensors) -> Tensors:
    terms = [c * given[f"bottom[{index}]"] for index, c in enumerate(coefficients)]
    return {"top[0]": torch.stack(terms).sum(0)}


def _reduced(given: Tensors, function: Callable[..., torch.Tensor]) -> Tensors:
    return {"top[0]": function(torch.stack([*given.values()]), 0)}


def _multiplied(given: Tensors) -> Tensors:
    return {"top[0]": torch.stack([*given.values()]).prod(0)}


def _of_zeros(said: Mapping[str, Any], given: Tensors) -> Tensors:
    high, wide = said["pad"]
    padded = functional.pad(given["bottom[0]"], (wide, wide, high, high))
    return {"top[0]": functional.max_pool2d(padded, said["kernel"], said["stride"], ceil_mode=True)}


def _normalised(
    net: Golden, step: Step, function: Callable[..., torch.Tensor], given: Tensors
) -> Tensors:
    """What a function makes of the bottom, its means, its variances and eps."""
    x = given["bottom[0]"]
    said = step.said.get("batch_norm_param", {}).get("use_global_stats", net.phase == "TEST")
    axes = [each for each in range(x.ndim) if each != 1]
    mean, var = x.mean(axes, keepdim=True), x.var(axes, unbiased=False, keepdim=True)
    if said:
        shape = [-1 if each == 1 else 1 for each in range(x.ndim)]
        mean, var = (
            (given[f"blob[{index}]"] / given["blob[2]"]).reshape(shape) for index in (0, 1)
        )
    return {"top[0]": function(x, mean, var, float(step.fields["eps"]))}


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


def _of_samples(function: Callable[..., torch.Tensor], eps: float, given: Tensors) -> Tensors:
    return {"top[0]": function(given["bottom[0]"], eps)}


def _unbiased(given: Tensors, eps: float) -> Tensors:
    x = given["bottom[0]"]
    axes = [each for each in range(x.ndim) if each != 1]
    mean = x.mean(axes, keepdim=True)
    return {"top[0]": (x - mean) / (x.var(axes, keepdim=True) + eps).sqrt()}


def _contrastive(given: Tensors, margin: float, power: int = 2) -> torch.Tensor:
    one, other, same = (given[f"bottom[{index}]"] for index in range(3))
    square = (one - other).square().flatten(1).sum(1)
    apart = functional.relu(margin - square.sqrt()) ** power
    same = same.flatten()
    return (same * square + (1 - same) * apart).sum() / (2 * len(one))


def _centred(given: Tensors) -> Tensors:
    x, wanted = given["bottom[0]"], given["bottom[1]"].shape
    for axis in range(2, x.ndim):
        x = x.narrow(axis, (x.shape[axis] - wanted[axis]) // 2, wanted[axis])
    return {"top[0]": x}


def _by_function(function: Callable[[torch.Tensor], torch.Tensor], given: Tensors) -> Tensors:
    return {"top[0]": function(given["bottom[0]"])}
