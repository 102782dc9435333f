"""What an edit changed as a page to look at: `parity diff --page`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from caffe_parity.report import pictures, show
from caffe_parity.report.changes import Change, Diff, Pace
from caffe_parity.report.page import REASON, SECTIONS, VARIANTS, Page, anchors, matrix, rendered
from caffe_parity.report.record import Record
from caffe_parity.report.table import FEW, Group, by_variant, fraction, largest, many

WORDS: Mapping[str, tuple[str, str]] = {
    "worse": ("✗", "got worse"),
    "better": ("▲", "got better"),
    "other": ("~", "another verdict"),
    "changed": ("≠", "other bits"),
    "other inputs": ("i", "other inputs"),
    "other passes": ("p", "other passes"),
    "no result": ("-", "no result"),
    "new": ("+", "only in AFTER"),
    "old": ("⊖", "only in BEFORE"),
    "identical": ("=", "bit-identical"),
}
"""By what became of a case the shape and the words that stand for it, in order of attention."""

NOT_COMPARED = ("other inputs", "other passes", "no result", "new", "old")


def html(diff: Diff) -> str:
    """The page as text, in one file that needs nothing beside itself."""
    return rendered("diff.html", page=_DiffPage(diff), words=WORDS)


class _DiffPage:
    """What the template asks for."""

    def __init__(self, diff: Diff) -> None:
        self.diff = diff
        self.changes = diff.changes
        self.counts = Counter(map(self.kind, diff.changes))
        self.summary = show.summary(diff)
        self.identical = self.counts["identical"] == len(diff.changes)
        self.draws = pictures.can_draw()
        self.made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        self.schema = show.SCHEMA
        self._anchors = anchors(each.key for each in diff.changes)
        self._worse = [each for each in diff.changes if each.judged == "worse"]
        self._sections = {each.key for each in self._worse[:SECTIONS]}
        self._records = {each.key: each for each in diff.after.results}
        some = [self._records[key] for key in self._sections if key in self._records]
        self.after = Page(replace(diff.after, results=some))

    def kind(self, change: Change) -> str:
        """What became of a case: its verdict, and where that is the same its bits."""
        return change.bits if change.judged == "same" else change.judged

    @property
    def verdict(self) -> tuple[str, str]:
        """What it comes to, and words."""
        if self._worse:
            return "worse", f"{many(len(self._worse), 'verdict')} got worse"
        return ("identical" if self.identical else "changed"), (
            "nothing changed" if self.identical else "no verdict got worse"
        )

    def id(self, change: Change) -> str:
        """Layer, variant and case in one word."""
        return "-".join(filter(None, change.key))

    def anchor(self, change: Change) -> str:
        """The id that a case has on the page."""
        return self._anchors[change.key]

    def link(self, change: Change) -> str:
        """The address of a case on the page."""
        return "#" + quote(self.anchor(change))

    def worse(self) -> Sequence[Change]:
        """The cases whose verdict got worse that have a section."""
        return self._worse[:SECTIONS]

    def beyond(self) -> int:
        """How many have none."""
        return len(self._worse) - len(self._sections)

    def has_section(self, change: Change) -> bool:
        """Whether a case has a section of its own."""
        return change.key in self._sections

    def record(self, change: Change) -> Record | None:
        """What AFTER has of a case."""
        return self._records.get(change.key)

    def matrix(self) -> Iterator[tuple[str, list[str], list[Any]]]:
        """For each layer its cases, and its variants with what became of them in that order."""
        return matrix(self.changes, self._counted)

    def _counted(self, group: Sequence[Change]) -> str:
        counts = Counter(map(self.kind, group))
        return ", ".join(f"{counts[each]} {each}" for each in WORDS if counts[each])

    def said(self, change: Change) -> str:
        """What became of a case in a few words."""
        words = WORDS[self.kind(change)][1]
        verdicts = " → ".join(each or "-" for each in change.verdicts)
        far = f", {self.ulps(change)} ulps" if change.bits == "changed" else ""
        return f"{words}, {verdicts}{far}"

    def ulps(self, change: Change) -> str:
        """The largest distance."""
        return show.most([change]) if change.differences else "-"

    def details(self, change: Change) -> str:
        """The verdicts, if they are others, and each tensor that differs."""
        same = change.judged == "same"
        said = [] if same else [" → ".join(each or "-" for each in change.verdicts)]
        said += [change.reason.partition("\n")[0]] if change.judged == "worse" else []
        said += [show.sentence(each) for each in change.differences]
        text = "; ".join(said)
        return text if len(text) <= REASON else f"{text[: REASON - 3]}..."

    def charts(self) -> Iterator[tuple[Group, str, str]]:
        """For each variant with other bits a chart of error / bound, and its worst in words."""
        for group, some in list(by_variant(self.changes).items() if self.draws else ())[:VARIANTS]:
            moved = [each for each in some if each.bits == "changed"]
            svg = pictures.before_and_after(
                (each.case, before, after)
                for each in moved
                for before, after in [each.fractions]
                if before is not None and after is not None
            )
            if svg:
                sides = zip(*(each.fractions for each in moved), strict=True)
                yield group, svg, " → ".join(fraction(largest(side)) for side in sides)

    def paces(self) -> Sequence[Pace]:
        """The time of each variant."""
        return list(self.diff.paces.values())

    def left_out(self) -> Iterator[tuple[str, str, str, str, Sequence[Change]]]:
        """What was not compared: the kind, of what, how many, in words, and some of them."""
        for (layer, variant), some in by_variant(self.changes).items():
            for kind in NOT_COMPARED:
                left = [each for each in some if kind in (self.kind(each), each.bits)]
                if left:
                    count = f"{len(left)} of {len(some)}"
                    words = WORDS[kind][1]
                    yield kind, f"{layer}  {variant}", count, words, left[:FEW]

    def files(self) -> list[tuple[str, str]]:
        """The two reports."""
        sides = {"BEFORE": self.diff.before, "AFTER": self.diff.after}
        return [
            (name, f"{each.file}: {many(len(each.results), 'result')} of parity {each.command}")
            for name, each in sides.items()
        ]

    def facts(self, what: str) -> list[tuple[str, str]]:
        """What differs beside the results."""
        return [(name, f"{old} → {new}") for name, (old, new) in self.diff.facts[what].items()]
