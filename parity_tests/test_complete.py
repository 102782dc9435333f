"""Nothing is left out in silence: what is selected is counted here by other means than it is made.

A case, a variant, a pass or a tensor that nobody compares any more fails no comparison. So the main
job is held against the *text* of the list of cases and against the variants as they are named here.
"""

from __future__ import annotations

import ast
import math
from collections import Counter
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import torch

from caffe_parity import CaffeNet, Comparison
from caffe_parity.contract import Observation, Shape, VariantFailure
from caffe_parity.engine.judge import judge, observed, plan_of, record_of, variant_of
from caffe_parity.engine.port import Port
from parity_tests.layers import LAYERS
from parity_tests.machine import not_run
from parity_tests.test_parity import test_parity as main_job
from reference import cases
from reference.cases import by_name, case_of
from reference.rounding import DX1, DX2

VARIANTS = {
    "euclidean": (
        *("caffe-native", "caffe-python", "caffe-eltwise-reduction"),
        *("torch-module", "torch-function", "torch-compiled"),
    ),
    "channel_sum": (
        *("caffe-python", "caffe-convolution", "caffe-slice-eltwise", "caffe-cuda"),
        *("caffe-reduction", "torch-module", "torch-function", "torch-compiled"),
        *("torch-fast", "torch-cuda"),
    ),
    "tail_sum": (
        *("caffe-python", "caffe-reduction"),
        *("torch-module", "torch-function", "torch-compiled"),
    ),
}
ALL = [(layer, name) for layer, names in VARIANTS.items() for name in names]
FEWER = {"euclidean": "another shape", "channel_sum": "another tail"}
"""Which cases a layer has not: those in which x2 has another shape, or another tail."""


@cache
def written() -> dict[str, dict[str, str]]:
    """The cases as they stand in the text of reference/cases.py: their arguments by name."""
    tree = ast.parse(Path(cases.__file__).read_text())
    [listed] = [
        each.value
        for each in tree.body
        if isinstance(each, ast.AnnAssign) and ast.unparse(each.target) == "CASES"
    ]
    assert isinstance(listed, ast.Tuple)
    found = {}
    for call in listed.elts:
        assert isinstance(call, ast.Call)
        said = {each.arg or "": ast.unparse(each.value) for each in call.keywords}
        said |= {f"argument {n}": ast.unparse(each) for n, each in enumerate(call.args)}
        found[ast.literal_eval(said["argument 0"])] = said
    assert len(found) == len(listed.elts)
    return found


def has(layer: str, case: str) -> bool:
    """Whether a layer must be compared on a case."""
    said = written()[case]
    if FEWER.get(layer) == "another shape":
        return "argument 2" not in said
    return FEWER.get(layer) != "another tail" or case != "tails-differ"


def tensors_of(case: str) -> set[str]:
    """What must be compared on a case."""
    said = written()[case]
    asked = ast.literal_eval(said.get("gradients", "('x1', 'x2')"))
    if said.get("sharing") == "'same-blob'":
        asked = ("x1",)
    return {"loss"} | ({DX1} if "x1" in asked else set()) | ({DX2} if "x2" in asked else set())


def test_main_job_is_the_whole_product() -> None:
    """Every variant of every layer meets every case that the layer is defined for, once."""
    [mark] = main_job.pytestmark  # type: ignore[attr-defined]
    comparisons: list[Comparison] = mark.args[1]
    expected = [
        (layer, name, case) for (layer, name), case in product(ALL, written()) if has(layer, case)
    ]
    assert len(written()) > 70
    assert Counter(each.key for each in comparisons) == Counter(expected)


def test_layers_have_every_variant() -> None:
    """What all other tests go through are these variants."""
    assert {name: tuple(layer.variants) for name, layer in LAYERS.items()} == VARIANTS


PASSES = ["first", "second", "reshaped"]


def assert_all_compared(layer: str, name: str, case: str) -> None:
    """Three passes, and in each of them every tensor, were computed and judged."""
    ready = plan_of(LAYERS[layer], name, by_name(case))
    assert [each.name for each in ready.plan.passes if each.expected is not None] == PASSES
    inputs = ready.case.fed  # of several small ones, one alone is another in two passes more
    alone = len(inputs) > 1 and sum(math.prod(ready.case.shapes[x]) for x in inputs) <= 2**16
    assert [len(net) for net in ready.plan.nets] == [8 if alone else 6]
    seen, _ = observed(ready)
    assert isinstance(seen, Observation), seen
    wanted = tensors_of(case)
    for each in PASSES:
        assert {key for key, of in seen.tensors[each].items() if of is not None} == wanted, case
    assert set(record_of(ready, seen).tensors) == wanted, case


@pytest.mark.parametrize("layer", VARIANTS)
def test_every_tensor_of_every_case_is_compared(layer: str) -> None:
    """No pass and no gradient of a case is passed over."""
    for case in written():
        if has(layer, case) and "million" not in case:
            assert_all_compared(layer, "torch-module", case)


KINDS = ("only-dx1", "only-dx2", "only-dx2-two-axes", "same-blob", "split", "channels-3-7", "exact")


@pytest.mark.parametrize(("layer", "name"), [each for each in ALL if "caffe" in each[1]])
def test_every_tensor_is_compared_in_caffe(layer: str, name: str) -> None:
    """Nor with a net, whichever gradients are asked for and whatever is shared."""
    for case in KINDS:
        if has(layer, case):
            assert_all_compared(layer, name, case)


SHAPES: tuple[tuple[Shape, Shape, str], ...] = (
    ((2, 3, 2, 2), (2, 3, 2, 2), "euclidean channel_sum tail_sum"),
    ((4, 4, 4, 4), (4, 4, 4, 4), "euclidean channel_sum tail_sum"),
    ((2, 3), (2, 3), "euclidean channel_sum tail_sum"),
    ((2, 2, 1, 2, 1, 3), (2, 2, 1, 2, 1, 3), "euclidean channel_sum tail_sum"),
    ((2, 3, 2, 2), (2, 5, 2, 2), "channel_sum tail_sum"),
    ((2, 3, 2, 2), (2, 1, 2, 2), "channel_sum tail_sum"),
    ((2, 1, 2, 2), (2, 3, 2, 2), "channel_sum tail_sum"),
    ((2, 3), (2, 5), "channel_sum tail_sum"),
    ((2, 3, 2, 2), (2, 3, 4), "tail_sum"),
    ((2, 3, 2, 2), (2, 12), "tail_sum"),
    ((2, 3, 2, 3), (2, 3, 3, 2), "tail_sum"),
    ((2, 3, 2, 2), (2, 3, 1, 2), "tail_sum"),
    ((2, 3, 2, 1), (2, 3, 2), "tail_sum"),
    ((2, 3, 1, 1), (2, 3), "tail_sum"),
    ((2, 3, 2, 2), (1, 3, 2, 2), ""),
    ((1, 3, 2, 2), (2, 3, 2, 2), ""),
    ((4, 3, 2), (2, 6, 2), ""),
)
"""Two shapes, and the layers that are defined for them."""

REFUSE = [each for each in ALL if each[1].startswith("torch") or each[1] == "caffe-python"]
"""Variants that say that shapes do not fit; Caffe's own layers take whatever has the same count."""


@pytest.mark.parametrize(("layer", "name"), ALL)
def test_what_a_layer_accepts_and_refuses(layer: str, name: str) -> None:
    """A layer is defined for exactly these shapes; each variant computes all of them, and no other.

    A variant may say that it refuses one of them, or computes another layer there.
    """
    variant = variant_of(LAYERS[layer], name)
    obstacle = variant.cannot_run()
    if obstacle:
        not_run(obstacle)
    for x1, x2, layers in SHAPES:
        case = case_of("shapes", x1, x2, fill="integers", loss_weight=-2.0)
        fits = layer in layers.split()
        assert LAYERS[layer].allows(case) == fits
        if fits and (name != "torch-compiled" or len(x1) == 4):  # each pattern takes seconds
            record = judge(LAYERS[layer], name, case)
            claim = variant.expects(case)
            assert record.verdict == ("refused" if claim else "pass"), (x1, x2, record.reason)
        elif not fits and (layer, name) in REFUSE:
            with pytest.raises((VariantFailure, ValueError), match=_both(x1, x2)):
                _run(layer, name, x1, x2)


def _both(x1: Shape, x2: Shape) -> str:
    """What a refusal must name: both shapes."""
    return ".*".join(str(each).replace("(", r"\(").replace(")", r"\)") for each in (x1, x2))


def _run(layer: str, name: str, x1: Shape, x2: Shape) -> None:
    """Runs a variant on zeros of shapes that its layer is not defined for."""
    case = case_of("shapes", x1, x2, fill="integers")
    variant = LAYERS[layer].variants[name]
    if isinstance(variant, CaffeNet):
        variant.request(variant.net_ops(case))
        return
    assert isinstance(variant, Port)
    variant.function(torch.zeros(x1), torch.zeros(x2))
