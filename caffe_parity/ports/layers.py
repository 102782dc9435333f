"""From what a layer says to the calls that compute it: a function and an entry for each type."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from caffe_parity.ports import (
    activations,
    arithmetic,
    convolution,
    losses,
    normalisation,
    pooling,
    recurrent,
    shapes,
)
from caffe_parity.ports.catalogue import (
    BOUNDED,
    DATA,
    EXACT,
    HOLE,
    Call,
    Message,
    Port,
    Said,
)

Calls = Sequence[Call]


def _all_bottoms(said: Said) -> tuple[str, ...]:
    return tuple(f"bottom[{index}]" for index in range(len(said.bottoms)))


def _all_tops(said: Said) -> tuple[str, ...]:
    return tuple(f"top[{index}]" for index in range(said.tops))


def _plain(function: Callable[..., Any], message: str = "") -> Callable[[Said], Calls]:
    """A layer of one bottom whose message says nothing that changes numbers."""

    def calls(said: Said) -> Calls:
        if message:
            said.message(message).changes_nothing("engine")
        return [Call(function)]

    return calls


def _relu(said: Said) -> Calls:
    message = said.message("relu_param")
    message.changes_nothing("engine")
    return [Call(activations.relu, arguments={"negative_slope": message["negative_slope"]})]


def _prelu(said: Said) -> Calls:
    message = said.message("prelu_param")
    message.changes_nothing("filler", "channel_shared")  # the blob's shape says it
    return [Call(activations.prelu, ("bottom[0]", "blob[0]"))]


def _elu(said: Said) -> Calls:
    return [Call(activations.elu, arguments={"alpha": said.message("elu_param")["alpha"]})]


def _power(said: Said) -> Calls:
    message = said.message("power_param")
    return [Call(activations.power, arguments=_named(message, "power", "scale", "shift"))]


def _exp(said: Said) -> Calls:
    return [Call(activations.exp, arguments=_with_base(said, said.message("exp_param")))]


def _log(said: Said) -> Calls:
    return [Call(activations.log, arguments=_with_base(said, said.message("log_param")))]


def _with_base(said: Said, message: Message) -> dict[str, Any]:
    base = message["base"]
    if base != -1 and base <= 0:
        raise said.refused(
            f"{message.name}.base is {base}: expected a positive number, or -1 for e"
        )
    return {"base": None if base == -1 else base, **_named(message, "scale", "shift")}


def _named(message: Message, *names: str) -> dict[str, Any]:
    return {each: message[each] for each in names}


def _threshold(said: Said) -> Calls:
    message = said.message("threshold_param")
    return [Call(activations.threshold, arguments=_named(message, "threshold"))]


def _clip(said: Said) -> Calls:
    message = said.message("clip_param")
    limits = {"least": message["min"], "most": message["max"]}
    if limits["least"] > limits["most"]:
        raise said.refused(f"clip_param.min {limits['least']} is above max {limits['most']}")
    return [Call(activations.clip, arguments=limits)]


def _swish(said: Said) -> Calls:
    return [Call(activations.swish, arguments={"beta": said.message("swish_param")["beta"]})]


def _dropout(said: Said) -> Calls:
    message = said.message("dropout_param")
    if said.phase == "TEST":
        message.changes_nothing("dropout_ratio")
        return [Call(activations.dropout)]
    arguments = {"ratio": message["dropout_ratio"]}
    return [Call(activations.dropout, named={"mask": "mask"}, arguments=arguments)]


def _scale(said: Said) -> Calls:
    message = said.message("scale_param")
    message.changes_nothing("filler", "bias_filler", "num_axes")  # the blob's shape says it
    blobs = ["blob[0]", "blob[1]"][: (len(said.bottoms) == 1) + message["bias_term"]]
    factor = said.bottoms[1] if len(said.bottoms) > 1 else None
    axis = said.axis(message["axis"]) if factor != () else 0 * message["axis"]
    return [Call(arithmetic.scale, (*_all_bottoms(said), *blobs), arguments={"axis": axis})]


def _bias(said: Said) -> Calls:
    message = said.message("bias_param")
    message.changes_nothing("filler", "num_axes")
    blobs = ["blob[0]"][len(said.bottoms) - 1 :]
    added = said.bottoms[1] if len(said.bottoms) > 1 else None
    axis = said.axis(message["axis"]) if added != () else 0 * message["axis"]
    return [Call(arithmetic.bias, (*_all_bottoms(said), *blobs), arguments={"axis": axis})]


def _eltwise(said: Said) -> Calls:
    message = said.message("eltwise_param")
    operation, coeff = message["operation"], tuple(message["coeff"])
    stable, bottoms = message["stable_prod_grad"], _all_bottoms(said)
    if coeff and len(coeff) != len(bottoms):
        raise said.refused(f"{len(coeff)} coefficients for {len(bottoms)} bottoms")
    if operation == "SUM":
        return [Call(arithmetic.eltwise_sum, bottoms, arguments={"coeff": coeff})]
    if operation == "MAX":
        return [Call(arithmetic.eltwise_max, bottoms)]
    if coeff:
        raise said.refused("eltwise_param.coeff with PROD, which Caffe refuses")
    return [Call(arithmetic.eltwise_product, bottoms, arguments={"stable_gradient": stable})]


def _reduction(said: Said) -> Calls:
    message = said.message("reduction_param")
    arguments = {**_named(message, "operation", "coeff"), "axis": said.axis(message["axis"])}
    return [Call(arithmetic.reduction, arguments=arguments)]


def _inner_product(said: Said) -> Calls:
    message = said.message("inner_product_param")
    message.changes_nothing("num_output", "weight_filler", "bias_filler")
    blobs = ["blob[0]", "blob[1]"][: 1 + message["bias_term"]]
    arguments = {"axis": said.axis(message["axis"]), "transpose": message["transpose"]}
    return [Call(arithmetic.inner_product, ("bottom[0]", *blobs), arguments=arguments)]


def _embed(said: Said) -> Calls:
    message = said.message("embed_param")
    message.changes_nothing("num_output", "input_dim", "weight_filler", "bias_filler")
    blobs = ["blob[0]", "blob[1]"][: 1 + message["bias_term"]]
    return [Call(arithmetic.embed, ("bottom[0]", *blobs))]


def _windows(said: Said) -> tuple[int, dict[str, tuple[int, ...]]]:
    """The channels' axis, and kernel, stride, pad and dilation for each axis behind it."""
    message = said.message("convolution_param")
    message.changes_nothing("weight_filler", "bias_filler", "engine", "force_nd_im2col")
    axis = said.axis(message["axis"])
    count = len(said.bottoms[0]) - axis - 1
    if count > 3:
        raise said.refused(f"{count} spatial axes, and PyTorch convolves over 3 at most")

    def values(name: str, usual: int | None, pair: Sequence[str] = ()) -> tuple[int, ...]:
        if any(each in message for each in pair):
            if name in message or count != 2:
                raise said.refused(
                    f"{pair[0]} and {pair[1]} go with two spatial axes, without {name}"
                )
            return tuple(message[each] for each in pair)
        given = message[name] or ([] if usual is None else [usual])
        if len(given) not in (1, count):
            raise said.refused(f"{len(given)} values of {name} for {count} spatial axes")
        return tuple(given * count if len(given) == 1 else given)

    return axis, {
        "kernel": values("kernel_size", None, ("kernel_h", "kernel_w")),
        "stride": values("stride", 1, ("stride_h", "stride_w")),
        "pad": values("pad", 0, ("pad_h", "pad_w")),
        "dilation": values("dilation", 1),
    }


def _convolution(function: Callable[..., Any]) -> Callable[[Said], Calls]:
    def calls(said: Said) -> Calls:
        axis, windows = _windows(said)
        message = said.message("convolution_param")
        message.changes_nothing("num_output", "kernel_size", "kernel_h", "kernel_w")
        blobs = ["blob[0]", "blob[1]"][: 1 + message["bias_term"]]
        del windows["kernel"]  # the blob's shape says it
        arguments = {**windows, "group": message["group"], "axis": axis}
        return [
            Call(function, (bottom, *blobs), arguments=arguments, gives=(top,))
            for bottom, top in zip(_all_bottoms(said), _all_tops(said), strict=True)
        ]

    return calls


def _im2col(said: Said) -> Calls:
    axis, windows = _windows(said)
    said.message("convolution_param").changes_nothing("num_output", "bias_term", "group")
    return [Call(convolution.im2col, arguments={**windows, "axis": axis})]


def _pooling(said: Said) -> Calls:
    message = said.message("pooling_param")
    message.changes_nothing("engine")
    method, spatial = message["pool"], said.bottoms[0][2:]
    if method == "STOCHASTIC":
        raise said.refused("pool: STOCHASTIC, which draws numbers, and which Caffe's CPU has not")

    def pair(name: str, both: str) -> tuple[int, ...]:
        if f"{name}_h" in message or f"{name}_w" in message:
            if both in message:
                raise said.refused(f"{both} beside {name}_h or {name}_w")
            return message[f"{name}_h"], message[f"{name}_w"]
        return (message[both],) * 2

    kernel, stride, pad = (
        pair("kernel", "kernel_size"),
        pair("stride", "stride"),
        pair("pad", "pad"),
    )
    floor = message["round_mode"] == "FLOOR"
    if message["global_pooling"]:
        if any(kernel) or any(pad) or stride != (1, 1):
            raise said.refused("global_pooling with a kernel, padding or a stride")
        kernel = tuple(spatial)
    if 0 in kernel or 0 in stride:
        raise said.refused(f"a kernel {kernel} with stride {stride}")
    if any(pad) and any(p >= k for p, k in zip(pad, kernel, strict=True)):
        raise said.refused(f"padding {pad} as large as the kernel {kernel}")
    for size, k, s, p in zip(spatial, kernel, stride, pad, strict=True):
        out = pooling.pooled_size(size, k, s, p, any(pad), floor)
        if out < 1:
            raise said.refused(f"a kernel of {k} over {size} elements leaves none")
        if method == "MAX" and (out - 1) * s - p >= size:
            raise said.refused(
                f"the last window begins at {(out - 1) * s - p}, behind the input's {size}: Caffe "
                "gives -FLT_MAX there, and its backward writes before the bottom's diff"
            )
    windows = {"kernel": kernel, "stride": stride, "pad": pad, "floor": floor}
    made = [Call(pooling.pooling, arguments={"method": method, **windows})]
    if message["global_pooling"]:
        made = [Call(pooling.global_pooling, arguments={"method": method})]
    if said.tops > 1:
        made.append(Call(pooling.pooling_mask, arguments=windows, gives=("top[1]",)))
    return made


def _spp(said: Said) -> Calls:
    message = said.message("spp_param")
    message.changes_nothing("engine")
    height, method = message["pyramid_height"], message["pool"]
    if method == "STOCHASTIC":
        raise said.refused("pool: STOCHASTIC, which draws numbers, and which Caffe's CPU has not")
    arguments = {"height": height, "method": method}
    return [Call(pooling.spatial_pyramid, arguments=arguments)]


def _lrn(said: Said) -> Calls:
    message = said.message("lrn_param")
    message.changes_nothing("engine")
    arguments = {"size": message["local_size"], **_named(message, "alpha", "beta")}
    if not arguments["size"] % 2:
        raise said.refused(f"local_size {arguments['size']}, which Caffe wants odd")
    if message["norm_region"] == "ACROSS_CHANNELS":
        return [Call(normalisation.lrn, arguments={**arguments, "k": message["k"]})]
    message.changes_nothing("k")  # Caffe's WITHIN_CHANNEL has 1 there
    return [Call(normalisation.lrn_within, arguments=arguments)]


def _batch_norm(said: Said) -> Calls:
    message = said.message("batch_norm_param")
    tensors = ("bottom[0]", "blob[0]", "blob[1]", "blob[2]")
    stored = message["use_global_stats"]
    if "use_global_stats" not in message:
        stored = said.phase == "TEST"
    eps, fraction = message["eps"], message["moving_average_fraction"]
    if stored:
        return [Call(normalisation.batch_norm, tensors, arguments={"eps": eps})]
    arguments = {"eps": eps, "moving_average_fraction": fraction}
    gives = ("top[0]", "blob[0]", "blob[1]", "blob[2]")
    return [Call(normalisation.batch_norm_training, tensors, arguments=arguments, gives=gives)]


def _mvn(said: Said) -> Calls:
    names = ("normalize_variance", "across_channels", "eps")
    return [Call(normalisation.mvn, arguments=_named(said.message("mvn_param"), *names))]


def _softmax_axis(said: Said) -> int:
    message = said.message("softmax_param")
    message.changes_nothing("engine")
    return said.axis(message["axis"])


def _softmax(said: Said) -> Calls:
    return [Call(normalisation.softmax, arguments={"axis": _softmax_axis(said)})]


def _concat(said: Said) -> Calls:
    message = said.message("concat_param")
    axis = message["concat_dim"] if "concat_dim" in message else message["axis"]
    if "concat_dim" in message and "axis" in message:
        raise said.refused("concat_dim beside axis")
    return [Call(shapes.concat, _all_bottoms(said), arguments={"axis": said.axis(axis)})]


def _slice(said: Said) -> Calls:
    message = said.message("slice_param")
    axis = message["slice_dim"] if "slice_dim" in message else message["axis"]
    if "slice_dim" in message and "axis" in message:
        raise said.refused("slice_dim beside axis")
    axis = said.axis(axis)
    size, points = said.bottoms[0][axis], message["slice_point"]
    if not points:
        if size % said.tops:
            raise said.refused(f"{size} elements of axis {axis} for {said.tops} tops")
        points = [size // said.tops * index for index in range(1, said.tops)]
    sizes = tuple(end - start for start, end in zip([0, *points], [*points, size], strict=True))
    if len(sizes) != said.tops or min(sizes) < 1:
        raise said.refused(f"slice points {points} of {size} elements for {said.tops} tops")
    arguments = {"sizes": sizes, "axis": axis}
    return [Call(shapes.slices, arguments=arguments, gives=_all_tops(said))]


def _split(said: Said) -> Calls:
    return [Call(shapes.split, arguments={"tops": said.tops}, gives=_all_tops(said))]


def _crop(said: Said) -> Calls:
    message = said.message("crop_param")
    axis, offset = said.axis(message["axis"]), message["offset"]
    count = len(said.bottoms[0]) - axis
    if len(offset) > 1 and len(offset) != count:
        raise said.refused(f"{len(offset)} offsets for {count} axes")
    full = tuple(offset or [0])
    arguments = {"offset": full * count if len(full) == 1 else full, "axis": axis}
    return [Call(shapes.crop, ("bottom[0]", "bottom[1]"), arguments=arguments)]


def _reshape(said: Said) -> Calls:
    message = said.message("reshape_param")
    axis = said.axis(message["axis"], past=True)
    arguments = {
        "shape": tuple(message["shape"]["dim"]),
        "axis": axis,
        **_named(message, "num_axes"),
    }
    return [Call(shapes.reshape, arguments=arguments)]


def _flatten(said: Said) -> Calls:
    message = said.message("flatten_param")
    arguments = {each: said.axis(message[each]) for each in ("axis", "end_axis")}
    if arguments["axis"] > arguments["end_axis"] + 1:
        raise said.refused("the axis lies behind end_axis")
    return [Call(shapes.flatten, arguments=arguments)]


def _tile(said: Said) -> Calls:
    message = said.message("tile_param")
    arguments = {"tiles": message["tiles"], "axis": said.axis(message["axis"])}
    return [Call(shapes.tile, arguments=arguments)]


def _batch_reindex(said: Said) -> Calls:
    return [Call(shapes.batch_reindex, _all_bottoms(said))]


def _filter(said: Said) -> Calls:
    return [Call(shapes.filtered, _all_bottoms(said), gives=_all_tops(said))]


def _argmax(said: Said) -> Calls:
    message = said.message("argmax_param")
    axis = message.said("axis")
    axis = axis if axis is None else said.axis(axis)
    arguments = {"axis": axis, **_named(message, "top_k", "out_max_val")}
    return [Call(shapes.argmax, arguments=arguments)]


def _silence(said: Said) -> Calls:
    return [Call(shapes.silence, _all_bottoms(said), gives=())]


def _parameter(said: Said) -> Calls:
    said.message("parameter_param").changes_nothing("shape")  # the blob's
    return [Call(shapes.parameter, ("blob[0]",))]


def _dummy_data(said: Said) -> Calls:
    message = said.message("dummy_data_param")
    fillers = message["data_filler"]
    values, kinds = [each["value"] for each in fillers], [each["type"] for each in fillers]
    if any(kind != "constant" for kind in kinds):
        raise said.refused(f"fillers {kinds}: what is drawn is an input")
    for each in fillers:  # which a constant does not look at
        each.changes_nothing("min", "max", "mean", "std", "sparse", "variance_norm")
    sizes = [tuple(each["dim"]) for each in message["shape"]]
    old = [message[each] for each in ("num", "channels", "height", "width")]
    sizes = sizes or [tuple(each) for each in zip(*old, strict=True)]
    arguments = {
        "shapes": _repeated(sizes, said.tops),
        "values": _repeated(values or [0.0], said.tops),
    }
    return [Call(shapes.constants, (), arguments=arguments, gives=_all_tops(said))]


def _repeated(values: Sequence[Any], count: int) -> tuple[Any, ...]:
    return tuple(values) if len(values) == count else (values[0],) * count


def _normalization(said: Said, usual: str) -> dict[str, Any]:
    """How a loss is divided, and which label it leaves out."""
    message = said.message("loss_param")
    mode, old = message["normalization"], message["normalize"]
    if "normalization" not in message:
        mode = usual
        if "normalize" in message:
            mode = "VALID" if old else "BATCH_SIZE"
    ignored = message.said("ignore_label")
    return {"normalization": mode, "ignore_label": ignored}


def _softmax_loss(said: Said) -> Calls:
    axis = _softmax_axis(said)
    arguments = {**_normalization(said, "VALID"), "axis": axis}
    made = [Call(losses.softmax_loss, ("bottom[0]", "bottom[1]"), arguments=arguments)]
    if said.tops > 1:
        made.append(Call(normalisation.softmax, arguments={"axis": axis}, gives=("top[1]",)))
    return made


def _infogain_loss(said: Said) -> Calls:
    message = said.message("infogain_loss_param")
    said.message("softmax_param").changes_nothing("engine", "axis")
    axis = said.axis(message["axis"])
    if len(said.bottoms) == 2:
        raise said.refused("infogain_loss_param.source: give the matrix as a third bottom")
    message.changes_nothing("source")  # Caffe does not read it where there is a third bottom
    if "normalize" in said.message("loss_param"):
        raise said.refused("loss_param.normalize, which Caffe's InfogainLoss refuses")
    said.message("loss_param").changes_nothing("normalize")
    arguments = {**_normalization(said, "VALID"), "axis": axis}
    made = [Call(losses.infogain_loss, _all_bottoms(said), arguments=arguments)]
    if said.tops > 1:
        made.append(Call(normalisation.softmax, arguments={"axis": axis}, gives=("top[1]",)))
    return made


def _sigmoid_loss(said: Said) -> Calls:
    arguments = _normalization(said, "BATCH_SIZE")
    return [Call(losses.sigmoid_cross_entropy_loss, _all_bottoms(said), arguments=arguments)]


def _euclidean_loss(said: Said) -> Calls:
    return [Call(losses.euclidean_loss, _all_bottoms(said))]


def _hinge_loss(said: Said) -> Calls:
    arguments = _named(said.message("hinge_loss_param"), "norm")
    return [Call(losses.hinge_loss, _all_bottoms(said), arguments=arguments)]


def _contrastive_loss(said: Said) -> Calls:
    message = said.message("contrastive_loss_param")
    arguments = {"margin": message["margin"], "legacy": message["legacy_version"]}
    return [Call(losses.contrastive_loss, _all_bottoms(said), arguments=arguments)]


def _multinomial_loss(said: Said) -> Calls:
    return [Call(losses.multinomial_logistic_loss, _all_bottoms(said))]


def _accuracy(said: Said) -> Calls:
    message = said.message("accuracy_param")
    arguments = {
        "top_k": message["top_k"],
        "axis": said.axis(message["axis"]),
        "ignore_label": message.said("ignore_label"),
    }
    tensors = ("bottom[0]", "bottom[1]")
    made = [Call(losses.accuracy, tensors, arguments=arguments)]
    if said.tops > 1:
        made.append(
            Call(losses.accuracy_per_class, tensors, arguments=arguments, gives=("top[1]",))
        )
    return made


def _lstm_unit(said: Said) -> Calls:
    return [Call(recurrent.lstm_unit, _all_bottoms(said), gives=("top[0]", "top[1]"))]


def _recurrent(
    function: Callable[..., Any], weights: Sequence[str], states: Sequence[str]
) -> Callable[[Said], Calls]:
    """Weights are named in the order of the blobs, and `states` in that of bottoms and tops."""

    def calls(said: Said) -> Calls:
        message = said.message("recurrent_param")
        message.changes_nothing("num_output", "weight_filler", "bias_filler", "debug_info")
        shown = len(states) if message["expose_hidden"] else 0
        static = len(said.bottoms) > 2 + shown
        names = [each for each in weights if static or each != "static_weight"]
        named = {name: f"blob[{index}]" for index, name in enumerate(names)}
        if static:
            named["static"] = "bottom[2]"
        first = len(said.bottoms) - shown
        named |= {each: f"bottom[{first + index}]" for index, each in enumerate(states[:shown])}
        more = [f"top[{1 + index}]" if shown else "" for index in range(len(states))]
        gives = ("top[0]", *more)
        return [Call(function, ("bottom[0]", "bottom[1]"), named, gives=gives)]

    return calls


_LSTM = _recurrent(
    recurrent.lstm, ("weight", "bias", "static_weight", "recurrent"), ("hidden", "cell")
)
_RNN = _recurrent(
    recurrent.rnn,
    ("weight", "bias", "static_weight", "recurrent", "output_weight", "output_bias"),
    ("hidden",),
)

_OVERWRITTEN = (
    "several batches with `iter_size` ({}): Caffe overwrites the parameter's diff, to which every "
    "other layer, and the port, adds"
)
_FED = "it becomes an input; what it does to images is not run"

_ENTRIES = (
    Port("Convolution", BOUNDED, _convolution(convolution.convolution)),
    Port(
        "Pooling",
        EXACT,
        _pooling,
        impossible=(
            "MAX whose last window lies behind the input (size 6, kernel 1, stride 2, no padding): "
            "Caffe's backward writes before the bottom's diff",
            "STOCHASTIC: it draws numbers, and Caffe's CPU code has none",
        ),
    ),
    Port("InnerProduct", BOUNDED, _inner_product),
    Port("ReLU", EXACT, _relu),
    Port("LRN", BOUNDED, _lrn),
    Port("BatchNorm", BOUNDED, _batch_norm),
    Port("Scale", BOUNDED, _scale, impossible=(_OVERWRITTEN.format("of one sample"),)),
    Port("Eltwise", BOUNDED, _eltwise),
    Port("Concat", EXACT, _concat),
    Port("Dropout", EXACT, _dropout),
    Port(
        "SoftmaxWithLoss",
        BOUNDED,
        _softmax_loss,
        impossible=("a second top: Caffe 1.0 cannot build it, whatever `loss_weight` says",),
    ),
    Port("Softmax", BOUNDED, _softmax),
    Port("Accuracy", EXACT, _accuracy),
    Port("Slice", EXACT, _slice),
    Port("Split", EXACT, _split),
    Port("Flatten", EXACT, _flatten),
    Port("Reshape", EXACT, _reshape),
    Port("Deconvolution", BOUNDED, _convolution(convolution.deconvolution)),
    Port("Crop", EXACT, _crop),
    Port("Sigmoid", BOUNDED, _plain(activations.sigmoid, "sigmoid_param")),
    Port("TanH", BOUNDED, _plain(activations.tanh, "tanh_param")),
    Port("PReLU", BOUNDED, _prelu),
    Port("ELU", BOUNDED, _elu),
    Port("Power", BOUNDED, _power),
    Port("AbsVal", EXACT, _plain(activations.absval)),
    Port("Exp", BOUNDED, _exp),
    Port("Log", BOUNDED, _log),
    Port("BNLL", BOUNDED, _plain(activations.bnll)),
    Port("Threshold", EXACT, _threshold),
    Port("Clip", EXACT, _clip),
    Port("Swish", BOUNDED, _swish),
    Port("Bias", BOUNDED, _bias),
    Port("Reduction", BOUNDED, _reduction),
    Port("Embed", BOUNDED, _embed),
    Port("Im2col", BOUNDED, _im2col),
    Port("SPP", BOUNDED, _spp),
    Port("MVN", BOUNDED, _mvn),
    Port("Tile", BOUNDED, _tile),
    Port("BatchReindex", EXACT, _batch_reindex),
    Port(
        "Filter",
        EXACT,
        _filter,
        impossible=("a selector of zeros alone: Caffe's backward divides by 0 (SIGFPE)",),
    ),
    Port("ArgMax", EXACT, _argmax),
    Port("Silence", EXACT, _silence),
    Port("Parameter", EXACT, _parameter, impossible=(_OVERWRITTEN.format("always"),)),
    Port("SigmoidCrossEntropyLoss", BOUNDED, _sigmoid_loss),
    Port("EuclideanLoss", BOUNDED, _euclidean_loss),
    Port("HingeLoss", BOUNDED, _hinge_loss),
    Port(
        "ContrastiveLoss",
        BOUNDED,
        _contrastive_loss,
        impossible=("a larger batch than its first: Caffe writes behind what it has set up",),
    ),
    Port("InfogainLoss", BOUNDED, _infogain_loss, "with the matrix as a third bottom"),
    Port("MultinomialLogisticLoss", BOUNDED, _multinomial_loss),
    Port("LSTM", BOUNDED, _LSTM),
    Port("LSTMUnit", BOUNDED, _lstm_unit),
    Port("RNN", BOUNDED, _RNN),
    Port("DummyData", EXACT, _dummy_data, "with constant fillers; else what is drawn is an input"),
    Port("Input", DATA, note="it is an input"),
    Port("Data", DATA, note=_FED),
    Port("HDF5Data", DATA, note=_FED),
    Port("ImageData", DATA, note=_FED),
    Port("MemoryData", DATA, note=_FED),
    Port("WindowData", DATA, note=_FED),
    Port("HDF5Output", DATA, note="it writes a file, and has no top"),
    Port("Python", HOLE, note="its code is not in the net, and has to be given"),
)

PORTS: Mapping[str, Port] = {each.type: each for each in _ENTRIES}
"""The counterpart of every layer type that Caffe registers, by type, in the order of their use."""
