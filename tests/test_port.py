"""`parity port`: a net becomes a file that is proved, or a hole is named; the certificate."""

from __future__ import annotations

import ast
import gc
import json
import re
import shutil
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator
from safetensors.numpy import load_file

from caffe_parity.caffe.client import Caffe
from caffe_parity.cli.main import main
from caffe_parity.report.record import read
from caffe_parity.whole import certificate
from caffe_parity.whole.judged import Comparison
from caffe_parity.whole.recipe import Made, Value, followed
from studies.localise.ports import NETS as FOLDER
from tests.net_text import input_layer
from tests.public_nets import NETS, conv, data, ends, inner, layer, norm, pool, relu, unknown
from tests.test_check_data import caffemodel

LOCALISED = {each.stem: each for each in sorted(FOLDER.glob("*.prototxt"))}

PYLOSS = """
import caffe


class EuclideanLossLayer(caffe.Layer):
    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.diff = bottom[0].data - bottom[1].data
        top[0].data[...] = (self.diff**2).sum() / bottom[0].num / 2.0

    def backward(self, top, propagate_down, bottom):
        for i, sign in enumerate((1, -1)):
            if propagate_down[i]:
                bottom[i].diff[...] = sign * self.diff / bottom[i].num
"""
FILLS = """
from torch import nn


class Euclidean(nn.Module):
    def forward(self, a, b):
        return ((a - b) ** 2).sum() / a.shape[0] / 2


def halved(a, b):
    return ((a - b) ** 2).sum() / a.shape[0] / 4
"""


def port(*arguments: str) -> int:
    """The exit status of `parity port`, into my_net.py."""
    return main(["port", *arguments, "-o", "my_net.py"])


def verify() -> int:
    """The exit status of `parity net --verify`."""
    return main(["net", "--verify", "my_net.parity.json"])


def written(folder: Path, name: str) -> str:
    """Writes a net and what it needs; returns its file."""
    (folder / f"{name}.prototxt").write_text(NETS[name]())
    (folder / "pyloss.py").write_text(PYLOSS)
    (folder / "fills.py").write_text(FILLS)
    return f"{name}.prototxt"


def last(capsys: pytest.CaptureFixture[str]) -> str:
    """The last line that was printed."""
    return capsys.readouterr().out.splitlines()[-1]


def test_a_net_that_was_ported_agrees(caffe: Caffe, folder: Path) -> None:
    """Labels are filled as their layers need it: of others Caffe aborts, and so may the port."""
    assert port(written(folder, "corners")) == 0
    assert main(["net", "corners.prototxt", "--port", "my_net.py:load"]) == 0


def test_each_part_of_a_port_is_repeated_alone(
    caffe: Caffe, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also behind a BatchNorm in TRAIN, an average by a constant, and a loss's Function."""
    whole: list[str] = []
    judge = Comparison._judged

    def told(self: Any, unit: Any, ported: Any = None) -> Any:
        whole.extend(part.name for part in unit.parts if unit.recipes is None)
        return judge(self, unit, ported)

    monkeypatch.setattr(Comparison, "_judged", told)
    text = input_layer("data", 2, 3, 8, 8) + conv("data", "conv", 4, "kernel_size: 3")
    text += norm("conv") + relu("conv") + pool("conv", "pool", "pool: AVE kernel_size: 3 stride: 2")
    text += inner("pool", "fc", 3) + input_layer("label", 2)
    (folder / "net.prototxt").write_text(
        text + layer("loss", "SoftmaxWithLoss", "fc label", "loss")
    )
    assert port("net.prototxt") == 0
    assert not whole


def test_all_weights_of_a_recurrent_layer_are_drawn(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where no filler makes them: of 0 nothing goes back to the input that does not change."""
    text = input_layer("x", 1, 3, 4) + input_layer("cont", 1, 3) + input_layer("image", 3, 5)
    said = "recurrent_param { num_output: 2 }"
    (folder / "net.prototxt").write_text(text + layer("l", "LSTM", "x cont image", "y", said))
    assert port("net.prototxt") == 0
    assert "nothing of" not in capsys.readouterr().out


def test_a_recipe_that_was_followed_keeps_no_tensor() -> None:
    """A cycle would keep them until the garbage is collected: gigabytes, of VGG-16."""
    gc.disable()
    try:
        values = {"x": torch.ones(2)}
        kept = weakref.ref(values["x"])
        recipe = Made(torch.neg, (Made(torch.relu, (Value("x", (2,)),), {}),), {})
        assert followed(recipe, values, {}, {}).tolist() == [-1, -1]
        del values
        assert kept() is None
    finally:
        gc.enable()


FILLED = ("--layer", "Python=fills.py:Euclidean")


@pytest.mark.parametrize("name", [*NETS, *LOCALISED])
def test_nets_are_proved(
    caffe: Caffe, folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In both phases, all layers; the file imports torch alone, and reads well."""
    net = written(folder, name) if name in NETS else str(LOCALISED[name])
    more = FILLED if name == "python" else ()
    assert port(net, *more, "--json", "found.json") == 0, capsys.readouterr()
    assert last(capsys).startswith("proved, ")
    report = read(folder / "found.json")
    assert {each.variant for each in report.results} == {"TEST", "TRAIN"}
    assert {each.verdict for each in report.results} <= {"pass", "not run"}
    text = (folder / "my_net.py").read_text()
    allowed = {"json", "math", "pathlib", "torch", "collections", "typing"}
    allowed |= {"importlib"} if more else set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [each.name for each in node.names] if isinstance(node, ast.Import) else []
            assert {each.partition(".")[0] for each in names} <= allowed
    assert max(map(len, text.splitlines())) <= 100
    assert "type: ignore" not in text


def test_the_file_runs_alone(caffe: Caffe, folder: Path) -> None:
    """In a Python that has torch and not this project; with other sizes than it was proved on."""
    assert port(written(folder, "squeezenet")) == 0
    code = (
        "import sys, torch, my_net; net = my_net.load().eval();"
        "tops = net(torch.ones(1, 3, 17, 15)); assert tops['prob'].shape == (1, 5, 1, 1);"
        "assert abs(tops['prob'].sum() - 1) < 1e-6;"
        "assert not any(each.startswith('caffe') for each in sys.modules)"
    )
    alone = [sys.executable, "-c", f"import sys; sys.path.insert(0, '.'); {code}"]
    done = subprocess.run(alone, cwd=folder, capture_output=True, text=True, env={"PATH": ""})
    assert done.returncode == 0, done.stderr


def test_what_a_filling_imports_is_certified(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The layer's code lies in the file beside it; so for a Python layer of Caffe's."""
    net = written(folder, "python")
    for name in ("fills", "pyloss"):
        (folder / f"{name}.py").rename(folder / f"{name}_made.py")
        (folder / f"{name}.py").write_text(f"from {name}_made import *\n")
    assert port(net, *FILLED) == 0
    assert verify() == 0
    for name in ("fills_made.py", "pyloss_made.py"):
        text = (folder / name).read_text()
        (folder / name).write_text(text + "# other\n")
        assert verify() == 1
        assert f"import {name}" in last(capsys)
        (folder / name).write_text(text)


def test_a_wrong_filling_disagrees(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the layer's name; the certificate says so, and does not hold."""
    assert port(written(folder, "python"), "--layer", "loss=fills.py:halved") == 1
    assert last(capsys).startswith("not proved: disagrees: loss, ")
    assert verify() == 1
    assert "it does not say that the port is proved" in capsys.readouterr().out


def test_holes_are_named(caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With shapes and parameters, and the file raises and says which."""
    (folder / "odd.prototxt").write_text(
        unknown(
            [
                ("Permute", "permute_param { order: 0 order: 2 order: 3 order: 1 }"),
                ("Pooling", "pooling_param { pool: MAX kernel_size: 2 ceil_mode: false }"),
                ("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 }"),
                ("ReLU6", ""),
            ]
        )
    )
    (folder / "fills.py").write_text(FILLS)
    assert port("odd.prototxt", "--layer", "Permute=fills.py:halved") == 2, "Caffe has none"
    out = capsys.readouterr().out
    assert "hole: layer 'odd0' (Permute): this Caffe has no layer of that type (" in out
    assert "it reads x0 (2, 4, 6, 6); permute_param { order: 0 order: 2 order: 3 order: 1 }" in out
    assert "layer 'odd1' (Pooling): this Caffe's layer has no pooling_param.ceil_mode" in out
    assert out.splitlines()[-1] == (
        "not proved: 3 without a counterpart: odd0, odd1, odd3; --layer fills them"
    )
    sys.path.insert(0, str(folder))
    try:
        import my_net  # type: ignore[import-not-found]

        with pytest.raises(NotImplementedError, match="layer 'odd0' "):
            my_net.load()(torch.ones(2, 4, 6, 6))
    finally:
        sys.path.remove(str(folder))
        del sys.modules["my_net"]


def test_holes_behind_a_source_are_named(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also a Python layer there, and a Silence of what a hole makes; what fills them is told."""
    text = input_layer("image", 2, 3, 5, 5) + conv("image", "conv", 4, "kernel_size: 3")
    text += layer("boxes", "AnnotatedData", "", "data label", "transform_param { mirror: true }")
    text += inner("data", "fc", 4)
    said = 'python_param { module: "rpn.proposal_layer" layer: "ProposalLayer" }'
    text += layer("proposal", "Python", "fc", "rois", said)
    text += layer("up", "Interp", "conv", "big") + layer("quiet", "Silence", "big", "")
    (folder / "odd.prototxt").write_text(text)
    assert port("odd.prototxt") == 2
    out = capsys.readouterr().out
    assert "hole: layer 'boxes' (AnnotatedData): this Caffe has no layer of that type" in out
    assert "--bottom data=N,... --bottom label=N,... makes inputs of what it makes" in out
    assert "hole: layer 'proposal' (Python): there is no counterpart of that type" in out
    assert out.splitlines()[-2] == (
        "to fill them: --load LAYER.cpp --proto FORK.proto --path FOLDER "
        "--layer ProposalLayer=FILE.py:OBJECT --layer Interp=FILE.py:OBJECT "
        "--bottom data=N,... --bottom label=N,..."
    )
    assert out.splitlines()[-1] == (
        "not proved: 3 without a counterpart: boxes, proposal, up; --layer and --bottom fill them"
    )


IN_PLACE = {
    "TanH": ("", norm("fc")),
    "ReLU": ("", norm("fc")),
    "Sigmoid": ("", layer("drop", "Dropout", "fc", "fc")),
    "Power": ("power_param { power: 2 shift: 1 }", ""),
    "BNLL": ("", ""),
}
"""By type in place, its message and what stands behind it, which overwrites what it reads."""


@pytest.mark.parametrize("kind", IN_PLACE)
def test_what_caffe_reads_overwritten_is_no_mistake(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """The layer is unproven, by name; one that is wrong as well is wrong."""
    said, behind = IN_PLACE[kind]
    text = input_layer("data", 2, 3, 5, 5) + inner("data", "fc", 6)
    text += layer("odd", kind, "fc", "fc", said) + behind + inner("fc", "out", 4)
    (folder / "net.prototxt").write_text(text)
    assert port("net.prototxt") == 2
    out = capsys.readouterr().out
    first = "fc_bn, fc_scale overwrite" if "fc_bn" in behind else "drop overwrites"
    assert f"unproven: odd: {first if behind else 'odd overwrites'} in place what odd still" in out
    assert out.splitlines()[-1].startswith("not proved: unproven: odd, ")
    assert main(["net", "net.prototxt", "--port", "my_net.py:load"]) == 2
    file = folder / "my_net.py"
    file.write_text(re.sub(r"self\.odd = .*", "self.odd = nn.Softplus(beta=3)", file.read_text()))
    assert main(["net", "net.prototxt", "--port", "my_net.py:load"]) == 1
    assert last(capsys).startswith("disagrees: odd, ")


def test_a_dropout_that_leaves_nothing_is_held_to_its_ratio(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With nothing left no factor shows."""
    text = input_layer("data", 1, 3) + inner("data", "fc", 2)
    text += layer("drop", "Dropout", "fc", "fc", "dropout_param { dropout_ratio: 0.99 }")
    (folder / "net.prototxt").write_text(text + inner("fc", "out", 2))
    assert port("net.prototxt") == 0
    file = folder / "my_net.py"
    file.write_text(file.read_text().replace("nn.Dropout(0.99)", "nn.Dropout(0.9)"))
    assert main(["net", "net.prototxt", "--port", "my_net.py:load"]) == 1
    assert last(capsys).startswith("disagrees: drop, ")


def test_memory_that_blobs_share_is_overwritten(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a layer in place writes behind a Reshape or a Split is what others read in forward."""
    text = input_layer("data", 2, 3, 5, 5) + conv("data", "conv", 4, "kernel_size: 3")
    text += layer("flat", "Reshape", "conv", "flat", "reshape_param { shape { dim: 0 dim: -1 } }")
    text += relu("flat") + conv("conv", "after", 2, "kernel_size: 1") + inner("flat", "fc", 3)
    text += layer("two", "Split", "fc", "one other") + relu("one")
    text += layer("sum", "Eltwise", "one other", "sum")
    (folder / "net.prototxt").write_text(text)
    assert port("net.prototxt") == 2
    assert last(capsys).startswith("not proved: unproven: after, sum, ")


def test_stages_are_chosen(caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whose layers a net has; one that no rule names is a slip."""
    text = data(9).replace("include { phase: TRAIN }", 'include { stage: "train" }')
    text = text.replace("include { phase: TEST }", 'include { stage: "val" }')
    deploy = input_layer("data", 1, 3, 9, 9)
    text += deploy.replace("layer {", 'layer { include { stage: "deploy" }', 1)
    text += inner("data", "fc", 4) + ends("fc").replace("phase: TEST", 'stage: "val"')
    text = text.replace('"loss"', '"loss" exclude { stage: "deploy" }', 1)
    (folder / "net.prototxt").write_text(text)
    assert port("net.prototxt") == 2
    assert "--stage says one of the stages that rules name: train, val, deploy" in (
        capsys.readouterr().err
    )
    assert port("net.prototxt", "--stage", "tset") == 2
    assert "--stage tset: no layer's rule names that stage" in capsys.readouterr().err
    for stage, words in (("val", "data=2,3,9,9 label=2"), ("deploy", "data=1,3,9,9")):
        assert port("net.prototxt", "--stage", stage) == 0
        assert f"compared in phase TEST on {words}" in capsys.readouterr().out
        assert verify() == 0


def test_each_phase_has_inputs_of_its_own(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other batches, where a Reshape tells their number; a phase without data is left out."""
    text = ""
    for phase, batch in (("TRAIN", 6), ("TEST", 4)):
        only = f"include {{ phase: {phase} }}"
        said = f"memory_data_param {{ batch_size: {batch} channels: 3 height: 2 width: 2 }}"
        text += layer("data", "MemoryData", "", "data label", f"{only} {said}")
        said = f"reshape_param {{ shape {{ dim: {batch} dim: 12 }} }}"
        text += layer("flat", "Reshape", "data", "flat", f"{only} {said}")
    text += inner("flat", "fc", 4) + layer("loss", "SoftmaxWithLoss", "fc label", "loss")
    net = folder / "net.prototxt"
    for each, phases in ((text, 2), (text.replace("phase: TEST", 'stage: "other"'), 1)):
        net.write_text(each)
        assert port("net.prototxt") == 0
        capsys.readouterr()
        assert main(["net", "net.prototxt", "--port", "my_net.py:load"]) == 0
        out = capsys.readouterr().out
        assert out.count("layers\n") == phases
        assert ("not in phase TEST, in which Caffe cannot build it" in out) == (phases == 1)
    net.write_text(text)  # of --bottom there is one, for both phases
    assert port("net.prototxt", "--bottom", "data=6,3,2,2") == 0
    assert last(capsys).startswith("proved in phase TRAIN alone, ")


def test_labels_have_as_many_samples_as_data(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where only --bottom says how many; and what was broken off is written again."""
    text = data(9).replace("crop_size: 9", "") + inner("data", "fc", 4) + relu("fc") + ends("fc")
    (folder / "net.prototxt").write_text(text)
    given = ("net.prototxt", "--bottom", "data=3,2,4,4")
    assert port(*given, "--timeout", "1e-4") != 0
    assert port(*given) == 0
    assert "compared in phase TRAIN on data=3,2,4,4 label=3" in capsys.readouterr().out


def test_what_the_catalogue_refuses_is_a_hole(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A layer that Caffe has, and whose counterpart cannot be."""
    (folder / "odd.prototxt").write_text(
        unknown([("Pooling", "pooling_param { pool: MAX kernel_size: 1 stride: 4 }")])
    )
    assert port("odd.prototxt") == 2
    assert "hole: layer 'odd0' (Pooling): the last window begins at " in capsys.readouterr().out


V0 = """
input: "data" input_dim: 2 input_dim: 3 input_dim: 9 input_dim: 9
layers { layer { name: "pad1" type: "padding" pad: 2 } bottom: "data" top: "pad1" }
layers {
  layer { # what a layer says of itself is here
    name: "conv1" type: "conv" num_output: 4 group: 1 kernelsize: 3 stride: 2
    weight_filler { type: "gaussian" std: 0.3 } blobs_lr: 1. blobs_lr: 2. weight_decay: 1.
  }
  bottom: "pad1" top: "conv1"
}
layers { layer { name: "relu1" type: "relu" } bottom: "conv1" top: "conv1" }
layers { layer { name: "pool1" type: "pool" pool: AVE kernelsize: 3 } bottom: "conv1" top: "p" }
layers { layer { name: "fc" type: "innerproduct" num_output: 5 biasterm: false
  weight_filler { type: "xavier" } } bottom: "p" top: "fc" }
layers { layer { name: "prob" type: "softmax" } bottom: "fc" top: "prob" }
"""


def test_the_syntax_of_2013_is_upgraded_as_caffe_does(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its padding layers are in the convolutions behind them."""
    (folder / "v0.prototxt").write_text(V0)
    assert port("v0.prototxt") == 0
    assert "padding=2" in (folder / "my_net.py").read_text()
    assert main(["net", "v0.prototxt", "--port", "my_net.py:load"]) == 0


def test_halves_in_a_file_of_weights_are_read(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """OpenCV's and NVIDIA's Caffe write them as raw_data; then a fork's filler is no hole."""
    weight = np.random.RandomState(0).normal(0, 1, (4, 6)).astype(np.float16)
    text = input_layer("data", 2, 6) + inner("data", "fc", 4).replace("xavier", "gabor")
    (folder / "net.prototxt").write_text(text)
    caffemodel(folder / "halves.caffemodel", fc=[weight, np.ones(4, np.float16)])
    assert port("net.prototxt", "--weights", "halves.caffemodel") == 0
    held = load_file(folder / "my_net.safetensors")
    assert np.array_equal(held["fc.weight"], weight.astype(np.float32))
    assert port("net.prototxt") == 2
    assert 'gabor"; with --weights no filler is needed' in capsys.readouterr().out


def test_a_dropout_of_a_phase_of_its_own_is_a_hole(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Caffe drops in phase TEST as well; and a filler of a fork's is one, too."""
    text = input_layer("data", 2, 6) + inner("data", "fc", 4).replace('"xavier"', "'xav' \"ier\"")
    text += layer("drop", "Dropout", "fc", "fc", "phase: TRAIN")
    text += inner("fc", "out", 4).replace("xavier", "orthogonal")
    (folder / "odd.prototxt").write_text(text)
    assert port("odd.prototxt") == 2
    out = capsys.readouterr().out
    assert "hole: layer 'drop' (Dropout): it says of itself that it is of phase TRAIN" in out
    assert 'no inner_product_param.weight_filler.type: "orthogonal"' in out
    assert out.splitlines()[-1].startswith("not proved: 2 without a counterpart: ")


def test_what_is_shared_in_another_shape_is_a_hole(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No module can share it; and layers without a name, or of one name, are told apart."""
    same = 'param { name: "w" share_mode: PERMISSIVE }'
    text = input_layer("data", 2, 4, 1, 1) + inner("data", "fc", 4, "bias_term: false", same)
    text += conv("data", "conv", 4, "kernel_size: 1 bias_term: false", same)
    text += layer("conv", "ReLU6", "fc", "a") + layer("", "Axpy", "fc", "b")
    (folder / "odd.prototxt").write_text(text)
    assert port("odd.prototxt") == 2
    out = capsys.readouterr().out
    assert "hole: layer 'conv' (Convolution): it shares fc[0] (4, 4) as (4, 4, 1, 1) " in out
    assert out.splitlines()[-1] == (
        "not proved: 3 without a counterpart: conv, conv_2, Axpy; --layer fills them"
    )


CHANGES: dict[str, Any] = {
    "code": lambda f: (f / "my_net.py").write_text((f / "my_net.py").read_text() + "\n"),
    "net": lambda f: (f / "only_accuracy.prototxt").write_text("# other"),
    "weights": lambda f: (f / "my_net.safetensors").unlink(),
    "my_net.parity.json": lambda f: _edited(f, lambda content: content["holes"].update(x="y")),
    "torch": lambda f: _edited(f, lambda content: content["versions"].update(torch="1.0"), True),
    "verdict": lambda f: _edited(f, lambda content: content.update(verdict="not proved"), True),
    "verdict, holes": lambda f: _edited(f, lambda content: content["holes"].update(x="y"), True),
    "verdict, nothing": lambda f: _edited(f, lambda content: content["phases"].clear(), True),
    "verdict, layer": lambda f: _edited(
        f, lambda content: content["phases"]["TRAIN"]["layers"]["fc"].update(forward=1.5), True
    ),
}


def _edited(folder: Path, edit: Any, forged: bool = False) -> None:
    file = folder / "my_net.parity.json"
    content = json.loads(file.read_text())
    edit(content)
    if forged:
        content["digest"] = certificate.digest_of(content)
    file.write_text(json.dumps(content))


def test_the_certificate(caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It holds, moved as well; each change of what it is about turns it red, by name."""
    net = written(folder, "only_accuracy")
    assert port(net) == 0
    assert verify() == 0
    assert last(capsys) == "my_net.parity.json: holds"
    schema = json.loads(certificate.FORMAT.read_text())
    Draft202012Validator(schema).validate(json.loads((folder / "my_net.parity.json").read_text()))
    assert port(net) == 0, "what is as it was written is written again"
    files = [*folder.glob("my_net.*"), folder / net]
    for name, change in CHANGES.items():
        other = folder / f"with {name}"
        other.mkdir()
        for each in files:
            shutil.copy(each, other)
        there = ["net", "--verify", str(other / "my_net.parity.json")]
        assert main(there) == 0
        change(other)
        capsys.readouterr()
        assert main(there) == 1
        assert f"not as it was proved: {name.partition(',')[0]}" in last(capsys)
    file = folder / "my_net.parity.json"
    file.write_text(file.read_text().replace('"verdict"', '"verdict": "x", "verdict"', 1))
    assert verify() == 2
    assert "a name stands twice among schema, " in capsys.readouterr().err
    (folder / "my_net.py").write_text("mine")
    assert port(net) == 2
    assert (folder / "my_net.py").read_text() == "mine"


SLIPS = (
    (("net.prototxt", "-o", "my_net.txt"), "expected the name of a Python module"),
    (("net.prototxt", "-o", "none/my_net.py"), "there is no folder none"),
    (("v0.prototxt", "-o", "my_net.py"), "of 2013 cannot be upgraded: upgrade_proto.cpp"),
    (("data.prototxt", "-o", "my_net.py"), "it has no layer that computes"),
    (("cut.prototxt", "-o", "my_net.py"), "it ends within a message"),
    (
        ("solver.prototxt", "-o", "my_net.py"),
        'a solver\'s file: expected its net, "lenet.prototxt"',
    ),
    (("utf16.prototxt", "-o", "my_net.py"), "no text in UTF-8"),
    (("shapeless.prototxt", "-o", "my_net.py"), "--bottom data=2,... (such as 2,3,32,32)"),
    (("shapeless.prototxt", "-o", "my_net.py"), "there will be holes, too; layer 'odd' (Axpy): "),
    (("wrong.prototxt", "-o", "my_net.py"), "at layer 'cut' (Slice)"),
    (("wrong.prototxt", "-o", "my_net.py"), "data (10, 1, 28, 28): as samples of mnist are; --bo"),
    (("net.prototxt", "-o", "my_net.py", "--layer", "Crop=fills.py:Euclidean"), "no layer without"),
    (("net.prototxt", "-o", "my_net.py", "--layer", "loss=fills.py:None_"), "has no 'None_'"),
)


@pytest.mark.parametrize(("arguments", "words"), SLIPS)
def test_slips_are_named(
    caffe: Caffe,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    words: str,
) -> None:
    """What is wrong, and nothing is written."""
    Path(written(folder, "python")).rename(folder / "net.prototxt")
    (folder / "solver.prototxt").write_text('# of LeNet\nnet: "lenet.prototxt"\nbase_lr: 0.01\n')
    (folder / "utf16.prototxt").write_text("name: 'x'", encoding="utf-16")
    source = data(9).replace("crop_size: 9", "")
    (folder / "shapeless.prototxt").write_text(source + layer("odd", "Axpy", "data label", "y"))
    parts = layer("cut", "Slice", "data", "a b") + inner("a", "fc", 4) + ends("fc")
    (folder / "wrong.prototxt").write_text(source.replace('"lmdb"', '"mnist"') + parts)
    (folder / "v0.prototxt").write_text('layers { layer { name: "a" type: "local" } top: "a" }')
    (folder / "data.prototxt").write_text(data(9))
    (folder / "cut.prototxt").write_text('layer { name: "a"')
    assert main(["port", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not (folder / "my_net.py").exists()
