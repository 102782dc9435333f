"""The report to look at: one HTML file, made from a `Report`, that needs nothing beside itself.

The template escapes whatever it is given, and a policy in the page forbids every script but its
own; what cannot be seen (control characters, marks that turn the direction of a text) is written
out. Without pygal the page has no charts; Jinja2 is wherever PyTorch is.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from caffe_parity.contract import Agreement, spoken
from caffe_parity.report import pictures
from caffe_parity.report.record import COMPARED, NAME, Key, Record, Report, write_whole
from caffe_parity.report.table import (
    TAIL,
    Each,
    Group,
    Reproduce,
    by_variant,
    compared,
    fraction,
    headline,
    kind_of,
    largest,
    many,
    passes,
    suspicious,
    tensors,
    unproven,
    verdict_of,
    worst_of,
)
from caffe_parity.terminal import visible

FOLDER = Path(__file__).parent

WORDS: Mapping[str, tuple[str, str]] = {
    "fail": ("✗", "disagrees"),
    "crash": ("!", "crash"),
    "hang": ("∞", "hang"),
    "unproven": ("?", "unproven"),
    "not run": ("-", "not run"),
    "refused": ("⊘", "refused, as expected"),
    "pass": ("✓", "agrees"),
}
"""By verdict the shape and the words that stand for it, those that need attention first."""

SHADES = (0.01, 0.1, 0.25, 0.5)
"""Error / bound up to which a result that agrees has the shade 0, 1, ...; the last is up to 1."""

SECTIONS = 150
"""How many failures have a section of their own; of each variant those of small cases."""

DRAWN = 40
"""Of how many wrong tensors there are pictures, likewise."""

TELLING = 100
"""How many elements the inputs of a case need to have for a picture to show anything."""

VARIANTS = 40
"""Of how many variants there is a chart of the error against the size."""

REASON = 160
"""How much of a reason stands in the list of all results, in characters."""

PRINTED = 20_000
"""How much of what was printed stands in a section, in characters."""


@dataclass(frozen=True)
class Picture:
    """A tensor that is wrong, drawn.

    Attributes:
        name: of the tensor, as it is spoken.
        strips: the error over it.
        scatter: actual against expected, SVG; "" where there is nothing to draw.
        ratio: the fitted ratio in words; "" for none.
    """

    name: str
    strips: Sequence[pictures.Strip]
    scatter: str
    ratio: str


@dataclass(frozen=True)
class Left:
    """Something that was not compared.

    Attributes:
        verdict: whose shape stands beside it; "" for a part of what was compared.
        what, where, count, why: in words.
        links: to the results that it is about, some of them.
    """

    verdict: str
    what: str
    where: str
    count: str
    why: str
    links: Sequence[Record] = ()


def write(report: Report, reproduce: Reproduce, path: Path) -> None:
    """Writes the page, whole or not at all.

    Args:
        report: what it shows.
        reproduce: the command that runs a record's case again.
        path: of the HTML file; its folder is there.

    Raises:
        OSError: the file cannot be written.
    """
    write_whole(path, html(report, reproduce) + "\n")


def html(report: Report, reproduce: Reproduce, banner: str = "") -> str:
    """The page as text.

    Args:
        report: what it shows.
        reproduce: the command that runs a record's case again.
        banner: made by `banner_of`; "" for none.
    """
    from markupsafe import Markup

    return rendered(
        "page.html",
        page=Page(report),
        report=report,
        reproduce=reproduce,
        words=WORDS,
        banner=Markup(banner),  # noqa: S704  # made below
    )


def banner_of(words: str, old: bool = False, ended: bool = False) -> str:
    """What stands above the page of a watch.

    Args:
        words: how old the page is.
        old: whether it is out of date.
        ended: whether it is not written anew.
    """
    from markupsafe import escape

    again = (
        '<label><input type="checkbox" checked> reload it every 2 s, unless I filter it, select '
    )
    again += "or open something</label>"
    kind = "watched stale" if old else "watched"
    said = f'<div class="{kind}" id="watched" role="status">{escape(visible(words))}'
    return f"{said} {'' if ended else again}</div>"


def rendered(template: str | Path, **given: Any) -> str:
    """A page as text.

    Args:
        template: the name of one beside this file, or another file, which may extend these.
        given: what it asks for.
    """
    environment = _environment()
    made = (
        environment.from_string(template.read_text("utf-8"))
        if isinstance(template, Path)
        else environment.get_template(template)
    )
    return str(made.render({"banner": "", **given}))


@cache
def _environment() -> Any:
    """Of Jinja2, which compiles each template once."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    script = (FOLDER / "page.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals.update(
        spoken=spoken,
        fraction=fraction,
        svg=Markup,  # of pygal, which escapes what it is given
        many=many,
        script=Markup(script),  # noqa: S704  # ours
        style=Markup((FOLDER / "page.css").read_text("utf-8")),  # noqa: S704  # ours
        script_digest=digest,
    )
    return environment


def anchors(keys: Iterable[Key]) -> dict[Key, str]:
    """An anchor for each result: its id, made one of its own where two results have one."""
    named: dict[Key, str] = {}
    used: set[str] = set()
    for key in keys:
        id_ = visible("-".join(filter(None, key)))
        plain = "".join("_" if letter.isspace() else letter for letter in id_)
        name, number = plain, 1
        while name in used:
            number += 1
            name = f"{plain}.{number}"
        used.add(name)
        named[key] = name
    return named


def matrix(
    results: Iterable[Each], said: Callable[[Sequence[Each]], str]
) -> Iterator[tuple[str, list[str], list[Any]]]:
    """For each layer its cases, and its variants with the results in that order.

    Args:
        results: of variants on cases.
        said: those of a variant in words.
    """
    layers: dict[str, dict[str, list[Each]]] = {}
    for (layer, variant), some in by_variant(results).items():
        layers.setdefault(layer, {})[variant] = some
    for layer, variants in layers.items():
        cases = list(dict.fromkeys(each.key[2] for some in variants.values() for each in some))
        rows = []
        for variant, some in variants.items():
            by_case = {each.key[2]: each for each in some}
            rows.append((variant, said(some), [by_case.get(case) for case in cases]))
        yield layer, cases, rows


class Page:
    """What the template asks for."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.results = report.results
        self.groups = by_variant(report.results)
        self.counts = Counter(each.verdict for each in report.results)
        self.draws = pictures.can_draw()
        self.made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        self.schema = NAME
        self._anchors = anchors(each.key for each in report.results)
        self.sections = self._chosen()
        self._pictured = self._budgeted()

    def _chosen(self) -> dict[Key, Record]:
        """The failures that have a section: the smallest of each variant before any second one."""
        chosen = _in_turn(self.failures().values())[:SECTIONS]
        keys = {each.key for each in chosen}
        return {each.key: each for each in self.results if each.key in keys}

    def _budgeted(self) -> set[tuple[Key, str]]:
        wrong = [
            (each.key, name)
            for each in _in_turn(self.failures().values())
            if each.key in self.sections
            for name, tensor in each.tensors.items()
            if tensor.excerpt
        ]
        return set(wrong[:DRAWN])

    def failures(self) -> dict[Group, list[Record]]:
        """What says something against each variant, the most telling case first.

        That is the smallest that is explained, and has enough elements for a picture.
        """

        def rank(each: Record) -> tuple[bool, bool, int]:
            explained = any(found.cause for found in each.findings)
            return not explained, each.elements < TELLING, each.elements

        return {
            group: sorted((each for each in records if each.wrong), key=rank)
            for group, records in self.groups.items()
            if any(each.wrong for each in records)
        }

    def beyond(self, records: Sequence[Record]) -> list[Record]:
        """Those failures that have no section."""
        return [each for each in records if each.key not in self.sections]

    def anchor(self, record: Record) -> str:
        """The id that a result has on the page."""
        return self._anchors[record.key]

    def link(self, record: Record) -> str:
        """The address of a result on the page."""
        return "#" + quote(self.anchor(record))

    @property
    def verdict(self) -> tuple[str, str]:
        """What it comes to: a verdict whose colour it has, and words."""
        return headline(self.report)

    def matrix(self) -> Iterator[tuple[str, list[str], list[Any]]]:
        """For each layer its cases, and its variants with the results in that order."""
        return matrix(self.results, verdict_of)

    def shade(self, record: Record) -> str:
        """The class of a cell: the verdict, and how near to the bound an agreeing one is."""
        worst = self.worst(record)
        if record.verdict != "pass" or worst is None:
            return record.verdict.replace(" ", "-")
        return _shade(worst)

    @property
    def nets(self) -> dict[Group, list[Record]]:
        """Of `parity net`, by net and phase, the layers in the net's order; else nothing."""
        found = {
            group: [each for each in records if each.in_net]
            for group, records in self.groups.items()
        }
        return {group: records for group, records in found.items() if records}

    def errors(self, record: Record) -> Iterator[tuple[str, str]]:
        """Of a layer in a net the cells forward, backward and params: their class and words."""
        for some in passes(record.tensors).values():
            worst = largest(each.fraction for each in some.values())
            if worst is None:
                yield "", ""
            elif all(each.agrees for each in some.values()):
                yield _shade(worst), fraction(worst)
            else:
                yield "fail", f"✗ {fraction(worst)}"

    def inherited(self, record: Record) -> tuple[str, str]:
        """The same of what it inherits, which judges nothing: beyond the bound like a picture."""
        worst = record.in_net.inherited if record.in_net else None
        if worst is None:
            return "", ""
        inside = worst <= 1
        return _shade(worst) if inside else f"l{pictures.level(worst)}", fraction(worst)

    def along(self) -> Iterator[tuple[Group, str]]:
        """For each net and phase the chart of what is its layers' own, and what they inherit."""
        for group, records in list(self.nets.items() if self.draws else ())[:VARIANTS]:
            svg = pictures.along_a_net(records)
            if svg:
                yield group, svg

    def worst(self, record: Record) -> float | None:
        """The largest error of a result, as a fraction of its bound."""
        return largest(tensor.fraction for tensor in record.tensors.values())

    def said(self, record: Record) -> str:
        """A result in a few words."""
        worst = self.worst(record)
        near = "" if worst is None else f", error/bound {fraction(worst)}"
        return f"{WORDS[record.verdict][1]}{near}"

    def suspicious(self) -> list[str]:
        """What agrees, yet is far above what rounding typically does."""
        return suspicious(self.results)

    def compared(self, record: Record) -> str:
        """How many elements were compared of how many."""
        return compared(tensors([record]))

    def short(self, text: str) -> str:
        """The beginning of a text, its first line."""
        line = text.partition("\n")[0]
        return line if len(line) <= REASON else f"{line[: REASON - 3]}..."

    def printed(self, record: Record) -> str:
        """The last lines of what was printed, or the picture of the error in letters."""
        return "\n".join(record.detail.splitlines()[-TAIL:])[-PRINTED:]

    def drawn(self, record: Record) -> list[Picture]:
        """The pictures of a failure."""
        made = []
        for name, tensor in record.tensors.items():
            if tensor.excerpt and (record.key, name) in self._pictured:
                ratio = pictures.fitted_ratio(tensor.excerpt)
                svg = pictures.scatter(tensor.excerpt) if self.draws else ""
                words = "" if ratio is None else f"{ratio:.4g}"
                made.append(Picture(spoken(name), pictures.strips(tensor.excerpt), svg, words))
        return made

    def undrawn(self, record: Record) -> list[str]:
        """The wrong tensors of a failure that the page has no room to draw."""
        return [
            spoken(name)
            for name, tensor in record.tensors.items()
            if tensor.excerpt and (record.key, name) not in self._pictured
        ]

    def sizes(self) -> list[tuple[Group, str, float | None]]:
        """For each variant the chart of error / bound against size, and its worst."""
        if not self.draws:
            return []
        charts: list[tuple[Group, str, float | None]] = []
        for group, records in self.groups.items():
            held = [each for each in records if each.verdict in COMPARED]
            svg = pictures.against_size(held) if len(charts) < VARIANTS else ""
            if svg:
                names = {name for each in held for name in each.tensors}
                charts.append((group, svg, worst_of(held, names)))
        return charts

    def rtols(self) -> list[tuple[str, str, str, str]]:
        """For each layer the chart of bound / value, and how far it reaches."""
        layers: dict[str, list[Record]] = {}
        for each in self.results if self.draws else ():
            if each.verdict in COMPARED:
                layers.setdefault(each.layer, []).append(each)
        charts = []
        for layer, records in list(layers.items())[:VARIANTS]:
            svg, least, most = pictures.bounds_as_rtol(records)
            if svg:
                charts.append((layer, svg, f"{least:.1g}", f"{most:.1g}"))
        return charts

    def left_out(self) -> list[Left]:
        """What was not compared, or proves nothing."""
        report = self.report
        found = []
        if report.missing:
            total = len(report.results) + report.missing
            why = "the run ended before they were made"
            found.append(Left("not run", "missing", "", f"{report.missing} of {total}", why))
        if report.selection.get("left_out"):
            count = str(report.selection["left_out"])
            found.append(Left("not run", "cases", "", count, "left out by --budget"))
        for line in unproven(report):
            where, _, why = line.partition(": ")
            found.append(Left("unproven", "unproven by every case", where, "all", why))
        kinds: dict[tuple[str, str, str], list[Record]] = {}
        for each in report.results:
            if each.verdict in ("not run", "refused", "unproven"):
                why = each.reason.partition("\n")[0]
                kind = why if each.verdict == "not run" else kind_of(each)
                kinds.setdefault((each.verdict, each.layer, kind), []).append(each)
        for (verdict, layer, why), some in kinds.items():
            variants = dict.fromkeys(each.variant for each in some)
            of = sum(len(self.groups[layer, variant]) for variant in variants)
            words = {"unproven": "unproven in single cases"}.get(verdict, WORDS[verdict][1])
            where = f"{layer}  {', '.join(variants)}"
            examples = list({each.case: each for each in reversed(some)}.values())[-4:]
            count = f"{len(some)} of {of}"
            found.append(Left(verdict, words, where, count, self.short(why), examples[::-1]))
        return found + list(self._elements())

    def _elements(self) -> Iterator[Left]:
        """The elements at which no wrong value would show."""
        why = "at a kink, where several gradients are right, or overflow, or a bound as large as "
        why += "the value"
        layers: dict[tuple[str, str], list[tuple[str, Agreement]]] = {}
        for each in self.results:
            for name, tensor in each.tensors.items() if each.verdict in COMPARED else ():
                layers.setdefault((each.layer, name), []).append((each.variant, tensor))
        for (layer, name), held in layers.items():
            size = sum(tensor.size for _, tensor in held)
            out = size - sum(tensor.compared for _, tensor in held)
            variants = {variant for variant, tensor in held if tensor.compared < tensor.size}
            if out:
                where = f"{layer}  {spoken(name)} ({many(len(variants), 'variant')})"
                yield Left("", "elements", where, f"{out:,} of {size:,}", why)

    def facts(self) -> list[tuple[str, str]]:
        """The environment, by name."""
        return list(flat(self.report.environment))

    def chosen(self) -> list[tuple[str, str]]:
        """The options that say what was compared."""
        return list(flat(self.report.selection))


def _shade(worst: float) -> str:
    """The class of an error within its bound."""
    shade = next((i for i, limit in enumerate(SHADES) if worst <= limit), len(SHADES))
    return f"pass e{shade}"


def _in_turn(groups: Any) -> list[Record]:
    """The first of each group, then the second of each, and so on."""
    lists = list(groups)
    longest = max(map(len, lists), default=0)
    return [each[index] for index in range(longest) for each in lists if index < len(each)]


def flat(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """What a mapping of mappings holds, as names and values in words."""
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}, ")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{name}", ", ".join(map(str, value))
        else:
            yield f"{prefix}{name}", "-" if value is None else str(value)
