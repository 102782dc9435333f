"""Whose fault it is: what `parity check` says of requests, references and nets that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_parity.caffe.check_failures import meaning
from caffe_parity.caffe.client import Caffe
from caffe_parity.cli.main import main
from caffe_parity.cli.objects import load_object
from caffe_parity.errors import BadRequest
from caffe_parity.nets import text_of

LAYER = """
import caffe
import json

import numpy as np


class Square(caffe.Layer):
    def setup(self, bottom, top):
        if self.param_str:
            self.factor = json.loads(self.param_str)["factor"]

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = self.value(bottom[0].data)

    def value(self, x):
        return x**2

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = 2 * bottom[0].data * top[0].diff


class Inverse(Square):
    def value(self, x):
        return np.linalg.inv(x)


class Distance(Square):
    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.d = bottom[0].data - bottom[1].data
        top[0].data[...] = (self.d**2).sum()

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = 2 * top[0].diff[0] * self.d
        bottom[1].diff[...] = -2 * top[0].diff[0] * self.d
"""

TRUTH = """
import torch


def square(x):
    return x * x


def both(x):
    return x * x, x


def wrong_shape(x):
    return flat(x)


def flat(x):
    return x.reshape(7, 7)


def detached(x):
    return x.detach() * x.detach()


def constant(x):
    return (x > 0).to(x)


def number(x):
    return x.sum().item()


def half(x, y):
    return ((x - y.detach()) ** 2).sum()


def any_index(x):
    return x * [1, 2][x.ndim]


def first(x, y=None):
    return x
"""

NET = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 4 dim: 3 } } }
layer { name: "one" type: "ReLU" bottom: "x" top: "a" }
layer { name: "two" type: "ReLU" bottom: "x" top: "b" }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the layers and the references are."""
    (tmp_path / "words_layer.py").write_text(LAYER)
    (tmp_path / "truth.py").write_text(TRUTH)
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "one.prototxt").write_text(NET.rsplit("layer", 1)[0])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (
            "none.prototxt --bottom x=2,3 --reference truth.py:square",
            "cannot read the net none.pro",
        ),
        ("none.py:Square --reference truth.py:square", "there is no file none.py"),
        (
            "words_layer.py:Sqare --bottom x=2,3 --reference truth.py:square",
            "has no class 'Sqare'; it has Square, Inverse, Distance. Did you mean 'Square'?\n",
        ),
        (
            "one.prototxt --reference truth.py:both",
            "the reference must return the net's 1 top (a) as a tensor, a tuple or a dict; it "
            "returned 2 values",
        ),
        (
            "net.prototxt --reference truth.py:square",
            "the reference must return the net's 2 tops (a, b) as a tensor, a tuple or a dict; it "
            "returned 1 tensor",
        ),
        (
            "words_layer.py:Square --bottom x=2,3 --reference truth.py:wrong_shape",
            "the reference cannot be evaluated: truth.py:18: RuntimeError: shape '[7, 7]'",
        ),
        (
            "words_layer.py:Square --bottom x=2,3 --reference truth.py:any_index",
            "truth.py:38: IndexError: list index out of range (inputs x (2, 3))\n",
        ),
        (
            "words_layer.py:Square --bottom x=2,3 --reference truth.py:number",
            "as a tensor, a tuple or a dict of tensors; it returned a float",
        ),
        (
            "words_layer.py:Square --bottom x=2,3 --reference truth.py:detached",
            "the reference is detached: its result changes with x, and has no grad_fn.",
        ),
        (
            "words_layer.py:Square --bottom x=2 --reference truth.py:square --param-str {factor:1",
            "\n  the layer's param_str was '{factor:1'\n",
        ),
    ],
)
def test_request_is_refused_in_the_right_words(
    caffe: Caffe,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    request_: str,
    words: str,
) -> None:
    """Exit 2, and the words name who must change what."""
    assert main(["check", *request_.split(), "--cases", "1"]) == 2
    assert words in capsys.readouterr().err


STUMBLES = """
import caffe

class Passes(caffe.Layer):
    def setup(self, bottom, top): pass
    def reshape(self, bottom, top): top[0].reshape(*bottom[0].data.shape)
    def forward(self, bottom, top): top[0].data[...] = bottom[0].data
    def backward(self, top, propagate_down, bottom): bottom[0].diff[...] = top[0].diff

class Unpacks(Passes):
    def forward(self, bottom, top): x, = bottom

class Assigns(Passes):
    def forward(self, bottom, top): top[0].data = bottom[0].data

class OnGpu(Passes):
    def forward(self, bottom, top): caffe.set_mode_gpu()

class HasNoReshape(caffe.Layer):
    def setup(self, bottom, top): pass

class Prints(Passes):
    def forward(self, bottom, top):
        for _ in range(99): print("x" * 9999)
        raise ValueError("y" * 9999)
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Unpacks", "write bottom[0], or bottom[i] for i in range(len(bottom))"),
        ("Assigns", "top[0].data[...] = value"),
        ("OnGpu", "leave that out"),
        ("HasNoReshape", "has the layer its setup, reshape, forward and backward?"),
        ("Prints", 'stumbles.py", line'),
    ],
)
def test_what_people_stumble_over(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    """The message says what to write; no line of what was printed fills a screen."""
    (folder / "stumbles.py").write_text(STUMBLES)
    command = f"check stumbles.py:{name} --bottom x=2,3 --reference truth.py:square --cases 1"
    assert main(command.split()) != 0
    said = "".join(capsys.readouterr())
    assert words in said
    assert max(map(len, said.splitlines())) < 2500


def test_byte_order_mark_is_named(tmp_path: Path) -> None:
    """Caffe refuses it, with a message in which nobody sees it."""
    (tmp_path / "net.prototxt").write_text("name: 'x'", "utf-8-sig")
    with pytest.raises(BadRequest, match="byte order mark"):
        text_of(tmp_path / "net.prototxt")


def test_traceback_of_a_layer_is_its_own_and_the_whole_one_on_request(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The frames of the layer's file always, those of NumPy with -v."""
    command = "words_layer.py:Inverse --bottom x=2,3 --reference truth.py:square --cases 1"
    said = []
    for more in ([], ["-v"]):
        assert main(["check", *command.split(), *more]) == 1
        said.append(capsys.readouterr().out)
        assert "crash: a layer raised: words_layer.py:28: LinAlgError: " in said[-1]
        assert 'words_layer.py", line 17, in forward' in said[-1]
        assert 'words_layer.py", line 28, in value' in said[-1]
        assert "worker.py" not in said[-1]
    assert "linalg.py" not in said[0]
    assert "linalg.py" in said[1]


def test_reference_that_is_partly_detached_is_told_as_such(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """That the gradient that it does not have is the reference's fault is said beside it."""
    command = "words_layer.py:Distance --bottom x=2,3 --bottom y=2,3 --reference truth.py:half"
    assert main(["check", *command.split(), "--cases", "1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(each.startswith("gradient:y: ") for each in lines)
    told = "note: the reference's own gradient of y is not that of its value"
    assert any(each.startswith(told) for each in lines)


def test_reference_that_is_constant_almost_everywhere_is_not_detached(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its gradient is 0, and autograd need not know of it."""
    (folder / "net.prototxt").write_text(
        NET.split('layer { name: "one"')[0]
        + """
layer { name: "step" type: "Python" bottom: "x" top: "y"
  python_param { module: "step_layer" layer: "Step" } }
"""
    )
    (folder / "step_layer.py").write_text(
        LAYER
        + """

class Step(Square):
    def value(self, x):
        return x > 0

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = 0
"""
    )
    command = "net.prototxt --reference truth.py:constant --cases 1"
    assert main(["check", *command.split()]) == 0, capsys.readouterr()


INPUT = 'layer { name: "in" type: "Input" top: "x" input_param { shape { %s } } }\n'
FLAT = INPUT % "dim: 4 dim: 3"
TWO = FLAT + 'layer { name: "other" type: "Input" top: "y" input_param { shape { %s } } }\n'
NETS = {
    FLAT + 'layer { name: "r" type: "ReLU" bottom: "z" top: "t" }': (
        "the layer 'r' reads 'z', which no layer before it makes"
    ),
    FLAT + 'layer { name: "r" type: "Relu" bottom: "x" top: "t" }': (
        "this Caffe has no layer type 'Relu'; did you mean ReLU?"
    ),
    TWO % "dim: 4 dim: 5" + 'layer { type: "Eltwise" bottom: "x" bottom: "y" top: "t" }': (
        "the shapes of a layer's bottoms do not fit one another"
    ),
    TWO % "dim: 4 dim: 2" + 'layer { type: "SoftmaxWithLoss" bottom: "x" bottom: "y" top: "t" }': (
        "there must be one label for each prediction: labels (N) for predictions (N, C)"
    ),
    INPUT % "dim: 70000 dim: 70000" + 'layer { type: "ReLU" bottom: "x" top: "t" }': (
        "a blob would have more than 2^31 - 1 elements"
    ),
    INPUT % "dim: 2 dim: 3 dim: 1 dim: 1 dim: 1"
    + 'layer { type: "ContrastiveLoss" bottom: "x" bottom: "x" bottom: "x" top: "t" }': (
        "a layer asks for num(), channels(), height() or width()"
    ),
    FLAT + 'layer { type: "EuclideanLoss" bottom: "x" top: "t" }': (
        "a EuclideanLoss layer takes 2 bottoms; here it is 1"
    ),
    FLAT + 'layer { type: "Convolution" bottom: "x" top: "t" }': "a layer lacks its num_output",
}
"""What is wrong with a net, and what must be said of it."""


@pytest.mark.parametrize("net", NETS, ids=list(NETS.values()))
def test_failed_check_is_told_in_a_sentence_and_shown_once(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str], net: str
) -> None:
    """Behind the sentence stands what Caffe said, in one line, and no more of its log."""
    (folder / "net.prototxt").write_text(net)
    assert main(["check", "net.prototxt", "--reference", "truth.py:first", "--cases", "1"]) == 2
    said = capsys.readouterr().err
    assert f"Caffe cannot build net.prototxt: {NETS[net]}" in said
    assert said.count("\n") == 1
    assert said.count(".cpp:") + said.count(".hpp:") == 1


def test_failed_check_that_nobody_knows_is_told_as_it_is() -> None:
    """A sentence that does not fit is worse than none."""
    assert meaning("new_layer.cpp:7] Check failed: a == b (1 vs. 2) ") == (
        "new_layer.cpp:7] Check failed: a == b (1 vs. 2) "
    )


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("EuclideanLos", "did you mean EuclideanLoss?"),
        ("relu", "did you mean ReLU?"),
        ("Poolin", "did you mean Pooling?"),
        ("WarpDistort", ""),
    ],
)
def test_layer_type_that_caffe_has_not_is_told_with_the_one_that_was_meant(
    given: str, meant: str
) -> None:
    """One that only looks like it, whatever its case; of nothing like it nothing is guessed."""
    known = "Concat, EuclideanLoss, Eltwise, Pooling, Python, ReLU, Scale"
    said = meaning(f"layer_factory.hpp:81] Unknown layer type: {given} (known types: {known})")
    assert f"this Caffe has no layer type {given!r}" in said and known not in said
    assert (meant in said) if meant else ("did you mean" not in said)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("no.py:loss", "there is no file no.py"),
        ("truth.py:los", "truth.py has no 'los'; it has loss"),
        ("truth.py", "expected MODULE:NAME or FILE.py:NAME"),
        (":loss", "expected MODULE:NAME"),
        ("truth.py:", "expected MODULE:NAME"),
        ("broken.py:loss", "broken.py cannot be imported: ZeroDivisionError: division by zero"),
        ("no_such_module_:loss", "no_such_module_"),
    ],
)
def test_object_that_cannot_be_had_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, words: str
) -> None:
    """What is missing, a file, a module or a name in it, and what there is instead."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "truth.py").write_text(
        "import math\n_no = abs\ndef loss(x):\n    return x\nN = 1\n"
    )
    (tmp_path / "broken.py").write_text("1 / 0\n")
    assert load_object("truth.py:loss", "--reference")(3) == 3
    with pytest.raises(BadRequest) as caught:
        load_object(spec, "--reference")
    assert words in str(caught.value) and (
        "there is no file" in words or "--reference" in str(caught.value)
    )


def test_net_that_is_a_device_is_refused() -> None:
    """It need not have an end."""
    with pytest.raises(BadRequest, match="cannot read the net /dev/null: it is a device"):
        text_of(Path("/dev/null"))
