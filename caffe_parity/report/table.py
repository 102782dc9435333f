"""Turns outcomes into the terminal table, the explanations and results.json."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from caffe_parity.contract import TENSORS
from caffe_parity.engine.compare import Agreement
from caffe_parity.engine.judge import AGREEING, Outcome
from caffe_parity.report.bits import as_json, number
from caffe_parity.report.columns import aligned

SCHEMA = "parity-results-2"
"""The name of the format; its JSON Schema is results.schema.json beside this file."""

Record = dict[str, Any]
"""One result as it stands in results.json, and as it travels between processes."""


def _tensor(agreement: Agreement) -> Record:
    return {
        "error": number(agreement.error),
        "bound": number(agreement.bound),
        "worst_index": list(agreement.worst_index),
        "fraction": number(agreement.fraction),
        "actual": number(agreement.actual),
        "expected": number(agreement.expected),
        "wrong": agreement.wrong,
        "size": agreement.size,
        "times_typical": number(agreement.times_typical),
        "suspicious": agreement.suspicious,
        "proves": agreement.proves,
    }


def record(outcome: Outcome) -> Record:
    """An outcome as JSON data."""
    return {
        "layer": outcome.layer,
        "variant": outcome.variant,
        "case": outcome.case,
        "verdict": outcome.verdict,
        "seconds": round(outcome.seconds, 6),
        "tensors": {name: _tensor(each) for name, each in outcome.tensors.items()},
        "reason": outcome.reason,
        "explanations": {
            name: {"code": each.code, "words": each.words}
            for name, each in outcome.explanations.items()
        },
        "detail": outcome.detail,
        "elements": outcome.size,
        "inputs": outcome.inputs,
        "computed": {
            name: [as_json(each) for each in kept] for name, kept in outcome.computed.items()
        },
    }


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps another run from writing its report to the same folder meanwhile.

    Raises:
        OSError: there is no such folder, and none can be made.
    """
    import fcntl  # Windows has none, and needs the rest of this module

    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_json(
    path: Path,
    environment: Mapping[str, Any],
    records: Sequence[Record],
    selected: int = 0,
    selection: Mapping[str, Any] | None = None,
) -> None:
    """Writes results.json, whole or not at all.

    Args:
        path: the file.
        environment: what the results depend on beside the code.
        records: the results.
        selected: how many were asked for, if more than there are.
        selection: the options that chose them; those that are not given are left out.

    Raises:
        OSError: the folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "schema": SCHEMA,
        "environment": environment,
        "selection": dict(selection or {}),
        "selected": max(selected, len(records)),
        "results": list(records),
    }
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def test_id(each: Record) -> str:
    """The id that pytest knows a result by."""
    return f"{each['layer']}-{each['variant']}-{each['case']}"


def reproduce(each: Record, options: str = "", job: str = "parity") -> str:
    """The one command that runs this result alone; `options` go first, with a space behind."""
    return f"tox -e {job} -- {options}-k '[{test_id(each)}]'"


def grouped(records: Iterable[Record]) -> dict[tuple[str, str], list[Record]]:
    """The records by layer and variant, in the order in which they came."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for each in records:
        groups.setdefault((each["layer"], each["variant"]), []).append(each)
    return dict(sorted(groups.items(), key=lambda item: _layer_rank(item[0][0])))


def _layer_rank(layer: str) -> int:
    order = ("euclidean", "channel_sum", "tail_sum")
    return order.index(layer) if layer in order else len(order)


def _fraction(group: Sequence[Record], tensor: str) -> str:
    """The worst error of a tensor as a fraction of its bound, over the cases that were compared."""
    fractions = [
        float(each["tensors"][tensor]["fraction"])
        for each in group
        if each["verdict"] in ("pass", "fail") and tensor in each["tensors"]
    ]
    if not fractions:
        return "-"
    worst = max(fractions)
    if worst == 0:
        return "0"
    return f"{worst:.2g}" if 0.001 <= worst < 1000 else f"{worst:.0e}"


def _counts(group: Sequence[Record]) -> str:
    """How the cases ended, in words."""
    counts = Counter(each["verdict"] for each in group)
    if set(counts) == {"not run"}:
        return f"not run: {group[0]['reason']}"
    bad = [f"{count} {name}" for name, count in counts.items() if name not in AGREEING]
    text = ", ".join(bad) if bad else "agrees"
    if counts["refused"]:
        text += f" ({counts['refused']} refused, as expected)"
    return text


def table(records: Sequence[Record]) -> list[str]:
    """Layer by variant: the worst error as a fraction of its bound, cases, seconds, verdict."""
    head: tuple[str, ...] = ("layer", "variant", "cases", *TENSORS, "seconds", "verdict")
    rows = [head]
    last = None
    for (layer, variant), group in grouped(records).items():
        seconds = f"{sum(each['seconds'] for each in group):.1f}"
        worst = [_fraction(group, tensor) for tensor in TENSORS]
        shown = layer if layer != last else ""
        last = layer
        rows.append((shown, variant, str(len(group)), *worst, seconds, _counts(group)))
    lines = aligned(rows, right={2, 3, 4, 5, 6})  # numbers
    lines.append("")
    lines.append(
        "loss, dx1, dx2: the worst error as a fraction of the rounding bound; 1 is the limit."
    )
    return lines


def refusals(records: Sequence[Record]) -> list[str]:
    """What was refused as expected and why, a line for each kind, with one case as the example."""
    lines = []
    for (layer, variant), group in grouped(records).items():
        kinds: dict[str, list[Record]] = {}
        for each in group:
            if each["verdict"] == "refused":
                kinds.setdefault(each["reason"].partition(":")[0].partition(" (")[0], []).append(
                    each
                )
        for same in kinds.values():
            example = next((each for each in same if each["case"] == "base"), same[0])
            lines.append(f"{layer}  {variant}  ({example['case']}) {example['reason']}")
    return lines


def suspicious(records: Sequence[Record]) -> list[str]:
    """What is within its worst-case bound, yet far above what rounding typically does."""
    lines = []
    for each in records:
        for name, tensor in each["tensors"].items():
            if tensor["suspicious"] and each["verdict"] in ("pass", "refused"):
                factor = float(tensor["times_typical"])
                lines.append(
                    f"{test_id(each)}: {name} is {factor:.3g} times what rounding typically does"
                    f" ({float(tensor['fraction']):.2g} of the bound)"
                )
    return lines


def failures(records: Sequence[Record], options: str = "", job: str = "parity") -> list[str]:
    """Each variant that disagrees: what that means, and the smallest case that shows it.

    Args:
        records: all results.
        options: what the commands that reproduce a case need to name the same variants.
        job: the tox environment of those commands.
    """
    lines: list[str] = []
    for (layer, variant), group in grouped(records).items():
        bad = [each for each in group if each["verdict"] not in AGREEING]
        if not bad:
            continue
        smallest = min(bad, key=lambda each: (not each["explanations"], each["elements"]))
        lines += ["", f"{layer}  {variant}: {len(bad)} of {len(group)} cases disagree"]
        lines += [f"  {line}" for line in _meanings(bad)]
        lines += [f"  smallest case: {smallest['case']} ({smallest['verdict']})"]
        lines += [f"    {line}" for line in smallest["reason"].splitlines()]
        lines += [f"    {line}" for line in smallest["detail"].splitlines()[-40:]]
        lines += [f"  reproduce: {reproduce(smallest, options, job)}"]
    return lines[1:]


def _meanings(bad: Sequence[Record]) -> list[str]:
    """The explanations, most frequent first: the one behind most failures is the likely cause."""
    words: dict[str, tuple[str, list[str]]] = {}
    for each in bad:
        if not each["explanations"]:
            words.setdefault(each["verdict"], (each["reason"].split("\n")[0], []))
            words[each["verdict"]][1].append(each["case"])
        for name, explanation in each["explanations"].items():
            key = f"{name} {explanation['code']}"
            words.setdefault(key, (explanation["words"], []))[1].append(each["case"])
    lines = []
    for text, cases in sorted(words.values(), key=lambda item: -len(item[1])):
        shown = ", ".join(cases[:4]) + (", ..." if len(cases) > 4 else "")
        lines.append(f"{text}  [{len(cases)}: {shown}]")
    return lines
