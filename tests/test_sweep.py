"""Every option of every command, read from the parsers themselves, with nonsense of every kind.

A new command or option is swept without a line here.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffe_parity import pytest_plugin
from caffe_parity.caffe.client import Caffe
from caffe_parity.caffe.session import SESSION
from caffe_parity.cli import run
from caffe_parity.cli.main import COMMANDS, main, parser
from caffe_parity.report.record import read
from parity_tests.recorded import __main__ as recorded
from tests.net_text import input_layer, layer

FILES = {
    "net.prototxt": input_layer("x", 2, 3) + layer("Power", "x", "y", "power_param { power: 2 }"),
    "truth.py": "def square(x):\n    return x * x\n",
    "square_layer.py": """
import caffe
class Square(caffe.Layer):
    def setup(self, bottom, top): pass
    def reshape(self, bottom, top): top[0].reshape(*bottom[0].shape)
    def forward(self, bottom, top): top[0].data[...] = bottom[0].data ** 2
    def backward(self, top, down, bottom): bottom[0].diff[...] = 2 * bottom[0].data * top[0].diff
""",
    "test_square.py": """
import caffe_parity
from truth import square
LAYER = caffe_parity.Layer(
    "square", reference=square, inputs={"x": (2, 3)}, variants={"port": square}, cases=1)
@caffe_parity.parametrize(LAYER)
def test_square(comparison):
    comparison.check()
""",
    "port.py": """
from torch import nn
class Power(nn.Module):
    def forward(self, x):
        return x * x
class Square(nn.Module):
    def __init__(self):
        super().__init__()
        self.y = Power()
    def forward(self, x):
        return self.y(x)
""",
    "broken.py": "def square(x:\n",
    "empty": "",
    "text.json": '{"schema": "parity-results-1", "results": []}',
    "deep.json": "[" * 100_000,
}
"""What lies in the current folder."""

NONSENSE = (
    *("", " ", "garbage", "no/such/file", "/no/such/folder/", "folder", "folder/", "/proc/1"),
    *("/proc/1/mem", "/dev/null", "/dev/zero", "/dev/full", "empty", "binary", "array.npy"),
    *("text.json", "deep.json", "broken.py", "net.prototxt", "truth.py", "test_square.py"),
    *("9" * 400, "-1", "0", "1.5", "1e999", "nan", "inf", "-inf", "x", "0x10", "2**31"),
    *("x=", "=", "x=0", "x=-3", "x=1e9", f"x={2**40}", "x=2,3", "x=nan", "x=int:nan", "x=int:5,1"),
    *("x=constant:1e999", "x=onehot:99", "y=normal", "param[0]=normal", "x=2,3,"),
    *("truth.py:", ":square", "truth.py:nothing", "broken.py:square", "os:_exit", "sys:exit"),
    *("math:pi", "truth.py:__name__", "builtins:input", "square_layer.py:Square", "a:b:c"),
    *(
        "ünïcödé/日本",
        "\udcff\udcfe",
        "\n",
        "a\nb",
        "%s%n{0}",
        "$(x)",
        "'",
        '"',
        "--",
        "-x",
        "a" * 5000,
    ),
)

TESTS = "test_square.py"
CHECK = ("check", "net.prototxt", "--reference", "truth.py:square", "--cases", "1")
OF_CLASS = ("check", "square_layer.py:Square", "--bottom", "x=2,3", *CHECK[2:])
BASES: dict[str, tuple[tuple[str, ...], ...]] = {
    "check": (CHECK, OF_CLASS),
    "run": (("run", TESTS),),
    "list": (("list", TESTS),),
    "net": (("net", "net.prototxt", "--port", "port.py:Square", "--phase", "TEST"),),
    "weights": (("weights", "net.prototxt", "--port", "port.py:Square", "-o", "w.safetensors"),),
    "port": (("port", "net.prototxt", "-o", "my_net.py"),),
    "watch": (),  # it has the options of `check`, and does not end
    "diff": (("diff", "good.json", "good.json"),),
    "merge": (("merge", "shard.json", "-o", "merged"),),
    "doctor": (("doctor",),),
    "completion": (("completion", "bash"),),
    "install-caffe": (("install-caffe",),),
    "python": (),  # what follows is for Python; `test_pip_...` has what is for pip
}
"""For each command, lines that can be carried out."""

STEPS = {
    ("run", "tests"): 3,
    ("run", "report"): 6,
    ("list", "tests"): 4,
    **{("port", name): 14 for name in ("json", "page", "summary")},  # those of `net`
    **{("run", name): 14 for name in ("layer", "variant", "case", "called")},
}
"""Where much is done before a value is refused: with each how many-th value."""


def options_of(name: str) -> list[argparse.Action]:
    """What a command takes, but for --help and the like, which take no value."""
    made = parser([name])
    (commands,) = (each for each in made._actions if isinstance(each, argparse._SubParsersAction))
    return [each for each in commands.choices[name]._actions if each.nargs != 0]


def lines_with(base: tuple[str, ...], action: argparse.Action, value: str) -> list[str]:
    """A command line with a value for an option, or in place of an argument."""
    if action.option_strings:
        option = action.option_strings[-1]
        rest = list(base)
        if option in rest and not isinstance(action, argparse._AppendAction):
            del rest[rest.index(option) : rest.index(option) + 2]
        return [*rest, f"{option}={value}"]
    places = [each.dest for each in options_of(base[0]) if not each.option_strings]
    rest = list(base)
    place = 1 + places.index(action.dest)
    is_there = not rest[place].startswith("-")  # else one that a line can do without
    rest[place : place + is_there] = [value]
    return rest


SWEPT = [
    pytest.param(base, action, id=f"{name}-{number}-{action.dest}")
    for name in COMMANDS
    for number, base in enumerate(BASES[name])
    for action in options_of(name)
]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caffe: Caffe) -> Path:
    """A folder with files of many kinds, which is the current one, and an empty $TMPDIR."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    for name in ("truth", "test_square"):  # of the folder before
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name, text in FILES.items():
        Path(name).write_text(text)
    Path("binary").write_bytes(bytes(range(256)) * 8)
    Path("folder").mkdir()
    np.save("array.npy", np.ones(3))
    assert main([*CHECK, "--json", "good.json"]) == 0
    replace(read(Path("good.json")), selection={"shard": "1/1"}).write(Path("shard.json"))
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return here


def children() -> set[str]:
    """The processes that this one has started and that are there."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if stat.read_text().rpartition(")")[2].split()[1] == str(os.getpid()):
                found.add(stat.parent.name)
    return found


def traces(caffe: Caffe) -> set[str]:
    """What a command might leave behind: files in /dev/shm and $TMPDIR, and processes."""
    return {
        *os.listdir("/dev/shm"),
        *os.listdir(tempfile.gettempdir()),
        *(children() - {str(caffe.pid)}),
    }


@pytest.mark.parametrize(("base", "action"), SWEPT)
def test_nonsense_is_named(
    place: Path,
    caffe: Caffe,
    capsys: pytest.CaptureFixture[str],
    base: tuple[str, ...],
    action: argparse.Action,
) -> None:
    """Status 2 with words about it, or what was asked is carried out; nothing else, ever."""
    step = STEPS.get((base[0], action.dest), 1)
    called = [*action.option_strings, action.metavar or "", action.dest.replace("_", "-")]
    lines = [(value, lines_with(base, action, value)) for value in NONSENSE[::step]]
    assert not swept(caffe, capsys, main, lines, called)


def swept(
    caffe: Caffe,
    capsys: pytest.CaptureFixture[str],
    command: Callable[[list[str]], int],
    lines: Iterable[tuple[str, list[str]]],
    called: Sequence[object],
) -> str:
    """What is wrong with the answers to command lines, each with the value that is nonsense."""
    for each in (sys.stdout, sys.stderr):  # as those of the program are
        assert isinstance(each, io.TextIOWrapper)
        each.reconfigure(errors="backslashreplace")
    wrong, files = [], set(os.listdir())
    for value, line in lines:
        before = traces(caffe)
        status = command(line)
        said = "".join(capsys.readouterr())
        left = traces(caffe) - before
        for new in set(os.listdir()) - files:  # what --json was to write
            shutil.rmtree(new) if Path(new).is_dir() else Path(new).unlink()
        names = [*called, value.strip("/ "), repr(value)[1:-1], value.partition(":")[0]]
        named = status != 2 or any(str(each) in said for each in names if str(each))
        unknown = "Traceback" in said or "internal error" in said or "INTERNALERROR" in said
        if status not in (0, 1, 2) or unknown or left or not named:
            wrong.append(f"{line}: status {status}, left {left}\n{said[-2000:]}")
    return "\n".join(wrong)


class Options:
    """Gathers what a plugin adds to pytest's options, as pytest's own parser would."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def getgroup(self, name: str) -> Options:
        return self

    def addoption(self, name: str, **more: object) -> None:
        if more.get("action") != "store_true":
            self.found.append(name)


def plugin_options() -> list[str]:
    """The options of the pytest plugin that take a value."""
    options: Any = Options()
    pytest_plugin.pytest_addoption(options)
    return list(options.found)


@pytest.mark.parametrize("option", plugin_options())
def test_nonsense_for_the_plugin_is_named(
    place: Path, caffe: Caffe, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    """pytest with the plugin, as a user's own runs call it: the same."""
    alone = [*run._alone(Path(TESTS)), TESTS, "-q", "-p", "no:cacheprovider"]
    alone += [f"--basetemp={place.parent / 'base'}"]

    def command(line: list[str]) -> int:
        status = int(pytest.main(line))
        SESSION.use(caffe)
        return 2 if status > 1 else status

    step = 1 if option in ("--parity-device", "--parity-timeout") else 14  # refused at once
    lines = [(value, [*alone, f"{option}={value}"]) for value in NONSENSE[::step]]
    assert not swept(caffe, capsys, command, lines, [option, option.removeprefix("--parity-")])


RECORDED = ("--layer", "euclidean", "--variant", "torch-module", "--case", "base")


@pytest.mark.parametrize("action", recorded.parser()._actions[1:], ids=lambda each: str(each.dest))
def test_nonsense_for_the_recorded_comparison_is_named(
    place: Path, caffe: Caffe, capsys: pytest.CaptureFixture[str], action: argparse.Action
) -> None:
    """The comparison without a Caffe: the same."""
    called = [*action.option_strings, action.metavar or "", action.dest]
    lines = []
    for value in NONSENSE[::7]:
        rest = list(RECORDED)
        option = action.option_strings[-1]
        if option in rest:
            del rest[rest.index(option) : rest.index(option) + 2]
        lines.append((value, [*rest, f"{option}={value}" if option != "-k" else f"-k{value}"]))
    assert not swept(caffe, capsys, recorded.main, lines, called)


def test_pip_for_caffes_python_takes_three_commands(
    place: Path, caffe: Caffe, capsys: pytest.CaptureFixture[str]
) -> None:
    """`parity python -m pip NONSENSE` is refused before anything is run, with what there is."""
    lines = [(value, ["python", "-m", "pip", value]) for value in NONSENSE]
    assert not swept(caffe, capsys, main, lines, ["install, list and freeze"])
