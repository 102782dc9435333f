"""Faults of a port that is written in functions: on the way between layers, too."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from studies.localise.edits import ALL, BACKWARD, BOTH, FORWARD, PARAMETER, Fault, fault, rewritten

FLAT = "x.flatten(1)"
POOLED = "functional.max_pool2d(x, 3, 2, ceil_mode=True)"
LABELS = "label.long()"
LRN = "functional.local_response_norm(x, 5, alpha=0.1, beta=0.75)"
DROPOUT = "functional.dropout(x, 0.3, self.training)"
HOOKED = "\n    x.register_hook(lambda gradient: 2 * gradient)"

LAST = "x.permute(0, 2, 3, 1).flatten(1)"
AVERAGED = "functional.avg_pool2d(x, 3, 2, ceil_mode=True)"
SUMMED = "functional.cross_entropy(x, label.long(), reduction='sum')"
BOTH_SLICES = "one, other = both[:, :4], both[:, 4:]"

ANOTHER_ORDER, NOTHING = "arrive in another order", "and Caffe's net nothing"


def between() -> Iterator[Fault]:
    """All of them."""
    of = partial(fault, "caffenet")
    for name, layers, passes, words, *changes in CAFFENET:
        yield of(name, layers, passes, words, rewritten(*changes))
    for name, layers, passes, words, *changes in IN_TRAIN:
        yield of(name, layers, passes, words, rewritten(*changes), "TRAIN")
    for name, layers, passes, words, *changes in BLOCK_IN_TRAIN:
        yield fault("block", name, layers, passes, words, rewritten(*changes), "TRAIN")
    for name, layers, passes, words, *changes in BLOCK:
        yield fault("block", name, layers, passes, words, rewritten(*changes))


CAFFENET = (
    (
        "channels last",
        "pool5 -> fc6",
        BOTH,
        "channels last",
        (FLAT, "x.permute(0, 2, 3, 1).flatten(1)"),
    ),
    ("H and W", "pool5 -> fc6", BOTH, ANOTHER_ORDER, (FLAT, "x.transpose(2, 3).flatten(1)")),
    (
        "half",
        "conv2 -> relu2",
        BOTH,
        "half, float",
        ("self.conv2(x)", "self.conv2(x).half().float()"),
    ),
    (
        "half by name",
        "conv2 -> relu2",
        BOTH,
        "to(torch.float16)",
        ("self.conv2(x)", "self.conv2(x).to(torch.float16).to(torch.float32)"),
    ),
    ("bfloat16", "pool5 -> fc6", BOTH, "bfloat16", (FLAT, "x.flatten(1).bfloat16().float()")),
    (
        "autocast",
        "conv3",
        ALL,
        "under torch.autocast, in bfloat16",
        (
            "x = functional.relu(self.conv3(x))",
            "with torch.autocast('cpu', torch.bfloat16): x = self.conv3(x)\n"
            "    x = functional.relu(x.float())",
        ),
    ),
    (
        "a trunk without gradients",
        "gradients conv1, relu1",
        "gradients",
        "without gradients",
        (
            "x = functional.relu(self.conv1(data))",
            "with torch.no_grad(): x = functional.relu(self.conv1(data))",
        ),
    ),
    (
        "a hook behind a ReLU",
        "relu2 -> conv3",
        BACKWARD,
        "a hook on the gradient",
        ("x = functional.relu(self.conv2(x))", "x = functional.relu(self.conv2(x))" + HOOKED),
    ),
    (
        "a hook behind a convolution",
        "conv2 -> relu2",
        BACKWARD,
        "a hook on the gradient",
        (
            "x = functional.relu(self.conv2(x))",
            "x = self.conv2(x)" + HOOKED + "\n    x = functional.relu(x)",
        ),
    ),
    ("detached", "pool5 -> fc6", BACKWARD, "detach", (FLAT, "x.flatten(1).detach()")),
    ("labels from the end", "loss", BOTH, "the classes are reversed", (LABELS, "4 - label.long()")),
    (
        "samples of labels",
        "loss",
        BOTH,
        "samples of label reversed",
        (LABELS, "label.long().flip(0)"),
    ),
    ("no labels", "loss", BOTH, "0 for each label", (LABELS, "torch.zeros_like(label).long()")),
    (
        "another axis",
        "loss",
        BOTH,
        "a softmax over axis 0",
        ("functional.cross_entropy(x, ", "functional.nll_loss(x.log_softmax(0), "),
    ),
    ("unit length", "norm1", BOTH, "functional.normalize", (LRN, "functional.normalize(x)")),
    ("a narrow LRN", "norm1", BOTH, "lrn_param.local_size 3", ("norm(x, 5", "norm(x, 3")),
    (
        "the LRN before the ReLU",
        "relu1, norm1",
        BOTH,
        "norm1 (LRN) before relu1 (ReLU)",
        ("x = functional.relu(self.conv1(data))", "x = self.conv1(data)"),
        (LRN, f"functional.relu({LRN})"),
    ),
    (
        "means taken off again",
        "conv1",
        "wiring",
        "-104, -117, -123 added",
        ("self.conv1(data)", "self.conv1(data - torch.tensor([104.0, 117, 123]).view(1, 3, 1, 1))"),
    ),
    (
        "convolutions the other way round",
        "conv3;conv4",
        f"{ALL} wiring",
        "computes it with conv4.weight",
        ("self.conv3(x)", "self.last(x)"),
        ("self.conv4(x)", "self.conv3(x)"),
        ("self.last(x)", "self.conv4(x)"),
    ),
    (
        "one convolution twice",
        "conv4",
        f"{BOTH} wiring",
        "computes it with conv3.weight",
        ("self.conv4(x)", "self.conv3(x)"),
    ),
    (
        "square weights transposed",
        "fc7",
        ALL,
        "weights transposed",
        ("self.fc7(x)", "functional.linear(x, self.fc7.weight.t(), self.fc7.bias)"),
    ),
    (
        "axes of the weights",
        "conv3",
        ALL,
        "first two axes swapped",
        (
            "self.conv3(x)",
            "functional.conv2d(x, self.conv3.weight.transpose(0, 1), self.conv3.bias, padding=1)",
        ),
    ),
    (
        "dilated",
        "conv3",
        ALL,
        "dilation 2, convolution_param.pad 2",
        (
            "self.conv3(x)",
            "functional.conv2d(x, self.conv3.weight, self.conv3.bias, padding=2, dilation=2)",
        ),
    ),
    (
        "mirrored padding",
        "conv3",
        ALL,
        "padding_mode reflect",
        (
            "self.conv3(x)",
            "functional.conv2d(functional.pad(x, (1, 1, 1, 1), mode='reflect'), "
            "self.conv3.weight, self.conv3.bias)",
        ),
    ),
    ("rounded down", "pool5", FORWARD, "ceil", (", ceil_mode=True", "")),
    ("a small window", "pool5", BOTH, "kernel_size 2", (POOLED, "functional.max_pool2d(x, 2, 2)")),
    (
        "channels apart",
        "conv2 -> relu2",
        BOTH,
        ANOTHER_ORDER,
        ("self.conv2(x)", "self.conv2(x).roll(2, 1)"),
    ),
    (
        "always dropped",
        "drop6",
        "dropout",
        "drops in phase TEST",
        (DROPOUT, "functional.dropout(x, 0.3)"),
    ),
    (
        "a ReLU too many",
        "fc8 -> loss",
        BOTH,
        NOTHING,
        ("self.fc8(x)", "functional.relu(self.fc8(x))"),
    ),
    (
        "twice the weights",
        "fc7",
        ALL,
        "",
        ("self.fc7(x)", "functional.linear(x, 2 * self.fc7.weight, self.fc7.bias)"),
    ),
    (
        "two, far apart",
        "relu3;pool5 -> fc6",
        BOTH,
        "without the layer relu3",
        ("functional.relu(self.conv3(x))", "self.conv3(x)"),
        (FLAT, "x.permute(0, 2, 3, 1).flatten(1)"),
    ),
    (
        "a ReLU less, and channels last",
        "relu4;pool5 -> fc6",
        BOTH,
        "without the layer relu4",
        ("functional.relu(self.conv4(x))", "self.conv4(x)"),
        (FLAT, LAST),
    ),
    (
        "an average, and channels last",
        "pool5;pool5 -> fc6",
        BOTH,
        "pooling_param.pool AVE",
        (POOLED, AVERAGED),
        (FLAT, LAST),
    ),
    (
        "an average, and half",
        "pool5;pool5 -> fc6",
        BOTH,
        "the port has half, float",
        (POOLED, AVERAGED),
        (FLAT, "x.flatten(1).half().float()"),
    ),
    (
        "another slope, and shifted",
        "relu1;norm1 -> conv2",
        BOTH,
        "relu_param.negative_slope 0.1",
        ("functional.relu(self.conv1(data))", "functional.leaky_relu(self.conv1(data), 0.1)"),
        ("self.conv2(x)", "self.conv2(x.roll(1, 3))"),
    ),
    (
        "a narrow LRN, and half",
        "norm1;norm1 -> conv2",
        BOTH,
        "lrn_param.local_size 3",
        ("norm(x, 5", "norm(x, 3"),
        ("self.conv2(x)", "self.conv2(x.half().float())"),
    ),
    (
        "no ReLU, and detached",
        "relu6;fc6 -> relu6",
        BOTH,
        "the port has detach",
        ("functional.relu(self.fc6(x.flatten(1)))", "self.fc6(x.flatten(1))"),
        ("functional.dropout(x", "functional.dropout(x.detach()"),
    ),
    (
        "another slope, and an average",
        "relu4;pool5",
        BOTH,
        "relu_param.negative_slope 0.1",
        ("functional.relu(self.conv4(x))", "functional.leaky_relu(self.conv4(x), 0.1)"),
        (POOLED, AVERAGED),
    ),
    (
        "no ReLU, and an average",
        "relu4, pool5",
        BOTH,
        "without the layer relu4 (ReLU), and is as with pooling_param.pool AVE",
        ("functional.relu(self.conv4(x))", "self.conv4(x)"),
        (POOLED, AVERAGED),
    ),
    (
        "a hook where a gradient is required",
        "relu2 -> conv3",
        BACKWARD,
        "a hook on the gradient",
        (
            "x = functional.relu(self.conv2(x))",
            "x = functional.relu(self.conv2(x))\n    if x.requires_grad: " + HOOKED.strip(),
        ),
    ),
    (
        "weights times a number",
        "conv3",
        ALL,
        "the weights times 0.471405",
        (
            "self.conv3(x)",
            "functional.conv2d(x, self.conv3.weight * (2 / 9) ** 0.5, self.conv3.bias, padding=1)",
        ),
    ),
    ("another alpha", "norm1", BOTH, "lrn_param.alpha 0.077", ("alpha=0.1", "alpha=0.077")),
    (
        "a sum without its weight",
        "loss",
        BOTH,
        "is a sum, not divided",
        ("0.7 * functional.cross_entropy(x, label.long())", SUMMED),
    ),
    ("another weight of the loss", "total loss", "total", "adds it with 0.5", ("0.7 *", "0.5 *")),
)
"""Of each: what is wrong, the layers, the passes, words, and what becomes what in the forward."""

IN_TRAIN = (
    ("never dropped", "drop6", "dropout", "drops nothing", (DROPOUT, "x")),
    ("kept for dropped", "drop6", BOTH, "dropout_ratio 0.7", ("x, 0.3,", "x, 0.7,")),
)

BLOCK_IN_TRAIN = (
    (
        "a small eps",
        "bn2",
        ALL,
        "batch_norm_param.eps 1e-09",
        (
            "self.bn2(self.conv2a(x))",
            "functional.batch_norm(self.conv2a(x), self.bn2.running_mean, self.bn2.running_var, "
            "self.bn2.weight, self.bn2.bias, True, 1e-3, 1e-9)",
        ),
    ),
)

BLOCK = (
    (
        "the slices the other way round",
        "sl",
        BOTH,
        "the tops of sl in the order sl2, sl1",
        (BOTH_SLICES, "other, one = both[:, :8], both[:, 8:]"),
    ),
    (
        "a slice that begins later",
        "sl",
        BOTH,
        "sl1 begins at 1",
        (BOTH_SLICES, "one, other = both[:, 1:5], both[:, 4:]"),
    ),
    (
        "the slices, and half",
        "cat2 -> sl;sl",
        BOTH,
        "the port has half, float",
        (BOTH_SLICES, "other, one = both.half().float().split([8, 4], 1)"),
    ),
    (
        "padded on one side",
        "pool1",
        FORWARD,
        "padded by 0 before and 1 behind",
        (
            "functional.avg_pool2d(x, 3, 2, padding=1,",
            "functional.avg_pool2d(functional.pad(x, (0, 1, 0, 1)), 3, 2,",
        ),
    ),
    ("another coefficient", "sum2", BOTH, "coefficient 0.37 for", ("0.5 * x - y", "0.37 * x - y")),
    (
        "another ELU, and a sum",
        "elu3;sum3",
        BOTH,
        "elu_param.alpha 0.5",
        (
            "torch.maximum(one, functional.elu(self.conv3(other), 0.7))",
            "(one + functional.elu(self.conv3(other), 0.5))",
        ),
    ),
    (
        "eps behind the root",
        "bn2",
        BOTH,
        "eps behind the root",
        (
            "y = self.prelu2(self.bn2(self.conv2a(x)))",
            "def column(x): return x.reshape(1, -1, 1, 1)\n"
            "    y, bn = self.conv2a(x), self.bn2\n"
            "    y = (y - column(bn.running_mean)) / (column(bn.running_var).sqrt() + bn.eps)\n"
            "    y = self.prelu2(y * column(bn.weight) + column(bn.bias))",
        ),
    ),
    (
        "statistics of each sample",
        "bn2",
        ALL,
        "each sample's",
        (
            "self.bn2(self.conv2a(x))",
            "functional.instance_norm("
            "self.conv2a(x), weight=self.bn2.weight, bias=self.bn2.bias, eps=1e-3)",
        ),
    ),
    (
        "one slope",
        "prelu2",
        ALL,
        "the first slope for all channels",
        (
            "self.prelu2(self.bn2(self.conv2a(x)))",
            "functional.prelu(self.bn2(self.conv2a(x)), self.prelu2.weight[:1])",
        ),
    ),
    ("a coefficient", "sum2", BOTH, "coefficient 1 for pool1", ("0.5 * x - y", "x - y")),
    (
        "the order of the bottoms",
        "cat2",
        BOTH,
        "in the order",
        ("[0.5 * x - y, x]", "[x, 0.5 * x - y]"),
    ),
    ("a minimum", "sum3", BOTH, "the smallest of the bottoms", ("maximum", "minimum")),
    (
        "half on one branch",
        "pool1 -> conv2a",
        ALL,
        "half",
        ("self.conv2a(x)", "self.conv2a(x.half().float())"),
    ),
    (
        "shifted on one branch",
        "pool1 -> conv2a",
        "wiring",
        "roll",
        ("self.conv2a(x)", "self.conv2a(x.roll(1, 3))"),
    ),
    (
        "a hook before three",
        "pool1 -> conv2a, sum2, cat2",
        BACKWARD,
        "a hook on the gradient",
        (
            "    y = self.prelu2",
            "    x.register_hook(lambda gradient: 2 * gradient)\n    y = self.prelu2",
        ),
    ),
    (
        "a shortcut that is detached",
        "pool1 -> cat2",
        BACKWARD,
        "detach",
        ("- y, x]", "- y, x.detach()]"),
    ),
    ("rounded down", "pool1", FORWARD, "ceil", (", ceil_mode=True", "")),
    (
        "a bias that is not learned",
        "scale2 -> prelu2",
        "wiring",
        "sub, ",
        (
            "self.bn2(self.conv2a(x))",
            "(self.bn2(self.conv2a(x)) - self.bn2.bias.view(1, -1, 1, 1))",
        ),
    ),
    (
        "no bias",
        "fc",
        f"{FORWARD} {PARAMETER}",
        "without the bias",
        ("self.fc(x)", "functional.linear(x, self.fc.weight)"),
    ),
)
