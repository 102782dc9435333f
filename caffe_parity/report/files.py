"""Reads the reports of `parity run` and of `parity check` into one form."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from caffe_parity.contract import Shape
from caffe_parity.report.bits import Kept, places
from caffe_parity.report.fields import Field, Unreadable, load

KINDS = {"parity-results-2": "parity run", "parity-check-2": "parity check"}
"""The formats that are read, and the command that writes each."""

FAMILIES = ("parity-results-", "parity-check-")
"""What the names of these formats begin with, in every version."""

VERDICTS = ("pass", "fail", "crash", "hang", "refused", "not run")
MOST = 2**40
"""Elements of a tensor; no real one has as many, and counting to it stays exact."""

Key = tuple[str, str, str]
"""Layer, variant and case; the layer of a check, which has but one, is ""."""


@dataclass(frozen=True)
class Entry:
    """One case of one variant.

    Attributes:
        verdict: as the report has it, or "suspicious" for a pass far above the typical rounding.
        reason: in words; "" for a pass.
        seconds: how long it took.
        fraction: the largest error / bound; None where there is none.
        inputs: their digest; "" where nothing ran.
        computed: what is kept of each tensor, by name.
    """

    verdict: str
    reason: str
    seconds: float
    fraction: float | None
    inputs: str
    computed: Mapping[str, tuple[Kept, ...]]


@dataclass(frozen=True)
class Report:
    """What one file tells.

    Attributes:
        file: its name.
        command: what wrote it, a value of `KINDS`.
        environment: by dotted name, such as "caffe.version".
        selection: what was asked for, likewise.
        missing: how many results were asked for and did not come.
        entries: in the order of the file.
    """

    file: str
    command: str
    environment: Mapping[str, str]
    selection: Mapping[str, str]
    missing: int
    entries: Mapping[Key, Entry]


def read(path: Path) -> Report:
    """Reads a report of either kind.

    Raises:
        Unreadable: the file cannot be read or is no such report.
    """
    try:
        return _report(path, load(path))
    except RecursionError as error:
        raise Unreadable(f"{path} is no report: it is nested too deeply") from error


def _report(path: Path, content: Field) -> Report:
    if "schema" not in content.object():
        raise Unreadable(f"{path} is no report of parity run or parity check: it has no 'schema'")
    schema = content["schema"].text()
    if schema not in KINDS:
        raise Unreadable(f"{path}: {_other_schema(schema)}")
    is_run = KINDS[schema] == "parity run"
    results = content["results"].items()
    entries: dict[Key, Entry] = {}
    words = {} if is_run else _words(content["findings"])
    for each in results:
        key, entry = _of_run(each) if is_run else _of_check(each, words)
        if key in entries:
            raise Unreadable(f"{path}: {each.where}: {spoken(key)} is there twice")
        entries[key] = entry
    return Report(
        file=str(path),
        command=KINDS[schema],
        environment=dict(_flat(content["environment"])),
        selection=dict(_flat(content["selection"]) if is_run else _asked(content)),
        missing=max(content["selected"].count() - len(results), 0) if is_run else 0,
        entries=entries,
    )


def spoken(key: Key) -> str:
    """The id of a result, as pytest has it."""
    return "-".join(part for part in key if part)


def _other_schema(schema: str) -> str:
    known = " and ".join(KINDS)
    if not schema.startswith(FAMILIES):
        return f"unknown schema {schema!r}; the reports that can be compared are {known}"
    return (
        f"it is of another version, {schema}; this parity compares {known}: "
        "write both files with the same parity"
    )


def _of_run(each: Field) -> tuple[Key, Entry]:
    names = (each[name].text() for name in ("layer", "variant", "case"))
    key = next(names), next(names), next(names)
    verdict = _verdict(each)
    tensors = [tensor for _, tensor in each["tensors"].entries()]
    if verdict == "pass" and any(tensor["suspicious"].truth() for tensor in tensors):
        verdict = "suspicious"
    fraction = max((tensor["fraction"].number() for tensor in tensors), default=None)
    meanings = [words["words"].text() for _, words in each["explanations"].entries()]
    reason = "; ".join(dict.fromkeys(meanings)) or each["reason"].text()
    return key, _entry(each, verdict, reason, fraction)


def _words(findings: Field) -> dict[str, str]:
    return {each["code"].text(): each["words"].text() for each in findings.items()}


def _of_check(each: Field, words: Mapping[str, str]) -> tuple[Key, Entry]:
    key = "", each["variant"].text(), str(each["case"].count())
    codes = [code.text() for code in each["findings"].items()]
    reason = "; ".join(f"{code}: {words.get(code, '')}" for code in codes)
    fraction = each["fraction"]
    nearest = None if fraction.value is None else fraction.number()
    return key, _entry(each, _verdict(each), reason, nearest)


def _verdict(each: Field) -> str:
    verdict = each["verdict"]
    if verdict.text() not in VERDICTS:
        raise verdict.wrong(f"one of {', '.join(VERDICTS)}")
    return verdict.text()


def _entry(each: Field, verdict: str, reason: str, fraction: float | None) -> Entry:
    computed = {
        name: tuple(_kept(part) for part in parts.items())
        for name, parts in each["computed"].entries()
    }
    inputs = each["inputs"].text("([0-9a-f]{64})?", "64 hexadecimal digits")
    return Entry(verdict, reason, each["seconds"].number(), fraction, inputs, computed)


def _kept(part: Field) -> Kept:
    shape: Shape = tuple(extent.count() for extent in part["shape"].items())
    size = math.prod(shape)
    if size > MOST:
        raise part["shape"].wrong(f"at most {MOST} elements")
    count = len(places(size))
    text = part["elements"].text(f"[0-9a-f]{{{8 * count}}}", f"{8 * count} hexadecimal digits")
    return Kept(
        passes=tuple(name.text() for name in part["passes"].items()),
        shape=shape,
        sha256=part["sha256"].text("[0-9a-f]{64}", "64 hexadecimal digits"),
        smallest=part["min"].number(),
        largest=part["max"].number(),
        mean_abs=part["mean_abs"].number(),
        nans=part["nan"].count(),
        infinities=part["inf"].count(),
        elements=np.array([int(digits, 16) for digits in re.findall("." * 8, text)], np.uint32),
    )


def _asked(content: Field) -> Iterator[tuple[str, str]]:
    """What was asked of a check."""
    for name in ("net", "reference", "port", "seed"):
        yield name, _word(content[name].value)
    yield from _flat(content["options"])


def _flat(field: Field) -> Iterator[tuple[str, str]]:
    """The members of an object by dotted name, in words."""
    for name, each in field.entries():
        if isinstance(each.value, dict):
            yield from ((f"{name}.{inner}", word) for inner, word in _flat(each))
        else:
            yield name, _word(each.value)


def _word(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_word(each) for each in value)
    return "none" if value is None else str(value)
