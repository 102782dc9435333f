"""Runs one variant on one case and says what is wrong: from the plan to the record."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from caffe_parity.contract import (
    GRADIENT,
    Agreement,
    BadRequest,
    Case,
    Expectation,
    Expected,
    Finding,
    Observation,
    Plan,
    Structure,
    Tensors,
    Variant,
    VariantFailure,
    spoken,
)
from caffe_parity.engine.compare import wrong
from caffe_parity.engine.differences import misfits, rounds_to_float32
from caffe_parity.engine.expected import Question, question
from caffe_parity.engine.functions import Evaluation, Function, with_params
from caffe_parity.engine.plan import FIRST, fresh, planned
from caffe_parity.engine.port import Port
from caffe_parity.engine.random_rounding import RUNS, as_inputs
from caffe_parity.engine.structure import structure_of, tops_of_reference
from caffe_parity.engine.verdict import Judged, agreement_words, judged
from caffe_parity.layer import Layer
from caffe_parity.progress import PROGRESS
from caffe_parity.report.bits import Kept, keep
from caffe_parity.report.record import Record

if TYPE_CHECKING:  # it needs Linux; ports are judged elsewhere, too
    from caffe_parity.engine.caffe_net import CaffeNet


def variant_of(layer: Layer, name: str) -> Variant:
    """A layer's variant of that name; a function or a module is a port."""
    given: Any = layer.variants[name]
    return given if hasattr(given, "observe") else Port(given)


@dataclass(frozen=True)
class Planned:
    """A variant on a case, ready to be observed.

    Attributes:
        layer, name, variant, case: what is compared.
        plan: what is asked of the variant.
        question: what it must give.
    """

    layer: Layer
    name: str
    variant: Variant
    case: Case
    plan: Plan
    question: Question


def plan_of(
    layer: Layer, name: str, case: Case, structure: Structure | None = None, runs: int = RUNS
) -> Planned:
    """What will be asked of a variant, and what is expected of it.

    Args:
        layer: what is computed.
        name: of the variant.
        case: its inputs.
        structure: of the variant, where it is known already.
        runs: how many times the reference is rounded.

    Raises:
        BadRequest: it cannot be compared.
        VariantFailure: Caffe cannot build its net.
        NoCaffe, InstallError: there is no Caffe.
    """
    variant = fitted(layer, variant_of(layer, name))
    structure = structure or seen_from_outside(layer, variant, case)
    if case.first in structure.in_place:  # what a second consumer would read is another blob
        case = replace(case, sharing="none")
    asked = question(layer, case, structure, runs)
    plan = planned(layer, case, structure, asked.upstreams, asked.inputs)
    return Planned(layer, name, variant, case, plan, asked)


def fitted(layer: Layer, variant: Variant) -> Variant:
    """The variant; a Python layer alone gets as many tops as the reference returns.

    Where the reference takes parameters, they are those of the layer with one top.

    Raises:
        BadRequest: the reference cannot be evaluated.
        VariantFailure, NoCaffe, InstallError: it takes parameters, and the layer cannot be built.
    """
    if getattr(variant, "with_tops", None) is None:
        return variant
    net: CaffeNet = variant  # type: ignore[assignment]
    assert net.with_tops is not None
    return replace(net, text=net.with_tops(_tops(layer, net)), with_tops=None)


@lru_cache(maxsize=8)
def _tops(layer: Layer, variant: CaffeNet) -> tuple[str, ...]:
    case = layer.all_cases()[0]
    outline = None
    if layer.arguments:
        try:
            outline = variant.outline(case, True)
        except VariantFailure as failure:
            words = "it was built with one top, to see its parameters: name its tops (--top NAME)"
            raise VariantFailure(
                failure.verdict, f"{failure.message}; {words}", failure.output
            ) from failure
    return tops_of_reference(layer, case, outline)


def seen_from_outside(layer: Layer, variant: Variant, case: Case) -> Structure:
    """What is compared of a variant; of a port with parameters, what is of the layer's first net.

    Raises:
        BadRequest, VariantFailure, NoCaffe, InstallError: as `plan_of`.
    """
    own = variant.outline(case, bool(layer.arguments))
    if own is None and layer.arguments:
        nets = (each for each in layer.variants.values() if hasattr(each, "outline"))
        outlines = (each.outline(case, True) for each in nets)
        own = next((each for each in outlines if each is not None), None)
    return structure_of(layer, case, own)


def judge(layer: Layer, name: str, case: Case, structure: Structure | None = None) -> Record:
    """Runs a variant over a case and holds every tensor of every pass against the reference.

    The arguments are those of `plan_of`.

    Raises:
        BadRequest: it cannot be compared.
        NoCaffe, InstallError: there is no Caffe to run it in.
    """
    ready = ready_or_not(layer, name, case, structure)
    return ready if isinstance(ready, Record) else judged_anew(ready)


def ready_or_not(
    layer: Layer, name: str, case: Case, structure: Structure | None = None
) -> Planned | Record:
    """What will be asked of a variant, or the record of one that cannot be asked at all.

    Arguments and errors are those of `judge`.
    """
    variant = variant_of(layer, name)
    obstacle = variant.cannot_run()
    about = Record(layer.name, name, case.name, "not run", obstacle or "nothing was judged")
    if obstacle:
        return about
    try:
        return plan_of(layer, name, case, structure)
    except VariantFailure as failure:
        return _failed(about, failure, variant.expects(case))


def judged_anew(ready: Planned) -> Record:
    """Runs what is planned, as often as it is wanted, and judges it.

    Raises:
        BadRequest, NoCaffe, InstallError: as `judge`.
    """
    seen, seconds = observed(ready)
    return replace(record_of(ready, seen), seconds=seconds)


def observed(ready: Planned) -> tuple[Observation | VariantFailure, float]:
    """What a variant did, or how it failed, and the seconds that it took.

    Raises:
        BadRequest, NoCaffe, InstallError: as `judge`.
    """
    PROGRESS.tell(f"running {ready.name}")
    start = time.perf_counter()
    seen: Observation | VariantFailure
    try:
        seen = ready.variant.observe(ready.plan)
    except VariantFailure as failure:
        seen = failure
    return seen, time.perf_counter() - start


def record_of(ready: Planned, seen: Observation | VariantFailure) -> Record:
    """Judges what was observed; the same can be judged by other questions as well.

    Raises:
        BadRequest: the reference cannot be evaluated.
    """
    layer, case = ready.layer, ready.case
    inputs = [ready.question.inputs[each] for each in (*case.fed, *_params(ready.plan))]
    about = Record(
        layer.name,
        ready.name,
        case.name,
        "fail",
        "nothing was judged",
        elements=sum(each.size for each in inputs),
        inputs=ready.question.digest,
    )
    expectation = ready.variant.expects(case)
    if isinstance(seen, VariantFailure):
        return _failed(about, seen, expectation)
    about = replace(about, computed=_computed(ready.plan, ready.question, seen))
    if expectation is None:
        return _compared(about, ready, seen)
    if expectation.kind == "refused":
        reason = f"it must refuse, since {expectation.reason}; it computed a result"
        return replace(about, reason=reason, findings=[Finding("not-refused", reason)])
    return _predicted(about, ready, seen, expectation)


def _params(plan: Plan) -> list[str]:
    return [each.name for each in plan.structure.params]


def _computed(plan: Plan, asked: Question, seen: Observation) -> dict[str, tuple[Kept, ...]]:
    """What is kept of each tensor that at least one compared pass computed."""
    names = [each.name for each in plan.passes if each.expected is not None]
    passes = [name for name in names if name in seen.tensors]
    kept = {
        tensor: keep({name: seen.tensors[name].get(tensor) for name in passes})
        for tensor in asked.expected[0].truth
    }
    return {tensor: each for tensor, each in kept.items() if each}


def _failed(about: Record, failure: VariantFailure, expectation: Expectation | None) -> Record:
    expected = expectation is not None and expectation.kind == "refused"
    if expected and expectation is not None and expectation.text in failure.message:
        reason = f"{expectation.reason} ({failure.message})"
        return replace(about, verdict="refused", reason=reason)
    finding = Finding(failure.verdict, failure.message)
    return replace(
        about,
        verdict=failure.verdict,
        reason=failure.message,
        findings=[finding],
        detail=failure.output.strip(),
    )


def _compared(about: Record, ready: Planned, seen: Observation) -> Record:
    found = judged(ready.layer, ready.plan, ready.question, seen)
    if found.findings and not isinstance(ready.variant, Port):
        _look_again(ready, seen, found)
        makes_data = getattr(ready.variant, "makes_data", lambda case: "")
        if data := makes_data(ready.plan.case):
            found.findings = [
                replace(each, words=f"{each.words}; {data}") if each.code == "stale-state" else each
                for each in found.findings
            ]
    elif found.findings:
        _same_again(ready, seen, found)
    notes, findings = list(found.notes), list(found.findings)
    tensors = found.tensors
    if seen.trouble is not None:
        other = Finding("other-batch", f"it cannot be given another batch: {seen.trouble.message}")
        wrong = ready.layer.reshapes or seen.trouble.verdict == "hang"  # no layer refuses so
        (findings if wrong else notes).append(other)
    of_reference = _of_the_reference(ready, findings)
    if isinstance(ready.variant, Port):
        own, more = _of_its_own(ready)
        findings = [*_as_port(findings), *own]
        notes = [*_as_port(notes), *more]
    notes += of_reference
    if not findings:
        weak = [_unproven(name, each) for name, each in tensors.items() if not each.proves]
        about = replace(about, tensors=tensors, notes=notes, reason="", verdict="pass")
        return (
            about
            if not weak
            else replace(about, verdict="unproven", reason=weak[0].words, findings=weak)
        )
    reason = agreement_words(found.tensors) or findings[0].words
    detail = "\n".join(found.pictures)
    return replace(
        about,
        reason=reason,
        findings=findings,
        notes=notes,
        tensors=tensors,
        detail=detail,
    )


def _unproven(name: str, agreement: Agreement) -> Finding:
    """What a tensor that agrees, and would agree whatever it were, says."""
    what = spoken(name)
    if not agreement.compared:
        why = (
            f"none of the {agreement.size} elements of {what} could be compared (kinks, "
            "overflow, or a bound as large as the value: a saturated layer, cancelling sums)"
        )
    else:
        why = (
            f"of the {agreement.size} elements of {what} {agreement.compared} are 0; each other "
            "has a bound as large as its value (a saturated layer, cancelling sums)"
        )
    return Finding("unproven", f"{why}; give inputs that reach it: --data, --inputs", name)


def _look_again(ready: Planned, seen: Observation, found: Judged) -> None:
    """Tells what is wrong from what changes each time, and from what a pass before changes.

    What is that of the pass before may also be wrong in a way that does not depend on the inputs.
    """
    try:
        again = ready.variant.observe(ready.plan)
        anew = judged(ready.layer, ready.plan, ready.question, again)
        if _changes(ready, seen, again) or anew.codes != found.codes:
            words = (
                "the same inputs on a fresh net give other results: a random number in the layer?"
            )
            if not ready.layer.takes_params:
                words += " Or in a filler of the net, whose parameters the reference does not take?"
            kept = [each for each in found.findings if each.code.startswith("mutates")]
            found.findings = [Finding("not-deterministic", words), *kept]
            return
        plan = fresh(ready.plan)
        without = judged(ready.layer, plan, ready.question, ready.variant.observe(plan))
    except (VariantFailure, BadRequest):
        return
    remaining = without.codes
    hidden = [each for each in without.findings if (each.code, each.tensor) not in found.codes]
    findings: list[Finding] = [*hidden]
    for each in found.findings:
        value = each.code.startswith(("forward-value", GRADIENT))
        if (each.code, each.tensor) in remaining or not (value or each.code == "stale-state"):
            findings.append(each)
        elif each.code != "stale-state":
            words = "right on a fresh net, wrong after a pass with other inputs"
            words = f"{words} ({each.code}: {each.words})"
            findings.append(Finding("stale-state", words, each.tensor))
        elif not hidden:
            findings.append(each)
    found.findings = findings


def _same_again(ready: Planned, seen: Observation, found: Judged) -> None:
    """Tells a port that draws random numbers from one that is wrong; what it keeps is told so."""
    if any(each.code == "stale-state" for each in found.findings):
        return
    try:
        again = ready.variant.observe(ready.plan)
    except (VariantFailure, BadRequest):
        return
    if _changes(ready, seen, again):
        words = (
            "the same inputs give other results: a random number, or what it keeps between calls?"
        )
        kept = [each for each in found.findings if each.code.startswith("mutates")]
        found.findings = [Finding("not-deterministic", words), *kept]


def _changes(ready: Planned, seen: Observation, again: Observation) -> bool:
    """Whether a pass differs by more than rounding from the same one on a fresh net.

    Not the first pass alone: a layer that seldom draws a number shows it in one of several.
    """
    for each in ready.plan.passes:
        if each.expected is None or each.adds_up or each.name not in seen.tensors:
            continue
        expected = ready.question.expected[each.expected]
        if _differs(expected, seen.tensors[each.name], again.tensors.get(each.name, {})):
            return True
    return False


def _differs(expected: Expected, seen: Tensors, again: Tensors) -> bool:
    for tensor in expected.truth:
        one, another = seen.get(tensor), again.get(tensor)
        if one is None or another is None or one.shape != another.shape:
            if one is not another:
                return True
            continue
        if one.size != expected.truth[tensor].size:
            continue
        truth = {tensor: another.astype(np.float64).reshape(expected.truth[tensor].shape)}
        if np.any(wrong(tensor, one, replace(expected, truth=truth))):
            return True
    return False


def _as_port(findings: Sequence[Finding]) -> list[Finding]:
    """The findings with the codes of a port."""
    names = {"forward-value": "port-forward"}
    return [
        replace(
            each,
            code=names.get(each.code, f"port-{each.code}"),
            words=f"in the port, {each.words}",
        )
        for each in findings
    ]


def _of_its_own(ready: Planned) -> tuple[list[Finding], list[Finding]]:
    """Findings: where a port's backward is not its forward's gradient; and notes on that question.

    It is asked where the reference's gradient is that of its own value, and no input is shared.
    """
    variant, plan = ready.variant, ready.plan
    assert isinstance(variant, Port)
    if not variant.gradcheck or ready.case.sharing != "none" or not plan.differentiated:
        return [], []
    function = variant.function
    inputs = as_inputs(ready.question.inputs)
    try:
        if isinstance(function, torch.nn.Module):  # its parameters and buffers must be float64, too
            function = copy.deepcopy(function).double()
        port = _evaluation(plan, function, "port")
        if rounds_to_float32(port, inputs):
            words = "the port rounds to float32 in float64, too, so that differences of its own "
            words += "forward say nothing: its backward is held against the reference's alone"
            return [], [Finding("port-float32", words)]
        off = misfits(port, inputs)
        off = off and [e for e in off if e not in _deliberate(ready)]
    except (RuntimeError, ValueError, BadRequest):
        return [], []  # no float64, or nothing that can be differentiated: nothing was shown
    words = "central differences refuse the port: its backward is not its own forward's gradient"
    return [Finding(f"port-{GRADIENT}{each}", words, GRADIENT + each) for each in off], []


def _deliberate(ready: Planned) -> list[str]:
    """The inputs whose gradient in the reference is not that of its own value.

    Raises:
        BadRequest, RuntimeError: it cannot be evaluated, or not differentiated.
    """
    reference = _evaluation(ready.plan, ready.layer.reference, "reference")
    return misfits(reference, as_inputs(ready.question.inputs))


def _evaluation(plan: Plan, function: Function, what: str) -> Evaluation:
    call = with_params(function, plan.structure.params, what)
    return Evaluation(call, what, plan.case, plan.structure.outputs, plan.differentiated)


def _of_the_reference(ready: Planned, findings: Sequence[Finding]) -> list[Finding]:
    """A note on each wrong gradient of which the reference's own is not that of its value."""
    wrong_ones = {each.tensor for each in findings if each.tensor.startswith(GRADIENT)}
    if not wrong_ones or ready.case.sharing != "none":
        return []
    try:
        odd = [each for each in _deliberate(ready) if GRADIENT + each in wrong_ones]
    except (RuntimeError, ValueError, BadRequest):
        return []
    words = (
        "the reference's own gradient of {} is not that of its value (a detach(), no_grad(), .data "
        "or NumPy in it, or an autograd.Function of its own): is it the reference that is wrong?"
    )
    return [Finding("reference-gradient", words.format(each), GRADIENT + each) for each in odd]


def _predicted(
    about: Record, ready: Planned, seen: Observation, expectation: Expectation
) -> Record:
    """It must compute another layer, to that layer's bound, wherever the two differ."""
    [other] = [each for each in ready.layer.mistaken_for() if each.name == expectation.layer]
    asked = question(other, ready.case, ready.plan.structure)
    found = _compared(about, replace(ready, layer=other, question=asked), seen)
    if found.wrong:
        return found
    own = judged(ready.layer, ready.plan, ready.question, seen, why=False)
    if not own.findings:
        return found
    [loss] = ready.plan.structure.outputs
    value = seen.tensors[FIRST][loss]
    assert value is not None
    reason = (
        f"{expectation.reason}: loss {float(value.sum()):.6g}, as {expectation.layer} predicts; "
        f"{ready.layer.name} is {float(ready.question.expected[0].truth[loss]):.6g}"
    )
    return replace(found, verdict="refused", reason=reason, findings=[])
