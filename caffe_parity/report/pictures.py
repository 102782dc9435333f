"""Charts for the page, as SVG by pygal, and heat strips, as lists of levels for its cells.

The SVG has no style and no script of its own: the page's style sheet colours it, also in the dark.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from typing import Any

from caffe_parity.contract import Excerpt
from caffe_parity.report.record import Record
from caffe_parity.report.table import fraction, largest
from caffe_parity.terminal import visible

Point = tuple[float, float, str]
"""Where a dot lies, and what is said of it."""

LEAST, MOST = 1e-4, 1e4
"""Errors beyond these fractions of the bound are drawn there: a logarithm has no 0."""

DOTS = 150
"""How many dots a chart has at most; of cases of about one size the worst is drawn."""

LEVELS = (1.0, 10.0, 1e3, 1e6)
"""Error / bound up to which a cell of a strip has the level 0, 1, ...; the last is for the rest."""


@dataclass(frozen=True)
class Strip:
    """The error along an axis, or over a plane, as cells.

    Attributes:
        title: what the cells are.
        rows: of the level of each cell, and its error / bound in words.
        words: the same in a sentence, for those who do not see it.
    """

    title: str
    rows: Sequence[Sequence[tuple[int, str]]]
    words: str


def can_draw() -> bool:
    """Whether the library for charts is there: a page without them is better than none."""
    try:
        pygal_alone()
    except ImportError:
        return False
    return True


def pygal_alone() -> Any:
    """The library, without the hook for its plugins, of which every later import would warn.

    That hook takes the place of Python's own, which importlib.metadata needs to find any package.
    """
    hooks, own = list(sys.meta_path), PathFinder.__dict__.get("find_distributions")
    import pygal

    sys.meta_path[:] = [each for each in sys.meta_path if each in hooks]
    if own is not None and "find_distributions" not in PathFinder.__dict__:
        PathFinder.find_distributions = own  # type: ignore[method-assign]
    return pygal


def strips(excerpt: Excerpt) -> list[Strip]:
    """The error per sample, per channel, and over space."""
    shape = excerpt.shape
    titles = {0: "per sample", 1: "per channel"} if len(shape) > 1 else {0: "along the only axis"}
    made = []
    for axis, values in enumerate(excerpt.along):
        title = titles.get(axis, f"along axis {axis}")
        if shape[axis] > 1 and not (excerpt.plane and axis >= 2 and axis >= len(shape) - 2):
            long = f"{title} ({shape[axis]} in {len(values)} groups)"
            made.append(_strip(title if len(values) == shape[axis] else long, [values]))
    if excerpt.plane and shape[-2] * shape[-1] > 1:
        rows, columns = len(excerpt.plane), len(excerpt.plane[0])
        over = "over space" if len(shape) > 3 else "over the last two axes"
        size = f"{shape[-2]} x {shape[-1]}"
        grouped = "" if (rows, columns) == shape[-2:] else f" in {rows} x {columns} groups"
        made.append(_strip(f"{over} ({size}{grouped})", excerpt.plane))
    return made


def _strip(title: str, rows: Sequence[Sequence[float]]) -> Strip:
    flat = [each for row in rows for each in row]
    beyond = sum(not each <= 1 for each in flat)
    worst = fraction(largest(flat))
    words = f"mean error / bound {title}: above 1 in {beyond} of {len(flat)}, at most {worst}"
    cells = [[(level(each), fraction(each)) for each in row] for row in rows]
    return Strip(title, cells, words)


def level(value: float) -> int:
    """The colour of an error / bound in a strip, 0 for one within the bound."""
    return next((index for index, limit in enumerate(LEVELS) if value <= limit), len(LEVELS))


def fitted_ratio(excerpt: Excerpt) -> float | None:
    """What the expected values are multiplied with to come nearest to the wrong ones.

    By least squares over the elements that are kept, finite and beyond the bound; None where that
    says nothing.
    """
    pairs = [(e, a) for e, a, bound in _pairs(excerpt) if not abs(a - e) <= bound]
    largest_of_all = max((max(abs(e), abs(a)) for e, a in pairs), default=0.0)
    if not largest_of_all:
        return None
    scaled = [(e / largest_of_all, a / largest_of_all) for e, a in pairs]
    below = sum(e * e for e, _ in scaled)
    return sum(e * a for e, a in scaled) / below if below else None


def scatter(excerpt: Excerpt) -> str:
    """Actual against expected, with a line where they are the same and one of the fitted ratio.

    Returns:
        SVG, or "" where there are no two finite numbers.
    """
    pairs = _pairs(excerpt)
    if not pairs:
        return ""
    low, high = min(e for e, _, _ in pairs), max(e for e, _, _ in pairs)
    if low == high:
        low, high = low - (abs(low) or 1), high + (abs(high) or 1)
    ratio = fitted_ratio(excerpt)
    inside = [(e, a, _said(e, a)) for e, a, bound in pairs if abs(a - e) <= bound]
    beyond = [(e, a, _said(e, a)) for e, a, bound in pairs if not abs(a - e) <= bound]
    lines = {"expected": [(low, low, ""), (high, high, "")]}
    if ratio is not None:
        lines["fitted"] = [(low, ratio * low, ""), (high, ratio * high, "")]
    words = ("expected", "actual")
    return _chart(lines, {"inside": inside, "beyond": beyond}, words, (300, 260))


def _pairs(excerpt: Excerpt) -> list[tuple[float, float, float]]:
    """Expected, actual and bound of the elements that are kept and can be drawn."""
    kept = zip(excerpt.expected, excerpt.actual, excerpt.bound, strict=True)
    return [each for each in kept if all(abs(value) < 1e37 for value in each[:2])]


def _said(expected: float, actual: float) -> str:
    return f"expected {expected:.9g}, actual {actual:.9g}"


def against_size(records: Iterable[Record]) -> str:
    """Error / bound of the worst tensor against the elements of the inputs, and the bound.

    Returns:
        SVG, or "" where there is nothing to draw.
    """
    points = []
    for each in records:
        worst = largest(tensor.fraction for tensor in each.tensors.values())
        if worst is not None and each.elements:
            points.append((float(each.elements), _held(worst), f"{each.case}: {fraction(worst)}"))
    if not points:
        return ""
    kept = _thinned(points)
    sizes = [x for x, _, _ in kept]
    bound = [(min(sizes) / 2, 1.0, ""), (max(sizes) * 2, 1.0, "")]
    dots = {
        "inside": [each for each in kept if each[1] <= 1],
        "beyond": [each for each in kept if each[1] > 1],
    }
    words = ("elements of the inputs", "error / bound")
    return _chart({"bound": bound}, dots, words, (300, 220), logarithmic=True)


def along_a_net(records: Sequence[Record]) -> str:
    """Error / bound of each layer in the net's order: its own, what it inherits, and the bound.

    Returns:
        SVG, or "" where there is nothing to draw.
    """
    own, inherited = [], []
    for place, each in enumerate(records, 1):
        worst = largest(tensor.fraction for tensor in each.tensors.values())
        if worst is not None:
            own.append((float(place), _held(worst), f"{each.case}: {fraction(worst)}"))
        if each.in_net and each.in_net.inherited is not None:
            inherited.append((float(place), _held(each.in_net.inherited), ""))
    if not own:
        return ""
    lines = {"bound": [(0.5, 1.0, ""), (len(records) + 0.5, 1.0, "")], "inherited": inherited}
    dots = {
        "inside": [each for each in own if each[1] <= 1],
        "beyond": [each for each in own if each[1] > 1],
    }
    words = ("layer of the net, from the first", "error / bound")
    return _chart(lines, dots, words, (600, 240), up_only=True)


def shares(points: Sequence[Point], target: Sequence[Point]) -> str:
    """A part of the limit at each size, and what it shall be.

    Args:
        points: size, share, and words; one or more.
        target: the same of what is aimed at; empty for none.

    Returns:
        SVG.
    """
    words = ("elements of both inputs", "part of the limit")
    aims = {"target": target} if target else {}
    dots = {"inside": points}
    limits = [(x, 1.0, "") for x in (min(x for x, _, _ in points), max(x for x, _, _ in points))]
    lines = {"expected": limits, "reached": points, **aims}
    return _chart(lines, dots, words, (300, 220), logarithmic=True)


def _held(worst: float) -> float:
    """An error as far as it is drawn."""
    return MOST if math.isnan(worst) else min(max(worst, LEAST), MOST)


def before_and_after(cases: Iterable[tuple[str, float, float]]) -> str:
    """Error / bound of cases after an edit against that before it, and where it is the same.

    Args:
        cases: of each its name, and the error / bound before and after.

    Returns:
        SVG, or "" where there is nothing to draw.
    """
    points = []
    for name, *fractions in cases:
        before, after = map(_held, fractions)
        said = " -> ".join(map(fraction, fractions))
        points.append((before, after, f"{name}: {said}"))
    if not points:
        return ""
    worst = sorted(points, key=lambda each: -max(each[:2]))[:DOTS]
    ends = [min(min(each[:2]) for each in worst), max(max(1.0, *each[:2]) for each in worst)]
    lines = {
        "expected": [(each, each, "") for each in ends],
        "bound": [(each, 1.0, "") for each in ends],
    }
    dots = {
        "inside": [each for each in worst if each[1] <= 1],
        "beyond": [each for each in worst if each[1] > 1],
    }
    words = ("error / bound before", "error / bound after")
    return _chart(lines, dots, words, (300, 260), logarithmic=True)


def bounds_as_rtol(records: Iterable[Record]) -> tuple[str, float, float]:
    """The bound as a fraction of the value, at the worst place of each tensor.

    Returns:
        SVG, or "" where there is nothing to draw; the least fraction and the largest.
    """
    points = []
    for each in records:
        for name, tensor in each.tensors.items():
            if tensor.expected and math.isfinite(tensor.bound) and math.isfinite(tensor.expected):
                rtol = tensor.bound / abs(tensor.expected)
                if each.elements and LEAST**3 <= rtol <= MOST:
                    points.append(
                        (float(each.elements), rtol, f"{name} of {each.case}: {rtol:.2g}")
                    )
    least = min((y for _, y, _ in points), default=0.0)
    most = max((y for _, y, _ in points), default=0.0)
    if most < 2 * least or not points:  # one rtol would do
        return "", 0.0, 0.0
    upper, lower = _thinned(points), _thinned([(x, -y, said) for x, y, said in points])
    drawn = dict.fromkeys([*upper, *((x, -y, said) for x, y, said in lower)])
    words = ("elements of the inputs", "bound/|value|")
    return _chart({}, {"inside": list(drawn)}, words, (300, 220), logarithmic=True), least, most


def _thinned(points: Sequence[Point]) -> list[Point]:
    """At most `DOTS` of them: the highest of those that lie above one another."""
    highest: dict[int, Point] = {}
    sizes = {x for x, _, _ in points}
    span = math.log(max(sizes) / min(sizes)) or 1.0
    for each in points:
        place = int(math.log(each[0] / min(sizes)) / span * (DOTS - 1))
        if place not in highest or each[1] > highest[place][1]:
            highest[place] = each
    return list(highest.values())


def _chart(
    lines: Mapping[str, Sequence[Point]],
    dots: Mapping[str, Sequence[Point]],
    axes: tuple[str, str],
    size: tuple[int, int],
    logarithmic: bool = False,
    up_only: bool = False,
) -> str:
    """An XY chart; a series is named after the class that the style sheet knows it by.

    Scales and labels are made here: pygal's own never end where numbers are all but the same.
    """
    scaled = math.log10 if logarithmic else float
    scaled_up = math.log10 if logarithmic or up_only else float
    drawn = {
        name: [(scaled(x), scaled_up(y), said) for x, y, said in points]
        for name, points in [*lines.items(), *dots.items()]
    }
    every = [each for points in drawn.values() for each in points]
    across = _range([x for x, _, _ in every], logarithmic)
    up = _range([y for _, y, _ in every], logarithmic or up_only)
    chart = pygal_alone().XY(
        width=size[0],
        height=size[1],
        js=[],
        css=[],
        stroke=False,
        dots_size=2.5,
        show_legend=False,
        x_title=axes[0],
        y_title=axes[1],
        margin=8,
        xrange=across,
        range=up,
        x_labels=_labels(across, logarithmic),
        y_labels=_labels(up, logarithmic or up_only),
    )
    for name, points in drawn.items():
        if name in lines:
            chart.add(name, [(x, y) for x, y, _ in points], stroke=True, show_dots=False)
        else:
            chart.add(name, [{"value": (x, y), "label": visible(said)} for x, y, said in points])
    names = list(drawn)
    chart.add_xml_filter(lambda root: _bare(root, names))
    svg: str = chart.render(is_unicode=True, disable_xml_declaration=True)
    return svg


def _range(values: Sequence[float], logarithmic: bool) -> tuple[float, float]:
    """From where to where an axis goes: wide enough that its labels differ."""
    low, high = min(values), max(values)
    if logarithmic:
        return math.ceil(low) - 1, math.floor(high) + 1
    least = 1e-6 * max(abs(low), abs(high)) or 1.0
    margin = least if high - low < least else 0.04 * (high - low)
    return low - margin, high + margin


def _labels(ends: tuple[float, float], logarithmic: bool) -> list[dict[str, Any]]:
    """Round numbers of a range, four or so, as pygal has them."""
    low, high = ends
    step = 10.0 ** math.floor(math.log10((high - low) / 2))
    step *= next(each for each in (1, 2, 5, 10) if (high - low) / (step * each) <= 5)
    step = max(round(step), 1) if logarithmic else step
    first = math.ceil(low / step)
    values = [(first + index) * step for index in range(6) if (first + index) * step <= high]
    return [
        {"value": each, "label": f"1e{each:.0f}" if logarithmic else f"{each:.8g}"}
        for each in values
    ]


def _bare(root: Any, names: Sequence[str]) -> Any:
    """The SVG's tree without style, script and comments, and a dot's words as its tooltip."""
    root.attrib.pop("id", None)
    root.set("aria-hidden", "true")
    for parent in [each for each in root.iter() if each.tag != "circle"]:
        labels = [each.text for each in parent if each.get("class") == "label"]
        for each in list(parent):
            if each.tag == "circle":
                place = {name: f"{float(each.get(name)):.1f}" for name in ("cx", "cy", "r")}
                each.attrib.clear()
                each.attrib.update(place)
                for words in labels:
                    title = each.makeelement("title", {})
                    title.text = words
                    each.append(title)
            elif each.tag not in ("g", "path", "rect", "text") or "tooltip" in _classes(each):
                parent.remove(each)
    for group in root.iter("g"):
        for index, name in enumerate(names):
            if f"serie-{index}" in _classes(group).split():
                group.set("class", f"s-{name}")
    return root


def _classes(element: Any) -> str:
    return str(element.get("class", ""))
