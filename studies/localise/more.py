"""Further faults: of a port's forward, of its losses, and of functions in place of modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from studies.localise.edits import (
    ALL,
    BACKWARD,
    BOTH,
    FORWARD,
    PARAMETER,
    Edit,
    Fault,
    bound,
    changed,
    fault,
    instead,
    put,
    rewritten,
)
from studies.localise.ports import Contrastive, Lstm


def more() -> Iterator[Fault]:
    """All of them."""
    yield from _lenet()
    yield from _resnet()
    yield from _inception()
    yield from _others()


def _convolved(change: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda m, x: m._conv_forward(x, change(m.weight), m.bias)


def _crossed(change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Callable[..., Tensor]:
    return lambda m, x, label: functional.cross_entropy(*change(x, label))


def _lenet() -> Iterator[Fault]:
    of = partial(fault, "lenet")
    yield of(
        "padded on one side, with the module's weights",
        "conv2",
        ALL,
        "more of the padding before",
        rewritten(
            (
                "self.conv2(self.pool1(self.conv1(data)))",
                "functional.conv2d(functional.pad(self.pool1(self.conv1(data)), (2, 0, 2, 0)), "
                "self.conv2.weight, self.conv2.bias, groups=2)",
            )
        ),
    )
    yield of(
        "no activation",
        "relu1",
        BOTH,
        "without the layer",
        rewritten(("self.relu1(self.ip1(x.flatten(1)))", "self.ip1(x.flatten(1))")),
    )
    yield of("groups of another order", "conv2", ALL, "lie apart", instead("conv2", _interleaved))
    yield of(
        "a transposed weight",
        "ip2",
        ALL,
        "weights transposed",
        instead("ip2", lambda m, x: functional.linear(x, m.weight.reshape(10, 5).t(), m.bias)),
    )
    yield of(
        "a true convolution",
        "conv1",
        ALL,
        "180 degrees",
        instead("conv1", _convolved(lambda w: w.flip(2, 3))),
    )
    yield of(
        "H and W of the kernel",
        "conv1",
        ALL,
        "H and W swapped",
        instead("conv1", _convolved(lambda w: w.transpose(2, 3))),
    )
    yield of(
        "half of a weight's gradient",
        "conv1",
        PARAMETER,
        "half of",
        instead("conv1", _convolved(lambda w: (w + w.detach()) / 2)),
    )
    yield of(
        "frozen by requires_grad",
        "conv1",
        PARAMETER,
        "conv1.weight has requires_grad False",
        lambda m: m.conv1.weight.requires_grad_(requires_grad=False),
    )
    yield of(
        "standardised weights",
        "conv1",
        ALL,
        "conv1.weight goes through mean((1, 2, 3), keepdim=True), sub",
        instead("conv1", _convolved(lambda w: w - w.mean((1, 2, 3), keepdim=True))),
    )
    yield of(
        "a module's backward hook",
        "ip1 -> relu1",
        BACKWARD,
        "a hook on the gradient",
        lambda m: m.relu1.register_full_backward_hook(lambda module, sent, above: (2 * sent[0],)),
    )
    yield of(
        "padded more on one side",
        "pool2",
        BOTH,
        "padded by 0 before and 1 behind",
        instead(
            "pool2",
            lambda m, x: functional.avg_pool2d(
                functional.pad(x, (0, 1, 0, 1)), 3, 2, ceil_mode=True
            ),
        ),
    )
    yield of(
        "two softmaxes",
        "loss",
        BOTH,
        "a softmax before it",
        instead("loss", _crossed(lambda x, label: (x.softmax(1), label))),
    )
    yield of(
        "labels from 1",
        "loss",
        BOTH,
        "labels begin at 0",
        instead("loss", _crossed(lambda x, label: (x, (label + 1) % 5))),
    )
    yield of(
        "logarithms that are none",
        "loss",
        BOTH,
        "no softmax is taken",
        put("loss", lambda m: nn.NLLLoss()),
    )
    yield of(
        "only the first sample",
        "loss",
        BOTH,
        "",
        instead("loss", _crossed(lambda x, label: (x[:1], label[:1]))),
    )
    yield of(
        "no Dropout",
        "drop1",
        "dropout",
        "drops nothing",
        put("drop1", lambda m: nn.Identity()),
        "TRAIN",
    )
    yield of(
        "two poolings",
        "pool1;pool2",
        BOTH,
        "count_include_pad",
        lambda m: (
            changed("pool1", ceil_mode=False)(m),
            changed("pool2", count_include_pad=False)(m),
        )[0],
    )


def _interleaved(module: Any, x: Tensor) -> Tensor:
    x = x.reshape(len(x), 2, 3, *x.shape[2:]).transpose(1, 2).reshape(x.shape)
    return functional.conv2d(x, module.weight, module.bias, padding=1, groups=2)


def _resnet() -> Iterator[Fault]:
    of = partial(fault, "resnet")

    def added(words: str) -> Edit:
        return rewritten(("self.res2a_branch1(x) + self.coefficient * y", words))

    yield of(
        "a difference", "res2a", BOTH, "other sign for", added("self.res2a_branch1(x) - 0.5 * y")
    )
    yield of("a product", "res2a", BOTH, "the product", added("self.res2a_branch1(x) * y"))
    yield of(
        "a maximum",
        "res2a",
        BOTH,
        "operation MAX",
        added("torch.maximum(self.res2a_branch1(x), y)"),
    )
    yield of(
        "the coefficient of the other",
        "res2a",
        BOTH,
        "in the order",
        added("0.5 * self.res2a_branch1(x) + y"),
    )
    yield of(
        "a branch that is detached",
        "scale2a_branch2a -> res2a",
        BACKWARD,
        "detached",
        added("self.res2a_branch1(x) + 0.5 * y.detach()"),
    )
    yield of(
        "a relu in place too early",
        "res2a_branch1 -> res2a",
        BOTH,
        "the port has relu",
        added("self.res2a_branch1(x).relu_() + 0.5 * y"),
    )
    yield of(
        "a shortcut that is detached",
        "conv1_relu -> res2a_branch1",
        BACKWARD,
        "detached",
        rewritten(("res2a_branch1(x)", "res2a_branch1(x.detach())")),
    )
    yield of(
        "no relu behind the sum",
        "res2a_relu",
        BOTH,
        "without the layer",
        rewritten(("functional.relu(self.res2a_branch1(x)", "(self.res2a_branch1(x)")),
    )
    yield of(
        "a sum over the plane",
        "pool5",
        BOTH,
        "sum over a window",
        instead("pool5", lambda m, x: x.sum((2, 3), keepdim=True)),
    )
    yield of(
        "statistics that are stored",
        "bn_conv1;bn2a_branch2a",
        ALL,
        "use_global_stats true",
        rewritten(("self.train()", "self.eval()")),
    )


def _inception() -> Iterator[Fault]:
    of = partial(fault, "inception")
    yield of(
        "an auxiliary branch that is detached",
        "inc/output -> aux/pool",
        BACKWARD,
        "detached",
        rewritten(("self.aux_pool(x)", "self.aux_pool(x.detach())")),
    )
    yield of(
        "a branch that is detached",
        "inc/relu_1x1 -> inc/output",
        BACKWARD,
        "detached",
        rewritten(("self.inc_1x1(x).relu()", "self.inc_1x1(x).relu().detach()")),
    )
    yield of(
        "zeros for padding",
        "inc/pool",
        BOTH,
        "zeros for the padding",
        instead(
            "inc_pool", lambda m, x: functional.max_pool2d(functional.pad(x, (1, 1, 1, 1)), 3, 1)
        ),
    )
    yield of(
        "a loss that is not returned",
        "result aux/loss",
        "unmatched",
        "does not return it",
        rewritten(("main + 0.3 * aux", '{"loss": main}')),
    )
    yield of(
        "a loss that is detached",
        "total aux/loss",
        "total",
        "it is detached",
        rewritten(("0.3 * aux", "0.3 * aux.detach()")),
    )
    yield of(
        "a penalty in the loss",
        "total",
        "total",
        "to the net's losses",
        rewritten(("0.3 * aux", "0.3 * aux + 0.01")),
    )
    yield of(
        "no gradients at all",
        "gradients",
        "gradients",
        "without gradients",
        lambda m: bound(m, torch.no_grad()(type(m).forward)),
    )


def _others() -> Iterator[Fault]:
    yield fault(
        "autoencoder",
        "a hard sigmoid",
        "squash",
        BOTH,
        "Hardsigmoid",
        put("squash", lambda m: nn.Hardsigmoid()),
    )
    yield fault("autoencoder", "MSELoss", "l2", BOTH, "MSELoss", put("l2", lambda m: nn.MSELoss()))
    yield fault(
        "autoencoder",
        "the sum of squares",
        "l2",
        BOTH,
        "",
        put("l2", lambda m: nn.MSELoss(reduction="sum")),
    )
    yield fault("autoencoder", "L1Loss", "l2", BOTH, "L1Loss", put("l2", lambda m: nn.L1Loss()))
    yield fault(
        "autoencoder", "cubes", "power", BOTH, "power_param.power 3", rewritten(("** 2", "** 3"))
    )
    yield fault(
        "fcn",
        "the variance for its root",
        "bn1",
        BOTH,
        "for its root",
        instead("bn1", lambda m, x: _centred(m, x) / (_column(m.running_var) + m.eps)),
    )
    yield fault(
        "fcn",
        "no mean",
        "bn1",
        FORWARD,
        "without the mean",
        instead("bn1", lambda m, x: x / (_column(m.running_var) + m.eps).sqrt()),
    )
    yield fault(
        "fcn",
        "over the batch alone",
        "loss",
        BOTH,
        "normalization BATCH_SIZE",
        instead(
            "loss",
            lambda m, x, t: (
                functional.cross_entropy(x, t, ignore_index=2, reduction="sum") / len(x)
            ),
        ),
    )
    yield fault(
        "siamese",
        "the other meaning of alike",
        "loss",
        BOTH,
        "1 stands for alike",
        instead("loss", lambda m, a, b, s: Contrastive.forward(m, a, b, 1 - s)),
    )
    yield fault("siamese", "CELU", "act;act_p", BOTH, "CELU", put("act", lambda m: nn.CELU(0.8)))
    yield fault(
        "lstm",
        "backwards",
        "lstm",
        ALL,
        "backwards",
        instead("lstm", lambda m, x, c: Lstm.forward(m, x.flip(0), c.flip(0)).flip(0)),
    )
    yield fault(
        "lstm",
        "the batch first",
        "lstm",
        ALL,
        "batch first",
        instead("lstm", lambda m, x, c: Lstm.forward(m, x.transpose(0, 1), c.t()).transpose(0, 1)),
    )


def _column(x: Tensor) -> Tensor:
    return x.reshape(1, -1, 1, 1)


def _centred(module: Any, x: Tensor) -> Tensor:
    return x - _column(module.running_mean)
