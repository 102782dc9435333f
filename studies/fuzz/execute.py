"""Runs a program on a variant, and says what is wrong with what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from caffe_impl.variants import SECOND_CONSUMER, CaffeVariant
from caffe_parity.caffe.client import Op
from caffe_parity.caffe.compile import PluginError
from caffe_parity.contract import (
    Bound,
    Expectation,
    Inputs,
    Layer,
    Result,
    Variant,
    VariantFailure,
)
from caffe_parity.engine.compare import Agreement, compare
from caffe_parity.engine.explain import Failure, explain, picture
from reference.layers import LAYERS
from studies.fuzz import rational
from studies.fuzz.program import Program, Step

SECOND = "second"
"""The pass of `caffe_parity.contract.PASSES` that explanations look for poison in."""

Tensors = Mapping[str, npt.NDArray[np.floating[Any]] | None]


@dataclass(frozen=True)
class Observation:
    """What a variant held at one moment.

    Attributes:
        step: the index of the program's step.
        moment: when, such as "backward 2".
        poison: what every diff held before, or None where no backward ran.
        tensors: the loss or the diffs, by name; None for a diff that was wanted and not computed.
    """

    step: int
    moment: str
    poison: float | None
    tensors: Tensors


@dataclass(frozen=True)
class Finding:
    """What is wrong with a variant on one program.

    Attributes:
        verdict: "fail", "crash", "hang", or "oracle" where the references themselves differ.
        words: one line.
        detail: a picture of the error, or what was printed.
    """

    verdict: str
    words: str
    detail: str = ""


def check(variant: Variant, program: Program) -> Finding | None:
    """Runs the program; None where everything is as the reference says.

    Raises:
        NetError, RequestError: the net cannot be run at all.
        NoCaffe, InstallError: there is no Caffe.
    """
    with np.errstate(all="ignore"):  # what overflows is compared like anything else
        return _check(variant, program)


def _check(variant: Variant, program: Program) -> Finding | None:
    cases = [program.case_of(step) for step in program.steps]
    expectations = [variant.expects(case) for case in cases]
    layers = computed_layers(variant, program)
    for layer, step in zip(layers, program.steps, strict=True):
        wrong = _oracles_differ(layer, program, step)
        if wrong:
            return Finding("oracle", f"float64 autograd and rational arithmetic differ: {wrong}")
    refusal = next((each for each in expectations if each and each.kind == "refused"), None)
    try:
        observed = observe(variant, program)
    except VariantFailure as failure:
        if refusal is not None and refusal.text in failure.message:
            return None
        return Finding(failure.verdict, failure.message, failure.output.strip())
    if refusal is not None:
        words = f"it must refuse, since {refusal.reason}; it computed a result"
        return Finding("fail", words)
    return _compared(program, layers, observed)


def observe(variant: Variant, program: Program) -> list[Observation]:
    """Everything that a variant held while the program ran, in order.

    Raises:
        VariantFailure: it crashed, hung or refused.
        NetError, RequestError: the net cannot be run at all.
        NoCaffe, InstallError: there is no Caffe.
    """
    if isinstance(variant, CaffeVariant):
        return _run_net(variant, program)
    return _run_steps(variant, program)


def computed_layers(variant: Variant, program: Program) -> list[Layer]:
    """What the variant must compute in each step: its own layer, or the one that it says."""
    return [
        computed_layer(variant, variant.expects(program.case_of(step))) for step in program.steps
    ]


def computed_layer(variant: Variant, expectation: Expectation | None) -> Layer:
    """The layer that a variant must compute: its own, or the one that it says."""
    as_layer = expectation is not None and expectation.kind == "as-layer"
    return LAYERS[expectation.layer if expectation and as_layer else variant.layer]


def _oracles_differ(layer: Layer, program: Program, step: Step) -> str:
    tiny = step.x1.size + step.x2.size <= rational.TINY
    if not tiny or not rational.is_finite(step.x1) or not rational.is_finite(step.x2):
        return ""
    case, inputs = program.case_of(step), program.inputs_of(step)
    return rational.disagreement(layer, case, inputs, layer.evaluate(case, inputs))


def _run_steps(variant: Variant, program: Program) -> list[Observation]:
    """A variant of which only `Variant.run` is known: every step by itself.

    Raises:
        VariantFailure: it crashed, hung or refused.
    """
    observed = []
    before: Inputs | None = None
    for index, step in enumerate(program.steps):
        inputs = program.inputs_of(step)
        fits = before is not None and (before.x1.shape, before.x2.shape) == (
            inputs.x1.shape,
            inputs.x2.shape,
        )
        other = before if before is not None and fits else inputs
        run = variant.run(program.case_of(step), inputs, other, _longer(inputs))
        for each in run.passes:
            tensors = each.result.tensors()
            named = {name: tensors[name] for name in ("loss", *program.wanted())}
            observed.append(Observation(index, each.name, each.poison, named))
        before = inputs
    return observed


def _longer(inputs: Inputs) -> Inputs:
    """With one sample more, the first one again."""
    x1, x2 = (np.concatenate([x, x[:1]]) for x in (inputs.x1, inputs.x2))
    return Inputs(x1, x1 if inputs.x2 is inputs.x1 else x2)


def _run_net(variant: CaffeVariant, program: Program) -> list[Observation]:
    """All steps on one net in a real Caffe.

    Raises:
        VariantFailure: it crashed, hung, or a layer raised.
    """
    ops, readers = net_ops(variant, program)
    replies = variant.request(ops)
    arrays = iter([reply["array"] for reply in replies if "array" in reply])
    observed = []
    for reader in readers:
        tensors: dict[str, npt.NDArray[np.floating[Any]] | None] = {
            name: next(arrays) for name in reader.tensors
        }
        if "loss" in tensors and tensors["loss"] is not None:
            tensors["loss"] = np.asarray(tensors["loss"].sum())
        elif program.case.weight == 0 and all(np.all(x == reader.poison) for x in tensors.values()):
            tensors = {}  # Caffe prunes the backward of a layer whose loss weight is 0 (net.cpp)
        observed.append(Observation(reader.step, reader.moment, reader.poison, tensors))
    return observed


def net_ops(variant: CaffeVariant, program: Program) -> tuple[list[Op], list[Observation]]:
    """The worker's ops, and what is read from their replies in order, each tensor still None.

    Raises:
        VariantFailure: a compiled layer cannot be built.
    """
    try:
        ops: list[Op] = [{"op": "load", "library": each} for each in variant.libraries()]
    except PluginError as error:
        raise VariantFailure("crash", str(error)) from error
    edits = net_edits(program)
    text = variant.net(program.case)
    ops.append({"op": "net", "text": text, "edits": edits, "path": list(variant.path)})
    readers: list[Observation] = []
    shapes = edits["shapes"]
    for index, step in enumerate(program.steps):
        inputs = program.inputs_of(step)
        arrays = {"x1": inputs.x1, "x2": inputs.x2}
        if program.case.sharing == "same-blob":
            arrays.pop("x2")
        new_shapes = {name: list(array.shape) for name, array in arrays.items()}
        if new_shapes != shapes:
            ops.append({"op": "reshape", "shapes": new_shapes})
            shapes = new_shapes
        ops += [{"op": "set", "blob": name, "array": array} for name, array in arrays.items()]
        for number in range(step.forwards):
            ops += [{"op": "forward"}, {"op": "loss"}]
            readers.append(Observation(index, f"forward {number + 1}", None, {"loss": None}))
        for number, poison in enumerate(step.poisons):
            ops += [{"op": "poison", "value": poison}, {"op": "backward"}]
            ops += [{"op": "diff", "blob": name[1:]} for name in program.wanted()]
            tensors = dict.fromkeys(program.wanted())
            readers.append(Observation(index, f"backward {number + 1}", poison, tensors))
    return ops, readers


def net_edits(program: Program) -> Op:
    """What the worker changes in the net before it is made."""
    first = program.steps[0]
    edits: Op = {
        "shapes": {"x1": list(first.x1.shape), "x2": list(first.x2.shape)},
        "loss_weight": program.case.loss_weight,
    }
    if program.case.sharing == "same-blob":
        edits["shapes"].pop("x2")
        edits["same"] = {"x2": "x1"}
    if program.case.sharing == "split":
        edits["append"] = SECOND_CONSUMER
    if program.gradients == "asked":
        edits["gradients"] = [name[1:] for name in program.wanted()]
    if program.gradients == "forced":
        edits["force_backward"] = True
    return edits


def _compared(program: Program, layers: list[Layer], observed: list[Observation]) -> Finding | None:
    truths: dict[int, tuple[Result, Bound]] = {}
    for each in observed:
        step = program.steps[each.step]
        case, inputs, layer = program.case_of(step), program.inputs_of(step), layers[each.step]
        if each.step not in truths:
            truths[each.step] = (layer.evaluate(case, inputs), layer.bound(case, inputs))
        truth, bound = truths[each.step]
        for name, actual in each.tensors.items():
            expected = truth.tensors()[name]
            assert expected is not None
            if actual is None:
                if program.case.weight == 0:
                    continue
                return Finding("fail", f"step {each.step}, {each.moment}: {name} was not computed")
            agreement = compare(name, actual, expected, bound)
            if not agreement.agrees:
                before = _before(observed, each, name)
                failure = Failure(
                    tensor=name,
                    layer=layer.name,
                    case=case,
                    inputs=inputs,
                    expected=expected.astype(np.float64),
                    bound=bound.worst[name],
                    passes={SECOND: actual},
                    poisons={SECOND: 0.0 if each.poison is None else each.poison},
                    failed_pass=SECOND,
                    before=before,
                )
                words = f"step {each.step}, {each.moment}: {_in_words(agreement)}"
                return Finding("fail", f"{words}; {explain(failure).words}", picture(failure))
    return None


def _before(
    observed: list[Observation], now: Observation, name: str
) -> npt.NDArray[np.floating[Any]] | None:
    """The same tensor in the last step before, where a stale one would come from."""
    earlier = [each.tensors.get(name) for each in observed if each.step < now.step]
    held = [each for each in earlier if each is not None]
    return held[-1] if held else None


def _in_words(agreement: Agreement) -> str:
    if agreement.note:
        return f"{agreement.name} {agreement.note}"
    place = list(agreement.worst_index)
    where = f" at {place}" if place else ""
    return (
        f"{agreement.wrong} of {agreement.size} of {agreement.name} beyond the bound, worst{where}:"
        f" {agreement.actual:.9g}, expected {agreement.expected:.9g} +- {agreement.bound:.3g}"
    )
