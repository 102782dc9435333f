"""Draws layers of each type: every field of its messages that caffe.proto has, and its inputs.

A function for each family says what makes sense together, such as a kernel that fits its input;
a field that none of them knows of is drawn all the same, since the descriptor of Caffe's own
protobuf is what is gone through.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from caffe_parity.contract import Shape
from studies.layers.example import Example, messages

Draw = Callable[[st.SearchStrategy[Any]], Any]
Strategy = st.SearchStrategy[Any]

FOREIGN = (
    "loss_param { normalization: NONE ignore_label: 0 }",
    "softmax_param { axis: 0 }",
    "transform_param { scale: 2 }",
    "relu_param { negative_slope: 0.5 }",
    "power_param { power: 2 scale: 3 }",
    "pooling_param { pool: AVE kernel_size: 2 }",
    "concat_param { axis: 0 }",
    "scale_param { bias_term: true }",
    "eltwise_param { coeff: 2 }",
)
"""What a layer of another type may say as well, and Caffe does not read."""

ONE_IN = 8  # so many layers says something foreign

MOST = 2**20
"""The largest number of a case; one below 41 is drawn as often as any."""


@dataclass
class Drawing:
    """A layer that is being drawn.

    Attributes:
        draw: Hypothesis's.
        kind: its type.
        says: its messages so far.
        fields: those that are set.
        bottoms, data, fixed, tops: as in an `Example`.
    """

    draw: Draw
    kind: str
    says: list[str] = field(default_factory=list)
    fields: list[str] = field(default_factory=list)
    bottoms: dict[str, Shape] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    fixed: list[str] = field(default_factory=list)
    tops: int = 1

    def one_of(self, *values: Any) -> Any:
        """One of some values."""
        return self.draw(st.sampled_from(values))

    def number(self, least: int, most: int) -> int:
        """An integer within these."""
        return int(self.draw(st.integers(least, most)))

    def shape(self, least: int, most: int, largest: int = 4) -> Shape:
        """A shape of so many axes, and not too many elements."""
        found = [self.number(1, largest) for _ in range(self.number(least, most))]
        while math.prod(found) > 160:
            found[found.index(max(found))] -= 1
        return tuple(found)

    def bottom(self, name: str, shape: Shape, kind: str = "", fixed: bool = False) -> None:
        """A bottom, and what it holds."""
        self.bottoms[name] = shape
        if kind:
            self.data[name] = kind
        if fixed:
            self.fixed.append(name)

    def message(
        self, name: str, must: Sequence[str] = (), never: Sequence[str] = (), **given: Strategy
    ) -> dict[str, Any]:
        """Draws the fields of a message: all that there are, each set or not.

        Args:
            name: of the field of LayerParameter.
            must: those that are always set.
            never: those that another choice excludes.
            given: what they may be; by default anything of their type.
        """
        said, text = self._drawn(messages()["LayerParameter"][name]["type"], must, never, given)
        self.fields += [f"{name}.{each}" for each in said]
        if text or self.draw(st.booleans()):
            self.says.append(f"{name} {{ {text}}}")
        return said

    def _drawn(
        self, kind: str, must: Sequence[str], never: Sequence[str], given: Mapping[str, Strategy]
    ) -> tuple[dict[str, Any], str]:
        said: dict[str, Any] = {}
        text = ""
        for name, about in messages()[kind].items():
            if name in never or not (name in must or self.draw(st.booleans())):
                continue
            inner = about["type"] in messages()
            if inner and name not in given:
                said[name], within = self._drawn(about["type"], (), (), _FILLER)
                text += f"{name} {{ {within}}} "
                continue
            value = self.draw(given.get(name, _usual(about)))
            said[name] = value
            for each in value if about["repeated"] else [value]:
                text += f"{name} {each} " if inner else f"{name}: {_text(each, about)} "
        return said, text

    @property
    def example(self) -> Example:
        """What was drawn."""
        if self.number(1, ONE_IN) == ONE_IN:
            own = {each.split(" ")[0] for each in self.says}
            other = self.one_of(*FOREIGN)
            if other.split(" ")[0] not in own | _READ.get(self.kind, set()):
                self.says.append(other)
        return Example(
            self.kind,
            " ".join(self.says),
            self.bottoms,
            self.data,
            tuple(self.fixed),
            self.tops,
            self.draw(st.integers(0, 40) | st.integers(0, MOST)),
            frozenset(self.fields),
        )


_READ = {
    "SoftmaxWithLoss": {"loss_param", "softmax_param"},
    "InfogainLoss": {"loss_param"},
    "SigmoidCrossEntropyLoss": {"loss_param"},
}
"""Messages that a type reads beside those that are drawn, where these may be none."""


def _text(value: Any, about: Mapping[str, Any]) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if about["type"] == "string" else str(value)


_FLOATS = st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, -1.0])


def _usual(about: Mapping[str, Any]) -> Strategy:
    """Anything of a field's type."""
    one: Strategy
    if "CUDNN" in about["values"]:  # which a Caffe for the CPU refuses
        one = st.sampled_from(["DEFAULT"] * 30 + ["CAFFE"] * 30 + ["CUDNN"])
    elif about["values"]:
        one = st.sampled_from(about["values"])
    elif about["type"] == "bool":
        one = st.booleans()
    elif about["type"] in ("float", "double"):
        one = _FLOATS
    elif about["type"] == "string":
        one = st.just("text")
    else:
        one = st.integers(1, 3)
    return st.lists(one, max_size=3) if about["repeated"] else one


_FILLER: Mapping[str, Strategy] = {
    "type": st.sampled_from(["constant", "uniform", "gaussian"]),
    "max": st.just(1.5),
    "min": st.just(-0.5),
    "std": st.just(0.5),
    "sparse": st.just(-1),
}


def _axis(shape: Shape, least: int = 0) -> Strategy:
    """An axis of a shape, from this one on, counted from either end."""
    count = len(shape)
    return st.one_of(st.integers(least, count - 1), st.integers(least - count, -1))


def _one(drawing: Drawing) -> None:
    """An activation: a bottom of any shape."""
    kind = drawing.kind
    if kind == "ReLU":
        drawing.message("relu_param", negative_slope=st.sampled_from([0.0, 0.1, 1.0, -0.5]))
    elif kind == "ELU":
        drawing.message("elu_param", alpha=st.sampled_from([1.0, 0.5, 2.0, 0.0, -1.0]))
    elif kind == "Swish":
        drawing.message("swish_param", beta=st.sampled_from([1.0, 0.5, 2.0, 0.0, -1.0]))
    elif kind in ("Sigmoid", "TanH"):
        drawing.message(f"{kind.lower()}_param")
    elif kind == "Threshold":
        drawing.message("threshold_param")
    elif kind == "Clip":
        low = drawing.one_of(-2.0, -0.5, 0.0, 0.3)
        most = st.sampled_from([low, low + 0.5, low + 2])
        drawing.message("clip_param", must=("min", "max"), min=st.just(low), max=most)
    elif kind == "Dropout":
        drawing.says.append("phase: TEST")
        drawing.message("dropout_param", dropout_ratio=st.sampled_from([0.1, 0.5, 0.9]))
    shape = drawing.shape(1, 4)
    data = drawing.one_of("", "", "uniform:-3,3", "positive")
    drawing.bottom("x", shape, data, fixed=kind == "Threshold")


def _prelu(drawing: Drawing) -> None:
    drawing.message("prelu_param")
    drawing.bottom("x", drawing.shape(2, 4))


def _scalars(drawing: Drawing) -> None:
    """Power, Exp, Log: numbers that keep them finite."""
    kind = drawing.kind
    if kind == "Power":
        power = drawing.one_of(0.0, 1.0, 2.0, 3.0, -1.0, 0.5, 1.5)
        drawing.message(
            "power_param",
            power=st.just(power),
            scale=st.sampled_from([1.0, 0.0, 2.0, -0.5, 0.1]),
            shift=st.sampled_from([0.0, 0.5, 1.0, -1.0]),
        )
        data = "" if power in (0, 1, 2, 3) else "uniform:0.5,2"
    else:
        drawing.message(
            f"{kind.lower()}_param",
            base=st.sampled_from([-1.0, 2.0, 10.0, 0.5]),
            scale=st.sampled_from([1.0, 0.5, 2.0, 0.1] + [-1.0, 0.0] * (kind == "Exp")),
            shift=st.sampled_from([0.0, 0.5, 1.0]),
        )
        data = "positive" if kind == "Log" else "uniform:-2,2"
    drawing.bottom("x", drawing.shape(1, 4), data)


def _scale(drawing: Drawing) -> None:
    name = "scale_param" if drawing.kind == "Scale" else "bias_param"
    shape = drawing.shape(1, 4)
    axis = drawing.number(0, len(shape) - 1)
    count = drawing.number(0, len(shape) - axis)
    drawing.message(
        name,
        must=("axis",) if len(shape) < 2 or axis != 1 else (),
        axis=st.sampled_from([axis, axis - len(shape)]),
        num_axes=st.sampled_from([count] + [-1] * (axis + count == len(shape))),
    )
    drawing.bottom("x", shape)
    if drawing.draw(st.booleans()):
        drawing.bottom("factor", shape[axis : axis + count], fixed=not count)


def _eltwise(drawing: Drawing) -> None:
    shape, count = drawing.shape(1, 4), drawing.number(2, 4)
    operation = drawing.one_of("PROD", "SUM", "MAX")
    weights = st.lists(st.sampled_from([1.0, -1.0, 2.0, 0.1]), min_size=count, max_size=count)
    drawing.message(
        "eltwise_param",
        must=() if operation == "SUM" else ("operation",),
        never=("coeff",) if operation != "SUM" else (),
        operation=st.just(operation),
        coeff=weights,
    )
    for name in "abcd"[:count]:
        drawing.bottom(name, shape)


def _reduction(drawing: Drawing) -> None:
    shape = drawing.shape(1, 4)
    drawing.message(
        "reduction_param", axis=_axis(shape), coeff=st.sampled_from([1.0, 2.0, -0.5, 0.1])
    )
    drawing.bottom("x", shape)


def _inner_product(drawing: Drawing) -> None:
    shape = drawing.shape(1, 4)
    must = ("num_output", "axis") if len(shape) == 1 else ("num_output",)
    drawing.message("inner_product_param", must=must, axis=_axis(shape))
    drawing.bottom("x", shape)


def _embed(drawing: Drawing) -> None:
    rows = drawing.number(1, 5)
    drawing.message("embed_param", must=("num_output", "input_dim"), input_dim=st.just(rows))
    drawing.bottom("index", drawing.shape(1, 3), f"int:0,{rows - 1}")


def _windowed(drawing: Drawing) -> None:
    """Convolution, Deconvolution, Im2col: 0 to 3 spatial axes with windows that fit."""
    kind = drawing.kind
    count = drawing.one_of(2, 2, 2, 1, 3, 0)
    if kind == "Im2col" and not count:
        count = 1
    outer = drawing.shape(1, 2, 2)
    group = drawing.number(1, 2)
    channels = group * drawing.number(1, 2)
    equal = count != 2 or drawing.draw(st.booleans())
    kernel = [drawing.number(1, 3) for _ in range(1 if equal else count)]
    dilation = [drawing.number(1, 2) for _ in range(drawing.one_of(1, max(count, 1)))]
    pad = [drawing.number(0, 2) for _ in range(1 if equal else count)]
    stride = [drawing.number(1, 3) for _ in range(1 if equal else count)]
    extents = [
        (kernel * count)[place] * (dilation * count)[place] - (dilation * count)[place] + 1
        for place in range(count)
    ]
    spatial = [
        extent + drawing.number(0, 3) if kind != "Deconvolution" else drawing.number(2, 4)
        for extent in extents
    ]
    if kind == "Deconvolution":  # else nothing is left of what the padding takes away
        ends = zip(spatial, extents, strict=True)
        most = [(size - 1 + extent - 1) // 2 for size, extent in ends]
        pad = [min([each, *most]) for each in pad]
    shape = (*outer, channels, *spatial)
    axis = len(outer)
    two = count == 2 and drawing.draw(st.booleans())

    def pair(name: str, values: list[int], both: str) -> dict[str, Strategy]:
        ends = (values * 2)[:2]
        if two:
            return {f"{name}_h": st.just(ends[0]), f"{name}_w": st.just(ends[1])}
        return {both: st.just(list(values) if name != "kernel" or not equal else [*values])}

    given = {
        **pair("kernel", kernel, "kernel_size"),
        **pair("stride", stride, "stride"),
        **pair("pad", pad, "pad"),
        "dilation": st.just(dilation),
        "group": st.just(group),
        "num_output": st.just(group * drawing.number(1, 2)),
        "axis": st.sampled_from([axis, axis - len(shape)]),
    }
    names = ("kernel_h", "kernel_w", "stride_h", "stride_w", "pad_h", "pad_w")
    never = [each for each in (*names, "kernel_size", "stride", "pad") if each not in given]
    must = ["num_output", "kernel_h", "kernel_w", "kernel_size"]
    pairs = ("stride", "pad")
    for each in pairs if two else ():
        if drawing.draw(st.booleans()):
            must += [f"{each}_h", f"{each}_w"]
        else:
            never += [f"{each}_h", f"{each}_w"]
    if axis != 1:
        must.append("axis")
    if group > 1:
        must.append("group")
    drawing.message(
        "convolution_param",
        must=[each for each in must if each in given and each not in never],
        never=never,
        **given,
    )
    drawing.bottom("x", shape)
    if kind != "Im2col" and drawing.number(1, 6) == 1:
        drawing.bottom("y", shape)
        drawing.tops = 2


def _pooling(drawing: Drawing) -> None:
    method = drawing.one_of("MAX", "AVE")
    shape = (*drawing.shape(2, 2, 2), drawing.number(1, 7), drawing.number(1, 7))
    whole, two = drawing.number(1, 5) == 1, drawing.draw(st.booleans())
    kernel = [min(drawing.number(1, 4), each) for each in shape[2:]]
    kernel = kernel if two else [min(kernel)] * 2
    stride = [drawing.number(1, 3), drawing.number(1, 3)]
    stride = stride if two else stride[:1] * 2
    if method == "MAX":  # else a window may lie behind the input, which the port refuses
        stride = [min(each) for each in zip(stride, kernel, strict=True)]
    pad = [drawing.number(0, each - 1) for each in kernel]
    pad = pad if two else [min(pad)] * 2
    given: dict[str, Strategy] = {"pool": st.just(method), "global_pooling": st.just(whole)}
    never, must = [], ["pool", *(["global_pooling"] if whole else [])]
    for name, both, values in (
        ("kernel", "kernel_size", kernel),
        ("stride", "stride", stride),
        ("pad", "pad", pad),
    ):
        own = [f"{name}_h", f"{name}_w"] if two else [both]
        other = [both] if two else [f"{name}_h", f"{name}_w"]
        never += other
        given |= {each: st.just(value) for each, value in zip(own, values, strict=False)}
        if (name == "kernel" or drawing.draw(st.booleans())) and not whole:
            must += own
        else:
            never += own
    drawing.message("pooling_param", must=must, never=never, **given)
    drawing.bottom("x", shape)
    drawing.tops = drawing.one_of(1, 1, 2) if method == "MAX" else 1


def _spp(drawing: Drawing) -> None:
    methods = st.sampled_from(["MAX", "AVE"])
    height = drawing.number(1, 3)
    drawing.message(
        "spp_param", must=("pyramid_height",), pyramid_height=st.just(height), pool=methods
    )
    sizes = [each for each in range(2 ** (height - 1), 9) if _fits(each, height)]
    drawing.bottom("x", (*drawing.shape(2, 2, 2), drawing.one_of(*sizes), drawing.one_of(*sizes)))


def _fits(size: int, height: int) -> bool:
    """Whether each window of a pyramid is larger than its padding, as Caffe wants it."""
    windows = [(-(-size // bins), bins) for bins in (2**level for level in range(height))]
    return all((kernel * bins - size + 1) // 2 < kernel for kernel, bins in windows)


def _lrn(drawing: Drawing) -> None:
    region = drawing.one_of("ACROSS_CHANNELS", "WITHIN_CHANNEL")
    drawing.message(
        "lrn_param",
        must=("norm_region",) if region == "WITHIN_CHANNEL" else (),
        norm_region=st.just(region),
        local_size=st.sampled_from([1, 3, 5]),
        alpha=st.sampled_from([1.0, 0.1, 1e-4, 2.0]),
        beta=st.sampled_from([0.75, 0.5, 1.0]),
        k=st.sampled_from([1.0, 2.0, 0.5]),
    )
    drawing.bottom("x", (*drawing.shape(2, 2, 6), *drawing.shape(2, 2)))


def _batch_norm(drawing: Drawing) -> None:
    drawing.message(
        "batch_norm_param",
        eps=st.sampled_from([1e-5, 1e-3, 0.1]),
        moving_average_fraction=st.sampled_from([0.999, 0.9, 0.5, 0.0]),
    )
    drawing.bottom("x", (drawing.number(2, 4), *drawing.shape(1, 3)))


def _mvn(drawing: Drawing) -> None:
    drawing.message("mvn_param", eps=st.sampled_from([1e-9, 1e-3, 0.5]))
    shape = (drawing.number(1, 3), drawing.number(1, 3), drawing.number(2, 4), drawing.number(1, 4))
    drawing.bottom("x", shape)


def _softmax(drawing: Drawing) -> None:
    shape = drawing.shape(1, 4)
    must = ("axis",) if len(shape) == 1 else ()
    drawing.message("softmax_param", must=must, axis=_axis(shape))
    drawing.bottom("x", shape)


def _joined(drawing: Drawing) -> None:
    shape, count = list(drawing.shape(1, 4)), drawing.number(1, 3)
    old = len(shape) > 1 and drawing.number(1, 4) == 1
    said = drawing.message(
        "concat_param",
        must=("concat_dim",) if old else ("axis",) if len(shape) == 1 else (),
        never=("axis",) if old else ("concat_dim",),
        axis=_axis(tuple(shape)),
        concat_dim=st.integers(0, len(shape) - 1),
    )
    axis = said.get("concat_dim", said.get("axis", 1))
    for name in "abc"[:count]:
        shape[axis] = drawing.number(1, 3)
        drawing.bottom(name, tuple(shape))


def _sliced(drawing: Drawing) -> None:
    shape = list(drawing.shape(1, 4))
    tops = drawing.number(1, 3)
    old = len(shape) > 1 and drawing.number(1, 4) == 1
    points = tops > 1 and drawing.draw(st.booleans())
    axis = drawing.number(0, len(shape) - 1)
    sizes = [drawing.number(1, 3) for _ in range(tops)] if points else [drawing.number(1, 2)] * tops
    shape[axis] = sum(sizes)
    ends = [sum(sizes[: index + 1]) for index in range(tops - 1)]
    must = ["slice_dim" if old else "axis"] if axis != 1 or old else []
    drawing.message(
        "slice_param",
        must=[*must, *(["slice_point"] if points else [])],
        never=[*(["axis"] if old else ["slice_dim"]), *([] if points else ["slice_point"])],
        axis=st.sampled_from([axis, axis - len(shape)]),
        slice_dim=st.just(axis),
        slice_point=st.just(ends),
    )
    drawing.bottom("x", tuple(shape))
    drawing.tops = tops


def _copied(drawing: Drawing) -> None:
    """Split and Silence, which have no message."""
    drawing.bottom("x", drawing.shape(1, 4))
    drawing.tops = drawing.number(1, 3) if drawing.kind == "Split" else 1


def _crop(drawing: Drawing) -> None:
    like = drawing.shape(2, 4)
    axis = drawing.number(0, len(like) - 1)
    single = drawing.draw(st.booleans())
    offset = [drawing.number(0, 2)] * len(like) if single else [drawing.number(0, 2) for _ in like]
    shape = [
        size + offset[place] + drawing.number(0, 2) if place >= axis else drawing.number(1, 3)
        for place, size in enumerate(like)
    ]
    must = ("axis",) if axis != 2 else ()
    given = offset[axis : axis + 1] if single else offset[axis:]
    drawing.message(
        "crop_param",
        must=must,
        axis=st.sampled_from([axis, axis - len(like)]),
        offset=st.just(given),
    )
    drawing.bottom("x", tuple(shape))
    drawing.bottom("like", like, fixed=True)


def _reshaped(drawing: Drawing) -> None:
    shape = drawing.shape(1, 4)
    axis = drawing.number(0, len(shape))
    count = drawing.number(0, len(shape) - axis)
    inner = list(shape[axis : axis + count])
    dims: list[int] = list(inner)
    if count > 1 and drawing.draw(st.booleans()):
        dims = [inner[0] * inner[1], *inner[2:]]
    if drawing.draw(st.booleans()):
        dims = [*dims, 1]
    dims = [
        0
        if place < count
        and place < len(shape) - axis
        and size == shape[axis + place]
        and drawing.draw(st.booleans())
        else size
        for place, size in enumerate(dims)
    ]
    if dims and drawing.draw(st.booleans()):
        dims[drawing.number(0, len(dims) - 1)] = -1
    rest = axis + count == len(shape)
    drawing.message(
        "reshape_param",
        must=("shape", *(["axis"] if axis else []), *([] if rest else ["num_axes"])),
        shape=st.just("{ " + " ".join(f"dim: {each}" for each in dims) + " }"),
        axis=st.sampled_from([axis, axis - len(shape) - 1]),
        num_axes=st.sampled_from([count, -1] if rest else [count]),
    )
    drawing.bottom("x", shape)


def _flattened(drawing: Drawing) -> None:
    shape = drawing.shape(1, 5, 3)
    first = drawing.number(0, len(shape) - 1)
    last = drawing.number(first, len(shape) - 1)
    drawing.message(
        "flatten_param",
        must=("axis", "end_axis"),
        axis=st.sampled_from([first, first - len(shape)]),
        end_axis=st.sampled_from([last, last - len(shape)]),
    )
    drawing.bottom("x", shape)


def _tile(drawing: Drawing) -> None:
    shape = drawing.shape(1, 4, 3)
    must = ("tiles", *(["axis"] if len(shape) == 1 else []))
    drawing.message("tile_param", must=must, axis=_axis(shape))
    drawing.bottom("x", shape)


def _reindexed(drawing: Drawing) -> None:
    shape = drawing.shape(1, 4)
    drawing.bottom("x", shape)
    drawing.bottom("index", (drawing.number(1, 6),), f"int:0,{shape[0] - 1}")


KEPT = ("binary", "int:-3,3", "int:0,9", "constant:1")
"""What selects samples; where all of it is 0, Caffe dies."""


def _filter(drawing: Drawing) -> None:
    batch, count = drawing.number(3, 8), drawing.number(1, 2)
    for name in "ab"[:count]:
        drawing.bottom(name, (batch, *drawing.shape(0, 3)))
    drawing.bottom("selector", (batch,), drawing.one_of(*KEPT), True)
    drawing.tops = count


def _argmax(drawing: Drawing) -> None:
    shape = drawing.shape(1, 5)
    with_axis = drawing.draw(st.booleans())
    axis = drawing.number(0, len(shape) - 1)
    most = shape[axis] if with_axis else math.prod(shape[1:])
    drawing.message(
        "argmax_param",
        must=("axis",) if with_axis else (),
        never=() if with_axis else ("axis",),
        axis=st.sampled_from([axis, axis - len(shape)]),
        top_k=st.integers(1, most),
    )
    drawing.bottom("x", shape, drawing.one_of("", "int:0,2"), fixed=True)


def _parameter(drawing: Drawing) -> None:
    dims = " ".join(f"dim: {each}" for each in drawing.shape(1, 4))
    drawing.message("parameter_param", must=("shape",), shape=st.just(f"{{ {dims} }}"))


def _dummy_data(drawing: Drawing) -> None:
    tops = drawing.number(1, 2)
    sizes = [drawing.shape(4, 4, 3) for _ in range(drawing.one_of(1, tops))]
    fillers = [f"{{ value: {drawing.one_of(0.0, 0.1, -2.0)} }}" for _ in sizes]
    old = drawing.draw(st.booleans())
    names = ("num", "channels", "height", "width")
    given: dict[str, Strategy] = {
        name: st.just([size[place] for size in sizes]) for place, name in enumerate(names)
    }
    given["shape"] = st.just(
        [f"{{ {' '.join(f'dim: {each}' for each in size)} }}" for size in sizes]
    )
    given["data_filler"] = st.just(fillers)
    drawing.message(
        "dummy_data_param",
        must=names if old else ("shape",),
        never=("shape",) if old else names,
        **given,
    )
    drawing.tops = tops


def _class_loss(drawing: Drawing) -> None:
    """SoftmaxWithLoss, InfogainLoss and Accuracy: scores and a label for each place."""
    kind = drawing.kind
    shape = drawing.shape(2, 4)
    axis = drawing.number(1 if kind != "Accuracy" else 0, len(shape) - 1)
    if drawing.number(1, ONE_IN) < ONE_IN:  # a class alone has a loss of 0
        shape = (*shape[:axis], max(shape[axis], 2), *shape[axis + 1 :])
    classes, places = shape[axis], (*shape[:axis], *shape[axis + 1 :])
    must = ("axis",) if axis != 1 else ()
    axes = st.sampled_from([axis, axis - len(shape)])
    labels = drawing.one_of(-1, 0, classes - 1, 255)
    if kind == "Accuracy":
        drawing.message(
            "accuracy_param",
            must=must,
            axis=axes,
            top_k=st.integers(1, classes),
            ignore_label=st.just(labels),
        )
        drawing.tops = drawing.number(1, 2)
    else:
        modern = kind == "InfogainLoss" or drawing.draw(st.booleans())
        drawing.message(
            "loss_param",
            never=("normalize",)
            if kind == "InfogainLoss"
            else ()
            if modern
            else ("normalization",),
            ignore_label=st.just(labels),
        )
        message = "softmax_param" if kind == "SoftmaxWithLoss" else "infogain_loss_param"
        drawing.message(message, must=must, axis=axes)
    drawing.bottom("x", shape, fixed=kind == "Accuracy")
    flat = drawing.one_of(places, (places[0], *places[1:]), (*places[:1], 1, *places[1:]))
    drawing.bottom("label", flat, f"int:0,{classes - 1}")
    if kind == "InfogainLoss":
        drawing.bottom("matrix", (1, 1, classes, classes), fixed=True)


def _sigmoid_loss(drawing: Drawing) -> None:
    shape = drawing.shape(1, 4)
    drawing.message("loss_param", ignore_label=st.sampled_from([-1, 0, 1]))
    drawing.bottom("x", shape)
    kind = drawing.one_of("binary", "uniform:0,1", "int:-1,1")
    drawing.bottom("target", shape, kind, fixed=True)


def _plain_loss(drawing: Drawing) -> None:
    """The losses of a batch, each with labels of its own kind."""
    kind = drawing.kind
    if kind == "EuclideanLoss":
        shape = drawing.shape(1, 4)
        drawing.bottom("a", shape)
        drawing.bottom("b", shape)
    elif kind == "HingeLoss":
        shape = drawing.shape(2, 4)
        drawing.message("hinge_loss_param")
        drawing.bottom("x", shape)
        drawing.bottom("label", shape[:1], f"int:0,{math.prod(shape[1:]) - 1}")
    elif kind == "ContrastiveLoss":
        shape = (*drawing.shape(2, 2), *([1] * drawing.one_of(0, 2)))
        margins = st.sampled_from([1.0, 0.5, 3.0, 10.0])
        drawing.message("contrastive_loss_param", margin=margins)
        drawing.bottom("a", shape)
        drawing.bottom("b", shape)
        drawing.bottom("similar", shape[:1], "binary")
    else:
        shape = drawing.shape(2, 4)
        drawing.bottom("probability", shape, drawing.one_of("probabilities", "uniform:0.01,1"))
        drawing.bottom("label", shape[:1], f"int:0,{math.prod(shape[1:]) - 1}")


CONT = ("binary", "constant:1", "uniform:0,1")
"""What says where a sequence begins; Caffe multiplies with whatever it is."""


def _lstm_unit(drawing: Drawing) -> None:
    batch, size = drawing.number(1, 3), drawing.number(1, 3)
    drawing.bottom("cell", (1, batch, size))
    drawing.bottom("gates", (1, batch, 4 * size))
    drawing.bottom("cont", (1, batch), drawing.one_of(*CONT), fixed=True)
    drawing.tops = 2


def _recurrent(drawing: Drawing) -> None:
    steps, batch, size = drawing.number(2, 3), drawing.number(1, 2), drawing.number(1, 3)
    shown = drawing.draw(st.booleans())
    drawing.message(
        "recurrent_param",
        must=("num_output", *(["expose_hidden"] if shown else [])),
        num_output=st.just(size),
        expose_hidden=st.just(shown),
        debug_info=st.just(False),
    )
    drawing.bottom("x", (steps, batch, *drawing.shape(1, 2, 3)))
    first = 0 if shown else 1  # a layer that keeps its state begins with a cont of 0
    drawing.bottom("cont", (steps - first, batch), drawing.one_of(*CONT), True)
    if drawing.draw(st.booleans()):
        drawing.bottom("static", (batch, *drawing.shape(1, 2, 3)))
    if shown:
        states = ("hidden", "cell")[: 2 if drawing.kind == "LSTM" else 1]
        for each in states:
            drawing.bottom(each, (1, batch, size), fixed=True)
        drawing.tops = 1 + len(states)


DRAWN: Mapping[str, Callable[[Drawing], None]] = {
    **dict.fromkeys(("ReLU", "ELU", "Swish", "Sigmoid", "TanH", "BNLL", "AbsVal"), _one),
    **dict.fromkeys(("Threshold", "Clip", "Dropout"), _one),
    "PReLU": _prelu,
    **dict.fromkeys(("Power", "Exp", "Log"), _scalars),
    **dict.fromkeys(("Scale", "Bias"), _scale),
    "Eltwise": _eltwise,
    "Reduction": _reduction,
    "InnerProduct": _inner_product,
    "Embed": _embed,
    **dict.fromkeys(("Convolution", "Deconvolution", "Im2col"), _windowed),
    "Pooling": _pooling,
    "SPP": _spp,
    "LRN": _lrn,
    "BatchNorm": _batch_norm,
    "MVN": _mvn,
    "Softmax": _softmax,
    "Concat": _joined,
    "Slice": _sliced,
    **dict.fromkeys(("Split", "Silence"), _copied),
    "Crop": _crop,
    "Reshape": _reshaped,
    "Flatten": _flattened,
    "Tile": _tile,
    "BatchReindex": _reindexed,
    "Filter": _filter,
    "ArgMax": _argmax,
    "Parameter": _parameter,
    "DummyData": _dummy_data,
    **dict.fromkeys(("SoftmaxWithLoss", "InfogainLoss", "Accuracy"), _class_loss),
    "SigmoidCrossEntropyLoss": _sigmoid_loss,
    **dict.fromkeys(
        ("EuclideanLoss", "HingeLoss", "ContrastiveLoss", "MultinomialLogisticLoss"), _plain_loss
    ),
    "LSTMUnit": _lstm_unit,
    **dict.fromkeys(("LSTM", "RNN"), _recurrent),
}
"""What draws a layer of each type that has a counterpart."""


@st.composite
def examples(draw: Draw, kind: str) -> Example:
    """Layers of that type."""
    drawing = Drawing(draw, kind)
    DRAWN[kind](drawing)
    return drawing.example
