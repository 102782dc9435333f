"""Compares two reports: the bits of every tensor, the verdicts, the time."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from caffe_parity.contract import Shape
from caffe_parity.report.bits import Kept, places, ulps
from caffe_parity.report.record import Key, Record, Report
from caffe_parity.report.table import Group, by_variant, worst_of

LADDER = "pass, suspicious, refused, not run = gone, unproven, fail, crash = hang"
"""From the best verdict to the worst, by what is proven: all; all, with a doubt; that nothing is
computed, as expected; nothing, as it could not run; not all, with a result; the contrary, with a
result; the contrary, without one."""

RANKS = {
    verdict: rank
    for rank, equals in enumerate(LADDER.split(", "))
    for verdict in equals.split(" = ")
}

UNKNOWN = ("not run", "gone")
"""The verdicts that tell nothing: a failure that is not seen any more is none that was mended."""

SLOWER = 2.0
"""How much more time than before, as against the variants as a whole, is called slower.

Two runs of the same code on a machine with other work lay between 0.6 and 1.5 of their median."""

SHORT = 0.1
"""Seconds that it must have lost, too: less is noise, whatever the ratio."""

Computed = Mapping[str, Sequence[Kept]]
Facts = Mapping[str, tuple[str, str]]
"""What differs, before and after, by dotted name, such as "caffe.version"."""


@dataclass(frozen=True)
class Difference:
    """How one tensor, which has other bits than before, differs.

    Attributes:
        passes: in which this is so; none where it is so in all that both reports have.
        ulps: the largest distance that is known, in steps between float32 numbers; infinite where a
            NaN stands on one side only; None where there are no two tensors of one shape.
        exact: whether every element is known; otherwise one may differ by more.
        index: where it is that large; None where that is not known.
        values: there, before and after.
        note: what is to be said beside; "" for nothing.
    """

    tensor: str
    passes: tuple[str, ...]
    ulps: float | None
    exact: bool = True
    index: Shape | None = None
    values: tuple[float, float] | None = None
    note: str = ""

    @property
    def rank(self) -> float:
        """For finding the worst."""
        return math.inf if self.ulps is None else self.ulps


@dataclass(frozen=True)
class Change:
    """What became of one case. Pairs are before and after; None where a report has none.

    Attributes:
        verdicts: a pass with a doubt is "suspicious"; "gone" is not in AFTER, but was asked for.
        judged: what became of the verdict: "same", "worse", "better", "other"; "new" and "old" for
            a case that is in AFTER or in BEFORE alone, from which nothing follows.
        reason: why AFTER's verdict is what it is: what its findings mean, once each.
        bits: "identical", "changed", or why they cannot be compared: "no result" in one of them or
            both; "other inputs"; "other passes", so that some tensors have none in common.
        differences: of the tensors, where the bits changed.
        seconds, fractions: the time; the largest error / bound.
    """

    layer: str
    variant: str
    case: str
    verdicts: tuple[str | None, str | None]
    judged: str
    reason: str
    bits: str
    differences: Sequence[Difference]
    seconds: tuple[float | None, float | None]
    fractions: tuple[float | None, float | None]

    @property
    def key(self) -> Key:
        """Layer, variant and case."""
        return self.layer, self.variant, self.case

    @property
    def in_both(self) -> bool:
        """Whether there is something to compare."""
        return None not in self.seconds

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

    layer: str
    variant: str
    seconds: tuple[float, float]
    ratio: float
    whole: float

    @property
    def slower(self) -> bool:
        """Whether that is more than noise."""
        before, after = self.seconds
        return self.ratio >= SLOWER and after / self.whole - before >= SHORT


@dataclass(frozen=True)
class Diff:
    """Two reports, and what changed between them."""

    before: Report
    after: Report

    @cached_property
    def facts(self) -> Mapping[str, Facts]:
        """What differs in the environment, and in what was asked for ("selection")."""
        return {
            "environment": differing(self.before.environment, self.after.environment),
            "selection": differing(self.before.selection, self.after.selection),
        }

    @cached_property
    def changes(self) -> Sequence[Change]:
        """What became of every case, in the order of AFTER.

        A case that is in BEFORE alone is gone, which is worse than a pass, if AFTER was asked for
        the same, or is incomplete; otherwise it was not asked for, and nothing follows.
        """
        same = self.before.command == self.after.command and not self.facts["selection"]
        lost = same or self.after.missing > 0
        olds = {each.key: each for each in self.before.results}
        news = {each.key: each for each in self.after.results}
        return [
            _change(key, olds.get(key), news.get(key), lost)
            for key in dict.fromkeys((*news, *olds))
        ]

    @cached_property
    def both(self) -> Sequence[Change]:
        """Those of the cases that both have."""
        return [each for each in self.changes if each.in_both]

    @cached_property
    def paces(self) -> Mapping[Group, Pace]:
        """The time of each layer and variant."""
        ran = [each for each in self.both if each.bits not in ("no result", "other inputs")]
        totals = {
            group: [sum(each.seconds[side] or 0 for each in some) for side in (0, 1)]
            for group, some in by_variant(ran).items()
        }
        ratios = [new / old for old, new in totals.values() if old and new]
        whole = statistics.median(ratios) if len(ratios) >= 3 else 1.0
        return {
            group: Pace(*group, (old, new), new / old / whole if old else math.nan, whole)
            for group, (old, new) in totals.items()
        }


def differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> Facts:
    """What differs between two sets of facts; "none" where one has no such fact."""
    olds, news = dict(_flat(old)), dict(_flat(new))
    pairs = {name: (olds.get(name, "none"), news.get(name, "none")) for name in {**olds, **news}}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _flat(facts: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, str]]:
    """The members of an object by dotted name, in words."""
    for name, each in facts.items():
        if isinstance(each, dict):
            yield from _flat(each, f"{within}{name}.")
        else:
            yield within + name, _word(each)


def _word(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_word, value))
    return "none" if value is None else str(value)


def _change(key: Key, old: Record | None, new: Record | None, lost: bool) -> Change:
    before, after = _verdict(old), _verdict(new)
    reason = ""
    if new:
        words = dict.fromkeys(each.words for each in new.findings)
        reason = "; ".join(words) or new.reason
    elif lost:
        after, reason = "gone", "AFTER, which was asked for it, has no result"
    bits, differences = _compared(old, new) if old and new else ("no result", ())
    return Change(
        *key,
        verdicts=(before, after),
        judged=_judged(before, after),
        reason=reason,
        bits=bits,
        differences=differences,
        seconds=(old.seconds if old else None, new.seconds if new else None),
        fractions=(_fraction(old), _fraction(new)),
    )


def _fraction(record: Record | None) -> float | None:
    return worst_of([record], record.tensors) if record else None


def _verdict(record: Record | None) -> str | None:
    if record is None:
        return None
    doubt = record.verdict == "pass" and any(each.suspicious for each in record.tensors.values())
    return "suspicious" if doubt else record.verdict


def _judged(before: str | None, after: str | None) -> str:
    if before is None or after is None:
        return "new" if before is None else "old"
    step = RANKS[after] - RANKS[before]
    if before == after or step > 0:
        return "worse" if step else "same"
    return "better" if step and after not in UNKNOWN else "other"


def _compared(old: Record, new: Record) -> tuple[str, Sequence[Difference]]:
    """What became of the bits of one case, and how its tensors differ."""
    if not old.computed or not new.computed:
        return "no result", ()
    if old.inputs != new.inputs:
        return "other inputs", ()
    differences = tuple(_differences(old.computed, new.computed))
    if differences:
        return "changed", differences
    met = all(_in_both(kept, new.computed[name]) for name, kept in old.computed.items())
    return "identical" if met else "other passes", ()


def _in_both(old: Sequence[Kept], new: Sequence[Kept]) -> dict[str, tuple[Kept, Kept]]:
    """What two reports keep of one tensor, by the name of each pass that both have."""
    befores, afters = ({name: each for each in kept for name in each.passes} for kept in (old, new))
    return {name: (befores[name], afters[name]) for name in befores if name in afters}


def _differences(old: Computed, new: Computed) -> Iterator[Difference]:
    for name in dict.fromkeys((*old, *new)):
        if name not in old or name not in new:
            note = f"computed only {'before' if name in old else 'after'}"
            yield Difference(name, (), None, note=note)
            continue
        pairs: dict[tuple[Kept, Kept], list[str]] = {}
        both = _in_both(old[name], new[name])
        for each, pair in both.items():
            pairs.setdefault(pair, []).append(each)
        for (before, after), found in pairs.items():
            passes = tuple(found) if len(found) < len(both) else ()
            if before.shape != after.shape:
                note = f"shape {before.shape} -> {after.shape}"
                yield Difference(name, passes, None, note=note)
            elif before.sha256 != after.sha256:
                yield difference(name, passes, before, after)


def difference(name: str, passes: tuple[str, ...], before: Kept, after: Kept) -> Difference:
    """How far two tensors of one shape, which have other bits, lie apart.

    Of a large tensor some elements are kept, and its smallest and its largest. If these extremes
    are k steps apart, so are the elements at some place: had each moved by less than k steps, so
    had the extremes. (NaN stand aside; if they are at other places than before, the true distance
    is infinite.)
    """
    if before.nan != after.nan:
        note = f"{before.nan} -> {after.nan} NaN among {before.size}"
        return Difference(name, passes, math.inf, note=note)
    distances = ulps(before.elements, after.elements)
    worst = int(np.argmax(distances))
    where = np.unravel_index(int(places(before.size)[worst]), before.shape)
    old, new = (float(each.elements.view(np.float32)[worst]) for each in (before, after))
    index = tuple(int(each) for each in where)
    largest = Difference(name, passes, float(distances[worst]), before.whole, index, (old, new))
    if before.whole:
        only = "only the sign of zeros or the bits of NaN"
        return largest if largest.ulps else replace(largest, note=only)
    extremes = [
        Difference(name, passes, _distance(*values), False, None, values, f"its {word}")
        for word, values in (
            ("minimum", (before.min, after.min)),
            ("maximum", (before.max, after.max)),
        )
    ]
    largest = max([largest, *extremes], key=lambda each: each.rank)
    note = f"not at the {len(distances)} of {before.size} elements that are kept"
    return largest if largest.ulps else Difference(name, passes, 0.0, False, note=note)


def _distance(before: float, after: float) -> float:
    with np.errstate(over="ignore"):
        pair = np.array([before, after], np.float32).view(np.uint32)
    return float(ulps(pair[:1], pair[1:])[0])
