"""The command line: one parser, typed requests."""

from __future__ import annotations

import argparse
import contextlib
import gc
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from caffe_parity.errors import meant
from caffe_parity.report import INDEX
from caffe_parity.terminal import COLORS


def path(text: str) -> Path:
    """A file or a folder as an option's value; "" is none, though `Path` takes it for ".".

    Raises:
        ArgumentTypeError: nothing is named.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r}: expected the name of a file or a folder")
    return Path(text)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """While PyTorch is imported: nothing is garbage then, nor is what was made looked at later.

    Its half a million objects are else a fifth of what a small check costs.
    """
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """What is said of a name that nothing has: which one may be meant, and all that there are."""
    names = [*known]  # `list` is a module of this package
    return f"unknown {kind} {name!r}{meant(name, names) or '.'} Known: {', '.join(names) or 'none'}"


def add_color(parser: argparse.ArgumentParser) -> None:
    """Adds --color, which every command has but `python`."""
    parser.add_argument(
        "--color",
        choices=COLORS,
        default="auto",
        help="colours: on a terminal without NO_COLOR (auto), always or never",
    )


def add_told(parser: argparse.ArgumentParser, everything: str, *more: str) -> None:
    """Adds the options of how much is told, and the summary.

    Args:
        parser: of a command that compares.
        everything: what -v tells beside.
        more: further names of -v.
    """
    parser.add_argument("-q", "--quiet", action="store_true", help="one line: what it comes to")
    parser.add_argument("-v", "--verbose", *more, action="count", default=0, help=everything)
    parser.add_argument(
        "--summary",
        metavar="FILE",
        type=path,
        help='append a summary in Markdown, such as to "$GITHUB_STEP_SUMMARY"',
    )


def add_page(parser: argparse.ArgumentParser) -> None:
    """Adds --page."""
    parser.add_argument(
        "--page",
        metavar="FILE",
        nargs="?",
        const=INDEX,
        type=path,
        help=f"the same as a page to look at, HTML (without FILE: {INDEX})",
    )


def add_annotations(parser: argparse.ArgumentParser) -> None:
    """Adds --annotations."""
    parser.add_argument(
        "--annotations",
        choices=("auto", "github", "none"),
        default="auto",
        help="failures at their lines, as GitHub Actions shows them (auto: there)",
    )
