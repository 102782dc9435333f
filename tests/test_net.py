"""`parity net`: which layers of a whole net it names, and that it names none wrongly."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_parity import whole
from caffe_parity.caffe.client import Caffe
from caffe_parity.cli.main import main
from caffe_parity.report.record import read
from caffe_parity.whole.show import COLUMNS, table
from studies.localise.__main__ import answer, compared_with
from studies.localise.edits import Fault
from studies.localise.faults import faults
from studies.localise.ports import NETS, PORTS
from tests.net_text import input_layer, layer
from tests.test_check import codes_in
from tests.test_check_data import caffemodel

PAGE = Path(__file__).parent.parent / "docs" / "net.md"
NET = "examples/small_net.prototxt"
LABELS = ("--data", "label=int:0,4")

PORT = """
import torch
from torch import nn
from torch.nn import functional

class Port(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.norm1 = nn.LocalResponseNorm(5, alpha=0.1, beta=0.75)
        self.fc2 = nn.Linear(150, 5)
        self.loss = nn.CrossEntropyLoss()
        {init}

    def forward(self, data, label):
        x = self.pool1(functional.relu(self.conv1(data)))
        {middle}
        y = self.fc2(self.norm1(x).flatten(1))
        {end}
        return {result}
"""


def net(*arguments: str) -> int:
    """The exit status of `parity net`."""
    return main(["net", *arguments])


def port(
    folder: Path,
    init: str = "pass",
    middle: str = "pass",
    end: str = "pass",
    result: str = "self.loss(y, label.long())",
) -> tuple[str, ...]:
    """Writes a port, right but for what is given; returns the arguments that compare it."""
    text = PORT.format(init=init, middle=middle, end=end, result=result)
    (folder / "port.py").write_text(text)
    return NET, "--port", "port.py:Port", *LABELS, "--phase", "TEST"


@pytest.mark.parametrize("phase", ["TEST", "TRAIN"])
@pytest.mark.parametrize("name", PORTS)
def test_right_ports_agree(caffe: Caffe, name: str, phase: str) -> None:
    """Of nets with branches, in-place layers, shared weights, several losses, in either syntax."""
    torch.manual_seed(1)
    compared, records = compared_with(name, PORTS[name](), phase)
    assert [each.id for each in records if not each.agrees] == []
    assert len(compared.parts) > 4
    assert not compared.unmatched


QUICK = (
    "pooling rounds down",
    "groups are forgotten",
    "a bias that is frozen",
    "half precision",
    "two at once",
    "flattened the wrong way",
    "eps",
    "a coefficient of Eltwise is ignored",
    "channels last",
    "convolutions the other way round",
    "a hook before three",
    "always dropped",
    "half on one branch",
    "a trunk without gradients",
    "the wrong branch",
    "a relu that is missing",
    "norm0 alpha 1.8",
    "the auxiliary loss has another weight",
    "branches in another order",
    "the crop's offset",
    "a gradient that is clipped",
    "alpha of the ELU",
    "one branch is not learned from",
    "the shift of Power",
    "RGB",
    "another momentum",
    "the ratio that is kept",
    "Caffe's gates as they are",
    "sequences go on",
    "a ratio as a function",
    "the legacy formula",
    "no epsilon in the gradient",
    "groups of another order",
    "padded on one side, with the module's weights",
    "no Dropout",
    "a shortcut that is detached",
    "zeros for padding",
    "the batch first",
)


@pytest.mark.parametrize(
    "fault",
    [each for each in faults() if each.name in QUICK],
    ids=lambda fault: f"{fault.net}-{fault.name}",
)
def test_the_right_layer_is_named(caffe: Caffe, fault: Fault) -> None:
    """All that are wrong, no other one, where it shows, and the cause in words."""
    said = answer(fault)
    assert said.named == fault.layers
    assert fault.passes <= said.passes
    assert fault.words in said.words


def test_what_a_person_sees(caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table in the net's order, the culprit, its cause; the record and the page of it."""
    arguments = (NET, "--port", "examples/small_net.py:Converted", *LABELS)
    assert net(*arguments, "--json", "found.json", "--page", "found.html") == 1
    out = capsys.readouterr().out
    assert "are wrong; the worst by " in out
    assert "LocalResponseNorm has alpha 0.02, Caffe's LRN 0.1" in out
    assert out.splitlines()[-1].startswith("disagrees: norm1, 12 comparisons, ")
    report = read(folder / "found.json")
    assert {each.case for each in report.results if each.wrong} == {"norm1"}
    assert "norm1" in (folder / "found.html").read_text()
    assert net(NET, "--port", "examples/small_net.py:SmallNet", *LABELS) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("agrees, 12 comparisons, ")


WRONG: dict[str, tuple[dict[str, str], str]] = {
    "an extra layer": ({"middle": "x = x.sigmoid()"}, "the port's norm1 reads something else"),
    "a detour": ({"middle": "x = x.detach()"}, "is 0 everywhere"),
    "a scale of one that is learned": (
        {"init": "self.gamma = nn.Parameter(torch.ones(1))", "middle": "x = x * self.gamma"},
        "the port's parameter gamma (1,) is none of the net's",
    ),
    "another result": (
        {"result": "self.loss(y, label.long()) * 2"},
        "the loss weight of loss is 1, the port adds it with 2",
    ),
    "a result that is the net's no more": (
        {"end": "self.loss(y, label.long())", "result": "y.softmax(1)"},
        "the port's result 0 (4, 5) is none of the net's values",
    ),
    "without a gradient": (
        {"result": "self.loss(y, label.long()).detach()"},
        "the port adds the loss loss without its gradient: it is detached",
    ),
    "only when it is watched": (
        {"result": "self.loss(y, label.long()) * (1 + (len(self.conv1._forward_hooks) == 0))"},
        "whole: the port gives other bits when it is watched",
    ),
    "in place": ({"middle": "x += 1"}, "the port's norm1 reads something else"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_between_the_modules_is_seen(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Each module is right by itself; what the port does with them is not."""
    changes, words = WRONG[name]
    assert net(*port(folder, **changes)) == 1
    assert words in capsys.readouterr().out


def test_a_layer_that_nothing_computes_proves_nothing(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless it is left out on purpose."""
    arguments = port(folder, result="y")
    assert net(*arguments) == 2
    out = capsys.readouterr().out
    assert "not compared: loss: no part of the port computes them" in out
    assert out.splitlines()[-1].startswith("unproven: loss, ")
    assert net(*arguments, "--leave-out", "loss") == 0


def test_modules_of_other_names(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those with weights are found in their order; the others as --map says."""
    arguments = port(folder)
    text = (folder / "port.py").read_text()
    for name in ("conv1", "pool1", "norm1", "fc2", "loss"):
        text = text.replace(f"self.{name}", f"self.part_{name[::-1]}")
    (folder / "port.py").write_text(text)
    maps = [f"--map={name}=part_{name[::-1]}" for name in ("pool1", "norm1", "loss")]
    assert net(*arguments, *maps) == 0
    out = capsys.readouterr().out
    assert "matched by order: conv1 = part_1vnoc" in out
    assert "matched by --map: norm1 = part_1mron" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            (NET, "--port", "examples/softmax.py:loss"),
            "function: expected an nn.Module, its class",
        ),
        (("examples/forgetful.py:Layer", "--port", "x.py:Y"), "is no prototxt"),
        (("none.prototxt", "--port", "port.py:Port"), "cannot read the net none.prototxt"),
        ((NET, "--port", "port.py:Port", "--map", "conv9=fc2"), "the net's layers are conv1"),
        ((NET, "--port", "port.py:Port", "--map", "conv1=fc3"), "the port's modules are conv1"),
        ((NET, "--port", "port.py:Port", "--map", "conv1"), "expected LAYER=MODULE"),
        ((NET, "--port", "port.py:Port", "--leave-out", "x"), "the net's layers are conv1"),
        ((NET, "--port", "port.py:Port", "--phase", "BOTH"), "invalid choice: 'BOTH'"),
        ((NET, "--port", "port.py:Port", "--data", "x=normal"), "the net's inputs are data, label"),
        ((NET, "--port", "port.py:Port", "--timeout", "0"), "--timeout 0"),
        ((NET, "--port", "port.py:Port", "--seed", "-1"), "--seed -1"),
        ((NET, "--port", "port.py:Port", "--weights", "none"), "--weights none"),
        ((NET, "--port", "port.py:Port", "--json", "no/x.json"), "there is no folder no"),
    ],
)
def test_bad_requests_are_refused_with_words(
    caffe: Caffe,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    words: str,
) -> None:
    """Exit status 2, and what to do."""
    port(folder)
    assert net(*arguments) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert "phase T" not in said.out  # before anything is compared


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        ("def forward(self, data, more, label): return data", "forward takes (data, more, label)"),
        ("def forward(self, data, label): return 1 / 0", "ZeroDivisionError"),
        ("def forward(self, data, label): return data.half_of()", "port.py"),
    ],
)
def test_a_port_that_cannot_run_is_told(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str], forward: str, words: str
) -> None:
    """With its own words and place, and no traceback."""
    (folder / "port.py").write_text(f"from torch import nn\nclass Port(nn.Module):\n  {forward}\n")
    assert net(NET, "--port", "port.py:Port", *LABELS) == 2
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err


def test_weights_of_a_file_are_taken(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A .caffemodel gives the net's parameters, and through it the port's."""
    weight = np.random.RandomState(0).normal(0, 0.01, (5, 150)).astype(np.float32)
    bias = np.arange(5, dtype=np.float32)
    caffemodel(folder / "some.caffemodel", fc2=[weight, bias])
    arguments = port(folder)
    assert net(*arguments, "--weights", "some.caffemodel", "--json", "found.json") == 0
    records = {each.case: each for each in read(folder / "found.json").results}
    assert abs(records["fc2"].tensors["fc2"].expected) < 10
    caffemodel(folder / "some.caffemodel", fc2=[weight, 1e6 + bias])
    assert net(*arguments, "--weights", "some.caffemodel", "--json", "found.json") == 0
    records = {each.case: each for each in read(folder / "found.json").results}
    assert records["fc2"].tensors["fc2"].expected > 1e5


UNFILLED = (
    input_layer("data", 2, 3, 8, 8)
    + layer("Convolution", "data", "a", "convolution_param { num_output: 4 kernel_size: 3 }")
    + layer("ReLU", "a", "b")
    + layer("InnerProduct", "b", "c", "inner_product_param { num_output: 5 }")
)
UNFILLED_PORT = """
from torch import nn

class Port(nn.Sequential):
    def __init__(self, act=nn.ReLU):
        super().__init__(nn.Conv2d(3, 4, 3), act(), nn.Flatten(), nn.Linear(144, 5))

def wrong():
    return Port(nn.Tanh)

def half():
    return Port().half()
"""


def test_a_port_in_half_is_not_compared_in_another_precision(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was, without a word."""
    Path("net.prototxt").write_text(UNFILLED)
    Path("model.py").write_text(UNFILLED_PORT)
    assert net("net.prototxt", "--port", "model.py:half") == 2
    assert "the port's 0.weight is float16, and is compared in float32" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "named"), [("Port", set()), ("wrong", {"ReLU-b"})])
def test_a_net_without_fillers_is_not_all_zeros(
    caffe: Caffe, folder: Path, name: str, named: set[str]
) -> None:
    """As a deploy net without its weights: of zeros everything would agree."""
    Path("net.prototxt").write_text(UNFILLED)
    Path("model.py").write_text(UNFILLED_PORT)
    status = net("net.prototxt", "--port", f"model.py:{name}", "--json", "found.json")
    assert status == bool(named)
    results = read(Path("found.json")).results
    assert {each.case for each in results if each.wrong} == named
    worst = [each.tensors[each.case[-1]].expected for each in results if "ReLU" not in each.case]
    assert all(worst)


BLOCK = """
import torch
from torch import nn
from torch.nn import functional

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4, momentum=1e-3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        identity = x{detached}
        out = self.bn1(self.conv1(x))
        out += identity
        return self.relu(out)

class Port(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(Block())
        self.head = nn.Linear(144, 5)

    def forward(self, data, label):
        x = self.layer1(self.relu(self.norm(self.stem(data))))
        return functional.cross_entropy(self.head(x.flatten(1)), label.long()){times}

def make():
    return Port()
"""
RESIDUAL = (
    input_layer("data", 3, 3, 8, 8)
    + input_layer("label", 3)
    + layer(
        "Convolution",
        "data",
        "a",
        "convolution_param { num_output: 4 kernel_size: 3 "
        'bias_term: false weight_filler { type: "xavier" } }',
    )
    + layer("BatchNorm", "a", "b")
    + layer("Scale", "b", "c", "scale_param { bias_term: true }")
    + layer("ReLU", "c", "d")
    + layer(
        "Convolution",
        "d",
        "e",
        "convolution_param { num_output: 4 kernel_size: 3 pad: 1 "
        'bias_term: false weight_filler { type: "xavier" } }',
    )
    + layer("BatchNorm", "e", "f")
    + layer("Scale", "f", "g", "scale_param { bias_term: true }")
    + layer("Eltwise", "g d", "h")
    + layer("ReLU", "h", "i")
    + layer(
        "InnerProduct",
        "i",
        "j",
        'inner_product_param { num_output: 5 weight_filler { type: "xavier" } }',
    )
    + layer("SoftmaxWithLoss", "j label", "loss")
)


@pytest.mark.parametrize("phase", ["TEST", "TRAIN"])
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, set()),
        ({"detached": ".detach()"}, {"ReLU-d -> Eltwise-h"}),
        ({"times": " * 2"}, {"SoftmaxWithLoss-loss"}),
    ],
    ids=["right", "detached", "twice"],
)
def test_a_residual_block_as_people_write_it(
    caffe: Caffe,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    phase: str,
    changes: dict[str, str],
    named: set[str],
) -> None:
    """Other names, `out += identity`, a ReLU in place that is used again, a loss as a function.

    That one BatchNorm has PyTorch's usual momentum is told, and wrong is nothing for it.
    """
    Path("net.prototxt").write_text(RESIDUAL)
    Path("block.py").write_text(BLOCK.format(**{"detached": "", "times": "", **changes}))
    arguments = ["net.prototxt", "--port", "block.py:make", *LABELS, "--phase", phase]
    assert net(*arguments, "--json", "found.json") == bool(named)
    results = read(Path("found.json")).results
    assert {each.case for each in results if each.wrong} == named
    usual = ["BatchNorm-b, Scale-c"] if phase == "TRAIN" else []
    assert [each.case for each in results if each.notes] == usual
    said = "note: statistics: BatchNorm-b, Scale-c: a forward moves the port's norm.running_mean by"
    assert (said in capsys.readouterr().out) == bool(usual)


PARTS = """
import torch
from torch import nn

class Port(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2, 2, ceil_mode=True))
        self.act = nn.PReLU(4)
        self.end = nn.Sequential(nn.Flatten(), nn.Dropout({ratio}), nn.Linear(36, 5))

    def forward(self, data):
        one, two = self.body(data).chunk(2, 1)
        both = self.act(one) * torch.sigmoid(two){detached} - 0.5 * torch.max(one, two)
        return {{"{key}": self.end(both)}}
"""
SLICED = (
    input_layer("data", 3, 3, 8, 8)
    + layer(
        "Convolution",
        "data",
        "a",
        'convolution_param { num_output: 8 kernel_size: 3 weight_filler { type: "xavier" } }',
    )
    + layer("Pooling", "a", "b", "pooling_param { kernel_size: 2 stride: 2 }")
    + layer("Slice", "b", "one two", "slice_param { axis: 1 slice_point: 4 }")
    + layer("PReLU", "one", "c")
    + layer("Sigmoid", "two", "d")
    + layer("Eltwise", "c d", "e", "eltwise_param { operation: PROD }")
    + layer("Eltwise", "one two", "f", "eltwise_param { operation: MAX }")
    + layer("Eltwise", "e f", "g", "eltwise_param { operation: SUM coeff: 1 coeff: -0.5 }")
    + layer("Dropout", "g", "h", "dropout_param { dropout_ratio: 0.5 }")
    + layer(
        "InnerProduct",
        "h",
        "last",
        'inner_product_param { num_output: 5 transpose: true weight_filler { type: "xavier" } }',
    )
)


@pytest.mark.parametrize("phase", ["TEST", "TRAIN"])
@pytest.mark.parametrize(
    ("changes", "status"),
    [({}, 0), ({"key": "one"}, 0), ({"detached": ".detach()"}, 1), ({"ratio": "0.3"}, 1)],
    ids=["right", "a blob's name for another", "detached", "ratio"],
)
def test_a_net_in_pieces_as_people_write_it(
    caffe: Caffe, folder: Path, phase: str, changes: dict[str, str], status: int
) -> None:
    """Modules without names, a Slice as a chunk, a transposed weight, a dict as the result."""
    Path("net.prototxt").write_text(SLICED)
    usual = {"ratio": "0.5", "detached": "", "key": "last"}
    Path("parts.py").write_text(PARTS.format(**(usual | changes)))
    if "ratio" in changes and phase == "TEST":  # where a Dropout does nothing
        status = 0
    assert net("net.prototxt", "--port", "parts.py:Port", "--phase", phase) == status


def test_two_runs_are_the_same(caffe: Caffe, folder: Path) -> None:
    """The fillers draw from the seed."""
    seen = []
    for seed in ("0", "0", "1"):
        assert net(*port(folder), "--seed", seed, "--json", "found.json") == 0
        records = read(folder / "found.json").results
        seen.append([[one.actual for one in each.tensors.values()] for each in records])
    assert np.array_equal(seen[0][0], seen[1][0])
    assert not np.array_equal(seen[0][0], seen[2][0])


def test_commands_of_the_page_do_what_it_says(caffe: Caffe, folder: Path) -> None:
    """Each ends with the exit status that stands behind it, or 0."""
    lines = re.findall(r"^    parity (net .*)$", PAGE.read_text(), re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        command, _, status = line.partition("  # exit status ")
        assert main(shlex.split(command)) == int(status or 0)


def test_every_code_stands_on_the_page() -> None:
    """What a line of the output begins with can be looked up."""
    folder = Path(whole.__file__).parent
    codes = set().union(*(codes_in(file) for file in folder.glob("*.py")))
    assert {"wiring", "total", "whole"} <= codes
    table = "".join(re.findall(r"^\| (`.*?) \|", PAGE.read_text(), re.MULTILINE))
    assert {code for code in codes if f"`{code}`" not in table} == set()


BRANCHES = """
import torch
from torch import nn

class Port(nn.Module):
    def __init__(self):
        super().__init__()
        for name in {defined}:
            extent = 1 if name == {names}["stem"] else 3
            setattr(self, name, nn.Conv2d(3 if extent == 1 else 4, 4, extent, padding=extent // 2))
        self.tail = nn.Linear(576, 5)

    def forward(self, data):
        made = {{}}
        x = self.{names[stem]}(data)
        for branch in {order}:
            if branch == "a":
                made["a"] = self.{names[a2]}(torch.relu(self.{names[a]}(x)))
            elif branch == "p":
                made["p"] = nn.functional.max_pool2d(x, 3, 1, 1)
            else:
                made[branch] = getattr(self, {names}[branch])(x)
        return self.tail(torch.cat([made[each] for each in "abcp"], 1).flatten(1))
"""


def branches() -> str:
    """Four branches, three of which begin with the same kind of layer."""

    def conv(bottom: str, name: str, rest: str) -> str:
        return (
            f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" '
            f'convolution_param {{ num_output: 4 {rest} weight_filler {{ type: "xavier" }} }} }}'
        )

    return (
        input_layer("data", 2, 3, 6, 6)
        + conv("data", "stem", "kernel_size: 1")
        + conv("stem", "a", "kernel_size: 3 pad: 1")
        + 'layer { name: "r" type: "ReLU" bottom: "a" top: "a" }'
        + conv("a", "a2", "kernel_size: 3 pad: 1")
        + conv("stem", "b", "kernel_size: 3 pad: 1")
        + conv("stem", "c", "kernel_size: 3 pad: 1")
        + layer("Pooling", "stem", "p", "pooling_param { kernel_size: 3 stride: 1 pad: 1 }")
        + layer("Concat", "a2 b c p", "d", "concat_param { axis: 1 }")
        + layer(
            "InnerProduct",
            "d",
            "e",
            'inner_product_param { num_output: 5 weight_filler { type: "xavier" } }',
        )
    )


@pytest.mark.parametrize("seed", range(3))
def test_branches_of_one_shape_in_any_order(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    """Neither names nor the order in which modules are defined and run tell which is which."""
    rng = np.random.RandomState(seed)
    layers = ["stem", "a", "a2", "b", "c"]
    names = dict(zip(layers, (f"m{number}" for number in rng.permutation(5)), strict=True))
    order = [str(each) for each in rng.permutation(list("abcp"))]
    text = BRANCHES.format(defined=sorted(names.values()), names=names, order=order)
    text = text.replace("self.{names[stem]}", f"self.{names['stem']}")
    Path("port.py").write_text(text)
    Path("net.prototxt").write_text(branches())
    assert net("net.prototxt", "--port", "port.py:Port", "--phase", "TEST") == 0
    out = capsys.readouterr().out
    wrong = [
        (layer_, module)
        for layer_, module in re.findall(r"matched by [\w ]+: (\w+) = (m\d)", out)
        if names[layer_] != module
    ]
    assert wrong == []


SUMMED = """
import torch
from torch import nn
from torch.nn import functional as F

class Port(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(8, 4)
        self.fc2 = nn.Linear(8, 3)

    def forward(self, data, label, target):
        x, y = self.fc1(data), self.fc2(data)
        loss = {first} * F.cross_entropy(x, label.long())
        loss = loss + {second} * ((y - target) ** 2).sum() / (2 * len(x))
        loss += F.cross_entropy(y, label.long(), label_smoothing={smoothed})
        return loss
"""
LOSSES = (
    input_layer("data", 5, 8)
    + input_layer("label", 5)
    + input_layer("target", 5, 3)
    + "".join(
        f'layer {{ name: "fc{number}" type: "InnerProduct" bottom: "data" top: "fc{number}" '
        f'inner_product_param {{ num_output: {count} weight_filler {{ type: "xavier" }} }} }}'
        for number, count in ((1, 4), (2, 3))
    )
    + layer("SoftmaxWithLoss", "fc1 label", "a", "loss_weight: 0.5")
    + layer("EuclideanLoss", "fc2 target", "b", "loss_weight: 0.3")
    + layer("SoftmaxWithLoss", "fc2 label", "c")
)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, set()),
        ({"first": "0.4"}, {"total a"}),
        ({"second": "0.4"}, {"EuclideanLoss-b"}),
        ({"smoothed": "0.1"}, {"SoftmaxWithLoss-c"}),
    ],
)
def test_losses_that_are_only_added_up(
    caffe: Caffe, folder: Path, changes: dict[str, str], named: set[str]
) -> None:
    """Each is matched by what it is made of, with its weight on it or not."""
    Path("net.prototxt").write_text(LOSSES)
    usual = {"first": "0.5", "second": "0.3", "smoothed": "0.0"}
    Path("port.py").write_text(SUMMED.format(**(usual | changes)))
    arguments = ("--data", "label=int:0,2", "--phase", "TEST", "--json", "found.json")
    assert net("net.prototxt", "--port", "port.py:Port", *arguments) == bool(named)
    assert {each.case for each in read(Path("found.json")).results if each.wrong} == named


DROPPING = """
import torch
from torch import nn
from torch.nn import functional as F

class Port(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(8, 8)
        self.fc2 = nn.Linear(8, 8)
        self.fc3 = nn.Linear(8, 8)
        self.drop1 = nn.Dropout(0.4)

    def forward(self, data):
        y = self.fc2(self.drop1(self.fc1(data).relu()))
        return self.fc3({drop})
"""
DROPPED = input_layer("data", 5, 8) + "".join(
    f'layer {{ name: "fc{number}" type: "InnerProduct" bottom: "{bottom}" top: "fc{number}" '
    'inner_product_param { num_output: 8 weight_filler { type: "xavier" } } }'
    + after.replace("BLOB", f"fc{number}")
    for number, bottom, after in (
        (
            1,
            "data",
            'layer { name: "r" type: "ReLU" bottom: "BLOB" top: "BLOB" } '
            'layer { name: "drop1" type: "Dropout" bottom: "BLOB" top: "BLOB" '
            "dropout_param { dropout_ratio: 0.4 } }",
        ),
        (2, "fc1", 'layer { name: "drop2" type: "Dropout" bottom: "BLOB" top: "d2" }'),
        (3, "d2", ""),
    )
)


@pytest.mark.parametrize(
    ("drop", "status", "words"),
    [
        ("F.dropout(y, training=self.training)", 0, "agrees, 6 comparisons"),
        ("F.dropout(y, 0.5, self.training, True)", 0, "agrees, 6 comparisons"),
        ("F.dropout(y, 0.3, self.training)", 1, "dropout_param.dropout_ratio"),
        ("y * (torch.rand_like(y) > 0.5) * 2", 2, "left out: drop2: it draws random numbers"),
        ("y", 1, "the port drops nothing: Caffe's drop2 sets 0.5 of the elements to 0"),
    ],
)
def test_one_mask_in_both(
    caffe: Caffe,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    drop: str,
    status: int,
    words: str,
) -> None:
    """A Dropout behind a ReLU, where half of the mask cannot be seen in the top."""
    Path("net.prototxt").write_text(DROPPED)
    Path("port.py").write_text(DROPPING.format(drop=drop))
    assert net("net.prototxt", "--port", "port.py:Port", "--phase", "TRAIN") == status
    assert words in capsys.readouterr().out


STACKED = """
import torch
from studies.localise.ports import Siamese

class Port(Siamese):
    def forward(self, left, right, sim):
        self.act.alpha = {alpha}
        both = self.branch(torch.cat([{order}]))
        one, two = {parts}
        return self.loss(one, two, sim)
"""


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, set()),
        ({"order": "right, left", "parts": "both[4:], both[:4]"}, set()),
        ({"alpha": "1.0"}, {"act"}),
        ({"parts": "both[::2], both[1::2]"}, {"feat & feat_p (Slice)"}),
    ],
    ids=["right", "the other order", "alpha", "mixed"],
)
def test_branches_as_one_batch(
    caffe: Caffe, folder: Path, changes: dict[str, str], named: set[str]
) -> None:
    """A siamese port that runs both of its inputs at once."""
    usual = {"alpha": "0.8", "order": "left, right", "parts": "both.chunk(2)"}
    Path("port.py").write_text(STACKED.format(**(usual | changes)))
    arguments = ("--data", "sim=binary", "--phase", "TEST", "--json", "found.json")
    prototxt = str(NETS / "siamese.prototxt")
    assert net(prototxt, "--port", "port.py:Port", *arguments) == bool(named)
    assert {each.case for each in read(Path("found.json")).results if each.wrong} == named


def test_a_wide_table_leaves_out_what_can_be_told_without() -> None:
    """On a terminal too narrow for it the types go first, then the modules; the figures stay."""
    rows = [COLUMNS, ("inception_3a/output", "Concat", "net.inception.3a", "0", "0", "", "2.5")]
    rows.append(("loss", "SoftmaxWithLoss", "loss", "2.8e+05 wrong", "1", "", "6.2e+04"))
    assert [table(rows, width)[0].split() for width in (0, 110, 90, 70)] == [
        [*COLUMNS],
        [*COLUMNS],
        [each for each in COLUMNS if each != "type"],
        [each for each in COLUMNS if each not in ("type", "port")],
    ]
    assert all(len(line) <= 70 for line in table(rows, 70))
