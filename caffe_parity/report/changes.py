"""Compares two reports: the bits of every tensor, the verdicts, the time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from caffe_parity.report.bits import Kept, places, ulps
from caffe_parity.report.files import Entry, Key, Report

RANKS = {
    "pass": 0,
    "suspicious": 1,
    "refused": 2,
    "not run": 3,
    "gone": 3,
    "fail": 4,
    "crash": 5,
    "hang": 5,
}
"""From the best verdict to the worst, by what is proven: all; all, with a doubt; that nothing is
computed, as expected; nothing; the contrary, with a result; the contrary, without one."""

UNKNOWN = ("not run", "gone")
"""The verdicts that tell nothing: a failure that is not seen any more is none that was mended."""

SLOWER = 2.0
"""How much more time than before, as against the variants as a whole, is called slower.

Two runs of the same code on a machine with other work lay between 0.6 and 1.5 of their median."""

SHORT = 0.1
"""Seconds that it must have lost, too: less is noise, whatever the ratio."""


@dataclass(frozen=True)
class Difference:
    """How one tensor, which has other bits than before, differs.

    Attributes:
        name: the tensor.
        passes: in which this is so; none where it is so in all.
        ulps: the largest distance that is known, in steps between float32 numbers; infinite where a
            NaN stands on one side only; None where there are no two tensors of one shape.
        exact: whether every element is known; otherwise one may differ by more.
        place: where it is that large; None where that is not known.
        values: there, before and after.
        note: what is to be said beside; "" for nothing.
    """

    name: str
    passes: tuple[str, ...]
    ulps: float | None
    exact: bool = True
    place: tuple[int, ...] | None = None
    values: tuple[float, float] | None = None
    note: str = ""

    @property
    def rank(self) -> float:
        """For finding the worst."""
        return math.inf if self.ulps is None else self.ulps


@dataclass(frozen=True)
class Change:
    """What became of one case.

    Attributes:
        verdicts: before and after; "gone" for a case that is not in AFTER though it was asked for,
            None where it is in one of them and nothing follows from that.
        reason: why, in the words of AFTER.
        bits: "identical", "changed", "other inputs" (not comparable), or "no result" in one of
            them or both.
        differences: of the tensors, when the bits changed.
        seconds, fractions: before and after; of the time and of error / bound.
    """

    key: Key
    verdicts: tuple[str | None, str | None]
    reason: str
    bits: str
    differences: tuple[Difference, ...] = ()
    seconds: tuple[float, float] = (0.0, 0.0)
    fractions: tuple[float | None, float | None] = (None, None)

    @property
    def judged(self) -> str:
        """What became of the verdict: "same", "worse", "better", "other"; "" without two."""
        before, after = self.verdicts
        if before is None or after is None:
            return ""
        if before == after:
            return "same"
        step = RANKS[after] - RANKS[before]
        if step > 0:
            return "worse"
        return "better" if step < 0 and after not in UNKNOWN else "other"

    @property
    def in_both(self) -> bool:
        """Whether there is something to compare."""
        return self.verdicts[0] is not None and self.verdicts[1] not in (None, "gone")

    @property
    def worst(self) -> Difference | None:
        """The difference that is largest."""
        return max(self.differences, key=lambda each: each.rank, default=None)


@dataclass(frozen=True)
class Pace:
    """The time of one variant over the cases that both runs computed.

    Attributes:
        seconds: before and after.
        ratio: after / before, divided by `whole`; NaN where nothing was computed.
        whole: the median of after / before over all variants, which is the machine's doing; 1 where
            there are fewer than three.
    """

    seconds: tuple[float, float]
    ratio: float
    whole: float

    @property
    def slower(self) -> bool:
        """Whether that is more than noise."""
        before, after = self.seconds
        return self.ratio >= SLOWER and after / self.whole - before >= SHORT


def compare(before: Report, after: Report) -> list[Change]:
    """What became of every case of two reports of the same kind, in the order of AFTER.

    A case that is in BEFORE alone is gone, which is worse than a pass, if AFTER was asked for the
    same, or is incomplete; otherwise it was not asked for, and nothing follows.
    """
    lost = before.selection == after.selection or after.missing > 0
    changes = []
    for key, entry in after.entries.items():
        old = before.entries.get(key)
        if old is None:
            changes.append(Change(key, (None, entry.verdict), entry.reason, "no result"))
        else:
            changes.append(_change(key, old, entry))
    for key, old in before.entries.items():
        if key not in after.entries:
            reason = "AFTER, which was asked for it, has no result" if lost else ""
            verdicts = (old.verdict, "gone" if lost else None)
            changes.append(Change(key, verdicts, reason, "no result"))
    return changes


def paces(changes: list[Change]) -> dict[tuple[str, str], Pace]:
    """The time of each layer and variant."""
    totals: dict[tuple[str, str], tuple[float, float]] = {}
    for each in changes:
        if each.bits in ("identical", "changed"):
            old, new = totals.get(each.key[:2], (0.0, 0.0))
            totals[each.key[:2]] = old + each.seconds[0], new + each.seconds[1]
    ratios = [new / old for old, new in totals.values() if old and new]
    whole = statistics.median(ratios) if len(ratios) >= 3 else 1.0
    return {
        group: Pace((old, new), new / old / whole if old else math.nan, whole)
        for group, (old, new) in totals.items()
    }


def _change(key: Key, old: Entry, new: Entry) -> Change:
    bits, differences = "no result", tuple[Difference, ...]()
    if old.computed and new.computed:
        if old.inputs != new.inputs:
            bits = "other inputs"
        else:
            differences = tuple(_differences(old.computed, new.computed))
            bits = "changed" if differences else "identical"
    return Change(
        key,
        (old.verdict, new.verdict),
        new.reason,
        bits,
        differences,
        (old.seconds, new.seconds),
        (old.fraction, new.fraction),
    )


def _differences(
    old: Mapping[str, tuple[Kept, ...]], new: Mapping[str, tuple[Kept, ...]]
) -> Iterator[Difference]:
    for name in dict.fromkeys((*old, *new)):
        befores, afters = _by_pass(old.get(name, ())), _by_pass(new.get(name, ()))
        names = dict.fromkeys((*befores, *afters))
        pairs: dict[tuple[Kept | None, Kept | None], list[str]] = {}
        for each in names:
            pairs.setdefault((befores.get(each), afters.get(each)), []).append(each)
        for (before, after), found in pairs.items():
            passes = tuple(found) if len(found) < len(names) else ()
            if before is None or after is None:
                note = f"computed only {'before' if after is None else 'after'}"
                yield Difference(name, passes, None, note=note)
            elif before.shape != after.shape:
                note = f"shape {before.shape} -> {after.shape}"
                yield Difference(name, passes, None, note=note)
            elif before.sha256 != after.sha256:
                yield difference(name, passes, before, after)


def _by_pass(kept: tuple[Kept, ...]) -> dict[str, Kept]:
    return {name: each for each in kept for name in each.passes}


def difference(name: str, passes: tuple[str, ...], before: Kept, after: Kept) -> Difference:
    """How far two tensors of one shape, which have other bits, lie apart.

    Of a large tensor some elements are kept, and its smallest and its largest. If these extremes
    are k steps apart, so are the elements at some place: had each moved by less than k steps, so
    had the extremes. (NaN stand aside; if they are at other places than before, the true distance
    is infinite.)
    """
    if before.nans != after.nans:
        note = f"{before.nans} -> {after.nans} NaN among {before.size}"
        return Difference(name, passes, math.inf, note=note)
    distances = ulps(before.elements, after.elements)
    index = int(np.argmax(distances))
    where = np.unravel_index(int(places(before.size)[index]), before.shape)
    largest = Difference(
        name,
        passes,
        float(distances[index]),
        before.whole,
        tuple(int(each) for each in where),
        (_value(before, index), _value(after, index)),
    )
    if before.whole:
        only = "only the sign of zeros or the bits of NaN"
        return largest if largest.ulps else replace(largest, note=only)
    extremes = [
        Difference(name, passes, _distance(*values), False, None, values, f"its {word}")
        for word, values in (
            ("minimum", (before.smallest, after.smallest)),
            ("maximum", (before.largest, after.largest)),
        )
    ]
    largest = max([largest, *extremes], key=lambda each: each.rank)
    if largest.ulps:
        return largest
    note = f"not at the {len(distances)} of {before.size} elements that are kept"
    return Difference(name, passes, 0.0, False, note=note)


def _value(kept: Kept, index: int) -> float:
    return float(kept.elements.view(np.float32)[index])


def _distance(before: float, after: float) -> float:
    with np.errstate(over="ignore"):
        pair = np.array([before, after], np.float32).view(np.uint32)
    return float(ulps(pair[:1], pair[1:])[0])
