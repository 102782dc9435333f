"""The nets as files: each can be copied as it stands. And the trap: Reduction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffe_impl.variants import LAYERS as PYTHON_LAYERS
from caffe_impl.variants import NETS, slice_eltwise, variants
from caffe_parity import Case
from caffe_parity.caffe.client import Caffe, Op
from caffe_parity.contract import Observation
from caffe_parity.engine.compare import compare
from caffe_parity.engine.judge import judge, observed, plan_of
from parity_tests.answers import expected_of
from parity_tests.layers import LAYERS
from reference.cases import by_name, case_of

CHANNEL, TAIL = LAYERS["channel_sum"], LAYERS["tail_sum"]


def plain_files() -> list[Path]:
    """The nets that need no compiled layer."""
    return [file for file in sorted(NETS.glob("*.prototxt")) if "cuda" not in file.name]


@pytest.mark.parametrize("file", plain_files(), ids=lambda file: file.stem)
def test_file_runs_as_it_stands(caffe: Caffe, file: Path) -> None:
    """Without any edit the net loads, has the inputs x1 and x2, and computes its layer's loss."""
    base = by_name("base")
    layer = next(layer for name, layer in LAYERS.items() if file.name.startswith(name))
    ops: list[Op] = [
        {"op": "net", "text": file.read_text(), "path": [str(PYTHON_LAYERS)]},
        *({"op": "set", "blob": k, "array": each} for k, each in base.arrays(base).items()),
        {"op": "forward"},
        {"op": "loss"},
    ]
    replies = caffe.request(ops)
    assert set(replies[0]["inputs"]) == {"x1", "x2"}
    loss = replies[-1]["array"].sum()
    assert compare("loss", np.asarray(loss), expected_of(layer, base)).agrees


def uncommented(text: str) -> str:
    """The text without the lines that are comments."""
    return "".join(line for line in text.splitlines(True) if not line.startswith("#"))


def test_slice_net_is_the_generated_one() -> None:
    """The file is what the generator makes for three channels, with comments."""
    case = case_of("three", (4, 3, 5, 6))
    file = NETS / "channel_sum_slice_eltwise.prototxt"
    assert slice_eltwise(case) == uncommented(file.read_text())


def test_every_file_belongs_to_a_variant() -> None:
    """No net lies about that no variant runs."""
    base = by_name("base")
    used = {uncommented(net.text(base)) for of in variants().values() for net in of.values()}
    assert {uncommented(file.read_text()) for file in NETS.glob("*.prototxt")} == used


def reductions() -> list[Case]:
    """The cases on which Reduction is not a channel sum: something lies behind axis 1."""
    return [
        case
        for case in CHANNEL.all_cases()
        if any(extent != 1 for extent in case.shapes["x1"][2:]) and "million" not in case.name
    ]


@pytest.mark.parametrize("case", reductions(), ids=lambda case: case.name)
def test_reduction_differs_from_a_channel_sum_exactly_as_predicted(case: Case) -> None:
    """On spatial input Reduction + EuclideanLoss computes tail_sum, to tail_sum's own bound.

    Its disagreement with channel_sum is then the difference of the two truths, and is seen wherever
    that is more than rounding.
    """
    record = judge(CHANNEL, "caffe-reduction", case)
    assert not record.wrong, record.reason
    ready = plan_of(CHANNEL, "caffe-reduction", case)
    run, _ = observed(ready)
    assert isinstance(run, Observation)
    channel, tail = expected_of(CHANNEL, case), expected_of(TAIL, case)
    compared = [each.name for each in ready.plan.passes if each.expected is not None]
    assert len(compared) == 3
    seen = False
    for tensors in (run.tensors[name] for name in compared):
        for name, expected in channel.truth.items():
            actual, predicted = tensors[name], tail.truth[name]
            if actual is None:
                assert case.weight == 0
                continue
            assert compare(name, actual, tail).agrees
            with np.errstate(invalid="ignore"):
                room = tail.bound.worst[name] + channel.bound.worst[name]
                apart = np.abs(predicted - expected) > room
            if np.any(apart & np.isfinite(expected)):
                seen = True
                assert not compare(name, actual, channel).agrees
    if seen:
        assert record.verdict == "refused"


def test_reductions_disagreement_is_seen() -> None:
    """On ordinary inputs the two differ by far more than rounding: the verdict is "refused"."""
    for name in ("base", "exact", "weight-3.7", "odd", "one-channel", "channels-3-7"):
        assert judge(CHANNEL, "caffe-reduction", by_name(name)).verdict == "refused"


def test_reduction_is_a_channel_sum_where_nothing_lies_behind_axis_1() -> None:
    """(N, C) and (N, C, 1, 1) inputs: Reduction passes channel_sum."""
    for name in ("two-axes", "unit-spatial", "one-element", "exact-unit-spatial"):
        assert judge(CHANNEL, "caffe-reduction", by_name(name)).verdict == "pass"


def test_readme_shows_the_trap_with_these_numbers() -> None:
    """The README's four losses of the case "base" are the ones that come out."""
    case = by_name("base")
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    rows = {
        ("channel_sum", "caffe-convolution"): "fixed 1x1 `Convolution` + `EuclideanLoss`",
        ("tail_sum", "caffe-reduction"): "`Reduction` (axis 1) + `EuclideanLoss`",
    }
    for (layer, name), label in rows.items():
        run, _ = observed(plan_of(LAYERS[layer], name, case))
        assert isinstance(run, Observation)
        loss = run.tensors["first"]["loss"]
        assert loss is not None
        assert f"| {label} | {float(loss):.7g} |" in readme
        assert f"| {float(expected_of(LAYERS[layer], case).truth['loss']):.9g} |" in readme
