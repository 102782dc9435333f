"""Says what changed: lines for the terminal, and data for a file."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from caffe_parity.contract import spoken
from caffe_parity.report.changes import SHORT, SLOWER, Change, Diff, Difference
from caffe_parity.report.record import Json, plain
from caffe_parity.report.table import FEW, by_variant, largest, many
from caffe_parity.terminal import Grid, Part

SCHEMA = "parity-diff-2"
"""The name of the format of --json; its JSON Schema is diff.schema.json beside this file."""

COLUMNS = (
    *("layer", "variant", "cases", "identical", "changed", "ulps"),
    *("worst", "error/bound", "seconds", "verdicts"),
)

CHANGED = {
    "worse": "verdicts that got worse:",
    "better": "verdicts that got better:",
    "other": "verdicts that are others, neither better nor worse:",
    "new": "only in AFTER:",
    "old": "only in BEFORE:",
}
"""The titles of the lists of verdicts, by what became of them."""

NOT_COMPARED = {
    "other inputs": "with other inputs than before, so not compared",
    "other passes": "with other passes than before, so not all compared",
    "no result": "without a result in one of them or both",
}
"""Why the bits of a case tell nothing, in words."""


def lines(diff: Diff, every: bool) -> Iterator[Part]:
    """What is printed; `every` names and lists all cases, not a few."""
    yield from _header(diff)
    yield ""
    yield _table(diff)
    yield from _legend([each for change in diff.changes for each in change.differences])
    for judged, title in CHANGED.items():
        some = [each for each in diff.changes if each.judged == judged]
        if some:
            yield from ("", title, *_listed(some, every))
    yield from _slower(diff)
    if every:
        yield from ("", *_every_case(diff))
    yield from ("", summary(diff))


def as_json(diff: Diff) -> Json:
    """All of it as JSON data."""
    judged = Counter(each.judged for each in diff.changes)
    content = {
        "schema": SCHEMA,
        **{
            name: {"file": each.file, "command": each.command, "missing": each.missing}
            for name, each in (("before", diff.before), ("after", diff.after))
        },
        **diff.facts,
        "worse": judged["worse"],
        "better": judged["better"],
        "variants": [{**plain(each), "slower": each.slower} for each in diff.paces.values()],
        "cases": diff.changes,
    }
    data: Json = plain(content)
    return data


def _header(diff: Diff) -> Iterator[str]:
    """What was compared, and what differs beside the results."""
    for name, each in (("BEFORE", diff.before), ("AFTER ", diff.after)):
        command = each.command if each.command == "pytest" else f"parity {each.command}"
        missing = f"; {each.missing} that were asked for are missing" if each.missing else ""
        yield f"{name}  {each.file}: {command}, {many(len(each.results), 'result')}{missing}"
    for what, facts in zip(("environment", "asked for"), diff.facts.values(), strict=True):
        if not facts:
            yield f"{what}: the same"
        for name, (old, new) in facts.items():
            yield f"{what}: {name}: {old} -> {new}"


def _table(diff: Diff) -> Grid:
    """Layer by variant: how many cases have the same bits, the largest difference, the time."""
    rows: list[Sequence[str]] = [COLUMNS]
    last = None
    for (layer, variant), group in by_variant(diff.both).items():
        bits = Counter(each.bits for each in group)
        pace = diff.paces.get((layer, variant))
        cells = (
            *(str(len(group)), str(bits["identical"]), str(bits["changed"])),
            *_largest(group),
            _fractions(group),
            " -> ".join(f"{s:.1f}" if s >= 1 else f"{s:.2g}" for s in pace.seconds) if pace else "",
            _judged(group),
        )
        rows.append((layer if layer != last else "", variant, *cells))
        last = layer
    return Grid(rows, right=range(2, 6))


def _largest(group: Sequence[Change]) -> tuple[str, str]:
    """The largest distance in the median of the changed cases and in the worst; and that one."""
    pairs = [(each.worst, each) for each in group if each.worst]
    if not pairs:
        return "", ""
    worst, where = max(pairs, key=lambda pair: pair[0].rank)
    _, middle = sorted(pairs, key=lambda pair: pair[0].rank)[len(pairs) // 2]
    spread = most(group) if len(pairs) == 1 else f"{most([middle])} .. {most(group)}"
    case = f"case {where.case}" if where.case.isdigit() else where.case
    return spread, f"{spoken(worst.tensor)} of {case}"


def _fractions(group: Sequence[Change]) -> str:
    """The largest error / bound of the cases that have one before and after."""
    pairs = [each.fractions for each in group if None not in each.fractions]
    return " -> ".join(f"{largest(side):.2g}" for side in zip(*pairs, strict=True))


def _judged(group: Sequence[Change]) -> str:
    counts = Counter(each.judged for each in group)
    parts = [f"{counts[word]} {word}" for word in ("worse", "better", "other") if counts[word]]
    return ", ".join(parts) or "the same"


def _legend(differences: Sequence[Difference]) -> Iterator[str]:
    """What the signs in the table mean, those that occur in it."""
    yield ""
    if differences:
        yield "ulps: how many float32 numbers apart, in the median changed case .. in the worst."
    if not all(each.exact for each in differences):
        what = "of large tensors some elements are kept, and the extremes"
        yield f"  >=: {what}; others may differ by more."
    if any(each.ulps == 0 and not each.exact for each in differences):
        yield "  ?: only others differ."
    if any(each.ulps is None for each in differences):
        yield "  -: there are no two tensors of one shape to compare."
    yield "error/bound: the worst error against the reference, as a fraction of its bound."


def _listed(changes: Sequence[Change], every: bool) -> Iterator[str]:
    """By variant and kind, the reason of the first that got worse below."""
    for (layer, variant), group in by_variant(changes).items():
        kinds: dict[str, list[Change]] = {}
        for each in group:
            kinds.setdefault(" -> ".join(filter(None, each.verdicts)), []).append(each)
        for words, same in kinds.items():
            names = [each.case for each in (same if every else same[:FEW])]
            more = ", ..." if len(names) < len(same) else ""
            yield f"  {layer}  {variant}: {words}  [{len(same)}: {', '.join(names)}{more}]"
            if same[0].judged == "worse":
                line = same[0].reason.partition("\n")[0]
                yield f"    {names[0]}: {line if len(line) <= 110 else line[:107] + '...'}"


def _slower(diff: Diff) -> Iterator[str]:
    """Which variants need much more time than before."""
    slower = {group: pace for group, pace in diff.paces.items() if pace.slower}
    if slower:
        limit = f"{SLOWER:g} times as long or more, by {SHORT:g} s or more"
        yield from ("", f"slower ({limit}; timings are noisy, so this decides nothing):")
    for (layer, variant), pace in slower.items():
        before, after = pace.seconds
        beside = f" (beside the run as a whole: {pace.whole:.2f})" if pace.whole != 1 else ""
        times = f"{before:.1f} -> {after:.1f} s, {pace.ratio:.1f} times as long"
        yield f"  {layer}  {variant}: {times}{beside}"


def _every_case(diff: Diff) -> Iterator[str]:
    """Each case with its verdicts, its bits, and each tensor that differs."""
    for each in diff.changes:
        before, after = (word or "-" for word in each.verdicts)
        verdict = before if before == after else f"{before} -> {after}"
        yield f"{'-'.join(filter(None, each.key))}  {verdict}  {each.bits}"
        yield from (f"    {sentence(difference)}" for difference in each.differences)


def summary(diff: Diff) -> str:
    """What it comes to."""
    bits = Counter(each.bits for each in diff.both)
    parts = [f"{bits['identical']} of {many(len(diff.both), 'case')} bit-identical"]
    if bits["changed"]:
        parts.append(f"{bits['changed']} changed{_far(most(diff.both))}")
    parts += [f"{bits[why]} {words}" for why, words in NOT_COMPARED.items() if bits[why]]
    judged = Counter(each.judged for each in diff.changes)
    verdicts = [
        f"{many(judged[word], 'verdict') if judged[word] else 'no verdict'} got {word}"
        for word in ("worse", "better")
        if judged[word] or word == "worse"
    ]
    return f"{'; '.join(parts)}; {', '.join(verdicts)}"


def _far(most: str) -> str:
    if most in ("-", "?"):
        return ""
    if most == "NaN":
        return ", a NaN on one side"
    if most.startswith(">="):
        return f", by {most.removeprefix('>=')} ulps or more"
    return f", by up to {most} ulp{'' if most == '1' else 's'}"


def most(changes: Sequence[Change]) -> str:
    """The largest distance over some cases."""
    differences = [each for change in changes for each in change.differences]
    worst = max(differences, key=lambda each: each.rank)
    return _ulps(worst.ulps, all(each.exact for each in differences))


def _ulps(ulps: float | None, exact: bool) -> str:
    if ulps is None:
        return "-"
    if math.isinf(ulps):
        return "NaN"
    if not exact and ulps == 0:
        return "?"
    shown = f"{ulps:.0f}" if ulps < 1e6 else f"{ulps:.1e}".replace("e+0", "e")
    return shown if exact else f">={shown}"


def sentence(each: Difference) -> str:
    """A difference in words."""
    far = _ulps(each.ulps, each.exact)
    words = {"-": "", "?": "changed", "NaN": "a NaN", "1": "1 ulp"}.get(far, f"{far} ulps")
    extreme = each.note.startswith("its ")
    if extreme:
        words += f" in {each.note}"
    elif each.index:
        words += f" at {list(each.index)}"
    if each.values:
        words += f": {each.values[0]:.9g} -> {each.values[1]:.9g}"
    passes = f" ({', '.join(each.passes)})" if each.passes else ""
    note = "" if extreme else each.note
    return f"{spoken(each.tensor)}{passes}: {', '.join(filter(None, (words, note)))}"
