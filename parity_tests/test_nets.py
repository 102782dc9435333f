"""The nets as files: each can be copied as it stands. And the trap: Reduction."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from caffe_impl.variants import LAYERS as PYTHON_LAYERS
from caffe_impl.variants import NETS, slice_eltwise, variants
from caffe_parity.caffe.client import Caffe, Op
from caffe_parity.caffe.interpreter import find
from caffe_parity.contract import Case
from caffe_parity.engine.compare import compare
from caffe_parity.engine.judge import judge, prepared
from reference.cases import CASES, by_name
from reference.layers import LAYERS


@pytest.fixture(scope="module")
def caffe() -> Iterator[Caffe]:
    """A Caffe of this module's own."""
    with Caffe(find()) as each:
        yield each


def plain_files() -> list[Path]:
    """The nets that need no compiled layer."""
    return [file for file in sorted(NETS.glob("*.prototxt")) if "cuda" not in file.name]


@pytest.mark.parametrize("file", plain_files(), ids=lambda file: file.stem)
def test_file_runs_as_it_stands(caffe: Caffe, file: Path) -> None:
    """Without any edit the net loads, has the inputs x1 and x2, and computes its layer's loss."""
    base = by_name("base")
    layer = next(name for name in LAYERS if file.name.startswith(name))
    data = prepared(layer, base)
    ops: list[Op] = [
        {"op": "net", "text": file.read_text(), "path": [str(PYTHON_LAYERS)]},
        {"op": "set", "blob": "x1", "array": data.inputs.x1},
        {"op": "set", "blob": "x2", "array": data.inputs.x2},
        {"op": "forward"},
        {"op": "loss"},
    ]
    replies = caffe.request(ops)
    assert set(replies[0]["inputs"]) == {"x1", "x2"}
    loss = replies[-1]["array"].sum()
    assert compare("loss", np.asarray(loss), data.truth.loss, data.bound).agrees


def test_slice_net_is_the_generated_one() -> None:
    """The file is what the generator makes for three channels."""
    case = Case("three", (4, 3, 5, 6), (4, 3, 5, 6))
    assert slice_eltwise(case) == (NETS / "channel_sum_slice_eltwise.prototxt").read_text()


def test_every_file_belongs_to_a_variant() -> None:
    """No net lies about that no variant runs."""
    base = by_name("base")
    used = {variant.net(base) for variant in variants()}
    assert {file.read_text() for file in NETS.glob("*.prototxt")} == used


def reductions() -> list[Case]:
    """The cases on which Reduction is not a channel sum: something lies behind axis 1."""
    refuses = LAYERS["channel_sum"].refuses
    return [
        case
        for case in CASES
        if not refuses(case.x1_shape, case.x2_shape)
        and any(extent != 1 for extent in case.x1_shape[2:])
        and "million" not in case.name
    ]


@pytest.mark.parametrize("case", reductions(), ids=lambda case: case.name)
def test_reduction_differs_from_a_channel_sum_exactly_as_predicted(case: Case) -> None:
    """On spatial input Reduction + EuclideanLoss computes tail_sum, to tail_sum's own bound.

    Its disagreement with channel_sum is then the difference of the two truths, and is seen wherever
    that is more than rounding.
    """
    (variant,) = (
        each for each in variants() if (each.layer, each.name) == ("channel_sum", "caffe-reduction")
    )
    outcome = judge(variant, case)
    assert outcome.agrees, outcome.reason
    channel, tail = prepared("channel_sum", case), prepared("tail_sum", case)
    run = variant.run(case, channel.inputs, channel.other, channel.larger)
    seen = False
    for each in run.passes:
        for name, actual in each.result.tensors().items():
            expected, predicted = channel.truth.tensors()[name], tail.truth.tensors()[name]
            if actual is None or expected is None or predicted is None:
                continue
            assert compare(name, actual, predicted, tail.bound).agrees
            with np.errstate(invalid="ignore"):
                apart = (
                    np.abs(predicted - expected)
                    > tail.bound.worst[name] + channel.bound.worst[name]
                )
            if np.any(apart & np.isfinite(expected)):
                seen = True
                assert not compare(name, actual, expected, channel.bound).agrees
    if seen:
        assert outcome.verdict == "refused"


def test_reductions_disagreement_is_seen() -> None:
    """On ordinary inputs the two differ by far more than rounding: the verdict is "refused"."""
    (variant,) = (
        each for each in variants() if (each.layer, each.name) == ("channel_sum", "caffe-reduction")
    )
    for name in ("base", "exact", "weight-3.7", "odd", "one-channel", "channels-3-7"):
        assert judge(variant, by_name(name)).verdict == "refused"


def test_reduction_is_a_channel_sum_where_nothing_lies_behind_axis_1() -> None:
    """(N, C) and (N, C, 1, 1) inputs: Reduction passes channel_sum."""
    (variant,) = (
        each for each in variants() if (each.layer, each.name) == ("channel_sum", "caffe-reduction")
    )
    for name in ("two-axes", "unit-spatial", "one-element", "exact-unit-spatial"):
        assert judge(variant, by_name(name)).verdict == "pass"


def test_readme_shows_the_trap_with_these_numbers() -> None:
    """The README's four losses of the case "base" are the ones that come out."""
    case = by_name("base")
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    rows = {
        ("channel_sum", "caffe-convolution"): "fixed 1x1 `Convolution` + `EuclideanLoss`",
        ("tail_sum", "caffe-reduction"): "`Reduction` (axis 1) + `EuclideanLoss`",
    }
    for variant in variants():
        label = rows.pop((variant.layer, variant.name), None)
        if label is None:
            continue
        data = prepared(variant.layer, case)
        run = variant.run(case, data.inputs, data.other, data.larger)
        assert f"| {label} | {float(run.passes[0].result.loss):.7g} |" in readme
        assert f"| {float(data.truth.loss):.9g} |" in readme
    assert not rows
