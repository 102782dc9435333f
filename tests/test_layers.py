"""The catalogue of counterparts, held against the layers of a real Caffe."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import nn

from caffe_parity import ports
from caffe_parity.caffe.client import Caffe
from caffe_parity.engine.caffe_net import CaffeNet
from caffe_parity.ports import PORTS, Call, Refused, Said, activations
from caffe_parity.ports.catalogue import BOUNDED, DATA, EXACT, HOLE
from caffe_parity.whole import fields
from caffe_parity.whole.golden import Golden, Step
from studies.layers import __main__ as study
from studies.layers import page, search
from studies.layers.corners import CORNERS
from studies.layers.example import (
    AGREES,
    DISAGREES,
    IMPOSSIBLE,
    NOT_HONOURED,
    REFUSED,
    UNPROVEN,
    Example,
    Outcome,
    _tells,
    compared,
    messages,
    planned,
    read,
    seen,
)
from studies.layers.mutants import MUTANTS, Mutant, deaf, heard, killed
from studies.layers.search import READS, all_fields, searched
from studies.layers.strategies import DRAWN, examples

COMPUTED = [each.type for each in PORTS.values() if each.calls is not None]
FAMILIES = (
    *("activations", "arithmetic", "convolution", "losses"),
    *("normalisation", "pooling", "recurrent", "shapes"),
)
ONLY_AT_ZERO = ("eltwise_param.stable_prod_grad",)
"""A field that no element of a corner shows: Caffe's gradient differs where it is NaN."""


def test_catalogue_has_every_type_that_caffe_registers(caffe: Caffe) -> None:
    """All 61, and no other; each has a state, and what is computed has corners and is searched."""
    caffe.start()
    assert set(PORTS) == set(caffe.greeting["layers"])
    assert len(PORTS) == 61
    assert set(CORNERS) == set(DRAWN) == set(COMPUTED)
    for each in PORTS.values():
        assert each.state in ((EXACT, BOUNDED) if each.calls else (DATA, HOLE))
        assert each.calls or each.note


def test_search_reads_the_messages_of_caffe_proto(caffe: Caffe) -> None:
    """A type's own message, by its name, is among those that are drawn; all of them are there."""
    layer = messages()["LayerParameter"]
    own = {name.removesuffix("_param").replace("_", ""): name for name in layer}
    for kind in COMPUTED:
        assert set(READS.get(kind, ())) <= set(layer)
        if kind.lower() in own:
            assert own[kind.lower()] in READS[kind]


@pytest.mark.parametrize("kind", COMPUTED)
def test_counterpart_agrees(caffe: Caffe, kind: str) -> None:
    """With Caffe at each corner of its type and on random layers, bits included where exact."""
    counted = searched(kind, cases=4, number=0, shrink=False)
    assert not counted.wrong
    assert counted.outcomes[AGREES] >= len(CORNERS[kind]) + 1
    if PORTS[kind].state == EXACT:
        assert counted.same_bits == counted.outcomes[AGREES]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda each: f"{each.types[0]}-{each.bug}")
def test_wrong_counterpart_is_refused(caffe: Caffe, mutant: Mutant) -> None:
    """At a corner of one of its types."""
    assert killed(mutant.types, mutant.ports())


@pytest.mark.parametrize("line", ["| x=3,3,2,1 | 1 24", "| x=1,1,2,1 | 1 39"])
def test_gradient_that_is_all_rounding_is_not_wrong(caffe: Caffe, line: str) -> None:
    """That of two numbers, made to -1 and 1: other forms round otherwise; no top diff counts."""
    assert compared(read("MVN", line)).verdict == UNPROVEN


def test_every_counterpart_is_broken_by_a_mutant() -> None:
    """There is one of each type that is computed."""
    assert {kind for each in MUTANTS for kind in each.types} == set(COMPUTED)


@pytest.mark.parametrize("kind", COMPUTED)
def test_field_that_is_ignored_is_noticed(caffe: Caffe, kind: str) -> None:
    """Each field that changes what a type computes, left out of what the counterpart sees."""
    for field in heard(kind):
        assert bool(killed([kind], deaf(kind, field))) == (field not in ONLY_AT_ZERO), field


def test_page_is_that_of_the_catalogue(caffe: Caffe) -> None:
    """Its rows, its counts and the numbers of its traps, each beyond the bound."""
    text = page.text()
    assert page.PAGE.read_text() == text
    for kind in PORTS:
        assert f"\n| `{kind}` | " in text
    assert set(page.counts()) == set(COMPUTED)


def test_functions_need_torch_alone() -> None:
    """And each other, so that `def` and all can be copied."""
    folder = Path(ports.__file__).parent
    for name in FAMILIES:
        tree = ast.parse((folder / f"{name}.py").read_text())
        found = {
            (node.module if isinstance(node, ast.ImportFrom) else each.name) or ""
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for each in node.names
        }
        others = {f"caffe_parity.ports.{each}" for each in FAMILIES}
        assert found <= {"torch", "torch.nn", "math", "collections.abc", *others}


@pytest.mark.parametrize(
    ("kind", "line", "words"),
    [
        (
            "Pooling",
            "pooling_param { pool: STOCHASTIC kernel_size: 2 } | x=1,1,4,4 | 1",
            "STOCHASTIC",
        ),
        (
            "Pooling",
            "pooling_param { kernel_size: 1 stride: 2 } | x=1,1,6,6 | 1",
            "the last window",
        ),
        (
            "InfogainLoss",
            'infogain_loss_param { source: "m" } | x=2,3 label=2:int:0,2 | 1',
            "source",
        ),
        ("Exp", "exp_param { base: -2 } | x=2 | 1", "base"),
        ("Concat", "concat_param { axis: 3 } | a=2,3 b=2,3 | 1", "no axis 3"),
        (
            "DummyData",
            'dummy_data_param { shape { dim: 2 } data_filler { type: "gaussian" } } | | 1',
            "drawn",
        ),
        (
            "Convolution",
            "convolution_param { num_output: 1 kernel_size: 1 } | x=1,1,1,1,1,1 | 1",
            "3 at most",
        ),
    ],
)
def test_what_has_no_counterpart_is_refused(caffe: Caffe, kind: str, line: str, words: str) -> None:
    """By the layer's name, and with the field or the reason."""
    with pytest.raises(Refused, match=words) as refused:
        PORTS[kind].of(read(kind, line).said)
    assert str(refused.value).startswith(f"layer 'layer' ({kind}): ")


@pytest.mark.parametrize("kind", [each.type for each in PORTS.values() if each.calls is None])
def test_type_without_a_counterpart_says_why(caffe: Caffe, kind: str) -> None:
    """A data layer becomes an input, and a Python layer is a hole."""
    with pytest.raises(Refused, match=PORTS[kind].note):
        PORTS[kind].of(Said({"name": "layer", "type": kind}, (), messages()))


def test_field_that_nobody_reads_is_refused_by_name(caffe: Caffe) -> None:
    """A counterpart that looks at its message and not at all of its fields; also in one within."""

    def forgets(said: Said) -> list[Call]:
        said.message("relu_param")
        return [Call(activations.relu)]

    def skims(said: Said) -> list[Call]:
        for each in said.message("dummy_data_param")["data_filler"]:
            assert each["type"] == "constant"
        said.message("dummy_data_param").changes_nothing("shape")
        return []

    forgetful = replace(PORTS["ReLU"], calls=forgets)
    with pytest.raises(Refused, match=r"does not honour relu_param\.negative_slope"):
        forgetful.of(read("ReLU", "relu_param { negative_slope: 2 } | x=2 | 1").said)
    assert forgetful.of(read("ReLU", "tile_param { tiles: 2 } | x=2 | 1").said)  # nor does Caffe
    line = "dummy_data_param { shape { dim: 2 } data_filler { value: 2 } } | | 1"
    with pytest.raises(Refused, match=r"dummy_data_param\.data_filler\.value"):
        replace(PORTS["DummyData"], calls=skims).of(read("DummyData", line).said)


def test_message_gives_what_caffe_holds(caffe: Caffe) -> None:
    """Defaults of caffe.proto, 64-bit integers, and numbers as float32 has them."""
    line = "reshape_param { shape { dim: -1 dim: 0 } } elu_param { alpha: 0.1 } | x=2 | 1"
    said = read("Reshape", line).said
    assert said.message("reshape_param")["shape"]["dim"] == [-1, 0]
    assert said.message("reshape_param")["num_axes"] == -1
    assert said.message("elu_param")["alpha"] == float(np.float32(0.1))
    assert said.message("elu_param").said("alpha") and "alpha" in said.message("elu_param")
    assert said.message("relu_param").said("negative_slope") is None


def test_dropout_in_training_is_its_mask(caffe: Caffe) -> None:
    """What Caffe draws is 0 or x / (1 - ratio), to the bit, and so is its gradient."""
    example = read("Dropout", "dropout_param { dropout_ratio: 0.3 } | x=40,50 | 1")
    [call] = PORTS["Dropout"].of(example.said)
    assert call.named == {"mask": "mask"}
    x = np.random.RandomState(0).standard_normal((40, 50)).astype(np.float32)
    *_, top, diff = _asked(
        example,
        {"op": "set", "blob": "x", "array": x},
        {"op": "forward"},
        {"op": "set_diff", "blob": "top0", "array": x[::-1]},
        {"op": "backward"},
        {"op": "data", "blob": "top0"},
        {"op": "diff", "blob": "x"},
    )
    y, dx = np.array(top["array"]), np.array(diff["array"])
    mask = y != 0
    for bottom, found in ((x, y), (x[::-1].copy(), dx)):
        tensors = {"bottom[0]": torch.from_numpy(bottom), "mask": torch.from_numpy(mask).float()}
        assert np.array_equal(call(tensors)["top[0]"].numpy(), found)
    assert 0.65 < mask.mean() < 0.75  # 2000 draws: 5 times the deviation of 0.01


@pytest.mark.parametrize(
    ("kind", "line", "gradient"),
    [
        ("Power", "power_param { power: 3 } | x=2:constant:0 | 1", "gradient:x"),
        (
            "Eltwise",
            "eltwise_param { operation: PROD stable_prod_grad: false } | a=3 b=3:constant:0 | 1",
            "gradient:b",
        ),
    ],
)
def test_gradient_that_is_nan_in_caffe_is_nan(
    caffe: Caffe, kind: str, line: str, gradient: str
) -> None:
    """0 / 0, which the counterpart does not mend."""
    for each in planned(read(kind, line), PORTS[kind]):
        found = seen(each).tensors["first"][gradient]
        assert found is not None and np.isnan(found).all()


def test_what_is_undefined_in_caffe_shows(caffe: Caffe) -> None:
    """A window behind the input gives -FLT_MAX; a selector of zeros ends the process."""
    behind = read("Pooling", "pooling_param { kernel_size: 1 stride: 2 } | x=1,1,1,2 | 1")
    [*_, top] = _asked(behind, {"op": "forward"}, {"op": "data", "blob": "top0"})
    assert top["array"].tolist() == [[[[0, -float(np.finfo(np.float32).max)]]]]
    zeros = read("Filter", "| a=3,2 selector=3:constant:0! | 1")
    assert compared(zeros).verdict == IMPOSSIBLE


@pytest.mark.parametrize(
    ("kind", "line"),
    [("Scale", "| x=1,3,4 | 1"), ("Parameter", "parameter_param { shape { dim: 2 } } | | 1")],
)
def test_diff_that_caffe_overwrites(
    caffe: Caffe, kind: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not compared, and nothing else is left out; with several samples Caffe adds to it."""
    example = read(kind, line)
    assert example.overwrites and compared(example).verdict == AGREES
    assert not read("Scale", "| x=2,3,4 | 1").overwrites
    monkeypatch.setattr(Example, "overwrites", False)
    outcome = compared(example)
    assert outcome.verdict == DISAGREES and "param[0] is overwritten" in outcome.words


def _asked(example: Example, *ops: dict[str, Any]) -> list[dict[str, Any]]:
    """What Caffe answers to some ops on the net of an example."""
    edits = {"gradients": ["x"], "outputs_as_losses": True}
    build: dict[str, Any] = {"op": "net", "text": example.text, "edits": edits}
    return CaffeNet(lambda case: example.text, example.type).request([build, *ops])


def test_outcomes_are_told_apart(caffe: Caffe) -> None:
    """What Caffe refuses, what the port refuses, what differs, in numbers and in bits."""
    relu = read("ReLU", "relu_param { negative_slope: 0.5 } | x=4,3 | 1")
    assert compared(relu).verdict == AGREES and compared(relu).same_bits
    broken = {"ReLU": replace(PORTS["ReLU"], calls=lambda said: [Call(activations.absval)])}
    said = broken["ReLU"]
    assert compared(relu, {"ReLU": said}).verdict == DISAGREES
    assert compared(read("Concat", "concat_param { axis: 7 } | a=2 b=2 | 1")).verdict == REFUSED
    behind = read("Pooling", "pooling_param { kernel_size: 1 stride: 2 } | x=1,1,6,6 | 1")
    assert compared(behind).verdict == NOT_HONOURED
    exact: Mapping[str, ports.Port] = {"Sigmoid": replace(PORTS["Sigmoid"], state=EXACT)}
    assert compared(read("Sigmoid", "| x=40,30 | 1"), exact).words.startswith("other bits in ")


def test_search_ends_at_what_is_wrong(caffe: Caffe, monkeypatch: pytest.MonkeyPatch) -> None:
    """And shows it, as small as it gets; nothing of it is counted as agreeing."""

    def wrong(example: Example, enough: float) -> Outcome:
        return Outcome(DISAGREES if len(example.bottoms["x"]) > 1 else AGREES, "off")

    monkeypatch.setattr(search, "compared", wrong)
    monkeypatch.setitem(CORNERS, "AbsVal", ())
    counted = searched("AbsVal", cases=30, number=0)
    assert counted.wrong == "AbsVal |  | x=1,1 | 1 0: disagrees: off"


def test_counts_are_kept_by_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of one type leaves those of the others as they are."""
    from studies.layers.search import Counted

    monkeypatch.setattr(page, "COUNTED", tmp_path / "counted.json")
    page.add(Counted("ReLU", Counter({AGREES: 3}), 2, worst=0.123), 7, page.code())
    page.add(Counted("ELU", Counter({AGREES: 4, REFUSED: 1})), 7, "another")
    assert list(page.counts()) == ["ELU", "ReLU"]
    assert page.counts()["ReLU"]["agree"] == 3 and page.counts()["ReLU"]["worst"] == 0.13
    assert page._when(page.counts()).endswith("but for `ELU`: before a change of it.")
    with ThreadPoolExecutor(8) as threads:  # as several processes would
        kinds = [str(number) for number in range(200)]
        list(threads.map(lambda kind: page.add(Counted(kind), 7, ""), kinds))
    assert set(page.counts()) == {"ELU", "ReLU", *kinds}


def test_code_of_the_catalogue_is_not_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A docstring or a comment leaves the counts what they are, and a number does not."""
    file = tmp_path / "catalogue.py"
    monkeypatch.setattr(page, "CATALOGUE", tmp_path)
    monkeypatch.setattr(page, "FOLDER", tmp_path)
    (tmp_path / "strategies.py").touch()
    codes = []
    for text in ('def f():\n    """A."""\n    return 1\n', "def f():\n    return 1  # B\n"):
        file.write_text(text)
        codes.append(page.code())
    file.write_text("def f():\n    return 2\n")
    assert codes[0] == codes[1] != page.code()


@pytest.mark.parametrize("kind", ["Power", "MVN", "SoftmaxWithLoss", "Pooling", "Deconvolution"])
def test_few_roundings_settle_what_all_do(caffe: Caffe, kind: str) -> None:
    """The same verdict and bits, with a part of the bound that is no smaller."""

    @settings(
        max_examples=8,
        database=None,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        backend="alone",
    )
    @given(examples(kind))
    def alike(example: Example) -> None:
        few, usual = compared(example, enough=search.ENOUGH), compared(example)
        assert (few.verdict, few.same_bits) == (usual.verdict, usual.same_bits)
        assert few.fraction >= usual.fraction

    alike()


def test_few_roundings_say_what_is_wrong(caffe: Caffe) -> None:
    """As all of them do; a tensor of rounding alone is not settled by them."""
    elu = read("ELU", "elu_param { alpha: 0.5 } | x=4,3 | 1")
    doubled = replace(PORTS["ELU"], calls=lambda said: [Call(activations.elu)])
    for enough in (-1.0, 1.0):
        assert compared(elu, enough=enough).verdict == AGREES
        assert compared(elu, {"ELU": doubled}, enough).verdict == DISAGREES
    one, small = np.ones(3), np.full(3, 2.0**-9)
    assert _tells(one, small / 2) and not _tells(one, small * 2)
    assert _tells(one, np.array([np.inf, np.inf, 0])) and not _tells(one, np.full(3, np.inf))
    assert not _tells(0 * one, small) and _tells(0 * one, 0 * one)
    assert not _tells(one * np.nan, small)


def test_each_case_is_drawn_anew(caffe: Caffe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Hypothesis changes one to get the next, every fourth was there before."""
    monkeypatch.setattr(search, "compared", lambda example, enough: Outcome(AGREES))
    monkeypatch.setitem(CORNERS, "Pooling", ())
    first = searched("Pooling", cases=100, number=0)
    assert first.outcomes[AGREES] > 95
    again = searched("Pooling", cases=100, number=0, counted=first)
    assert again is first and again.outcomes[AGREES] == len(again.known)  # none counts twice


def test_a_study_goes_on_where_it_stopped(
    caffe: Caffe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In two runs as in one; after a change of the catalogue from the beginning."""
    monkeypatch.setattr(search, "compared", lambda example, enough=0: Outcome(AGREES, "", True))
    monkeypatch.setattr(study, "ROUND", 20)
    told = []
    for name, runs in (("one", (60,)), ("two", (40, 60))):
        monkeypatch.setattr(page, "COUNTED", tmp_path / name)
        for cases in runs:
            arguments = ["--only", "Pooling", "--record", "--cases", str(cases), "--seed", "3"]
            assert study.main(arguments) == 0
        told.append(page.counts()["Pooling"])
    assert told[0] == told[1] and told[0]["drawn"] == 60
    assert 60 < told[0]["agree"] <= 60 + len(CORNERS["Pooling"])
    assert page.before("Pooling", 3, 20, page.code()) is not None
    assert page.before("Pooling", 3, 20, "another") is None
    assert page.before("Pooling", 4, 20, page.code()) is None


def test_power_of_a_constant(caffe: Caffe) -> None:
    """What has no value in Python has one in C: 0 ** -1, and the root of -1."""
    for says, value in (("power: -1 scale: 0", np.inf), ("power: 0.5 scale: 0 shift: -1", np.nan)):
        example = read("Power", f"power_param {{ {says} }} | x=2 | 1")
        for each in planned(example, PORTS["Power"]):
            found = seen(each).tensors["first"]["top0"]
            assert found is not None and np.array_equal(found, [value] * 2, equal_nan=True)


@pytest.mark.parametrize("kind", COMPUTED)
def test_every_field_is_drawn(caffe: Caffe, kind: str) -> None:
    """Among 150 layers of a type each field of its messages stands, but for one that is refused."""
    fields: set[str] = set()

    @settings(
        max_examples=150,
        database=None,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(examples(kind))
    def draws(example: Example) -> None:
        fields.update(example.fields)

    draws()
    refused = {"loss_param.normalize"} if kind == "InfogainLoss" else set()
    assert fields == all_fields(kind) - refused


_SETTINGS: tuple[tuple[str, str, tuple[int, ...], nn.Module, nn.Module, str], ...] = (
    (
        "Convolution",
        "convolution_param { num_output: 4 kernel_size: 3 stride_h: 2 stride_w: 1 group: 2 }",
        (1, 2, 8, 8),
        nn.Conv2d(2, 4, 3, (2, 1), groups=2),
        nn.Conv2d(2, 4, 3, (1, 2), groups=2),
        "Conv2d has stride (1, 2), Caffe's Convolution (2, 1)",
    ),
    (
        "Deconvolution",
        "convolution_param { num_output: 4 kernel_size: 4 stride: 2 pad: 1 group: 2 }",
        (1, 2, 4, 4),
        nn.ConvTranspose2d(2, 4, 4, 2, 1, groups=2),
        nn.ConvTranspose2d(2, 4, 4, 2, groups=2),
        "ConvTranspose2d has padding (0, 0), Caffe's Deconvolution (1, 1)",
    ),
    (
        "Pooling",
        "pooling_param { kernel_size: 3 stride: 2 }",
        (1, 2, 8, 8),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.MaxPool2d(3, 2),
        "MaxPool2d has ceil_mode False, Caffe's Pooling True",
    ),
    (
        "LRN",
        "lrn_param { local_size: 5 alpha: 0.1 beta: 0.75 }",
        (1, 6, 2, 2),
        nn.LocalResponseNorm(5, 0.1, 0.75, 1.0),
        nn.LocalResponseNorm(5, 0.02, 0.75, 1.0),
        "LocalResponseNorm has alpha 0.02, Caffe's LRN 0.1",
    ),
    (
        "BatchNorm",
        "batch_norm_param { eps: 1e-3 }",
        (2, 3, 4),
        nn.BatchNorm1d(3, eps=1e-3),
        nn.BatchNorm1d(3),
        "BatchNorm1d has eps 1e-05, Caffe's BatchNorm 0.001",
    ),
    (
        "ReLU",
        "relu_param { negative_slope: 0.1 }",
        (2,),
        nn.LeakyReLU(0.1),
        nn.ReLU(),
        "ReLU has negative_slope 0, Caffe's ReLU 0.1",
    ),
    ("ELU", "", (2,), nn.ELU(), nn.ELU(0.5), "ELU has alpha 0.5, Caffe's ELU 1"),
    (
        "Dropout",
        "dropout_param { dropout_ratio: 0.3 }",
        (2, 3),
        nn.Dropout(0.3),
        nn.Dropout(0.7),
        "Dropout has p 0.7, Caffe's Dropout 0.3",
    ),
    (
        "Softmax",
        "softmax_param { axis: -1 }",
        (2, 3, 4),
        nn.Softmax(-1),
        nn.Softmax(1),
        "Softmax has dim 1, Caffe's Softmax 2",
    ),
    (
        "InnerProduct",
        "inner_product_param { num_output: 4 }",
        (2, 3),
        nn.Linear(3, 4),
        nn.Linear(3, 4, bias=False),
        "Linear has bias False, Caffe's InnerProduct True",
    ),
)
"""Of each type whose modules have settings: a layer, its bottom, a right and a wrong module."""


@pytest.mark.parametrize("number", range(len(_SETTINGS)))
def test_setting_of_a_module_is_held_against_the_catalogue(caffe: Caffe, number: int) -> None:
    """Each type that is looked at, with a layer where the setting is not the default."""
    kind, says, shape, right, wrong, words = _SETTINGS[number]
    assert {each[0] for each in _SETTINGS} == set(fields.RULES)
    said = Example(kind, says, {"x": shape}).said._layer
    blobs = [each.detach().numpy() for each in right.parameters()]
    params = {f"layer[{index}]": each for index, each in enumerate(blobs)}
    step = Step(0, "layer", kind, ("x",), ("top0",), {}, tuple(params), said=said)
    net = SimpleNamespace(
        values={"x": np.zeros(shape)}, params=params, messages=messages(), phase="TRAIN"
    )
    golden = cast(Golden, net)
    assert fields.differences(golden, step, right) == []
    assert fields.differences(golden, step, wrong) == [words]
