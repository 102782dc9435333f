"""What a person reads of many layers, variants and cases: the table, and what disagrees and why."""

import math
import re
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from caffe_parity.contract import (
    GRADIENT,
    LITTLE,
    NUMBERED,
    PATTERNS,
    PLACED,
    Agreement,
    Finding,
    spoken,
)
from caffe_parity.report.record import AGREEING, COMPARED, Key, Record, Report
from caffe_parity.terminal import Grid, Part

Group = tuple[str, str]
"""Layer and variant."""

Reproduce = Callable[[Record], str]
"""The command that runs a record's case again; who calls knows how this was installed."""

PLAIN = re.compile(r"[\w:+./-]+", re.ASCII)
"""The names that pytest's -k takes as they are, and writes so."""

COLUMNS = 4
"""With more tensors than this, the table has a column for all tops and one for all gradients."""

FEW = 4
"""How many cases are named where there are more."""

TAIL = 40
"""How many lines of a picture, or of what was printed, are shown."""


class Keyed(Protocol):
    """What belongs to a layer, a variant and a case."""

    @property
    def key(self) -> Key: ...


Each = TypeVar("Each", bound=Keyed)


@dataclass(frozen=True)
class Section:
    """Lines and tables with a title."""

    title: str
    lines: Sequence[Part]


def sections(report: Report, reproduce: Reproduce) -> list[Section]:
    """Everything that is to be said of a report, the table first; none without lines."""
    records = report.results
    total = len(records) + report.missing
    missing = [f"{report.missing} of {total} comparisons did not run"] if report.missing else []
    found = [
        Section("compared with the float64 reference", table(records)),
        Section("refused, as expected", refusals(records)),
        Section(
            "suspicious: no error that rounding could not make, but far above the typical one",
            suspicious(records),
        ),
        Section("what disagrees, and what that means", failures(records, reproduce)),
        Section("incomplete", missing),
    ]
    return [each for each in found if each.lines]


def chosen(record: Record, prefix: str) -> str:
    """The options that choose a record's case alone.

    Args:
        record: of the case.
        prefix: of the options of `parity run`, or of pytest's.
    """
    if PLAIN.fullmatch(record.id):
        return f"-k {shlex.quote(f'[{record.id}]')}"
    pairs = zip(("layer", "variant", "case"), record.key, strict=True)
    return " ".join(shlex.quote(f"{prefix}{kind}={name}") for kind, name in pairs if name)


def headline(report: Report) -> tuple[str, str]:
    """What it comes to: the verdict that stands for it, and words."""
    wrong = sum(each.wrong for each in report.results)
    if wrong:
        total = many(len(report.results), "comparison")
        return "fail", f"{wrong} of {total} {'does' if wrong == 1 else 'do'} not agree"
    if report.missing:
        return "not run", f"incomplete: {many(report.missing, 'comparison')} did not run"
    if report.unproven:
        return "unproven", f"unproven: {many(len(report.unproven), 'tensor')}"
    if not report.agrees:
        return "not run", "nothing was compared"
    whole = all(each.verdict == "pass" for each in report.results)
    return "pass", "all agree" if whole else "all that could be compared agree"


def table(records: Sequence[Record]) -> list[Part]:
    """Layer by variant: how much was compared, the worst errors, the time, the verdict."""
    columns = _columns(records)
    rows = [("layer", "variant", "cases", "compared", *columns, "seconds", "verdict")]
    last = None
    for (layer, variant), group in by_variant(records).items():
        worst = [fraction(worst_of(group, names)) for names in columns.values()]
        seconds = f"{sum(each.seconds for each in group):.1f}"
        cells = (str(len(group)), compared(tensors(group)), *worst, seconds, verdict_of(group))
        rows.append((layer if layer != last else "", variant, *cells))
        last = layer
    lines: list[Part] = [Grid(rows, right=range(2, 5 + len(columns)))]
    if not columns:
        return lines
    what = "the worst error as a fraction of the rounding bound; 1 is the limit."
    lines += ["", f"{', '.join(columns)}: {what}"]
    if any(each.compared < each.size for each in tensors(records)):
        lines.append(
            "compared: the rest have several right gradients (a kink), overflow, or a large bound."
        )
    return lines


def each_tensor(records: Sequence[Record]) -> list[Part]:
    """What -v tells: the worst place of each tensor of each result."""
    rows = [("result", "tensor", "error/bound", "actual", "expected", "bound", "at", "wrong")]
    for each in records:
        for name, tensor in each.tensors.items():
            place = ",".join(map(str, tensor.worst_index))
            actual, expected = f"{tensor.actual:.9g}", f"{tensor.expected:.9g}"
            near, bound = fraction(tensor.fraction), f"{tensor.bound:.3g}"
            wrong = f"{tensor.wrong} of {tensor.size}"
            rows.append((each.id, spoken(name), near, actual, expected, bound, place, wrong))
    return [Grid(rows, right=range(2, 6)), ""] if len(rows) > 1 else []


def refusals(records: Sequence[Record]) -> list[str]:
    """What was refused as expected and why, a line for each kind, with one case as the example."""
    kinds: dict[tuple[Group, str], Record] = {}
    for (layer, variant), group in by_variant(records).items():
        for each in group:
            if each.verdict == "refused":
                kinds.setdefault(((layer, variant), kind_of(each)), each)
    return [f"{each.layer}  {each.variant}  ({each.case}) {each.reason}" for each in kinds.values()]


def kind_of(record: Record) -> str:
    """The part of a reason that does not tell of the case."""
    return record.reason.partition("\n")[0].partition(":")[0].partition(" (")[0]


def suspicious(records: Sequence[Record]) -> list[str]:
    """What is within its worst-case bound, yet far above what rounding typically does."""
    return [
        f"{each.id}: {spoken(name)} is {tensor.times_typical:.3g} times what rounding typically"
        f" does ({tensor.fraction:.2g} of the bound)"
        for each in records
        for name, tensor in each.tensors.items()
        if tensor.suspicious and each.agrees
    ]


def failures(records: Sequence[Record], reproduce: Reproduce) -> list[str]:
    """Each variant that does not agree: what that means, and the smallest case that shows it."""
    lines: list[str] = []
    for (layer, variant), group in by_variant(records).items():
        bad = [each for each in group if each.wrong]
        if not bad:
            continue
        lines += ["", f"{layer}  {variant}: {len(bad)} of {len(group)} cases do not agree"]
        meanings, smallest = failures_of(bad)
        for finding, cases in meanings:
            more = ", ..." if len(cases) > FEW else ""
            words = finding.words.partition("\n")[0]
            lines.append(f"  {words}  [{len(cases)}: {', '.join(cases[:FEW])}{more}]")
        lines += [f"  smallest case: {smallest.case} ({smallest.verdict})"]
        lines += [f"    {line}" for line in smallest.reason.splitlines()]
        lines += [f"    {line}" for line in smallest.detail.splitlines()[-TAIL:]]
        lines += [f"  reproduce: {reproduce(smallest)}"]
    return lines[1:]


def failures_of(bad: Sequence[Record]) -> tuple[list[tuple[Finding, list[str]]], Record]:
    """What the failures of a variant mean, each with its cases; and the smallest that is explained.

    Args:
        bad: the records that do not agree, one or more.
    """
    meanings = with_cases(findings(bad), lambda each: (each.code, each.tensor, each.cause))
    explained = [each for each in bad if any(found.cause for found in each.findings)]
    smallest = min(explained or bad, key=lambda each: each.elements)
    return sorted(meanings, key=lambda pair: -len(pair[1])), smallest


def unproven(report: Report) -> list[str]:
    """The tensors that no case proves anything of, with why in one of them."""
    lines = []
    for layer, variant, name in report.unproven:
        words = next(
            found.words
            for each in report.results
            if (each.layer, each.variant) == (layer, variant)
            for found in [*each.findings, Finding("", each.reason or "its cases fail")]
            if found.tensor in (name, "")
        )
        what = f"  {spoken(name)}" if name else ""
        lines.append(f"{layer}  {variant}{what}: {words}")
    return lines


def by_variant(each_of: Iterable[Each]) -> dict[Group, list[Each]]:
    """By layer and variant, in the order in which they came; a layer's follow one another."""
    layers: dict[str, dict[str, list[Each]]] = {}
    for each in each_of:
        layer, variant, _ = each.key
        layers.setdefault(layer, {}).setdefault(variant, []).append(each)
    return {
        (layer, variant): group
        for layer, variants in layers.items()
        for variant, group in variants.items()
    }


def findings(records: Iterable[Record]) -> list[tuple[Finding, str]]:
    """What is wrong, with the case that shows it.

    A record that does not agree and has no findings counts with its verdict and its reason.
    """
    return [
        (found, each.case)
        for each in records
        if not each.agrees
        for found in each.findings or [Finding(each.verdict, each.reason)]
    ]


def with_cases(
    found: Iterable[tuple[Finding, str]], key: Callable[[Finding], object]
) -> list[tuple[Finding, list[str]]]:
    """Findings with the cases that show them; those of one key are one.

    Its words hold in each of these cases: an explanation that another case contradicts is given up.
    """
    groups: dict[object, list[tuple[Finding, str]]] = {}
    for finding, case in found:
        groups.setdefault(key(finding), []).append((finding, case))
    return [
        (_of_all([each for each, _ in group]), list(dict.fromkeys(case for _, case in group)))
        for group in groups.values()
    ]


def _of_all(found: Sequence[Finding]) -> Finding:
    """What all findings of one kind say: the best explanation, unless one of them contradicts it.

    What is told of few values contradicts no explanation that needs many; where a factor has more
    than one cause, it contradicts none of a factor.
    """
    best = max(found, key=_says)
    if best.cause in NO_CAUSE:
        return best
    plain = NO_CAUSE[2:] if best.cause in PATTERNS else NO_CAUSE[1:]
    against = [each for each in found if each.cause in plain]
    if against:
        return max(against, key=_says)
    same = (*NO_CAUSE, "one-of-several")[: 4 if best.cause == "one-of-several" else 5]
    odd = next((e for e in found if e.cause not in same and not _alike(best, e)), None)
    if odd is None:
        return best
    words = f"not the same in every case: {best.words}; in another case: {odd.words}"
    return replace(best, words=words, cause="")


NO_CAUSE = LITTLE[:4]
"""The causes that are none: how much is wrong, and no more."""


def _alike(one: Finding, another: Finding) -> bool:
    """Whether two findings say the same, of tensors that may have different sizes."""
    if one.cause != another.cause or one.cause in PLACED:
        return one.cause == another.cause
    (words, numbers), (others, more) = (_taken_apart(each.words) for each in (one, another))
    if one.cause not in NUMBERED:
        return words.endswith(others) or others.endswith(words)
    return len(numbers) == len(more) and all(
        math.isclose(*pair, rel_tol=1e-4) for pair in zip(numbers, more, strict=True)
    )


def _taken_apart(words: str) -> tuple[str, list[float]]:
    """A sentence without its numbers, and these, but for how many elements it is about."""
    said = re.sub(r"\d+ of \d+ elements|\(\d+/\d+\)", "", words)
    numbers = re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]\d+)?", said)
    said = re.sub(r"(?:-?[\d.]+(?:e[+-]\d+)?(?:, )?)+", "#", said)
    return said.replace(", ...", ""), [float(each) for each in numbers]


def _says(finding: Finding) -> int:
    """How much the explanation of a finding says: a factor says more than how many are wrong."""
    return LITTLE.index(finding.cause) if finding.cause in LITTLE else len(LITTLE)


def tensors(records: Iterable[Record], names: Collection[str] | None = None) -> list[Agreement]:
    """The tensors, all or those of some names, that were held against the layer's reference."""
    return [
        tensor
        for each in records
        if each.verdict in COMPARED
        for name, tensor in each.tensors.items()
        if names is None or name in names
    ]


def worst_of(records: Iterable[Record], names: Collection[str]) -> float | None:
    """The worst error of some tensors as a fraction of its bound; None without one."""
    return largest(each.fraction for each in tensors(records, names))


def passes(held: Mapping[str, Agreement]) -> dict[str, dict[str, Agreement]]:
    """The tensors of a layer of a whole net: its tops, what it sends back, its parameters'."""
    found: dict[str, dict[str, Agreement]] = {"forward": {}, "backward": {}, "params": {}}
    for name, each in held.items():
        back = "backward" if " of " in name else "params"
        found[back if name.startswith(GRADIENT) else "forward"][name] = each
    return found


def largest(fractions: Iterable[float | None]) -> float | None:
    """The largest that is known, of which a NaN is the worst; None without one."""
    known = [each for each in fractions if each is not None]
    return max(known, key=lambda each: math.inf if math.isnan(each) else each, default=None)


def fraction(worst: float | None) -> str:
    """An error as a fraction of its bound, as it is printed."""
    if worst is None:
        return "-"
    if worst == 0:
        return "0"
    return f"{worst:.2g}" if 0.001 <= worst < 1000 else f"{worst:.0e}"


def compared(of: Sequence[Agreement]) -> str:
    """How many elements were compared of how many."""
    done, size = sum(each.compared for each in of), sum(each.size for each in of)
    if not of:
        return "-"
    return "100 %" if done == size else f"{done:,} of {size:,}"


def many(count: int, word: str) -> str:
    """How many things, in words."""
    return f"{count} {word}{'' if count == 1 else 's'}"


def _columns(records: Iterable[Record]) -> Mapping[str, Sequence[str]]:
    """The columns with errors, and the tensors of each."""
    names = list(dict.fromkeys(name for each in records for name in each.tensors))
    if len(names) <= COLUMNS:
        return {spoken(name): [name] for name in names}
    gradients = [name for name in names if name != spoken(name)]
    columns = {"forward": [name for name in names if name not in gradients], "gradient": gradients}
    return {title: of for title, of in columns.items() if of}


def _proved(group: Sequence[Record]) -> bool:
    """Whether some case proves something of each tensor."""
    return not Report("", {}, {}, group).unproven


def verdict_of(group: Sequence[Record]) -> str:
    """How the cases ended, in words; "agrees" only where all did, and something was computed."""
    counts = Counter(each.verdict for each in group)
    idle = [each.reason for each in group if each.verdict == "not run"]
    weak = counts.pop("unproven", 0)
    parts = [f"{count} {name}" for name, count in counts.items() if name not in AGREEING]
    if idle:
        count = "" if len(idle) == len(group) else f"{len(idle)} "
        parts.append(f"{count}not run: {idle[0]}")
    if not parts and weak and not _proved(group):
        parts.append("unproven")
    elif not parts and (counts["pass"] or weak):
        parts.append("agrees")
    text = ", ".join(parts)
    if counts["refused"]:
        words = f"{counts['refused']} refused, as expected"
        text = f"{text} ({words})" if text else words
    return text
