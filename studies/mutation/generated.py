"""Mutants that a tool makes of the project's files, as generated.toml and tool.toml say.

The catalogue holds the bugs that somebody thought of. Here a tool changes every operator,
comparison, constant, condition and loop of a file in turn (cosmic-ray), or drops a statement.
generated.toml has the files of which no mutant may survive; tool.toml has all of the tool and of
the suite, draws some of each file's, the same for everybody, and names what is known to survive.
"""

from __future__ import annotations

import ast
import hashlib
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import takewhile
from pathlib import Path
from typing import Any

from studies.mutation.catalogue import ROOT, CatalogueError, Judge, Mutant, judge

FILE = Path(__file__).with_name("generated.toml")
TOOL = Path(__file__).with_name("tool.toml")

FOLDERS = ("caffe_parity", "reference", "caffe_impl", "torch_impl", "parity_tests")
"""What tool.toml must have every file of, but for the tests themselves."""

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
    known = {(each["file"], changed(each)) for each in given.get("left_out", ())}
    made = [
        mutant
        for name, text in given["judges"].items()
        for mutant in _made(name, judge(text), slots(name, given["operators"]))
    ]
    for name, change in known - {(each.file, each.bug) for each in made}:
        raise CatalogueError(f"{file.name}: no mutant of {name} is this one any more: {change}")
    return tuple(each for each in made if (each.file, each.bug) not in known)


def changed(entry: dict[str, str]) -> str:
    """What a mutant that is left out does, as `Mutant.bug` says it."""
    return f"{entry['before']} -> {entry['after']}"


def stale() -> list[str]:
    """What tool.toml leaves out and is no mutant any more."""
    given = settings(TOOL)
    made: dict[str, set[str]] = {}
    wrong = []
    for each in given.get("left_out", ()):
        file = each["file"]
        if file not in made:
            places = slots(file, given["operators"])
            made[file] = {mutant.bug for mutant in _made(file, judge(_NO_JUDGE), places)}
        if changed(each) not in made[file]:
            wrong.append(f"{TOOL.name}: no mutant of {file} is this one any more: {changed(each)}")
    return wrong


_NO_JUDGE = "fast tests/test_mutation.py"


def files() -> list[str]:
    """Every Python file that the study of the tool must have, sorted."""
    found = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return sorted(
        str(each.relative_to(ROOT)) for each in found if not each.name.startswith("test_")
    )


def judges() -> dict[str, str]:
    """What must find a mutant of each of these files: its own line in tool.toml, or its folder's.

    Raises:
        CatalogueError: a file has neither.
    """
    given = settings(TOOL)["judges"]
    found: dict[str, str] = {}
    for file in files():
        patterns = [each for each in given if fnmatch(file, each)]
        if not patterns:
            raise CatalogueError(
                f"{TOOL.name}: no judge of {file}: which tests find a mutant of it?"
            )
        found[file] = given[file if file in given else max(patterns, key=len)]
    return found


@dataclass(frozen=True)
class Drawn:
    """What the study of the tool takes of one file.

    Attributes:
        places: at how many places an operator fits.
        mutants: those that were drawn.
        known: of these, why one survives, by its name.
    """

    places: int
    mutants: tuple[Mutant, ...]
    known: dict[str, str]


def drawn(seed: int, only: Sequence[str] | None = None) -> dict[str, Drawn]:
    """Of each file of tool.toml some mutants, in proportion to its length; the seed decides which.

    An edit elsewhere in a file leaves them as they are.

    Args:
        seed: of the draw.
        only: the names of mutants that are taken instead, whether drawn or not.

    Raises:
        CatalogueError: cosmic-ray is not there, or no mutant has one of the names.
    """
    given = settings(TOOL)
    finders = judges()
    whys = {(each["file"], changed(each)): each["why"] for each in given.get("left_out", ())}
    found: dict[str, Drawn] = {}
    for file, text in finders.items():
        names = [name for name in only or () if name.startswith(f"{file}:")]
        if only and not names:
            continue
        places = slots(file, given["operators"])
        places.sort(key=lambda each: hashlib.sha256(f"{seed} {each.name}".encode()).digest())
        length = (ROOT / file).read_text().count("\n")
        count = max(given["at_least"], length // given["lines_per_mutant"])
        chosen = [each for each in places if each.name in names] if only else places
        made = _made(file, judge(text), chosen)
        mutants = tuple(each for each, _ in zip(made, range(len(names) or count), strict=False))
        known = {each.name: whys[file, each.bug] for each in mutants if (file, each.bug) in whys}
        found[file] = Drawn(len(places), mutants, known)
    made_names = {each.name for each in (m for d in found.values() for m in d.mutants)}
    if missing := set(only or ()) - made_names:
        raise CatalogueError(f"unknown mutant {min(missing)!r}; --list shows those of a draw")
    return found


@dataclass(frozen=True)
class Slot:
    """A place where an operator fits.

    Attributes:
        file: from the project's root.
        where: the function, class or name that it stands in.
        operator, number: which, and at which of the places in this piece.
        before, piece, after: the file's text.
        head, tail: what makes a program of the piece: a method needs a class.
    """

    file: str
    where: str
    operator: str
    number: int
    before: str
    piece: str
    after: str
    head: str
    tail: str

    @property
    def name(self) -> str:
        """Stays the same when another part of the file is edited."""
        return f"{self.file}:{self.where}-{self.operator}-{self.number}"

    def edited(self) -> str:
        """The piece with the operator applied."""
        whole = self.head + self.piece + self.tail
        if self.operator == DROPPED:
            text = list(_without_statements(whole))[self.number]
        else:
            from cosmic_ray.mutating import mutate_code

            text = mutate_code(whole, _operator(self.operator), self.number)
        return text[len(self.head) : len(text) - len(self.tail)]


def slots(file: str, operators: Sequence[str]) -> list[Slot]:
    """Every place of a file where an operator fits, in the order of the file.

    Raises:
        CatalogueError: cosmic-ray is not there.
    """
    found = []
    seen: Counter[str] = Counter()
    for where, before, piece, after, head, tail in _pieces((ROOT / file).read_text()):
        seen[where] += 1  # of overloads and properties there are several
        place = f"{where}.{seen[where]}" if seen[where] > 1 else where
        counts = _counts(head + piece + tail, operators)
        found += [
            Slot(file, place, name, number, before, piece, after, head, tail)
            for name in operators
            for number in range(counts[name])
        ]
    return found


def _made(file: str, finder: Judge, places: Sequence[Slot]) -> Iterator[Mutant]:
    """The mutants at these places: none twice, none that changes nothing, and only Python."""
    seen: set[tuple[str, str]] = set()
    for slot in places:
        edited = slot.edited()
        meaning = _meaning(slot.head + edited + slot.tail)
        key = (slot.where, meaning)
        if meaning in ("", _meaning(slot.head + slot.piece + slot.tail)) or key in seen:
            continue
        seen.add(key)
        old, new = slot.before + slot.piece + slot.after, slot.before + edited + slot.after
        yield Mutant(slot.name, file, file, _change(slot.piece, edited), finder, old, new)


Piece = tuple[str, str, str, str, str, str]


def _pieces(source: str) -> Iterator[Piece]:
    """Each statement of a module, of a class each one in it: a small text is parsed faster.

    A tuple is what `Slot` has: where, before, piece, after, head, tail.
    """
    lines = source.splitlines(keepends=True)
    starts: list[tuple[int, str, str, str]] = []  # line, where, head, tail
    for node in ast.parse(source).body:
        name = _place(node)
        if not isinstance(node, ast.ClassDef) or node.body[0].lineno == node.lineno:
            starts.append((_first_line(node), name, "", ""))
            continue
        starts.append((_first_line(node), name, "", "    pass\n"))
        for each in node.body:
            starts.append((_first_line(each), f"{name}.{_place(each)}", "class _:\n", ""))
    ends = [each[0] for each in starts[1:]] + [len(lines)]
    for (start, where, head, tail), end in zip(starts, ends, strict=True):
        piece = "".join(lines[start:end])
        yield where, "".join(lines[:start]), piece, "".join(lines[end:]), head, tail


def _place(node: ast.stmt) -> str:
    """What a statement is called: what it defines or assigns, else by its text."""
    if isinstance(node, ast.Assign | ast.AnnAssign):
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        return ast.unparse(target).replace(" ", "")
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return node.name
    return hashlib.sha256(ast.unparse(node).encode()).hexdigest()[:8]


def _first_line(node: ast.stmt) -> int:
    """Where a statement begins, with its decorators, counted from 0."""
    above: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(each.lineno for each in above)]) - 1


def _operator(name: str) -> Any:
    try:
        from cosmic_ray.plugins import get_operator
    except ImportError as error:
        raise CatalogueError(f"what a tool makes needs cosmic-ray: {error}") from error
    return get_operator(f"core/{name}")()


def _counts(source: str, operators: Sequence[str]) -> Counter[str]:
    """At how many places of a source each operator fits."""
    counts: Counter[str] = Counter()
    made = {name: _operator(name) for name in operators if name != DROPPED}
    from cosmic_ray.ast import ast_nodes, get_ast

    nodes = list(ast_nodes(get_ast(source)))
    for name, operator in made.items():
        counts[name] = sum(len(list(operator.mutation_positions(node))) for node in nodes)
    if DROPPED in operators:
        counts[DROPPED] = sum(1 for _ in _without_statements(source))
    return counts


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
