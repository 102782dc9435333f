"""Truths and bounds in the cache folder, by all that decides them: computed once, not in each run.

An entry's name is a digest of the inputs, the case, the versions, the processor, and the text of
the code that computes it. So what has changed since is not found, and is computed. What is found
is what was written, by its checksum, or it is not there. Nothing here decides a verdict.

Environment variable: PARITY_TRUTHS ("keep", which `parity run` sets; "anew" neither reads nor
writes).
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import json
import os
import platform
import struct
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from caffe_parity.caffe.cache import folder as cache_folder
from caffe_parity.contract import Array64, Arrays, Bound, Case, Expected, Structure
from caffe_parity.engine.compare import once
from caffe_parity.layer import Layer
from caffe_parity.report.host import processor

LIMIT = 2**20
"""Bytes of an entry; to read and check a larger one takes longer than to compute it once."""

ROUNDED = 2**24
"""The same where the bound is found by rounding at random, which computes it dozens of times."""

TOTAL = 2**26
"""Bytes of all entries, above which the oldest are removed; a quarter more may be written first."""

FRESH = 10.0
"""Seconds between the last edit of a source and the start, below which it is not known that what
was imported is what the file says."""

_BEGAN = time.time()
_TOOL = Path(__file__).resolve().parents[1]
_HEAD = 32  # bytes of the checksum
_ALIGNMENT = 8  # bytes


def folder() -> Path:
    """Where the entries lie."""
    return cache_folder() / "truths"


def key(layer: Layer, case: Case, structure: Structure, inputs: Arrays, digest: str) -> str:
    """The name of an entry; "" where nothing is kept.

    Args:
        layer: the one that is computed; it names its `sources`.
        case: which inputs and gradients.
        structure: which tops.
        inputs: parameters included.
        digest: of their bits.
    """
    if os.environ.get("PARITY_TRUTHS") != "keep" or not layer.sources:
        return ""
    largest = LIMIT if layer.bound else ROUNDED
    if 8 * sum(each.size for each in inputs.values()) > largest:
        return ""
    sources = _files(tuple(layer.sources))
    computed_by = [_named(each, sources) for each in (layer.reference, layer.bound) if each]
    code = _code(sources)
    if not code or None in computed_by:
        return ""
    shapes = {name: each.shape for name, each in inputs.items()}
    said = [layer.name, *computed_by, case, structure, shapes, digest, code, _machine()]
    return hashlib.sha256("\n".join(map(repr, said)).encode()).hexdigest()


def _named(function: Callable[..., Any], sources: Sequence[Path]) -> str | None:
    """What tells a function from all others of these sources; None for one that nothing tells."""
    if isinstance(function, partial):
        given = [*function.args, *function.keywords.items()]
        inner = _named(function.func, sources)
        plain = all(isinstance(each, str | int | float) for each in function.args)
        return f"{inner} {given!r}" if inner and plain and not function.keywords else None
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    code = getattr(function, "__code__", None)
    if code is None or vars(sys.modules.get(module, object)).get(name) is not function:
        return None  # a method, a closure, an object: its name does not say all of it
    return f"{module}:{name}" if Path(code.co_filename).resolve() in sources else None


@cache
def _files(sources: Sequence[Path]) -> tuple[Path, ...]:
    """The files, those in the folders, what these import, and those of the tool, in order."""
    files = [each for source in sources for each in _python_in(source)]
    files = _with_imports(files)
    tool = [*_TOOL.glob("*.py"), *_TOOL.glob("engine/*.py")]
    return tuple(sorted({each.resolve() for each in (*files, *tool)}))


def _python_in(source: Path) -> Sequence[Path]:
    return [*source.rglob("*.py")] if source.is_dir() else [source]


def _with_imports(files: Sequence[Path]) -> list[Path]:
    """These, what they import, and so on: not the tool, what is installed or came with Python."""
    left = [each.resolve() for each in files]
    found = {*left}
    while left:
        file = left.pop()
        new = {each.resolve() for each in _imports_of(file)} - found
        found |= new
        left += new
    return [*found]


def _imports_of(file: Path) -> Iterator[Path]:
    """The files that its imports may mean, wherever in it they stand."""
    try:
        nodes = [*ast.walk(ast.parse(file.read_bytes()))]
    except (OSError, SyntaxError, ValueError):
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            for each in node.names:
                yield from _files_of(each.name)
        elif isinstance(node, ast.ImportFrom):
            names = [
                f"{node.module}.{each.name}" if node.module else each.name for each in node.names
            ]
            for name in names:
                if not node.level:
                    yield from _files_of(name)
                elif len(file.parents) >= node.level:
                    yield from _below(file.parents[node.level - 1], name.split("."))


def _files_of(name: str) -> Iterator[Path]:
    """The files of a module and of the packages that it is in."""
    top, *rest = name.split(".")
    for path in _places(top):
        if path.is_dir():
            yield from _below(path, rest)
        elif path.suffix == ".py":
            yield path


@cache
def _places(top: str) -> Sequence[Path]:
    """The file of a module, or that and the folders of a package; none of what is left out."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # the latter of a module that has none, as __main__
        return []
    if spec is None:
        return []
    origin = [spec.origin] if spec.has_location and spec.origin else []
    places = [*(spec.submodule_search_locations or ()), *origin]
    paths = [Path(each).resolve() for each in places]
    known = any(each.is_relative_to(_TOOL) or each.is_relative_to(_STDLIB) for each in paths)
    installed = any(_INSTALLED & {*each.parts} for each in paths)
    return [] if known or installed else paths


def _below(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """The files of a module by its names in a folder; the last name may be no module."""
    for count in range(len(names) + 1):
        path = folder.joinpath(*names[:count])
        for each in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if each.is_file() and (count or each.parent == folder):
                yield each


_STDLIB = Path(sysconfig.get_path("stdlib")).resolve()
_INSTALLED = {"site-packages", "dist-packages"}


@cache
def _code(files: Sequence[Path]) -> str:
    """A digest of the files' text; "" where one was edited so lately that another may be loaded."""
    made = hashlib.sha256()
    for each in files:
        try:
            known = each.stat()
            if max(known.st_mtime, known.st_ctime) > _BEGAN - FRESH:  # a copy keeps the first
                return ""
            made.update(f"{each}\n{known.st_size}\n".encode() + each.read_bytes())
        except OSError:
            return ""
    return made.hexdigest()


@cache
def _machine() -> str:
    """What the last bits of a float64 sum may depend on."""
    facts = [sys.version, np.__version__, torch.__version__, platform.machine(), processor()]
    return repr([*facts, torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()])


def found(key: str) -> list[Expected] | None:
    """What is kept under a name; None where it is not, or not as it was written."""
    try:
        entry = bytearray((folder() / key).read_bytes()) if key else bytearray()
    except OSError:
        return None
    if len(entry) < _HEAD or _checksum(key, memoryview(entry)[_HEAD:]) != entry[:_HEAD]:
        return None
    [length] = struct.unpack_from("<Q", entry, _HEAD)
    at = _HEAD + 8 + length
    arrays: list[Array64] = []
    head = json.loads(entry[_HEAD + 8 : at])
    for dtype, held, shape in head["arrays"]:
        each = np.frombuffer(entry, dtype, int(np.prod(held)), at).reshape(held)
        at += each.nbytes + -each.nbytes % _ALIGNMENT
        arrays.append(np.broadcast_to(each, shape) if held != shape else each)

    def placed(numbers: Mapping[str, int]) -> dict[str, Any]:
        return {name: arrays[number] for name, number in numbers.items()}

    expected = []
    for truth, worst, typical, kinks in head["expected"]:
        held = placed(worst)
        other = held if typical is None else placed(typical)
        expected.append(Expected(placed(truth), Bound(held, other, placed(kinks))))
    return expected


def keep(key: str, expected: Sequence[Expected]) -> None:
    """Writes an entry, in one step; one that is too large, or cannot be written, is not."""
    if not key:
        return
    arrays: list[np.ndarray] = []

    def placed(tensors: Mapping[str, np.ndarray]) -> dict[str, int]:
        numbers = {}
        for name, each in tensors.items():
            numbers[name] = len(arrays)
            arrays.append(each)
        return numbers

    said = []
    for each in expected:
        bound = each.bound
        typical = None if bound.typical is bound.worst else placed(bound.typical)
        said.append([placed(each.truth), placed(bound.worst), typical, placed(bound.kinks)])
    held = [np.ascontiguousarray(once(each)).reshape(once(each).shape) for each in arrays]
    described = [
        [each.dtype.str, one.shape, each.shape] for one, each in zip(held, arrays, strict=True)
    ]
    head = json.dumps({"expected": said, "arrays": described}).encode()
    head += b" " * (-(len(head)) % _ALIGNMENT)
    body = struct.pack("<Q", len(head)) + head
    body += b"".join(each.tobytes() + bytes(-each.nbytes % _ALIGNMENT) for each in held)
    if len(body) <= ROUNDED:
        with contextlib.suppress(OSError):  # a cache that is read-only, or full
            _write(folder() / key, _checksum(key, body) + body)


def _checksum(key: str, body: bytes | memoryview) -> bytes:
    made = hashlib.sha256(key.encode())
    made.update(body)
    return made.digest()


def _write(file: Path, entry: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    _make_room(file.parent, len(entry))
    descriptor, name = tempfile.mkstemp(dir=file.parent)
    try:
        with open(descriptor, "wb") as written:
            written.write(entry)
        os.replace(name, file)
    except BaseException:
        os.unlink(name)
        raise


_left = [0]
"""Bytes that this process may write before it looks again how much there is."""


def _make_room(entries: Path, size: int) -> None:
    """Removes the oldest entries, and what a killed process has left, where there is too much."""
    _left[0] -= size
    if _left[0] >= 0:
        return
    _left[0] = TOTAL // 4 - size
    with os.scandir(entries) as every:
        known = sorted((each.stat().st_mtime, each.stat().st_size, each.path) for each in every)
    total = sum(size for _, size, _ in known)
    for _, size, path in known if total > TOTAL else ():
        with contextlib.suppress(FileNotFoundError):  # another process removes them, too
            os.unlink(path)
        total -= size
        if total <= TOTAL // 2:
            break
