"""Branches that share their parameters, as one batch: many a siamese port runs them so.

The net is told anew: where the branches hold the same layers, there is one on the branches' blobs,
one behind the other along the batch; a Concat makes these of what the branches read, and a Slice
gives what others read of them. Nothing is computed anew: what Caffe has computed is put together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations

import numpy as np

from caffe_parity.contract import Array32
from caffe_parity.whole.golden import Golden, Step

JOINED = " & "
"""Stands between the names of the blobs that are one batch."""


@dataclass
class _Branches:
    """The layers that belong together, and the blobs.

    Attributes:
        steps: each tuple the same layer of every branch.
        blobs: from each blob of the first branch to those of all.
    """

    steps: list[tuple[Step, ...]] = field(default_factory=list)
    blobs: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def add(self, steps: tuple[Step, ...]) -> None:
        """One layer more of every branch."""
        self.steps.append(steps)
        self.blobs |= {blobs[0]: blobs for blobs in zip(*(s.tops for s in steps), strict=True)}


MOST = 3
"""Branches of which every order in the batch is tried."""


def stacked(net: Golden, owner: Step) -> Iterator[Golden]:
    """The net with its branches as one batch, for each order that they may have there.

    Args:
        net: the net.
        owner: a layer of a branch whose parameters those of the others share.
    """
    count = len(sharing(net, owner)) + 1
    shared = [
        (one, *others)
        for one in net.steps
        if one.params and set(one.params) <= set(net.owned)
        for others in [sharing(net, one)]
        if len(others) == count - 1
    ]
    found = _Branches()
    for steps in shared:
        found.add(steps)
    _grow(net, found)
    indices = [step.index for steps in found.steps for step in steps]
    if len(set(indices)) == len(indices) and 1 < count <= MOST:
        for order in permutations(range(count)):
            yield _told(net, [tuple(steps[index] for index in order) for steps in found.steps])


def sharing(net: Golden, owner: Step) -> list[Step]:
    """The layers that have the parameters of one, under names of their own."""
    return [
        other
        for other in net.steps
        if other is not owner
        and _alike(owner, other)
        and len(other.params) == len(owner.params)
        and not set(other.params) & set(net.owned)
        and all(
            np.array_equal(net.params[one], net.params[two])
            for one, two in zip(owner.params, other.params, strict=True)
        )
    ]


def _alike(one: Step, other: Step) -> bool:
    return one.type == other.type and one.fields == other.fields


def _grow(net: Golden, found: _Branches) -> None:
    """Adds the layers without parameters around those that the branches share."""
    grown = True
    while grown:
        grown = False
        taken = {step.index for steps in found.steps for step in steps}
        for steps in [*found.steps]:
            for near in (*_readers(net, steps), *_makers(net, steps)):
                fresh = not {step.index for step in near} & taken
                apart = len({step.index for step in near}) == len(near)
                same = all(_alike(near[0], step) and not step.params for step in near)
                inside = all(len(step.bottoms) == 1 for step in near)
                if fresh and apart and same and inside and len(near) == len(steps):
                    found.add(near)
                    taken |= {step.index for step in near}
                    grown = True


def _readers(net: Golden, steps: tuple[Step, ...]) -> Iterator[tuple[Step, ...]]:
    several = [[each for each in net.steps if step.tops[0] in each.bottoms] for step in steps]
    yield from zip(*several, strict=False)


def _makers(net: Golden, steps: tuple[Step, ...]) -> Iterator[tuple[Step, ...]]:
    makers = [net.maker.get(step.bottoms[0]) for step in steps]
    if all(makers):
        yield tuple(each for each in makers if each)


def _told(net: Golden, groups: Sequence[tuple[Step, ...]]) -> Golden:
    """The net with one layer for each group."""
    first = {steps: min(step.index for step in steps) for steps in groups}
    made = {tops: JOINED.join(tops) for steps in groups for tops in _tops(steps)}
    read = {blobs: JOINED.join(blobs) for steps in groups for blobs in _bottoms(steps)}
    entries = {blobs: name for blobs, name in read.items() if blobs not in made}
    inside = {step.index for steps in groups for step in steps}
    values, diffs = dict(net.values), dict(net.diffs)
    for blobs, name in {**read, **made}.items():
        values[name] = _joined([net.values[each] for each in blobs])
        if all(each in net.diffs for each in blobs):
            diffs[name] = _joined([net.diffs[each] for each in blobs])
    steps: list[Step] = []
    for blobs, name in entries.items():
        sent = _sent(groups, blobs, net.values)
        diffs[name] = _joined(sent)
        steps.append(_seam("Concat", blobs, (name,), dict(enumerate(sent))))
    last = max(inside)
    after = [step for step in net.steps if step.index > last]
    before = [step for step in net.steps if step.index < last and step.index not in inside]
    for group in sorted(groups, key=lambda each: first[each]):
        own = next(iter(sorted(group, key=lambda step: step.index)))
        bottoms = tuple(read[blobs] for blobs in _bottoms(group))
        sent_back = {
            position: _joined([step.bottom_diffs[position] for step in group])
            for position in range(len(bottoms))
            if all(position in step.bottom_diffs for step in group)
        }
        tops = tuple(made[blobs] for blobs in _tops(group))
        steps.append(replace(own, bottoms=bottoms, tops=tops, bottom_diffs=sent_back))
    outside = [step for step in net.steps if step.index not in inside]
    for blobs, name in made.items():
        readers = [step for step in outside if set(step.bottoms) & set(blobs)]
        unread = not any(blobs == other for group in groups for other in _bottoms(group))
        if readers or unread:
            sent = [_of_readers(readers, blob, net) for blob in blobs]
            steps.append(_seam("Slice", (name,), blobs, {0: _joined(sent)}))
    ordered = [*before, *steps, *after]
    masks = dict(net.masks)
    for blobs, name in made.items():
        if all(blob in net.masks for blob in blobs):
            masks[name] = np.concatenate([net.masks[blob] for blob in blobs])
    return replace(
        net,
        steps=[replace(step, index=number) for number, step in enumerate(ordered)],
        values=values,
        diffs=diffs,
        masks=masks,
        stacked=[tuple(step.name for step in group) for group in groups],
    )


def _tops(steps: tuple[Step, ...]) -> list[tuple[str, ...]]:
    return [*zip(*(step.tops for step in steps), strict=True)]


def _bottoms(steps: tuple[Step, ...]) -> list[tuple[str, ...]]:
    return [*zip(*(step.bottoms for step in steps), strict=True)]


def _joined(arrays: Sequence[Array32]) -> Array32:
    return np.concatenate(arrays)


def _sent(
    groups: Sequence[tuple[Step, ...]], blobs: tuple[str, ...], values: Mapping[str, Array32]
) -> list[Array32]:
    """What the layers of the branches send back to what they read."""
    sent = [np.zeros_like(values[blob]) for blob in blobs]
    for steps in groups:
        for position, read in enumerate(_bottoms(steps)):
            if read == blobs:
                for total, step in zip(sent, steps, strict=True):
                    total += step.bottom_diffs.get(position, 0)
    return sent


def _of_readers(readers: Sequence[Step], blob: str, net: Golden) -> Array32:
    """What others than the branches send back to a blob; where nobody reads it, its own diff."""
    if not any(blob in step.bottoms for step in readers):
        return net.diffs[blob]
    total = np.zeros_like(net.values[blob])
    for step in readers:
        for position, name in enumerate(step.bottoms):
            if name == blob:
                total += step.bottom_diffs.get(position, 0)
    return total


def _seam(
    type_: str, bottoms: tuple[str, ...], tops: tuple[str, ...], sent: dict[int, Array32]
) -> Step:
    """A Concat or a Slice along the batch, which the net itself has not."""
    message = f"{type_.lower()}_param"
    said = {"name": type_, "type": type_, "top": list(tops), message: {"axis": 0}}
    branches = bottoms if len(bottoms) > len(tops) else tops
    name = f"{JOINED.join(branches)} ({type_})"
    return Step(0, name, type_, bottoms, tops, {"axis": 0}, (), sent, said)


def joined(net: Golden, read: Mapping[str, set[str]]) -> Golden:
    """The net with a Concat of what another Concat makes as one, where a port joins all at once.

    As a DenseNet whose layers get a list of all that was made before.

    Args:
        net: the net.
        read: by value, those of which the port makes it.
    """
    steps = {step.index: step for step in net.steps}
    changed = set[int]()
    for step in net.steps:
        made_of = read.get(step.tops[0] if step.tops else "")
        if step.type != "Concat" or made_of is None:
            continue
        bottoms: list[str] = []
        for name in step.bottoms:
            maker = steps[net.maker[name].index] if name in net.maker else step
            same = maker.type == "Concat" and maker.fields["axis"] == step.fields["axis"]
            if maker is step or not same or name in made_of or made_of.isdisjoint(maker.bottoms):
                bottoms.append(name)
                continue
            bottoms += maker.bottoms
            changed |= {step.index, maker.index}
        steps[step.index] = replace(step, bottoms=tuple(bottoms))
    if not changed:
        return net
    diffs = dict(net.diffs)
    for index in sorted(changed, reverse=True):
        step = steps[index]
        (top,) = step.tops
        pieces = [
            each.bottom_diffs[position]
            for each in steps.values()
            for position, name in enumerate(each.bottoms)
            if name == top and position in each.bottom_diffs
        ]
        if not pieces and top not in net.outputs:
            del steps[index]
            continue
        if pieces:
            total = sum(each.astype(np.float64) for each in pieces)
            diffs[top] = np.asarray(total, np.float32)
        axis = step.fields["axis"]
        ends = np.cumsum([net.values[name].shape[axis] for name in step.bottoms])
        parts = np.split(diffs[top], ends[:-1], axis)
        steps[index] = replace(step, bottom_diffs=dict(enumerate(parts)))
    return replace(net, steps=[*steps.values()], diffs=diffs)
