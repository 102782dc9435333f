"""A lie that shows in one place alone, one row, one variant, one element, one pass, one step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from caffe_parity import Case
from caffe_parity.contract import GRADIENT, Array32, BadRequest, Observation, Plan
from caffe_parity.report.record import read
from caffe_parity.training.divergence import against
from caffe_parity.training.recipe import LOSS, train
from caffe_parity.training.truth import Truth, truth_of
from parity_tests import training_nets
from parity_tests.recorded import __main__ as command
from parity_tests.recorded import corpus, record
from parity_tests.recorded.corpus import TENSORS, Corpus, Recording
from reference.cases import by_name, case_of
from reference.layers import LAYERS
from torch_impl.module import SummedEuclideanLoss

FEW = ("base", "weight-3.7", "exact", "odd")


@pytest.fixture(scope="module")
def whole() -> Corpus:
    """The corpus with a few cases."""
    every = corpus.load()
    recordings = tuple(each for each in every.recordings if each.case in FEW)
    used = {key for each in recordings for key in each.digests.values() if key}
    return replace(
        every,
        cases={name: each for name, each in every.cases.items() if name in FEW},
        recordings=recordings,
        tensors={key: each for key, each in every.tensors.items() if key in used},
    )


def with_lie(whole: Corpus, about: Recording, tensor: str, place: int) -> Corpus:
    """The corpus with another number in one tensor of one recording, its digest corrected."""
    digest = about.digests[tensor]
    assert digest is not None
    changed = whole.tensors[digest].copy()
    value = changed.reshape(-1)[place]
    changed.reshape(-1)[place] = value + np.float32(2.0**-4) * (1 + np.abs(value))
    key = corpus.digest(changed)
    lying = replace(about, digests={**about.digests, tensor: key})
    recordings = tuple(lying if each is about else each for each in whole.recordings)
    return replace(whole, tensors={**whole.tensors, key: changed}, recordings=recordings)


def lies() -> list[tuple[int, str, int]]:
    """Of every layer and variant one, in changing cases, tensors and places."""
    every = corpus.load()
    variants = dict.fromkeys((each.layer, each.variant) for each in every.recordings)
    return [(number, TENSORS[number % 3], (0, -1)[number % 2]) for number in range(len(variants))]


@pytest.mark.parametrize(("number", "tensor", "place"), lies())
def test_one_number_of_one_recording_is_found(
    whole: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    tensor: str,
    place: int,
) -> None:
    """In that row, and where ports are held against it; all other rows agree."""
    monkeypatch.setenv("PATH", "")  # no compiler: torch.compile takes its time
    variants = list(dict.fromkeys((each.layer, each.variant) for each in whole.recordings))
    layer, variant = variants[number]
    of_it = [each for each in whole.recordings if (each.layer, each.variant) == (layer, variant)]
    computed = [each for each in of_it if not each.refusal]
    about = computed[number % len(computed)]
    case = about.case
    corpus.write(with_lie(whole, about, tensor, place), tmp_path / "corpus")
    options = ["--corpus", str(tmp_path / "corpus"), "--layer", layer, "--case", case]
    assert command.main([*options, "--json", str(tmp_path / "found.json")]) == 1
    found = read(tmp_path / "found.json")
    off = {each.variant for each in found.results if not each.agrees}
    claims = about.expectation is not None  # what computes another layer is no truth for a port
    beside = {"torch-module-vs-caffe", "torch-function-vs-caffe"} if not claims else set()
    assert off == {variant, *beside}
    [own] = (each for each in found.results if each.variant == variant)
    assert [name for name, each in own.tensors.items() if each.wrong] == [tensor]
    assert own.tensors[tensor].wrong == 1


@dataclass(frozen=True)
class Lying:
    """A variant that is right but for one tensor of one pass."""

    pass_name: str
    tensor: str

    def expects(self, case: Case) -> None:
        return None

    def cannot_run(self) -> None:
        return None

    def outline(self, case: Case, with_params: bool) -> None:
        return None

    def observe(self, plan: Plan) -> Observation:
        tensors: dict[str, dict[str, Array32 | None]] = {}
        for each in plan.passes:
            tensors[each.name] = {name: np.ones((4, 3, 5, 6), np.float32) for name in TENSORS}
            tensors[each.name]["loss"] = np.ones((), np.float32)
            if each.name == self.pass_name:
                value = tensors[each.name][self.tensor]
                assert value is not None
                value.reshape(-1)[-1] = np.nextafter(np.float32(1), np.float32(2))
        return Observation(dict(tensors))


@pytest.mark.parametrize("tensor", TENSORS)
@pytest.mark.parametrize("name", ["first", "second", "reshaped"])
def test_one_bit_of_one_pass_is_not_recorded(
    monkeypatch: pytest.MonkeyPatch, name: str, tensor: str
) -> None:
    """The corpus has one result for all passes; where one differs, there is none."""
    monkeypatch.setattr(record, "environment", lambda: {"device": "cpu", "gpu": None})
    for lying, words in (
        (name, f"{tensor.replace(GRADIENT, 'gradient:')} has other bits"),
        ("", ""),
    ):
        variants = {"euclidean": {"caffe-lying": Lying(lying, tensor)}}
        monkeypatch.setattr(record, "caffe_variants", lambda variants=variants: variants)
        if words:
            with pytest.raises(BadRequest, match=words):
                record.record([by_name("base")])
        else:
            assert len(record.record([by_name("base")]).recordings) == 1


CASE = case_of("training", (4, 3, 2, 3), (4, 5, 2, 3), loss_weight=2.5, seed=0)
STEPS = 6


@pytest.fixture(scope="module")
def truth() -> Truth:
    """A short training of the channel sum."""
    recipe = training_nets.recipe(LAYERS["channel_sum"].reference, CASE)
    return truth_of(recipe, training_nets.initial(CASE), training_nets.batches(CASE, STEPS))


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_one_number_of_one_step_is_found(truth: Truth, step: int) -> None:
    """Whichever parameter, at whichever step, the last among them; one alone, three bounds off."""
    recipe = training_nets.recipe(SummedEuclideanLoss("channel"), CASE)
    seen = train(recipe, truth.initial, truth.batches, torch.float32)
    assert against(truth, seen).first_divergent is None
    for name in truth.expected[step - 1].truth:
        changed: list[dict[str, Any]] = [dict(state) for state in seen]
        value = np.array(changed[step - 1][name], np.float64)
        value.reshape(-1)[-1] += 3 * np.asarray(truth.expected[step - 1].bound.worst[name]).flat[-1]
        changed[step - 1][name] = value
        found = against(truth, changed)
        first = found.first_divergent
        assert first is not None, name
        assert (first.step, first.name, first.agreement.wrong) == (step, name, 1)
        assert f"diverges at step {step} of {STEPS} in {name}" in str(found)
        assert found.largest > 1


def at_the_last_step(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    """The channel sum's loss, which is another in the last step alone."""
    calls = [0]
    good = SummedEuclideanLoss("channel")

    def loss(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        made: torch.Tensor = good(x1=x1, x2=x2)
        return change(made) if calls[0] == STEPS else made

    return loss


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda loss: loss + 1e-3, LOSS),
        (lambda loss: loss + 1e-3 * (loss - loss.detach()), "learned1[0]"),
    ],
    ids=["value", "gradient"],
)
def test_a_loss_that_is_wrong_in_the_last_step_alone(
    truth: Truth, change: Callable[[torch.Tensor], torch.Tensor], name: str
) -> None:
    """Its value, or the gradient by a thousandth: what that step learned is off."""
    recipe = training_nets.recipe(at_the_last_step(change), CASE)
    found = against(truth, train(recipe, truth.initial, truth.batches, torch.float32))
    assert found.first_divergent is not None
    assert (found.first_divergent.step, found.first_divergent.name) == (STEPS, name)
