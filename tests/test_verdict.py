"""What a verdict must say: tests that the mutants of `studies.mutation` found missing."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from caffe_impl.variants import LAYERS as PYTHON_LAYERS
from caffe_impl.variants import NETS
from caffe_parity import Bound, CaffeNet, Case, Comparison, Expectation, Layer
from caffe_parity.caffe.client import Caffe
from caffe_parity.contract import (
    GRADIENT,
    SHARED_GRADIENT,
    Array32,
    Array64,
    BadRequest,
    Expected,
    Observation,
    Outline,
    Plan,
    Tensors,
    VariantFailure,
)
from caffe_parity.engine.compare import compare
from caffe_parity.engine.judge import judge
from caffe_parity.layer import SPLIT
from reference.cases import by_name
from reference.layers import LAYERS as FORMULAS
from tests.answers import right


@dataclass
class Stub:
    """A variant that says what it is told to."""

    answer: Observation | VariantFailure
    expectation: Expectation | None = None

    def expects(self, case: Case) -> Expectation | None:
        return self.expectation

    def cannot_run(self) -> str | None:
        return None

    def outline(self, case: Case, with_params: bool) -> Outline | None:
        return None

    def observe(self, plan: Plan) -> Observation:
        if isinstance(self.answer, VariantFailure):
            raise self.answer
        return self.answer


def answer(layer: str) -> Observation:
    """What a layer answers to the case "base", rounded once."""
    passes: dict[str, Tensors] = {
        name: dict(each) for name, each in right(FORMULAS[layer], by_name("base")).passes.items()
    }
    return Observation(passes, poisoned=True)


def with_stub(stub: Stub) -> Layer:
    """channel_sum with that variant."""
    return replace(FORMULAS["channel_sum"], variants={"stub": stub})


REFUSES = Expectation("refused", "it takes four axes at most", text="num_axes() <= 4")
AS_TAIL = Expectation("as-layer", "Reduction sums them all", layer="tail_sum")


@pytest.mark.parametrize(
    ("answered", "expectation", "verdict"),
    [
        (VariantFailure("crash", "Check failed: num_axes() <= 4"), REFUSES, "refused"),
        (VariantFailure("crash", "signal SIGSEGV"), REFUSES, "crash"),
        (VariantFailure("hang", "no answer"), REFUSES, "hang"),
        ("channel_sum", REFUSES, "fail"),
        ("tail_sum", AS_TAIL, "refused"),
        ("channel_sum", AS_TAIL, "fail"),
        ("euclidean", AS_TAIL, "fail"),
        (VariantFailure("crash", "num_axes() <= 4"), AS_TAIL, "crash"),
        ("channel_sum", None, "pass"),
        ("tail_sum", None, "fail"),
        (VariantFailure("crash", "num_axes() <= 4"), None, "crash"),
    ],
)
def test_verdict_on_what_was_claimed(
    answered: str | VariantFailure, expectation: Expectation | None, verdict: str
) -> None:
    """A claim is no excuse: only the very refusal, or the very layer, announced is right."""
    said = answer(answered) if isinstance(answered, str) else answered
    record = judge(with_stub(Stub(said, expectation)), "stub", by_name("base"))
    assert record.verdict == verdict
    assert bool(record.findings) == (verdict not in ("pass", "refused"))


@pytest.mark.parametrize(
    ("answered", "code"),
    [
        ("tail_sum", "forward-value"),
        (VariantFailure("crash", "signal SIGSEGV"), "crash"),
        (VariantFailure("hang", "no answer"), "hang"),
    ],
)
def test_verdict_that_disagrees_fails_the_test(answered: str | VariantFailure, code: str) -> None:
    """What is wrong, crashed or hung is never a test that passed."""
    said = answer(answered) if isinstance(answered, str) else answered
    with pytest.raises(pytest.fail.Exception, match=f"^{code}: "):
        Comparison(with_stub(Stub(said)), "stub", by_name("base")).check()


def test_verdict_on_what_nothing_is_proved_of() -> None:
    """A right answer whose bound is wider than its values is unproven: zeros would agree, too."""
    right_one = answer("channel_sum")
    wide: dict[str, Array64] = {
        name: 2 * np.abs(each.astype(float))
        for name, each in right_one.tensors["first"].items()
        if each is not None
    }
    layer = replace(with_stub(Stub(right_one)), bound=lambda case, inputs: Bound(wide, wide))
    record = judge(layer, "stub", by_name("base"))
    assert record.verdict == "unproven"
    assert {each.tensor for each in record.findings} == set(wide)


def test_verdict_on_an_empty_tensor_of_another_shape() -> None:
    """No element is wrong where there is none, and yet the shape is."""
    dx1 = GRADIENT + "x1"
    bound = {dx1: np.zeros((0, 3))}
    expected = Expected({dx1: np.zeros((0, 3))}, Bound(bound, bound))
    assert not compare(dx1, np.zeros((0, 2), np.float32), expected).agrees


OURS = FORMULAS["channel_sum"]
THEIRS = Layer("theirs", OURS.reference, {"x1": (4, 3, 5, 6), "x2": (4, 3, 5, 6)})
BOTH = {"of the suite": (OURS, by_name("base")), "of a user": (THEIRS, THEIRS.case(0))}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("ignores-top-diff", "gradient:x1"),
        ("unwritten-diff:x1", "gradient:x1"),
        ("accumulates-diff:x1", "gradient:x1"),
    ],
)
def test_verdict_names_each_of_two_mistakes(first: str, second: str) -> None:
    """A gradient of the wrong sign is told as well, whatever else is wrong with it."""
    answered = right(*BOTH["of a user"])
    dx1 = GRADIENT + "x1"
    spoilt: dict[str, dict[str, Array32 | None]] = {}
    for each in answered.plan.passes:
        if each.expected is None:
            continue
        weighed = "first" if first == "ignores-top-diff" else each.name
        value = -answered.passes[weighed][dx1]
        if first == "unwritten-diff:x1":
            value[0, 0] = each.poison
        elif first == "accumulates-diff:x1":
            value = value + np.float32(each.poison)
        spoilt[each.name] = {dx1: value}
    assert {each.code for each in answered.judged(**spoilt).findings} == {first, second}


LAYER = """
import numpy as np
from summed_euclidean_loss import SummedEuclideanLossLayer as Good


class {name}(Good):
{body}
"""

REMEMBERS = {
    "NeverShrinks": """
    def forward(self, bottom, top):  # a buffer that grows with the batch and is summed as a whole
        Good.forward(self, bottom, top)
        squares = np.square(self.d, dtype=np.float64).reshape(len(self.d), -1)
        kept = getattr(self, "kept", squares)
        self.kept = squares if len(squares) >= len(kept) else kept
        self.kept[: len(squares)] = squares
        top[0].data[...] = self.kept.sum() / (2 * bottom[0].shape[0])
""",
    "DividesByItsFirstBatch": """
    def forward(self, bottom, top):
        Good.forward(self, bottom, top)
        self.samples = getattr(self, "samples", bottom[0].shape[0])
        top[0].data[...] *= np.float32(bottom[0].shape[0]) / np.float32(self.samples)
""",
    "AnewForAnotherShapeOnly": """
    def forward(self, bottom, top):
        Good.forward(self, bottom, top)
        if getattr(self, "shape", None) != bottom[0].data.shape:
            self.shape, self.kept = bottom[0].data.shape, top[0].data.copy()
        top[0].data[...] = self.kept
""",
}
"""Layers whose loss is right until they have seen another batch."""

FIXES_ITS_BATCH = """
    def reshape(self, bottom, top):
        self.samples = getattr(self, "samples", bottom[0].shape[0])
        if bottom[0].shape[0] != self.samples:
            raise Exception("made for another batch")
        Good.reshape(self, bottom, top)
"""

OVERWRITES = """
    def {when}(self, *blobs):
        Good.{when}(self, *blobs)
        bottom = blobs[{place}]
        bottom[0].data[...] += 1
"""


def net_of(folder: Path, name: str, body: str) -> CaffeNet:
    """Such a layer in a net like any other of channel_sum."""
    (folder / f"{name.lower()}.py").write_text(LAYER.format(name=name, body=body))
    text = (NETS / "channel_sum_python.prototxt").read_text()
    text = text.replace('"summed_euclidean_loss"', f'"{name.lower()}"')
    text = text.replace('"SummedEuclideanLossLayer"', f'"{name}"')
    return CaffeNet(lambda case: text, path=(str(PYTHON_LAYERS), str(folder)))


@pytest.mark.parametrize("whose", BOTH)
@pytest.mark.parametrize("name", REMEMBERS)
def test_verdict_on_what_another_batch_leaves_behind(
    caffe: Caffe, tmp_path: Path, name: str, whose: str
) -> None:
    """A layer that is wrong only after another batch is found, in its loss alone."""
    layer, case = BOTH[whose]
    layer = replace(layer, variants={name: net_of(tmp_path, name, REMEMBERS[name])})
    record = judge(layer, name, case)
    [found] = record.findings
    assert (found.code, found.tensor) == ("stale-state", "loss")
    assert [tensor for tensor, each in record.tensors.items() if each.wrong] == ["loss"]


def test_verdict_on_a_net_that_fixes_its_batch(caffe: Caffe, tmp_path: Path) -> None:
    """Where it need not take another one, that is to be known, and no more."""
    net = net_of(tmp_path, "FixesItsBatch", FIXES_ITS_BATCH)
    theirs, ours = (
        judge(replace(layer, variants={"fixed": net}), "fixed", case)
        for layer, case in (BOTH["of a user"], BOTH["of the suite"])
    )
    assert (theirs.verdict, ours.verdict) == ("pass", "crash")
    [note] = theirs.notes
    assert note.code == "other-batch"
    assert "made for another batch" in note.words


def test_verdict_on_a_gradient_at_weight_0(caffe: Caffe, tmp_path: Path) -> None:
    """Caffe runs no backward there; a diff that is written all the same is wrong."""
    verdicts = []
    for name, line in (("WritesEarly", "blobs[0][0].diff[...] = 1"), ("WritesNothing", "pass")):
        body = f"""
    def forward(self, *blobs):
        Good.forward(self, *blobs)
        {line}
"""
        layer = replace(OURS, variants={name: net_of(tmp_path, name, body)})
        verdicts.append(judge(layer, name, by_name("weight-0")).verdict)
    assert verdicts == ["fail", "pass"]


@pytest.mark.parametrize(("when", "place"), [("forward", 0), ("backward", 2)])
def test_verdict_says_when_a_bottom_was_overwritten(
    caffe: Caffe, tmp_path: Path, when: str, place: int
) -> None:
    """The next layer that reads it is wrong after a forward, the next backward after a backward."""
    name = f"Overwrites{when}"
    net = net_of(tmp_path, name, OVERWRITES.format(when=when, place=place))
    record = judge(replace(OURS, variants={name: net}), name, by_name("base"))
    [found] = record.findings
    assert found.words == f"the {when} overwrites its own bottom x1"


def test_a_gradient_that_is_missing_is_not_one_that_ignores_the_top_diff() -> None:
    """Where a second consumer adds its share, what is left of the layer's own gradient is 0."""
    layer = Layer("half", lambda x: (x**2).sum() / 2, {"x": (2, 3)})
    answered = right(layer, layer.case(SPLIT))
    share = {GRADIENT + "x": np.full((2, 3), SHARED_GRADIENT, np.float32)}
    found = answered.judged(**dict.fromkeys(answered.compared, share))
    assert [(each.code, each.cause) for each in found.findings] == [("gradient:x", "zero")]


@dataclass
class Seldom(Stub):
    """A variant that gives another result once, in a later pass than the first."""

    calls: int = 0

    def observe(self, plan: Plan) -> Observation:
        self.calls += 1
        seen = answer("channel_sum")
        if self.calls == 1:
            seen.tensors["reshaped"] = {
                name: None if each is None else 2 * each
                for name, each in seen.tensors["reshaped"].items()
            }
        return seen


def test_a_random_number_that_shows_in_a_later_pass_is_told_from_memory() -> None:
    """What a fresh net does not give again is not deterministic, whichever pass shows it."""
    record = judge(with_stub(Seldom(Observation())), "stub", by_name("base"))
    assert [each.code for each in record.findings] == ["not-deterministic"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "refused"}, "needs text=..., what the refusal must say"),
        ({"kind": "refused", "text": " "}, "needs text"),
        ({"kind": "as-layer"}, "needs layer=..., the layer that it computes"),
        ({"kind": "as_layer", "layer": "tail_sum"}, "is refused or as-layer, not 'as_layer'"),
    ],
)
def test_expectation_that_anything_would_fulfil_is_refused(
    fields: dict[str, str], words: str
) -> None:
    """Any crash says "", so that a refusal without a text would be seen in each of them."""
    with pytest.raises(BadRequest, match=re.escape(words)):
        Expectation(reason="-", **fields)
