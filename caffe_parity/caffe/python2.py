"""`--py2`: a copy of a layer's Python 2 source that Caffe's Python 3 can run.

fissix, which goes on with the lib2to3 that Python dropped, rewrites the syntax and the names; what
it leaves is done here: `/` becomes a call that divides as Python 2 does, `param_str_` (before
Caffe 1.0) becomes `param_str`. Lines stay where they are (but see `_with_names`), so that a
message's line number is that of the user's own file, which nothing touches.
"""

import ast
import io
import re
import shutil
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caffe_parity.contract import BadRequest

NAMES = Path(__file__).with_name("python2_names.py")

_ADD_LINES = {"reduce", "intern", "reload"}
"""Fixers that would add an import on a line of its own; python2_names has these."""


@dataclass(frozen=True)
class ConvertedLine:
    """A line that was converted.

    Attributes:
        file: the user's own.
        line: its number.
        old, new: without indentation.
    """

    file: Path
    line: int
    old: str
    new: str


def converted(
    modules: Sequence[str], path: Sequence[str], folder: Path
) -> tuple[tuple[str, ...], list[ConvertedLine]]:
    """Copies Python layers, and what they import from beside them, as Python 3 has them.

    Args:
        modules: of the layers.
        path: the folders that they lie in.
        folder: an empty one for the copies.

    Returns:
        the path with the copies, which are searched first, and what changed.

    Raises:
        BadRequest: fissix is not installed, or a file cannot be converted.
    """
    if not modules:
        raise BadRequest("--py2: the net has no Python layer")
    changes: list[ConvertedLine] = []
    done: set[str] = set()
    waiting = [name.partition(".")[0] for name in modules]
    while waiting:
        name = waiting.pop()
        source = None if name in done | {"caffe"} else _found(name, path)
        done.add(name)
        if source is None:
            continue
        target = folder / source.name
        for file in sorted(source.rglob("*.py")) if source.is_dir() else [source]:
            copy = target / file.relative_to(source) if source.is_dir() else target
            text, encoding = _read(file)
            new = _python3(text, file)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(new.encode(encoding))
            changes += _changes(file, text, new)
            waiting += _imports(new)
    if not any(folder.iterdir()):
        raise BadRequest(f"--py2: none of {', '.join(modules)} lies in {', '.join(path)}")
    shutil.copy(NAMES, folder)
    return (str(folder), *path), changes


def _found(name: str, folders: Sequence[str]) -> Path | None:
    """The file or package of a module, where Caffe's Python would find it."""
    for folder in folders:
        for place in (Path(folder, name), Path(folder, f"{name}.py")):
            if place.is_file() or (place / "__init__.py").is_file():
                return place
    return None


def _read(file: Path) -> tuple[str, str]:
    data = file.read_bytes()
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
    except (SyntaxError, UnicodeDecodeError) as error:
        raise BadRequest(f"--py2: {file}: {error}") from error
    return text.replace("\r\n", "\n").rstrip("\n") + "\n", encoding


def _python3(text: str, file: Path) -> str:
    """Python 2 source as Python 3 with the same meaning, line by line.

    Raises:
        BadRequest: fissix is not there, or the text is no Python 2.
    """
    indented = "".join(map(_without_tabs, text.splitlines(keepends=True)))
    new = re.sub(r"\bparam_str_\b", "param_str", _refactored(indented, file))
    true_division = re.search(r"^from __future__ import .*\bdivision\b", text, re.MULTILINE)
    try:
        new = new if true_division else _with_divisions(new)
        used = {node.id for node in ast.walk(ast.parse(new)) if isinstance(node, ast.Name)}
    except SyntaxError as error:
        raise BadRequest(
            f"--py2: {file}:{error.lineno}: this line could not be converted: "
            f"{(error.text or '').strip()}"
        ) from error
    return _with_names(new, sorted(used & {"_divided", "_divided_in_place", *_ADD_LINES}))


def _without_tabs(line: str) -> str:
    """Indentation in spaces: Python 2 lets both be mixed, a tab going to the next column of 8."""
    body = line.lstrip(" \t")
    return line[: len(line) - len(body)].expandtabs(8) + body


def _refactored(text: str, file: Path) -> str:
    try:
        from fissix import refactor
        from fissix.pgen2.parse import ParseError
        from fissix.pgen2.tokenize import TokenError
    except ImportError as error:
        raise BadRequest("--py2 needs fissix: pip install fissix") from error
    fixers = [
        name
        for name in refactor.get_fixers_from_package("fissix.fixes")
        if name.rpartition("fix_")[2] not in _ADD_LINES
    ]
    problem: Any = None
    for print_function in (False, True):
        tool = refactor.RefactoringTool(fixers, {"print_function": print_function})
        try:
            return str(tool.refactor_string(text, str(file)))
        except ParseError as error:
            problem = problem or f"{file}:{error.context[1][0]}: {error.msg}"
        except (TokenError, IndentationError) as error:
            problem = problem or f"{file}: {error}"
    raise BadRequest(f"--py2: this is no Python 2: {problem}")


def _with_divisions(text: str) -> str:
    """The text with each `/` and `/=` as a call; one at a time, from the inside out."""
    data = text.encode()
    while True:
        node = next(_innermost_divisions(ast.parse(data)), None)
        if node is None:
            return data.decode()
        data = _with_call(data, node)


def _innermost_divisions(tree: ast.AST) -> Iterator[ast.BinOp | ast.AugAssign]:
    for child in ast.iter_child_nodes(tree):
        yield from _innermost_divisions(child)
    if isinstance(tree, (ast.BinOp, ast.AugAssign)) and isinstance(tree.op, ast.Div):
        yield tree


def _with_call(data: bytes, node: ast.BinOp | ast.AugAssign) -> bytes:
    starts = [0]
    for line in data.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def place(line: int | None, column: int | None) -> int:
        assert line is not None and column is not None
        return starts[line - 1] + column

    left, right = (
        (node.target, node.value) if isinstance(node, ast.AugAssign) else (node.left, node.right)
    )
    start, end = place(node.lineno, node.col_offset), place(node.end_lineno, node.end_col_offset)
    left_end = place(left.end_lineno, left.end_col_offset)
    # Between the two stand the operator, brackets, white space, and perhaps comments.
    gap = data[left_end : place(right.lineno, right.col_offset)]
    blank = re.sub(rb"#[^\n]*", lambda found: b" " * len(found[0]), gap)
    operator = left_end + blank.index(b"/")
    if isinstance(node, ast.AugAssign):
        target = data[start:left_end]
        head = data[start:operator] + b"= _divided_in_place(" + target + b", "
        return data[:start] + head + data[operator + 2 : end] + b")" + data[end:]
    head = b"_divided(" + data[start:operator].rstrip(b" ") + b","
    return data[:start] + head + data[operator + 1 : end] + b")" + data[end:]


def _with_names(text: str, names: Sequence[str]) -> str:
    """The text with an import of these names before its first statement, on a line that is there.

    A file whose first line is a `class` or `def` gets a line more.
    """
    if not names:
        return text
    listed = ", ".join(f"{name[1:]} as {name}" if name[0] == "_" else name for name in names)
    statement = f"from {NAMES.stem} import {listed}"
    lines = text.splitlines(keepends=True)
    first = ast.parse(text).body[0]
    decorators = getattr(first, "decorator_list", [])
    index = (decorators[0] if decorators else first).lineno - 1
    if not hasattr(first, "body"):
        lines[index] = f"{statement}; {lines[index]}"
    elif index and not re.match(r"#!|#.*coding", lines[index - 1]):
        lines[index - 1] = f"{statement}  {lines[index - 1]}"  # it is blank, or a comment
    else:
        lines.insert(index, f"{statement}\n")
    return "".join(lines)


def _imports(text: str) -> Iterator[str]:
    """The first names of all modules that a text imports."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (each.name.partition(".")[0] for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _changes(file: Path, old: str, new: str) -> Iterator[ConvertedLine]:
    before, after = old.splitlines(), new.splitlines()
    after = after[max(len(after) - len(before), 0) :]
    for number, (one, other) in enumerate(zip(before, after, strict=False)):
        if one.split() != other.split():
            yield ConvertedLine(file, number + 1, one.strip(), other.strip())
