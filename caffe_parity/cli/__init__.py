"""The command line: one parser, typed requests."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable
from pathlib import Path


def path(text: str) -> Path:
    """A file or a folder as an option's value; "" is none, though `Path` takes it for ".".

    Raises:
        ArgumentTypeError: nothing is named.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r}: expected the name of a file or a folder")
    return Path(text)


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """What is said of a name that nothing has: which one may be meant, and all that there are."""
    names = [*known]  # `list` is a module of this package
    close = difflib.get_close_matches(name, names, 1)
    meant = f" Did you mean {close[0]!r}?" if close else ""
    return f"unknown {kind} {name!r}.{meant} Known: {', '.join(names) or 'none'}"


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """Adds the options of how much is told, and where else."""
    parser.add_argument("-q", "--quiet", action="store_true", help="one line: what it comes to")
    parser.add_argument(
        "--summary",
        metavar="FILE",
        type=path,
        help='append a summary in Markdown, such as to "$GITHUB_STEP_SUMMARY"',
    )
    parser.add_argument(
        "--annotations",
        choices=("auto", "github", "none"),
        default="auto",
        help="failures at their lines, as GitHub Actions shows them (auto: there)",
    )
