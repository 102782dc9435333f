"""Annotations of GitHub Actions: at the right line, whole, and nothing else is a command there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import caffe_parity
from caffe_parity.caffe.client import Caffe
from caffe_parity.contract import Finding
from caffe_parity.nets import located
from caffe_parity.report import annotations as github
from caffe_parity.report import summary
from caffe_parity.report.annotations import Harmless, harmless
from caffe_parity.report.place import in_net, place
from caffe_parity.report.record import Record, Report
from tests.pages import REPORTS, command
from tests.test_page import HOSTILE, _hostile

ROOT = Path(__file__).parent.parent
COMMANDS = ("::error::x", " ::set-output name=a::b", "x ##[add-mask]y", "\u00a0::stop-commands::z")
TEXTS = st.text(st.sampled_from(":#[ \t\r\n\\x\u00a0"), max_size=12)


def commands_in(text: str) -> list[str]:
    """The lines that GitHub's runner takes for commands, as its own code reads them.

    ActionCommand.TryParseV2 wants `::` at the start of a line, white space left out; TryParse wants
    `##[` anywhere in it.
    """
    lines = re.split(r"\r\n|\r|\n", text)
    return [each for each in lines if each.lstrip().startswith("::") or "##[" in each]


def read(line: str) -> tuple[dict[str, str], str]:
    """The properties and the words of an annotation, as the runner unescapes them."""
    found = re.fullmatch(r"::error ([^:\n\r]*)::([^\n\r]*)", line)
    assert found, line
    properties = dict(each.split("=", 1) for each in found[1].split(","))
    codes = {"%0D": "\r", "%0A": "\n", "%3A": ":", "%2C": ",", "%25": "%"}

    def plain(text: str) -> str:
        return re.sub("%(0D|0A|3A|2C|25)", lambda each: codes[each[0]], text)

    return {name: plain(each) for name, each in properties.items()}, plain(found[2])


@given(st.text() | TEXTS)
def test_no_text_is_a_command(text: str) -> None:
    """And one that has none is as it was."""
    assert commands_in(harmless(text)) == []
    if not commands_in(text):
        assert harmless(text) == text


@given(st.lists(TEXTS, max_size=6))
def test_no_text_in_pieces_is_a_command(pieces: list[str]) -> None:
    """However it is cut."""
    made = Harmless()
    assert commands_in("".join(map(made, pieces))) == []


@pytest.mark.parametrize("text", COMMANDS)
def test_commands_are_told_apart(text: str) -> None:
    """The four that the tests here are about are such; made harmless they can still be read."""
    assert commands_in(text) == [text]
    assert harmless(text).replace("\\", "") == text


def lines(report: Report) -> list[str]:
    """The annotations, all at one place that is hard to write."""
    where = str(Path.cwd() / "a,b:c%" / "layer.py")
    return list(github.lines(report, command, lambda record, found: (where, 7)))


@pytest.mark.parametrize("name", REPORTS)
def test_each_finding_of_each_variant_has_one(name: str) -> None:
    """With its words, one of its cases, and the command."""
    report = REPORTS[name]()
    told = [read(each) for each in lines(report)]
    wanted = {
        (each.layer, each.variant, found.code)
        for each in report.results
        if each.wrong
        for found in each.findings
    }
    assert {tuple(properties["title"].split(" ")) for properties, _ in told} == wanted
    for properties, words in told:
        assert (properties["file"], properties["line"]) == ("a,b:c%/layer.py", "7")
        assert "tox -e parity" in words


@pytest.mark.parametrize("words", [*HOSTILE, *COMMANDS, "a,file=b::c", "100%0A", "a\nb\r\nc"])
def test_no_name_breaks_out_of_its_place(words: str) -> None:
    """Nor a message: each annotation is one line, and has the properties that it is to have."""
    made = lines(_hostile(words))
    assert len(made) == len(lines(_hostile("harmless")))
    for each in made:
        assert set(read(each)[0]) == {"file", "line", "title"}


@pytest.mark.parametrize("words", [*HOSTILE, *COMMANDS, "| a | b |", "```", "[a](b)", "**x**"])
def test_no_name_means_anything_in_the_summary(words: str) -> None:
    """Each table keeps its columns, each block of code its end, and nothing is HTML or a link."""
    text = summary.markdown(_hostile(words), lambda each: words)
    fence, columns = "", 0
    for line in text.splitlines():
        if fence:
            fence = "" if line == fence else fence
        elif line.startswith("```"):
            fence = line.removesuffix("sh")
        else:
            assert not re.search(r"<|(?<!\\)[\[\]*_`]", line), line
            cells = len(re.findall(r"(?<!\\)\|", line))
            columns = columns or cells
            assert cells in (0, columns)
    assert not fence


PYTHON = """import caffe
class Other(caffe.Layer):
    def backward(self, top, propagate_down, bottom):
        pass
class Mine(caffe.Layer):
    def setup(self, bottom, top):
        pass
    def forward(self, bottom, top):
        raise ValueError
    def backward(self, top, propagate_down, bottom):
        pass
"""
NET = """name: "net {"
layer { name: "x" type: "Input" top: "x" }  # layer { type: "Python" }
layer {
  name: "a" type: "Python" bottom: "x" top: "y"
  python_param { module: "mine" layer: "Mine" }
}
layer { name: "b" type: "Own" bottom: "y" top: "z" }
layer { name: "c" type: "EuclideanLoss" bottom: "z" bottom: "w" top: "l" }
"""
CPP = """template <typename Dtype>
class OwnLayer : public Layer<Dtype> {};
template <typename Dtype> void OwnLayer<Dtype>::Forward_cpu(...) {
}
template <typename Dtype> void OwnLayer<Dtype>::Backward_cpu(...) {
"""


def port(x: float) -> float:
    """A port."""
    return x


@pytest.mark.parametrize(
    ("what", "tensor", "name", "line"),
    [
        ("mine.py:Mine", "top", "mine.py", 8),
        ("mine.py:Mine", "gradient:x", "mine.py", 10),
        ("mine.py:Mine", "", "mine.py", 5),
        ("mine:Mine", "top", "mine.py", 8),
        ("net.prototxt", "y", "mine.py", 8),
        ("net.prototxt", "gradient:x", "mine.py", 10),
        ("net.prototxt", "z", "own.cpp", 3),
        ("net.prototxt", "gradient:y", "own.cpp", 5),
        ("net.prototxt", "l", "net.prototxt", 8),
        ("net.prototxt", "gradient:w", "net.prototxt", 8),
        ("net.prototxt", "", "net.prototxt", 8),
    ],
)
def test_finding_is_at_the_line_of_its_layer(
    tmp_path: Path, what: str, tensor: str, name: str, line: int
) -> None:
    """Forward or backward of the class, in its file; else the layer in the net."""
    for file, text in (("mine.py", PYTHON), ("net.prototxt", NET), ("own.cpp", CPP)):
        (tmp_path / file).write_text(text)
    declared = (
        caffe_parity.python_layer(what, path=["."])
        if "Mine" in what
        else caffe_parity.net(what, load=["own.cpp"])
    )
    found = place(located(declared, tmp_path), Finding("value", "wrong", tensor), "", tmp_path)
    assert found is not None
    assert (Path(found[0]).name, found[1]) == (name, line)


def test_crash_is_at_the_line_that_raised(tmp_path: Path) -> None:
    """The last one of the layer's own; what a layer prints names no other file."""
    (tmp_path / "mine.py").write_text(PYTHON)
    variant = located(caffe_parity.python_layer("mine.py:Mine"), tmp_path)
    printed = f'File "{tmp_path}/mine.py", line 9, in forward\nFile "/etc/passwd", line 1, in x\n'
    assert place(variant, Finding("crash", ""), printed, tmp_path) == (f"{tmp_path}/mine.py", 9)


def test_layer_of_a_whole_net_is_at_its_line(tmp_path: Path) -> None:
    """By its name; what is about the net as a whole, at the beginning."""
    file = tmp_path / "net.prototxt"
    assert in_net(file, "b") is None
    file.write_text(NET)
    assert in_net(file, "b") == (str(file), 7)
    assert in_net(file, "unmatched x") == (str(file), 1)


def test_port_is_at_its_own_line() -> None:
    """A function's; nothing is said of an object without source."""
    found = place(port, Finding("port-forward", ""), "", Path())
    assert found == (__file__, port.__code__.co_firstlineno)
    assert place(len, Finding("port-forward", ""), "", Path()) is None


LAYER = """import caffe
class Layer(caffe.Layer):
    def setup(self, bottom, top):
        pass
    def reshape(self, bottom, top):
        top[0].reshape(1)
    def forward(self, bottom, top):
        print({text!r})
        raise ValueError({text!r})
    def backward(self, top, propagate_down, bottom):
        pass
"""
TESTS = """
import caffe_parity
LAYER = caffe_parity.Layer(
    "mine", reference=lambda x: (x * x).sum(), inputs={"x": (2, 3)}, cases=1,
    variants={"caffe": caffe_parity.python_layer("layer.py:Layer")},
)
@caffe_parity.parametrize(LAYER)
def test_mine(comparison):
    comparison.check()
"""
CHECK = ("check", "layer.py:Layer", "--bottom", "x=2,3", "--reference", "truth.py:loss")
RUNS: dict[str, Sequence[str]] = {
    "check": ("caffe_parity", *CHECK),
    "quiet": ("caffe_parity", *CHECK, "-q"),
    "run": ("caffe_parity", "run", "test_mine.py"),
    "pytest": ("pytest", "-p", "caffe_parity.pytest_plugin", "test_mine.py"),
}


@pytest.fixture
def ran(tmp_path: Path, caffe: Caffe) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command on a layer that prints commands, and raises one."""
    text = "\n".join(["x", *COMMANDS])
    (tmp_path / "layer.py").write_text(LAYER.format(text=text))
    (tmp_path / "truth.py").write_text("def loss(x):\n    return (x * x).sum()\n")
    (tmp_path / "test_mine.py").write_text(TESTS)

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.mark.parametrize("name", RUNS)
def test_layer_gives_no_command(
    ran: Callable[..., subprocess.CompletedProcess[str]], name: str
) -> None:
    """Whatever it prints and raises, the one command is the annotation at the line that raised."""
    done = ran(*RUNS[name], GITHUB_ACTIONS="true")
    assert done.returncode == 1, done.stdout + done.stderr
    assert commands_in(done.stdout) == []
    (line,) = commands_in(done.stderr)
    properties, words = read(line)
    assert (properties["file"], properties["line"]) == ("layer.py", "9")
    assert "a layer raised" in words and COMMANDS[0] in words


def test_annotations_are_for_github_alone(
    ran: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """Nowhere else unless they are asked for, and there not if nobody wants them."""
    assert "::error file" not in ran(*RUNS["check"]).stderr
    assert "::error file" in ran(*RUNS["check"], "--annotations", "github").stderr
    said = ran(*RUNS["run"], "--annotations", "none", GITHUB_ACTIONS="true")
    assert "::error file" not in said.stderr


def test_record_without_a_finding_is_annotated_by_its_verdict() -> None:
    """As it is told everywhere else."""
    bare = Record("a", "b", "c", "crash", "it ended")
    (line,) = github.lines(Report("run", {}, {}, (bare,)), command, lambda *_: None)
    assert read(line)[0] == {"title": "a b crash"}
