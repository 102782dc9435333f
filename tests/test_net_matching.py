"""`parity net` matches what has no name: behind a mistake, in modules that do several layers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from caffe_parity.caffe.client import Caffe
from caffe_parity.cli.main import main
from caffe_parity.report.record import read
from tests.net_text import input_layer, layer

XAVIER = 'weight_filler { type: "xavier" }'

PORT = """
import torch
from torch import nn

class Maxout(nn.Module):
    def __init__(self):
        super().__init__()
        self.filter = nn.Conv2d(4, 8, 3, padding=1)

    def forward(self, x):
        return torch.{largest}(*self.filter(x).chunk(2, 1))

class Down(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.two = nn.Conv2d(6, 6, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.short = nn.Conv2d(4, 6, 1, stride=2)

    def forward(self, x):
        y = self.one(x)
        y = {first}(y)
        return self.relu(self.two(y) + self.short(x))

class Port(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Sequential(nn.Conv2d(2, 4, 3), nn.{act}(), nn.MaxPool2d(2)),
            Maxout(), nn.PReLU({slopes}), Down(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(24, 5), nn.Linear(5, 6))

    def forward(self, data):
        return self.head(self.features(data).flatten(1))
"""
RIGHT = {"largest": "max", "first": "self.relu", "act": "ReLU", "slopes": "4"}


def _conv(bottom: str, top: str, channels: int, kernel: int, rest: str = "") -> str:
    message = f"num_output: {channels} kernel_size: {kernel} {rest} {XAVIER}"
    return layer("Convolution", bottom, top, f"convolution_param {{ {message} }}")


def _dense(bottom: str, top: str, channels: int) -> str:
    message = f"num_output: {channels} {XAVIER}"
    return layer("InnerProduct", bottom, top, f"inner_product_param {{ {message} }}")


TEXT = (
    input_layer("data", 2, 2, 10, 10)
    + _conv("data", "a", 4, 3)
    + layer("ReLU", "a", "b")
    + layer("Pooling", "b", "c", "pooling_param { kernel_size: 2 stride: 2 }")
    + _conv("c", "e", 8, 3, "pad: 1")
    + layer("Slice", "e", "f g")
    + layer("Eltwise", "f g", "h", "eltwise_param { operation: MAX }")
    + layer("PReLU", "h", "d")
    + _conv("d", "short", 6, 1, "stride: 2")
    + _conv("d", "i", 6, 3, "stride: 2 pad: 1")
    + layer("ReLU", "i", "j")
    + _conv("j", "k", 6, 3, "pad: 1")
    + layer("Eltwise", "short k", "l")
    + layer("ReLU", "l", "m")
    + _conv("m", "n", 6, 3, "pad: 1")
    + layer("ReLU", "n", "o")
    + _dense("o", "q", 5)
    + _dense("q", "r", 6)
)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, set()),
        ({"largest": "min"}, {"Eltwise-h"}),
        ({"first": ""}, {"ReLU-j"}),
        ({"act": "Tanh"}, {"ReLU-b"}),
        ({"slopes": "1"}, set()),
    ],
)
def test_a_mistake_leaves_what_comes_behind_matched(
    caffe: Caffe, folder: Path, changes: dict[str, str], named: set[str]
) -> None:
    """Containers, a module that does three layers, branches that run in another order."""
    Path("net.prototxt").write_text(TEXT)
    Path("port.py").write_text(PORT.format(**{**RIGHT, **changes}))
    arguments = ["net", "net.prototxt", "--port", "port.py:Port", "--phase", "TEST"]
    assert main([*arguments, "--json", "found.json"]) == bool(changes)
    results = read(Path("found.json")).results
    wrong = {name for each in results if each.wrong for name in each.case.split(", ")}
    assert {name for name in wrong if not name.startswith("parameters")} == named


TUTORIAL = """
from torch import nn

class Port(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(2, 4, 3), nn.{act}(), nn.MaxPool2d(2))
        self.conv2 = nn.Sequential(nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4, momentum=1e-3))

    def forward(self, data):
        return self.conv2(self.conv1(data))
"""


@pytest.mark.parametrize(("act", "named"), [("ReLU", set()), ("Tanh", {"relu1"})])
def test_a_block_that_has_the_name_of_its_first_layer(
    caffe: Caffe, folder: Path, act: str, named: set[str]
) -> None:
    """As tutorials write it: `self.conv1 = nn.Sequential(conv, relu, pool)`."""
    text = (
        input_layer("data", 3, 2, 10, 10)
        + _conv("data", "conv1", 4, 3)
        + layer("ReLU", "conv1", "relu1")
        + layer("Pooling", "relu1", "pool1", "pooling_param { kernel_size: 2 stride: 2 }")
        + _conv("pool1", "conv2", 4, 3, "bias_term: false")
        + layer("BatchNorm", "conv2", "bn")
        + layer("Scale", "bn", "scale", "scale_param { bias_term: true }")
    )
    for name in ("conv1", "relu1", "conv2"):
        text = text.replace(f'name: "Convolution-{name}"', f'name: "{name}"')
        text = text.replace(f'name: "ReLU-{name}"', f'name: "{name}"')
    Path("net.prototxt").write_text(text)
    Path("port.py").write_text(TUTORIAL.format(act=act))
    arguments = ["net", "net.prototxt", "--port", "port.py:Port", "--phase", "TEST"]
    assert main([*arguments, "--json", "found.json"]) == bool(named)
    assert {each.case for each in read(Path("found.json")).results if each.wrong} == named


AUTOENCODER = """
import torch
from torch import nn
from torch.nn import functional

class Port(nn.Module):
    def __init__(self):
        super().__init__()
        self.code = nn.Linear(12, 3)
        self.out = nn.Linear(3, 12)

    def forward(self, data):
        x = data.flatten(1)
        y = self.out(self.code(x))
        return functional.binary_cross_entropy_with_logits(y, x, reduction="sum") / len(x)
"""


def test_what_a_label_is_made_of_gets_no_gradient(caffe: Caffe, folder: Path) -> None:
    """As in Caffe's own autoencoder: the data, flattened, are the target; else Caffe aborts."""
    text = (
        input_layer("data", 3, 3, 2, 2)
        + layer("Flatten", "data", "flat")
        + _dense("flat", "code", 3)
        + _dense("code", "out", 12)
        + layer("SigmoidCrossEntropyLoss", "out flat", "loss")
    )
    Path("net.prototxt").write_text(text)
    Path("port.py").write_text(AUTOENCODER)
    arguments = ["net.prototxt", "--port", "port.py:Port", "--data", "data=uniform:0,1"]
    assert main(["net", *arguments]) == 0


SIDES = """
import torch
from torch import nn
from torch.nn import functional

class Port(nn.Module):
    def __init__(self):
        super().__init__()
        self.near = nn.Conv2d(2, 1, 1)
        self.far = nn.Conv2d(2, 1, 3, padding=3)

    def forward(self, data, label):
        near = self.near(data)[..., 1:7, 1:7]
        far = self.far(data)[..., 2:8, 2:8]
        losses = [
            functional.binary_cross_entropy_with_logits(each, label, reduction="sum")
            for each in (near, far)
        ]
        return {weight} * losses[0] + losses[1]
"""


@pytest.mark.parametrize(("weight", "status"), [(0.5, 0), (1, 1)])
def test_losses_behind_crops(caffe: Caffe, folder: Path, weight: float, status: int) -> None:
    """Of the blob that a Crop takes the shape of, a loss is not made."""
    text = input_layer("data", 1, 2, 8, 8) + input_layer("label", 1, 1, 6, 6)
    text += _conv("data", "near", 1, 1) + _conv("data", "far", 1, 3, "pad: 3")
    for name, offset, weighed in (("near", 1, 0.5), ("far", 2, 1)):
        crop = f"crop_param {{ axis: 2 offset: {offset} }}"
        text += layer("Crop", f"{name} label", f"cut_{name}", crop)
        loss = f"loss_weight: {weighed}"
        text += layer("SigmoidCrossEntropyLoss", f"cut_{name} label", f"loss_{name}", loss)
    Path("net.prototxt").write_text(text)
    Path("port.py").write_text(SIDES.format(weight=weight))
    arguments = ["net.prototxt", "--port", "port.py:Port", "--data", "label=binary"]
    assert main(["net", *arguments, "--json", "found.json"]) == status
    wrong = [each.case for each in read(Path("found.json")).results if each.wrong]
    assert wrong == ["total loss_near"] * (2 * status)


CELL = """
import torch
from torch import nn

class Port(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(4, 3)

    def forward(self, x, cont):
        h = c = x.new_zeros(x.shape[1], 3)
        found = []
        for one, keep in zip(x, cont.unsqueeze(-1)):
            h, c = self.cell(one, (h * keep, c * keep))
            found.append(h)
        return torch.stack(found)
"""


@pytest.mark.parametrize(
    ("type_", "old", "new", "status", "words"),
    [
        ("LSTM", "", "", 0, "LSTM  cell"),
        ("LSTM", "h * keep", "h", 1, "disagrees: LSTM-h, "),
        ("LSTM", "torch.stack(found)", "h.expand(4, 2, 3)", 1, "LSTM-h: the port's h repeats"),
        ("RNN", "LSTMCell", "RNNCell", 2, "cell (RNNCell) computes one step"),
    ],
)
def test_a_loop_over_a_cell(
    caffe: Caffe,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    type_: str,
    old: str,
    new: str,
    status: int,
    words: str,
) -> None:
    """It is the layer, with what is done around the cell; not of an RNN, whose outputs are more."""
    filler = 'recurrent_param { num_output: 3 weight_filler { type: "xavier" } }'
    text = input_layer("x", 4, 2, 4) + input_layer("cont", 4, 2)
    Path("net.prototxt").write_text(text + layer(type_, "x cont", "h", filler))
    text = CELL.replace(old, new)
    if type_ == "RNN":
        text = text.replace("h, c = self.cell(one, (h * keep, c * keep))", "h = self.cell(one, h)")
    Path("port.py").write_text(text)
    arguments = ["net", "net.prototxt", "--port", "port.py:Port", "--data", "cont=binary"]
    assert main(arguments) == status
    out, err = capsys.readouterr()
    assert words in out + err


RETURNS = """
import torch
from torch import nn

class Port(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 4, 3)

    def forward(self, {takes}):
        y = self.a({x})
        return {made}
"""


@pytest.mark.parametrize(
    ("takes", "x", "made", "status", "words"),
    [
        ("*inputs", "inputs[0]", "y", 0, "agrees"),
        ("data", "data", "None", 1, "nothing that the port returns is a tensor"),
        ("data", "data.double().float()", "y", 0, "agrees"),
        ("data", "data @ torch.eye(6)", "y", 0, "agrees"),
        ("data", "data @ EYE", "y", 2, "it must run in float64 as well"),
    ],
)
def test_what_a_port_takes_and_returns(
    caffe: Caffe,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    takes: str,
    x: str,
    made: str,
    status: int,
    words: str,
) -> None:
    """Any inputs, as a wrapper takes them; nothing; a precision that it has chosen itself."""
    Path("net.prototxt").write_text(input_layer("data", 2, 2, 6, 6) + _conv("data", "a", 4, 3))
    text = RETURNS.format(takes=takes, x=x, made=made)
    Path("port.py").write_text(f"import torch\n{text}\nEYE = torch.eye(6)\n")
    assert main(["net", "net.prototxt", "--port", "port.py:Port", "--phase", "TEST"]) == status
    assert words in "".join(capsys.readouterr())


FUNCTIONS = """
import torch
from torch import nn
from torch.nn import functional as F

class Port(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones({w}))
        self.gain, self.shift, self.slope = (nn.Parameter(torch.ones(6)) for _ in range(3))
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("var", torch.ones(6))

    def forward(self, data):
        kernel = self.w.view({view})
        x = {conv}
        learned = self.gain, self.shift, self.training
        x = F.batch_norm(x, self.mean, self.var, *learned, {moves}, 1e-5)
        return {slope}
"""
BY_FUNCTIONS = {
    "w": "6, 2, 3, 3",
    "view": "6, 2, 3, 3",
    "conv": "F.conv2d(data, kernel)",
    "moves": "1e-3",
    "slope": "F.prelu(x, self.slope)",
}


@pytest.fixture
def two_threads() -> Iterator[None]:
    """With which PyTorch may make other bits than with one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


UNLIKE = 'filler { type: "uniform" min: 0.5 max: 2 }'
NOISY = "F.prelu(x, self.slope) + 1e-3 * torch.randn_like(x)"
BY_THREADS = "F.prelu(x, self.slope) * (1 + 2.0**-23 * (torch.get_num_threads() > 1))"
APART = {"w": "3, 2, 3, 3", "view": "3, 2, 3, 3"}
TWICE = "torch.cat([F.conv2d(data, kernel)] * 2, 1)"


@pytest.mark.parametrize(
    ("changes", "status", "named", "words"),
    [
        ({}, 0, set(), "matched by order: Convolution-a[0] = w"),
        ({"slope": "F.prelu(x, 2 * self.slope)"}, 1, {"PReLU-d"}, "forward: PReLU-d"),
        ({"slope": NOISY}, 1, {"whole"}, "the port draws random numbers"),
        ({"slope": BY_THREADS}, 0, set(), "matched by order"),
        ({"moves": "0.5"}, 1, {"BatchNorm-b"}, "by 0.5 of the way to the batch's mean"),
        ({**APART, "conv": TWICE}, 2, set(), "w (3, 2, 3, 3)"),
    ],
)
def test_parameters_that_functions_take(
    caffe: Caffe,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    two_threads: None,
    changes: dict[str, str],
    status: int,
    named: set[str],
    words: str,
) -> None:
    """They get Caffe's numbers, or what takes them is not compared: random ones are not wrong."""
    text = (
        input_layer("data", 3, 2, 6, 6)
        + _conv("data", "a", 6, 3, "bias_term: false")
        + layer("BatchNorm", "a", "b")
        + layer("Scale", "b", "c", f"scale_param {{ bias_term: true {UNLIKE} bias_{UNLIKE} }}")
        + layer("PReLU", "c", "d")
    )
    Path("net.prototxt").write_text(text)
    Path("port.py").write_text(FUNCTIONS.format(**{**BY_FUNCTIONS, **changes}))
    arguments = ["net", "net.prototxt", "--port", "port.py:Port", "--phase", "TRAIN"]
    assert main([*arguments, "--json", "found.json"]) == status
    assert words in capsys.readouterr().out
    wrong = {each.case for each in read(Path("found.json")).results if each.wrong}
    assert {name for case in wrong for name in case.split(", ")} == named
    arguments = ["weights", "net.prototxt", "--port", "port.py:Port", "-o", "w.safetensors"]
    assert main([*arguments, "--leave-out", "Convolution-a"]) == (status == 2)
    lost = "the port's parameter w (3, 2, 3, 3) gets none of the net's numbers"
    assert (lost in capsys.readouterr().out) == (status == 2)


LOSSES = """
import torch
from torch import nn
from torch.nn import functional as F

class Port(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 4, 3)

    def forward(self, data, target):
        x = self.a(data)
        y = torch.{largest}({power}, x)
        far = F.binary_cross_entropy_with_logits(y, target, reduction="sum") / {n}
        return {{"far": far, "near": ((x - target) ** 2).sum() / 4}}
"""


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, set()),
        ({"n": "3"}, {"SigmoidCrossEntropyLoss-far"}),
        ({"power": "0.3 + (0.5 * x) ** 2"}, {"Power-p"}),
        ({"largest": "add"}, {"Eltwise-m"}),
    ],
)
def test_a_loss_of_several_that_is_wrong(
    caffe: Caffe, folder: Path, changes: dict[str, str], named: set[str]
) -> None:
    """What the port returns by a loss's name is that loss: the layer before it is found."""
    Path("net.prototxt").write_text(
        input_layer("data", 2, 2, 6, 6)
        + input_layer("target", 2, 4, 4, 4)
        + _conv("data", "a", 4, 3)
        + layer("Power", "a", "p", "power_param { power: 2 scale: 0.5 shift: 0.3 }")
        + layer("Eltwise", "p a", "m", "eltwise_param { operation: MAX }")
        + layer("SigmoidCrossEntropyLoss", "m target", "far", "loss_weight: 2")
        + layer("EuclideanLoss", "a target", "near", "loss_weight: 0.5")
    )
    right = {"largest": "max", "power": "(0.3 + 0.5 * x) ** 2", "n": "2"}
    Path("port.py").write_text(LOSSES.format(**{**right, **changes}))
    arguments = ["net", "net.prototxt", "--port", "port.py:Port", "--phase", "TEST"]
    assert main([*arguments, "--json", "found.json"]) == bool(named)
    assert {each.case for each in read(Path("found.json")).results if each.wrong} == named


def test_a_hook_on_a_parameter_is_part_of_the_port(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It runs where Caffe's parameter stands in the place of the port's."""
    Path("net.prototxt").write_text(input_layer("data", 2, 2, 6, 6) + _conv("data", "a", 4, 3))
    text = RETURNS.format(takes="data", x="data", made="y")
    hook = "\n        self.a.weight.register_hook(lambda gradient: 3 * gradient)\n"
    Path("port.py").write_text(text.replace("nn.Conv2d(2, 4, 3)\n", f"nn.Conv2d(2, 4, 3){hook}"))
    assert main(["net", "net.prototxt", "--port", "port.py:Port", "--phase", "TEST"]) == 1
    assert "gradient of Convolution-a[0] is 3 times what it should be" in capsys.readouterr().out
