"""Carries out a check: cases, references, ports, and the findings over all of them."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from caffe_parity.caffe.client import (
    Caffe,
    CaffeCrash,
    CaffeError,
    CaffeHang,
    LayerError,
    RequestError,
)
from caffe_parity.caffe.layer_errors import hint, where
from caffe_parity.check import computed
from caffe_parity.check.findings import Finding, findings, port_findings, wrong
from caffe_parity.check.observe import Arrays, Observation, Plan, observe
from caffe_parity.contract import BadRequest
from caffe_parity.engine.data import Kind, fill
from caffe_parity.engine.random_rounding import GRADIENT, Expected, Tensors, as_inputs, expect
from caffe_parity.engine.threads import one_thread
from caffe_parity.report.bits import Kept, digest

Function = Callable[..., Any]

WEIGHTS = (1.0, 2.5, -0.75)
"""The loss weights of every case. One weight is no test: ignoring it is right at 1."""


@dataclass(frozen=True)
class Check:
    """What to check.

    Attributes:
        plan: the net and what is asked of it.
        reference: maps float64 tensors, named like the net's inputs, to the loss or the tops.
        port: likewise in float32, or None.
        kinds: how each input and parameter is filled; a parameter that it lacks keeps its initial
            value.
        given: the inputs of the user's file, which then are the only case's; or None.
        cases: how many.
        seed: of the inputs.
    """

    plan: Plan
    reference: Function
    port: Function | None
    kinds: Mapping[str, Kind]
    given: Arrays | None
    cases: int
    seed: int

    @property
    def labels(self) -> set[str]:
        """The inputs and parameters that get no gradient and no rounding."""
        names = {*self.plan.shapes, *(each.name for each in self.plan.params)}
        return names - set(self.plan.differentiated)


@dataclass
class Computed:
    """What one side, "caffe" or "port", computed in one case.

    Attributes:
        inputs: the digest of the case's inputs.
        seconds: how long it took; with a crash or a hang, until then.
        fraction: the largest error / bound of Caffe's tensors; None where that was not computed.
        tensors: what is kept of each top and gradient, by name; empty after a crash or a hang.
    """

    inputs: str
    seconds: float = 0.0
    fraction: float | None = None
    tensors: Mapping[str, tuple[Kept, ...]] = field(default_factory=dict)


@dataclass
class Verdict:
    """The outcome of a check.

    Attributes:
        found: the cases of each finding; the first words stand for all.
        kinks: elements with several right gradients that were left out, by input or parameter.
        elements: of how many.
        seconds: of everything.
        cases: how many ran.
        largest: error / bound by tensor, the largest over all cases.
        output: what was printed before a crash or a hang.
        computed: by side and case.
    """

    found: dict[str, tuple[Finding, list[int]]] = field(default_factory=dict)
    kinks: dict[str, int] = field(default_factory=dict)
    elements: dict[str, int] = field(default_factory=dict)
    largest: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    cases: int = 0
    output: str = ""
    computed: dict[tuple[str, int], Computed] = field(default_factory=dict)

    def add(self, finding: Finding, case: int) -> None:
        """Counts a finding for a case."""
        cases = self.found.setdefault(finding.code, (finding, []))[1]
        if case not in cases:
            cases.append(case)


def run(
    check: Check,
    caffe: Caffe | None,
    progress: Callable[[int], None],
    cases: Sequence[int] | None = None,
) -> Verdict:
    """Runs all cases, or some.

    Args:
        check: what to check.
        caffe: where; None compares the port alone.
        progress: called with the number of each case before it runs.
        cases: their numbers, each of which gives the same inputs alone as among others; None is
            all of them.

    Raises:
        BadRequest: the reference or the port cannot be evaluated.
    """
    verdict = Verdict()
    start = time.perf_counter()
    with _one_thread(check):
        for case in range(1 if check.given else check.cases) if cases is None else cases:
            progress(case)
            inputs = {**case_inputs(check, case), **(check.given or {})}
            if caffe is None:
                found = _port_alone(check, verdict, case, inputs)
            else:
                other = case_inputs(check, case + 1_000_000)
                found = _case(check, caffe, verdict, case, inputs, other)
            for finding in found:
                verdict.add(finding, case)
            verdict.cases += 1
            if "crash" in verdict.found or "hang" in verdict.found:
                break
    verdict.seconds = time.perf_counter() - start
    return verdict


def _one_thread(check: Check) -> AbstractContextManager[None]:
    """Keeps PyTorch to one thread while a check of small inputs runs."""
    return one_thread(max(math.prod(shape) for shape in check.plan.shapes.values()))


def case_inputs(check: Check, case: int) -> Arrays:
    """The inputs and parameters of a case, by seed and number alone."""
    rng = np.random.RandomState([check.seed, case])
    shapes = check.plan.shapes
    values = {name: fill(check.kinds[name], tuple(shapes[name]), case, rng) for name in shapes}
    rng = np.random.RandomState([check.seed, case, 11])  # the inputs do not depend on parameters
    for each in check.plan.params:
        kind = check.kinds.get(each.name)
        # Of scale 1 in every case: small or large weights are no more telling than small inputs.
        values[each.name] = fill(kind, each.initial.shape, 0, rng) if kind else each.initial
    return values


def _case(
    check: Check, caffe: Caffe, verdict: Verdict, case: int, inputs: Arrays, other: Arrays
) -> Iterator[Finding]:
    upstreams = _upstreams(check, inputs, case)
    by_caffe = verdict.computed["caffe", case] = Computed(digest(*inputs.values()))
    start = time.perf_counter()
    try:
        seen = observe(caffe, check.plan, inputs, other, upstreams)
    except RequestError as error:  # an upstream gradient, of the reference's shape, does not fit
        raise BadRequest(
            f"the reference's tops do not fit those of the net: they must have as many elements "
            f"({error})"
        ) from error
    except CaffeError as error:
        by_caffe.seconds = time.perf_counter() - start
        yield _broken(error)
        verdict.output = error.output
        return
    by_caffe.seconds = time.perf_counter() - start
    by_caffe.tensors = computed.by_caffe(seen)
    expected = _expected(check, inputs, upstreams, seen)
    by_caffe.fraction = _note(verdict, seen, expected[0])
    found = list(findings(seen, expected, inputs, check.plan.is_loss, check.plan.learned))
    if found and _changes(check, caffe, inputs, other, upstreams, seen, expected[0]):
        words = "the same inputs on a fresh net give other results: a random number in the layer?"
        yield Finding("not-deterministic", words)
        found = [each for each in found if each.code.startswith("mutates")]
    if any(each.code.startswith(("forward-value", GRADIENT, "stale-state")) for each in found):
        found = list(_without_stale(check, caffe, inputs, upstreams, expected, found))
    yield from found
    if check.port is not None:
        yield from _ports(check, verdict, case, inputs, upstreams, expected)


def _port_alone(check: Check, verdict: Verdict, case: int, inputs: Arrays) -> Iterator[Finding]:
    """What is wrong with the port in one case, where no Caffe computes."""
    upstreams = _upstreams(check, inputs, case)
    expected = _expected(check, inputs, upstreams, Observation())
    results = _port_results(check, inputs, upstreams[0], expected[0])
    tops = {name: results[name] for name in check.plan.outputs}
    diffs = {name: results[GRADIENT + name] for name in check.plan.gradients}
    shapes = {name: each.shape for name, each in expected[0].truth.items()}
    if all(results[name].shape == shape for name, shape in shapes.items()):
        _note(verdict, Observation(tops=tops, diffs=[diffs]), expected[0])
    yield from _ports(check, verdict, case, inputs, upstreams, expected)


def _ports(
    check: Check,
    verdict: Verdict,
    case: int,
    inputs: Arrays,
    upstreams: Sequence[Arrays],
    expected: Sequence[Expected],
) -> Iterator[Finding]:
    """What is wrong with the port in one case."""
    by_port = verdict.computed["port", case] = Computed(digest(*inputs.values()))
    results = []
    for upstream, each in zip(upstreams, expected, strict=True):
        start = time.perf_counter()
        results.append(_port_results(check, inputs, upstream, each))
        by_port.seconds += time.perf_counter() - start
        yield from port_findings(
            results[-1], each, next(iter(inputs.values())).shape, check.plan.learned
        )
    by_port.tensors = computed.by_port(results)
    yield from _port_gradcheck(check, inputs)


def _without_stale(
    check: Check,
    caffe: Caffe,
    inputs: Arrays,
    upstreams: Sequence[Arrays],
    expected: Sequence[Expected],
    found: Sequence[Finding],
) -> Iterator[Finding]:
    """The findings, where those that only a pass with other inputs causes are `stale-state`.

    What is that of the pass before may also be wrong in a way that does not depend on the inputs.
    """
    try:
        alone = observe(caffe, check.plan, inputs, inputs, upstreams)
    except CaffeError:
        yield from found
        return
    for name in alone.warm_up:  # equal inputs give equal results, which is nothing stale
        alone.warm_up[name] = np.full_like(alone.warm_up[name], np.nan)
    remaining = list(findings(alone, expected, inputs, check.plan.is_loss, check.plan.learned))
    hidden = {each.code for each in remaining} - {each.code for each in found}
    yield from (each for each in remaining if each.code in hidden)
    for each in found:
        if each.code in {other.code for other in remaining}:
            yield each
        elif each.code != "stale-state":
            words = "right on a fresh net, wrong after a pass with other inputs"
            yield Finding("stale-state", f"{words} ({each.code}: {each.words})")
        elif not hidden:
            yield each


def _broken(error: CaffeError) -> Finding:
    if isinstance(error, CaffeHang):
        return Finding("hang", str(error))
    text = str(error)
    if isinstance(error, LayerError):
        text = where(error.traceback) + text
    advice = hint(text + error.output)
    what = "" if isinstance(error, CaffeCrash) else "a layer raised: "
    return Finding("crash", f"{what}{text}" + (f" ({advice})" if advice else ""))


def _upstreams(check: Check, inputs: Arrays, case: int) -> list[Arrays]:
    """Loss weights for a loss; for another layer the same kind of noise on every top."""
    tops = _tops(check.reference, as_inputs(inputs), check.plan.outputs)
    again = _tops(check.reference, as_inputs(inputs), check.plan.outputs)
    if not all(
        torch.equal(top.nan_to_num(), again[name].nan_to_num()) for name, top in tops.items()
    ):
        raise BadRequest(
            "the reference gives another result for the same inputs: it must not draw random "
            "numbers. Give a random mask to layer and reference as an input, or take it out"
        )
    if check.plan.is_loss:
        return [
            {name: np.full(tuple(each.shape), weight, np.float32) for name, each in tops.items()}
            for weight in WEIGHTS
        ]
    rng = np.random.RandomState([check.seed, case, 7])
    return [
        {
            name: rng.standard_normal(tuple(each.shape)).astype(np.float32)
            for name, each in tops.items()
        }
        for _ in range(2)
    ]


def of_port_alone(check: Check) -> Check:
    """The check of a port without a net: what the reference returns names the tops.

    Raises:
        BadRequest: the reference cannot be evaluated.
    """
    result = _result(check.reference, as_inputs(check.given or case_inputs(check, 0)))
    if isinstance(result, Mapping):
        outputs = tuple(result)
    elif isinstance(result, (tuple, list)):
        outputs = tuple(f"top{index}" for index in range(len(result)))
    else:
        outputs = ("top",)
    is_loss = isinstance(result, torch.Tensor) and result.numel() == 1
    return replace(check, plan=replace(check.plan, outputs=outputs, is_loss=is_loss))


def _result(function: Function, inputs: Tensors) -> Any:
    try:
        return function(**inputs)
    except Exception as error:
        shapes = ", ".join(f"{name} {tuple(each.shape)}" for name, each in inputs.items())
        raise BadRequest(
            f"the function cannot be evaluated: {type(error).__name__}: {error} (inputs {shapes})"
        ) from error


def _tops(function: Function, inputs: Tensors, outputs: Sequence[str]) -> Tensors:
    """What a reference or port returns, by top.

    Raises:
        BadRequest: it raises, or returns something else than the loss or the tops.
    """
    result = _result(function, inputs)
    if isinstance(result, torch.Tensor):
        result = (result,)
    if isinstance(result, Mapping):
        missing = [name for name in outputs if name not in result]
        if missing:
            raise BadRequest(f"the function returns no {missing}; the net's tops are {outputs}")
        return {name: result[name] for name in outputs}
    if not isinstance(result, (tuple, list)) or len(result) != len(outputs):
        raise BadRequest(
            f"the function must return the net's tops ({', '.join(outputs)}) as a tensor, a tuple "
            f"or a dict; it returned {type(result).__name__}"
        )
    return dict(zip(outputs, result, strict=True))


def _evaluate(
    check: Check, function: Function, upstream: Mapping[str, torch.Tensor], inputs: Tensors
) -> Tensors:
    """Tops and gradients of one function."""
    leaves = {
        name: value.detach().clone().requires_grad_(name in check.plan.differentiated)
        for name, value in inputs.items()
    }
    tops = _tops(function, leaves, check.plan.outputs)
    wanted = [leaves[name] for name in check.plan.differentiated]
    linked = {name: top for name, top in tops.items() if top.requires_grad}
    grads: Sequence[torch.Tensor | None] = [None] * len(wanted)
    if linked and wanted:
        weights = [upstream[name].reshape(top.shape).to(top.dtype) for name, top in linked.items()]
        grads = torch.autograd.grad(list(linked.values()), wanted, weights, allow_unused=True)
    results = {name: top.detach() for name, top in tops.items()}
    for name, leaf, grad in zip(check.plan.differentiated, wanted, grads, strict=True):
        results[GRADIENT + name] = torch.zeros_like(leaf) if grad is None else grad.detach()
    return {name: value.clone() for name, value in results.items()}


def _expected(
    check: Check, inputs: Arrays, upstreams: Sequence[Arrays], seen: Observation
) -> list[Expected]:
    tensors = as_inputs(inputs)

    def truth(upstream: Arrays) -> Expected:
        weights = as_inputs(upstream)
        return expect(
            lambda values: _evaluate(check, check.reference, weights, values), tensors, check.labels
        )

    first = truth(upstreams[0])
    _fit(first, seen)
    if not check.plan.is_loss:
        rest = [truth(upstream) for upstream in upstreams[1:]]
        for each in rest:
            _fit(each, seen)
        return [first, *rest]
    return [first, *(_scaled(first, weight) for weight in WEIGHTS[1:])]


def _scaled(expected: Expected, weight: float) -> Expected:
    """The expectation at another loss weight: gradients are linear in it."""
    truth = {k: weight * v if k in expected.kinks else v for k, v in expected.truth.items()}
    bound = {k: abs(weight) * v if k in expected.kinks else v for k, v in expected.bound.items()}
    return Expected(truth, bound, expected.kinks)


def _fit(expected: Expected, seen: Observation) -> None:
    """Gives each top the shape that Caffe has for it: (1) and () are both a scalar.

    Raises:
        BadRequest: the number of elements differs.
    """
    for name, actual in seen.tops.items():
        if expected.truth[name].size != actual.size:
            raise BadRequest(
                f"top {name} has shape {actual.shape} in Caffe, {expected.truth[name].shape} in "
                "the reference: they must have as many elements"
            )
        expected.truth[name] = expected.truth[name].reshape(actual.shape)
        expected.bound[name] = expected.bound[name].reshape(actual.shape)


def _note(verdict: Verdict, seen: Observation, expected: Expected) -> float:
    """Keeps the figures of the report: how near to the bound, and what was left out.

    Returns the largest error / bound of this case.
    """
    for key, count in expected.kinks.items():
        name = key.removeprefix(GRADIENT)
        verdict.kinks[name] = verdict.kinks.get(name, 0) + count
        verdict.elements[name] = verdict.elements.get(name, 0) + expected.truth[key].size
    nearest = 0.0
    actual = {**seen.tops, **{GRADIENT + name: each for name, each in seen.diffs[0].items()}}
    for key, value in actual.items():
        with np.errstate(all="ignore"):
            error = np.abs(value.astype(np.float64) - expected.truth[key])
            fractions = np.where(error == 0, 0.0, error / expected.bound[key])
        largest = float(np.max(fractions, initial=0.0))
        verdict.largest[key] = max(verdict.largest.get(key, 0.0), largest)
        nearest = max(nearest, largest)
    return nearest


def _changes(
    check: Check,
    caffe: Caffe,
    inputs: Arrays,
    other: Arrays,
    upstreams: Sequence[Arrays],
    seen: Observation,
    expected: Expected,
) -> bool:
    """Whether the first pass on a fresh net differs by more than rounding."""
    try:
        again = observe(caffe, check.plan, inputs, other, upstreams)
    except CaffeError:
        return True
    pairs = [(seen.tops[name], again.tops[name], name) for name in seen.tops]
    pairs += [
        (seen.diffs[0][name], again.diffs[0][name], GRADIENT + name) for name in seen.diffs[0]
    ]
    return any(
        np.any(wrong(one, another.astype(np.float64), expected.bound[key]))
        for one, another, key in pairs
    )


def _port_results(check: Check, inputs: Arrays, upstream: Arrays, expected: Expected) -> Arrays:
    """The port's tops and gradients, in the shapes of the truth where the elements are as many."""
    assert check.port is not None
    tensors = {name: torch.from_numpy(array.copy()) for name, array in inputs.items()}
    weights = {name: torch.from_numpy(array) for name, array in upstream.items()}
    results = _evaluate(check, check.port, weights, tensors)
    return {
        name: value.numpy().reshape(expected.truth[name].shape)
        if value.numel() == expected.truth[name].size
        else value.numpy()
        for name, value in results.items()
    }


def _port_gradcheck(check: Check, inputs: Arrays) -> Iterator[Finding]:
    """Whether the port's backward is its forward's gradient, where the reference's is."""
    assert check.port is not None
    port = check.port
    if isinstance(port, torch.nn.Module):  # its own parameters and buffers must be float64, too
        port = copy.deepcopy(port).double()
    if _own_gradient(check, port, inputs) or not _own_gradient(check, check.reference, inputs):
        return
    for name in check.plan.differentiated:
        words = "gradcheck refuses the port: its backward is not its forward's gradient"
        yield Finding(f"port-gradient:{name}", words)


def _own_gradient(check: Check, function: Function, inputs: Arrays) -> bool:
    """Whether PyTorch's gradcheck accepts a function on these inputs, in float64."""
    leaves = {
        name: each.requires_grad_(name in check.plan.differentiated)
        for name, each in as_inputs(inputs).items()
    }
    names = list(leaves)

    def positional(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        tops = _tops(function, dict(zip(names, values, strict=True)), check.plan.outputs)
        return tuple(tops.values())

    try:
        return bool(
            torch.autograd.gradcheck(
                positional, tuple(leaves.values()), raise_exception=False, fast_mode=True
            )
        )
    except (RuntimeError, ValueError):
        return True  # no float64, or nothing that can be differentiated: nothing was shown
