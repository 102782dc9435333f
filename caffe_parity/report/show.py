"""Says what changed: lines for the terminal, and data for a file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from caffe_parity.report.bits import number
from caffe_parity.report.changes import SHORT, SLOWER, Change, Difference, Pace
from caffe_parity.report.columns import aligned
from caffe_parity.report.files import Report, spoken

SCHEMA = "parity-diff-1"
"""The name of the format of --json; its JSON Schema is diff.schema.json beside this file."""

Group = tuple[str, str]
"""Layer and variant."""

FEW = 4
"""How many cases are named where not all are asked for."""


def header(before: Report, after: Report) -> list[str]:
    """What was compared, and what differs beside the results."""
    lines = [
        f"{name}  {report.file}: {report.command}, {_many(len(report.entries), 'result')}"
        + (f"; {report.missing} that were asked for are missing" if report.missing else "")
        for name, report in (("BEFORE", before), ("AFTER ", after))
    ]
    for what, old, new in (
        ("environment", before.environment, after.environment),
        ("asked for", before.selection, after.selection),
    ):
        changed = differing(old, new)
        if not changed:
            lines.append(f"{what}: the same")
        for name, (one, another) in changed.items():
            lines.append(f"{what}: {name}: {one} -> {another}")
    return lines


def differing(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """What differs between two sets of facts, by name; "none" where one has no such fact."""
    pairs = {name: (old.get(name, "none"), new.get(name, "none")) for name in {**old, **new}}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def table(changes: Sequence[Change], paces: Mapping[Group, Pace]) -> list[str]:
    """Layer by variant: how many cases have the same bits, the largest difference, the time."""
    groups = {key: group for key, group in _grouped(changes).items() if _both(group)}
    layers = any(layer for layer, _ in groups)
    rows: list[tuple[str, ...]] = [
        (
            "layer",
            "variant",
            "cases",
            "identical",
            "changed",
            "ulps",
            "worst",
            "error/bound",
            "seconds",
            "verdicts",
        )
    ]
    last = None
    for (layer, variant), group in groups.items():
        both = _both(group)
        bits = Counter(each.bits for each in both)
        worst = _worst(both)
        counts = str(len(both)), str(bits["identical"]), str(bits["changed"])
        most = ("", "") if worst is None else (_spread(both), _place(*worst))
        figures = _fractions(both), _seconds(paces.get((layer, variant)))
        shown = layer if layer != last else ""
        rows.append((shown, variant, *counts, *most, *figures, _verdicts(both)))
        last = layer
    if not layers:
        rows = [row[1:] for row in rows]
    first = int(layers)
    return aligned(rows, {first + 1, first + 2, first + 3, first + 4})


def legend(changes: Sequence[Change]) -> list[str]:
    """What the signs in the table mean, those that occur in it."""
    differences = [each for change in changes for each in change.differences]
    lines = [""]
    if differences:
        lines += [
            "ulps: how many float32 numbers apart, in the median changed case .. in the worst."
        ]
    if not all(each.exact for each in differences):
        lines += [
            "  >=: of large tensors some elements are kept, and the extremes; others may differ"
            " by more."
        ]
    if any(each.ulps == 0 and not each.exact for each in differences):
        lines += ["  ?: only others differ."]
    if any(each.ulps is None for each in differences):
        lines += ["  -: there are no two tensors of one shape to compare."]
    return [
        *lines,
        "error/bound: the worst error against the reference, as a fraction of its bound.",
    ]


def verdicts(changes: Sequence[Change], every: bool) -> list[str]:
    """Whose verdict changed, and why; what is in one report alone.

    Args:
        changes: all of them.
        every: whether all cases are named, or a few.
    """
    lines: list[str] = []
    for judged, title in (
        ("worse", "verdicts that got worse:"),
        ("better", "verdicts that got better:"),
        ("other", "verdicts that are others, neither better nor worse:"),
    ):
        lines += _titled(title, [each for each in changes if each.judged == judged], every)
    lines += _titled(
        "only in AFTER:", [each for each in changes if each.verdicts[0] is None], every
    )
    lines += _titled(
        "only in BEFORE:", [each for each in changes if each.verdicts[1] is None], every
    )
    return lines


def slower(paces: Mapping[Group, Pace]) -> list[str]:
    """Which variants need much more time than before."""
    lines = []
    for group, pace in paces.items():
        if pace.slower:
            before, after = pace.seconds
            what = f"{_named(group)}: {before:.1f} -> {after:.1f} s, {pace.ratio:.1f} times as long"
            if pace.whole != 1:
                what += f" (beside the run as a whole: {pace.whole:.2f})"
            lines.append(f"  {what}")
    if lines:
        lines.insert(
            0,
            f"slower ({SLOWER:g} times as long or more, by {SHORT:g} s or more; timings are noisy,"
            " so this decides nothing):",
        )
        lines.insert(0, "")
    return lines


def every_case(changes: Sequence[Change]) -> list[str]:
    """Each case with its verdicts, its bits, and each tensor that differs."""
    lines = []
    for each in changes:
        before, after = (word or "-" for word in each.verdicts)
        verdict = before if before == after else f"{before} -> {after}"
        lines.append(f"{spoken(each.key)}  {verdict}  {each.bits}")
        lines += [f"    {_sentence(difference)}" for difference in each.differences]
    return lines


def summary(changes: Sequence[Change]) -> str:
    """What it comes to."""
    both = _both(changes)
    counts = Counter(each.bits for each in both)
    parts = [f"{counts['identical']} of {_many(len(both), 'case')} bit-identical"]
    if counts["changed"]:
        most = _most(both)
        parts.append(f"{counts['changed']} changed{_far(most)}")
    for bits, words in (
        ("other inputs", "with other inputs than before, so not compared"),
        ("no result", "without a result in one of them or both"),
    ):
        if counts[bits]:
            parts.append(f"{counts[bits]} {words}")
    judged = Counter(each.judged for each in changes)
    worse = f"{_many(judged['worse'], 'verdict')} got worse" if judged["worse"] else ""
    better = f"{_many(judged['better'], 'verdict')} got better" if judged["better"] else ""
    said = ", ".join(part for part in (worse or "no verdict got worse", better) if part)
    return f"{'; '.join(parts)}; {said}"


def _far(most: str) -> str:
    if most in ("-", "?"):
        return ""
    if most == "NaN":
        return ", a NaN on one side"
    if most.startswith(">="):
        return f", by {most.removeprefix('>=')} ulps or more"
    return f", by up to {most} ulp{'' if most == '1' else 's'}"


def as_json(
    before: Report, after: Report, changes: Sequence[Change], paces: Mapping[Group, Pace]
) -> dict[str, Any]:
    """All of it as JSON data."""
    return {
        "schema": SCHEMA,
        "before": {"file": before.file, "missing": before.missing},
        "after": {"file": after.file, "missing": after.missing},
        "command": after.command,
        "environment": _pairs(before.environment, after.environment),
        "selection": _pairs(before.selection, after.selection),
        "worse": sum(each.judged == "worse" for each in changes),
        "better": sum(each.judged == "better" for each in changes),
        "variants": [
            {
                "layer": group[0],
                "variant": group[1],
                "seconds": [round(each, 6) for each in pace.seconds],
                "ratio": None if math.isnan(pace.ratio) else round(pace.ratio, 3),
                "slower": pace.slower,
            }
            for group, pace in paces.items()
        ],
        "cases": [_case_as_json(each) for each in changes],
    }


def _case_as_json(change: Change) -> dict[str, Any]:
    layer, variant, case = change.key
    return {
        "layer": layer,
        "variant": variant,
        "case": case,
        "verdicts": list(change.verdicts),
        "judged": change.judged or None,
        "bits": change.bits,
        "differences": [
            {
                "tensor": each.name,
                "passes": list(each.passes),
                "ulps": None if each.ulps is None else number(each.ulps),
                "exact": each.exact,
                "index": None if each.place is None else list(each.place),
                "values": None if each.values is None else [number(value) for value in each.values],
                "note": each.note,
            }
            for each in change.differences
        ],
    }


def _pairs(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, list[str]]:
    return {name: list(pair) for name, pair in differing(old, new).items()}


def _grouped(changes: Sequence[Change]) -> dict[Group, list[Change]]:
    """By layer and variant; the variants of a layer follow one another."""
    groups: dict[Group, list[Change]] = {}
    for each in changes:
        groups.setdefault((each.key[0], each.key[1]), []).append(each)
    layers = list(dict.fromkeys(layer for layer, _ in groups))
    return dict(sorted(groups.items(), key=lambda item: layers.index(item[0][0])))


def _both(changes: Sequence[Change]) -> list[Change]:
    return [each for each in changes if each.in_both]


def _worst(changes: Sequence[Change]) -> tuple[Change, Difference] | None:
    found = [(each, each.worst) for each in changes]
    known = [(change, worst) for change, worst in found if worst is not None]
    return max(known, key=lambda pair: pair[1].rank, default=None)


def _place(change: Change, worst: Difference) -> str:
    layer, _, case = change.key
    return f"{worst.name} of {case if layer else f'case {case}'}"


def _spread(changes: Sequence[Change]) -> str:
    """The largest distance in the median of the changed cases, and in the worst."""
    changed = sorted(
        (each for each in changes if each.worst),
        key=lambda each: each.worst.rank if each.worst else 0,
    )
    middle, most = _most(changed[len(changed) // 2 :][:1]), _most(changes)
    return most if len(changed) == 1 else f"{middle} .. {most}"


def _most(changes: Sequence[Change]) -> str:
    """The largest distance over some cases."""
    differences = [each for change in changes for each in change.differences]
    worst = max(differences, key=lambda each: each.rank)
    exact = all(each.exact for each in differences)
    return _ulps(worst.ulps, exact or worst.ulps == math.inf)


def _ulps(ulps: float | None, exact: bool) -> str:
    if ulps is None:
        return "-"
    if math.isinf(ulps):
        return "NaN"
    if not exact and ulps == 0:
        return "?"
    shown = f"{ulps:.0f}" if ulps < 1e6 else f"{ulps:.1e}".replace("e+0", "e")
    return shown if exact else f">={shown}"


def _sentence(each: Difference) -> str:
    """A difference in words."""
    where = "" if each.place in (None, ()) else f" at {list(each.place or ())}"
    values = "" if each.values is None else f": {each.values[0]:.9g} -> {each.values[1]:.9g}"
    far = _ulps(each.ulps, each.exact)
    distance = {"-": "", "?": "changed"}.get(
        far, "a NaN" if far == "NaN" else f"{far} {'ulp' if far == '1' else 'ulps'}"
    )
    if each.note.startswith("its "):
        where, note = f" in {each.note}", ""
    else:
        note = each.note
    said = f"{distance}{where}{values}" if distance else ""
    words = ", ".join(part for part in (said, note) if part)
    passes = f" ({', '.join(each.passes)})" if each.passes else ""
    return f"{each.name}{passes}: {words}"


def _titled(title: str, changes: Sequence[Change], every: bool) -> list[str]:
    """Some changes by variant and kind, with a title and an empty line above; none: no lines."""
    if not changes:
        return []
    return ["", title, *_listed(changes, every)]


def _listed(changes: Sequence[Change], every: bool) -> Iterator[str]:
    kinds: dict[tuple[Group, str], list[Change]] = {}
    for each in changes:
        words = " -> ".join(verdict for verdict in each.verdicts if verdict)
        kinds.setdefault(((each.key[0], each.key[1]), words), []).append(each)
    for (group, words), same in kinds.items():
        names = [each.key[2] for each in (same if every else same[:FEW])]
        more = ", ..." if len(names) < len(same) else ""
        yield f"  {_named(group)}: {words}  [{len(same)}: {', '.join(names)}{more}]"
        first = same[0]
        if first.judged == "worse" and first.reason:
            line = first.reason.splitlines()[0]
            yield f"    {first.key[2]}: {line if len(line) <= 110 else line[:107] + '...'}"


def _verdicts(changes: Sequence[Change]) -> str:
    counts = Counter(each.judged for each in changes)
    parts = [f"{counts[word]} {word}" for word in ("worse", "better", "other") if counts[word]]
    return ", ".join(parts) or "the same"


def _fractions(changes: Sequence[Change]) -> str:
    """The largest error / bound of the cases that have one before and after."""
    pairs = [
        (old, new)
        for old, new in (each.fractions for each in changes)
        if old is not None and new is not None
    ]
    if not pairs:
        return ""
    return f"{max(old for old, _ in pairs):.2g} -> {max(new for _, new in pairs):.2g}"


def _seconds(pace: Pace | None) -> str:
    if pace is None:
        return ""
    return " -> ".join(f"{each:.1f}" if each >= 1 else f"{each:.2g}" for each in pace.seconds)


def _named(group: Group) -> str:
    return "  ".join(part for part in group if part)


def _many(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
