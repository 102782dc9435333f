"""Each command has a help whose examples work; names that are nearly right are understood."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from caffe_parity.caffe.client import Caffe
from caffe_parity.cli.main import COMMANDS, EXAMPLES, main, parser
from parity_tests.recorded import __main__ as recorded
from tests.pages import disagreeing, green

ROOT = Path(__file__).parent.parent

ENDLESS = ("watch",)
MODELS = ("my_model", "train_val", "--verify")
ELSEWHERE = (*MODELS, "pip install", "--cuda", "bash-completion/", "| source")
"""What examples have that need a model (test_port.py), ask a network, or write elsewhere."""

STATUS = {"diff": 1, "doctor": None, "--help": 0}
"""How an example ends here, if not with 0; None for whatever it says."""


def examples() -> list[str]:
    """All of them, each in one line."""
    found = []
    for name in COMMANDS:
        module = import_module(f"caffe_parity.cli.{name.replace('-', '_')}")
        joined = re.sub(r"\\\n\s*", "", module.EXAMPLES)
        found += [" ".join(line.split("   ")[0].split()) for line in joined.splitlines()]
    return [*found, *(line.strip() for line in EXAMPLES.splitlines())]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is of that command, and stands in its help as it is typed."""
    assert main([name, "--help"]) == 0
    said = capsys.readouterr().out
    module = import_module(f"caffe_parity.cli.{name.replace('-', '_')}")
    assert f"examples:\n{module.EXAMPLES}" in said
    assert f"parity {name}" in module.EXAMPLES


@pytest.mark.parametrize("line", examples())
def test_example_is_understood(line: str) -> None:
    """By the parser, with nothing left over."""
    command = re.search(r"parity (.*?)( [>|] .*|\)\")?$", line)
    assert command
    arguments = shlex.split(command[1])
    if arguments[0] == "python":  # all that follows is for Caffe's
        return
    if "--help" in arguments:
        arguments.remove("--help")
        arguments += ["x", "--reference", "y"]
    options, more = parser(arguments).parse_known_args(arguments)
    assert options.command == arguments[0]
    assert not more or options.command == "run"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the examples name."""
    folder = tmp_path_factory.mktemp("examples")
    source = ROOT / "examples"
    layer = (source / "smooth_l1_layer.py").read_text().replace("SmoothL1LossLayer", "MyLossLayer")
    layer += "\n\nclass MyLayer(MyLossLayer):\n    def setup(self, bottom, top):\n        pass\n"
    layer += "    def reshape(self, bottom, top):\n        top[0].reshape(1)\n"
    layer += (
        "    def forward(self, bottom, top):\n        top[0].data[...] = bottom[0].data.sum()\n"
    )
    layer += "    def backward(self, top, propagate_down, bottom):\n"
    layer += "        bottom[0].diff[...] = top[0].diff\n"
    (folder / "my_layer.py").write_text(layer)
    formula = (source / "smooth_l1.py").read_text()
    hinge = (source / "squared_hinge.py").read_text()
    (folder / "smooth.py").write_text(formula)
    (folder / "squared_hinge.py").write_text(hinge)
    (folder / "my_formula.py").write_text(
        "import caffe_parity, smooth, squared_hinge\nhinge = squared_hinge.loss\n"
        "def loss(x=None, x1=None, x2=None):\n"
        "    return x.sum() if x is not None else smooth.loss(x1, x2)\n"
        "LAYER = caffe_parity.Layer('mine', reference=lambda x1, x2: smooth.loss(x1, x2),\n"
        "    cases=2, inputs={'x1': (2, 3), 'x2': (2, 3)}, variants={})\n"
    )
    (folder / "my_port.py").write_text(
        "import torch, smooth\nclass MyLoss(torch.nn.Module):\n    def forward(self, x1, x2):\n"
        "        return smooth.port(x1, x2)\n"
    )
    inputs = "".join(
        f'layer {{ name: "{name}" type: "Input" top: "{name}"\n'
        "  input_param { shape { dim: 2 dim: 3 } } }\n"
        for name in ("x1", "x2")
    )
    (folder / "my.prototxt").write_text(
        f'{inputs}layer {{ name: "l" type: "Python" bottom: "x1" bottom: "x2" top: "l"\n'
        '  loss_weight: 1 python_param { module: "my_layer" layer: "MyLossLayer" } }\n'
    )
    shutil.copy(source / "squared_hinge.prototxt", folder / "my_net.prototxt")
    shutil.copy(source / "squared_hinge_layer.cpp", folder / "my_layer.cpp")
    test = (source / "test_smooth_l1.py").read_text().replace("smooth_l1.", "smooth.")
    test = test.replace("import smooth_l1", "import smooth").replace('"torch-port"', '"port-loss"')
    test = test.replace("smooth_l1_layer.py:SmoothL1LossLayer", "my_layer.py:MyLossLayer")
    test = test.replace("    variants={", "    cases=2,\n    variants={")
    (folder / "test_my_layer.py").write_text(test)
    (folder / "tests").mkdir()
    for name in ("test_my_layer.py", "smooth.py", "my_layer.py"):
        shutil.copy(folder / name, folder / "tests")
    (folder / "parity-report").mkdir()
    green().write(folder / "before.json")
    disagreeing().write(folder / "after.json")
    shutil.copy(folder / "after.json", folder / "parity-report" / "results.json")
    return folder


@pytest.mark.parametrize("line", dict.fromkeys(examples()))
def test_example_works(line: str, folder: Path, caffe: Caffe) -> None:
    """As it is typed, in a folder with such files."""
    name = line.split()[1]
    if name in ENDLESS or any(each in line for each in ELSEWHERE):
        pytest.skip("it has no end, needs a model, asks a network, or writes elsewhere")
    line = line.replace("--case base", "--case 0")
    shutil.copy(folder / "after.json", folder / "parity-report" / "results.json")
    for number, some in enumerate((green(), replace(green(), results=(), selected=0)), 1):
        (folder / f"shard-{number}").mkdir(exist_ok=True)
        shard = replace(some, selection={"shard": f"{number}/2"})
        shard.write(folder / f"shard-{number}" / "results.json")
        (folder / f"shard-{number}" / "junit.xml").unlink(missing_ok=True)
    prelude = f'parity() {{ {shlex.quote(sys.executable)} -m caffe_parity "$@"; }}\n'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment["GITHUB_STEP_SUMMARY"] = str(folder / "summary")
    done = subprocess.run(
        ["bash", "-c", prelude + line], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    status = next((status for word, status in STATUS.items() if word in line), 0)
    assert done.returncode == status or status is None, done.stdout + done.stderr


def commands() -> dict[str, argparse.ArgumentParser]:
    """The parser of each, also of what compares with the recorded corpus."""
    actions = parser((), every=True)._actions
    (found,) = (each for each in actions if isinstance(each, argparse._SubParsersAction))
    return {**found.choices, "recorded": recorded.parser()}


@pytest.mark.parametrize("name", commands())
def test_options_of_one_name_are_one(name: str) -> None:
    """Every command has --color, and each that compares -q, -v and --summary; alike everywhere."""
    made = commands()[name]
    options = {each: action for action in made._actions for each in action.option_strings}
    wanted = {"--color"} if name != "python" else set()
    if {"--page", "--report"} & set(options):
        wanted |= {"-q", "--quiet", "-v", "--verbose", "--summary"}
    assert wanted <= set(options)
    assert "examples:\n" in (made.epilog or "")
    for option in {"-q", "--summary", "--color", "--page", "--annotations"} & set(options):
        others = [each._option_string_actions.get(option) for each in commands().values()]
        helps = {each.help for each in others if each} - {argparse.SUPPRESS}
        assert len(helps) == 1, option


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["chek"], "Did you mean 'check'?"),
        (["completion", "bsh"], "invalid choice: 'bsh'"),
        (["list", "--colour", "never"], "Did you mean --color?"),
        (["diff", "a", "b", "--al-l"], "Did you mean --all?"),
        (
            [
                "check",
                "examples/smooth_l1_layer.py:SmothL1LossLayer",
                "--bottom",
                "x1=1",
                "--bottom",
                "x2=1",
                "--reference",
                "examples/smooth_l1.py:loss",
            ],
            "Did you mean 'SmoothL1LossLayer'?",
        ),
        (
            [
                "check",
                "examples/squared_hinge.prototxt",
                "--reference",
                "examples/squared_hinge.py:los",
            ],
            "Did you mean 'loss'?",
        ),
        (
            [
                "net",
                "examples/small_net.prototxt",
                "--port",
                "examples/small_net.py:SmallNet",
                "--data",
                "labels=int:0,4",
            ],
            "Did you mean 'label'?",
        ),
        (
            [
                "net",
                "examples/small_net.prototxt",
                "--port",
                "examples/small_net.py:SmallNet",
                "--map",
                "conv=conv1",
            ],
            "Did you mean 'conv1'?",
        ),
    ],
)
def test_nearly_right_is_understood(
    arguments: list[str],
    meant: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A command, an option, a class, a function; test_cli.py has layers, variants and cases."""
    monkeypatch.chdir(ROOT)
    assert main(arguments) == 2
    assert meant in capsys.readouterr().err


def test_option_of_pytest_is_no_beginning_of_one_of_run(capsys: pytest.CaptureFixture[str]) -> None:
    """`--co` collects, though --color begins with it."""
    arguments = ["run", "tests.py", "--co"]
    assert parser(arguments).parse_known_args(arguments)[1] == ["--co"]
