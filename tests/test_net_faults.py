"""`parity net`: what a port must not get away with, and whom it must not be blamed on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from caffe_parity.caffe.client import Caffe
from caffe_parity.cli.main import main
from caffe_parity.contract import BadRequest
from caffe_parity.engine.random_rounding import expect
from caffe_parity.report.record import Record, read
from studies.localise.__main__ import compared_with
from studies.localise.edits import rewritten
from studies.localise.ports import NETS, PORTS, Inception, LeNet, Siamese
from tests.net_text import input_layer
from tests.public_nets import layer


def said(name: str, model: nn.Module, phase: str = "TEST") -> dict[str, str]:
    """By record that is no pass, what is said of it."""
    _, records = compared_with(name, model, phase)
    return words_of(records)


def words_of(records: list[Record]) -> dict[str, str]:
    """By record that is no pass, what is said of it."""
    return {
        each.case: "\n".join(one.words for one in each.findings)
        for each in records
        if not each.agrees and each.verdict != "not run"
    }


def unlearned(model: nn.Module) -> None:
    """Freezes all of it."""
    model.requires_grad_(requires_grad=False)


def as_buffers(model: nn.Module) -> None:
    """Makes buffers of its weights and biases."""
    for module in model.modules():
        for name, each in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, each.data)


@pytest.mark.parametrize(
    ("name", "edit"),
    [*((name, unlearned) for name in PORTS), ("lenet", as_buffers)],
)
def test_each_parameter_that_the_port_does_not_learn_is_named(
    caffe: Caffe, name: str, edit: Callable[[nn.Module], None]
) -> None:
    """Where Caffe learns it, whatever the layer; the forward and the rest of the backward agree."""
    model = PORTS[name]()
    edit(model)
    compared, records = compared_with(name, model, "TEST")
    findings = [one for each in records for one in each.findings]
    assert {one.code for one in findings} == {"parameter"}
    for param in compared.net.learned:
        assert any(f"the port does not learn {param}: " in one.words for one in findings)
    assert len(findings) == len(compared.net.learned)


FROZEN = """
layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: 2 dim: 3 dim: 6 dim: 6 }} }} }}
layer {{ name: "conv0" type: "Convolution" bottom: "data" top: "conv0" param {{ lr_mult: 0 }} param {{ lr_mult: 0 }}
  convolution_param {{ num_output: 4 kernel_size: 3 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "conv1" type: "Convolution" bottom: "conv0" top: "conv1"
  convolution_param {{ num_output: 4 kernel_size: 1 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "fc" type: "InnerProduct" bottom: "conv1" top: "fc" {stops}
  inner_product_param {{ num_output: 4 weight_filler {{ type: "xavier" }} }} }}
"""  # noqa: E501

FREEZING = """
from torch import nn

class Port(nn.Module):
    def __init__(self, frozen="conv0"):
        super().__init__()
        self.conv0, self.conv1 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(64, 4)
        for name in frozen.split():
            getattr(self, name).requires_grad_(False)

    def forward(self, data):
        x = self.conv1(self.conv0(data)).flatten(1)
        return self.fc({given})

def more():
    return Port("conv0 conv1")
"""


@pytest.mark.parametrize(
    ("stops", "given", "port", "status"),
    [
        ("", "x", "Port", 0),
        ("", "x", "more", 1),
        ("propagate_down: false", "x.detach()", "Port", 0),
        ("propagate_down: false", "x.detach()", "more", 0),
    ],
)
def test_what_caffe_does_not_learn_either_may_be_frozen(
    caffe: Caffe, folder: Path, stops: str, given: str, port: str, status: int
) -> None:
    """By `lr_mult: 0`, or behind a `propagate_down: false`."""
    Path("net.prototxt").write_text(FROZEN.format(stops=stops))
    Path("port.py").write_text(FREEZING.format(given=given))
    assert main(["net", "net.prototxt", "--port", f"port.py:{port}"]) == status


class Untied(Siamese):
    """Two branches with weights of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_p, self.feat_p = copy.deepcopy(self.conv), copy.deepcopy(self.feat)

    def forward(self, left: Tensor, right: Tensor, sim: Tensor) -> Tensor:
        """The loss."""
        one = self.branch(left)
        other = self.feat_p(self.act(self.conv_p(right)).flatten(1))
        return self.loss(one, other, sim)  # type: ignore[no-any-return]


def test_weights_that_are_shared_in_caffe_alone_are_told(caffe: Caffe) -> None:
    """Each would learn half."""
    found = said("siamese", Untied())
    assert set(found) == {"conv", "feat"}
    assert "the port learns conv.weight, conv_p.weight apart" in found["conv"]


class Returned(Inception):
    """What the port returns of its losses is given."""

    def __init__(self, given: Callable[..., Any]) -> None:
        super().__init__()
        self.given = given

    def forward(self, data: Tensor, label: Tensor) -> Any:
        """What is given."""
        x = self.norm0(data)
        parts = [self.inc_1x1(x).relu(), self.inc_3x3(x).relu(), self.inc_proj(self.inc_pool(x))]
        x = torch.cat(parts, 1)
        aux = self.aux_loss(self.aux_fc(self.aux_pool(x).flatten(1)), label.long())
        main = self.loss(self.fc(self.pool2(x).flatten(1)), label.long())
        return self.given(main, aux, self.fc.weight)


RETURNED: Mapping[str, tuple[Callable[..., Any], Mapping[str, str]]] = {
    "the sum": (lambda m, a, w: m + 0.3 * a, {}),
    "both": (lambda m, a, w: (m, a), {}),
    "the sum and both": (lambda m, a, w: (m + 0.3 * a, m, a), {}),
    "both, weighted": (lambda m, a, w: (m, 0.3 * a), {}),
    "by name": (lambda m, a, w: {"loss": m, "aux/loss": a}, {}),
    "one by name": (lambda m, a, w: {"loss": m}, {"result aux/loss": "does not return it"}),
    "one": (lambda m, a, w: m, {"total aux/loss": "is 0.3, the port adds it with 0"}),
    "another weight": (
        lambda m, a, w: m + a,
        {"total aux/loss": "the loss weight of aux/loss is 0.3, the port adds it with 1"},
    ),
    "one of both weighted wrongly": (
        lambda m, a, w: (m, 0.5 * a),
        {"total aux/loss": "is 0.3, the port adds it with 0.5"},
    ),
    "the sum by name": (
        lambda m, a, w: {"total": m + 0.2 * a, "loss": m, "aux/loss": a},
        {"total aux/loss": "is 0.3, the port adds it with 0.2"},
    ),
    "detached": (lambda m, a, w: m + 0.3 * a.detach(), {"total aux/loss": "it is detached"}),
    "something more": (lambda m, a, w: m + 0.3 * a + 1, {"total": "adds 1 to the net's losses"}),
    "decay": (lambda m, a, w: m + 0.3 * a + w.square().sum(), {"total": "made of fc[0]"}),
    "decay that is 0": (
        lambda m, a, w: m + 0.3 * a + (w - w.detach()).sum(),
        {"total": "made of fc[0]"},
    ),
}


@pytest.mark.parametrize("name", RETURNED)
def test_each_loss_is_returned_with_its_weight(caffe: Caffe, name: str) -> None:
    """In whatever form; what is not is said, and does not agree."""
    given, expected = RETURNED[name]
    found = said("inception", Returned(given))
    assert set(found) == set(expected)
    assert all(words in found[case] for case, words in expected.items())


@pytest.mark.parametrize(
    ("old", "new", "status", "words"),
    [
        ("", "", 0, "agrees"),
        ("0.3 * tops", "tops", 1, "the loss weight of aux/loss is 0.3, the port's total adds it"),
        ('+ tops["loss"].sum()', "", 1, "the loss weight of loss is 1, the port's total adds it"),
        ('tops["loss"]', 'tops["lost"]', 2, "the port's total cannot be evaluated"),
        ('"aux/loss": aux_loss, ', "", 2, "the port's total cannot be evaluated"),
    ],
)
def test_the_sum_that_parity_port_writes_is_part_of_the_port(
    caffe: Caffe,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    old: str,
    new: str,
    status: int,
    words: str,
) -> None:
    """What is edited in `total` is seen, as in `forward`."""
    prototxt, labels = str(NETS / "inception.prototxt"), ("--data", "label=int:0,3")
    assert main(["port", prototxt, "-o", "net.py", *labels]) == 0
    text = Path("net.py").read_text()
    assert old in text
    Path("net.py").write_text(text.replace(old, new))
    more = ("--phase", "TEST", *labels)
    assert main(["net", prototxt, "--port", "net.py:load", *more]) == status
    out, err = capsys.readouterr()
    assert words in out + err


def test_an_output_that_is_not_returned_is_left_out_on_purpose_alone(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here the second of the tops of a Slice, which nothing else computes."""
    Path("net.prototxt").write_text(
        'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 6 } } }\n'
        'layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" '
        'inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }\n'
        'layer { name: "cut" type: "Slice" bottom: "fc" top: "one" top: "two" }\n'
    )
    Path("port.py").write_text(
        "from torch import nn\n"
        "class Port(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.fc = nn.Linear(6, 4)\n"
        "    def forward(self, data):\n"
        "        return {'one': self.fc(data)[:, :2]}\n"
        "class Whole(Port):\n"
        "    def forward(self, data):\n"
        "        return self.fc(data).chunk(2, 1)\n"
    )
    assert main(["net", "net.prototxt", "--port", "port.py:Port"]) == 2
    assert "not compared: the net's output two: the port does" in capsys.readouterr().out
    assert main(["net", "net.prototxt", "--port", "port.py:Port", "--leave-out", "two"]) == 0
    assert main(["net", "net.prototxt", "--port", "port.py:Whole"]) == 0


STEM = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv0" type: "Convolution" bottom: "data" top: "conv0"
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "relu0" type: "ReLU" bottom: "conv0" top: "conv0" }
layer { name: "conv1" type: "Convolution" bottom: "conv0" top: "conv1" convolution_param { num_output: 6
  kernel_size: 3 stride: 2 pad: 1 weight_filler { type: "xavier" } bias_filler { type: "uniform" max: 0.5 } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: "fc" type: "InnerProduct" bottom: "pool1" top: "fc" inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "fc" bottom: "target" top: "loss" }
input: "target" input_shape { dim: 2 dim: 4 }
"""  # noqa: E501

STEMS = """
import torch
from torch import nn
from torch.nn import functional as F

class Module(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, 2)
    def forward(self, x):
        return {act}(self.conv(F.pad(x, {pad})))

class Inside(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(6, 4, 3, 3)), nn.Parameter(torch.zeros(6))
    def forward(self, x):
        return {act}(F.conv2d(F.pad(x, {pad}), self.weight, stride=2) + self.bias[:, None, None])

class Row(nn.Sequential):
    def __init__(self):
        super().__init__(nn.ZeroPad2d({pad}), nn.Conv2d(4, 6, 3, 2))
    def forward(self, x):
        return {act}(super().forward(x))

class Sum(nn.Module):
    def forward(self, x, y):
        return F.mse_loss(x, y, reduction="sum")

class Port(nn.Module):
    def __init__(self, stem, name):
        super().__init__()
        self.conv0 = nn.Conv2d(3, 4, 3, padding=1)
        self.name = name
        setattr(self, name, stem())
        self.pool1, self.fc = nn.MaxPool2d(3, 2, ceil_mode=True), nn.Linear(24, 4)
        self.loss = Sum()
    def forward(self, data, target):
        x = getattr(self, self.name)(F.relu(self.conv0(data)))
        return self.loss(self.fc(self.pool1(x).flatten(1)), target) / {count}
"""


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, set()),
        ({"pad": "(0, 1, 0, 1)"}, {"conv1"}),
        ({"pad": "(2, 0, 1, 1)"}, {"conv1"}),
        ({"act": "F.silu"}, {"relu1"}),
        ({"act": "torch.abs"}, {"relu1"}),
        ({"pad": "(2, 0, 1, 1)", "act": "F.silu"}, {"conv1", "relu1"}),
        ({"count": "len(data)"}, {"loss"}),
    ],
)
@pytest.mark.parametrize(
    ("stem", "name"), [("Module", "stem"), ("Inside", "conv1"), ("Row", "conv1")]
)
def test_what_one_module_computes_is_told_apart(
    caffe: Caffe, folder: Path, stem: str, name: str, changes: dict[str, str], named: set[str]
) -> None:
    """A padding, a convolution and a ReLU in one; a sum and, outside, what it is divided by."""
    Path("net.prototxt").write_text(STEM)
    usual = {"act": "F.relu", "pad": "(1, 1, 1, 1)", "count": "(2 * len(data))"}
    text = STEMS.format(**(usual | changes)) + f"\ndef made():\n    return Port({stem}, {name!r})\n"
    Path("port.py").write_text(text)
    arguments = ["net", "net.prototxt", "--port", "port.py:made", "--phase", "TEST"]
    status = main([*arguments, "--json", "found.json"])
    found = words_of([*read(Path("found.json")).results])
    assert {name for case in found for name in case.split(", ")} == named
    assert all("one of conv1, relu1, which" in found[case] for case in found if ", " in case)
    assert status == bool(named)
    if "pad" in changes and set(found) == {"conv1"}:
        assert changes["pad"] in found["conv1"] or stem == "Inside"


class Guarded(LeNet):
    """Some of it runs in a context."""

    def __init__(self, context: Callable[[], Any], whole: bool) -> None:
        super().__init__()
        self.context, self.whole = context, whole

    def forward(self, data: Tensor, label: Tensor) -> Tensor:
        """The loss."""
        with self.context():
            x = self.pool2(self.conv2(self.pool1(self.conv1(data))))
            if self.whole:
                return self.end(x, label)
        return self.end(x if x.requires_grad else x.clone(), label)

    def end(self, x: Tensor, label: Tensor) -> Tensor:
        """The loss."""
        x = self.ip2(self.drop1(self.relu1(self.ip1(x.flatten(1)))))
        return self.loss(x, label.long())  # type: ignore[no-any-return]


@pytest.mark.parametrize("phase", ["TEST", "TRAIN"])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("whole", [False, True])
def test_what_runs_without_gradients_is_told_once(
    caffe: Caffe, context: Callable[[], Any], whole: bool, phase: str
) -> None:
    """And no layer is blamed, behind it neither; the values are compared."""
    found = said("lenet", Guarded(context, whole), phase)
    names = "" if whole else "conv1, pool1, conv2, pool2"
    assert set(found) == {f"gradients {names}".strip()}
    words = f"the port computes {names or 'every layer'} without gradients, as under torch.no_grad"
    assert words in next(iter(found.values()))
    model = Guarded(context, whole)
    model.pool1.ceil_mode = False
    assert "pool1" in said("lenet", model, phase)


class Turned(Siamese):
    """The right branch runs first."""

    def forward(self, left: Tensor, right: Tensor, sim: Tensor) -> Tensor:
        """The loss."""
        other = self.branch(right)
        return self.loss(self.branch(left), other, sim)  # type: ignore[no-any-return]


def test_branches_may_run_in_any_order(caffe: Caffe) -> None:
    """Each call is that layer's whose bottom it reads; a fault is told of its own layers."""
    assert said("siamese", Turned()) == {}
    model = Turned()
    model.act = nn.ELU(1.0)
    assert set(said("siamese", model)) == {"act", "act_p"}


class Leaking(LeNet):
    """The values are right, and a gradient goes where none should."""

    def forward(self, data: Tensor, label: Tensor) -> Tensor:
        """The loss."""
        first = self.conv1(data)
        x = self.ip1(self.pool2(self.conv2(self.pool1(first))).flatten(1))
        x = self.drop1(self.relu1(x + (first - first.detach()).mean()))
        return self.loss(self.ip2(x), label.long())  # type: ignore[no-any-return]


def test_a_gradient_to_what_the_layer_does_not_read_is_told(caffe: Caffe) -> None:
    """The part's own gradients are right, and so are its values."""
    found = said("lenet", Leaking())
    assert set(found) == {"relu1"}
    assert "sends a gradient back to conv1, which Caffe's relu1 does not read" in found["relu1"]


@pytest.mark.parametrize(
    ("returned", "noted"),
    [
        ("0.7 * bare", False),
        ("{'loss': 0.7 * bare}", False),
        ("bare", True),
        ("{'loss': bare}", True),
        ("(x, bare)", True),
        ("{'fc8': x, 'total': bare}", True),
    ],
)
def test_a_loss_may_be_returned_without_its_weight(
    caffe: Caffe, returned: str, noted: bool
) -> None:
    """As Caffe's blob has it; that it is so is said."""
    model = PORTS["caffenet"]()
    loss = "return 0.7 * functional.cross_entropy(x, label.long())"
    new = f"bare = functional.cross_entropy(x, label.long())\n    return {returned}"
    rewritten((loss, new))(model)
    _, records = compared_with("caffenet", model, "TEST")
    assert words_of(records) == {}
    notes = [one.words for each in records for one in each.notes]
    assert [*map(bool, notes)] == [True] * noted
    assert all("returns loss without Caffe's loss_weight 0.7" in each for each in notes)


def test_a_batch_norm_that_is_folded_into_numbers_is_unproven(caffe: Caffe) -> None:
    """Whose they are: the port's. Where its forward makes them of Caffe's, it agrees."""
    model: Any = PORTS["block"]()
    model.conv1 = nn.Conv2d(3, 6, 3, padding=1)
    del model.bn1
    rewritten(("self.bn1(self.conv1(data))", "self.conv1(data)"))(model)
    _, records = compared_with("block", model, "TEST")
    assert [each.case for each in records if not each.agrees] == ["conv1, bn1, scale1"]
    assert not any(each.wrong for each in records)
    model = PORTS["block"]()
    rewritten(
        (
            "self.bn1(self.conv1(data))",
            "functional.conv2d(data, self.conv1.weight * (self.bn1.weight / (self.bn1.running_var "
            "+ self.bn1.eps).sqrt()).view(-1, 1, 1, 1), self.bn1.bias - self.bn1.running_mean * "
            "self.bn1.weight / (self.bn1.running_var + self.bn1.eps).sqrt(), padding=1)",
        )
    )(model)
    assert said("block", model) == {}


def test_a_sum_of_losses_may_have_the_name_of_one(caffe: Caffe) -> None:
    """It must have their weights all the same."""
    model = PORTS["inception"]()
    rewritten(("main + 0.3 * aux", "{'loss': main + 0.3 * aux}"))(model)
    assert said("inception", model) == {}
    model = PORTS["inception"]()
    rewritten(("main + 0.3 * aux", "{'loss': main + aux}"))(model)
    assert set(said("inception", model)) == {"total aux/loss"}


def test_a_port_may_name_float32_and_make_constants(caffe: Caffe) -> None:
    """Which are of the precision of the run, that is float64 where a bound is derived."""
    model = PORTS["caffenet"]()
    rewritten(("self.fc8(x)", "self.fc8(x.to(torch.float32) @ torch.eye(10)).float()"))(model)
    assert said("caffenet", model) == {}


LOOP = """
import torch
from torch import nn

class Port(nn.Module):
    def __init__(self):
        super().__init__()
        for name, *shape in {parameters}:
            setattr(self, name, nn.Parameter(torch.zeros(*shape)))

    def forward(self, data, cont):
        h = c = torch.zeros(data.shape[1], 4)
        made = []
        for x, keep in zip(data, cont.unsqueeze(-1)):
            gates = x @ self.{x}.t() + self.{bias} + (keep * h) @ self.{h}.t()
            {order} = gates.chunk(4, 1)
            c = f.sigmoid() * ({kept}c) + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            made.append(h)
        return torch.stack(made)
"""

OWN = {
    "parameters": [("weight", 16, 5), ("bias", 16), ("inner", 16, 4)],
    "x": "weight",
    "bias": "bias",
    "h": "inner",
    "order": "i, f, o, g",
    "kept": "keep * ",
}
TORCH = {
    "parameters": [
        ("weight_ih", 16, 5),
        ("weight_hh", 16, 4),
        ("bias_ih", 16),
        ("bias_hh", 16),
    ],
    "x": "weight_ih",
    "bias": "bias_ih + self.bias_hh",
    "h": "weight_hh",
    "order": "i, f, g, o",
    "kept": "keep * ",
}


@pytest.mark.parametrize(
    ("loop", "words"),
    [
        (OWN, ""),
        (TORCH, ""),
        (OWN | {"order": "f, i, o, g"}, "the gates in the order f, i, o, g"),
        (OWN | {"kept": ""}, "where cont does not set the cell to 0"),
    ],
)
def test_parameters_that_a_loop_takes_are_filled(
    caffe: Caffe,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    loop: Mapping[str, Any],
    words: str,
) -> None:
    """In Caffe's order of the gates, or of the names of PyTorch's; in time linear in the steps."""
    said_of = 'num_output: 4 weight_filler { type: "uniform" min: -0.6 max: 0.6 }'
    text = input_layer("data", 12, 3, 5) + input_layer("cont", 12, 3)
    text += layer("lstm", "LSTM", "data cont", "lstm", f"recurrent_param {{ {said_of} }}")
    Path("net.prototxt").write_text(text)
    Path("port.py").write_text(LOOP.format(**loop))
    arguments = ["net", "net.prototxt", "--port", "port.py:Port", "--phase", "TEST"]
    assert main([*arguments, "--data", "cont=binary"]) == bool(words)
    assert words in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_what_upsampling_moves_has_a_bound_of_rounding(mode: str, axes: int) -> None:
    """Which element each is, is no matter of rounding."""

    def made(given: dict[str, Tensor]) -> dict[str, Tensor]:
        x = given["x"].detach().requires_grad_()
        y = nn.functional.interpolate(x, scale_factor=2.5, mode=mode)
        (grad,) = torch.autograd.grad(y, x, torch.ones_like(y))
        return {"y": y.detach(), "gradient:x": grad}

    torch.manual_seed(0)
    found = expect(
        made, {"x": torch.randn(2, 3, *[5] * axes, dtype=torch.float64)}, set(), frozenset()
    )
    for name, worst in found.bound.worst.items():
        assert worst.max() <= 2.0**-16 * abs(found.truth[name]).max()


FUNCTIONS = """
import torch
from torch import nn
from torch.nn import functional

class Port(nn.Module):
    def __init__(self):
        super().__init__()
        for name, *shape in [("one", 4, 3, 3, 3), ("six", 9, 64), ("seven", 5, 9), ("bias", 5)]:
            setattr(self, name, nn.Parameter(torch.zeros(*shape)))

    def forward(self, data, label):
        x = functional.conv2d(data, self.one)
        x = functional.local_response_norm(x, 3, alpha=0.3, beta=0.75, k=2.0)
        x = functional.relu(functional.linear(x.flatten(1), self.six))
        x = functional.dropout(x, 0.4, self.training)
        x = functional.linear(x, self.seven) + self.bias
        return 0.3 * functional.cross_entropy(x, label.long())
"""

OF_FUNCTIONS = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 3 dim: 3 dim: 6 dim: 6 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 3 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 4 kernel_size: 3 bias_term: false weight_filler { type: "xavier" } } }
layer { name: "norm1" type: "LRN" bottom: "conv1" top: "norm1"
  lrn_param { local_size: 3 alpha: 0.3 beta: 0.75 k: 2 } }
layer { name: "fc6" type: "InnerProduct" bottom: "norm1" top: "fc6"
  inner_product_param { num_output: 9 bias_term: false weight_filler { type: "xavier" } } }
layer { name: "relu6" type: "ReLU" bottom: "fc6" top: "fc6" }
layer { name: "drop6" type: "Dropout" bottom: "fc6" top: "fc6" dropout_param { dropout_ratio: 0.4 } }
layer { name: "fc7" type: "InnerProduct" bottom: "fc6" top: "fc7"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc7" bottom: "label" top: "loss" loss_weight: 0.3 }
"""  # noqa: E501

CAST = (
    "with torch.autocast('cpu', torch.bfloat16): x = functional.linear(x, self.seven, self.bias)\n"
)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("", "", "agrees, "),
        ("x.flatten(1)", "x.flip(2).flatten(1)", "disagrees: norm1 -> fc6, "),
        ("x = functional.linear(x, self.seven) + self.bias\n", CAST, "fc7: the port in float32: "),
        ("label.long())", "label.long()) * float('nan')", "the port adds it with nan"),
    ],
)
def test_a_port_of_functions_before_an_idle_dropout(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, words: str
) -> None:
    """What the Dropout passes on, and a sum before a bias of 0 is added, are values twice."""
    Path("net.prototxt").write_text(OF_FUNCTIONS)
    Path("port.py").write_text(FUNCTIONS.replace(old, new))
    command = ["net", "net.prototxt", "--port", "port.py:Port", "--data", "label=int:0,4"]
    assert main([*command, "--phase", "TEST"]) == (1 if new else 0)
    assert words in capsys.readouterr().out


class Named(nn.Module):
    """A port of functions, whose parameters have the layers' names and another order."""

    def __init__(self) -> None:
        super().__init__()
        own = PORTS["caffenet"]().named_parameters()
        self.all = nn.ParameterDict({k.replace(".", "_"): each.detach() for k, each in own})

    def forward(self, data: Tensor, label: Tensor) -> Tensor:
        """The loss, with its weight."""
        of = dict(self.all.items())
        f = nn.functional

        def conv(x: Tensor, name: str, **more: Any) -> Tensor:
            return f.conv2d(x, of[f"{name}_weight"], of[f"{name}_bias"], **more).relu()

        def linear(x: Tensor, name: str) -> Tensor:
            return f.linear(x, of[f"{name}_weight"], of[f"{name}_bias"])

        x = f.local_response_norm(conv(data, "conv1", stride=2), 5, alpha=0.1, beta=0.75)
        x = conv(conv(x, "conv2", padding=1, groups=2), "conv3", padding=1)
        most = float(x.detach().max())
        assert most > 0
        x = f.max_pool2d(conv(x, "conv4", padding=1), 3, 2, ceil_mode=True).flatten(1)
        x = linear(x, "fc6").relu()
        x = f.dropout(x, 0.3, self.training)
        x = linear(linear(x, "fc7").relu(), "fc8")
        return 0.7 * f.cross_entropy(x, label.long())


def test_behind_a_python_number_layers_are_still_apart(caffe: Caffe) -> None:
    """As behind an assertion; where such a number goes on into a tensor, the rest is one part."""
    compared, records = compared_with("caffenet", Named(), "TEST")
    assert len(records) == len(compared.net.steps)
    assert words_of(records) == {}
    used = Named()
    rewritten(('"conv4", padding=1)', '"conv4", padding=1) / most * most'))(used)
    compared, records = compared_with("caffenet", used, "TEST")
    assert words_of(records) == {}
    assert "pool5, fc6, relu6, drop6, fc7, relu7, fc8, loss" in {each.case for each in records}
    broken = Named()
    rewritten(("f.max_pool2d(", "f.avg_pool2d("))(broken)
    _, records = compared_with("caffenet", broken, "TEST")
    assert set(words_of(records)) == {"pool5"}


@pytest.mark.parametrize(
    ("aux", "named"), [("aux", ""), ("0.3 * aux", ""), ("10.0 * aux", "aux/loss")]
)
def test_losses_are_told_by_what_they_are(caffe: Caffe, aux: str, named: str) -> None:
    """A port that returns two losses, with functions, in whatever order, bare or weighed."""
    model = Inception()
    rewritten(
        ("self.aux_loss(", "nn.functional.cross_entropy("),
        ("self.loss(", "nn.functional.cross_entropy("),
        ("main + 0.3 * aux", f"main, {aux}"),
    )(model)
    found = said("inception", model)
    assert bool(found) == bool(named)
    assert named in "".join(found)


def test_swapped_modules_are_named_with_their_shapes(caffe: Caffe) -> None:
    """Where the port raises because of them."""
    model = PORTS["block"]()
    model.conv2a, model.conv3 = model.conv3, model.conv2a
    with pytest.raises(BadRequest, match=r"conv2a .*\(4, 8, 3, 3\).*, as the layer conv3 has"):
        compared_with("block", model, "TEST")


@pytest.mark.parametrize(
    ("kept", "verdict"),
    [("* mask / 0.7", "unproven"), ("* mask", "fail"), ("* mask / 0.70001", "fail"), ("", "fail")],
)
def test_a_dropout_of_the_ports_own_is_held_to_a_derived_bound(
    caffe: Caffe, kept: str, verdict: str
) -> None:
    """In one with the layer before it, whose rounding is told from another factor."""
    model = PORTS["caffenet"]()
    own = f"(x {kept})" if kept else "x"
    rewritten(
        ("functional.relu(self.fc6(x.flatten(1)))", "self.fc6(x.flatten(1))"),
        (
            "x = functional.dropout(x, 0.3, self.training)",
            f"x = functional.relu(x)\n    mask = torch.rand(x.shape) > 0.3\n    x = {own}",
        ),
    )(model)
    _, records = compared_with("caffenet", model, "TRAIN")
    assert {each.verdict for each in records if "drop6" in each.case} == {verdict}


TWO_LOSSES = f"""
{input_layer("x", 4, 6)} {input_layer("label", 4)}
layer {{ name: "a" type: "InnerProduct" bottom: "x" top: "a" inner_product_param {{ num_output: 5
    weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "b" type: "InnerProduct" bottom: "x" top: "b" inner_product_param {{ num_output: 5
    weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "add" type: "Eltwise" bottom: "a" bottom: "b" top: "add" }}
layer {{ name: "drop" type: "Dropout" bottom: "add" top: "drop"
    dropout_param {{ dropout_ratio: 0.4 }} }}
layer {{ name: "cls" type: "SoftmaxWithLoss" bottom: "drop" bottom: "label" top: "cls" }}
layer {{ name: "hinge" type: "HingeLoss" bottom: "add" bottom: "label" top: "hinge"
    loss_weight: 2 }}
"""
TWO_LOSSES_PORT = """
from torch import nn
from torch.nn import functional

class Sum(nn.Module):
    def forward(self, x, y):
        return x + y

class Port(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.add = nn.Linear(6, 5), nn.Linear(6, 5), Sum()

    def forward(self, x, label):
        x = self.add(self.b(x), self.a(x))
        signs = 1 - 2 * functional.one_hot(label.long(), 5).to(x.dtype)
        hinge = functional.relu(1 + signs * x).sum() / len(x)
        x = functional.dropout(x, 0.4, self.training)
        return functional.cross_entropy(x, label.long()) + 2 * hinge
"""


STEPS = f"""
{input_layer("x", 3, 2, 4)} {input_layer("goal", 3, 2, 7)}
layer {{ name: "bn" type: "BatchNorm" bottom: "x" top: "bn"
    batch_norm_param {{ use_global_stats: true }} }}
layer {{ name: "fc" type: "InnerProduct" bottom: "bn" top: "fc" inner_product_param {{
    axis: 2 num_output: 7 weight_filler {{ type: "xavier" }}
    bias_filler {{ type: "constant" value: 0.5 }} }} }}
layer {{ name: "l2" type: "EuclideanLoss" bottom: "fc" bottom: "goal" top: "l2"
    loss_weight: 0.5 }}
layer {{ name: "own" type: "SigmoidCrossEntropyLoss" bottom: "fc" bottom: "goal" top: "own" }}
"""
STEPS_PORT = """
from torch import nn

class Own(nn.Module):
    def forward(self, x, y):
        return (nn.functional.softplus(x) - x * y).sum() / len(x)

class Port(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm1d(2, affine=False, momentum=0.001)
        self.fc, self.own = nn.Linear(4, 7), Own()

    def forward(self, x, goal):
        bias, weight = self.fc.bias, self.fc.weight
        x = nn.functional.linear(self.bn.eval()(x), weight, bias)
        l2 = nn.functional.mse_loss(x, goal, reduction="sum") / 6
        return {"l2": l2, "own": self.own(x, goal)}
"""
ONE_MAP = f"""
{input_layer("x", 1, 3, 4, 4)}
layer {{ name: "mvn" type: "MVN" bottom: "x" top: "mvn" mvn_param {{ across_channels: true
    eps: 1e-3 }} }}
layer {{ name: "conv" type: "Convolution" bottom: "mvn" top: "conv" convolution_param {{
    num_output: 1 kernel_size: 3 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" }}
layer {{ name: "sc" type: "Scale" bottom: "bn" top: "sc" scale_param {{ bias_term: true
    filler {{ value: 0.7 }} bias_filler {{ value: 0.1 }} }} }}
layer {{ name: "power" type: "Power" bottom: "sc" top: "power"
    power_param {{ power: 2 scale: 0.5 shift: 1 }} }}
"""
ONE_MAP_PORT = """
import torch
from torch import nn

class Port(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3)
        self.weight, self.bias = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

    def forward(self, x):
        x = x - x.mean()
        x = self.conv(x / (x.pow(2).mean().sqrt() + 1e-3))
        x = (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()
        x = x * self.weight + self.bias
        return (1 + 0.5 * x).pow(2)
"""
ONE_MAP_FAULTS = [
    ("mean().sqrt() + 1e-3)", "mean() + 1e-3).sqrt()", "mvn", "eps added to the variance"),
    ("* self.weight +", "* (self.weight + 0.1) +", "sc", "as with the weights times 1.14286"),
    ("(x.var(unbiased=False) + 1e-5).sqrt()", "x.sub(x.mean()).abs().mean()", "bn", "are wrong"),
]
FUNCTION = f"""
{input_layer("x", 2, 6, 3, 3)}
layer {{ name: "slice" type: "Slice" bottom: "x" top: "a" top: "b" }}
layer {{ name: "conv" type: "Convolution" bottom: "a" top: "conv" convolution_param {{
    num_output: 3 kernel_size: 1 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "relu" type: "ReLU" bottom: "conv" top: "relu" }}
layer {{ name: "cat" type: "Concat" bottom: "relu" bottom: "b" top: "cat" }}
"""
FUNCTION_PORT = """
import torch
from torch import nn

class Positive(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = x.clamp(min=0)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad):
        [y] = ctx.saved_tensors
        return grad * (y > 0)

class Port(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        a, b = x.chunk(2, 1)
        return torch.cat([Positive.apply(self.conv(a)), b], 1)
"""
POOLED = f"""
{input_layer("x", 2, 4, 12, 12)}
layer {{ name: "pool" type: "Pooling" bottom: "x" top: "pool"
    pooling_param {{ kernel_size: 3 stride: 2 pad: 1 }} }}
layer {{ name: "slice" type: "Slice" bottom: "pool" top: "a" top: "b" }}
layer {{ name: "add" type: "Eltwise" bottom: "a" bottom: "b" top: "add" }}
layer {{ name: "drop" type: "Dropout" bottom: "add" top: "drop" }}
layer {{ name: "fc" type: "InnerProduct" bottom: "drop" top: "fc" inner_product_param {{
    num_output: 3 weight_filler {{ type: "xavier" }} }} }}
"""
POOLED_PORT = """
import torch
from torch import nn

class Slice(nn.Module):
    def forward(self, x):
        return torch.split(x, [2, 2], 1)

class Port(nn.Module):
    def __init__(self):
        super().__init__()
        self.slice, self.drop, self.fc = Slice(), nn.Dropout(0.5), nn.Linear(98, 3)

    def forward(self, x):
        x = nn.functional.max_pool2d(x, 3, 2, 1, ceil_mode=True)
        a, b = self.slice(x)
        return self.fc(self.drop(a + b).flatten(1))
"""


@pytest.mark.parametrize(
    ("net", "port", "old", "new", "named"),
    [
        (TWO_LOSSES, TWO_LOSSES_PORT, "", "", {}),
        (TWO_LOSSES, TWO_LOSSES_PORT, "x, 0.4", "x, 0.5", {"drop": "dropout_ratio 0.5"}),
        (
            TWO_LOSSES,
            TWO_LOSSES_PORT,
            "self.a(x))",
            "self.a(x)) + 0.25",
            {"add -> drop, hinge": "add(0.25)"},
        ),
        (STEPS, STEPS_PORT, "", "", {}),
        (STEPS, STEPS_PORT, " / 6", "", {"l2": "is a sum, not divided"}),
        (STEPS, STEPS_PORT, "x = nn", "x = 2 * nn", {"fc -> l2, own": "mul(2)"}),
        (STEPS, STEPS_PORT, " weight,", " weight.sin(),", {"fc": "weight goes through sin"}),
        (STEPS, STEPS_PORT, "bn.eval()", "bn", {"bn": "and not Caffe's"}),
        (FUNCTION, FUNCTION_PORT, "", "", {}),
        (FUNCTION, FUNCTION_PORT, "x.clamp", "x.float().clamp", {}),
        (FUNCTION, FUNCTION_PORT, "grad * (", "2 * grad * (", {"relu, cat": "twice"}),
        *((ONE_MAP, ONE_MAP_PORT, a, b, {name: words}) for a, b, name, words in ONE_MAP_FAULTS),
        (POOLED, POOLED_PORT, "", "", {}),
        (
            POOLED,
            POOLED_PORT,
            "return self.fc(self.drop(a + b).flatten(1))",
            "return x",
            dict.fromkeys(("add", "drop", "fc"), "no part of the port computes it"),
        ),
        (POOLED, POOLED_PORT, "2, 1, ceil", "2, 0, ceil", {"pool": "as with pooling_param.pad 0"}),
        (POOLED, POOLED_PORT, "[2, 2]", "[1, 3]", {"": "the port's a has shape (2, 1, 7, 7)"}),
        (
            POOLED,
            POOLED_PORT,
            "a + b).flatten(1)",
            "a + b).flatten(1) * b.flatten(1)",
            {"fc": "reads mul of b and drop, not drop"},
        ),
    ],
)
def test_what_is_said_of_a_port_is_true(
    caffe: Caffe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    net: str,
    port: str,
    old: str,
    new: str,
    named: dict[str, str],
) -> None:
    """Losses that read the same, a sum in the other order, another shape before a Dropout."""
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(net)
    Path("port.py").write_text(port.replace(old, new) if old else port)
    options = ["--port", "port.py:Port", "--phase", "TRAIN", "--json", "report.json"]
    main(["net", "net.prototxt", *options])
    is_refused = not Path("report.json").exists()
    found = {} if is_refused else words_of([*read(Path("report.json")).results])
    found |= {"": capsys.readouterr().err} if is_refused else {}
    assert "random" not in "".join(found.values())
    found = {
        k: each
        for k, each in found.items()
        if k in named or k not in ("whole", "mvn", "unmatched pool")
    }
    assert found.keys() == named.keys()
    assert all(words in found[name] for name, words in named.items())
