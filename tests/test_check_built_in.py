"""`parity check` of Caffe's own layers: those that are right agree, at sizes that people use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from caffe_parity.caffe.client import Caffe
from caffe_parity.caffe.interpreter import find
from tests.commands import check
from tests.net_text import input_layer, layer


@pytest.fixture(scope="module")
def caffe() -> Iterator[Caffe]:
    """One Caffe for this file."""
    with Caffe(find()) as started:
        yield started


IMAGE = input_layer("x", 3, 4, 6, 6)
LABELLED = input_layer("x", 6, 5) + input_layer("label", 6)


def checked(caffe: Caffe, folder: Path, net: str, result: str, *rest: str) -> int:
    """The exit status of a check of a net against an expression of x, and of label if it is there.

    The net's other inputs are arguments of the reference as well.
    """
    (folder / "net.prototxt").write_text(net)
    names = [each for each in ("x", "z", "label") if f'name: "Input-{each}"' in net]
    head = "import torch\nfrom torch.nn import functional as F\n"
    (folder / "truth.py").write_text(f"{head}def tops({', '.join(names)}): return {result}\n")
    reference = f"{folder}/truth.py:tops"
    return check(f"{folder}/net.prototxt", "--reference", reference, *rest)


def pool(kind: str) -> str:
    """A Pooling whose windows overlap, so that gradients add up."""
    parameters = f"pooling_param {{ pool: {kind} kernel_size: 3 stride: 2 }}"
    return IMAGE + layer("Pooling", "x", "y", parameters)


LRN = "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }"
RIGHT = {
    "max-pooling": (pool("MAX"), "F.max_pool2d(x, 3, 2, ceil_mode=True)", ""),
    "average-pooling": (pool("AVE"), "F.avg_pool2d(x, 3, 2, ceil_mode=True)", ""),
    "pooling-with-ties": (
        pool("MAX"),
        "F.max_pool2d(x, 3, 2, ceil_mode=True)",
        "--data x=int:0,2 --grad x",
    ),
    "lrn": (IMAGE + layer("LRN", "x", "y", LRN), "F.local_response_norm(x, 5, 1e-4)", ""),
    "batch-norm": (
        IMAGE + layer("BatchNorm", "x", "y"),
        "F.batch_norm(x, None, None, training=True)",
        "",
    ),
    "mvn": (
        IMAGE + layer("MVN", "x", "y"),
        "F.instance_norm(x, eps=1e-18)",
        "",
    ),
    "long-softmax": (input_layer("x", 2, 2000) + layer("Softmax", "x", "y"), "x.softmax(1)", ""),
    "concat": (
        input_layer("x", 2, 3) + input_layer("z", 2, 4) + layer("Concat", "x z", "y"),
        "torch.cat([x, z], 1)",
        "",
    ),
    "crop-to-what-is-read-twice": (
        IMAGE
        + layer("Power", "x", "a", "power_param { scale: 2 }")
        + layer("Pooling", "a", "b", "pooling_param { pool: AVE kernel_size: 2 stride: 1 }")
        + layer("Crop", "a b", "c", "crop_param { axis: 2 }")
        + layer("Concat", "c b", "y"),
        "torch.cat([2 * x[:, :, :-1, :-1], F.avg_pool2d(2 * x, 2, 1)], 1)",
        "",
    ),
    "rows-taken-twice": (
        input_layer("x", 4, 5) + input_layer("z", 30) + layer("BatchReindex", "x z", "y"),
        "x[z.long()]",
        "--data z=int:0,3",
    ),
    "sigmoid-loss": (
        input_layer("x", 6, 5)
        + input_layer("label", 6, 5)
        + layer("SigmoidCrossEntropyLoss", "x label", "y"),
        'F.binary_cross_entropy_with_logits(x, label, reduction="sum") / x.shape[0]',
        "--data label=binary",
    ),
    "arg-max-forward": (
        input_layer("x", 4, 7) + layer("ArgMax", "x", "y"),
        "x.argmax(1).to(x.dtype)",
        "--grad=",
    ),
    "accuracy-forward": (
        LABELLED + layer("Accuracy", "x label", "y"),
        "(x.argmax(1) == label).to(x.dtype).mean()",
        "--data label=int:0,4 --grad=",
    ),
}
"""Nets, what they compute, and further options."""


@pytest.mark.parametrize("name", RIGHT)
def test_right_layer_agrees(
    caffe: Caffe, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """No finding: the bound covers sums over windows, indices and channels, too."""
    net, result, rest = RIGHT[name]
    assert checked(caffe, tmp_path, net, result, *rest.split()) == 0
    left_out = "the rest are at a kink, where several gradients are right"
    some = name in ("pooling-with-ties", "long-softmax")  # whose smallest results are but rounding
    assert (left_out in capsys.readouterr().out) == some


@pytest.mark.parametrize(
    ("net", "result", "rest", "status", "words"),
    [
        (
            IMAGE
            + input_layer("z", 1, 1, 2, 2)
            + layer("Crop", "x z", "y", "crop_param {axis: 2}"),
            "x[:, :, :2, :2]",
            "",
            1,
            "unwritten-diff:z",
        ),
        (
            IMAGE + layer("BatchNorm", "x", "y"),
            "F.batch_norm(x, None, None, training=True, eps=1e-3)",
            "",
            1,
            "y has a factor of its own for each channel",
        ),
        (IMAGE + layer("Dropout", "x", "y"), "x", "", 1, "not-deterministic: "),
        (
            IMAGE + layer("Dropout", "x", "y"),
            "F.dropout(x)",
            "",
            2,
            "the reference gives another result for the same inputs",
        ),
        (
            LABELLED + layer("Accuracy", "x label", "y"),
            "(x.argmax(1) == label).to(x.dtype).mean()",
            "--data label=int:0,4",
            1,
            "--grad '' compares the forward alone",
        ),
        (
            LABELLED + layer("HingeLoss", "x label", "y"),
            "F.relu(1 + x * (1 - 2 * F.one_hot(label.long(), 5))).sum() / x.shape[0]",
            "--data label=int:0,4",
            0,
            "note: a second backward without a forward gives another gradient of x",
        ),
    ],
)
def test_difference_is_named(
    caffe: Caffe,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    net: str,
    result: str,
    rest: str,
    status: int,
    words: str,
) -> None:
    """Another epsilon, a random layer or reference, no backward, a gradient kept in the diff."""
    assert checked(caffe, tmp_path, net, result, *rest.split()) == status
    said = capsys.readouterr()
    assert words in said.out + said.err
