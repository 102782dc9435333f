"""Failures at the lines of the layers that they are about, as GitHub Actions shows them.

That service takes lines of a log for commands. So whatever else is printed there is made harmless:
no layer, name or message gives it one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from caffe_parity.terminal import visible

if TYPE_CHECKING:
    from caffe_parity.contract import Finding
    from caffe_parity.report.record import Record, Report
    from caffe_parity.report.table import Reproduce

CHOICES = ("auto", "github", "none")

Place = tuple[str, int]
"""A file, and a line in it that counts from 1."""

_COMMAND = re.compile(r"(?:\A|(?<=[\r\n]))(\s*:)(?=:)|(##)(?=\[)")
_UNFINISHED = re.compile(r"[^\r\n]*\Z")


def in_github() -> bool:
    """Whether this is a job of GitHub Actions."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def wanted(choice: str) -> bool:
    """Whether failures are annotated; `choice` is one of `CHOICES`."""
    return choice == "github" or (choice == "auto" and in_github())


def harmless(text: str) -> str:
    r"""A text of which no line is a command: `::error` becomes `:\:error`, and `##[` `##\[`."""
    return _COMMAND.sub(lambda found: f"{found[1] or found[2]}\\", text)


class Harmless:
    """The same for a text that comes in pieces."""

    def __init__(self) -> None:
        self._line = ""

    def __call__(self, piece: str) -> str:
        """What is to be written of the next piece."""
        text = self._line + piece
        made = harmless(text)[len(self._line) :]
        found = _UNFINISHED.search(text)
        line = found[0] if found else ""
        self._line = line if line.strip() in ("", ":") else f"x{line[-2:]}"
        return made


def lines(
    report: Report, reproduce: Reproduce, place: Callable[[Record, Finding], Place | None]
) -> Iterator[str]:
    """An annotation for each finding of each variant, those of most cases first.

    Args:
        report: what was compared.
        reproduce: the command that runs a record's case again.
        place: where a record's finding belongs; None for nowhere.
    """
    from caffe_parity.report.table import by_variant, findings, many, with_cases

    for (layer, variant), group in by_variant(report.results).items():
        bad = {each.case: each for each in group if each.wrong}
        merged = with_cases(findings(bad.values()), lambda each: (each.code, each.tensor))
        for found, cases in sorted(merged, key=lambda pair: -len(pair[1])):
            first = bad[cases[0]]
            of = f"[{len(cases)} of {many(len(group), 'case')}, such as {first.case}]"
            words = f"{found.words}  {of}\n{reproduce(first)}"
            title = " ".join(filter(None, (layer, variant, found.code)))
            yield _error(place(first, found), title, words)


def _error(place: Place | None, title: str, words: str) -> str:
    given = {"title": title}
    if place:
        given = {"file": _relative(place[0]), "line": str(place[1])} | given
    properties = ",".join(f"{name}={_property(each)}" for name, each in given.items())
    return f"::error {properties}::{_data(words)}"


def _relative(file: str) -> str:
    """A file as it lies in the repository, if it does."""
    root = os.environ.get("GITHUB_WORKSPACE") or os.getcwd()
    path = os.path.relpath(file, os.path.realpath(root))
    return file if path.startswith("..") else path


def _data(text: str) -> str:
    shown: str = visible(text).replace("%", "%25")
    return shown.replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def write(
    report: Report, reproduce: Reproduce, place: Callable[[Record, Finding], Place | None]
) -> None:
    """Writes them to stderr, past everything that makes lines harmless; arguments as of `lines`.

    Raises:
        OSError: stderr cannot be written to.
    """
    text = "".join(f"{each}\n" for each in lines(report, reproduce, place))
    if text:
        with open(2, "wb", buffering=0, closefd=False) as stream:
            stream.write(text.encode(errors="backslashreplace"))
