"""Holds a port against what Caffe computed, not only against the truth.

Both lie within the case's bound b of the truth t (reference/rounding.py holds for every order of
summation, and so for every variant of the layer): |port - t| <= b and |caffe - t| <= b, so that

    |port - caffe| <= 2b

by the triangle inequality. Where b is 0, both must be the same number; where b is infinite (a sum
that overflows in some order and not in others) both a number and an infinity are right, and the
two say nothing of each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from caffe_parity.contract import (
    TENSORS,
    Array64,
    Bound,
    Case,
    Expectation,
    Inputs,
    Result,
    Run,
    Variant,
)
from caffe_parity.engine.judge import Outcome, Prepared, compared, judge, prepared
from parity_tests.recorded.variants import RecordedVariant
from reference.layers import LAYERS

AGAINST = "-vs-caffe"
"""What the name of a port ends in where it is held against Caffe."""


@lru_cache(maxsize=1)  # the variants of a case follow one another
def doubled(layer: str, case: Case) -> Bound:
    """Twice the bound of a case."""
    bound = prepared(layer, case).bound
    return Bound(
        {name: 2 * each for name, each in bound.worst.items()},
        {name: 2 * each for name, each in bound.typical.items()},
    )


def against(about: Mapping[str, Any], layer: str, case: Case, run: Run, caffe: Result) -> Outcome:
    """The verdict on a run whose truth is a result of Caffe's.

    Args:
        about: the layer, the variant and the case, by which the outcome is named.
        layer: what both compute.
        case: the case.
        run: what is judged.
        caffe: what Caffe computed.
    """
    data = prepared(layer, case)
    bound = doubled(layer, case)
    # A diff that Caffe did not compute is None: nothing to compare with.
    expected = {name: _comparable(caffe.tensors()[name], bound.worst[name]) for name in TENSORS}
    loss = expected["loss"]
    assert loss is not None
    truth = Result(loss, expected["dx1"], expected["dx2"])
    wanted = Prepared(data.inputs, data.other, data.larger, truth, bound)
    return compared(dict(about), LAYERS[layer], case, wanted, run)


def _comparable(tensor: npt.NDArray[np.floating] | None, bound: Array64) -> Array64 | None:
    """Caffe's tensor in float64; a number for its infinities where both are right.

    `engine.compare` takes any number and either infinity for a number with an infinite bound.
    """
    if tensor is None:
        return None
    expected = np.asarray(tensor, np.float64)
    free = np.isposinf(bound) & np.isinf(expected)
    return np.where(free, 0.0, expected) if free.any() else expected


class _Watched:
    """A variant that keeps its last run; implements `caffe_parity.contract.Variant`."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self.name, self.layer = variant.name, variant.layer
        self.last: Run | None = None

    def expects(self, case: Case) -> Expectation | None:
        return self.variant.expects(case)

    def cannot_run(self) -> str | None:
        return self.variant.cannot_run()

    def run(self, case: Case, inputs: Inputs, other: Inputs, larger: Inputs) -> Run:
        self.last = self.variant.run(case, inputs, other, larger)
        return self.last


def judged(variant: Variant, case: Case, recorded: Sequence[RecordedVariant]) -> Iterator[Outcome]:
    """The verdict against the reference, and for a port that against what Caffe computed.

    Args:
        variant: a port, or one of the recorded variants.
        case: what it computes.
        recorded: what there is to hold a port against; those of its layer are used.
    """
    watched = _Watched(variant)
    outcome = judge(watched, case)
    yield outcome
    if isinstance(variant, RecordedVariant):
        return
    beside: Outcome | None = replace(outcome, variant=variant.name + AGAINST, seconds=0.0)
    if watched.last is not None:
        beside = _against_caffe(outcome, case, watched.last, recorded)
    if beside is not None and beside.verdict != "not run":
        yield beside


def _against_caffe(
    about: Outcome, case: Case, run: Run, recorded: Sequence[RecordedVariant]
) -> Outcome | None:
    """The verdict on a run against every different result of its layer, if there is any."""
    name = about.variant + AGAINST
    fields = {"layer": about.layer, "variant": name, "case": about.case, "size": about.size}
    alike: dict[tuple[str | None, ...], list[RecordedVariant]] = {}
    for variant in recorded:
        recording = variant.recordings.get(case.name) if variant.layer == about.layer else None
        if recording and not recording.refusal and not recording.expectation:
            alike.setdefault(tuple(recording.digests.values()), []).append(variant)
    outcomes = []
    for same in alike.values():
        outcome = against(fields, about.layer, case, run, same[0].result(case.name))
        names = ", ".join(each.name for each in same)
        outcomes.append(replace(outcome, reason=_beside(names, outcome.reason)))
    if not outcomes:
        return None
    bad = [each for each in outcomes if not each.agrees]
    worst = {
        name: max(
            (each.tensors[name] for each in outcomes if name in each.tensors),
            key=lambda agreement: (not agreement.agrees, agreement.fraction),
        )
        for name in TENSORS
        if any(name in each.tensors for each in outcomes)
    }
    reason = "\n".join(each.reason for each in bad)
    return replace(bad[0] if bad else outcomes[0], tensors=worst, reason=reason)


def _beside(names: str, reason: str) -> str:
    return f"beside the recorded {names}: {reason}" if reason else ""
