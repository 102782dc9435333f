"""Runs a program on a variant and holds what comes out against the reference.

All that the search knows of the engine is here: how a variant runs, how its tensors are compared
with the truth and the bound, and how an error is explained.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from caffe_parity import CaffeNet, Case, Layer, Rival
from caffe_parity.contract import (
    GRADIENT,
    Arrays,
    Expected,
    Floating,
    Pass,
    Plan,
    Tensors,
    Variant,
    VariantFailure,
    spoken,
)
from caffe_parity.engine.compare import compare, missing, wrong
from caffe_parity.engine.expected import fed
from caffe_parity.engine.explain import Failure, explain, picture
from caffe_parity.engine.plan import ONE
from caffe_parity.engine.verdict import agreement_words
from parity_tests.answers import STRUCTURE, expected_of
from reference import rational
from studies.fuzz.program import Program, Step, Target


class Refuted(Exception):
    """What is wrong with a variant on one program: a line, then a picture or what was printed.

    Attributes:
        verdict: "fail", "crash", "hang", or "oracle" where the references themselves differ.
    """

    def __init__(self, verdict: str, words: str) -> None:
        super().__init__(words)
        self.verdict = verdict


@dataclass(frozen=True)
class Moment:
    """What a variant held at one moment.

    Attributes:
        step: the index of the program's step.
        when: such as "backward 2".
        tensors: the loss or the gradients, or both, by name.
    """

    step: int
    when: str
    tensors: Tensors


@dataclass(frozen=True)
class _Answer:
    """What a step must compute."""

    layer: Layer
    case: Case
    inputs: Arrays
    expected: Expected

    def failure(self, name: str, actual: Floating) -> Failure:
        """What `explain` wants to know of a tensor that disagrees."""
        truth = self.expected.truth[name]
        return Failure(
            tensor=name,
            name=spoken(name),
            is_gradient=name.startswith(GRADIENT),
            expected=truth,
            bound=self.expected.bound.worst[name],
            actual=actual.astype(np.float64).reshape(truth.shape),
            wrong=wrong(name, actual, self.expected),
            shape=truth.shape or self.case.shapes["x1"],
            weight=self.case.weight,
            rivals=self._rivals,
        )

    def _rivals(self) -> Iterator[Rival]:
        return self.layer.rivals(self.case, self.inputs) if self.layer.rivals else iter(())


def check(target: Target, program: Program) -> None:
    """Runs the program on the target, which must compute what the reference says.

    Raises:
        Refuted: it does not. Hypothesis takes what is raised in one line for one failure, and does
            not shrink a crash to what is only wrong.
        BadRequest: the net cannot be run at all.
        NoCaffe, InstallError: there is no Caffe.
    """
    claims = [target.variant.expects(program.case_of(step)) for step in program.steps]
    refusal = next((each for each in claims if each and each.kind == "refused"), None)
    with np.errstate(all="ignore"):  # what overflows is compared like anything else
        answers = [_answer(target, program, step) for step in program.steps]
        try:
            moments = observe(target.variant, program)
        except VariantFailure as failure:
            if refusal is not None and refusal.text in failure.message:
                return
            words = f"{failure.message}\n{failure.output.strip()}"
            raise Refuted(failure.verdict, words) from failure
        if refusal is not None:
            raise Refuted("fail", f"it must refuse, since {refusal.reason}; it computed a result")
        _compare(answers, moments)


def observe(variant: Variant, program: Program) -> list[Moment]:
    """Everything that a variant held while the program ran, in order.

    Raises:
        VariantFailure: it crashed, hung or refused.
        BadRequest: the net cannot be run at all.
        NoCaffe, InstallError: there is no Caffe.
    """
    if isinstance(variant, CaffeNet):
        return _run_net(variant, program)
    return _run_plan(variant, program)


def _run_plan(variant: Variant, program: Program) -> list[Moment]:
    """The steps as the passes of a plan, as many of each as it has forwards."""
    passes: dict[str, tuple[int, Pass]] = {}
    for index, step in enumerate(program.steps):
        inputs = fed(program.case, program.inputs_of(step))
        for number in range(step.forwards):
            name = f"step {index}, pass {number + 1}"
            passes[name] = index, Pass(name, inputs, None, ONE)
    net = tuple(each for _, each in passes.values())
    seen = variant.observe(Plan(program.case, STRUCTURE, (net,)))
    return [Moment(index, each.name, seen.tensors[each.name]) for index, each in passes.values()]


def _run_net(variant: CaffeNet, program: Program) -> list[Moment]:
    """All steps on one net in a real Caffe."""
    ops = variant.net_ops(program.case)
    edits = ops[-1]["edits"]
    if program.gradients != "asked":
        del edits["gradients"]
        edits["force_backward"] = program.gradients == "forced"
    shapes = edits["shapes"]
    read: list[tuple[int, str, tuple[str, ...]]] = []
    for index, step in enumerate(program.steps):
        blobs = fed(program.case, program.inputs_of(step))
        new_shapes = {name: array.shape for name, array in blobs.items()}
        if new_shapes != shapes:
            ops.append({"op": "reshape", "shapes": new_shapes})
            shapes = new_shapes
        ops += [{"op": "set", "blob": name, "array": array} for name, array in blobs.items()]
        for number in range(step.forwards):
            ops += [{"op": "forward"}, {"op": "data", "blob": "loss"}]
            read.append((index, f"forward {number + 1}", ("loss",)))
        for number, poison in enumerate(step.poisons):
            ops += [{"op": "poison", "value": poison}, {"op": "backward"}]
            ops += [{"op": "diff", "blob": name} for name in program.wanted]
            names = tuple(GRADIENT + name for name in program.wanted)
            read.append((index, f"backward {number + 1}", names))
    arrays = iter([reply["array"] for reply in variant.request(ops) if "array" in reply])
    moments = []
    for index, when, names in read:
        tensors = {name: next(arrays) for name in names}
        untouched = names != ("loss",) and not any(map(np.any, tensors.values()))
        if not (program.pruned and untouched):
            moments.append(Moment(index, when, tensors))
    return moments


def _answer(target: Target, program: Program, step: Step) -> _Answer:
    """What the step must compute; where the inputs are tiny, two oracles must agree on it."""
    case, inputs = program.case_of(step), program.inputs_of(step)
    layer = target.computed(case)
    expected = expected_of(layer, case, inputs)
    if rational.is_feasible(inputs):
        wrong = rational.disagreement(layer, case, inputs, expected.truth)
        if wrong:
            raise Refuted("oracle", f"float64 autograd and fractions differ: {wrong}")
    return _Answer(layer, case, inputs, expected)


def _compare(answers: Sequence[_Answer], moments: Sequence[Moment]) -> None:
    for each in moments:
        answer = answers[each.step]
        for name, actual in each.tensors.items():
            if actual is None:
                agreement = missing("was not computed", 0)
            else:
                agreement = compare(name, actual, answer.expected)
            if agreement.agrees:
                continue
            words = f"step {each.step}, {each.when}: {agreement_words({name: agreement})}"
            if actual is not None and not agreement.note:
                failure = answer.failure(name, actual)
                words += f"; {explain(failure).words}\n{picture(failure)}"
            raise Refuted("fail", words)
