"""Matches modules to layers by what they read, where neither names nor order nor shapes tell.

The port goes on with Caffe's values behind every module that is matched; so a module whose input is
a blob of the net computes one of the layers that read that blob. Where several fit (branches of the
same shape), each assignment is tried, and that one is taken with which most of what comes behind
reads a blob of the net.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, permutations
from typing import TYPE_CHECKING

from caffe_parity.whole.golden import Step
from caffe_parity.whole.matching import KINDS, fits
from caffe_parity.whole.port import Call
from caffe_parity.whole.returned import WEIGHT

if TYPE_CHECKING:
    from caffe_parity.whole.judged import Comparison

Pairs = tuple[tuple[Step, Call], ...]
Build = Callable[[Pairs, bool], "Comparison"]
"""A comparison in which these pairs are matched, and what is left by order or not."""

MOST = 4
"""Of as many modules that fit the same layers, every assignment is tried: 24."""


def by_values(first: Comparison, build: Build, pairs: Pairs = ()) -> Comparison:
    """Another match where one that the order has made leads to more doubts, or leaves layers out.

    Args:
        first: with what order and shapes say.
        build: makes another one.
        pairs: what is matched already.
    """
    guessed = "order" in first.matched.how.values() or first.unmatched or first.homeless
    if not guessed or not first.doubts:
        return first
    pairs, now = _sure(pairs, build)
    while more := _likeliest(pairs, now, build) or _next(pairs, now):
        pairs, now = _sure(more, build)
    found = build(pairs, True)
    return found if pairs and found.doubts < first.doubts else first


def in_turn(found: Comparison, build: Build) -> Comparison:
    """Another match where a module computes several layers in another order than Caffe.

    As a siamese port that runs its right branch first: each call is that layer's whose bottom it
    reads.
    """
    pairs: dict[Step, Call] = {}
    best = found
    for _ in found.net.steps:  # each turn may show what comes behind
        more = {step: call for step, call in _turned(found) if pairs.get(step) != call}
        if not more:
            break
        taken = {*more.values()}
        pairs = {step: call for step, call in pairs.items() if call not in taken} | more
        found = build(tuple(pairs.items()), True)
        best = min(best, found, key=lambda each: each.doubts)
    return best


def crosswise(found: Comparison) -> Comparison:
    """Another match where modules of two layers run the other way round: each with its parameters.

    What the first computes in the port is the second layer's place, with the first one's weights.
    """
    steps, order = found.matched.steps, {call: n for n, call in enumerate(found.first.calls)}
    best = found
    for (one, (first, *_)), (two, (second, *_)) in combinations(steps.items(), 2):
        before, behind = (one, two) if first.index < second.index else (two, one)
        right = order.get(before, -1) <= order.get(behind, -1)
        if right or first.type != second.type or not first.params or not found.doubts:
            continue
        top, other_top = steps[before][-1].tops[0], steps[behind][-1].tops[0]
        if top not in found.net.behind[other_top]:
            continue
        shapes = [
            [found.net.params[name].shape for name in each.params] for each in (first, second)
        ]
        if shapes[0] != shapes[1]:
            continue
        other = replace(found.matched, steps={**steps, one: steps[two], two: steps[one]})
        best = min(best, replace(found, matched=other), key=lambda each: each.doubts)
    return best


def weighed(
    found: Comparison, build: Build, ended: Callable[[Comparison], Comparison]
) -> Comparison:
    """Another match of branches that nothing tells apart but the weights of their losses.

    Args:
        found: with a match that says which values the port returns.
        build: makes another one.
        ended: makes it say which values the port returns.
    """

    def misfits(each: Comparison) -> int:
        several = len(each.net.losses) > 1 and each.first.failed is None
        return sum(one.cause == WEIGHT for one in each.returned.findings()) if several else 0

    guessed = ("order", "their values")
    free = [call for call, how in found.matched.how.items() if how in guessed]
    pairs: dict[Step, Call] = {}
    for one, two in combinations(free, 2):
        if not {one, two} <= found.matched.steps.keys() or not misfits(found):
            continue
        first, second = found.matched.steps[one][0], found.matched.steps[two][0]
        alike = first.bottoms == second.bottoms and first.fields == second.fields
        if not alike or first.type != second.type:
            continue
        tried = pairs | {first: two, second: one}
        other = ended(by_values(build((*tried.items(),), True), build, (*tried.items(),)))
        if other.doubts <= found.doubts and misfits(other) < misfits(found):
            found, pairs = other, tried
    return found


def _turned(found: Comparison) -> Iterator[tuple[Step, Call]]:
    """The layers that calls compute by what they read, where those are others than they have."""
    came = {what: value for what, value, _ in found.first.wired}
    for call, (step, *_) in found.matched.steps.items():
        value = came.get(f"the port's {call}", "")
        fitting = [
            other
            for other in found.net.steps
            if other is not step and other.type == step.type and other.bottoms[:1] == (value,)
            if other.fields == step.fields and len(other.params) == len(step.params)
        ]
        if len(fitting) != 1:
            continue
        yield fitting[0], call
        known = found.matched.call_of(fitting[0])
        free = [each for each in found.first.calls if each not in found.matched.steps]
        others = [known] if known else [each for each in free if each.module == call.module]
        if others and others[0].module == call.module:
            yield step, others[0]


def _sure(pairs: Pairs, build: Build) -> tuple[Pairs, Comparison]:
    """These pairs, and all those that they leave no choice of."""
    while True:
        now = build(pairs, False)
        fitting = _fitting(now)
        more = tuple(
            (step, calls[0])
            for step, calls in fitting.items()
            if len(calls) == 1 and sum(calls[0] in each for each in fitting.values()) == 1
        )
        if not more:
            return pairs, now
        pairs += more


def _likeliest(pairs: Pairs, now: Comparison, build: Build) -> Pairs:
    """With the modules that fit the same layers, in the order with which most fits; () for none."""
    fitting = _fitting(now)
    if not fitting:
        return ()
    step = next(iter(fitting))
    same = [each for each in fitting if set(fitting[each]) & set(fitting[step])]
    calls = list(dict.fromkeys(call for each in same for call in fitting[each]))
    if len(same) > MOST or len(calls) > MOST or len(same) > len(calls):
        return ()
    tried = [tuple(zip(same, each, strict=True)) for each in permutations(calls, len(same))]
    tried = [each for each in tried if all(call in fitting[step] for step, call in each)]
    ends = [_sure((*pairs, *each), build) for each in tried]
    return max(ends, key=lambda each: _score(each[1]), default=((), now))[0]


def _next(pairs: Pairs, now: Comparison) -> Pairs:
    """With the first pair of those left that have parameters, where most fit in one order.

    Behind a mistake, such as a ReLU that is not called, no module reads a value of the net.
    """
    free = [call for call in now.looked.reads if _is_leaf(now, call)]
    steps = now.homeless
    rows = [[0] * (len(free) + 1) for _ in range(len(steps) + 1)]
    for i, step in reversed([*enumerate(steps)]):
        for j, call in reversed([*enumerate(free)]):
            both = fits(now.net, step, now.port.modules[call.module]) and rows[i + 1][j + 1] + 1
            rows[i][j] = max(both, rows[i + 1][j], rows[i][j + 1])
    i = j = 0
    while rows[i][j]:
        if rows[i + 1][j] == rows[i][j]:
            i += 1
        elif rows[i][j + 1] == rows[i][j]:
            j += 1
        else:
            return (*pairs, (steps[i], free[j]))
    return ()


def _is_leaf(now: Comparison, call: Call) -> bool:
    """Whether a call has parameters of its own and nothing inside, as layers have."""
    module = now.port.modules[call.module]
    return any(True for _ in module.parameters()) and not any(True for _ in module.children())


def _score(compared: Comparison) -> int:
    """How much of what is not matched yet reads or gives a value of the net."""
    return len(_fitting(compared)) + compared.looked.near - compared.doubts


def _fitting(compared: Comparison) -> Mapping[Step, Sequence[Call]]:
    """The calls that may compute each layer that is not matched; without those that have none."""
    matched, modules = compared.matched, compared.port.modules
    done = {step.index for steps in matched.steps.values() for step in steps}
    free = {call: names for call, names in compared.looked.reads.items() if names}
    found = {}
    for step in compared.net.steps:
        if step.index in done or not step.bottoms:
            continue
        kinds = KINDS.get(step.type, ())
        calls = [
            call
            for call, names in free.items()
            if step.bottoms[0] in names
            and (
                fits(compared.net, step, modules[call.module])
                if step.params
                else isinstance(modules[call.module], kinds)
            )
        ]
        if calls:
            found[step] = calls
    return found
