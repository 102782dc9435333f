"""Where in a port the values lie that no module of it gives, and what lies in front of a module.

Layers that the port computes in one, or between modules, are judged together, and a fault in one
of them is all theirs. So each value between them is looked for among the results of the port's
operations: where it is, the part is cut in two. Where it is not, since the port has made it wrong,
Caffe's is put in the place of each result of its size in turn: if the port then goes on rightly,
the mistake lies before that. A module may also be what computes a layer only with what comes before
it (a padding) or behind it (a bias, a division by the batch): the cut lies there then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from caffe_parity.whole.between import FINE, right_without
from caffe_parity.whole.fields import differences
from caffe_parity.whole.port import Made, Node, close_to
from caffe_parity.whole.recipe import State, Value, ingredients, steps_of
from caffe_parity.whole.rivals import explained, in_other_order, orders

if TYPE_CHECKING:
    from caffe_parity.whole.golden import Golden
    from caffe_parity.whole.judged import Comparison, Part
    from caffe_parity.whole.port import Call

EXPENSIVE = 8
"""Runs that cost what a search for a cause does."""

TRIES = 32
"""Runs of the port after which what is wrong is not searched further."""


def cut(found: Comparison) -> Comparison:
    """The comparison with parts that are as small as the port's operations allow."""
    tries = iter(range(TRIES))
    found = _at_operations(_gone_through(_turned_round(found, tries)))
    for call in [each for each in found.matched.steps if _top(found, each) in found.far]:
        module, step = found.port.modules[call.module], found.matched.steps[call][0]
        is_told = bool(differences(found.net, step, module))  # and what follows is not of it
        if not is_told and next(tries, None) is not None:
            found = _better(found, opened=found.matched.opened | {call})
    found = _gone_through(_at_operations(found))
    while smaller := _before_what_is_right(found, tries):
        found = smaller
    return found


def _turned_round(found: Comparison, tries: Iterator[int]) -> Comparison:
    """With layers in one part that the port runs in another order: none of its modules is wrong."""
    wired = {value for _, _, value in found.first.wired}
    strange = {found.matched.steps[call][0].bottoms[0] for call in found.first.changed}
    told = wired | strange | found.far
    for names, _, _ in orders(found.net.steps) if told else ():
        steps = {
            call: some
            for call, some in found.matched.steps.items()
            if not {each.name for each in some}.issubset(names)
        }
        chain = [each for each in found.net.steps if each.name in names]
        some = {name for each in chain for name in (*each.bottoms, *each.tops)}
        if len(steps) == len(found.matched.steps) or some.isdisjoint(told):
            continue
        if next(tries, None) is None:
            break
        how = {call: each for call, each in found.matched.how.items() if call in steps}
        tops = [each.tops[0] for each in chain]
        ops = {n: each for n, each in found.matched.ops.items() if each.value not in tops}
        other = _changed(found, steps=steps, how=how, ops=ops, partial=True)
        other = _changed(other, ops=ops | other.first.ops, partial=found.matched.partial)
        own, top = other.first.own, tops[-1]
        part = next((each for each in other.parts if top in each.tops), None)
        if other.first.failed or part is None or other.doubts > found.doubts:
            continue
        made = own[top].double().numpy()
        if in_other_order(found.net, part.steps, part.bottoms, top, made) == names:
            found = other
            break
    return found


def _gone_through(found: Comparison) -> Comparison:
    """With calls that take what the port makes of a value, where less speaks against that."""
    for call in [each for each in found.first.made_of if each not in found.matched.through]:
        found = _better(found, through=found.matched.through | {call})
    return found


def _changed(found: Comparison, **changes: object) -> Comparison:
    return replace(found, matched=replace(found.matched, **changes))  # type: ignore[arg-type]


def _better(found: Comparison, **changes: object) -> Comparison:
    """With a change, if less speaks against the match then."""
    other = _changed(found, **changes)
    return other if other.first.failed is None and other.doubts < found.doubts else found


def _top(found: Comparison, call: Call) -> str:
    return found.matched.layout.calls[call].top


def hidden(found: Comparison, part: Part) -> list[str]:
    """The values within a part, in the net's order."""
    return [
        top
        for step in part.steps
        for top in step.tops
        if top not in part.tops and top not in found.net.outputs
    ]


def _at_operations(found: Comparison) -> Comparison:
    """Cut where operations make what lies within a part, or what a module should have given."""
    makers = {_top(found, call): call for call in found.matched.steps}
    within = [name for part in found.parts for name in hidden(found, part)]
    # What the port changes on the way to one of several readers is none of the others'.
    changed = [
        name
        for name in found.beyond(FINE).difference(makers)
        if sum(name in step.bottoms for step in found.net.steps) > 1
    ]
    within += changed
    wanted = [
        name for name in (*within, *found.far.intersection(makers)) if _alone(found.net, name)
    ]
    if not wanted:
        return found
    read = {name for step in found.net.steps for name in step.bottoms}
    seen = found.ops_like(wanted)
    first: dict[str, Node] = {}
    takes_all: set[str] = set()
    for node in sorted(seen.nodes.values(), key=lambda node: node.op):
        for name in node.alike - takes_all:
            inside = name in seen.recipes and node.recipe in steps_of(seen.recipes[name])
            if inside and name not in read:  # the rest of the module is no other layer
                continue
            has_all = _takes_all(found, name, node)
            if has_all or name not in first:  # a bias of 0 is added to what is the value already
                first[name] = node
            takes_all |= {name} if has_all else set()
    together = _placed(found, first, len(first.keys() & set(changed)))
    if together or len(first) < 2:
        return together or found
    for name, node in first.items():
        found = _placed(found, {name: node}, int(name in changed)) or found
    return found


def _takes_all(found: Comparison, name: str, node: Node) -> bool:
    """Whether a result is made with all parameters of the layer whose value it may be."""
    taken = [each.name for each in ingredients(node.recipe) if isinstance(each, State)]
    known = {param for each in taken for param in found.weights.made_of(each)}
    return known.issuperset(found.weights.known.intersection(found.net.maker[name].params))


def _placed(found: Comparison, at: dict[str, Node], wrong: int = 0) -> Comparison | None:
    """With Caffe's values in the place of some results; None where the parts are none then.

    Args:
        found: without them.
        at: by value, where.
        wrong: how many of the results may be something else.
    """
    taken = {number: made.value for number, made in found.matched.ops.items()}
    for name, node in at.items():
        other = taken.get(node.op[0], name)  # may be wrong, in a port without the layers between
        skipped = name in node.alike and name in found.net.behind.get(other, ())
        free = skipped and other in found.beyond(FINE)
        if other != name and not free:
            return None
    if not at:
        return None
    makers = {_top(found, call): call for call in found.matched.steps}
    tried = _changed(
        found,
        ops={
            **{number: made for number, made in found.matched.ops.items() if made.value not in at},
            **{node.op[0]: Made(name, node.op[1]) for name, node in at.items()},
        },
        opened=found.matched.opened | {makers[name] for name in at if name in makers},
    )
    good = tried.first.failed is None and all(name in tried.first.own for name in at)
    most = found.doubts + wrong - (not makers.keys().isdisjoint(at))
    return tried if good and tried.doubts <= most and not _stray(tried, [*at]) else None


def _stray(found: Comparison, cuts: Sequence[str]) -> bool:
    """Whether a part around a cut takes other values than its layers read, as past the cut."""
    for part in found.parts:
        if not {*part.tops, *part.bottoms}.intersection(cuts):
            continue
        read = {name for step in part.steps for name in step.bottoms}
        for top in part.tops:
            recipe = found.first.recipes.get(top)
            if recipe is None and found.first.signatures:  # made of numbers that Python had
                continue
            if recipe is None:
                return True
            taken = {each.name for each in ingredients(recipe) if isinstance(each, Value)}
            if taken - read or not taken.intersection(part.bottoms):
                return True
    return False


def _alone(net: Golden, name: str) -> bool:
    """Whether no other value is the same but for rounding, except those that it is made of.

    As the value behind an idle Dropout, which is what that reads.
    """
    values = {other: torch.from_numpy(each) for other, each in net.values.items()}
    return close_to(values[name], values) - {name} <= net.behind[name]


def _before_what_is_right(found: Comparison, tries: Iterator[int]) -> Comparison | None:
    """A part that is wrong, cut before what is right in it; None where none can be."""
    for part in found.parts:
        for top in found.beyond(FINE).intersection(part.tops):
            recipe = found.first.recipes.get(top)
            known = [found.first.nodes.get(id(each)) for each in steps_of(recipe)] if recipe else []
            value = found.net.values[top]
            for name in reversed(hidden(found, part)):
                if np.array_equal(found.net.values[name], value):  # which an idle Dropout passes on
                    continue
                size = found.net.values[name].size
                wrong = []  # in which something is wrong behind the cut, too
                for node in reversed([each for each in known if each and each.size == size]):
                    if next(tries, None) is None:
                        return None
                    other = _placed(found, {name: node}, 1)
                    if other and top not in other.beyond(FINE):
                        return other
                    wrong += [other] if other else []
                for other in wrong:
                    if _known(other, name, top, tries):
                        return other
    return None


def _known(found: Comparison, name: str, top: str, tries: Iterator[int]) -> bool:
    """Whether what is wrong behind a cut has a cause of its own, beside what is wrong before it."""
    behind = next(part for part in found.parts if top in part.tops)
    before = next(part for part in found.parts if name in part.tops)
    if behind is before:
        return False
    if right_without(found, top):
        return True
    made = found.first.own[top]
    if close_to(made, {name: torch.from_numpy(found.net.values[name])}):
        return False  # all of it lies before the cut
    left = [next(tries, None) for _ in range(EXPENSIVE)]
    net = found.net
    return None not in left and bool(
        explained(net, behind.steps, behind.bottoms, top, made.double().numpy())
    )
