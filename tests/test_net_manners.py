"""`parity net` on ports in the manner of public repositories: right ones and faults."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from caffe_parity.caffe.client import Caffe
from caffe_parity.cli.main import main
from tests.net_text import input_layer, layer

HEAD = """
import torch
from torch import nn
from torch.nn import functional as F

class Port(nn.Module):
    def __init__(self):
        super().__init__()
"""
XAVIER = 'weight_filler { type: "xavier" }'
FILLED = 'filler { type: "uniform" min: 0.5 max: 2 } bias_filler { type: "uniform" }'


def _ends(folder: Path, net: str, port: str, *options: str) -> int:
    (folder / "net.prototxt").write_text(net)
    (folder / "port.py").write_text(HEAD + port)
    return main(["net", "net.prototxt", "--port", "port.py:Port", *options])


def _conv(
    bottom: str, top: str, channels: int, rest: str = "kernel_size: 1", more: str = ""
) -> str:
    message = f"num_output: {channels} {rest} {XAVIER}"
    return layer("Convolution", bottom, top, f"convolution_param {{ {message} }} {more}")


def _dense(bottom: str, top: str, channels: int, more: str = "") -> str:
    message = f"inner_product_param {{ num_output: {channels} {XAVIER} }} {more}"
    return layer("InnerProduct", bottom, top, message)


CAPTIONS = """
        self.lstm = {lstm}
        self.static = nn.Linear(5, 12, bias=False)
        {more}

    def forward(self, x, cont, image):
        {made}
"""
STEPS = """h = c = x.new_zeros(2, 3)
        found = []
        for one, keep in zip(x, cont.unsqueeze(-1)):
            h = h * keep
            gates = {gates} + self.static(image)
            {order} = gates.chunk(4, 1)
            c = torch.sigmoid(f) * c * keep + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            found.append(h)
        return torch.stack(found)
"""


@pytest.mark.parametrize(
    ("port", "status", "words"),
    [
        (  # the parameters of a cell that is not called
            CAPTIONS.format(
                lstm="nn.LSTMCell(4, 3)",
                more="",
                made=STEPS.format(
                    gates="F.linear(one, self.lstm.weight_ih, self.lstm.bias_ih) + "
                    "F.linear(h, self.lstm.weight_hh, self.lstm.bias_hh)",
                    order="i, f, g, o",
                ),
            ),
            0,
            "matched by their names: LSTM-h[2] = static.weight",
        ),
        (  # which goes on with the output of another sequence
            CAPTIONS.format(
                lstm="nn.Linear(4, 12)",
                more="self.past = nn.Linear(3, 12, bias=False)",
                made=STEPS.format(
                    gates="self.lstm(one) + self.past(h)", order="i, f, o, g"
                ).replace("h = h * keep", "pass"),
            ),
            1,
            "is as where cont does not set the output to 0",
        ),
        (  # several modules, in Caffe's order of gates
            CAPTIONS.format(
                lstm="nn.Linear(4, 12)",
                more="self.past = nn.Linear(3, 12, bias=False)",
                made=STEPS.format(gates="self.lstm(one) + self.past(h)", order="i, f, o, g"),
            ),
            0,
            "matched by their shapes: LSTM-h[3] = past.weight",
        ),
        (  # the picture behind each word
            CAPTIONS.format(
                lstm="nn.LSTM(9, 3)",
                more="del self.static",
                made="y = torch.cat([x, image.expand(4, 2, 5)], 2); return self.lstm(y)[0]",
            ),
            0,
            "agrees",
        ),
        (
            CAPTIONS.format(
                lstm="nn.LSTM(9, 3)",
                more="del self.static",
                made="y = torch.cat([x, image.expand(4, 2, 5) * 2], 2); return self.lstm(y)[0]",
            ),
            1,
            "disagrees: LSTM-h",
        ),
    ],
    ids=["cell", "kept", "modules", "joined", "twice"],
)
def test_what_an_lstm_reads_once(
    caffe: Caffe,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    port: str,
    status: int,
    words: str,
) -> None:
    """A captioner's picture has weights of its own, or stands behind each step's input."""
    net = input_layer("x", 4, 2, 4) + input_layer("cont", 4, 2) + input_layer("image", 2, 5)
    fillers = f'{XAVIER} bias_filler {{ type: "uniform" }}'
    net += layer("LSTM", "x cont image", "h", f"recurrent_param {{ num_output: 3 {fillers} }}")
    kind = "binary" if "keep" in port else "constant:1"
    assert _ends(folder, net, port, "--data", f"cont={kind}", "--phase", "TRAIN") == status
    assert words in capsys.readouterr().out


ONE_BY_ONE = """
        for each in self.layers:
            x = torch.cat([x, each(x)], 1)
        return self.last(x)
"""
ALL_AT_ONCE = """
        found = [x]
        for each in self.layers:
            found.append(each(torch.cat(found, 1)))
        return self.last(torch.cat(found, 1))
"""


@pytest.mark.parametrize(
    ("joined", "old", "new", "last"),
    [
        (ONE_BY_ONE, "True", "False", "disagrees: Pooling-p, 9 comparisons"),
        (ALL_AT_ONCE, "", "", "agrees, 9 comparisons"),
        (
            ALL_AT_ONCE,
            "last(torch.cat(found, 1))",
            "last(torch.cat(found[::-1], 1))",
            "disagrees: C",
        ),
    ],
)
def test_what_a_dense_net_joins(
    caffe: Caffe,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    joined: str,
    old: str,
    new: str,
    last: str,
) -> None:
    """Every Concat reads what the one before has made; a port may join all that there is at once.

    A size that is wrong leaves what joins behind it alone.
    """
    net = input_layer("data", 2, 3, 6, 6) + _conv("data", "a", 4)
    net += layer("Pooling", "a", "p", "pooling_param { kernel_size: 3 stride: 2 }")
    for number, before in enumerate(("p", "c0", "c1")):
        net += _conv(before, f"d{number}", 4)
        net += layer("Concat", f"{before} d{number}", f"c{number}")
    net += _conv("c2", "e", 3)
    port = """
        self.first = nn.Conv2d(3, 4, 1)
        self.layers = nn.ModuleList(nn.Conv2d(4 * n, 4, 1) for n in (1, 2, 3))
        self.last = nn.Conv2d(16, 3, 1)

    def forward(self, data):
        x = F.max_pool2d(self.first(data), 3, 2, ceil_mode=True)
"""
    port = (port + joined.lstrip("\n")).replace(old or "none", new)
    assert _ends(folder, net, port, "--phase", "TEST") == (last[0] == "d")
    assert capsys.readouterr().out.splitlines()[-1].startswith(last)


AUXILIARY = """
        self.trunk, self.aux, self.head = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(5, 3)

    def forward(self, data, label):
        x, label = self.trunk(data), label.long()
        loss = F.cross_entropy(self.head(x), label)
        if self.training:
            loss = loss + {weight} * F.cross_entropy(self.aux(x), label)
        return loss
"""


@pytest.mark.parametrize(
    ("weight", "options", "status", "last"),
    [
        ("0.3", (), 2, "unproven: InnerProduct-b, SoftmaxWithLoss-side, 8 comparisons, "),
        ("0.3", ("side",), 0, "agrees, 8 comparisons, "),
        ("0.4", ("side",), 1, "disagrees: total side, "),
    ],
)
def test_a_loss_of_training_alone(
    caffe: Caffe,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    weight: str,
    options: tuple[str, ...],
    status: int,
    last: str,
) -> None:
    """What only it reads is left out with it, where the port has none; where it has, not."""
    net = input_layer("data", 4, 6) + input_layer("label", 4) + _dense("data", "a", 5)
    net += _dense("a", "b", 4) + layer("SoftmaxWithLoss", "b label", "side", "loss_weight: 0.3")
    net += _dense("a", "c", 3) + layer("SoftmaxWithLoss", "c label", "loss")
    words = [f"--leave-out=SoftmaxWithLoss-{each}" for each in options]
    words += ["--data", "label=int:0,2"]
    assert _ends(folder, net, AUXILIARY.format(weight=weight), *words) == status
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith(last)
    assert (", without SoftmaxWithLoss-side, " in said) == bool(options)


SHARED = """
        self.fc, self.last = nn.Linear(6, 5), nn.Linear(5, 2)

    def half(self, x, learn):
        w, b = self.fc.weight, self.fc.bias
        return self.last(F.relu(F.linear(x, *((w, b) if learn else (w.detach(), b.detach())))))

    def forward(self, left, right):
        return ((self.half(left, True) - self.half(right, {learn})) ** 2).sum() / 8
"""


@pytest.mark.parametrize(
    ("learn", "last"), [(True, "agrees"), (False, "disagrees: InnerProduct-a")]
)
def test_half_of_a_shared_gradient(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str], learn: bool, last: str
) -> None:
    """Caffe's layer alone has half of it as well, and that is not the port's excuse."""
    net = input_layer("left", 4, 6) + input_layer("right", 4, 6)
    for side, a, b in (("left", "a", "b"), ("right", "c", "d")):
        net += _dense(side, a, 5, 'param { name: "w" } param { name: "v" }')
        net += layer("ReLU", a, a)
        net += _dense(a, b, 2, 'param { name: "x" } param { name: "y" }')
    net += layer("EuclideanLoss", "b d", "loss")
    assert _ends(folder, net, SHARED.format(learn=learn), "--phase", "TRAIN") == (not learn)
    assert capsys.readouterr().out.splitlines()[-1].startswith(last)


HEADS = """
        self.conv, self.softmax = nn.Conv2d(3, 4, 1), nn.Softmax(dim={axis})

    def forward(self, data, label):
        y = self.conv(data)
        log, known = F.log_softmax(y, 1).permute(0, 2, 3, 1), label[:, 0] != 3
        with torch.no_grad():
            off = ((y - 1) ** 2).sum() / 4
        loss = F.nll_loss(log[known], label[:, 0][known].long())
        return {{"loss": loss * {factor}, "off": off, "prob": self.softmax(y).flatten(1)}}
"""


@pytest.mark.parametrize(
    ("axis", "factor", "last"),
    [(1, "1", "agrees"), (2, "1", "disagrees: Softmax-p, "), (1, "2", "disagrees: ")],
)
def test_heads_and_a_loss_over_a_mask(
    caffe: Caffe,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    axis: int,
    factor: str,
    last: str,
) -> None:
    """Flat at the end; a measure that nothing learns from (`loss_weight: 0`); chosen places."""
    net = input_layer("data", 2, 3, 3, 3) + input_layer("label", 2, 1, 3, 3) + _conv("data", "a", 4)
    net += layer("SoftmaxWithLoss", "a label", "loss", "loss_param { ignore_label: 3 }")
    net += layer("Power", "a", "ones", "power_param { scale: 0 shift: 1 }")
    net += layer("EuclideanLoss", "a ones", "off", "loss_weight: 0")
    net += layer("Softmax", "a", "p") + layer("Flatten", "p", "prob")
    port = HEADS.format(axis=axis, factor=factor)
    status = _ends(folder, net, port, "--data", "label=int:0,3", "--phase", "TRAIN")
    out = capsys.readouterr().out
    assert out.splitlines()[-1].startswith(last), out
    assert status == (last != "agrees")


FORMS = """
        from torch.utils.checkpoint import checkpoint
        globals()["checkpoint"] = checkpoint
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, data):
        return {made}

def scripted():
    return torch.jit.trace(Port(), torch.rand(2, 3, 3, 3))

def compiled():
    return torch.compile(Port())

def parallel():
    return nn.DataParallel(Port())

def lazy():
    model = Port()
    model.conv = nn.LazyConv2d(4, 1)
    return model

def normed():
    model = Port()
    nn.utils.weight_norm(model.conv)
    return model
"""


def _refuses(graph: object, inputs: object) -> Callable[..., object]:
    """A backend of torch.compile."""
    raise RuntimeError("compiled")


@pytest.mark.parametrize(
    ("made", "name", "status", "words"),
    [
        ("self.conv(data)", "scripted", 2, "the port is TorchScript"),
        ("self.conv(data)", "compiled", 0, "agrees"),
        ("self.conv(data)", "parallel", 0, "agrees"),
        ("self.conv(data)", "normed", 2, "the port cannot be copied: "),
        ("data, [{'heat': self.conv(data)}]", "Port", 0, "agrees"),
        ("checkpoint(self.conv, data, use_reentrant=False)", "Port", 2, "call the function itself"),
        ("torch.vmap(self.conv)(data)", "Port", 2, "call it on the whole batch"),
        ("self.conv(data)", "lazy", 2, "conv.weight has no shape before it runs"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_how_a_port_is_wrapped(
    caffe: Caffe,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    made: str,
    name: str,
    status: int,
    words: str,
) -> None:
    """What is compiled runs as it is written; what cannot be watched is refused in words."""
    net = input_layer("data", 2, 3, 3, 3) + _conv("data", "heat", 4)
    (folder / "net.prototxt").write_text(net)
    (folder / "wrapped.py").write_text(HEAD + FORMS.format(made=made))
    arguments = ["net.prototxt", "--port", f"wrapped.py:{name}", "--phase", "TEST"]
    assert main(["net", *arguments]) == status
    assert words in "".join(capsys.readouterr())
    if name == "compiled":  # others' code is compiled as before
        with pytest.raises(Exception, match="compiled"):
            torch.compile(lambda x: x + 1, backend=_refuses)(torch.ones(2))


def test_groups_that_are_forgotten_without_names(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is left on both sides belongs together: its shapes that differ are what is wrong."""
    net = input_layer("data", 2, 4, 5, 5) + _conv("data", "a", 6, "kernel_size: 3")
    net += layer("ReLU", "a", "a") + _conv("a", "b", 4, "kernel_size: 1 group: 2")
    net += layer("ReLU", "b", "b") + _conv("b", "c", 3)
    convs = "nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 1)"
    port = f"        self.features = nn.Sequential({convs})\n"
    port += "    def forward(self, x):\n        return self.features(x)\n"
    assert _ends(folder, net, port, "--phase", "TEST") == 1
    out = capsys.readouterr().out
    assert "Conv2d has groups 1, Caffe's Convolution 2" in out
    assert "disagrees: Convolution-b, parameters features.2, " in out


BRANCHES = """
        self.trunk = nn.Linear(6, 5)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)) for _ in range(3)
        )

    def forward(self, data, label):
        x = self.trunk(data)
        made = zip({weights}, self.heads)
        return sum(weight * F.cross_entropy(head(x), label.long()) for weight, head in made)
"""


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ((0.5, 1, 0.3), "agrees"),
        ((1, 0.5, 0.3), "agrees"),
        ((0.3, 1, 0.7), "the loss weight of loss2 is 0.5, the port adds it with 0.7"),
    ],
)
def test_branches_that_only_the_weights_of_their_losses_tell_apart(
    caffe: Caffe,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    weights: tuple[float, ...],
    words: str,
) -> None:
    """Three heads of one shape on one blob, in another order than Caffe's."""
    net = input_layer("data", 4, 6) + input_layer("label", 4) + _dense("data", "trunk", 5)
    for number, weight in enumerate((0.3, 0.5, 1), 1):
        net += _dense("trunk", f"hide{number}", 4)
        net += layer("ReLU", f"hide{number}", f"rect{number}")
        net += _dense(f"rect{number}", f"score{number}", 3)
        net += layer(
            "SoftmaxWithLoss", f"score{number} label", f"loss{number}", f"loss_weight: {weight}"
        )
    port = BRANCHES.format(weights=weights)
    status = _ends(folder, net, port, "--data", "label=int:0,2", "--phase", "TEST")
    out = capsys.readouterr().out
    assert words in out
    assert (status, out.count("total:")) == ((0, 0) if words == "agrees" else (1, 1))


CALLED = """
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False, momentum=0.001)
        self.drop, self.fc = nn.Dropout(), nn.Linear(36, 3)

    def once(self, data):
        return self.fc(self.drop(F.relu(self.norm(self.conv(data)))).flatten(1))

    def forward(self, {takes}):
        {made}
"""
TWICE = "self.once(data); return F.cross_entropy(self.once(data), label.long())"


@pytest.mark.parametrize(
    ("takes", "made", "phase", "status", "words"),
    [
        ("data, label", TWICE, "TEST", 0, "conv (call 2)"),
        ("data, label", TWICE, "TRAIN", 1, "disagrees: BatchNorm-norm,"),  # counts twice
        ("data, label", TWICE.replace("data); ret", "2 * data); ret"), "TEST", 0, "agrees"),
        (
            "data",
            "return torch.cat([self.once(one[None]) for one in data])",
            "TEST",
            2,
            "the port calls conv for 1 of 2 samples, and again for the others",
        ),
        (
            "image, target=None",
            "return F.cross_entropy(self.once(image), target.long())",
            "TEST",
            0,
            "agrees",
        ),
        (
            "image, other=None",
            "return F.cross_entropy(self.once(image), other.long())",
            "TEST",
            2,
            "it gets no label: name an argument of its forward so",
        ),
    ],
)
def test_how_a_port_calls_its_modules(
    caffe: Caffe,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    takes: str,
    made: str,
    phase: str,
    status: int,
    words: str,
) -> None:
    """A forward that runs twice computes what is returned; a batch is taken at once."""
    net = input_layer("data", 2, 3, 3, 3) + input_layer("label", 2) + _conv("data", "conv", 4)
    net += layer("BatchNorm", "conv", "norm") + layer("ReLU", "norm", "relu")
    net += layer("Dropout", "relu", "drop") + _dense("drop", "fc", 3)
    net += layer("SoftmaxWithLoss", "fc label", "loss")
    port = CALLED.format(takes=takes, made=made)
    options = ["--data", "label=int:0,2", "--phase", phase]
    assert _ends(folder, net, port, *options) == status
    assert words in "".join(capsys.readouterr())


def test_groups_that_are_forgotten_before_each_batchnorm(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many as are left on both sides, in their order: no statistics are folded into them."""
    net = input_layer("data", 2, 4, 5, 5)
    for bottom, top in (("data", "a"), ("a", "b")):
        setting = "kernel_size: 1 group: 4 bias_term: false"
        net += _conv(bottom, top, 4, setting) + layer("BatchNorm", top, top)
    pairs = ", ".join(["nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4, affine=False)"] * 2)
    port = f"        self.features = nn.Sequential({pairs})\n"
    port += "    def forward(self, x):\n        return self.features(x)\n"
    assert _ends(folder, net, port, "--phase", "TEST") == 1
    out = capsys.readouterr().out
    words = "the port has numbers of its own there, in place of Caffe's; Conv2d has groups 1"
    assert [each.partition(": ")[0] for each in out.splitlines() if words in each] == [
        "forward, backward"
    ] * 2
    assert "disagrees: Convolution-a, Convolution-b, parameters" in out
    assert "folded" not in out


def test_many_findings_of_one_cause(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Have one line."""
    net = input_layer("data", 2, 3, 4, 4)
    for bottom, top in zip(("data", *"abcd"), "abcde", strict=True):
        net += _conv(bottom, top, 3)
    port = "        self.all = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(5)))\n"
    port += "        self.all[:4].requires_grad_(False)\n"
    port += "    def forward(self, x):\n        return self.all(x)\n"
    assert _ends(folder, net, port, "--phase", "TRAIN") == 1
    said = capsys.readouterr().out.splitlines()
    [line] = [each for each in said if each.startswith("parameter: ")]
    assert line.startswith("parameter: Convolution-a, ... Convolution-d (4): ")
    assert line.endswith("; and so 7 more")


ORDERED = """
        self.conv2, self.conv3 = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3)
        self.relu2, self.pool2 = nn.ReLU(), nn.MaxPool2d(2)
        self.norm2 = {norm}

    def forward(self, x):
        for each in ({order}):
            x = each(x)
        return x
"""
LRN, LRN2 = "nn.LocalResponseNorm(5, 0.1)", "lambda x: F.local_response_norm(x, 5, 0.1)"
STATISTICS = "nn.BatchNorm2d(6, momentum=0.001)"


@pytest.mark.parametrize(
    ("norm", "order", "words"),
    [
        (LRN, "conv2 relu2 norm2 pool2 conv3", "norm2 (LRN) before pool2 (Pooling)"),
        (LRN2, "conv2 relu2 norm2 pool2 conv3", "norm2 (LRN) before pool2 (Pooling)"),
        (LRN, "conv2 relu2 pool2 norm2 conv3", ""),
        (
            STATISTICS,
            "conv2 pool2 relu2 norm2 conv3",
            "relu2 (ReLU) before norm2 (BatchNorm), scale2 (Scale)",
        ),
        (STATISTICS, "conv2 pool2 norm2 relu2 conv3", ""),
    ],
)
def test_layers_in_the_other_order(
    caffe: Caffe,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    norm: str,
    order: str,
    words: str,
) -> None:
    """Both are named and no other, whether modules or functions compute them."""
    net = input_layer("data", 2, 3, 10, 10) + _conv("data", "conv2", 6, "kernel_size: 3")
    pool = "pooling_param { pool: MAX kernel_size: 2 stride: 2 }"
    if norm == STATISTICS:
        net += layer("Pooling", "conv2", "pool2", pool)
        net += layer("BatchNorm", "pool2", "norm2")
        more = f"scale_param {{ bias_term: true {FILLED} }}"
        net += layer("Scale", "norm2", "scale2", more) + layer("ReLU", "scale2", "relu2")
        net += _conv("relu2", "conv3", 4, "kernel_size: 3")
    else:
        net += layer("ReLU", "conv2", "relu2") + layer("Pooling", "relu2", "pool2", pool)
        message = "lrn_param { local_size: 5 alpha: 0.1 }"
        net += layer("LRN", "pool2", "norm2", message) + _conv(
            "norm2", "conv3", 4, "kernel_size: 3"
        )
    net = re.sub(r'name: "\w+-', 'name: "', net)
    calls = ", ".join(f"self.{each}" for each in order.split())
    port = ORDERED.format(norm=norm, order=calls)
    assert _ends(folder, net, port, "--phase", "TRAIN") == bool(words)
    last = capsys.readouterr().out
    assert words in last
    named = "norm2, scale2, relu2, " if norm == STATISTICS else "pool2, norm2, "
    assert not words or f"disagrees: {named}" in last


SUMS = """
        self.conv1, self.conv2, self.act = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), {act}

    def forward(self, x):
        y = self.conv1(x)
        {made}
        return self.conv2(y)
"""


@pytest.mark.parametrize(
    ("act", "made", "codes"),
    [
        ("nn.Sigmoid()", "y = self.act(y); y += x", {"whole"}),  # each part is right
        ("nn.Sigmoid()", "y = self.act(y); y = y + x", set()),
        ("nn.Identity()", "y = torch.sigmoid(y); y += x", {"whole"}),
        ("nn.ReLU(inplace=True)", "y = torch.sigmoid(y); y = self.act(y) + x", {"whole"}),
        ("nn.Identity()", "y = torch.sigmoid(2 * y); y += 2 * x", {"forward", "backward"}),
    ],
)
def test_what_overwrites_what_the_backward_needs(
    caffe: Caffe,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    act: str,
    made: str,
    codes: set[str],
) -> None:
    """The forward is compared all the same, and the operation is named."""
    net = input_layer("x", 2, 3, 4, 4) + _conv("x", "conv1", 3)
    net += layer("Sigmoid", "conv1", "act") + layer("Eltwise", "act x", "sum")
    net = (net + _conv("sum", "conv2", 3)).replace("Convolution-", "").replace("Sigmoid-", "")
    port = SUMS.format(act=act, made=made)
    assert _ends(folder, net, port, "--phase", "TRAIN") == bool(codes)
    said = capsys.readouterr().out
    assert {each.partition(":")[0] for each in said.splitlines() if ": " in each} >= codes
    words = "into act; out" if "whole" in codes else "into what sigmoid has made"
    words = "act: inplace=True" if "inplace" in act else f"its add writes {words}"
    assert (words in said) == bool(codes)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ("y = self.act(self.a(x)); return self.b(y), self.c(y)[..., 11:15, 11:15]", "agrees"),
        (
            "y = self.act(self.a(x)); return self.b(y), self.c(y)[..., 10:14, 10:14]",
            "is as with crop_param.offset 10; ",
        ),
        (
            "z = self.a(x); y = self.act(z); return self.b(z), self.c(y)[..., 11:15, 11:15]",
            "b reads a (a), not a, which Caffe's layer b reads: what it reads is without act",
        ),
    ],
)
def test_what_is_read_before_a_layer_in_place_and_where_a_crop_begins(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str], made: str, words: str
) -> None:
    """The value is named, and the offset, however large."""
    net = input_layer("x", 2, 3, 16, 16) + input_layer("like", 2, 3, 4, 4) + _conv("x", "a", 3)
    net += layer("ReLU", "a", "a") + _conv("a", "b", 3) + _conv("a", "c", 3)
    net += layer("Crop", "c like", "d", "crop_param { axis: 2 offset: 11 }")
    net = net.replace("Convolution-", "").replace("ReLU-a", "act")
    port = "        self.a, self.b, self.c = (nn.Conv2d(3, 3, 1) for _ in range(3))\n"
    port += f"        self.act = nn.ReLU()\n    def forward(self, x):\n        {made}\n"
    assert _ends(folder, net, port, "--phase", "TEST") == (words != "agrees")
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(("most", "status"), [(2, 1), (3, 0), (4, 1), (6, 1)])
@pytest.mark.parametrize("batch", [1, 4])
def test_how_many_classes_an_accuracy_takes(
    caffe: Caffe,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    most: int,
    status: int,
    batch: int,
) -> None:
    """Whatever the labels are that the net is fed with: here the first class, always."""
    net = input_layer("x", batch, 4) + input_layer("label", batch) + _dense("x", "fc", 6)
    net += layer("Accuracy", "fc label", "right", "accuracy_param { top_k: 3 }")
    port = "        self.fc = nn.Linear(4, 6)\n    def forward(self, x, label):\n"
    port += f"        best = self.fc(x).topk({most}, 1).indices\n"
    port += "        return (best == label.long()[:, None]).any(1).float().mean()\n"
    assert _ends(folder, net, port, "--data", "label=constant:0", "--phase", "TEST") == status
    assert ("disagrees: Accuracy-right, " in capsys.readouterr().out) == bool(status)


def test_an_activation_before_the_sum(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of one of its terms alone, as a residual block has it by mistake."""
    net = input_layer("x", 2, 3, 4, 4) + _conv("x", "conv1", 3)
    net += layer("Eltwise", "conv1 x", "sum") + layer("ReLU", "sum", "rect") + _conv("rect", "y", 3)
    port = "        self.conv1, self.y = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)\n"
    port += "    def forward(self, x):\n        return self.y(F.relu(self.conv1(x)) + x)\n"
    assert _ends(folder, net, port, "--phase", "TRAIN") == 1
    said = capsys.readouterr().out
    assert "is as with ReLU-rect (ReLU) before Eltwise-sum (Eltwise), of conv1" in said
    assert "disagrees: Eltwise-sum, ReLU-rect, " in said
