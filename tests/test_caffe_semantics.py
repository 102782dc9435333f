"""How Caffe really behaves: each fact is a test in a real Caffe and a line of the document.

`python -m tests.test_caffe_semantics` writes docs/caffe_semantics.md from the docstrings: a
class is a heading, each of its tests an entry. All numbers are small integers and powers of two, so
that every sum is exact in any order and `==` is the right comparison.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from caffe_parity.caffe.client import Caffe, LayerError, Op
from caffe_parity.caffe.interpreter import find
from caffe_parity.contract import Array32

DOCUMENT = Path(__file__).parent.parent / "docs" / "caffe_semantics.md"
INTRODUCTION = """\
# How Caffe really behaves

What a Caffe user meets at the border of a loss layer: shapes, weights, gradients, failures. Each
entry is the docstring of a test that runs in a real Caffe; a test that fails is an entry that is
wrong. This file is written by `python -m tests.test_caffe_semantics` and a test holds it
against the tests, so edit it there.

Tried on BVLC Caffe 1.0 as Debian 11 packages it (`1.0.0+git20180821.99bd997-8`: CPU only, float32,
Python 3.9), with the reference BLAS 3.9.0 and with OpenBLAS 0.3.13; with `CAFFE_PYTHON` the tests
try another one. Nothing here was tried in GPU mode: that Python layers run on the CPU there too, at
the price of the copies, and that reading `.data` or `.diff` marks the CPU's copy as the newest, is
only what the sources say.
"""

LAYERS = """
import os
import signal
import tempfile
import caffe
import numpy as np


def built(text):
    with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as file:
        file.write(text)
        file.flush()
        return caffe.Net(file.name, caffe.TRAIN)


class Base(caffe.Layer):
    def setup(self, bottom, top): pass
    def reshape(self, bottom, top): top[0].reshape(1)
    def forward(self, bottom, top): top[0].data[...] = 1
    def backward(self, top, propagate_down, bottom): pass

class Runs(Base):  # the code in its param_str; what that calls `answer` is the top
    def forward(self, bottom, top):
        answer = np.array(self.run(bottom, top)["answer"], np.float32)
        top[0].reshape(*answer.shape)
        top[0].data[...] = answer

    def run(self, bottom, top):
        names = {"caffe": caffe, "np": np, "built": built, "bottom": bottom, "top": top}
        exec(self.param_str, names)
        return names

class Dies(Runs):  # so that only a copy of the process dies; raises what it died of and said
    def forward(self, bottom, top):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.dup2(writing, 2)
            try:
                self.run(bottom, top)
            except BaseException as error:
                os.write(2, repr(error).encode())
            os._exit(0)
        os.close(writing)
        with open(reading, errors="replace") as pipe:
            said = pipe.read()
        status = os.waitpid(child, 0)[1]
        how = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "no signal"
        raise RuntimeError("%s: %s" % (how, said))

class Asked(Base):  # 1 in the diff of every bottom that it is asked for
    def backward(self, top, propagate_down, bottom):
        for i in range(len(bottom)):
            if propagate_down[i]:
                bottom[i].diff[...] = 1

class Raises(Base):
    def forward(self, bottom, top):
        if bottom[0].data.any():
            raise KeyError("no such thing")

class NoArguments(Base):
    def reshape(self, bottom, top): top[0].reshape()

class Zero(Base):
    def reshape(self, bottom, top): top[0].reshape(0)
    def forward(self, bottom, top): pass

class OldName(Base):
    def setup(self, bottom, top): self.param_str_

class Iterates(Base):
    def forward(self, bottom, top):
        for blob in bottom: pass

class ExampleEuclideanLoss(Base):  # the mathematics of Caffe's examples/pycaffe/layers/pyloss.py
    def forward(self, bottom, top):
        self.diff = bottom[0].data - bottom[1].data
        top[0].data[...] = np.sum(self.diff**2) / bottom[0].num / 2.
    def backward(self, top, propagate_down, bottom):
        for i, sign in enumerate((1, -1)):
            if propagate_down[i]:
                bottom[i].diff[...] = sign * self.diff / bottom[i].num
"""

KNOWN = """
AbsVal Accuracy ArgMax BNLL BatchNorm BatchReindex Bias Clip Concat ContrastiveLoss Convolution Crop
Data Deconvolution Dropout DummyData ELU Eltwise Embed EuclideanLoss Exp Filter Flatten HDF5Data
HDF5Output HingeLoss Im2col ImageData InfogainLoss InnerProduct Input LRN LSTM LSTMUnit Log MVN
MemoryData MultinomialLogisticLoss PReLU Parameter Pooling Power Python RNN ReLU Reduction Reshape
SPP Scale Sigmoid SigmoidCrossEntropyLoss Silence Slice Softmax SoftmaxWithLoss Split Swish TanH
Threshold Tile WindowData
"""

GARBAGE = 2.0**20
"""What every diff holds before the backward of `Bench.one_pass`."""


def given(name: str, *shape: int) -> str:
    """An input of a net."""
    dims = " ".join(f"dim: {extent}" for extent in shape)
    return layer("Input", "", name, f"input_param {{ shape {{ {dims} }} }}")


def layer(kind: str, bottoms: str, top: str, more: str = "") -> str:
    """A layer named like its top; `bottoms` are separated by blanks."""
    reads = " ".join(f'bottom: "{bottom}"' for bottom in bottoms.split())
    return f'layer {{ name: "{top}" type: "{kind}" {reads} top: "{top}" {more} }}\n'


def python(name: str, bottoms: str, top: str, more: str = "", code: str = "") -> str:
    """A Python layer of `LAYERS`."""
    code = json.dumps(textwrap.dedent(code))
    param = f'python_param {{ module: "semantics_layers" layer: "{name}" param_str: {code} }}'
    return layer("Python", bottoms, top, f"{param} {more}")


def bias(bottom: str, top: str) -> str:
    """A Bias of 0: something that can be learned, before what reads it."""
    return layer("Bias", bottom, top, "bias_param { axis: 0 num_axes: 0 }")


WEIGHT = "loss_weight: 1 "
FORCE = "force_backward: true\n"
TWO = given("x", 2, 4) + given("y", 2, 4)
EUCLIDEAN = TWO + layer("EuclideanLoss", "x y", "loss")
X = np.arange(8, dtype=np.float32).reshape(2, 4)
Y = np.array([[1, 0, 0, 5], [4, 4, 4, 4]], np.float32)
D = X - Y
LOSS = float(np.square(D).sum()) / 4  # sum d^2 / (2N)


class Bench:
    """A real Caffe to try things in, and the folder with `LAYERS`."""

    def __init__(self, caffe: Caffe, folder: Path) -> None:
        self.caffe = caffe
        self.folder = folder

    def net(self, text: str, **edits: object) -> Op:
        """The op that builds a net."""
        return {"op": "net", "text": text, "edits": edits, "path": [str(self.folder)]}

    def one_pass(
        self, text: str, inputs: Mapping[str, Array32], *wanted: str, **edits: object
    ) -> list[Array32]:
        """Forward, garbage into every diff that is written or wanted, backward; then the wanted.

        Args:
            text: the net.
            inputs: by name.
            wanted: `"diff x"`, `"data x"` and such.
            edits: those of the net.
        """
        ops: list[Op] = [self.net(text, **edits)]
        ops += [{"op": "set", "blob": name, "array": array} for name, array in inputs.items()]
        asked: list[Op] = [dict(zip(("op", "blob"), each.split(), strict=True)) for each in wanted]
        ops += [{"op": "forward"}, {"op": "poison", "value": GARBAGE}]
        ops += [
            {**each, "op": "fill_diff", "value": GARBAGE} for each in asked if each["op"] == "diff"
        ]
        ops += [{"op": "backward"}, *asked]
        replies = self.caffe.request(ops)
        return [reply["array"] for reply in replies[len(ops) - len(wanted) :]]

    def inside(self, code: str, text: str = "") -> list[Any]:
        """Runs code inside Caffe, where `n` is the net of `text`; returns its `answer`."""
        ops = [self.running("Runs", code, text), {"op": "forward"}, {"op": "loss"}]
        answer: list[Any] = self.caffe.request(ops)[-1]["array"].tolist()
        return answer

    def training(self, solver: str, more: str, start: float) -> list[Op]:
        """The ops that put a solver, at rate 1, over one parameter whose gradient is always 4."""
        text = f'base_lr: 1 lr_policy: "fixed" {solver}'
        net = given("x", 4) + layer(
            "Bias", "x", "b", f"bias_param {{ axis: 0 num_axes: 0 }} {more}"
        )
        return [
            {"op": "solver", "solver": text, "text": net + layer("Reduction", "b", "sum", WEIGHT)},
            {"op": "set_param", "layer": "b", "index": 0, "array": np.array(start, np.float32)},
        ]

    def trained(self, solver: str, steps: int, more: str = "", start: float = 0) -> list[float]:
        """That parameter after each step."""
        step: list[Op] = [{"op": "step"}, {"op": "param", "layer": "b", "index": 0}]
        replies = self.caffe.request([*self.training(solver, more, start), *step * steps])
        return [float(reply["array"]) for reply in replies if "array" in reply]

    def aborts(self, words: str, text: str, code: str = "") -> None:
        """Building the net, or else the code, aborts with these words; no `except` sees it.

        It does so in a forked copy of the process, which costs a hundredth of a restart.
        """
        op = self.running("Dies", code, text)
        with pytest.raises(LayerError, match=rf"(?s)RuntimeError: SIGABRT: .*{words}"):
            self.caffe.request([op, {"op": "forward"}])

    def running(self, name: str, code: str, text: str) -> Op:
        """The op that builds the net whose forward runs the code."""
        code = (f"n = built({text!r})\n" if text else "") + textwrap.dedent(code)
        return self.net(given("input", 1) + python(name, "input", "answer", WEIGHT, code))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A Caffe of this module's own."""
    folder = tmp_path_factory.mktemp("layers")
    (folder / "semantics_layers.py").write_text(LAYERS)
    (folder / "semantics_imports.py").write_text("import does_not_exist\n")
    with Caffe(find()) as caffe:
        yield Bench(caffe, folder)


class TestReduction:
    """Reduction."""

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_reduction_goes_through_the_last_axis(self, bench: Bench, axis: int) -> None:
        """`Reduction` reduces from `axis` through the last axis.

        Its top has the shape `shape[:axis]`; there is no way to keep what lies behind the axis.
        """
        x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
        net = given("x", 2, 3, 4)
        net += layer("Reduction", "x", "r", WEIGHT + f"reduction_param {{ axis: {axis} }}")
        (top,) = bench.one_pass(net, {"x": x}, "data r")
        assert top.shape == x.shape[:axis]
        assert np.array_equal(top, x.sum(tuple(range(axis, 3))))

    def test_reduction_at_axis_1_is_no_channel_sum(self, bench: Bench) -> None:
        """At axis 1 it is a channel sum only where nothing, or extents of 1, lie behind axis 1.

        On (N, C, H, W) it gives N numbers; the channel sum would be (N, H, W).
        """
        reduction = layer("Reduction", "x", "r", WEIGHT + "reduction_param { axis: 1 }")
        x = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
        (top,) = bench.one_pass(given("x", 2, 3, 2, 2) + reduction, {"x": x}, "data r")
        assert top.tolist() == [66, 210]
        for shape in ((2, 3), (2, 3, 1, 1)):
            x = np.arange(6, dtype=np.float32).reshape(shape)
            (top,) = bench.one_pass(given("x", *shape) + reduction, {"x": x}, "data r")
            assert np.array_equal(top, x.sum(1).reshape(2))

    def test_reduction_axis_may_be_negative(self, bench: Bench) -> None:
        """`axis` may count from the end: -1 reduces the last axis alone.

        An axis that the bottom does not have is a failed CHECK: "axis 2 out of range for 2-D Blob".
        """
        for axis, expected in ((-1, X.sum(1)), (-2, X.sum())):
            net = given("x", 2, 4)
            net += layer("Reduction", "x", "r", WEIGHT + f"reduction_param {{ axis: {axis} }}")
            (top,) = bench.one_pass(net, {"x": X}, "data r")
            assert np.array_equal(top, expected)
        beyond = layer("Reduction", "x", "r", WEIGHT + "reduction_param { axis: 2 }")
        bench.aborts("axis 2 out of range for 2-D Blob", given("x", 2, 4) + beyond)

    def test_reduction_at_axis_0_has_a_top_without_axes(self, bench: Bench) -> None:
        """At axis 0, the default, the top has no axes at all: its shape is `()`, not `(1)`."""
        net = given("x", 2, 4) + layer("Reduction", "x", "r", WEIGHT)
        (top,) = bench.one_pass(net, {"x": X}, "data r")
        assert top.shape == ()
        assert top == X.sum()

    def test_mean_divides_by_the_reduced_size(self, bench: Bench) -> None:
        """MEAN divides by the number of elements that one output is made of, not by N.

        Only at axis 0 does that include the batch. The gradient is divided alike.
        """
        for axis, size in ((0, 8), (1, 4)):
            net = given("x", 2, 4) + layer(
                "Reduction",
                "x",
                "r",
                WEIGHT + f"reduction_param {{ operation: MEAN axis: {axis} }}",
            )
            top, dx = bench.one_pass(net + FORCE, {"x": X}, "data r", "diff x")
            assert np.array_equal(top, X.sum(tuple(range(axis, 2))) / size)
            assert np.all(dx == 1 / size)

    @pytest.mark.parametrize(
        ("operation", "value", "gradient"),
        [
            ("SUM", D.sum(), np.ones_like(D)),
            ("MEAN", D.sum() / 8, np.full_like(D, 1 / 8)),
            ("ASUM", np.abs(D).sum(), np.sign(D)),
            ("SUMSQ", np.square(D).sum(), 2 * D),
        ],
    )
    def test_coeff_scales_forward_and_backward(
        self, bench: Bench, operation: str, value: float, gradient: Array32
    ) -> None:
        """`coeff` scales the value and the gradient, with every operation."""
        param = f"reduction_param {{ operation: {operation} coeff: 4 }}"
        net = given("x", 2, 4) + layer("Reduction", "x", "r", WEIGHT + param) + FORCE
        top, dx = bench.one_pass(net, {"x": D}, "data r", "diff x")
        assert top == 4 * value
        assert np.array_equal(dx, 4 * gradient)

    def test_asum_has_gradient_0_at_0(self, bench: Bench) -> None:
        """The gradient of ASUM is the sign, and 0 at 0."""
        net = given("x", 4) + layer(
            "Reduction", "x", "r", WEIGHT + "reduction_param { operation: ASUM }"
        )
        x = np.array([-3, 0, -0.0, 2], np.float32)
        (dx,) = bench.one_pass(net + FORCE, {"x": x}, "diff x")
        assert dx.tolist() == [-1, 0, 0, 1]


class TestShapes:
    """Shapes and num."""

    def test_num_aborts_on_five_axes(self, bench: Bench) -> None:
        """`blob.num` (and `channels`, `height`, `width`) aborts on a blob of five axes or more.

        It is a failed CHECK, "Cannot use legacy accessors on Blobs with > 4 axes", which `except`
        cannot catch. `blob.shape[0]` works on every blob.
        """
        five = given("x", 2, 1, 1, 1, 1)
        shape = "n.blobs['x'].shape"
        assert bench.inside(f"answer = [{shape}[0], len({shape})]", five) == [2, 5]
        for name in ("num", "channels", "height", "width"):
            words = r"num_axes\(\) <= 4 \(5 vs\. 4\) Cannot use legacy accessors"
            bench.aborts(words, five, f"n.blobs['x'].{name}")

    def test_num_is_1_where_there_is_no_such_axis(self, bench: Bench) -> None:
        """On fewer than four axes the missing ones count as 1, even `num` if there are no axes."""
        code = """
            x, r = n.blobs["x"], n.blobs["r"]
            answer = [x.num, x.channels, x.height, x.width, r.num]
        """
        net = given("x", 2, 4) + layer("Reduction", "x", "r")
        assert bench.inside(code, net) == [2, 4, 1, 1, 1]

    def test_euclidean_loss_on_five_axes_dies_in_forward(self, bench: Bench) -> None:
        """`EuclideanLoss` accepts five axes at set-up and aborts in its first forward.

        Set-up looks at `shape(0)`, the forward divides by `num()`: "Check failed: num_axes() <= 4".
        """
        net = given("x", 2, 1, 1, 1, 2) + given("y", 2, 1, 1, 1, 2)
        net += layer("EuclideanLoss", "x y", "loss")
        assert bench.inside("answer = [len(n.layers)]", net) == [3]
        bench.aborts(r"Check failed: num_axes\(\) <= 4", net, "n.forward()")

    def test_euclidean_loss_compares_counts_not_shapes(self, bench: Bench) -> None:
        """`EuclideanLoss` compares the batch and `count(1)` of its bottoms, not their shapes.

        (N, C, H, W) against (N, C*H*W) is accepted, and so are swapped H and W. Another count is
        refused with "Inputs must have the same dimension", another N with "The data and label
        should have the same first dimension".
        """
        x = X.reshape(2, 2, 1, 2)
        for shape in ((2, 4), (2, 2, 2, 1)):
            net = given("x", *x.shape) + given("y", *shape) + layer("EuclideanLoss", "x y", "loss")
            inputs = {"x": x, "y": Y.reshape(shape)}
            loss, dx, dy = bench.one_pass(net + FORCE, inputs, "data loss", "diff x", "diff y")
            assert loss == LOSS
            assert np.array_equal(dx, (D / 2).reshape(x.shape))
            assert np.array_equal(dy, (-D / 2).reshape(shape))
        loss_layer = layer("EuclideanLoss", "x y", "loss")
        net = given("x", 2, 5) + given("y", 2, 4) + loss_layer
        bench.aborts("Inputs must have the same dimension", net)
        net = given("x", 2, 4) + given("y", 1, 8) + loss_layer
        bench.aborts("The data and label should have the same first dimension", net)

    def test_a_compiled_losss_top_has_no_axes(self, bench: Bench) -> None:
        """The top of a compiled loss has no axes; that of a Python loss has what it was given.

        After `top[0].reshape(1)` it has one; `top[0].reshape()` makes one without axes, as the
        compiled losses have it.
        """
        assert bench.one_pass(EUCLIDEAN, {}, "data loss")[0].shape == ()
        for name, shape in (("Base", (1,)), ("NoArguments", ())):
            (top,) = bench.one_pass(
                given("x", 2) + python(name, "x", "loss", WEIGHT), {}, "data loss"
            )
            assert top.shape == shape
            assert top == 1

    def test_reshape_0_makes_an_empty_blob(self, bench: Bench) -> None:
        """`top[0].reshape(0)` makes one axis without elements, which `reshape()` does not.

        The call itself passes. A top that never had memory aborts when it is first touched, with
        "Check failed: data_" or, if it has a loss weight, "Check failed: diff_"; one that had
        memory is then just empty.
        """
        zero = given("x", 2) + python("Zero", "x", "loss")
        code = """
            top, x = n.blobs["loss"], n.blobs["x"]
            x.data[...] = 1
            x.reshape(0)
            answer = [len(top.shape), top.count, len(x.shape), x.count, x.data.size]
        """
        assert bench.inside(code, zero) == [1, 0, 1, 0, 0]
        weighted = given("x", 2) + python("Zero", "x", "loss", WEIGHT)
        bench.aborts("Check failed: diff_", weighted)
        bench.aborts("Check failed: data_", zero, "n.blobs['loss'].data")

    def test_convolution_fixes_its_channels_at_set_up(self, bench: Bench) -> None:
        """`Convolution` fixes the number of channels when the net is built; N and S may change.

        Another C is a failed CHECK, "Input size incompatible with convolution kernel": it needs
        another net.
        """
        one = "convolution_param { num_output: 1 kernel_size: 1 }" + WEIGHT
        net = given("x", 2, 3, 1, 1) + layer("Convolution", "x", "sum", one)
        code = """
            n.blobs["x"].reshape(4, 3, 5, 6)
            n.reshape()
            answer = list(n.blobs["sum"].shape)
        """
        assert bench.inside(code, net) == [4, 1, 5, 6]
        code = code.replace("3", "2")
        bench.aborts("Input size incompatible with convolution kernel", net, code)

    def test_convolution_takes_more_than_two_spatial_axes(self, bench: Bench) -> None:
        """`Convolution` works on any number of spatial axes; as a fixed 1x1 it sums channels there.

        A `weight_filler` of constant 1 without a bias term makes it that sum.
        """
        x = np.arange(48, dtype=np.float32).reshape(2, 3, 2, 2, 2)
        ones = """convolution_param { num_output: 1 kernel_size: 1 bias_term: false
                  weight_filler { type: "constant" value: 1 } } """
        net = given("x", *x.shape) + layer("Convolution", "x", "sum", ones + WEIGHT)
        (top,) = bench.one_pass(net, {"x": x}, "data sum")
        assert np.array_equal(top, x.sum(1, keepdims=True))


class TestEuclideanLoss:
    """EuclideanLoss."""

    def test_euclidean_loss_divides_by_n(self, bench: Bench) -> None:
        """The loss is `sum(d^2)/(2*N)` and the gradient `top.diff*d/N`, negative for bottom 1.

        The division is by the batch size N alone, never by the number of elements.
        """
        wanted = ("data loss", "diff x", "diff y")
        loss, dx, dy = bench.one_pass(EUCLIDEAN + FORCE, {"x": X, "y": Y}, *wanted, loss_weight=4)
        assert loss == np.square(D).sum() / (2 * 2)
        assert np.array_equal(dx, 4 * D / 2) and np.array_equal(dy, -4 * D / 2)

    def test_mse_loss_is_another_loss(self, bench: Bench) -> None:
        """PyTorch's `MSELoss` is Caffe's `EuclideanLoss` times 2/(C*H*W), in value and gradient."""
        x = torch.tensor(X, requires_grad=True)
        mse = torch.nn.functional.mse_loss(x, torch.tensor(Y))
        mse.backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        loss, dx = bench.one_pass(EUCLIDEAN + FORCE, {"x": X, "y": Y}, "data loss", "diff x")
        assert mse.item() == loss * 2 / 4
        assert np.array_equal(x.grad.numpy(), dx * 2 / 4)

    def test_backward_uses_the_last_forwards_difference(self, bench: Bench) -> None:
        """Backward reuses the difference that the last forward stored.

        After the inputs were changed without a forward, the gradient is still that of the old ones.
        """
        code = """
            n.blobs["x"].data[...] = 2
            n.forward()
            n.blobs["x"].data[...] = 10
            n.backward()
            stale = n.blobs["x"].diff[0, 0]
            n.forward()
            n.backward()
            answer = [stale, n.blobs["x"].diff[0, 0]]
        """
        assert bench.inside(code, EUCLIDEAN + FORCE) == [1, 5]

    @pytest.mark.parametrize("blas", ["reference", "openblas"])
    def test_nan_in_a_bottom_diff_may_survive(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch, blas: str
    ) -> None:
        """A NaN or Inf left in a bottom's diff survives `EuclideanLoss`'s backward, with some BLAS.

        Without MKL the gradient is `0*diff`, then the product added (`caffe_cpu_axpby`): finite
        garbage goes, but 0 * NaN is NaN where the BLAS's `scal` computes it. The reference BLAS
        does; Debian's OpenBLAS 0.3.13 writes 0. A `Reduction` with `coeff: 0` shows which.
        """
        code = """
            x, y, r = (n.blobs[name] for name in ("x", "y", "r"))
            answer = []
            for garbage in (np.nan, np.inf, 2.0**100):
                x.data[...] = 2
                n.forward()
                x.diff[...] = y.diff[...] = garbage
                n.backward(start="loss")
                answer += [np.isnan(x.diff).all(), np.isnan(y.diff).all()]
            answer += [(x.diff == 1).all() and (y.diff == -1).all()]
            n.blobs["z"].data[...] = np.nan
            n.forward()
            answer += [np.isnan(r.data).all()]
        """
        net = EUCLIDEAN + given("z", 2, 4)
        net += layer("Reduction", "z", "r", "reduction_param { axis: 1 coeff: 0 }") + FORCE
        monkeypatch.setenv("PARITY_BLAS", blas)
        with Caffe(find()) as caffe:
            ops = [bench.running("Runs", code, net), {"op": "forward"}, {"op": "loss"}]
            *seen, finite, keeps_nan = caffe.request(ops)[-1]["array"].tolist()
        assert seen == [keeps_nan, keeps_nan, keeps_nan, keeps_nan, 0, 0]
        assert finite
        if caffe.interpreter.source == "installed":
            assert keeps_nan == (blas == "reference")


class TestLossWeight:
    """Loss weight."""

    def test_loss_weight_is_written_once_into_the_tops_diff(self, bench: Bench) -> None:
        """`loss_weight` fills the top's diff when the net is built, and is never written again.

        Who overwrites `top.diff` changes the weight for good. The top's data, the reported loss,
        are not scaled.
        """
        code = """
            n.blobs["x"].data[...] = 2
            n.forward()
            n.backward()
            before = [n.blobs["loss"].data, n.blobs["loss"].diff, n.blobs["x"].diff[0, 0]]
            before = [float(number) for number in before]
            n.blobs["loss"].diff[...] = 16
            n.forward()
            n.backward()
            answer = before + [n.blobs["loss"].data, n.blobs["loss"].diff, n.blobs["x"].diff[0, 0]]
        """
        net = TWO + layer("EuclideanLoss", "x y", "loss", "loss_weight: 4") + FORCE
        assert bench.inside(code, net) == [8, 4, 4, 8, 16, 16]

    def test_forwards_total_is_the_product_of_data_and_diff(self, bench: Bench) -> None:
        """The total that a forward returns is the dot product of each loss's data and diff, summed.

        So it follows whatever is in the diff, and a top of many elements adds them all up.
        """
        code = """
            n.blobs["x"].data[...] = 2
            total = n._forward(0, len(n.layers) - 1)
            n.blobs["r"].diff[...] = [1, 0]
            answer = [total, n._forward(0, len(n.layers) - 1)]
        """
        net = TWO + layer("EuclideanLoss", "x y", "loss", "loss_weight: 4")
        net += layer("Reduction", "x", "r", "loss_weight: 0.5 reduction_param { axis: 1 }")
        assert bench.inside(code, net) == [4 * 8 + 0.5 * (8 + 8), 4 * 8 + 8]

    def test_compiled_losses_weigh_1_by_default(self, bench: Bench) -> None:
        """Every compiled type whose name ends in Loss has the loss weight 1 unless told otherwise.

        They are the seven that derive from `LossLayer`; `Accuracy` and `Reduction` have none.
        """
        row, label, table = (2, 3), (2,), (1, 1, 3, 3)
        bottoms = {
            "ContrastiveLoss": (row, row, label),
            "EuclideanLoss": (row, row),
            "HingeLoss": (row, label),
            "InfogainLoss": (row, label, table),
            "MultinomialLogisticLoss": (row, label),
            "SigmoidCrossEntropyLoss": (row, row),
            "SoftmaxWithLoss": (row, label),
        }
        losses = {each for each in bench.caffe.start()["layers"] if each.endswith("Loss")}
        assert bottoms.keys() <= losses
        without = {"Accuracy": (row, label), "Reduction": (row,)}
        code = "answer = [n.blob_loss_weights['top'], n.blobs['top'].diff.sum()]"
        for kind, shapes in {**bottoms, **without}.items():
            names = [f"b{number}" for number in range(len(shapes))]
            net = "".join(map(lambda name, shape: given(name, *shape), names, shapes))
            net += layer(kind, " ".join(names), "top")
            weight = float(kind in bottoms)
            assert bench.inside(code, net) == [weight, weight], kind

    def test_python_layers_have_no_loss_weight_by_default(self, bench: Bench) -> None:
        """A Python layer has no loss weight unless the prototxt gives one, whatever its name.

        Without it a Python loss trains nothing: its backward is never called, the total is 0.
        """
        code = """
            n.blobs["x"].data[...] = 2
            n.blobs["z"].diff[...] = 64
            total = n._forward(0, len(n.layers) - 1)
            n.backward()
            answer = [n.blobs["loss"].data[0], total, n.blobs["z"].diff[0, 0]]
        """
        for more, expected in (("", [8, 0, 64]), (WEIGHT, [8, 8, 1])):
            net = TWO + bias("x", "z") + python("ExampleEuclideanLoss", "z y", "loss", more)
            assert bench.inside(code, net) == expected

    def test_the_example_layer_ignores_its_weight(self, bench: Bench) -> None:
        """A Python loss that does not read `top[0].diff` is right only at a loss weight of 1.

        The EuclideanLoss of Caffe's own examples (examples/pycaffe/layers/pyloss.py) is such a one
        (BVLC/caffe pull request 5407), and so are the layers copied from it: at any other weight
        their gradient is wrong by the factor 1/loss_weight.
        """
        inputs = {"x": X, "y": Y}
        for weight in (1, 4):
            net = TWO + python("ExampleEuclideanLoss", "x y", "loss", WEIGHT) + FORCE
            (copied,) = bench.one_pass(net, inputs, "diff x", loss_weight=weight)
            (right,) = bench.one_pass(EUCLIDEAN + FORCE, inputs, "diff x", loss_weight=weight)
            assert np.array_equal(right, weight * D / 2)
            assert np.array_equal(copied, right / weight)

    def test_loss_weight_0_prunes_the_backward(self, bench: Bench) -> None:
        """`loss_weight: 0` takes the layer out of backward: the bottoms' diffs stay what they were.

        No zeros are written, not even to the parameters that only this loss would have trained.
        """
        net = TWO + bias("x", "z") + layer("EuclideanLoss", "z y", "loss", "loss_weight: 0")
        code = """
            n.blobs["x"].data[...] = 2
            n.forward()
            n.blobs["z"].diff[...] = 64
            n.params["z"][0].diff[...] = 64
            n.backward()
            answer = [n.blobs["loss"].data, n.blobs["z"].diff[0, 0], n.params["z"][0].diff]
            answer = [float(number) for number in answer]
        """
        assert bench.inside(code, net) == [8, 64, 64]

    def test_force_backward_undoes_the_pruning(self, bench: Bench) -> None:
        """With `force_backward: true` a layer of `loss_weight: 0` does run backward.

        The weight 0 is not written to the top's diff either. That is 0 because memory starts as
        zeros, and the gradient with it; a number that someone leaves there becomes the weight.
        """
        code = """
            n.blobs["x"].data[...] = 2
            n.forward()
            n.blobs["x"].diff[...] = 64
            n.backward()
            first = n.blobs["x"].diff[0, 0].copy()
            n.blobs["loss"].diff[...] = 16
            n.backward()
            answer = [first, n.blobs["x"].diff[0, 0], n._forward(0, len(n.layers) - 1)]
        """
        net = TWO + layer("EuclideanLoss", "x y", "loss", "loss_weight: 0") + FORCE
        assert bench.inside(code, net) == [0, 16, 0]

    def test_a_larger_batch_loses_the_loss_weight(self, bench: Bench) -> None:
        """A loss top that has axes loses its weight as soon as it outgrows its memory.

        A `Reduction` at axis 1 trains with batches up to the size at which the net was built. A
        larger one gives it new memory, filled with zeros: from then on the total and all gradients
        are 0, also after the batch has shrunk again, and without a word. `blob_loss_weights` still
        tells the weight. Tops of one element never grow and are safe.
        """
        code = """
            answer = []
            for batch in (2, 1, 2, 4, 2):
                n.blobs["x"].reshape(batch, 4)
                n.blobs["x"].data[...] = 2
                n.blobs["x"].diff[...] = 64
                total = n._forward(0, len(n.layers) - 1)
                n.backward()
                answer.append([total, n.blobs["x"].diff[0, 0], n.blob_loss_weights["loss"]])
        """
        rows = layer("Reduction", "x", "loss", "loss_weight: 4 reduction_param { axis: 1 }")
        one = layer("Reduction", "x", "loss", "loss_weight: 4")
        x = given("x", 2, 4)
        small, smaller = [64, 4, 4], [32, 4, 4]
        lost = [0, 0, 4]
        assert bench.inside(code, x + rows + FORCE) == [small, smaller, small, lost, lost]
        assert bench.inside(code, x + one + FORCE) == [small, smaller, small, [128, 4, 4], small]


class TestGradients:
    """Which bottoms get a gradient."""

    def test_inputs_get_no_gradient_by_themselves(self, bench: Bench) -> None:
        """An input blob gets no gradient by itself: its diff stays what it was.

        With `force_backward: true` in the net it gets one.
        """
        inputs = {"x": X, "y": Y}
        for more, expected in (("", np.full_like(D, GARBAGE)), (FORCE, D / 2)):
            (dx,) = bench.one_pass(EUCLIDEAN + more, inputs, "diff x")
            assert np.array_equal(dx, expected)

    def test_propagate_down_alone_does_nothing(self, bench: Bench) -> None:
        """`propagate_down: true` gives an input a gradient only if the layer runs backward anyway.

        On a loss whose bottoms are all inputs it changes nothing, without a word: the layer is not
        part of backward. As soon as another bottom depends on something learned, it works.
        """
        inputs = {"x": X, "y": Y}
        both = "propagate_down: true propagate_down: true"
        net = TWO + layer("EuclideanLoss", "x y", "loss", both)
        for diff in bench.one_pass(net, inputs, "diff x", "diff y"):
            assert np.all(diff == GARBAGE)
        net = TWO + bias("x", "z") + layer("EuclideanLoss", "z y", "loss", both)
        dz, dy = bench.one_pass(net, inputs, "diff z", "diff y")
        assert np.array_equal(dz, D / 2) and np.array_equal(dy, -D / 2)

    def test_force_backward_undoes_propagate_down(self, bench: Bench) -> None:
        """`force_backward: true` comes last and overrides `propagate_down: false`."""
        none = "propagate_down: false propagate_down: false"
        net = TWO + layer("EuclideanLoss", "x y", "loss", none) + FORCE
        dx, dy = bench.one_pass(net, {"x": X, "y": Y}, "diff x", "diff y")
        assert np.array_equal(dx, D / 2) and np.array_equal(dy, -D / 2)

    def test_propagate_down_false_is_heeded(self, bench: Bench) -> None:
        """`propagate_down: false` leaves a bottom's diff as it was, though it would have had one.

        There must be one entry for each bottom, or none: "propagate_down param must be specified
        either 0 or bottom_size times".
        """
        net = TWO + bias("x", "z") + bias("y", "w")
        first = layer("EuclideanLoss", "z w", "loss", "propagate_down: true propagate_down: false")
        dz, dw = bench.one_pass(net + first, {"x": X, "y": Y}, "diff z", "diff w")
        assert np.array_equal(dz, D / 2) and np.all(dw == GARBAGE)
        short = layer("EuclideanLoss", "x y", "loss", "propagate_down: true")
        words = "propagate_down param must be specified either 0 or bottom_size times"
        bench.aborts(words, TWO + short)

    def test_a_bias_asks_for_exactly_one_gradient(self, bench: Bench) -> None:
        """A `Bias` of 0 between an input and a layer makes Caffe ask for that gradient alone.

        It has something to learn, so what reads it is part of backward, and `propagate_down` is
        True for this bottom and False for the others: neither force_backward nor propagate_down
        does that for every layer.
        """
        asked = python("Asked", "x y", "loss", WEIGHT)
        for names, expected in ((["x"], (1, GARBAGE)), (["y"], (GARBAGE, 1)), (["x", "y"], (1, 1))):
            diffs = bench.one_pass(TWO + asked, {}, "diff x", "diff y", gradients=names)
            assert tuple(diff[0, 0] for diff in diffs) == expected

    def test_force_backward_spares_labels_of_compiled_losses(self, bench: Bench) -> None:
        """`force_backward` does not reach bottom 1 of a `LossLayer`: that is taken for a label.

        `EuclideanLoss` overrides this (`AllowForceBackward`) to get both gradients; a compiled loss
        of two differentiable inputs must do the same, or the second diff is never written. In
        `ContrastiveLoss` only bottom 2 is spared.
        """
        label = given("y", 2)
        nets = {
            given("x", 2, 4) + label + layer("HingeLoss", "x y", "loss"): "xy",
            TWO + layer("SigmoidCrossEntropyLoss", "x y", "loss"): "xy",
            TWO + given("z", 2) + layer("ContrastiveLoss", "x y z", "loss"): "xyz",
        }
        for net, names in nets.items():
            *others, last = bench.one_pass(net + FORCE, {}, *(f"diff {name}" for name in names))
            assert np.all(last == GARBAGE)
            assert not any(np.any(other == GARBAGE) for other in others)
        diffs = bench.one_pass(EUCLIDEAN + FORCE, {"x": X, "y": Y}, "diff x", "diff y")
        assert np.array_equal(diffs[0], D / 2) and np.array_equal(diffs[1], -D / 2)

    def test_force_backward_asks_python_layers_for_everything(self, bench: Bench) -> None:
        """`force_backward` asks a Python layer for every bottom's gradient, labels included."""
        net = TWO + given("label", 2) + python("Asked", "x y label", "loss", WEIGHT) + FORCE
        for diff in bench.one_pass(net, {}, "diff x", "diff y", "diff label"):
            assert np.all(diff == 1)

    def test_asking_for_a_labels_gradient_aborts(self, bench: Bench) -> None:
        """A compiled loss that is asked for a label's gradient aborts the process.

        It says "Layer cannot backpropagate to label inputs". `InfogainLoss` with its matrix as
        bottom 2 does so under plain `force_backward`, which spares bottom 1 only.
        """
        both = "propagate_down: true propagate_down: true"
        net = given("x", 2, 4) + given("y", 2) + bias("x", "z")
        net += layer("SoftmaxWithLoss", "z y", "loss", both)
        words = "SoftmaxWithLoss Layer cannot backpropagate to label inputs"
        bench.aborts(words, net, "n.forward(); n.backward()")
        net = given("x", 2, 3) + given("y", 2) + given("h", 1, 1, 3, 3)
        net += layer("InfogainLoss", "x y h", "loss") + FORCE
        words = "InfogainLoss Layer cannot backpropagate to infogain inputs"
        bench.aborts(words, net, "n.forward(); n.backward()")

    def test_a_shared_blob_gets_a_split(self, bench: Bench) -> None:
        """A blob that is read twice, by two layers or twice by one, gets a `Split`.

        Its copies are called `BLOB_LAYER_TOP_split_K`, LAYER being the layer that makes the blob
        and TOP the number of its top. They share the data and have diffs of their own, which the
        Split's backward adds up.
        """
        net = given("x", 2, 4) + layer("Eltwise", "x x", "twice")
        net += layer("Reduction", "twice", "loss", WEIGHT) + FORCE
        names = ("x_x_0_split_0", "x_x_0_split_1")
        wanted = ("diff x", "data loss", *(f"diff {name}" for name in names))
        dx, loss, *parts = bench.one_pass(net, {"x": X}, *wanted)
        assert loss == 2 * X.sum()
        assert np.all(dx == 2) and all(np.all(part == 1) for part in parts)
        net = given("x", 2, 4) + bias("x", "z")
        net += layer("Reduction", "z", "a", WEIGHT) + layer("Reduction", "z", "b", "loss_weight: 4")
        names = ("z_z_0_split_0", "z_z_0_split_1")
        dz, da, db = bench.one_pass(net, {"x": X}, "diff z", *(f"diff {name}" for name in names))
        assert np.all(dz == 5) and np.all(da == 1) and np.all(db == 4)
        net = given("x", 2, 4) + layer("Slice", "x", "a", 'top: "b"')
        net += layer("EuclideanLoss", "b b", "loss")
        code = """
            n.forward()
            names = ["b", "b_a_1_split_0", "b_a_1_split_1"]
            answer = [len({n.blobs[name].data.ctypes.data for name in names})]
            answer.append(len({n.blobs[name].diff.ctypes.data for name in names}))
        """
        assert bench.inside(code, net) == [1, 3]

    def test_split_adds_what_was_never_written(self, bench: Bench) -> None:
        """Split's backward adds the diff of every reader, also of one that did not write it.

        A layer that skips a bottom it was asked for, or one that is not part of backward at all,
        adds whatever its copy's diff holds: zeros at first, stale numbers later.
        """
        net = given("x", 2, 4) + bias("x", "z") + layer("Reduction", "z", "a", WEIGHT)
        skips = python("Base", "z", "b", WEIGHT)
        pruned = layer("Reduction", "z", "b", "loss_weight: 0")
        for other in (skips, pruned):
            copies = "diff z_z_0_split_0", "diff z_z_0_split_1"
            dz, *_ = bench.one_pass(net + other, {"x": X}, "diff z", *copies)
            assert np.all(dz == 1 + GARBAGE)
            code = "n.forward(); n.backward(); answer = [n.blobs['z'].diff[0, 0]]"
            assert bench.inside(code, net + other) == [1]

    def test_bottom_diffs_are_overwritten(self, bench: Bench) -> None:
        """The diffs of bottoms are overwritten: a second backward gives the same ones again."""
        code = """
            n.blobs["x"].data[...] = 2
            n.forward()
            answer = []
            for _ in range(2):
                n.backward()
                answer.append(n.blobs["x"].diff[0, 0].copy())
        """
        assert bench.inside(code, EUCLIDEAN + FORCE) == [1, 1]

    def test_parameter_diffs_accumulate(self, bench: Bench) -> None:
        """The diffs of parameters are added to: a second backward doubles them.

        `net.clear_param_diffs()` sets them to 0: call it before each backward that you run
        yourself.
        """
        code = """
            n.blobs["x"].data[...] = 2
            n.forward()
            answer = []
            for clear in (True, False, True):
                if clear:
                    n.clear_param_diffs()
                n.backward()
                answer.append([blob.diff.flat[0] for blob in n.params["p"]])
        """
        fully = "inner_product_param { num_output: 1 }"
        convolution = "convolution_param { num_output: 1 kernel_size: 1 }"
        for net, once in (
            (given("x", 2, 4) + layer("InnerProduct", "x", "p", fully), [4, 2]),
            (given("x", 2, 4, 1, 1) + layer("Convolution", "x", "p", convolution), [4, 2]),
            (given("x", 2, 4) + bias("x", "p"), [8]),
        ):
            net += layer("Reduction", "p", "loss", WEIGHT)
            twice = [2 * number for number in once]
            assert bench.inside(code, net) == [once, twice, once]


class TestSolver:
    """Solver."""

    def test_momentum_gathers_the_learning_rate(self, bench: Bench) -> None:
        """SGD computes `V = momentum*V + lr*g` and `W = W - V`: V holds the rates of its time.

        `torch.optim.SGD` gathers `B = momentum*B + g` and applies `W = W - lr*B`. They are the same
        until the rate changes, and part at that step. With `lr_policy: "step"` it first changes in
        the step after `stepsize` steps.
        """
        solver = 'lr_policy: "step" stepsize: 2 gamma: 0.5 momentum: 0.5'
        assert bench.trained(solver, 3) == [-4, -10, -15]
        w = torch.zeros(1, requires_grad=True)
        optimizer = torch.optim.SGD([w], lr=1, momentum=0.5)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
        seen = []
        for _ in range(3):
            w.grad = torch.tensor([4.0])
            optimizer.step()
            schedule.step()
            seen.append(w.item())
        assert seen == [-4, -10, -13.5]

    def test_weight_decay_comes_before_the_momentum(self, bench: Bench) -> None:
        """`weight_decay * decay_mult * W` is added to the gradient, before rate and momentum.

        So it does in `torch.optim.SGD`. `regularization_type: "L1"` adds the sign of W instead.
        """
        assert bench.trained("weight_decay: 0.5 momentum: 0.5", 2, start=8) == [0, -8]
        assert bench.trained("weight_decay: 0.5", 1, "param { decay_mult: 2 }", 8) == [-4]
        assert bench.trained('weight_decay: 2 regularization_type: "L1"', 1, start=8) == [2]

    def test_lr_mult_0_keeps_a_parameter(self, bench: Bench) -> None:
        """`lr_mult` multiplies the rate of one blob; at 0 it keeps its value, decay or not."""
        assert bench.trained("", 1, "param { lr_mult: 2 }") == [-8]
        assert bench.trained("weight_decay: 0.5", 2, "param { lr_mult: 0 }", 8) == [8, 8]

    def test_iter_size_divides_what_it_sums(self, bench: Bench) -> None:
        """`iter_size` passes are added up and divided by it: on one batch, it changes nothing."""
        assert bench.trained("iter_size: 4", 2) == bench.trained("", 2) == [-4, -8]

    def test_clipping_sees_the_sum_of_iter_size(self, bench: Bench) -> None:
        """`clip_gradients` limits the norm over all parameters, without decay, before `iter_size`.

        So the sum of the passes is clipped, and divided afterwards: at `iter_size: 2` the same
        limit is half as high as `clip_grad_norm_` of the mean gradient has it.
        """
        assert bench.trained("clip_gradients: 2", 1) == [-2]
        assert bench.trained("clip_gradients: 2 iter_size: 2", 1) == [-1]
        assert bench.trained("clip_gradients: 2 weight_decay: 0.5", 1, start=8) == [2]

    def test_after_a_step_the_diff_is_the_update(self, bench: Bench) -> None:
        """After `solver.step` a parameter's diff holds V, what was subtracted: not the gradient."""
        ops = [*bench.training("base_lr: 0.5", "", 0), {"op": "step"}]
        *_, diff = bench.caffe.request([*ops, {"op": "param_diff", "layer": "b", "index": 0}])
        assert diff["array"] == 2


class TestFailure:
    """Failure."""

    def test_a_failed_check_cannot_be_caught(self, bench: Bench) -> None:
        """A failed CHECK or LOG(FATAL) ends the process with SIGABRT; no `except` can stop it.

        A malformed prototxt is one, "Failed to parse NetParameter file", and so is a bottom that no
        layer makes, "Unknown bottom blob".
        """
        bench.aborts("Failed to parse NetParameter file", "layer {")
        bench.aborts("Unknown bottom blob 'nope'", layer("ReLU", "nope", "top"))

    def test_a_missing_prototxt_raises(self, bench: Bench) -> None:
        """A prototxt that does not exist raises RuntimeError, "Could not open file"."""
        with pytest.raises(LayerError, match="RuntimeError: Could not open file /does/not/exist"):
            bench.inside('caffe.Net("/does/not/exist", caffe.TRAIN)')

    def test_an_unknown_layer_type_aborts(self, bench: Bench) -> None:
        """A layer type that does not exist aborts, with the list of the known ones."""
        words = r"Unknown layer type: Nope \(known types: AbsVal, Accuracy"
        bench.aborts(words, given("x", 1) + layer("Nope", "x", "loss"))

    def test_an_exception_in_a_layer_comes_back(self, bench: Bench) -> None:
        """An exception in a Python layer comes out of `net.forward()`, with its type and traceback.

        The net can be used again afterwards.
        """
        code = """
            import traceback
            n.blobs["x"].data[...] = 1
            try:
                n.forward()
            except KeyError as error:
                answer = ['raise KeyError("no such thing")' in traceback.format_exc()]
            n.blobs["x"].data[...] = 0
            answer.append(len(n.forward()))
        """
        assert bench.inside(code, given("x", 2) + python("Raises", "x", "loss", WEIGHT)) == [1, 1]

    def test_an_import_that_fails_is_called_null(self, bench: Bench) -> None:
        """A Python layer that cannot be imported raises "returned NULL without setting an error".

        The SystemError does not say why: the module or the class that is missing, also an import in
        the module, is only printed to standard error.
        """
        for module, name, reason in (
            ("semantics_nowhere", "Any", "No module named 'semantics_nowhere'"),
            ("semantics_imports", "Any", "No module named 'does_not_exist'"),
            ("semantics_layers", "Nope", "has no attribute 'Nope'"),
        ):
            param = f'python_param {{ module: "{module}" layer: "{name}" }}'
            net = given("x", 1) + layer("Python", "x", "loss", WEIGHT + param)
            with pytest.raises(LayerError, match=r"SystemError.*returned NULL") as caught:
                bench.caffe.request([bench.net(net)])
            assert reason in caught.value.output

    def test_param_str_has_lost_its_underscore(self, bench: Bench) -> None:
        """`self.param_str_`, the name before Caffe 1.0, raises AttributeError: use `param_str`."""
        net = bench.net(given("x", 1) + python("OldName", "x", "loss", WEIGHT))
        with pytest.raises(LayerError, match=r"AttributeError.*param_str_"):
            bench.caffe.request([net])


class TestPycaffe:
    """pycaffe."""

    def test_data_is_float32_and_caffes_own_memory(self, bench: Bench) -> None:
        """`.data` and `.diff` are float32 views of Caffe's own memory, the same at every read.

        Writing to one writes to the blob, a later forward changes it: copy what is to be kept.
        What is written is rounded to float32.
        """
        code = """
            x, r = n.blobs["x"], n.blobs["r"]
            view, result = x.data, r.data
            view[...] = 2
            n.forward()
            before, kept = float(result), result.copy()
            view[...] = np.array([2.0**24 + 1])
            n.forward()
            answer = [
                x.data.dtype == np.float32 and x.diff.dtype == np.float32,
                view.ctypes.data == x.data.ctypes.data,
                before, kept, result == 2.0**24,
            ]
        """
        net = given("x", 1) + layer("Reduction", "x", "r")
        assert bench.inside(code, net) == [1, 1, 2, 2, 1]

    def test_a_view_outlives_its_memory(self, bench: Bench) -> None:
        """A view that was taken before a blob outgrew its memory points to memory that is freed.

        Reading it gives anything, or a segmentation fault: take `.data` and `.diff` anew after
        every reshape. Shrinking, and growing back, keep the memory.
        """
        code = """
            def mapped(address):
                for line in open("/proc/self/maps"):
                    first, last = (int(part, 16) for part in line.split()[0].split("-"))
                    if first <= address < last:
                        return True
                return False

            blob = n.blobs["x"]
            address = blob.data.ctypes.data
            answer = []
            for size in (2**24, 2**20, 2**24, 2**24 + 1):
                blob.reshape(size)
                answer.append(mapped(address))
        """
        # 64 MiB: what malloc gets by mmap at any setting, and gives back as soon as it is freed.
        assert bench.inside(code, given("x", 2**24)) == [1, 1, 1, 0]

    def test_backward_takes_no_diff_for_a_top_without_axes(self, bench: Bench) -> None:
        """`net.backward(loss=...)` raises for a top without axes, which compiled losses have.

        It reads `diff.shape[0]`: IndexError for an array without axes or with one, AttributeError
        for a number. Give a `loss_weight`, or write `net.blobs["loss"].diff[...]`.
        """
        code = """
            answer = []
            for diff in (np.array(16.0), np.array([16.0]), 16.0):
                try:
                    n.backward(loss=diff)
                except IndexError:
                    answer.append(1)
                except AttributeError:
                    answer.append(2)
            n.blobs["x"].data[...] = 2
            n.forward()
            n.blobs["loss"].diff[...] = 16
            n.backward()
            answer.append(n.blobs["x"].diff[0, 0])
        """
        assert bench.inside(code, EUCLIDEAN + FORCE) == [1, 1, 2, 16]

    def test_bottom_cannot_be_iterated_over(self, bench: Bench) -> None:
        """`for blob in bottom` raises "No to_python (by-value) converter found"; `bottom[i]` works.

        So do `len(bottom)`, `bottom[-1]` and `bottom[0:1]`; `zip`, `enumerate` and unpacking fail
        alike. It is the same with `top`.
        """
        net = bench.net(given("x", 1) + python("Iterates", "x", "loss", WEIGHT))
        with pytest.raises(
            LayerError, match=r"TypeError: No to_python \(by-value\) converter found"
        ):
            bench.caffe.request([net, {"op": "forward"}])
        code = """
            answer = [len(bottom), len(bottom[0:1]), bottom[0].count, bottom[-1].count]
            for use in (enumerate, zip, tuple, lambda blobs: next(iter(blobs))):
                for blobs in (bottom, top):
                    try:
                        list(use(blobs))
                    except TypeError as error:
                        answer.append("No to_python" in str(error))
        """
        assert bench.inside(code) == [1, 1, 1, 1] + [1] * 8

    def test_layer_type_list_names_the_layers(self, bench: Bench) -> None:
        """Caffe 1.0 registers 61 layer types, which `caffe.layer_type_list()` names.

        A fork, or a plug-in that is loaded, adds its own.
        """
        assert len(KNOWN.split()) == 61
        assert set(KNOWN.split()) <= set(bench.caffe.start()["layers"])


def document() -> str:
    """The document: the introduction, then a heading for each class and an entry for each test."""
    parts = [INTRODUCTION]
    for group in (each for name, each in globals().items() if name.startswith("Test")):
        parts.append(f"\n## {group.__doc__.rstrip('.')}\n")
        for name, test in vars(group).items():
            if name.startswith("test_"):
                parts.append("\n" + entry(name, test.__doc__))
    return "".join(parts)


def entry(name: str, docstring: str) -> str:
    """The list item of one test: its docstring as one paragraph, and its name as a link."""
    text = " ".join(docstring.split())
    link = f"[`{name}`](../tests/{Path(__file__).name})"
    lines = textwrap.wrap(
        f"- {text}", 100, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return "\n".join([*lines, f"  {link}", ""])


def test_document_says_what_the_tests_say() -> None:
    """docs/caffe_semantics.md is what `python -m tests.test_caffe_semantics` writes."""
    assert DOCUMENT.read_text() == document()


if __name__ == "__main__":
    DOCUMENT.write_text(document())
