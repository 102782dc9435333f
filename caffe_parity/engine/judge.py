"""Runs one variant over one case and gives the verdict."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from caffe_parity.contract import (
    TENSORS,
    Bound,
    Case,
    Expectation,
    Inputs,
    Layer,
    Result,
    Run,
    Variant,
    VariantFailure,
)
from caffe_parity.engine.compare import Agreement, Comparison, compare_run
from caffe_parity.engine.explain import Explanation, Failure, explain, picture
from caffe_parity.report.bits import Kept, digest, keep
from reference import fills
from reference.layers import LAYERS

AGREEING = ("pass", "refused", "not run")


@dataclass(frozen=True)
class Outcome:
    """The verdict on one variant and one case.

    Attributes:
        verdict: "pass", "fail", "crash", "hang", "refused" (as expected) or "not run".
        reason: why, in a sentence; "" for a pass.
        seconds: how long the variant took.
        tensors: the worst agreement of each tensor, by name.
        explanations: what each tensor's failure means.
        detail: what was printed, or a picture of the error; may have many lines.
        size: elements of both inputs.
        inputs: the digest of both; "" where nothing ran.
        computed: what is kept of each tensor that was computed, by name.
    """

    layer: str
    variant: str
    case: str
    verdict: str
    reason: str = ""
    seconds: float = 0.0
    tensors: Mapping[str, Agreement] = field(default_factory=dict)
    explanations: Mapping[str, Explanation] = field(default_factory=dict)
    detail: str = ""
    size: int = 0
    inputs: str = ""
    computed: Mapping[str, tuple[Kept, ...]] = field(default_factory=dict)

    @property
    def agrees(self) -> bool:
        """Whether nothing is wrong: it passed, was refused as expected, or did not run."""
        return self.verdict in AGREEING


@dataclass(frozen=True)
class Prepared:
    """What every variant of a case shares."""

    inputs: Inputs
    other: Inputs
    larger: Inputs
    truth: Result
    bound: Bound

    @cached_property
    def digest(self) -> str:
        """Of the bits of both inputs."""
        return digest(self.inputs.x1, self.inputs.x2)


@lru_cache(maxsize=2)  # the arrays of one case can be large; its variants run one after another
def prepared(layer: str, case: Case) -> Prepared:
    """The inputs, the truth and the bound of a case."""
    inputs = fills.inputs(case)
    return Prepared(
        inputs,
        fills.other_inputs(case),
        fills.other_inputs(case, extra_samples=1),
        LAYERS[layer].evaluate(case, inputs),
        LAYERS[layer].bound(case, inputs),
    )


def judge(variant: Variant, case: Case) -> Outcome:
    """Runs a variant over a case and holds every tensor of every pass against the reference.

    Raises:
        NoCaffe, InstallError: there is no Caffe to run it in.
    """
    about: dict[str, Any] = {"layer": variant.layer, "variant": variant.name, "case": case.name}
    obstacle = variant.cannot_run()
    if obstacle:
        return Outcome(**about, verdict="not run", reason=obstacle)
    data = prepared(variant.layer, case)
    about["size"] = data.inputs.x1.size + data.inputs.x2.size
    about["inputs"] = data.digest
    expectation = variant.expects(case)
    start = time.perf_counter()
    try:
        run = variant.run(case, data.inputs, data.other, data.larger)
    except VariantFailure as failure:
        about["seconds"] = time.perf_counter() - start
        return _failed(about, failure, expectation)
    about["seconds"] = time.perf_counter() - start
    about["computed"] = _kept(run)
    if expectation is None:
        return compared(about, LAYERS[variant.layer], case, data, run)
    if expectation.kind == "refused":
        reason = f"it must refuse, since {expectation.reason}; it computed a result"
        return Outcome(**about, verdict="fail", reason=reason)
    return _predicted(about, variant, case, data, run, expectation)


def _kept(run: Run) -> dict[str, tuple[Kept, ...]]:
    """What is kept of each tensor that at least one pass computed."""
    kept = {
        name: keep({each.name: each.result.tensors()[name] for each in run.passes})
        for name in TENSORS
    }
    return {name: each for name, each in kept.items() if each}


def _failed(
    about: dict[str, Any], failure: VariantFailure, expectation: Expectation | None
) -> Outcome:
    expected = expectation is not None and expectation.kind == "refused"
    if expected and expectation is not None and expectation.text in failure.message:
        reason = f"{expectation.reason} ({failure.message})"
        return Outcome(**about, verdict="refused", reason=reason)
    return Outcome(
        **about, verdict=failure.verdict, reason=failure.message, detail=failure.output.strip()
    )


def compared(about: dict[str, Any], layer: Layer, case: Case, data: Prepared, run: Run) -> Outcome:
    """Holds a run against the truth and the bound in `data`; explains what disagrees.

    Args:
        about: the fields of the outcome that are known already.
        layer: what is computed.
        case: on what.
        data: its inputs, and what is expected.
        run: what was computed.
    """
    comparisons = compare_run(case, run, data.truth, data.bound)
    tensors = {name: each.worst for name, each in comparisons.items()}
    wrong = {name: each for name, each in comparisons.items() if each.failed_pass}
    if not wrong:
        return Outcome(**about, verdict="pass", tensors=tensors)
    explanations = {}
    pictures = []
    for name, each in wrong.items():
        failure = _failure(name, each, layer, case, data, run)
        explanations[name] = explain(failure)
        pictures.append(picture(failure))
    reason = "; ".join(f"{name}: {_in_words(tensors[name])}" for name in wrong)
    return Outcome(
        **about,
        verdict="fail",
        reason=reason,
        tensors=tensors,
        explanations=explanations,
        detail="\n".join(text for text in pictures if text),
    )


def _failure(
    name: str, comparison: Comparison, layer: Layer, case: Case, data: Prepared, run: Run
) -> Failure:
    expected = data.truth.tensors()[name]
    assert expected is not None
    return Failure(
        tensor=name,
        layer=layer.name,
        case=case,
        inputs=data.inputs,
        expected=expected.astype(np.float64),
        bound=data.bound.worst[name],
        passes={each.name: each.result.tensors()[name] for each in run.passes},
        poisons={each.name: each.poison for each in run.passes},
        failed_pass=comparison.failed_pass or "",
        before=run.before.tensors()[name] if run.before else None,
    )


def _in_words(agreement: Agreement) -> str:
    if agreement.note:
        return agreement.note
    place = list(agreement.worst_index)
    where = f" at {place}" if place else ""
    return (
        f"{agreement.wrong} of {agreement.size} beyond the bound, worst{where}: "
        f"{agreement.actual:.9g}, expected {agreement.expected:.9g}"
    )


def _predicted(
    about: dict[str, Any],
    variant: Variant,
    case: Case,
    data: Prepared,
    run: Run,
    expectation: Expectation,
) -> Outcome:
    """It must compute another layer, to that layer's bound, wherever the two differ."""
    other = prepared(expectation.layer, case)
    outcome = compared(about, LAYERS[expectation.layer], case, other, run)
    if outcome.verdict != "pass":
        return outcome
    own = compare_run(case, run, data.truth, data.bound)
    if all(each.worst.agrees for each in own.values()):
        return Outcome(**about, verdict="pass", tensors=outcome.tensors)
    loss, wanted = float(run.passes[0].result.loss), float(data.truth.loss)
    reason = (
        f"{expectation.reason}: loss {loss:.6g}, as {expectation.layer} predicts; "
        f"{variant.layer} is {wanted:.6g}"
    )
    return Outcome(**about, verdict="refused", reason=reason, tensors=outcome.tensors)
