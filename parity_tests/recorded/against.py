"""Holds a port against what Caffe computed, not only against the truth.

Both lie within the case's bound b of the truth t (reference/rounding.py holds for every order of
summation, and so for every variant of the layer): |port - t| <= b and |caffe - t| <= b, so that

    |port - caffe| <= 2b

by the triangle inequality. Where b is 0, both must be the same number; where b is infinite (a sum
that overflows in some order and not in others) both a number and an infinity are right, and the
two say nothing of each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np

from caffe_parity import Bound, Case, Layer, Port
from caffe_parity.contract import Expected, Observation, Tensors, VariantFailure
from caffe_parity.engine.judge import Planned, observed, plan_of, record_of, variant_of
from caffe_parity.report.record import Record
from parity_tests.answers import expected_of
from parity_tests.recorded.variants import RecordedVariant

AGAINST = "-vs-caffe"
"""What the name of a port ends in where it is held against Caffe."""


def judged(layer: Layer, name: str, case: Case) -> Iterator[Record]:
    """The verdict on a variant against the reference, and that on a port against Caffe's results.

    Args:
        layer: with the recorded variants that a port is held against.
        name: of the variant.
        case: what it computes.

    Raises:
        BadRequest: it cannot be compared.
    """
    obstacle = variant_of(layer, name).cannot_run()
    if obstacle:
        yield Record(layer.name, name, case.name, "not run", obstacle)
        return
    ready = plan_of(layer, name, case)
    seen, seconds = observed(ready)
    yield replace(record_of(ready, seen), seconds=seconds)
    if isinstance(ready.variant, Port):
        beside = [_beside(ready, seen, *each) for each in results(layer, case).items()]
        if beside:
            yield _one(beside)


@lru_cache(maxsize=1)  # the ports of a case follow one another
def results(layer: Layer, case: Case) -> Mapping[str, Expected]:
    """The results of a layer's recorded variants as truths, by the names of those that are alike.

    The bound is twice that of the case; who does not claim to compute the layer is left out.
    """
    alike: dict[tuple[str | None, ...], list[str]] = {}
    recorded = {k: v for k, v in layer.variants.items() if isinstance(v, RecordedVariant)}
    for name, variant in recorded.items():
        recording = variant.recordings.get(case.name)
        if recording and not recording.refusal and not recording.expectation:
            alike.setdefault(tuple(recording.digests.values()), []).append(name)
    if not alike:
        return {}
    bound = doubled(layer, case)
    return {
        ", ".join(names): as_truth(recorded[names[0]].computed(case.name), bound)
        for names in alike.values()
    }


def doubled(layer: Layer, case: Case) -> Bound:
    """Twice the bound of a case."""
    bound = expected_of(layer, case).bound
    worst, typical = (
        {name: 2 * each for name, each in tensors.items()}
        for tensors in (bound.worst, bound.typical)
    )
    return Bound(worst, typical)


def as_truth(caffe: Tensors, bound: Bound) -> Expected:
    """What Caffe computed as the truth; a gradient that it did not compute is not asked for.

    An infinity with an infinite bound becomes a number: with that bound, `engine.compare` takes
    any number and either infinity for it.
    """
    truth = {}
    for name, tensor in caffe.items():
        if tensor is not None:
            free = np.isposinf(bound.worst[name]) & np.isinf(tensor)
            truth[name] = np.where(free, 0.0, tensor.astype(np.float64))
    return Expected(truth, bound)


def _beside(
    ready: Planned, seen: Observation | VariantFailure, names: str, caffe: Expected
) -> Record:
    """The verdict on what was seen of a port, with a result of Caffe's as the truth."""
    assert isinstance(ready.variant, Port)
    port = replace(ready.variant, gradcheck=False)  # Caffe has no say in that
    asked = replace(ready.question, expected=[caffe])
    other = replace(ready, name=ready.name + AGAINST, variant=port, question=asked)
    record = record_of(other, seen)
    if not record.wrong:
        return record
    return replace(record, reason=f"beside the recorded {names}: {record.reason}")


def _one(records: list[Record]) -> Record:
    """One record for all results of Caffe's, of which most are alike: it agrees where each does."""
    some = [each for each in records if each.wrong] or [e for e in records if not e.weak]
    some = some or records
    every = [pair for each in records for pair in each.tensors.items()]
    last = dict(sorted(every, key=lambda pair: (pair[1].wrong > 0, pair[1].fraction)))
    reason = "\n".join(each.reason for each in some if each.reason)
    return replace(some[0], tensors={**dict(every), **last}, reason=reason)
