"""`parity check` of shapes: as many elements are not yet the same tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from caffe_parity import Layer
from caffe_parity.caffe.client import Caffe
from caffe_parity.contract import Shape
from caffe_parity.engine.compare import alike
from caffe_parity.engine.judge import judge
from caffe_parity.nets import located, net
from tests.commands import check
from tests.net_text import input_layer, layer

EXTENTS = st.lists(st.integers(1, 4), max_size=4).map(tuple)
ONES = st.integers(0, 3).map(lambda count: (1,) * count)


@given(EXTENTS, ONES, ONES)
def test_axes_of_1_before_or_behind_change_nothing(
    shape: Shape, before: Shape, behind: Shape
) -> None:
    """A loss may be (), (1) or (1, 1, 1, 1), whichever side has it."""
    longer = (*before, *shape, *behind)
    assert alike(shape, longer) and alike(longer, shape)


@given(EXTENTS, EXTENTS)
def test_other_shapes_are_others(one: Shape, another: Shape) -> None:
    """Shapes of one length are alike only if they are the same, others if what is more are ones."""
    if len(one) == len(another):
        assert alike(one, another) == (one == another)
    short, long = sorted((one, another), key=len)
    count = len(long) - len(short)
    padded = [(1,) * i + short + (1,) * (count - i) for i in range(count + 1)]
    assert alike(one, another) == (long in padded)


def reshaping(folder: Path, *dims: int, **variants: object) -> Layer:
    """A layer whose net reshapes x of (2, 3, 4), and whose reference does not."""
    file = folder / ("net_" + "_".join(map(str, dims)) + ".prototxt")
    rest = " ".join(f"dim: {each}" for each in dims)
    reshape = layer("Reshape", "x", "y", f"reshape_param {{ shape {{ {rest} }} }}")
    file.write_text(input_layer("x", 2, 3, 4) + reshape)
    variants = {"net": located(net(file.name), folder), **variants}
    return Layer("same", lambda x: 2 * x / 2, {"x": (2, 3, 4)}, variants, cases=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dims", "fits"),
    [
        ((2, 3, 4), True),
        ((1, 2, 3, 4), True),
        ((2, 3, 4, 1, 1), True),
        ((2, 4, 3), False),
        ((2, 1, 3, 4), False),
        ((24,), False),
        ((4, 3, 2), False),
    ],
)
def test_top_of_another_shape_is_a_finding(
    caffe: Caffe, tmp_path: Path, dims: Shape, fits: bool
) -> None:
    """In Caffe and in a port, with as many elements, all of them the right numbers."""

    def port(x: torch.Tensor) -> torch.Tensor:
        return x.reshape(dims) if x.shape == (2, 3, 4) else x

    ours = reshaping(tmp_path, *dims, port=port)
    for name, code in (("net", "forward-value"), ("port", "port-forward")):
        record = judge(ours, name, ours.case(0))
        if fits:
            assert record.verdict == "pass"
            continue
        [finding] = record.findings
        assert (finding.code, finding.cause) == (code, "shape")
        assert f"has shape {dims}, expected (2, 3, 4)" in finding.words


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 1, 1, 1)])
def test_loss_may_have_any_number_of_axes(caffe: Caffe, tmp_path: Path, shape: Shape) -> None:
    """Of one element each: what Caffe makes of it is (), or what its layer says."""
    file = tmp_path / "net.prototxt"
    file.write_text(input_layer("x", 2, 3) + layer("Reduction", "x", "l", "loss_weight: 1"))
    ours = Layer(
        "sum",
        lambda x: x.sum().reshape(shape),
        {"x": (2, 3)},
        {"net": located(net("net.prototxt"), tmp_path), "port": lambda x: x.sum()},
        cases=1,
    )
    for name in ours.variants:
        assert judge(ours, name, ours.case(0)).verdict == "pass"


def test_reference_of_another_size_is_a_finding(
    caffe: Caffe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Both shapes are named, and no gradient is; the exit status is 1, not 2."""
    monkeypatch.chdir(tmp_path)
    reshaping(tmp_path, 2, 12)
    Path("ref.py").write_text("def rows(x): return x.sum(2)\n")
    assert check("net_2_12.prototxt", "--reference", "ref.py:rows", "--cases", "2") == 1
    said = capsys.readouterr().out.splitlines()
    assert [each for each in said if each.startswith("forward-value")] == [
        "forward-value: y has shape (2, 12), expected (2, 3)  [2 of 2 cases]"
    ]
    assert not any(each.startswith("gradient") for each in said)
    assert said[-1].startswith("disagrees: 1 finding")


class Scaled(torch.nn.Module):
    """A scale per channel, with a parameter of any shape, and a top that may lack its last row."""

    def __init__(self, shape: Shape, rows: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(shape))
        self.rows = rows

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.weight.reshape(1, 3, 1))[:, :, : self.rows]


@pytest.mark.parametrize(
    ("shape", "rows", "codes"),
    [((3,), 4, []), ((3, 1), 4, []), ((1, 3, 1), 4, []), ((3,), 3, ["port-forward"])],
)
def test_parameters_of_a_port(
    caffe: Caffe, tmp_path: Path, shape: Shape, rows: int, codes: list[str]
) -> None:
    """Those of a module may have axes of 1 more; where its top does not fit, that alone is told."""
    text = input_layer("x", 2, 3, 4) + layer("Scale", "x", "y")
    (tmp_path / "scale.prototxt").write_text(text)
    ours = Layer(
        "scale",
        lambda x, param: x * param[0].reshape(1, 3, 1),
        {"x": (2, 3, 4)},
        {"net": located(net("scale.prototxt"), tmp_path), "port": Scaled(shape, rows)},
        cases=1,
    )
    assert [each.code for each in judge(ours, "port", ours.case(0)).findings] == codes


POOL = input_layer("x", 2, 3, 6, 7) + layer(
    "Pooling", "x", "p", "pooling_param { pool: MAX kernel_size: 3 stride: 2 }"
)


@pytest.mark.parametrize(
    ("spoil", "ceil", "words"),
    [
        ("", True, ""),
        ("", False, "one fewer along axis 2, and the rest is right: its size is rounded down"),
        ("1 + ", False, "has shape (2, 3, 2, 3), expected (2, 3, 3, 3)"),
    ],
)
def test_size_that_is_rounded_down_is_told(
    caffe: Caffe, tmp_path: Path, spoil: str, ceil: bool, words: str
) -> None:
    """Where Caffe's pooling rounds up; only if what both have is right."""
    (tmp_path / "pool.prototxt").write_text(POOL)

    def pooled(x: torch.Tensor, ceil_mode: bool) -> torch.Tensor:
        return torch.nn.functional.max_pool2d(x, 3, 2, ceil_mode=ceil_mode)

    def port(x: torch.Tensor) -> torch.Tensor:
        return pooled(x, ceil) + len(spoil)

    ours = Layer(
        "pool",
        lambda x: pooled(x, True),
        {"x": (2, 3, 6, 7)},
        {"net": located(net("pool.prototxt"), tmp_path), "port": port},
        cases=1,
    )
    found = judge(ours, "port", ours.case(0)).findings
    assert words in "".join(each.words for each in found) and bool(found) == bool(words)
    assert any("ceil_mode=True" in each.words for each in found) == ("one fewer" in words)
    other = Layer("floor", lambda x: pooled(x, False), ours.inputs, ours.variants, cases=1)
    [finding] = judge(other, "net", other.case(0)).findings
    assert "one more along axis 2, and the rest is right: its size is rounded up" in finding.words


def test_stale_top_of_another_size_is_no_crash_of_ours(caffe: Caffe, tmp_path: Path) -> None:
    """A port that gives the same numbers each time, in a shape of its own, disagrees."""
    ours = Layer("same", lambda x: x, {"x": (2, 3)}, {"port": lambda x: 0 * x.sum(1)}, cases=1)
    record = judge(ours, "port", ours.case(0))
    assert [each.code for each in record.findings] == ["port-forward"]
    assert np.isinf(record.tensors["top"].fraction)
