"""Turns what was seen into findings: what is wrong, each thing under a stable code of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np

from caffe_parity.contract import (
    GRADIENT,
    SHARED_GRADIENT,
    UNIT_ROUNDOFF,
    Agreement,
    Array64,
    BadRequest,
    Bound,
    Expected,
    Finding,
    Floating,
    Observation,
    Pass,
    Plan,
    is_state,
    spoken,
)
from caffe_parity.engine.compare import Bools, compare, fits, missing, same_bits, wrong
from caffe_parity.engine.expected import Question, question
from caffe_parity.engine.explain import CLOSE, SLACK, Explanation, Failure, explain, picture
from caffe_parity.engine.plan import AGAIN, FIRST, HUGE, ONE, OTHER, SECOND
from caffe_parity.layer import Layer, Rival

LATER = {
    SECOND: "a second pass gives another {}",
    "remade": "a net that was made for a single sample gives another {}",
    "reshaped": "after a larger batch, a pass gives another {}",
}
"""What it means when the first pass is right and a later one, with the same inputs, is not."""


@dataclass
class Judged:
    """What a comparison came to.

    Attributes:
        findings, notes: what is wrong, and what is to be known.
        tensors: the worst agreement of each tensor over all passes.
        pictures: of the errors that are explained.
    """

    findings: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    tensors: dict[str, Agreement] = field(default_factory=dict)
    pictures: list[str] = field(default_factory=list)

    @property
    def codes(self) -> set[tuple[str, str]]:
        """Which findings there are."""
        return {(each.code, each.tensor) for each in self.findings}


def judged(
    layer: Layer, plan: Plan, asked: Question, seen: Observation, why: bool = True
) -> Judged:
    """Holds an observation against what is expected.

    Args:
        layer: what is computed, for explanations.
        plan: what was carried out.
        asked: what each of its passes must give.
        seen: what came out.
        why: whether what is wrong is explained; without, there are as many findings.
    """
    return _Comparison(layer, plan, asked, seen, why).carried_out()


@dataclass
class _Comparison:
    layer: Layer
    plan: Plan
    asked: Question
    seen: Observation
    why: bool = True
    result: Judged = field(default_factory=Judged)

    def carried_out(self) -> Judged:
        for name, when in self.seen.changed.items():
            kind = "param" if "[" in name else "bottom"
            what = "parameter" if kind == "param" else "bottom"
            words = f"the {when} overwrites its own {what} {name}"
            self.result.findings.append(Finding(f"mutates-{kind}:{name}", words, name))
        for name in self.seen.weights:
            words = (
                f"the backward overwrites the diff of its own top {name}, the loss weight, which "
            )
            words += "Caffe writes once, when it makes the net: the next iteration has another"
            self.result.findings.append(Finding(f"mutates-top-diff:{name}", words))
        if self.plan.structure.untrained and self.plan.differentiated:
            words = "no layer has a loss_weight, so Caffe trains nothing: a Python layer and a "
            words += "Reduction need one written out (loss_weight: 1)"
            self.result.findings.append(Finding("no-loss-weight", words))
        unseen = self.plan.structure.unseen if self.seen.poisoned else ()  # a port has no layers
        for tensor in self.asked.expected[0].truth:
            if is_state(tensor) and not any(tensor in each for each in self.seen.tensors.values()):
                unseen = ("the port",)
                continue
            gradient = tensor.startswith(GRADIENT)
            if not (gradient and any(each.cause == "shape" for each in self.result.findings)):
                self._tensor(tensor)
        if unseen:
            words = (
                f"the running statistics that {', '.join(unseen)} writes in each forward are not "
                "compared: whoever takes them as `state`, and returns state[0], ..., has them so"
            )
            self.result.notes.append(Finding("running-statistics", words))
        return self.result

    @cached_property
    def passes(self) -> list[Pass]:
        """Those that are compared and were observed."""
        return [
            each
            for each in self.plan.passes
            if each.expected is not None and each.name in self.seen.tensors
        ]

    def _tensor(self, tensor: str) -> None:
        view = _View(self, tensor)
        if not view.agreements:  # at loss weight 0 Caffe computes no gradient
            return
        self.result.tensors[tensor] = view.worst
        if tensor.startswith(GRADIENT):
            self.result.findings += view.gradient_findings()
        else:
            self.result.findings += view.top_findings()
        self.result.notes += view.notes()

    def explained(self, failure: Failure) -> Explanation:
        """Why a tensor is wrong, with a picture of it."""
        if not self.why:
            return Explanation("", "")
        drawn = picture(failure)
        if drawn:
            self.result.pictures.append(drawn)
        return explain(failure)

    def rivals(self) -> Iterator[Rival]:
        """Other formulas that the layer's result may be."""
        case, inputs = self.plan.case, self.asked.inputs
        if case.sharing == "none":
            for other in self.layer.mistaken_for():
                if other.name != self.layer.name and other.allows(case):
                    [expected, *_] = question(other, case, self.plan.structure).expected
                    words = f"{{tensor}} is that of {other.name}, not of {self.layer.name}"
                    yield Rival("other-layer", words, expected.truth, expected.bound.worst)
            if self.layer.rivals is not None:
                yield from self.layer.rivals(case, inputs)

    @cached_property
    def averages(self) -> bool:
        """Whether a loss stays the same when each sample is there twice, as a mean over them does.

        Where the reference takes no other batch, it is not known, and no. Sums of m float64 terms
        of one sign are m * 2**-53 of themselves apart at most; 8 is for how each term is made.
        """
        case, asked = self.plan.case, self.asked
        [output, *more] = self.plan.structure.outputs
        n = len(asked.inputs[case.first])
        twice = {
            name: np.concatenate([each, each]) if name in case.names and len(each) == n else each
            for name, each in asked.inputs.items()
        }
        try:
            once, doubled = (asked.truth(each, None)[output] for each in (asked.inputs, twice))
        except (BadRequest, RuntimeError, ValueError):
            return False
        apart = 8 * sum(each.size for each in twice.values()) * 2.0**-53
        same = not more and once.shape == doubled.shape
        return same and bool(np.all(np.abs(doubled - once) <= apart * np.abs(once)))


@dataclass
class _View:
    """One tensor over all passes."""

    comparison: _Comparison
    tensor: str

    @cached_property
    def of(self) -> dict[str, Floating]:
        """What each pass computed, those that computed it."""
        found = {name: each.get(self.tensor) for name, each in self.comparison.seen.tensors.items()}
        return {name: each for name, each in found.items() if each is not None}

    @cached_property
    def is_param(self) -> bool:
        names = [GRADIENT + each.name for each in self.comparison.plan.structure.params]
        return self.tensor in names

    @property
    def name(self) -> str:
        """The input or the parameter that it is the gradient of."""
        return self.tensor.removeprefix(GRADIENT)

    @cached_property
    def share(self) -> float:
        """What a second consumer adds to the gradient."""
        case = self.comparison.plan.case
        shared = case.sharing == "split" and self.tensor == GRADIENT + case.first
        return SHARED_GRADIENT if shared else 0.0

    @cached_property
    def is_pruned(self) -> bool:
        """Whether it is a gradient at loss weight 0, which Caffe does not compute."""
        case = self.comparison.plan.case
        weightless = case.loss_weight is not None and case.weight == 0
        return weightless and self.tensor.startswith(GRADIENT)

    def expected(self, each: Pass) -> Expected:
        """What a pass must give; where parameter diffs add up, with the pass before."""
        asked = self.comparison.asked.expected
        assert each.expected is not None
        if not (each.adds_up and self.is_param):
            return asked[each.expected]
        passes = self.comparison.passes
        before = passes[passes.index(each) - 1].expected
        assert before is not None
        one, another = asked[before], asked[each.expected]
        total = one.truth[self.tensor] + another.truth[self.tensor]
        worst = one.bound.worst[self.tensor] + another.bound.worst[self.tensor]
        worst = worst + 4 * UNIT_ROUNDOFF * np.abs(total) + 4 * UNIT_ROUNDOFF * worst
        tensors = {self.tensor: worst}
        return Expected({self.tensor: total}, Bound(tensors, tensors, one.bound.kinks))

    @cached_property
    def agreements(self) -> dict[str, Agreement]:
        """How far each pass is from what is expected of it."""
        found: dict[str, Agreement] = {}
        done: list[tuple[Floating, Expected, Agreement]] = []
        for each in self.comparison.passes:
            expected = self.expected(each)
            value = self.of.get(each.name)
            if value is None:
                if not self.is_pruned:
                    size = expected.truth[self.tensor].size
                    found[each.name] = missing("was not computed", size)
                continue
            same = (a for v, e, a in done if e is expected and same_bits(v, value))
            agreement = next(same, None) or compare(self.tensor, value, expected)
            done.append((value, expected, agreement))
            found[each.name] = agreement
        return found

    @property
    def worst(self) -> Agreement:
        """The agreement of the pass that is farthest off."""
        return max(self.agreements.values(), key=lambda each: (not each.agrees, each.fraction))

    def top_findings(self) -> Iterator[Finding]:
        """What is wrong with a top."""
        bad = [each for each in self.comparison.passes if not self.agreements[each.name].agrees]
        if not bad:
            return
        if bad[0].name != FIRST and FIRST in self.of:  # no top depends on the top diffs
            yield self._stale(bad[0])
            return
        value = self.of.get(FIRST)
        before = None if value is None else self._as_before(value)
        yield before or self._wrong("forward-value", value, self.comparison.asked.expected[0])

    def gradient_findings(self) -> Iterator[Finding]:
        """What is wrong with the gradient of an input or a parameter, one thing after the other."""
        first = self.of.get(FIRST)
        asked = self.comparison.asked.expected[0]
        if first is None:
            yield self._wrong(self.tensor, None, asked)
            return
        shape = asked.truth[self.tensor].shape
        values = (self.of[each.name] for each in self.comparison.passes if each.name in self.of)
        odd = next((each for each in values if each.shape != shape), None)
        if odd is not None:
            yield self._wrong(self.tensor, odd, asked)
            return
        off = wrong(self.tensor, first, asked)
        unwritten, added = self._unwritten(first, off), self._added(first)
        read = self._read(first, off) & ~added & ~unwritten
        if added.any():  # to add nothing, or what 1 swallows, is no failure to write
            nothing = UNIT_ROUNDOFF + asked.bound.worst[self.tensor]
            added |= unwritten & (np.abs(asked.truth[self.tensor] - self.share) <= nothing)
            unwritten &= ~added
        if unwritten.any():
            yield self._finding(f"unwritten-diff:{self.name}", self._never_written(unwritten))
        if added.any():
            words = (
                f"the diff of {self.name} is added to what it held (`+=`): it must be overwritten"
            )
            yield self._finding(f"accumulates-diff:{self.name}", words)
        if read.any():
            words = f"the diff of {self.name} is computed from what it held: it must be overwritten"
            yield self._finding(f"accumulates-diff:{self.name}", words)
        unwritten |= read  # of neither is it known what the layer would have written
        value = self._as_if_written(first, unwritten, added, asked)
        if added.any():  # a sum with 1 has rounded by up to half an ulp of it
            truth = asked.truth[self.tensor]
            room = 4 * UNIT_ROUNDOFF * (1 + np.abs(truth)) + asked.bound.worst[self.tensor]
            tensors = {self.tensor: room}
            asked = replace(asked, bound=Bound(tensors, tensors, asked.bound.kinks))
        if value is not first or added.any():  # else that is known already
            off = wrong(self.tensor, value, asked)
        off = off & ~unwritten
        before = self._as_before(value)
        stale = before is not None and before.code == "stale-state"
        ignored = not stale and self._ignores_top_diff(bool(added.any()), unwritten)
        is_loss = self.comparison.plan.structure.is_loss
        if ignored:
            what = "the same at every loss weight" if is_loss else "the same for every top diff"
            words = f"the gradient of {self.name} is {what}: top[0].diff is unused"
            yield self._finding("ignores-top-diff", words)
        if off.any() and (is_loss or not ignored):
            yield before or self._wrong(self.tensor, value, asked, off, unwritten)
        if not ignored and not off.any() and not unwritten.any() and not added.any():
            yield from self._for_other_top_diffs()
        if added.any():
            yield from self._added_later(value, added, unwritten)
        elif not (self.is_param and unwritten.any()):
            yield from self._in_later_passes(bool(off.any()), unwritten)

    def _unwritten(self, first: Floating, off: Bools) -> Bools:
        """The elements that still hold what they were filled with, twice."""
        second = self.of.get(SECOND)
        if not self.comparison.seen.poisoned or not off.any():
            return np.zeros_like(off)
        if self.is_param:
            none = not np.any(first[off]) and (second is None or not np.any(second[off]))
            return off if none else np.zeros_like(off)
        held: Bools = off & (first == np.float32(HUGE + self.share))
        if second is not None:
            held &= second == np.float32(ONE + self.share)
        return held

    def _read(self, first: Floating, off: Bools) -> Bools:
        """The elements that are huge only where the diff held something huge."""
        second = self.of.get(SECOND)
        poisoned = self.comparison.seen.poisoned and off.any()
        if second is None or self.is_param or not poisoned:
            return np.zeros(first.shape, np.bool_)
        with np.errstate(invalid="ignore"):
            least = np.sqrt(HUGE)
            read: Bools = off & (np.abs(first) > least) & (np.abs(second) < least)
        return read

    def _added(self, first: Floating) -> Bools:
        """The elements that were added to: the huge value swallows what was, 1 does not."""
        second = self.of.get(SECOND)
        if second is None or self.is_param or not self.comparison.seen.poisoned:
            return np.zeros(first.shape, np.bool_)
        added: Bools = first == np.float32(HUGE + self.share)
        added &= second != np.float32(ONE + self.share)
        return added

    def _as_if_written(
        self, first: Floating, unwritten: Bools, added: Bools, asked: Expected
    ) -> Floating:
        """The gradient that the layer computed, whatever it did with it."""
        value = first
        if added.any():
            value = np.where(added, self.of[SECOND].astype(np.float64) - ONE, first)
        return np.where(unwritten, asked.truth[self.tensor], value) if unwritten.any() else value

    def _never_written(self, unwritten: Bools) -> str:
        if unwritten.all():
            return f"the diff of {self.name} is never written"
        count = f"{np.count_nonzero(unwritten)} of {unwritten.size}"
        return f"{count} elements of {self.name}'s diff are never written"

    def _ignores_top_diff(self, added: bool, unwritten: Bools) -> bool:
        """Whether every upstream gradient gives the same bits, where no number is right for all.

        Diffs that are added to are compared where all of them held 1 before, those of which some
        elements are not written in the others.
        """
        asked = self.comparison.asked.expected
        names = [each.name for each in self.comparison.passes if each.name.startswith("upstream")]
        names = [SECOND if added else FIRST, *names]
        names = [name for name in names if name in self.of]
        if len(names) < 2:
            return False
        values = [self.of[name][~unwritten] for name in names]
        nothing = np.float32(self.share), np.float32(HUGE)
        said = [each[np.isfinite(each)] for each in values]
        if any(np.all(said[0] == each) for each in nothing):
            return False
        differs = any(self._exclude(asked[0], each) for each in asked[1:])
        return differs and all(
            np.array_equal(values[0], each, equal_nan=True) for each in values[1:]
        )

    def _exclude(self, one: Expected, other: Expected) -> bool:
        """Whether what is right for one upstream gradient is wrong for another, of some element."""
        with np.errstate(invalid="ignore"):
            between = np.abs(one.truth[self.tensor] - other.truth[self.tensor])
        return bool(np.any(between > one.bound.worst[self.tensor] + other.bound.worst[self.tensor]))

    def _for_other_top_diffs(self) -> Iterator[Finding]:
        """What is wrong at another top diff than the first, with the explanation that predicts it.

        A loss's first is 1, so that a power of it is seen at others only.
        """
        for each in self.comparison.passes:
            if not each.name.startswith("upstream") or self.agreements[each.name].agrees:
                continue
            words = f"the gradient of {self.name} is right for one top diff and wrong for another"
            failure = self._failure(self.of[each.name], self.expected(each))
            if self.comparison.plan.structure.is_loss and each.upstream:
                weight = float(next(iter(each.upstream.values())).flat[0])
                failure = replace(failure, weight=weight)
                words = f"right at loss weight 1, at {weight:g} not"
            found = self.comparison.explained(failure)
            yield self._finding(self.tensor, f"{words}: {found.words}", found.code)
            return

    def _in_later_passes(self, first_is_wrong: bool, unwritten: Bools) -> Iterator[Finding]:
        """What a pass with the same inputs gives that the first one did not, if written."""
        for each in self.comparison.passes:
            if each.name not in LATER or each.name not in self.of:
                continue
            if each.adds_up and self.is_param:
                if not first_is_wrong and not self.agreements[each.name].agrees:
                    yield self._not_added(each)
                    return
            elif first_is_wrong:
                if np.any(self._moved(FIRST, each.name) & ~unwritten):
                    yield self._stale(each)
                    return
            elif not self.agreements[each.name].agrees:
                off = wrong(self.tensor, self.of[each.name], self.expected(each))
                if np.any(off & ~unwritten):
                    yield self._stale(each)
                    return

    def _added_later(self, value: Floating, added: Bools, unwritten: Bools) -> Iterator[Finding]:
        """What a pass with the same inputs adds that the second one did not; its sum rounds."""
        for each in self.comparison.passes:
            if each.name in LATER and each.name in self.of:
                later = self.of[each.name].astype(np.float64)
                later = np.where(added, later - each.poison, later)
                swallowed = 4 * UNIT_ROUNDOFF * (each.poison + np.abs(value))
                if np.any(self._apart(value, later, swallowed) & ~unwritten):
                    yield self._stale(each)
                    return

    def _moved(self, one: str, another: str) -> Bools:
        """The elements that differ from one pass to another by more than rounding."""
        if same_bits(self.of[one], self.of[another]):  # of nearly all that is right
            return np.zeros(self.of[one].shape, np.bool_)
        first, later = self.of[one].astype(np.float64), self.of[another].astype(np.float64)
        return self._apart(first, later, 0.0)

    def _apart(self, first: Floating, later: Floating, more: Floating | float) -> Bools:
        """The elements that differ by more than rounding, and than a room that is named."""
        worst = self.comparison.asked.expected[0].bound.worst[self.tensor]
        room = 2 * np.where(np.isfinite(worst), worst, np.inf) + 64 * UNIT_ROUNDOFF * np.abs(first)
        room = room + more
        with np.errstate(invalid="ignore"):
            same = (first == later) | (np.isnan(first) & np.isnan(later))
            moved: Bools = ~(same | (np.abs(first - later) <= room))
        return moved

    def _not_added(self, each: Pass) -> Finding:
        """A parameter's diff that is not the sum of two backwards."""
        alone = self.comparison.asked.expected[0]
        if np.any(wrong(self.tensor, self.of[each.name], alone)):
            return self._stale(each)
        words = (
            f"the diff of {self.name} is overwritten: it must be added to (`+=`), or all but the "
            "last of iter_size batches, and of layers that share it, are lost"
        )
        return self._finding(f"overwrites-param-diff:{self.name}", words)

    def _stale(self, each: Pass) -> Finding:
        what = f"gradient of {self.name}" if self.tensor.startswith(GRADIENT) else self.tensor
        words = LATER.get(each.name, LATER[SECOND]).format(what)
        return self._finding("stale-state", words)

    def notes(self) -> Iterator[Finding]:
        """What only a second backward without a forward shows, which Caffe never asks for."""
        if not {AGAIN, SECOND} <= set(self.of) or self.is_param:
            return
        if np.any(self._moved(SECOND, AGAIN)):
            words = (
                f"a second backward without a forward gives another gradient of {self.name}; "
                "Caffe runs one forward before each backward"
            )
            yield self._finding("second-backward", words)

    def _as_before(self, value: Floating) -> Finding | None:
        """What it means that a pass with other inputs gave the same; None where it gave another.

        What was right for the inputs before is of the pass before; what was not, though these have
        another truth, depends on no inputs.
        """
        before = self.of.get(OTHER)
        if before is None or not same_bits(value, before):
            return None
        asked, question = self.comparison.asked.expected[0], self.comparison.asked
        if not fits(self.tensor, value.shape, asked.truth[self.tensor].shape):
            return None
        [other] = [each for each in self.comparison.plan.passes if each.name == OTHER]
        truth = np.asarray(question.truth(other.inputs, other.upstream)[self.tensor])
        if truth.size != before.size:
            return None
        worst = asked.bound.worst[self.tensor]
        room = SLACK * np.max(worst, initial=0.0, where=np.isfinite(worst)) + CLOSE * np.abs(truth)
        values = before.astype(np.float64).reshape(truth.shape)
        with np.errstate(invalid="ignore"):
            near = (np.abs(values - truth) <= room) | (np.isnan(truth) & np.isnan(values))
            moved = np.abs(asked.truth[self.tensor].reshape(truth.shape) - truth) > 2 * room
        gradient = self.tensor.startswith(GRADIENT)
        what = f"the gradient of {self.name}" if gradient else self.tensor
        if np.all(near):
            return self._finding("stale-state", f"{what} is the one of the pass before")
        if not np.any(moved) or not np.all(np.isfinite(values)) or np.all(values == self.share):
            return None
        number = f", {values.flat[0]:.7g}" if np.all(values == values.flat[0]) else ""
        words = f"{what} is a constant{number}: it is the same for other inputs"
        return self._finding(self.tensor if gradient else "forward-value", words, "constant")

    def _finding(self, code: str, words: str, cause: str = "") -> Finding:
        return Finding(code, words, self.tensor, cause)

    def _wrong(
        self,
        code: str,
        value: Floating | None,
        expected: Expected,
        off: Bools | None = None,
        unwritten: Bools | None = None,
    ) -> Finding:
        """A value that is wrong, with the explanation that predicts it.

        Args:
            code: of the finding.
            value: what was computed.
            expected: the truth and its bound.
            off: which elements are wrong, where that is known already.
            unwritten: the elements that say nothing.
        """
        name = spoken(self.tensor)
        if value is None:
            return self._finding(code, f"{name} was not computed at all", "not-computed")
        truth = expected.truth[self.tensor]
        if not fits(self.tensor, value.shape, truth.shape):
            words = f"{name} has shape {value.shape}, expected {truth.shape}"
            words += rounded_sizes(self.tensor, value, expected)
            return self._finding(code, words, "shape")
        failure = self._failure(value.reshape(truth.shape), expected, off, unwritten)
        found = self.comparison.explained(failure)
        if found.code == "ignores-top-diff":
            code = found.code
        return self._finding(code, found.words, found.code)

    def _failure(
        self,
        value: Floating,
        expected: Expected,
        off: Bools | None = None,
        unwritten: Bools | None = None,
    ) -> Failure:
        plan = self.comparison.plan
        off = wrong(self.tensor, value, expected) if off is None else off
        truth = expected.truth[self.tensor]
        actual = value.astype(np.float64)
        bound = np.asarray(expected.bound.worst[self.tensor])
        # At a kink the gradient is not known; what stands there must not decide on a hypothesis.
        bound = np.where(np.isfinite(bound), bound, np.inf)
        if unwritten is not None:
            bound = np.where(unwritten, np.inf, bound)
        of_input = truth.size == 1 or self.is_param
        shape = plan.case.shapes.get(plan.case.first, ()) if of_input else truth.shape
        if truth.size == 1:  # a loss, whose words need no index
            truth, bound, actual = truth.reshape(()), bound.reshape(()), actual.reshape(())
            off = off.reshape(())
        return Failure(
            tensor=self.tensor,
            name=spoken(self.tensor),
            is_gradient=self.tensor.startswith(GRADIENT),
            expected=truth - self.share,
            bound=bound,
            actual=actual - self.share,
            wrong=off,
            shape=shape,
            is_loss=plan.structure.is_loss,
            weight=plan.case.weight,
            unweighted=self._unweighted(),
            rivals=partial(self.comparison.rivals),
            averages=lambda: self.comparison.averages,
        )

    def _unweighted(self) -> Array64 | None:
        """Of a case with loss weight 0, the gradient at 1."""
        if not self.is_pruned:
            return None
        asked = self.comparison.asked
        ones = {name: np.ones(1, np.float32) for name in self.comparison.plan.structure.driven}
        return np.asarray(asked.truth(asked.inputs, ones)[self.tensor]) - self.share


def rounded_sizes(tensor: str, value: Floating, expected: Expected) -> str:
    """Whether a shape comes of a size that was rounded the other way: what both have is right."""
    truth = expected.truth[tensor]
    if value.ndim != truth.ndim:
        return ""
    more = [one - another for one, another in zip(value.shape, truth.shape, strict=True)]
    axes = [axis for axis, each in enumerate(more) if each]
    if axes[0] < 2 or len({more[axis] for axis in axes}) > 1 or abs(more[axes[0]]) != 1:
        return ""
    both = tuple(slice(min(pair)) for pair in zip(value.shape, truth.shape, strict=True))
    bound = {tensor: np.asarray(expected.bound.worst[tensor]).reshape(truth.shape)[both]}
    shared = Expected({tensor: truth[both]}, Bound(bound, bound))
    if not compare(tensor, value[both], shared).agrees:
        return ""
    fewer = more[axes[0]] < 0
    this, that = "down (floor)", "up (ceil)"
    this, that = (this, that) if fewer else (that, this)
    which = f"one {'fewer' if fewer else 'more'} along axis {' and '.join(map(str, axes))}"
    return (
        f": {which}, and the rest is right: its size is rounded {this}, not {that}. Caffe's "
        "Pooling rounds up, PyTorch's down unless it gets ceil_mode=True"
    )


def agreement_words(tensors: Mapping[str, Agreement]) -> str:
    """Each tensor that does not agree, with its worst place."""
    parts = []
    for name, each in tensors.items():
        if each.agrees:
            continue
        place = f" at {list(each.worst_index)}" if each.worst_index else ""
        actual = "what it held before" if each.actual == HUGE else f"{each.actual:.9g}"
        words = each.note or (
            f"{each.wrong} of {each.size} beyond the bound, worst{place}: "
            f"{actual}, expected {each.expected:.9g}"
        )
        parts.append(f"{spoken(name)}: {words}")
    return "; ".join(parts)
