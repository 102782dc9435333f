"""The nets as files: each can be copied as it stands. And the trap: Reduction."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from caffe_impl.compiled import compiled_layer
from caffe_impl.variants import LAYERS as PYTHON_LAYERS
from caffe_impl.variants import NETS, slice_eltwise, variants
from caffe_parity import CaffeNet, Case
from caffe_parity.caffe.client import Caffe, Op
from caffe_parity.contract import GRADIENT, Observation
from caffe_parity.engine.compare import compare
from caffe_parity.engine.judge import judge, observed, plan_of
from parity_tests.answers import computed_layer, expected_of, verdict_if_right
from parity_tests.layers import LAYERS
from reference.cases import by_name, case_of
from reference.rounding import DX1, DX2

CHANNEL, TAIL = LAYERS["channel_sum"], LAYERS["tail_sum"]


PHASES = ("TRAIN", "TEST")

UNEDITED = """
import ctypes, sys
import numpy as np
file, folder, inputs, outputs = sys.argv[1:5]
for library in sys.argv[5:]:
    ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
sys.path.insert(0, folder)
import caffe
from caffe.proto import caffe_pb2
from google.protobuf import text_format

text, given = open(file).read(), np.load(inputs)
# What a net above something that learns asks of it: a Bias is put behind each input.
below = text_format.Merge(text, caffe_pb2.NetParameter())
for layer in [each for each in below.layer if each.type == "Input"]:
    [name] = layer.top
    layer.top[0] = "given_" + name
    below.layer.add(name="learned_" + name, type="Bias", bottom=["given_" + name], top=[name])
kept = sorted(below.layer, key=lambda each: 0 if each.type in ("Input", "Bias") else 1)
del below.layer[:]
below.layer.extend(kept)
texts = {
    "as it stands": text,
    "forced": text + "force_backward: true\\n",
    "learned": text_format.MessageToString(below),
}
found = {}
for phase in ("TRAIN", "TEST"):
    for way, written in texts.items():
        open(outputs + ".prototxt", "w").write(written)
        net = caffe.Net(outputs + ".prototxt", getattr(caffe, phase))
        for name in given.files:
            net.blobs["given_" + name if way == "learned" else name].data[...] = given[name]
        net.forward()
        net.backward()
        key = phase + "/" + way + "/"
        found[key + "inputs"] = list(net.inputs)
        found[key + "outputs"] = list(net.outputs)
        found[key + "loss"] = net.blobs["loss"].data.sum()
        found[key + "weight"] = net.blobs["loss"].diff.sum()
        own = [blob for name in net.params if not name.startswith("learned_")
               for blob in net.params[name]]
        found[key + "learned"] = sum(np.abs(blob.diff).sum() for blob in own)
        for name in given.files:
            found[key + "gradient:" + name] = net.blobs[name].diff.copy()
np.savez(outputs, **found)
"""
"""Runs a file in Caffe's own Python, without this library.

Its arguments: the file, the folder of the Python layers, inputs and results (.npz), and which
compiled layers to load.
"""


@pytest.mark.parametrize("file", sorted(NETS.glob("*.prototxt")), ids=lambda file: file.stem)
def test_file_runs_as_it_stands(caffe: Caffe, file: Path, tmp_path: Path) -> None:
    """Not a letter changed, in both phases, a net computes and trains its layer with weight 1.

    It has the inputs x1 and x2 and no other output than the loss; with `force_backward`, and above
    something that learns, it gives the layer's gradients; and nothing of its own learns.
    """
    base = by_name("base")
    expected = expected_of(next(LAYERS[n] for n in LAYERS if file.name.startswith(n)), base)
    given = base.arrays(base)
    np.savez(tmp_path / "in.npz", x1=given["x1"], x2=given["x2"])
    libraries = compiled_layer(caffe) if "cuda" in file.name else ()
    command = [*caffe.interpreter.command, "-c", UNEDITED, str(file), str(PYTHON_LAYERS)]
    command += [str(tmp_path / "in.npz"), str(tmp_path / "out.npz"), *libraries]
    environment = {**os.environ, **caffe.interpreter.environment}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    found = np.load(tmp_path / "out.npz")
    for phase in PHASES:
        for way in ("as it stands", "forced", "learned"):
            key = f"{phase}/{way}/"
            if way != "learned":
                assert set(found[f"{key}inputs"]) == {"x1", "x2"}
            assert list(found[f"{key}outputs"]) == ["loss"]
            assert found[f"{key}weight"] == 1, key
            if way != "forced":  # which also asks for the diffs of what does not learn
                assert found[f"{key}learned"] == 0, key
            assert compare("loss", found[f"{key}loss"], expected).agrees, key
            for name in (DX1, DX2):
                there = way != "as it stands"
                assert there == compare(name, found[key + name], expected).agrees, key + name


@pytest.mark.parametrize("asked", ["x1", "x2"])
@pytest.mark.parametrize(
    ("layer", "name"), [(layer, name) for layer, of in variants().items() for name in of]
)
def test_a_diff_that_nobody_asked_for_is_not_written(layer: str, name: str, asked: str) -> None:
    """Where Caffe's propagate_down is false, the bottom's diff holds what it held before."""
    case = replace(by_name("base"), gradients=(asked,))
    net = LAYERS[layer].variants[name]
    assert isinstance(net, CaffeNet)
    held = {"x1": 2.0**90, "x2": -(2.0**90)}
    ops: list[Op] = net.net_ops(case)
    ops += [{"op": "set", "blob": k, "array": each} for k, each in case.arrays(case).items()]
    ops += [{"op": "forward"}]
    ops += [{"op": "fill_diff", "blob": k, "value": value} for k, value in held.items()]
    ops += [{"op": "backward"}]
    ops += [{"op": "diff", "blob": k} for k in held]
    replies = net.request(ops)[-2:]
    expected = expected_of(computed_layer(LAYERS[layer], name, case), case)
    for blob, reply in zip(held, replies, strict=True):
        if blob == asked:
            assert compare(GRADIENT + blob, reply["array"], expected).agrees
        else:
            assert np.all(reply["array"] == held[blob])


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
    ready = plan_of(CHANNEL, "caffe-reduction", case)
    run, _ = observed(ready)
    assert isinstance(run, Observation)
    channel, tail = expected_of(CHANNEL, case), expected_of(TAIL, case)
    compared = [each.name for each in ready.plan.passes if each.expected is not None]
    assert len(compared) == 3
    differs = False
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
                assert not compare(name, actual, channel).agrees
            differs |= not compare(name, actual, channel).agrees
    expected_verdict = "refused" if differs else verdict_if_right(TAIL, case)
    assert record.verdict == expected_verdict, record.reason


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
