"""What is printed, on a terminal with colours and tables that fit it; elsewhere the same words.

The words decide: a colour says nothing that is not written. `rich` is imported where there are
colours, and nowhere else.
"""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from io import StringIO
from typing import IO, Any

COLORS = ("auto", "always", "never")

STYLES = {
    "good": "green",
    "bad": "bold red",
    "weak": "yellow",
    "dim": "dim",
    "code": "bold",
    "command": "cyan",
}
WORDS = (
    r"(?P<good>\bagrees?\b|\ball agree\b|\bbit-identical\b|\bno verdict got worse\b|\bbetter\b)",
    r"(?P<bad>\bdisagrees?\b|\bdo(es)? not agree\b|\bcrash\b|\bhang\b|\bfail\b|\b\d+ worse\b)",
    r"(?P<bad>\b\d+ verdicts? got worse\b|\bverdicts that got worse\b)",
    r"(?P<weak>\bunproven\b|\bsuspicious\b|\bincomplete\b|\binterrupted\b|\bslower\b)",
    r"(?P<dim>\bnot run\b.*|\brefused, as expected\b|^note: )",
    r"^(?P<code>(?!note)[a-z][\w:\[\].-]*(?=: )).*\[\d+ of \d+ cases?\]$",
    r"(?<=reproduce: )(?P<command>.*)$",
)
"""What is coloured, as regular expressions whose groups name a style; later ones win."""


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        rows: of equally many cells each; the first has the titles.
        right: the columns that end, instead of begin, one below the other, such as numbers.
    """

    rows: Sequence[Sequence[str]]
    right: Collection[int]

    def lines(self) -> list[str]:
        """As text, with two spaces between columns and a rule below the first row."""
        widths = [max(len(row[column]) for row in self.rows) for column in range(len(self.rows[0]))]
        lines = []
        for row in self.rows:
            cells = [
                cell.rjust(width) if column in self.right else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(cells).rstrip())
        return [lines[0], "-" * max(len(line) for line in lines), *lines[1:]]


Part = str | Grid
"""A line, or a table."""


class _Choice:
    color = "auto"


CHOICE = _Choice()
"""What --color said, one of `COLORS`."""


def is_terminal(stream: IO[str]) -> bool:
    """Whether a stream is a terminal on which something can be written over."""
    return stream.isatty() and os.environ.get("TERM") != "dumb" and _has_rich()


def coloured(stream: IO[str]) -> bool:
    """Whether what is written to a stream has colours (--color, NO_COLOR)."""
    if CHOICE.color != "auto":
        return CHOICE.color == "always" and _has_rich()
    return not os.environ.get("NO_COLOR") and is_terminal(stream)


def visible(value: Any) -> Any:
    r"""A text with what nobody sees, or no file can hold, written out as \x1b or \u202e."""
    if type(value) is not str or value.isprintable():
        return value
    return "".join(
        each.encode("unicode_escape").decode()
        if each not in "\n\t" and unicodedata.category(each) in ("Cc", "Cf", "Cs")
        else each
        for each in value
    )


@cache
def _has_rich() -> bool:
    return find_spec("rich") is not None


def say(parts: Iterable[Part], stream: IO[str] | None = None) -> None:
    """Prints lines and tables."""
    stream = stream or sys.stdout
    print("\n".join(rendered(parts, coloured(stream))), file=stream, flush=True)


def rendered(parts: Iterable[Part], colours: bool, width: int = 0) -> Iterator[str]:
    """The lines to print.

    Args:
        parts: lines and tables.
        colours: whether they are for a terminal with colours.
        width: of that terminal, in columns; 0 for this one's.
    """
    if not colours:
        for each in parts:
            yield from each.lines() if isinstance(each, Grid) else [each]
        return
    width = width or shutil.get_terminal_size().columns
    console, highlighted = _console(width)
    for each in parts:
        if isinstance(each, Grid):
            console.width = max(width, _least(each))  # what is wider, a terminal wraps itself
            console.print(_table(each, highlighted))
        else:
            console.print(highlighted(each), soft_wrap=True)
        yield console.file.getvalue().removesuffix("\n")
        console.file = StringIO()


def _console(width: int) -> tuple[Any, Callable[[str], Any]]:
    """Of rich, which writes to a text in memory; and what colours a line."""
    from rich.console import Console
    from rich.highlighter import RegexHighlighter
    from rich.text import Text
    from rich.theme import Theme

    class Words(RegexHighlighter):
        highlights = list(WORDS)

    words = Words()

    def highlighted(line: str) -> Text:
        text = Text(line, no_wrap=False)
        words.highlight(text)
        return text

    console = Console(
        file=StringIO(),
        width=width,
        force_terminal=True,
        color_system="standard",  # the user's own sixteen
        no_color=False,
        theme=Theme(STYLES, inherit=True),
    )
    return console, highlighted


LAST, GAP = 16, 3
"""The least width of a table's last column, and the space between two."""


def _least(grid: Grid) -> int:
    """The width of a table of which only the last column is folded."""
    columns = list(zip(*grid.rows, strict=True))[:-1]
    return sum(max(map(len, column)) + GAP for column in columns) + LAST


def _table(grid: Grid, highlighted: Callable[[str], Any]) -> Any:
    from rich import box
    from rich.table import Table

    titles, *rows = grid.rows
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
    for column, title in enumerate(titles):
        last = column == len(titles) - 1
        made.add_column(
            highlighted(title),
            justify="right" if column in grid.right else "left",
            no_wrap=not last,
            overflow="fold",
        )
    for row in rows:
        made.add_row(*map(highlighted, row))
    return made
