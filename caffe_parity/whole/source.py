"""Copies functions of the catalogue, with all that they call, into a file of their own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import ModuleType

from caffe_parity.ports import (
    activations,
    arithmetic,
    convolution,
    losses,
    modules,
    normalisation,
    pooling,
    recurrent,
    shapes,
)

FAMILIES: tuple[ModuleType, ...] = (
    *(activations, arithmetic, convolution, pooling, normalisation, recurrent, shapes, losses),
    modules,
)
"""In the order in which what they define stands in a file."""


@dataclass(frozen=True)
class _Defined:
    """What a module defines: its text, and the names that it uses."""

    text: str
    uses: frozenset[str]


@cache
def _catalogue() -> tuple[Mapping[str, _Defined], Mapping[str, str]]:
    """All that the families define, in their order, and the line that imports each other name."""
    defined: dict[str, _Defined] = {}
    imports: dict[str, str] = {}
    for family in FAMILIES:
        with open(str(family.__file__), encoding="utf-8") as file:
            text = file.read()
        for node in ast.parse(text).body:
            if isinstance(node, ast.ImportFrom | ast.Import):
                for alias in node.names:
                    imports[alias.name.partition(".")[0]] = _import(node, alias)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Assign):
                name = (
                    node.name if not isinstance(node, ast.Assign) else ast.unparse(node.targets[0])
                )
                piece = str(ast.get_source_segment(text, node))
                piece = re.sub(r"  # type: ignore.*", "", piece)
                uses = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
                defined[name] = _Defined(piece, frozenset(uses))
    return defined, imports


def _import(node: ast.ImportFrom | ast.Import, alias: ast.alias) -> str:
    if isinstance(node, ast.Import):
        return f"import {alias.name}"
    return f"from {node.module} import {alias.name}"


def copied(names: Iterable[str], also: Iterable[str] = ()) -> tuple[str, str]:
    """The lines that import what some functions need, and the functions with all that they call.

    Args:
        names: of functions and classes of the catalogue.
        also: names that the file uses otherwise, such as `nn`.
    """
    defined, imports = _catalogue()
    needed: set[str] = set()
    waiting, foreign = [*names], set(also)
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        if name not in defined:
            foreign |= {name} & imports.keys()
            continue
        needed.add(name)
        waiting += defined[name].uses
    constants = [name for name in defined if name in needed and name.isupper()]
    others = [name for name in defined if name in needed and not name.isupper()]
    pieces = ["\n".join(defined[name].text for name in constants)] if constants else []
    pieces += [defined[name].text for name in others]
    return _imported({imports[name] for name in foreign}), "\n\n\n".join(pieces)


def _imported(lines: set[str]) -> str:
    """Import lines, those of the standard library first, of one module on one line."""
    plain = sorted(each for each in lines if each.startswith("import "))
    several: dict[str, list[str]] = {}
    for each in sorted(lines - set(plain)):
        module, _, name = each.removeprefix("from ").partition(" import ")
        several.setdefault(module, []).append(name)
    several.pop("__future__", None)
    grouped = [f"from {module} import {', '.join(names)}" for module, names in several.items()]
    own = [each for each in grouped + plain if "torch" in each]
    standard = [each for each in [*plain, *grouped] if "torch" not in each]
    blocks = ("\n".join(standard), "\n".join(sorted(own, key=lambda each: each[0] == "f")))
    return "\n\n".join(each for each in blocks if each)
