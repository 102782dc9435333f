"""Faults of ports, one or two at a time: what is broken, and which layers must be named for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from studies.localise.ports import Lstm, ResNet

Edit = Callable[[Any], None]


@dataclass(frozen=True)
class Fault:
    """A mistake in a port.

    Attributes:
        net: the net's name.
        name: what is wrong, in a few words.
        edit: breaks a right port.
        layers: those that must be named, and no other ones.
        passes: where it shows: "forward", "backward", "parameter", "wiring".
        words: what the explanation must contain.
        phase: "TEST" or "TRAIN".
    """

    net: str
    name: str
    edit: Edit
    layers: frozenset[str]
    passes: frozenset[str]
    words: str
    phase: str = "TEST"


def _set(path: str, **values: Any) -> Edit:
    """Sets attributes of a module, or of the port itself for ""."""

    def edit(model: nn.Module) -> None:
        target = model.get_submodule(path)
        for name, value in values.items():
            setattr(target, name, value)

    return edit


def _put(path: str, make: Callable[[nn.Module], nn.Module]) -> Edit:
    """Puts another module in the place of one."""

    def edit(model: nn.Module) -> None:
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, make(model.get_submodule(path)))

    return edit


def _bind(module: nn.Module, forward: Callable[..., Tensor]) -> None:
    """Gives a module another forward, which a copy of it has as its own; it gets the module."""
    module.forward = MethodType(forward, module)


def _after(path: str, function: Callable[[Tensor], Tensor]) -> Edit:
    """Changes what a module gives."""

    def edit(model: nn.Module) -> None:
        kind = type(model.get_submodule(path))
        _bind(model.get_submodule(path), lambda self, *args: function(kind.forward(self, *args)))

    return edit


def _before(path: str, function: Callable[[Tensor], Tensor]) -> Edit:
    """Changes what a module takes, inside it."""

    def edit(model: nn.Module) -> None:
        kind = type(model.get_submodule(path))
        _bind(
            model.get_submodule(path),
            lambda self, x, *more: kind.forward(self, function(x), *more),
        )

    return edit


class _Slope(torch.autograd.Function):
    """The identity, whose gradient is a factor times what it should be."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return ctx.factor * grads[0], None


def slope(factor: float) -> Callable[[Tensor], Tensor]:
    """The identity with another gradient."""
    return lambda x: _Slope.apply(x, factor)  # type: ignore[no-untyped-call]


def _instead(path: str, function: Callable[..., Tensor]) -> Edit:
    """Computes something else in a module, which the function gets beside what the module takes."""
    return lambda model: _bind(model.get_submodule(path), function)


FORWARD, BACKWARD, PARAMETER = "forward", "backward", "parameter"
BOTH = f"{FORWARD} {BACKWARD}"
ALL = f"{FORWARD} {BACKWARD} {PARAMETER}"

BATCHES = 1 / (1 - float(torch.tensor(0.999)))
"""How many batches the sums of a BatchNorm's statistics come to, of `moving_average_fraction`."""


def _fault(
    net: str, name: str, layers: str, passes: str, words: str, edit: Edit, phase: str = "TEST"
) -> Fault:
    return Fault(
        net, name, edit, frozenset(layers.split(";")), frozenset(passes.split()), words, phase
    )


def faults() -> Iterator[Fault]:
    """All of them."""
    yield from _of_lenet()
    yield from _of_resnet()
    yield from _of_inception()
    yield from _of_fcn()
    yield from _of_siamese()
    yield from _of_autoencoder()
    yield from _of_lstm()


def _of_lenet() -> Iterator[Fault]:
    yield _fault(
        "lenet", "pooling rounds down", "pool1", FORWARD, "ceil", _set("pool1", ceil_mode=False)
    )
    yield _fault(
        "lenet",
        "a pooling window is too small",
        "pool1",
        BOTH,
        "kernel_size",
        _put("pool1", lambda m: nn.MaxPool2d(2, 2, ceil_mode=True)),
    )
    yield _fault(
        "lenet",
        "average for maximum",
        "pool1",
        BOTH,
        "type of pooling",
        _put("pool1", lambda m: nn.AvgPool2d(3, 2, ceil_mode=True)),
    )
    yield _fault(
        "lenet",
        "padding is not counted",
        "pool2",
        BOTH,
        "count_include_pad",
        _set("pool2", count_include_pad=False),
    )
    yield _fault(
        "lenet",
        "groups are forgotten",
        "conv2;parameters conv2",
        "forward backward parameters",
        "groups",
        _put("conv2", lambda m: nn.Conv2d(6, 8, 3, padding=1)),
    )
    yield _fault(
        "lenet",
        "another slope",
        "relu1",
        BOTH,
        "negative_slope",
        _set("relu1", negative_slope=0.01),
    )
    yield _fault(
        "lenet", "no bias", "conv1", "forward", "without the bias", _instead("conv1", _no_bias)
    )
    yield _fault(
        "lenet",
        "a bias that is frozen",
        "ip1",
        PARAMETER,
        "is 0 everywhere",
        _instead("ip1", lambda m, x: functional.linear(x, m.weight, m.bias.detach())),
    )
    yield _fault(
        "lenet",
        "a weight that is frozen",
        "conv2",
        PARAMETER,
        "is 0 everywhere",
        _instead("conv2", lambda m, x: m._conv_forward(x, m.weight.detach(), m.bias)),
    )
    yield _fault(
        "lenet",
        "the loss is a sum",
        "loss",
        BOTH,
        "4",
        _put("loss", lambda m: nn.CrossEntropyLoss(reduction="sum")),
    )
    yield _fault(
        "lenet",
        "labels are smoothed",
        "loss",
        BOTH,
        "loss",
        _put("loss", lambda m: nn.CrossEntropyLoss(label_smoothing=0.1)),
    )
    yield _fault(
        "lenet", "detached", "pool2", BACKWARD, "detached", _before("pool2", Tensor.detach)
    )
    yield _fault(
        "lenet", "twice the gradient", "relu1", BACKWARD, "twice", _before("relu1", slope(2.0))
    )
    yield _fault(
        "lenet",
        "half precision",
        "ip2",
        FORWARD,
        "bits",
        _after("ip2", lambda y: y.to(torch.bfloat16).to(y)),
    )
    yield _fault(
        "lenet",
        "two at once",
        "pool1;relu1",
        BOTH,
        "negative_slope",
        lambda m: (_set("pool1", ceil_mode=False)(m), _set("relu1", negative_slope=0.2)(m))[0],
    )
    yield _fault(
        "lenet",
        "flattened the wrong way",
        "ip1",
        ALL,
        "channels last",
        _before("ip1", _channels_last),
    )
    yield _fault(
        "lenet",
        "the ratio that is kept",
        "drop1",
        BOTH,
        "Dropout has p 0.7, Caffe's Dropout 0.3",
        _set("drop1", p=0.7),
        "TRAIN",
    )
    yield _fault(
        "lenet",
        "whole channels are dropped",
        "drop1",
        "dropout",
        "Dropout1d has what it drops: channels",
        _put("drop1", lambda m: nn.Dropout1d(0.3)),
        "TRAIN",
    )
    yield _fault(
        "lenet",
        "an input of 0 to 1",
        "conv1",
        f"{FORWARD} {BACKWARD} {PARAMETER}",
        "of 0 to 255",
        _before("conv1", lambda x: x / 255),
    )
    yield _fault("lenet", "a sign", "ip2", ALL, "sign", _after("ip2", torch.neg))


def _no_bias(module: Any, x: Tensor) -> Tensor:
    made: Tensor = module._conv_forward(x, module.weight, module.bias - module.bias.detach())
    return made


def _channels_last(x: Tensor) -> Tensor:
    moved: Tensor = x.reshape(len(x), 8, 3, 3).permute(0, 2, 3, 1).flatten(1)
    return moved


def _of_resnet() -> Iterator[Fault]:
    yield _fault("resnet", "eps", "bn_conv1", ALL, "eps", _set("bn_conv1", eps=1e-2))
    yield _fault(
        "resnet",
        "another momentum",
        "bn_conv1",
        "statistics",
        "momentum 0.01",
        _set("bn_conv1", momentum=0.01),
    )
    yield _fault(
        "resnet", "RGB", "conv1", ALL, "BGR, not RGB", _before("conv1", lambda x: x.flip(1))
    )
    yield _fault(
        "resnet",
        "frozen statistics",
        "bn_conv1",
        f"{ALL} statistics",
        "use_global_stats true",
        _instead("bn_conv1", _frozen),
    )
    yield _fault(
        "resnet",
        "the Scale's bias is forgotten",
        "scale_conv1",
        FORWARD,
        "without the bias",
        _instead("bn_conv1", _no_shift),
    )
    yield _fault(
        "resnet",
        "a coefficient of Eltwise is ignored",
        "res2a",
        BOTH,
        "eltwise_param.coeff left out",
        _set("", coefficient=1.0),
    )
    yield _fault(
        "resnet",
        "running statistics",
        "bn2a_branch2a",
        ALL,
        "variance over m - 1",
        _instead("bn2a_branch2a", _unbiased),
    )
    yield _fault("resnet", "stride", "conv1", FORWARD, "stride", _set("conv1", stride=(1, 1)))
    yield _fault("resnet", "padding of another kind", "res2a_branch2a", ALL, "", _reflect)
    yield _fault(
        "resnet",
        "a maximum for the mean",
        "pool5",
        BOTH,
        "pooling_param.pool MAX",
        _put("pool5", lambda m: nn.AdaptiveMaxPool2d(1)),
    )
    yield _fault(
        "resnet", "the wrong branch", "res2a_branch1", "wiring", "something else", _wrong_branch
    )
    yield _fault(
        "resnet", "half of the gradient", "fc", BACKWARD, "half of", _before("fc", slope(0.5))
    )
    yield _fault(
        "resnet",
        "the other sign of the gradient",
        "pool5",
        BACKWARD,
        "sign",
        _before("pool5", slope(-1.0)),
    )
    yield _fault(
        "resnet",
        "log of the probabilities",
        "prob",
        BOTH,
        "the logarithm of what a Softmax makes",
        _instead("", _log),
    )
    yield _fault(
        "resnet",
        "a relu that is missing",
        "conv1_relu",
        BOTH,
        "without the layer conv1_relu",
        _instead("", _no_relu),
    )
    yield _fault(
        "resnet",
        "no weights behind the statistics",
        "bn_conv1, scale_conv1",
        FORWARD,
        "0.25 too much",
        _after("bn_conv1", lambda y: y + 0.25),
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


def _log(model: Any, data: Tensor) -> Tensor:
    return ResNet.forward(model, data).log()


def _no_relu(model: Any, data: Tensor) -> Tensor:
    model.train()
    x = model.bn_conv1(model.conv1(data))
    y = model.bn2a_branch2a(model.res2a_branch2a(x))
    x = functional.relu(model.res2a_branch1(x) + 0.5 * y)
    probabilities: Tensor = model.fc(model.pool5(x).flatten(1)).softmax(1)
    return probabilities


def _of_inception() -> Iterator[Fault]:
    for name, value in (("alpha", 0.2), ("alpha", 1.8), ("beta", 0.5), ("k", 1.0), ("size", 5)):
        yield _fault(
            "inception",
            f"norm0 {name} {value}",
            "norm0",
            BOTH,
            name,
            _set("norm0", **{name: value}),
        )
    yield _fault(
        "inception",
        "pooling without padding",
        "inc/pool",
        FORWARD,
        "padding",
        _put("inc_pool", lambda m: nn.MaxPool2d(3, 1)),
    )
    yield _fault(
        "inception", "a padded 1x1", "inc/1x1", FORWARD, "padding", _set("inc_1x1", padding=(1, 1))
    )
    yield _fault(
        "inception",
        "detached",
        "inc/proj",
        BACKWARD,
        "detached",
        _before("inc_proj", Tensor.detach),
    )
    yield _fault(
        "inception", "dilated", "inc/3x3", FORWARD, "dilation", _set("inc_3x3", dilation=(2, 2))
    )
    yield _fault(
        "inception",
        "the auxiliary loss has another weight",
        "total aux/loss",
        "total",
        "the loss weight of aux/loss is 0.3, the port adds it with 0.5",
        _instead("", _another_weight),
    )
    yield _fault(
        "inception",
        "the pooling is too wide",
        "aux/pool",
        FORWARD,
        "kernel",
        _set("aux_pool", kernel_size=4),
    )
    yield _fault(
        "inception",
        "branches in another order",
        "inc/output",
        BOTH,
        "in the order inc/1x1, inc/proj, inc/3x3",
        _instead("", _another_order),
    )
    yield _fault(
        "inception", "stride of the pooling", "pool2", FORWARD, "stride", _set("pool2", stride=3)
    )
    yield _fault(
        "inception",
        "weights of the auxiliary branch are frozen",
        "aux/fc",
        PARAMETER,
        "is 0 everywhere",
        _instead("aux_fc", lambda m, x: functional.linear(x, m.weight.detach(), m.bias)),
    )
    yield _fault(
        "inception",
        "the auxiliary loss is a sum",
        "aux/loss",
        BOTH,
        "3",
        _put("aux_loss", lambda m: nn.CrossEntropyLoss(reduction="sum")),
    )
    yield _fault(
        "inception",
        "two losses wrong",
        "aux/loss;loss",
        BOTH,
        "",
        lambda m: (
            _put("aux_loss", lambda m: nn.CrossEntropyLoss(label_smoothing=0.2))(m),
            _put("loss", lambda m: nn.CrossEntropyLoss(label_smoothing=0.2))(m),
        )[0],
    )
    yield _fault(
        "inception",
        "a relu with a slope",
        "inc/relu_1x1",
        BOTH,
        "relu_param.negative_slope 0.1",
        _instead("", _leaky),
    )


def _joined(model: Any, data: Tensor, label: Tensor, parts: Sequence[Tensor]) -> Tensor:
    x = torch.cat(list(parts), 1)
    aux = model.aux_loss(model.aux_fc(model.aux_pool(x).flatten(1)), label.long())
    loss: Tensor = model.loss(model.fc(model.pool2(x).flatten(1)), label.long()) + 0.3 * aux
    return loss


def _another_weight(model: Any, data: Tensor, label: Tensor) -> Tensor:
    x = model.norm0(data)
    one, three = model.inc_1x1(x).relu(), model.inc_3x3(x).relu()
    x = torch.cat([one, three, model.inc_proj(model.inc_pool(x))], 1)
    aux = model.aux_loss(model.aux_fc(model.aux_pool(x).flatten(1)), label.long())
    loss: Tensor = model.loss(model.fc(model.pool2(x).flatten(1)), label.long()) + 0.5 * aux
    return loss


def _another_order(model: Any, data: Tensor, label: Tensor) -> Tensor:
    x = model.norm0(data)
    one, three = model.inc_1x1(x).relu(), model.inc_3x3(x).relu()
    return _joined(model, data, label, [one, model.inc_proj(model.inc_pool(x)), three])


def _leaky(model: Any, data: Tensor, label: Tensor) -> Tensor:
    x = model.norm0(data)
    one = functional.leaky_relu(model.inc_1x1(x), 0.1)
    three = model.inc_3x3(x).relu()
    return _joined(model, data, label, [one, three, model.inc_proj(model.inc_pool(x))])


def _of_fcn() -> Iterator[Fault]:
    yield _fault("fcn", "the crop's offset", "crop", BOTH, "crop in the middle", _set("", offset=3))
    yield _fault(
        "fcn",
        "labels are not ignored",
        "loss",
        BOTH,
        "ignore_label left out",
        _set("loss", ignore_index=-100),
    )
    yield _fault("fcn", "no dilation", "score", FORWARD, "dilation", _set("score", dilation=(1, 1)))
    yield _fault(
        "fcn", "one slope for all channels", "prelu1", ALL, "", _instead("prelu1", _one_slope)
    )
    yield _fault(
        "fcn",
        "statistics that are not divided",
        "bn1",
        BOTH,
        "third blob",
        _instead("bn1", lambda m, x: _normalised(m, x, BATCHES, False)),
    )
    yield _fault(
        "fcn",
        "statistics of the batch",
        "bn1",
        BOTH,
        "use_global_stats false",
        _instead("bn1", lambda m, x: _normalised(m, x, 1.0, True)),
    )
    yield _fault(
        "fcn",
        "a mean over ignored labels, too",
        "loss",
        BOTH,
        "loss_param.normalization FULL",
        _instead("loss", _over_all),
    )
    yield _fault(
        "fcn", "the pooling overlaps", "pool1", FORWARD, "kernel_size", _set("pool1", kernel_size=3)
    )
    yield _fault(
        "fcn",
        "the deconvolution is padded",
        "upscore",
        FORWARD,
        "padding",
        _set("upscore", padding=(1, 1)),
    )
    yield _fault("fcn", "detached", "score", BACKWARD, "detached", _before("score", Tensor.detach))
    yield _fault("fcn", "over the batch", "loss", BOTH, "1/2", _after("loss", lambda y: y * 0.5))
    yield _fault(
        "fcn",
        "a gradient that is clipped",
        "upscore",
        BACKWARD,
        "cut off at",
        _before("upscore", _Clipped.apply),
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
    yield _fault(
        "siamese",
        "another margin",
        "loss",
        BOTH,
        "contrastive_loss_param.margin 2",
        _set("loss", margin=2.0),
    )
    yield _fault(
        "siamese",
        "alpha of the ELU",
        "act;act_p",
        BOTH,
        "alpha",
        _put("act", lambda m: nn.ELU(1.0)),
    )
    yield _fault(
        "siamese",
        "no epsilon in the gradient",
        "loss",
        BACKWARD,
        "without the 1e-4",
        _set("loss", least=0.0),
    )
    yield _fault(
        "siamese",
        "one branch is not learned from",
        "conv",
        PARAMETER,
        "",
        _instead("conv", _half_shared),
    )
    yield _fault(
        "siamese",
        "the legacy formula",
        "loss",
        BOTH,
        "legacy_version true",
        _instead("loss", _legacy),
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
    yield _fault(
        "autoencoder",
        "the mean of all elements",
        "entropy",
        BOTH,
        "averaged over the channels, not summed",
        _put("entropy", lambda m: nn.BCEWithLogitsLoss()),
    )
    yield _fault("autoencoder", "not halved", "l2", BOTH, "twice", _after("l2", lambda y: 2 * y))
    yield _fault(
        "autoencoder",
        "the shift of Power",
        "power",
        BOTH,
        "power_param.shift 1",
        _set("", shift=1.0),
    )
    yield _fault(
        "autoencoder",
        "relu for the sigmoid",
        "squash",
        BOTH,
        "what a ReLU makes",
        _put("squash", lambda m: nn.ReLU()),
    )
    yield _fault(
        "autoencoder", "a hard tanh", "out", BOTH, "", _put("out", lambda m: nn.Hardtanh())
    )
    yield _fault(
        "autoencoder",
        "two at once",
        "squash;l2",
        BOTH,
        "",
        lambda m: (_put("squash", lambda m: nn.ReLU())(m), _after("l2", lambda y: 2 * y)(m))[0],
    )


def _of_lstm() -> Iterator[Fault]:
    yield _fault(
        "lstm",
        "Caffe's gates as they are",
        "lstm",
        ALL,
        "order i, f, g, o",
        _with_step(_as_they_are),
    )
    yield _fault("lstm", "sequences go on", "lstm", ALL, "begin anew", _instead("lstm", _goes_on))
    yield _fault("lstm", "the outputs are the states", "rnn", ALL, "", _instead("rnn", _states))
    yield _fault(
        "lstm",
        "the forget gate is frozen",
        "lstm",
        PARAMETER,
        "of the gates i, f, o, g in f",
        _with_step(_frozen_gate),
    )
    yield _fault(
        "lstm",
        "a ratio as a function",
        "drop",
        BOTH,
        "dropout_ratio 0.5",
        _set("", ratio=0.5),
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
