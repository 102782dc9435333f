"""Mutants that a tool makes of the files that decide, as generated.toml and tool.toml say.

The catalogue holds the bugs that somebody thought of. Here a tool changes every operator,
comparison, constant, condition and loop of a file in turn (cosmic-ray), or drops a statement.
generated.toml has the files of which no mutant may survive; tool.toml the whole engine and what it
reports, of which a run with a budget takes a sample, and whose known survivors it names.
"""

from __future__ import annotations

import ast
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

from studies.mutation.catalogue import ROOT, CatalogueError, Judge, Mutant, judge

FILE = Path(__file__).with_name("generated.toml")
TOOL = Path(__file__).with_name("tool.toml")

DROPPED = "DropStatement"
"""The operator that cosmic-ray does not have."""


def settings(file: Path = FILE) -> dict[str, Any]:
    """What stands in generated.toml, or in tool.toml."""
    return tomllib.loads(file.read_text())


def mutants(file: Path = FILE) -> tuple[Mutant, ...]:
    """The mutants of all files but for those that change nothing, and that are known to survive.

    Raises:
        CatalogueError: cosmic-ray is not there, or what is left out is no mutant.
    """
    given = settings(file)
    left_out = {
        (each["file"], f"{each['before']} -> {each['after']}") for each in given.get("left_out", ())
    }
    made = [
        mutant
        for name, text in given["judges"].items()
        for mutant in _of_file(name, judge(text), given["operators"])
    ]
    for name, change in left_out - {(each.file, each.bug) for each in made}:
        raise CatalogueError(f"{file.name}: no mutant of {name} is this one any more: {change}")
    return tuple(each for each in made if (each.file, each.bug) not in left_out)


def _of_file(file: str, finder: Judge, operators: Sequence[str]) -> Iterator[Mutant]:
    """All mutants of a file of the project, none twice."""
    source = (ROOT / file).read_text()
    count: Counter[str] = Counter()
    for before, piece, after in _pieces(source):  # a small text is parsed faster, and often
        seen = {_meaning(piece), ""}
        for name in operators:
            for edited in _edited(piece, name):
                meaning = _meaning(edited)
                if meaning not in seen:
                    seen.add(meaning)
                    count[name] += 1
                    short = f"{file.rpartition('/')[2]}-{name}-{count[name]}"
                    text, change = before + edited + after, _change(piece, edited)
                    yield Mutant(short, file, file, change, finder, source, text)


def _pieces(source: str) -> Iterator[tuple[str, str, str]]:
    """Each statement of a module, with what stands before and behind it."""
    lines = source.splitlines(keepends=True)
    starts = [
        min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))]) - 1
        for node in ast.parse(source).body
    ]
    for start, end in pairwise([*starts, len(lines)]):
        yield "".join(lines[:start]), "".join(lines[start:end]), "".join(lines[end:])


def _edited(source: str, operator: str) -> Iterator[str]:
    """The source with an operator of cosmic-ray's, or our own, at each place where it fits."""
    if operator == DROPPED:
        yield from _without_statements(source)
        return
    try:
        from cosmic_ray.mutating import mutate_code
        from cosmic_ray.plugins import get_operator
    except ImportError as error:
        raise CatalogueError(f"what a tool makes needs cosmic-ray: {error}") from error
    made = get_operator(f"core/{operator}")()
    number = 0
    while (text := mutate_code(source, made, number)) is not None:
        number += 1
        yield text


def _without_statements(source: str) -> Iterator[str]:
    """The source without one statement that only does something: `x += 1`, `f()`, `raise`.

    What binds a name stays, and what a function returns at its end: without it there is no program.
    """
    lines = source.splitlines(keepends=True)
    tree = ast.parse(source)
    ends = {each.body[-1] for each in ast.walk(tree) if isinstance(each, ast.FunctionDef)}
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        kept = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name | ast.Tuple)
        kept |= isinstance(node, ast.Return) and node in ends
        if not isinstance(node, _DOES_SOMETHING) or is_text or kept:
            continue
        assert node.end_lineno is not None and node.end_col_offset is not None
        before = lines[node.lineno - 1].encode()[: node.col_offset].decode()
        after = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode()
        yield "".join(
            [*lines[: node.lineno - 1], f"{before}pass{after}", *lines[node.end_lineno :]]
        )


_DOES_SOMETHING = (ast.Expr, ast.AugAssign, ast.Assign, ast.Raise, ast.Assert, ast.Return)


def _meaning(source: str) -> str:
    """A text that is equal for sources that do the same: annotations are left out.

    It is empty for what is no Python any more.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return ""
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
    return ast.dump(tree)


def _change(source: str, text: str) -> str:
    """The changed lines: `before -> after`."""
    before, after = source.splitlines(), text.splitlines()
    same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False))))
    before, after = before[same:], after[same:]
    backwards = zip(reversed(before), reversed(after), strict=False)
    same = len(list(takewhile(lambda pair: pair[0] == pair[1], backwards)))
    one, another = (
        " ".join(line.strip() for line in lines[: len(lines) - same]) for lines in (before, after)
    )
    return f"{one} -> {another}"
