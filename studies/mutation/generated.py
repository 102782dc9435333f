"""Mutants that cosmic-ray makes of the files that decide, as generated.toml says.

The catalogue holds the bugs that somebody thought of. Here a tool changes every operator,
comparison, constant, condition and loop of a file in turn.
"""

from __future__ import annotations

import ast
import difflib
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from studies.mutation.catalogue import ROOT, CatalogueError, Judge, Mutant, judge

FILE = Path(__file__).with_name("generated.toml")


def settings() -> dict[str, Any]:
    """What stands in generated.toml."""
    return tomllib.loads(FILE.read_text())


def mutants() -> tuple[Mutant, ...]:
    """The mutants of all files but for those that change nothing.

    Raises:
        CatalogueError: cosmic-ray is not there, or what is said to change nothing is no mutant.
    """
    given = settings()
    equivalent = {
        (each["file"], f"{each['before']} -> {each['after']}") for each in given["equivalent"]
    }
    made = [
        mutant
        for file, text in given["judges"].items()
        for mutant in _of_file(file, judge(text), given["operators"])
    ]
    for file, change in equivalent - {(each.file, each.bug) for each in made}:
        raise CatalogueError(f"{FILE.name}: no mutant of {file} is this one any more: {change}")
    return tuple(each for each in made if (each.file, each.bug) not in equivalent)


def _of_file(file: str, finder: Judge, operators: Sequence[str]) -> Iterator[Mutant]:
    """All mutants of a file of the project, none twice."""
    try:
        from cosmic_ray.mutating import mutate_code
        from cosmic_ray.plugins import get_operator
    except ImportError as error:
        raise CatalogueError(f"--generated needs cosmic-ray: {error}") from error
    source = (ROOT / file).read_text()
    seen = {_meaning(source), ""}
    for name in operators:
        operator = get_operator(f"core/{name}")()
        number = 0
        while (text := mutate_code(source, operator, number)) is not None:
            number += 1
            meaning = _meaning(text)
            if meaning not in seen:
                seen.add(meaning)
                short = f"{file.rpartition('/')[2]}-{name}-{number}"
                yield Mutant(short, file, file, _change(source, text), finder, source, text)


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
    """The changed line: `before -> after`."""
    lines = list(difflib.ndiff(source.splitlines(), text.splitlines()))
    before, after = (
        " ".join(each[2:].strip() for each in lines if each[0] == sign) for sign in "-+"
    )
    return f"{before} -> {after}"
