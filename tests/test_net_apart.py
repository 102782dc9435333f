"""`parity net`: parts judged apart, in processes, on files of their own, and from images."""

from __future__ import annotations

import importlib
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from caffe_parity.caffe.client import Caffe
from caffe_parity.cli.main import main
from caffe_parity.contract import BadRequest
from caffe_parity.engine import processes, random_rounding
from caffe_parity.engine.images import Transform, image
from caffe_parity.report.record import Record, read
from caffe_parity.whole import judged
from studies.benchmarks.real_nets import resnet
from tests.test_net import LABELS, NET, net, port

SMALL = ("small.prototxt", "--port", "small.py:Net", "--json", "found.json")


def records(*arguments: str) -> list[Record]:
    """What `parity net` finds of a small ResNet-50."""
    resnet(4, (1,), 16).write(Path("small.prototxt"), Path("small.py"))
    assert net(*SMALL, *arguments) == 0
    return [*read(Path("found.json")).results]


def test_processes_find_what_one_finds(
    caffe: Caffe, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, and each part apart; a bias before a BatchNorm is proved by the other phase."""
    monkeypatch.setattr(judged, "useful", lambda: 1)
    alone = records()
    asked: list[int] = []
    spread = processes.spread
    monkeypatch.setattr(judged, "LARGE", 0)
    monkeypatch.setattr(judged, "useful", lambda: 2)

    def told(work: Any, order: Sequence[int], many: int) -> Any:
        asked.extend(order)
        return spread(work, order, many)

    monkeypatch.setattr(judged, "spread", told)
    together = records()
    assert len(asked) == len(together) > 25
    for one, other in zip(alone, together, strict=True):
        assert (one.case, one.tensors) == (other.case, other.tensors)


def test_a_process_that_dies_is_told() -> None:
    """As one that runs out of memory does."""
    with (
        pytest.raises(BadRequest, match="ended with status 7: there may be too little memory"),
        processes.spread(lambda number: os._exit(7), [0, 1, 2], 2) as answers,
    ):
        list(answers)


def test_an_error_in_a_process_is_the_error() -> None:
    """It arrives as what it was, and the answers before it arrive as well."""

    def work(number: int) -> int:
        if number == 3:
            raise BadRequest("the port raised")
        return number * number

    with processes.spread(work, range(4), 1) as answers:
        assert [next(answers) for _ in range(3)] == [(0, 0), (1, 1), (2, 4)]
        with pytest.raises(BadRequest, match="the port raised"):
            next(answers)


@pytest.mark.parametrize(
    "middle",
    [
        "x = x * float(x.abs().max() > -1)",
        "x = Same.apply(x)",
        "x = x.clone(); x.add_(0)",
        "x = x.to(x.dtype)",
    ],
)
def test_what_cannot_be_repeated_alone_is_judged_in_the_port(
    caffe: Caffe, folder: Path, middle: str
) -> None:
    """A number through Python, a function of its own, what is written in place."""
    arguments = port(folder, middle=middle)
    with (folder / "port.py").open("a") as file:
        file.write(SAME)
    assert net(*arguments) == 0


SAME = """
class Same(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1
    @staticmethod
    def backward(ctx, dy):
        return dy
"""


def test_a_layer_alone_has_the_same_fault(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command that is printed shows it, from the files of the folder; none is overwritten."""
    arguments = (NET, "--port", "examples/small_net.py:Converted", *LABELS, "--phase", "TEST")
    assert net(*arguments, "-o", "wrong") == 1
    out = capsys.readouterr().out
    (command,) = [line for line in out.splitlines() if line.startswith("alone: ")]
    words = shlex.split(command)
    assert main(words[words.index("net") :]) == 1
    said = capsys.readouterr().out
    for line in (each for each in out.splitlines() if each.startswith(("forward", "backward"))):
        assert line.partition(" elements")[2] == "" or line.partition("; ")[2] in said
    assert "LocalResponseNorm has alpha 0.02, Caffe's LRN 0.1" in said
    with np.load("wrong/norm1.TEST.npz") as content:
        assert set(content.files) == {"pool1", "diff[norm1]"}
    assert net(*arguments, "-o", "wrong") == 2
    assert "is there, and not empty" in capsys.readouterr().err


def test_weights_and_labels_go_with_a_layer(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The layer alone is fed with the parameters that it had in the net."""
    arguments = port(folder, init="self.fc2.register_forward_hook(lambda m, a, y: y * 2)")
    text = (folder / "port.py").read_text()
    (folder / "port.py").write_text(text.replace("nn.CrossEntropyLoss()", "Half()") + HALF)
    assert net(*arguments, "-o", "wrong") == 1
    out = capsys.readouterr().out
    commands = [line for line in out.splitlines() if line.startswith("alone: ")]
    assert len(commands) == 2
    for command in commands:
        words = shlex.split(command)
        assert main(words[words.index("net") :]) == 1
    with np.load("wrong/fc2.TEST.npz") as content:
        assert {"param[0]", "param[1]", "norm1", "diff[fc2]"} == set(content.files)


HALF = """
class Half(nn.Module):
    def forward(self, y, label):
        return functional.cross_entropy(y, label) / 2
"""


def _photo(file: str, channels: int = 3) -> np.ndarray:
    """Writes an image; returns its pixels."""
    images = importlib.import_module("PIL.Image")
    shape = (6, 5, channels) if channels > 1 else (6, 5)
    pixels = np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)
    images.fromarray(pixels).save(file)
    return pixels


def test_an_image_becomes_what_pycaffe_makes_of_it(folder: Path) -> None:
    """The steps of its Transformer, in its order."""
    pixels = _photo("photo.png")
    made = image("photo.png", (2, 3, 6, 5), Transform((1, 2, 3), 255.0, (2, 1, 0), 0.5))
    blue_first = pixels[:, :, ::-1].transpose(2, 0, 1).astype(float)
    expected = (blue_first - np.array([1, 2, 3]).reshape(3, 1, 1)) * 0.5
    assert made.shape == (2, 3, 6, 5)
    assert np.abs(made - expected).max() < 1e-4
    _photo("grey.png", 1)
    assert image("grey.png", (1, 1, 6, 5), Transform()).max() <= 1
    for bad, words in (((1, 3), "1 or 3 channels"), ((1, 2, 6, 5), "1 or 3 channels")):
        with pytest.raises(BadRequest, match=words):
            image("photo.png", bad, Transform())
    with pytest.raises(BadRequest, match="expected each of 0 to 2 once"):
        image("photo.png", (1, 3, 6, 5), Transform(channel_swap=(0, 0, 1)))
    with pytest.raises(BadRequest, match="expected 3 numbers"):
        image("photo.png", (1, 3, 6, 5), Transform(mean=(1.0, 2.0)))


IMAGE_NET = """
layer {{ name: "data" type: "ImageData" top: "data" top: "label"
  image_data_param {{ source: "none.txt" batch_size: 1 new_height: 6 new_width: 5 }}
  {transform} }}
layer {{ name: "fc" type: "InnerProduct" bottom: "data" top: "fc"
  inner_product_param {{ num_output: 3 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }}
"""

IMAGE_PORT = """
import torch
class Port(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(90, 3)
    def forward(self, data, label):
        data = {data}
        return torch.nn.functional.cross_entropy(self.fc(data.flatten(1)), label.long())
"""

SMALLER = ("--input-scale", "0.01")
FEED = ("--inputs", "photo.png", "--data", "label=int:0,2", "--phase", "TEST")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("data", ""),
        ("data.flip(1)", "reads data with its channels reversed (RGB for BGR)"),
        ("data / 255", "reads data times 0.00392157 (the scale?)"),
        ("data - torch.tensor([1., 2, 3]).reshape(1, 3, 1, 1)", "and -1, -2, -3 added (the mean?)"),
    ],
)
def test_how_a_port_feeds_itself_is_told(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str], data: str, words: str
) -> None:
    """An image as the net's transform_param has it; the port has it in another way."""
    _photo("photo.png")
    transform = "transform_param { mean_value: 104 mean_value: 117 mean_value: 123 scale: 0.01 }"
    Path("net.prototxt").write_text(IMAGE_NET.format(transform=transform))
    Path("port.py").write_text(IMAGE_PORT.format(data=data))
    assert net("net.prototxt", "--port", "port.py:Port", *FEED) == (1 if words else 0)
    assert words in capsys.readouterr().out


def test_a_mean_comes_from_files_too(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One for each pixel: Caffe's own .binaryproto, in the net or as an option, and NumPy's."""
    _photo("photo.png")
    mean = 100 + np.arange(90, dtype=np.float32).reshape(3, 6, 5)
    np.save("mean.npy", mean)
    write = (
        "import caffe, numpy; mean = numpy.load('mean.npy')[None]\n"
        "open('mean.binaryproto', 'wb').write(caffe.io.array_to_blobproto(mean)"
        ".SerializeToString())"
    )
    assert main(["python", "-c", write]) == 0
    pixels = np.asarray(importlib.import_module("PIL.Image").open("photo.png"), np.float32)
    np.save("data.npy", ((pixels[:, :, ::-1].transpose(2, 0, 1) - mean) / 256)[None])
    Path("port.py").write_text(
        IMAGE_PORT.format(
            data="data - (data - torch.tensor(numpy.load('data.npy'))).detach()"
        ).replace("import torch", "import numpy, torch")
    )  # a port that feeds itself what is expected
    option = ("--raw-scale", "255", "--channel-swap", "2,1,0", "--input-scale", "0.00390625")
    ways = {
        'mean_file: "mean.binaryproto" scale: 0.00390625': (),
        "": (*option, "--mean", "mean.binaryproto"),
        " ": (*option, "--mean", "mean.npy"),
    }
    for transform, more in ways.items():
        said = f"transform_param {{ {transform} }}" if transform.strip() else ""
        Path("net.prototxt").write_text(IMAGE_NET.format(transform=said))
        arguments = ("net.prototxt", "--port", "port.py:Port", *FEED)
        assert net(*arguments, *more) == 0, capsys.readouterr()
    Path("mean.binaryproto").write_bytes(b"no mean")
    assert net(*arguments, *option, "--mean", "mean.binaryproto") == 2
    assert "mean.binaryproto" in capsys.readouterr().err


def test_nothing_is_guessed_of_an_image(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a transform_param it is asked for; options without an image are a slip."""
    _photo("photo.png")
    Path("net.prototxt").write_text(IMAGE_NET.format(transform=""))
    Path("port.py").write_text(IMAGE_PORT.format(data="data"))
    arguments = ("net.prototxt", "--port", "port.py:Port", *FEED)
    assert net(*arguments) == 2
    assert "nothing says how an image becomes data" in capsys.readouterr().err
    assert net(*arguments, "--raw-scale", "255", "--mean", "104,117,123", *SMALLER) == 0
    assert net(*arguments, "--mean", "104;117") == 2
    assert "expected numbers such as 104,117,123" in capsys.readouterr().err
    assert (
        net(*arguments[:3], "--mean", "1", "--bottom", "data=1,3,6,5", "--bottom", "label=1") == 2
    )
    assert "--mean is about an image" in capsys.readouterr().err
    np.save("data.npy", np.ones((1, 3, 6, 5)))
    others = ("--bottom", "label=1", "--bottom", "data=1,3,6,5", *FEED[2:])
    assert net(*arguments[:3], "--inputs", "data.npy", *others) == 0


def test_a_sum_one_after_the_other_is_one() -> None:
    """However NumPy would add it up."""
    rng = np.random.RandomState(0)
    for shape in ((1, 1), (5, 1), (1000, 1), (1000, 2), (3000, 17), (4, 1000)):
        rows = rng.standard_normal(shape).astype(np.float32)
        made = random_rounding._one_after_the_other(rows)
        assert np.array_equal(made, np.add.accumulate(rows, axis=0)[-1])


@pytest.mark.parametrize("name", ["var", "std", "var_mean"])
def test_a_variance_is_rounded_as_the_sums_that_it_is(name: str) -> None:
    """Its bound holds what a plain float32 loop makes of terms that are much alike."""
    x = torch.from_numpy(np.random.RandomState(1).uniform(3, 3.5, 1 << 14).astype(np.float32))

    def evaluate(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = getattr(torch, name)(given["x"], correction=0)
        return {"y": found[1] if name == "var_mean" else found}

    expected = random_rounding.expect(evaluate, {"x": x.double()}, set())
    mean = np.add.accumulate(x.numpy())[-1] / np.float32(x.numel())
    squares = np.add.accumulate((x.numpy() - mean) ** 2)[-1] / np.float32(x.numel())
    made = {"var": squares, "std": np.sqrt(squares), "var_mean": mean}[name]
    truth, bound = float(expected.truth["y"]), float(expected.bound.worst["y"])
    assert abs(made - truth) / truth > 2.0**-24
    assert abs(made - truth) <= bound < 2.0**-10 * truth


def test_a_gradient_that_cancels_is_no_kink_where_there_is_none() -> None:
    """A bias gets the sum of a diff that adds up to 0: it is compared."""
    diff = torch.tensor([[1.0, -1.0 + 2.0**-23]], dtype=torch.float64)

    def evaluate(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        bias = given["b"].clone().requires_grad_()
        made = torch.zeros_like(given["diff"]) + bias
        (grad,) = torch.autograd.grad(made, bias, given["diff"])
        return {"gradient:b": grad}

    inputs = {"b": torch.ones(1, dtype=torch.float64), "diff": diff}
    expected = random_rounding.expect(evaluate, inputs, {"diff"})
    assert np.isfinite(expected.bound.worst["gradient:b"]).all()


def test_a_fraction_that_float32_has_not_is_no_other_momentum(caffe: Caffe, folder: Path) -> None:
    """Where the batch's mean is far larger than the running one, that rounding is what is left."""
    shape = "input_param { shape { dim: 1 dim: 256 dim: 3 dim: 3 } }"
    Path("net.prototxt").write_text(
        f'layer {{ name: "data" type: "Input" top: "data" {shape} }}\n'
        'layer { name: "bn" type: "BatchNorm" bottom: "data" top: "bn" }\n'
    )
    Path("port.py").write_text(
        "import torch\nclass Port(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.bn = torch.nn.BatchNorm2d(256, affine=False, momentum=0.001)\n"
        "    def forward(self, data):\n        return self.bn(data)\n"
    )
    data = ("--data", "data=uniform:50,51", "--phase", "TRAIN")
    assert net("net.prototxt", "--port", "port.py:Port", *data) == 0
