"""Nets of the shapes that people have published, from 2014 to 2018, at sizes of a test."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.net_text import input_layer


def layer(name: str, kind: str, bottoms: str, tops: str, rest: str = "") -> str:
    """A layer, its blobs separated by spaces."""
    blobs = [f'bottom: "{each}"' for each in bottoms.split()]
    blobs += [f'top: "{each}"' for each in tops.split()]
    return f'layer {{ name: "{name}" type: "{kind}" {" ".join(blobs)} {rest} }}\n'


FILLED = 'weight_filler { type: "xavier" } bias_filler { type: "uniform" max: 0.3 }'


def conv(bottom: str, top: str, outputs: int, said: str, more: str = "") -> str:
    """A Convolution that is named as its top."""
    said = f"convolution_param {{ num_output: {outputs} {said} {FILLED} }} {more}"
    return layer(top, "Convolution", bottom, top, said)


def relu(blob: str) -> str:
    """A ReLU in place."""
    return layer(f"{blob}_relu", "ReLU", blob, blob)


def norm(blob: str, said: str = "") -> str:
    """A BatchNorm and a Scale, both in place."""
    return layer(f"{blob}_bn", "BatchNorm", blob, blob, f"batch_norm_param {{ {said} }}") + layer(
        f"{blob}_scale", "Scale", blob, blob, "scale_param { bias_term: true }"
    )


def pool(bottom: str, top: str, said: str) -> str:
    """A Pooling that is named as its top."""
    return layer(top, "Pooling", bottom, top, f"pooling_param {{ {said} }}")


def inner(bottom: str, top: str, outputs: int, said: str = "", more: str = "") -> str:
    """An InnerProduct that is named as its top."""
    said = f"inner_product_param {{ num_output: {outputs} {said} {FILLED} }} {more}"
    return layer(top, "InnerProduct", bottom, top, said)


def dropout(blob: str) -> str:
    """A Dropout in place."""
    return layer(f"{blob}_drop", "Dropout", blob, blob, "dropout_param { dropout_ratio: 0.4 }")


def data(crop: int) -> str:
    """A data layer for each phase, with batches of their own."""
    return "".join(
        layer(
            "data",
            "Data",
            "",
            "data label",
            f"include {{ phase: {phase} }} transform_param {{ crop_size: {crop} mirror: true }} "
            f'data_param {{ source: "lmdb" batch_size: {batch} backend: LMDB }}',
        )
        for phase, batch in (("TRAIN", 32), ("TEST", 10))
    )


def ends(scores: str) -> str:
    """Loss and, in phase TEST, accuracy."""
    both = f"{scores} label"
    return layer("loss", "SoftmaxWithLoss", both, "loss") + layer(
        "accuracy", "Accuracy", both, "accuracy", "include { phase: TEST }"
    )


def caffenet() -> str:
    """LRN, groups, `lr_mult`, Dropout; data layers become inputs."""
    rates = "param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }"
    text = data(19) + conv("data", "conv1", 6, "kernel_size: 5 stride: 2", rates) + relu("conv1")
    text += pool("conv1", "pool1", "pool: MAX kernel_size: 3 stride: 2")
    text += layer("norm1", "LRN", "pool1", "norm1", "lrn_param { local_size: 5 alpha: 0.0001 }")
    text += conv("norm1", "conv2", 8, "kernel_size: 3 pad: 1 group: 2 engine: CUDNN") + relu(
        "conv2"
    )
    return (
        text
        + inner("conv2", "fc6", 8)
        + relu("fc6")
        + dropout("fc6")
        + inner("fc6", "fc8", 5)
        + ends("fc8")
    )


def googlenet() -> str:
    """An inception, and three losses with weights; names with slashes."""
    text = data(14)
    x = "data"
    for number, weight in (("1", 0.3), ("2", 0.3), ("3", 1.0)):
        name = f"inc{number}"
        text += conv(x, f"{name}/1x1", 3, "kernel_size: 1") + relu(f"{name}/1x1")
        text += conv(x, f"{name}/3x3", 3, "kernel_size: 3 pad: 1") + relu(f"{name}/3x3")
        text += pool(x, f"{name}/pool", "pool: MAX kernel_size: 3 stride: 1 pad: 1")
        x = f"{name}/output"
        text += layer(x, "Concat", f"{name}/1x1 {name}/3x3 {name}/pool", x)
        text += pool(x, f"loss{number}/pool", "pool: AVE kernel_size: 5 stride: 3")
        text += inner(f"loss{number}/pool", f"loss{number}/classifier", 4)
        both = f"loss{number}/classifier label"
        text += layer(
            f"loss{number}/loss", "SoftmaxWithLoss", both, f"loss{number}/loss{number}",
            f"loss_weight: {weight}",
        )  # fmt: skip
    return text


def vgg() -> str:
    """In the syntax before: `layers`, types in capitals, blobs_lr."""
    new = data(9) + conv("data", "conv1_1", 4, "kernel_size: 3 pad: 1") + relu("conv1_1")
    new += conv("conv1_1", "conv1_2", 4, "kernel_size: 3 pad: 1") + relu("conv1_2")
    new += pool("conv1_2", "pool1", "pool: MAX kernel_size: 2 stride: 2")
    new += inner("pool1", "fc6", 6, "", "blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0")
    new += relu("fc6") + dropout("fc6") + inner("fc6", "fc8", 5) + ends("fc8")
    old = {
        "Convolution": "CONVOLUTION",
        "InnerProduct": "INNER_PRODUCT",
        "ReLU": "RELU",
        "Pooling": "POOLING",
        "Dropout": "DROPOUT",
        "SoftmaxWithLoss": "SOFTMAX_LOSS",
        "Accuracy": "ACCURACY",
        "Data": "DATA",
    }
    for kind, name in old.items():
        new = new.replace(f'type: "{kind}"', f"type: {name}")
    return new.replace("layer {", "layers {")


def squeezenet() -> str:
    """Fire modules, global pooling, `input_dim`."""
    text = 'input: "data" input_dim: 10 input_dim: 3 input_dim: 12 input_dim: 12\n'
    text += conv("data", "squeeze1x1", 3, "kernel_size: 1 stride: 2") + relu("squeeze1x1")
    text += conv("squeeze1x1", "expand1x1", 4, "kernel_size: 1") + relu("expand1x1")
    text += conv("squeeze1x1", "expand3x3", 4, "kernel_size: 3 pad: 1") + relu("expand3x3")
    text += layer("concat", "Concat", "expand1x1 expand3x3", "concat") + dropout("concat")
    text += conv("concat", "conv10", 5, "kernel_size: 1") + relu("conv10")
    text += pool("conv10", "pool10", "pool: AVE global_pooling: true")
    return text + layer("prob", "Softmax", "pool10", "prob")


def mobilenet() -> str:
    """Depthwise Convolutions, BatchNorm and Scale in place, statistics by phase."""
    text = input_layer("data", 2, 3, 9, 9)
    text += conv("data", "conv1/dw", 3, "kernel_size: 3 pad: 1 group: 3 bias_term: false")
    text += norm("conv1/dw", "eps: 0.001") + relu("conv1/dw")
    text += conv("conv1/dw", "conv1/sep", 6, "kernel_size: 1 bias_term: false")
    for phase, stored in (("TRAIN", "false"), ("TEST", "true")):
        said = f"include {{ phase: {phase} }} batch_norm_param {{ use_global_stats: {stored} }}"
        text += layer("sep_bn", "BatchNorm", "conv1/sep", "conv1/sep", said)
    text += relu("conv1/sep") + pool("conv1/sep", "pool6", "pool: AVE kernel_size: 9")
    return text + inner("pool6", "fc7", 5) + layer("prob", "Softmax", "fc7", "prob")


def densenet() -> str:
    """Each layer reads all before; no loss."""
    text = input_layer("data", 2, 4, 7, 7)
    x = "data"
    for number in range(2):
        bn, top = f"bn{number}", f"conv{number}"
        text += layer(bn, "BatchNorm", x, bn) + layer(f"{bn}_scale", "Scale", bn, bn) + relu(bn)
        text += conv(bn, top, 3, "kernel_size: 3 pad: 1 bias_term: false") + dropout(top)
        text += layer(f"concat{number}", "Concat", f"{x} {top}", f"concat{number}")
        x = f"concat{number}"
    return text


def lstm() -> str:
    """A captioner: Embed, an LSTM with `cont` and a static input, a loss over places."""
    text = "".join(input_layer(name, 4, 3) for name in ("cont", "words", "target"))
    text += input_layer("features", 3, 5)
    said = 'num_output: 4 weight_filler { type: "uniform" min: -0.5 max: 0.5 }'
    text += layer("embed", "Embed", "words", "embed", f"embed_param {{ input_dim: 7 {said} }}")
    both = f"recurrent_param {{ {said} }}"
    text += layer("lstm1", "LSTM", "embed cont features", "lstm1", both)
    text += inner("lstm1", "predict", 7, "axis: 2")
    return text + layer(
        "loss", "SoftmaxWithLoss", "predict target", "loss",
        "loss_weight: 20 loss_param { ignore_label: 3 } softmax_param { axis: 2 }",
    )  # fmt: skip


def python() -> str:
    """Caffe's example of a loss in Python, over weights that are frozen and a cut gradient."""
    text = input_layer("x", 10, 3, 2) + input_layer("y", 10, 3, 2)
    text += inner("x", "ipx", 4, "", "param { lr_mult: 0 } param { lr_mult: 1 }")
    text += inner("y", "ipy", 4, "transpose: true") + layer("cut", "ReLU", "ipy", "cut")
    text += inner("cut", "ipz", 4, "", "propagate_down: false")
    return text + layer(
        "loss", "Python", "ipx ipz", "loss",
        'loss_weight: 1 python_param { module: "pyloss" layer: "EuclideanLossLayer" }',
    )  # fmt: skip


def only_accuracy() -> str:
    """A net whose loss is of phase TRAIN alone, so that nothing in TEST has a gradient to give."""
    text = data(6) + inner("data", "fc", 4)
    text += layer("accuracy", "Accuracy", "fc label", "accuracy", "include { phase: TEST }")
    return text + layer("loss", "SoftmaxWithLoss", "fc label", "loss", "include { phase: TRAIN }")


def corners() -> str:
    """A bias that a BatchNorm takes out, labels that are sliced, constants, Filter, Silence."""
    text = input_layer("data", 4, 3, 5, 5) + input_layer("labels", 4, 2) + input_layer("sel", 4)
    text += layer("parts", "Slice", "labels", "one two")
    said = "shape { dim: 2 dim: 3 dim: 5 dim: 5 } data_filler { value: 0.5 }"
    text += layer("half", "DummyData", "", "half", f"dummy_data_param {{ {said} }}").replace(
        "dim: 2", "dim: 4"
    )
    text += layer("prod", "Eltwise", "data half", "prod", "eltwise_param { operation: PROD }")
    text += conv("prod", "conv", 4, "kernel_size: 3") + norm("conv") + relu("conv")
    text += inner("conv", "f1", 3) + inner("conv", "class", 2)  # a word of Python's
    text += layer("loss1", "SoftmaxWithLoss", "f1 one", "loss1")
    text += layer("loss2", "SoftmaxWithLoss", "class two", "loss2", "loss_weight: 0.5")
    text += layer("kept", "Filter", "f1 sel", "kept") + layer("quiet", "Silence", "kept", "")
    return text


def names() -> str:
    """Layers without a name or of one name, inputs that are no word of Python's, constant labels.

    One Input layer makes both inputs, of one shape, and not in the alphabet's order.
    """
    text = layer("in", "Input", "", "x-2 x-1", "input_param { shape { dim: 2 dim: 6 } }")
    said = "shape { dim: 2 } data_filler { value: 1 }"
    text += layer("label", "DummyData", "", "label", f"dummy_data_param {{ {said} }}")
    text += layer("sum", "Eltwise", "x-2 x-1", "sum", "eltwise_param { coeff: 2 coeff: -1 }")
    text += inner("sum", "fc", 4)
    text += layer("", "ReLU", "fc", "fc") + inner("fc", "out", 4) + layer("", "TanH", "out", "h")
    text += inner("h", "out2", 4).replace("out2", "__out", 1)
    text += layer("loss", "SoftmaxWithLoss", "out2 label", "loss")
    text += layer("loss", "EuclideanLoss", "h fc", "l2", "loss_weight: 0.5")
    return text.replace('name: "" ', "")


def samples() -> str:
    """Indices of samples, of which a few are not enough; scores without an axis of classes."""
    text = input_layer("data", 4, 3) + input_layer("index", 6) + input_layer("label", 4)
    text += layer("again", "BatchReindex", "data index", "again") + inner("data", "fc", 1)
    text += layer("flat", "Flatten", "fc", "flat", "flatten_param { axis: 0 }")
    return text + layer("loss", "HingeLoss", "flat label", "loss")


def silenced() -> str:
    """A deploy net that ends in a Silence, and in a file."""
    text = input_layer("data", 2, 3, 5, 5) + conv("data", "conv", 4, "kernel_size: 3")
    text += layer("file", "HDF5Output", "conv", "", 'hdf5_output_param { file_name: "x.h5" }')
    return text + layer("quiet", "Silence", "conv data", "")


def mnist() -> str:
    """Data layers that say no shape, but whose it is, with other batches in each phase."""
    text = data(28).replace("crop_size: 28", "").replace('"lmdb"', '"examples/mnist_train_lmdb"')
    text += conv("data", "conv1", 2, "kernel_size: 5 stride: 3") + inner("conv1", "ip2", 5)
    return text + ends("ip2")


def preactivated() -> str:
    """A Scale of 1 whose gradient each BatchNorm behind takes out, as DenseNet's first."""
    text = input_layer("data", 2, 3, 16, 16) + conv("data", "conv1", 4, "kernel_size: 3")
    text += norm("conv1") + relu("conv1") + pool("conv1", "pool1", "pool: MAX kernel_size: 2")
    for name, x in (("one", "pool1"), ("two", "both")):
        text += layer(f"{name}_bn", "BatchNorm", x, f"{name}_bn") + relu(f"{name}_bn")
        text += conv(f"{name}_bn", name, 3, "kernel_size: 1 bias_term: false")
        text += layer("cat", "Concat", "pool1 one", "both") if name == "one" else ""
    return text + inner("two", "fc", 3)


def averaged() -> str:
    """An average over large maps: the gradients behind it are alike, and their sums drift.

    Places of a maximum that stands several times; a squeeze and excitation of one sample.
    """
    text = input_layer("data", 1, 3, 32, 64) + conv("data", "conv", 4, "kernel_size: 3 pad: 1")
    text += relu("conv") + layer("spp", "SPP", "conv", "spp", "spp_param { pyramid_height: 3 }")
    text += layer("place", "ArgMax", "spp", "place") + conv("conv", "up", 4, "kernel_size: 1")
    text += norm("up") + pool("up", "squeeze", "pool: AVE global_pooling: true")
    text += conv("squeeze", "excite", 4, "kernel_size: 1") + layer(
        "prob", "Sigmoid", "excite", "prob"
    )
    text += layer("weights", "Flatten", "prob", "weights")
    text += layer("scaled", "Scale", "up weights", "scaled", "scale_param { axis: 0 }")
    text += layer("sum", "Eltwise", "scaled conv", "sum")
    return text + pool("sum", "pool", "pool: AVE global_pooling: true") + inner("pool", "fc", 3)


def saturated() -> str:
    """Residuals whose statistics are not of their batch: drawn ones let values grow with depth."""
    msra = 'weight_filler { type: "msra" } bias_term: false'
    text = input_layer("data", 2, 3, 6, 6) + conv("data", "x0", 4, "kernel_size: 3")
    for number in range(11):
        name, x = f"conv{number}", f"x{number}"
        said = f"convolution_param {{ num_output: 4 kernel_size: 1 {msra} }}"
        text += layer(name, "Convolution", x, name, said) + norm(name, "use_global_stats: true")
        text += layer(f"x{number + 1}", "Eltwise", f"{x} {name}", f"x{number + 1}")
    return text + inner("x11", "fc", 5) + layer("prob", "Softmax", "fc", "prob")


def triplet() -> str:
    """Branches that share their parameters, and a margin: the biases cancel."""
    text = "".join(input_layer(name, 4, 3, 5, 5) for name in ("anchor", "near", "far"))
    for name in ("anchor", "near", "far"):
        names = 'param { name: "w" } param { name: "b" }'
        text += inner(name, f"{name}_f", 4, "", names)
    for name in ("near", "far"):
        both = f"anchor_f {name}_f"
        said = "eltwise_param { operation: SUM coeff: 1 coeff: -1 }"
        text += layer(f"{name}_d", "Eltwise", both, f"{name}_d", said)
        said = "reduction_param { operation: SUMSQ axis: 1 }"
        text += layer(f"{name}_s", "Reduction", f"{name}_d", f"{name}_s", said)
    said = "eltwise_param { operation: SUM coeff: 1 coeff: -1 }"
    text += layer("gap", "Eltwise", "near_s far_s", "gap", said)
    text += layer("margin", "Power", "gap", "margin", "power_param { shift: 4 }") + relu("margin")
    said = "loss_weight: 1 reduction_param { operation: MEAN }"
    return text + layer("loss", "Reduction", "margin", "loss", said)


NETS: dict[str, Callable[[], str]] = {
    each.__name__: each
    for each in (
        *(caffenet, googlenet, vgg, squeezenet, mobilenet, densenet, lstm, python),
        *(only_accuracy, corners, names, silenced, samples, mnist, preactivated),
        *(averaged, saturated, triplet),
    )
}
"""By name, what makes the text; those of studies/localise/nets stand beside them."""


def unknown(kinds: Sequence[tuple[str, str]]) -> str:
    """A net with layers of types that Caffe has not, one behind the other: type and message."""
    text = input_layer("data", 2, 4, 6, 6) + conv("data", "x0", 4, "kernel_size: 1")
    for number, (kind, said) in enumerate(kinds):
        text += layer(f"odd{number}", kind, f"x{number}", f"x{number + 1}", said)
    return text + inner(f"x{len(kinds)}", "fc", 3)
