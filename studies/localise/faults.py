"""Faults of ports, one or two at a time: what is broken, and which layers must be named for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from studies.localise.between import between
from studies.localise.edits import (
    ALL,
    BACKWARD,
    BOTH,
    FORWARD,
    PARAMETER,
    Edit,
    Fault,
    after,
    before,
    changed,
    fault,
    instead,
    put,
    rewritten,
    slope,
)
from studies.localise.more import more
from studies.localise.ports import Lstm

BATCHES = 1 / (1 - float(torch.tensor(0.999)))
"""How many batches the sums of a BatchNorm's statistics come to, of `moving_average_fraction`."""


def faults() -> Iterator[Fault]:
    """All of them."""
    yield from _of_lenet()
    yield from _of_resnet()
    yield from _of_inception()
    yield from _of_fcn()
    yield from _of_siamese()
    yield from _of_autoencoder()
    yield from _of_lstm()
    yield from more()
    yield from between()


def _of_lenet() -> Iterator[Fault]:
    yield fault(
        "lenet", "pooling rounds down", "pool1", FORWARD, "ceil", changed("pool1", ceil_mode=False)
    )
    yield fault(
        "lenet",
        "a pooling window is too small",
        "pool1",
        BOTH,
        "kernel_size",
        put("pool1", lambda m: nn.MaxPool2d(2, 2, ceil_mode=True)),
    )
    yield fault(
        "lenet",
        "average for maximum",
        "pool1",
        BOTH,
        "type of pooling",
        put("pool1", lambda m: nn.AvgPool2d(3, 2, ceil_mode=True)),
    )
    yield fault(
        "lenet",
        "padding is not counted",
        "pool2",
        BOTH,
        "count_include_pad",
        changed("pool2", count_include_pad=False),
    )
    yield fault(
        "lenet",
        "groups are forgotten",
        "conv2;parameters conv2",
        "forward backward parameters",
        "groups",
        put("conv2", lambda m: nn.Conv2d(6, 8, 3, padding=1)),
    )
    yield fault(
        "lenet",
        "another slope",
        "relu1",
        BOTH,
        "negative_slope",
        changed("relu1", negative_slope=0.01),
    )
    yield fault(
        "lenet", "no bias", "conv1", "forward", "without the bias", instead("conv1", _no_bias)
    )
    yield fault(
        "lenet",
        "a bias that is frozen",
        "ip1",
        PARAMETER,
        "is 0 everywhere",
        instead("ip1", lambda m, x: functional.linear(x, m.weight, m.bias.detach())),
    )
    yield fault(
        "lenet",
        "a weight that is frozen",
        "conv2",
        PARAMETER,
        "is 0 everywhere",
        instead("conv2", lambda m, x: m._conv_forward(x, m.weight.detach(), m.bias)),
    )
    yield fault(
        "lenet",
        "the loss is a sum",
        "loss",
        BOTH,
        "4",
        put("loss", lambda m: nn.CrossEntropyLoss(reduction="sum")),
    )
    yield fault(
        "lenet",
        "labels are smoothed",
        "loss",
        BOTH,
        "loss",
        put("loss", lambda m: nn.CrossEntropyLoss(label_smoothing=0.1)),
    )
    yield fault("lenet", "detached", "pool2", BACKWARD, "detached", before("pool2", Tensor.detach))
    yield fault(
        "lenet", "twice the gradient", "relu1", BACKWARD, "twice", before("relu1", slope(2.0))
    )
    yield fault(
        "lenet",
        "half precision",
        "ip2",
        ALL,
        "bits",
        after("ip2", lambda y: y.to(torch.bfloat16).to(y)),
    )
    yield fault(
        "lenet",
        "two at once",
        "pool1;relu1",
        BOTH,
        "negative_slope",
        lambda m: (changed("pool1", ceil_mode=False)(m), changed("relu1", negative_slope=0.2)(m))[
            0
        ],
    )
    yield fault(
        "lenet",
        "flattened the wrong way",
        "ip1",
        ALL,
        "channels last",
        before("ip1", _channels_last),
    )
    yield fault(
        "lenet",
        "the ratio that is kept",
        "drop1",
        BOTH,
        "Dropout has p 0.7, Caffe's Dropout 0.3",
        changed("drop1", p=0.7),
        "TRAIN",
    )
    yield fault(
        "lenet",
        "whole channels are dropped",
        "drop1",
        "dropout",
        "Dropout1d has what it drops: channels",
        put("drop1", lambda m: nn.Dropout1d(0.3)),
        "TRAIN",
    )
    yield fault(
        "lenet",
        "an input of 0 to 1",
        "conv1",
        f"{FORWARD} {BACKWARD} {PARAMETER}",
        "of 0 to 255",
        before("conv1", lambda x: x / 255),
    )
    yield fault("lenet", "a sign", "ip2", ALL, "sign", after("ip2", torch.neg))


def _no_bias(module: Any, x: Tensor) -> Tensor:
    made: Tensor = module._conv_forward(x, module.weight, module.bias - module.bias.detach())
    return made


def _channels_last(x: Tensor) -> Tensor:
    moved: Tensor = x.reshape(len(x), 8, 3, 3).permute(0, 2, 3, 1).flatten(1)
    return moved


def _of_resnet() -> Iterator[Fault]:
    yield fault("resnet", "eps", "bn_conv1", ALL, "eps", changed("bn_conv1", eps=1e-2))
    yield fault(
        "resnet",
        "another momentum",
        "bn_conv1",
        "statistics",
        "momentum 0.01",
        changed("bn_conv1", momentum=0.01),
    )
    yield fault("resnet", "RGB", "conv1", ALL, "BGR, not RGB", before("conv1", lambda x: x.flip(1)))
    yield fault(
        "resnet",
        "frozen statistics",
        "bn_conv1",
        f"{ALL} statistics",
        "use_global_stats true",
        instead("bn_conv1", _frozen),
    )
    yield fault(
        "resnet",
        "the Scale's bias is forgotten",
        "scale_conv1",
        FORWARD,
        "without the bias",
        instead("bn_conv1", _no_shift),
    )
    yield fault(
        "resnet",
        "a coefficient of Eltwise is ignored",
        "res2a",
        BOTH,
        "eltwise_param.coeff left out",
        changed("", coefficient=1.0),
    )
    yield fault(
        "resnet",
        "running statistics",
        "bn2a_branch2a",
        ALL,
        "variance over m - 1",
        instead("bn2a_branch2a", _unbiased),
    )
    yield fault("resnet", "stride", "conv1", FORWARD, "stride", changed("conv1", stride=(1, 1)))
    yield fault("resnet", "padding of another kind", "res2a_branch2a", ALL, "", _reflect)
    yield fault(
        "resnet",
        "a maximum for the mean",
        "pool5",
        BOTH,
        "pooling_param.pool MAX",
        put("pool5", lambda m: nn.AdaptiveMaxPool2d(1)),
    )
    yield fault(
        "resnet",
        "the wrong branch",
        "conv1_relu -> res2a_branch1",
        "wiring",
        "mul(1.5), and Caffe's net nothing",
        _wrong_branch,
    )
    yield fault(
        "resnet", "half of the gradient", "fc", BACKWARD, "half of", before("fc", slope(0.5))
    )
    yield fault(
        "resnet",
        "the other sign of the gradient",
        "pool5",
        BACKWARD,
        "sign",
        before("pool5", slope(-1.0)),
    )
    yield fault(
        "resnet",
        "log of the probabilities",
        "prob",
        BOTH,
        "the logarithm of what a Softmax makes",
        rewritten(("softmax(1)", "softmax(1).log()")),
    )
    yield fault(
        "resnet",
        "a relu that is missing",
        "conv1_relu",
        BOTH,
        "without the layer conv1_relu",
        rewritten(
            (
                "functional.relu(self.bn_conv1(self.conv1(data)))",
                "self.bn_conv1(self.conv1(data))",
            )
        ),
    )
    yield fault(
        "resnet",
        "no weights behind the statistics",
        "bn_conv1, scale_conv1",
        FORWARD,
        "0.25 too much",
        after("bn_conv1", lambda y: y + 0.25),
    )


def _frozen(module: Any, x: Tensor) -> Tensor:
    mean, variance = module.running_mean, module.running_var
    return functional.batch_norm(
        x, mean, variance, module.weight, module.bias, False, 0.1, module.eps
    )


def _no_shift(module: Any, x: Tensor) -> Tensor:
    bias: Tensor = module.bias
    return nn.BatchNorm2d.forward(module, x) - bias.detach().reshape(1, -1, 1, 1)


def _unbiased(module: Any, x: Tensor) -> Tensor:
    mean, variance = x.detach().mean((0, 2, 3)), x.detach().var((0, 2, 3))
    return functional.batch_norm(
        x, mean, variance, module.weight, module.bias, False, 0.1, module.eps
    )


def _reflect(model: nn.Module) -> None:
    module: Any = model.get_submodule("res2a_branch2a")
    module.padding_mode = "reflect"
    module._reversed_padding_repeated_twice = [1, 1, 1, 1]


def _wrong_branch(model: nn.Module) -> None:
    model.get_submodule("res2a_branch1").register_forward_pre_hook(
        lambda m, args: (args[0] * 1.5,), prepend=True
    )


def _of_inception() -> Iterator[Fault]:
    for name, value in (("alpha", 0.2), ("alpha", 1.8), ("beta", 0.5), ("k", 1.0), ("size", 5)):
        yield fault(
            "inception",
            f"norm0 {name} {value}",
            "norm0",
            BOTH,
            name,
            changed("norm0", **{name: value}),
        )
    yield fault(
        "inception",
        "pooling without padding",
        "inc/pool",
        FORWARD,
        "padding",
        put("inc_pool", lambda m: nn.MaxPool2d(3, 1)),
    )
    yield fault(
        "inception",
        "a padded 1x1",
        "inc/1x1",
        FORWARD,
        "padding",
        changed("inc_1x1", padding=(1, 1)),
    )
    yield fault(
        "inception",
        "detached",
        "inc/proj",
        BACKWARD,
        "detached",
        before("inc_proj", Tensor.detach),
    )
    yield fault(
        "inception", "dilated", "inc/3x3", FORWARD, "dilation", changed("inc_3x3", dilation=(2, 2))
    )
    yield fault(
        "inception",
        "the auxiliary loss has another weight",
        "total aux/loss",
        "total",
        "the loss weight of aux/loss is 0.3, the port adds it with 0.5",
        rewritten(("0.3 * aux", "0.5 * aux")),
    )
    yield fault(
        "inception",
        "the pooling is too wide",
        "aux/pool",
        FORWARD,
        "kernel",
        changed("aux_pool", kernel_size=4),
    )
    yield fault(
        "inception",
        "branches in another order",
        "inc/output",
        BOTH,
        "in the order inc/1x1, inc/proj, inc/3x3",
        rewritten(("cat(parts", "cat([parts[0], parts[2], parts[1]]")),
    )
    yield fault(
        "inception", "stride of the pooling", "pool2", FORWARD, "stride", changed("pool2", stride=3)
    )
    yield fault(
        "inception",
        "weights of the auxiliary branch are frozen",
        "aux/fc",
        PARAMETER,
        "is 0 everywhere",
        instead("aux_fc", lambda m, x: functional.linear(x, m.weight.detach(), m.bias)),
    )
    yield fault(
        "inception",
        "the auxiliary loss is a sum",
        "aux/loss",
        BOTH,
        "3",
        put("aux_loss", lambda m: nn.CrossEntropyLoss(reduction="sum")),
    )
    yield fault(
        "inception",
        "two losses wrong",
        "aux/loss;loss",
        BOTH,
        "",
        lambda m: (
            put("aux_loss", lambda m: nn.CrossEntropyLoss(label_smoothing=0.2))(m),
            put("loss", lambda m: nn.CrossEntropyLoss(label_smoothing=0.2))(m),
        )[0],
    )
    yield fault(
        "inception",
        "a relu with a slope",
        "inc/relu_1x1",
        BOTH,
        "relu_param.negative_slope 0.1",
        rewritten(("self.inc_1x1(x).relu()", "functional.leaky_relu(self.inc_1x1(x), 0.1)")),
    )


def _of_fcn() -> Iterator[Fault]:
    yield fault(
        "fcn", "the crop's offset", "crop", BOTH, "crop in the middle", changed("", offset=3)
    )
    yield fault(
        "fcn",
        "labels are not ignored",
        "loss",
        BOTH,
        "ignore_label left out",
        changed("loss", ignore_index=-100),
    )
    yield fault(
        "fcn", "no dilation", "score", FORWARD, "dilation", changed("score", dilation=(1, 1))
    )
    yield fault(
        "fcn", "one slope for all channels", "prelu1", ALL, "", instead("prelu1", _one_slope)
    )
    yield fault(
        "fcn",
        "statistics that are not divided",
        "bn1",
        BOTH,
        "third blob",
        instead("bn1", lambda m, x: _normalised(m, x, BATCHES, False)),
    )
    yield fault(
        "fcn",
        "statistics of the batch",
        "bn1",
        BOTH,
        "use_global_stats false",
        instead("bn1", lambda m, x: _normalised(m, x, 1.0, True)),
    )
    yield fault(
        "fcn",
        "a mean over ignored labels, too",
        "loss",
        BOTH,
        "divided by 162 = N*H*W = 2*H*W, as with normalization FULL",
        instead("loss", _over_all),
    )
    yield fault(
        "fcn",
        "the pooling overlaps",
        "pool1",
        FORWARD,
        "kernel_size",
        changed("pool1", kernel_size=3),
    )
    yield fault(
        "fcn",
        "the deconvolution is padded",
        "upscore",
        FORWARD,
        "padding",
        changed("upscore", padding=(1, 1)),
    )
    yield fault("fcn", "detached", "score", BACKWARD, "detached", before("score", Tensor.detach))
    yield fault(
        "fcn",
        "half of it",
        "loss",
        BOTH,
        "divided by 200 = 2*the labels",
        after("loss", lambda y: y * 0.5),
    )
    yield fault(
        "fcn",
        "a gradient that is clipped",
        "upscore",
        BACKWARD,
        "cut off at",
        before("upscore", _Clipped.apply),
    )


class _Clipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0].clamp(-1e-4, 1e-4)


def _normalised(module: Any, x: Tensor, batches: float, by_batch: bool) -> Tensor:
    mean, variance = module.running_mean.clone(), module.running_var.clone()
    return functional.batch_norm(
        x, mean * batches, variance * batches, None, None, by_batch, 0.1, module.eps
    )


def _over_all(module: Any, x: Tensor, label: Tensor) -> Tensor:
    each = functional.cross_entropy(x, label, ignore_index=2, reduction="none")
    made: Tensor = each.mean()
    return made


def _one_slope(module: Any, x: Tensor) -> Tensor:
    return functional.prelu(x, module.weight.mean().reshape(1) * 1.1)


def _of_siamese() -> Iterator[Fault]:
    yield fault(
        "siamese",
        "another margin",
        "loss",
        BOTH,
        "contrastive_loss_param.margin 2",
        changed("loss", margin=2.0),
    )
    yield fault(
        "siamese",
        "alpha of the ELU",
        "act;act_p",
        BOTH,
        "alpha",
        put("act", lambda m: nn.ELU(1.0)),
    )
    yield fault(
        "siamese",
        "no epsilon in the gradient",
        "loss",
        BACKWARD,
        "without the 1e-4",
        changed("loss", least=0.0),
    )
    yield fault(
        "siamese",
        "one branch is not learned from",
        "conv",
        PARAMETER,
        "",
        instead("conv", _half_shared),
    )
    yield fault(
        "siamese",
        "the legacy formula",
        "loss",
        BOTH,
        "legacy_version true",
        instead("loss", _legacy),
    )


def _half_shared(module: Any, x: Tensor) -> Tensor:
    module.calls = getattr(module, "calls", 0) + 1
    weight, bias = module.weight, module.bias
    if module.calls % 2 == 0:
        weight, bias = weight.detach(), bias.detach()
    return functional.conv2d(x, weight, bias)


def _legacy(module: Any, a: Tensor, b: Tensor, sim: Tensor) -> Tensor:
    square = (a - b).square().sum(1)
    apart = (module.margin - square).clamp(min=0)
    loss: Tensor = (sim * square + (1 - sim) * apart).sum() / (2 * len(a))
    return loss


def _of_autoencoder() -> Iterator[Fault]:
    yield fault(
        "autoencoder",
        "the mean of all elements",
        "entropy",
        BOTH,
        "divided by 35 = all elements",
        put("entropy", lambda m: nn.BCEWithLogitsLoss()),
    )
    yield fault(
        "autoencoder", "not halved", "l2", BOTH, "the half is missing", after("l2", lambda y: 2 * y)
    )
    yield fault(
        "autoencoder",
        "the shift of Power",
        "power",
        BOTH,
        "power_param.shift 1",
        changed("", shift=1.0),
    )
    yield fault(
        "autoencoder",
        "relu for the sigmoid",
        "squash",
        BOTH,
        "what a ReLU makes",
        put("squash", lambda m: nn.ReLU()),
    )
    yield fault("autoencoder", "a hard tanh", "out", BOTH, "", put("out", lambda m: nn.Hardtanh()))
    yield fault(
        "autoencoder",
        "two at once",
        "squash;l2",
        BOTH,
        "",
        lambda m: (put("squash", lambda m: nn.ReLU())(m), after("l2", lambda y: 2 * y)(m))[0],
    )


def _of_lstm() -> Iterator[Fault]:
    yield fault(
        "lstm",
        "Caffe's gates as they are",
        "lstm",
        ALL,
        "order i, f, g, o",
        _with_step(_as_they_are),
    )
    yield fault("lstm", "sequences go on", "lstm", ALL, "begin anew", instead("lstm", _goes_on))
    yield fault("lstm", "the outputs are the states", "rnn", ALL, "", instead("rnn", _states))
    yield fault(
        "lstm",
        "the forget gate is frozen",
        "lstm",
        PARAMETER,
        "of the gates i, f, o, g in f",
        _with_step(_frozen_gate),
    )
    yield fault(
        "lstm",
        "a ratio as a function",
        "drop",
        BOTH,
        "dropout_ratio 0.5",
        changed("", ratio=0.5),
        "TRAIN",
    )


def _with_step(function: Callable[..., tuple[Tensor, Tensor]]) -> Edit:
    def edit(model: Any) -> None:
        model.lstm.step = MethodType(function, model.lstm)

    return edit


def _cell(
    cell: Any, x: Tensor, h: Tensor, c: Tensor, change: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """What an LSTMCell computes with other parameters."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    changed = {name: change(getattr(cell, name)) for name in names}
    made: tuple[Tensor, Tensor] = torch.func.functional_call(cell, changed, (x, (h, c)))
    return made


def _as_they_are(module: Any, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    def caffes(value: Tensor) -> Tensor:
        i, f, g, o = value.chunk(4)
        return torch.cat([i, f, o, g])

    return _cell(module.cell, x, h, c, caffes)


def _frozen_gate(module: Any, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    def frozen(value: Tensor) -> Tensor:
        i, f, g, o = value.chunk(4)
        return torch.cat([i, f.detach(), g, o])

    return _cell(module.cell, x, h, c, frozen)


def _goes_on(module: Any, data: Tensor, cont: Tensor) -> Tensor:
    return Lstm.forward(module, data, torch.ones_like(cont))


def _states(module: Any, data: Tensor, cont: Tensor) -> Tensor:
    h = data.new_zeros(data.shape[1], 3)
    outputs = []
    for x, keep in zip(data, cont.unsqueeze(-1), strict=True):
        h = module.cell(x, keep * h)
        outputs.append(h)
    return torch.stack(outputs)
