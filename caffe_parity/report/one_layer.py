"""What a person reads of one layer on numbered cases, as `parity check` and a failed test print it.

A line begins with the code of what it tells, so that it can be looked up and searched for.
"""

from collections.abc import Iterable, Sequence

from caffe_parity.caffe.layer_errors import theirs
from caffe_parity.contract import Finding, spoken
from caffe_parity.report.record import Record, Report
from caffe_parity.report.table import (
    by_variant,
    compared,
    findings,
    fraction,
    many,
    tensors,
    with_cases,
    worst_of,
)

PRINTED = 15
"""How many of the last lines that a process printed before it crashed or hung are shown."""


def lines(report: Report, seconds: float, verbose: bool = False) -> list[str]:
    """Each finding once, what was printed, the notes, how near to the bounds, and the verdict.

    Args:
        report: of one layer; its variants may be several, such as a net and a port.
        seconds: that everything took.
        verbose: whether tracebacks are shown whole.
    """
    records = report.results
    cases = len({each.case for each in records})
    wrong = _merged(findings(each for each in records if not each.weak))
    unproven = {name for _, _, name in report.unproven}
    found = _merged(findings(each for each in records if each.weak))
    weak = [(each, some) for each, some in found if each.tensor in unproven]
    notes = _merged((note, each.case) for each in records for note in each.notes)
    said = [_line(each.code, each, some, cases) for each, some in wrong]
    said += [_line("unproven", each, some, cases) for each, some in weak]
    idle = [each for each in records if each.verdict in ("not run", "refused")]
    said += dict.fromkeys(f"{each.verdict}: {each.reason}" for each in idle)
    for each in records:
        said += _printed(each, verbose)
    said += [_line("note", each, some, cases) for each, some in notes]
    said += _figures(records)
    said += [_last(report, len(wrong), seconds)]
    return "\n".join(said).split("\n")  # words may be more lines than one


def line(report: Report, seconds: float) -> str:
    """What it comes to, with the first finding; arguments as of `lines`."""
    wrong = _merged(findings(each for each in report.results if not each.weak))
    words = [found.words.partition("\n")[0] for found, _ in wrong[:1]]
    return "; ".join([_last(report, len(wrong), seconds), *words])


def _last(report: Report, wrong: int, seconds: float) -> str:
    cases = len({each.case for each in report.results})
    verdict = f"{_verdict(report, wrong)}, {many(cases, 'case')}, {seconds:.1f} s"
    left_out = report.selection.get("left_out")
    return f"{verdict}; {many(left_out, 'case')} left out by --budget" if left_out else verdict


def failure(record: Record) -> list[str]:
    """Why a test of one case fails: its findings, and what was printed; nothing if it agrees.

    What does not agree always has a line, also without a finding.
    """
    said = [f"{each.code}: {each.words}" for each, _ in findings([record])]
    return [*said, *_printed(record)]


def _printed(record: Record, verbose: bool = False) -> list[str]:
    if record.verdict not in ("crash", "hang") or not record.detail.strip():
        return []
    printed = theirs(record.detail.strip(), verbose)
    return ["", "what was printed:", *(printed if verbose else printed[-PRINTED:])]


def _merged(found: Iterable[tuple[Finding, str]]) -> list[tuple[Finding, list[str]]]:
    """Each once for a code and a tensor, whatever explains it from case to case."""
    return with_cases(found, lambda each: (each.code, each.tensor))


def _line(code: str, finding: Finding, some: Sequence[str], cases: int) -> str:
    first, *more = finding.words.split("\n")
    return "\n  ".join([f"{code}: {first}  [{len(some)} of {many(cases, 'case')}]", *more])


def _figures(records: Sequence[Record]) -> list[str]:
    """The largest errors, and what was left out, for each variant with results."""
    groups = {name: group for (_, name), group in by_variant(records).items() if tensors(group)}
    said = []
    for variant, group in groups.items():
        of = f" of {variant}" if len(groups) > 1 else ""
        names = list(dict.fromkeys(name for each in group for name in each.tensors))
        errors = ", ".join(f"{spoken(name)} {fraction(worst_of(group, [name]))}" for name in names)
        said.append(f"largest error{of} as a fraction of its bound: {errors}")
        parts = {name: compared(tensors(group, [name])) for name in names}
        left_out = [f"{spoken(name)} {part}" for name, part in parts.items() if part != "100 %"]
        if left_out:
            why = "the rest are at a kink, where several gradients are right, or overflow, "
            why += "or have a bound as large as their value"
            said.append(f"compared{of}: {', '.join(left_out)} elements; {why}")
    return said


def _verdict(report: Report, wrong: int) -> str:
    if wrong:
        return f"disagrees: {many(wrong, 'finding')}"
    if report.unproven:
        names = dict.fromkeys(spoken(name) for _, _, name in report.unproven)
        return f"unproven: {', '.join(names)}".rstrip(": ")
    if report.missing:
        return f"incomplete: {many(report.missing, 'result')} missing"
    return "agrees" if report.agrees else "nothing was compared"
