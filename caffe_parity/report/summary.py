"""A report as Markdown, for the page of a CI job (`--summary "$GITHUB_STEP_SUMMARY"`)."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from caffe_parity.errors import BadRequest
from caffe_parity.report.record import Report
from caffe_parity.report.table import (
    FEW,
    Reproduce,
    by_variant,
    failures_of,
    headline,
    many,
    suspicious,
    table,
    unproven,
)
from caffe_parity.terminal import Grid, Part, visible

SHAPES = {"pass": "✓", "fail": "✗", "unproven": "?", "not run": "-"}

TEXTS = ("", ".md", ".markdown", ".txt")
"""The suffixes of files that Markdown may be appended to."""

MOST = 20
"""How many variants that disagree, and lines of one kind, are shown: a job's page has 1 MB."""


def must_be_appendable(option: str, path: Path | None) -> None:
    """Looks before a run whether its summary can be written.

    Args:
        option: by which the file was named, for the message.
        path: the file; None for none.

    Raises:
        BadRequest: it cannot.
    """
    if path is None:
        return
    try:
        if path.is_dir():
            raise BadRequest(f"{option} {path} is a folder: name the file to write")
        if path.exists() and path.stat().st_size and path.suffix not in TEXTS:  # a slip
            raise BadRequest(f"{option} {path} is no Markdown, and would be appended to")
        new = not path.exists()
        with path.open("ab"):
            pass
        if new:
            path.unlink()
    except FileNotFoundError as error:
        raise BadRequest(f"{option} {path}: there is no folder {path.parent}: make it") from error
    except (OSError, ValueError) as error:
        words = getattr(error, "strerror", None) or error
        raise BadRequest(f"{option} {path} cannot be written: {words}") from error


def append(path: Path, text: str) -> None:
    """Appends Markdown to a file.

    Raises:
        OSError: it cannot be written to.
    """
    try:
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"\n{text}\n")
    except OSError as error:  # a write that fails does not say of what
        raise OSError(error.errno, error.strerror, str(path)) from error


def markdown(report: Report, reproduce: Reproduce) -> str:
    """What a report says.

    Args:
        report: what was compared.
        reproduce: the command that runs a record's case again.
    """
    verdict, words = headline(report)
    command = report.command if report.command == "pytest" else f"parity {report.command}"
    what = plain(f"{command} {report.selection.get('net', '')}".rstrip())
    lines = [f"### {SHAPES[verdict]} {what}: {plain(words)}", "", *tables(table(report.results))]
    groups = by_variant(report.results).items()
    bad = [(group, [each for each in some if each.wrong], len(some)) for group, some in groups]
    bad = [each for each in bad if each[1]]
    for (layer, variant), some, count in bad[:MOST]:
        title = plain(f"{layer} {variant}".strip())
        lines += ["", f"#### ✗ {title}: {len(some)} of {count} cases do not agree", ""]
        meanings, smallest = failures_of(some)
        for finding, cases in meanings[:MOST]:
            more = ", ..." if len(cases) > FEW else ""
            named = plain(", ".join(cases[:FEW]))
            line = finding.words.partition("\n")[0]
            lines.append(
                f"- {plain(finding.code)}: {plain(line)} \\[{len(cases)}: {named}{more}\\]"
            )
        lines += ["", *fenced(reproduce(smallest))]
    if len(bad) > MOST:
        lines += ["", f"{many(len(bad) - MOST, 'further variant')} do not agree."]
    lines += _listed("Unproven", unproven(report))
    lines += _listed("Suspicious", suspicious(report.results))
    if report.missing:
        lines += ["", f"{many(report.missing, 'comparison')} did not run."]
    return "\n".join(lines)


def tables(parts: Sequence[Part]) -> Iterator[str]:
    """Tables as Markdown has them; the lines beside them, each a line of its own."""
    for each in parts:
        if not isinstance(each, Grid):
            yield f"{plain(each)}  " if each else ""
            continue
        titles, *rows = each.rows
        yield _row(titles)
        yield _row(
            ["--:" if column in each.right else "---" for column in range(len(titles))], True
        )
        yield from map(_row, rows)


def _row(cells: Sequence[str], as_it_is: bool = False) -> str:
    return f"| {' | '.join(cells if as_it_is else map(plain, cells))} |"


def _listed(title: str, some: Sequence[str]) -> list[str]:
    if not some:
        return []
    more = [f"- {len(some) - MOST} more"] if len(some) > MOST else []
    return ["", f"#### {title}", "", *(f"- {plain(each)}" for each in some[:MOST]), *more]


def plain(text: str) -> str:
    """A text that means nothing to Markdown, in one line."""
    shown = html.escape(" ".join(visible(text).split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]()#|~:@])", r"\\\1", shown)


def fenced(text: str) -> list[str]:
    """A text as it stands, in a block of code that nothing in it ends."""
    shown = visible(text)
    fence = "`" * max(3, *(len(each) + 1 for each in re.findall("`+", shown) or [""]))
    return [f"{fence}sh", *shown.splitlines(), fence]
