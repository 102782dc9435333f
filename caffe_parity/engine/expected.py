"""The truth of a case and its bound: the reference in float64, and how far float32 may be off."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch

from caffe_parity.contract import (
    GRADIENT,
    SHARED_GRADIENT,
    UNIT_ROUNDOFF,
    Array64,
    Arrays,
    BadRequest,
    Bound,
    Case,
    Expected,
    Shape,
    Structure,
)
from caffe_parity.engine import truths
from caffe_parity.engine.functions import Evaluation, Tensors, with_params
from caffe_parity.engine.plan import upstreams
from caffe_parity.engine.random_rounding import (
    RUNS,
    Evaluate,
    Source,
    as_inputs,
    expect,
    other_signs,
)
from caffe_parity.engine.threads import one_thread
from caffe_parity.layer import Layer
from caffe_parity.report.bits import digest


@dataclass(frozen=True)
class Question:
    """What is asked of every variant of a case that is seen alike from outside.

    Attributes:
        inputs: of the case, parameters included.
        digest: of their bits.
        upstreams: the gradients that the tops get, one after the other.
        expected: what each of them must give.
        truth: what the reference gives for other inputs and an upstream gradient, by tensor.
    """

    inputs: Arrays
    digest: str
    upstreams: Sequence[Arrays | None]
    expected: Sequence[Expected]
    truth: Callable[[Arrays, Arrays | None], Mapping[str, Array64]]


def fed(case: Case, arrays: Arrays) -> Arrays:
    """The arrays without the second of a "same-blob" case."""
    return {name: arrays[name] for name in case.fed}


@lru_cache(maxsize=2)  # the arrays of one case can be large; its variants run one after another
def question(layer: Layer, case: Case, structure: Structure, runs: int = RUNS) -> Question:
    """The inputs, the upstream gradients, the truth and the bound of a case.

    Args:
        layer: with the reference.
        case: its inputs.
        structure: what is compared.
        runs: how many times the reference is rounded (`expect`).

    Raises:
        BadRequest: the reference cannot be evaluated.
    """
    params = structure.params
    inputs = {**fed(case, case.arrays(case)), **case.parameters(params, False)}
    function = with_params(layer.reference, params, "reference")
    wanted = (*case.wanted, *(each.name for each in params if each.learned))
    reference = Evaluation(function, "reference", case, structure.outputs, wanted)
    bits = digest(*(inputs[name] for name in (*case.fed, *(each.name for each in params))))
    key = truths.key(layer, case, structure, inputs, bits) if runs == RUNS else ""
    expected = truths.found(key)
    if expected is None:
        with one_thread(max((each.size for each in inputs.values()), default=0)):
            ups, expected = _anew(layer, reference, inputs, structure, runs)
        truths.keep(key, expected)
    else:
        ups = upstreams(case, structure, {k: expected[0].truth[k].shape for k in structure.outputs})
    return Question(inputs, bits, ups, expected, partial(_truth, reference))


def _anew(
    layer: Layer, reference: Evaluation, inputs: Arrays, structure: Structure, runs: int
) -> tuple[list[Arrays | None], list[Expected]]:
    """The upstream gradients, and what the tops and the other gradients must then be."""
    case = reference.case
    shapes: dict[str, Shape] = {}
    if layer.bound is None or case.loss_weight is None:
        tensors = as_inputs(inputs)
        tops = reference.tops(all_inputs(case, tensors))
        if layer.bound is None:
            _must_be_fixed(tops, reference.tops(all_inputs(case, tensors)))
        shapes = {name: tuple(top.shape) for name, top in tops.items()}
    ups = upstreams(case, structure, shapes)
    expected = _expected(layer, reference, inputs, ups, structure, runs)
    gradients = [each for name, each in expected[0].truth.items() if name.startswith(GRADIENT)]
    if gradients and not any(map(np.any, gradients)):
        _must_be_linked(reference, as_inputs(inputs))
    return ups, expected


def _truth(reference: Evaluation, inputs: Arrays, upstream: Arrays | None) -> Mapping[str, Array64]:
    weights = None if upstream is None else as_inputs(upstream)
    return _arrays(reference(as_inputs(inputs), weights))


def all_inputs(case: Case, tensors: Tensors) -> Tensors:
    """With the second input of a "same-blob" case, in the order of the case."""
    return {
        name: tensors[name if name in tensors else case.first] for name in (*case.names, *tensors)
    }


def _expected(
    layer: Layer,
    reference: Evaluation,
    inputs: Arrays,
    ups: Sequence[Arrays | None],
    structure: Structure,
    runs: int,
) -> list[Expected]:
    case = reference.case
    if layer.bound is not None:
        bound = layer.bound(case, _whole(case, inputs))
        [output] = reference.outputs
        renamed = Bound(_named(bound.worst, output), _named(bound.typical, output))
        return [Expected(_truth(reference, inputs, up), renamed) for up in ups]
    fixed = set(inputs) - set(reference.wanted)
    tensors = as_inputs(inputs)

    def rounded(upstream: Arrays | None) -> Expected:
        weights = None if upstream is None else as_inputs(upstream)
        called = partial(_called, reference, weights)
        signed = partial(_signed, reference, weights) if weights else None
        return expect(called, tensors, fixed, structure.running, runs, signed)

    first = rounded(ups[0])
    if not structure.is_loss:
        return [first, *(rounded(up) for up in ups[1:])]
    weights = [float(next(iter(up.values())).flat[0]) for up in ups[1:] if up is not None]
    return [first, *(_scaled(first, weight, case) for weight in weights)]


def _called(
    reference: Evaluation, upstream: Tensors | None, inputs: Tensors
) -> dict[str, torch.Tensor]:
    return reference(inputs, upstream)


def _signed(reference: Evaluation, upstream: Tensors, source: Source) -> Evaluate:
    """The reference for gradients from above of the same size, with random signs."""
    return partial(_called, reference, other_signs(upstream, source))


def _whole(case: Case, inputs: Arrays) -> Arrays:
    return {name: inputs[name if name in inputs else case.first] for name in case.names}


def _named(tensors: object, output: str) -> dict[str, Array64]:
    assert isinstance(tensors, dict)
    return {output if name == "loss" else name: each for name, each in tensors.items()}


def _arrays(tensors: Tensors) -> dict[str, Array64]:
    return {name: np.asarray(each.numpy(), np.float64) for name, each in tensors.items()}


STEP = 1e-6
"""By what part of itself, or of 1, an input is moved to see whether a result depends on it."""


def _must_be_linked(reference: Evaluation, tensors: Tensors) -> None:
    """Refuses a reference that autograd knows no gradient of, though it depends on its inputs.

    Raises:
        BadRequest: what it returns is detached from all of them.
    """
    case, wanted = reference.case, reference.wanted
    leaves = {name: each.clone().requires_grad_(name in wanted) for name, each in tensors.items()}
    tops = reference.tops(all_inputs(case, leaves))
    if any(top.requires_grad for top in tops.values()):
        return
    moved = {
        name: each + STEP * (1 + each.abs()) if name in wanted else each
        for name, each in tensors.items()
    }
    after = reference.tops(all_inputs(case, moved))
    if any(not torch.equal(top.nan_to_num(), after[k].nan_to_num()) for k, top in tops.items()):
        raise BadRequest(
            f"the reference is detached: its result changes with {', '.join(wanted)}, and has no "
            "grad_fn. Compute it with tensors all the way (no .detach(), .item(), .numpy(), "
            "torch.tensor(), no_grad), or compare the forward alone with --grad ''"
        )


def _must_be_fixed(tops: Tensors, again: Tensors) -> None:
    """Refuses a reference that gives another result for the same inputs.

    Raises:
        BadRequest: it does.
    """
    if not all(torch.equal(top.nan_to_num(), again[k].nan_to_num()) for k, top in tops.items()):
        raise BadRequest(
            "the reference gives another result for the same inputs: it must not draw random "
            "numbers, and change neither its inputs nor anything that it keeps. Give a random mask "
            "to layer and reference as an input, or take it out"
        )


def _scaled(expected: Expected, weight: float, case: Case) -> Expected:
    """The expectation at another loss weight than 1.

    Gradients are linear in it, but for the second consumer's share, whose addition rounds as well.
    """
    truth, worst = dict(expected.truth), dict(expected.bound.worst)
    for name in (each for each in truth if each.startswith(GRADIENT)):
        share = SHARED_GRADIENT * (case.sharing == "split" and name == GRADIENT + case.first)
        truth[name] = weight * (truth[name] - share) + share
        worst[name] = abs(weight) * worst[name] + 2 * UNIT_ROUNDOFF * share
    return Expected(truth, Bound(worst, worst, expected.bound.kinks))
