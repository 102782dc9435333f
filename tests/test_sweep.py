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
from pathlib import Path

import numpy as np
import pytest

from caffe_parity.caffe.client import Caffe
from caffe_parity.cli.main import COMMANDS, main, parser
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
    "watch": (),  # it has the options of `check`, and does not end
    "diff": (("diff", "good.json", "good.json"),),
    "doctor": (("doctor",),),
    "completion": (("completion", "bash"),),
    "install-caffe": (("install-caffe",),),
    "python": (),  # what follows is for Python
}
"""For each command, lines that can be carried out."""

SLOW = ("run", "list")
"""They run pytest: with every fourteenth value."""


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
    rest[1 + places.index(action.dest)] = value
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
    step = 14 if base[0] in SLOW else 1
    called = [*action.option_strings, action.metavar or "", action.dest.replace("_", "-")]
    for each in (sys.stdout, sys.stderr):  # as those of the program are
        assert isinstance(each, io.TextIOWrapper)
        each.reconfigure(errors="backslashreplace")
    wrong, files = [], set(os.listdir())
    for value in NONSENSE[::step]:
        line = lines_with(base, action, value)
        before = traces(caffe)
        status = main(line)
        said = "".join(capsys.readouterr())
        left = traces(caffe) - before
        for new in set(os.listdir()) - files:  # what --json was to write
            shutil.rmtree(new) if Path(new).is_dir() else Path(new).unlink()
        names = [*called, value.strip("/ "), repr(value)[1:-1], value.partition(":")[0]]
        named = status != 2 or any(str(each) in said for each in names if str(each))
        unknown = "Traceback" in said or "internal error" in said
        if status not in (0, 1, 2) or unknown or left or not named:
            wrong.append(f"{line}: status {status}, left {left}\n{said[-2000:]}")
    assert not wrong, "\n".join(wrong)
