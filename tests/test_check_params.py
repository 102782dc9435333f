"""`parity check` of layers with parameter blobs: the reference takes them as `param`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffe_parity.caffe.client import Caffe
from studies import false_alarms
from tests.commands import check
from tests.net_text import input_layer, layer

ROOT = Path(__file__).parent.parent


IMAGE = input_layer("x", 3, 4, 5, 6)
INNER = "inner_product_param { num_output: 5 weight_filler { type: 'xavier' } }"
CONVOLUTION = """
    convolution_param { num_output: 6 kernel_size: 3 stride: 2 pad: 1 group: 2
                        weight_filler { type: 'msra' } }
"""
NORM = "batch_norm_param { eps: 0.001 }"
SUM = layer("Reduction", "y", "loss", "loss_weight: 1")
NETS = {
    "inner-product": (
        IMAGE + layer("InnerProduct", "x", "y", INNER),
        "F.linear(x.flatten(1), param[0], param[1])",
    ),
    "inner-product-loss": (
        IMAGE + layer("InnerProduct", "x", "y", INNER) + SUM,
        "F.linear(x.flatten(1), param[0], param[1]).sum()",
    ),
    "convolution": (
        IMAGE + layer("Convolution", "x", "y", CONVOLUTION),
        "F.conv2d(x, param[0], param[1], 2, 1, groups=2)",
    ),
    "deconvolution": (
        IMAGE + layer("Deconvolution", "x", "y", CONVOLUTION.replace("2 pad: 1", "2 pad: 0")),
        "F.conv_transpose2d(x, param[0], param[1], 2, groups=2)",
    ),
    "scale-with-bias": (
        IMAGE + layer("Scale", "x", "y", "scale_param { bias_term: true }"),
        "x * param[0].view(-1, 1, 1) + param[1].view(-1, 1, 1)",
    ),
    "bias": (IMAGE + layer("Bias", "x", "y"), "x + param[0].view(-1, 1, 1)"),
    "prelu": (IMAGE + layer("PReLU", "x", "y"), "F.prelu(x, param[0])"),
    "prelu-in-place": (IMAGE + layer("PReLU", "x", "x"), "F.prelu(x, param[0])"),
    "prelu-shared-by-channels": (
        IMAGE + layer("PReLU", "x", "y", "prelu_param { channel_shared: true }"),
        "F.prelu(x, param[0].view(1))",
    ),
    "embed": (
        input_layer("x", 7)
        + layer("Embed", "x", "y", "embed_param { input_dim: 4 num_output: 3 }"),
        "F.embedding(x.long(), param[0]) + param[1]",
    ),
    "batch-norm-keeps-its-own": (
        IMAGE
        + layer("BatchNorm", "x", "n", NORM)
        + layer("Scale", "n", "y", "scale_param { bias_term: true }"),
        "F.batch_norm(x, None, None, param[0], param[1], True, eps=0.001)",
    ),
    "two-layers": (
        IMAGE
        + layer("InnerProduct", "x", "h", INNER)
        + layer("TanH", "h", "t")
        + layer("InnerProduct", "t", "y", INNER),
        "F.linear(torch.tanh(F.linear(x.flatten(1), param[0], param[1])), param[2], param[3])",
    ),
    "two-layers-share": (
        input_layer("x", 3, 5)
        + layer("InnerProduct", "x", "h", INNER + "param { name: 'w' } param { name: 'b' }")
        + layer("TanH", "h", "t")
        + layer("InnerProduct", "t", "y", INNER + "param { name: 'w' } param { name: 'b' }"),
        "F.linear(torch.tanh(F.linear(x, *param)), *param)",
    ),
    "fixed-weight": (
        IMAGE + layer("InnerProduct", "x", "y", INNER + "param { lr_mult: 0 }"),
        "F.linear(x.flatten(1), param[0], param[1])",
    ),
}
"""Nets of Caffe's own layers with parameters, and what they compute."""


def write(folder: Path, net: str, result: str) -> list[str]:
    """Writes a net and its reference; returns the arguments."""
    (folder / "net.prototxt").write_text(net)
    head = "import torch\nfrom torch.nn import functional as F\n"
    (folder / "truth.py").write_text(f"{head}def tops(x, param): return {result}\n")
    return ["net.prototxt", "--reference", "truth.py:tops"]


@pytest.mark.parametrize("name", NETS)
def test_parameters_of_built_in_layers_agree(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Values and gradients agree; whatever the filler, the parameters are set to the same."""
    arguments = write(folder, *NETS[name])
    if name == "embed":
        arguments += ["--data", "x=int:0,3"]
    assert check(*arguments) == 0
    out = capsys.readouterr().out
    taken = out.split("  params: ")[1].splitlines()[0].count("; ") + 1
    errors = out.split("largest error")[1].splitlines()[0]
    compared = len(re.findall(r"dparam\[\d\] \d", errors))
    assert compared == taken - (name == "fixed-weight") > 0


SCALE = false_alarms.command_of("channel_scale")


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ([], "param[0] (4,) of layer normal; param[1] (4,) of layer normal"),
        (["--data", "param[1]=constant:3"], "param[1] (4,) of layer constant:3"),
    ],
)
def test_parameters_are_filled_as_told(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str], rest: list[str], words: str
) -> None:
    """Normal from the seed, or what --data says, in Caffe and for reference and port alike."""
    assert check(*SCALE, "--port", "examples/channel_scale.py:port", *rest) == 0
    assert words in capsys.readouterr().out


def save(file: Path, arrays: dict[str, np.ndarray]) -> None:
    """An .npz file; names such as param[0] are no keywords that a type checker knows."""
    named: dict[str, Any] = arrays
    np.savez(file, **named)


def test_inputs_file_may_hold_parameters(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A parameter of the file is used, one that it lacks is filled; a wrong shape is told."""
    x = np.ones((3, 4, 2, 5), np.float32)
    save(folder / "inputs.npz", {"x": x, "param[0]": np.arange(4)})
    assert check(*SCALE, "--inputs", "inputs.npz") == 0
    said = capsys.readouterr().out
    assert "param[0] (4,) of layer from the file; param[1] (4,) of layer normal" in said
    save(folder / "inputs.npz", {"x": x, "param[0]": np.arange(5)})
    assert check(*SCALE, "--inputs", "inputs.npz") == 2
    assert "param[0] has shape (5,), the net's (4,)" in capsys.readouterr().err


def test_parameter_with_lr_mult_0_keeps_what_the_net_fills_it_with(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is a constant of the net: the reference gets it, Caffe is asked for no gradient."""
    inner = "inner_product_param { num_output: 5 weight_filler { type: 'constant' value: 2 } }"
    net = IMAGE + layer("InnerProduct", "x", "y", inner + "param { lr_mult: 0 }")
    arguments = write(folder, net, "2 * x.flatten(1).sum(1, keepdim=True) + param[1]")
    assert check(*arguments, "--data", "param[1]=constant:0") == 0
    said = capsys.readouterr().out
    assert (
        "param[0] (5, 120) of InnerProduct-y as the net fills it, no gradient (lr_mult 0)" in said
    )
    assert check(*arguments, "--data", "param[0]=normal") == 1


@pytest.mark.parametrize("how", ["+=", "="])
def test_layers_that_share_a_parameter_add_up(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    """Two layers with one blob give the sum of their gradients; one that overwrites loses half."""
    text = Path("examples/channel_scale_layer.py").read_text()
    name = "sharing_" + ("adds" if how == "+=" else "overwrites")
    (folder / f"{name}.py").write_text(
        text.replace("diff[...] += np.sum", f"diff[...] {how} np.sum")
    )
    python = f"python_param {{ module: '{name}' layer: 'ChannelScaleLayer' }}"
    shared = python + "param { name: 'factor' } param { name: 'offset' }"
    net = IMAGE + layer("Python", "x", "h", shared) + layer("Python", "h", "y", shared)
    per_channel = "param[0].view(-1, 1, 1)", "param[1].view(-1, 1, 1)"
    once = "({} * {} + {})"
    twice = once.format(
        per_channel[0], once.format(per_channel[0], "x", per_channel[1]), per_channel[1]
    )
    assert check(*write(folder, net, twice)) == (how == "=")
    assert ("gradient:param[0]: " in capsys.readouterr().out) == (how == "=")


PORTS = """
import torch
from examples.channel_scale import Port, scale
def loss(x): return x
def half(x, param): return scale(x, [param[0], param[1] / 2])
def plain(x): return scale(x, [torch.ones(4), torch.zeros(4)])
class Halved(Port):
    def forward(self, x):
        return super().forward(x) - 0.5 * self.offset.view(-1, 1, 1)
class Detached(Port):
    def forward(self, x):
        return scale(x, [self.factor, self.offset.detach()])
class Takes(torch.nn.Module):
    def forward(self, x, param):
        return scale(x, param)
takes, halved, detached, other = Takes(), Halved(4), Detached(4), Port(5)
less = torch.nn.PReLU(4)
class Buffered(Port):
    def __init__(self):
        super().__init__(4)
        self.register_buffer("one", torch.ones(4, 1, 1))
    def forward(self, x):
        return super().forward(x * self.one)
"""


@pytest.mark.parametrize(
    ("port", "status", "words"),
    [
        ("takes", 0, "agrees"),
        ("Buffered", 0, "agrees"),
        ("scale", 0, "agrees"),
        ("half", 1, "port-gradient:param[1]: in the port, dparam[1] is half of what it should be"),
        ("halved", 1, "port-gradient:param[1]: in the port, dparam[1] is half of what it should"),
        ("detached", 1, "port-gradient:param[1]: in the port, dparam[1] is 0 everywhere"),
        ("plain", 2, "so the port must take it as well, or be an nn.Module"),
        ("other", 2, "factor (5,), offset (5,)) are not those of the net (param[0] (4,) of layer"),
        ("less", 2, "must take the net's inputs x"),
    ],
)
def test_port_gets_the_parameters(
    caffe: Caffe,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    port: str,
    status: int,
    words: str,
) -> None:
    """As `param`, or in place of a module's own, by order; what does not fit is told."""
    (folder / "ports.py").write_text(PORTS)
    assert check(*SCALE, "--cases", "2", "--port", f"ports.py:{port}") == status
    said = capsys.readouterr()
    assert words in said.out + said.err


def test_port_with_float32_parameters_of_its_own_is_gradchecked(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A module whose weights the net does not have runs in float64 for gradcheck, and agrees."""
    (folder / "port.py").write_text(
        "import torch\n"
        "class Sum(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.weight = torch.nn.Parameter(torch.ones(6, 1))\n"
        "    def forward(self, x):\n"
        "        return x @ self.weight\n"
        "def tops(x): return x.sum(1, keepdim=True)\n"
    )
    x = input_layer("x", 3, 6)
    (folder / "net.prototxt").write_text(
        x + layer("Reduction", "x", "y", "reduction_param { axis: 1 }")
    )
    arguments = ["net.prototxt", "--reference", "port.py:tops", "--port", "port.py:Sum"]
    assert check(*arguments) == 0
    assert "agrees" in capsys.readouterr().out


def test_two_layers_of_one_name_have_each_its_own(caffe: Caffe, folder: Path) -> None:
    """As Caffe has it, which tells them apart by their place."""
    inner = layer("InnerProduct", "x", "y", INNER)
    again = layer("InnerProduct", "y", "z", INNER).replace("InnerProduct-z", "InnerProduct-y")
    write(folder, IMAGE + inner + again, "x")
    one, another = (f"(x.flatten(1) @ param[{k}].T + param[{k + 1}])" for k in (0, 2))
    for count, status in ((1, 1), (2, 0)):
        result = another.replace("x.flatten(1)", one) if count == 2 else one
        (folder / "truth.py").write_text(f"def tops(x, param): return {result}\n")
        assert check("net.prototxt", "--reference", "truth.py:tops", "--cases", "2") == status


@pytest.mark.parametrize(
    ("net", "reference", "rest", "words"),
    [
        ("none", "tops", [], "no layer of the net has parameter blobs"),
        ("inner", "tops", ["--data", "param[2]=normal"], "NAME one of param[0], param[1]"),
        ("inner", "without", ["--data", "param[0]=normal"], "has no argument `param`"),
        ("inner", "without", ["--port", "truth.py:tops"], "the port takes `param`"),
        ("inner", "short", [], "IndexError: list index out of range"),
    ],
)
def test_bad_request_is_told(
    caffe: Caffe,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    net: str,
    reference: str,
    rest: list[str],
    words: str,
) -> None:
    """Exit 2, and words that say which side lacks what."""
    inner = layer("InnerProduct", "x", "y", INNER)
    nets = {"none": layer("TanH", "x", "y"), "inner": inner}
    write(folder, IMAGE + nets[net], "x")
    with (folder / "truth.py").open("a") as file:
        file.write("def without(x): return x\ndef short(x, param): return param[5]\n")
    assert check("net.prototxt", "--reference", f"truth.py:{reference}", *rest) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


def test_parameters_that_the_reference_does_not_take_are_named(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing that is not compared is silent: the net's fillers stay, and a line says so."""
    (folder / "net.prototxt").write_text(IMAGE + layer("PReLU", "x", "y"))
    (folder / "truth.py").write_text("from torch.nn import functional as F\n"
                                     "def tops(x): return F.leaky_relu(x, 0.25)\n")  # fmt: skip
    assert check("net.prototxt", "--reference", "truth.py:tops", "--cases", "1") == 0
    assert "params: not compared, since the reference has no argument" in capsys.readouterr().out
