"""The file and the line that a finding is about: of the layer's code, the net, or the port."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from caffe_parity.contract import GRADIENT, Finding
from caffe_parity.report.annotations import Place

FRAME = re.compile(r'File "([^"\n]+)", line (\d+)')
"""A line of a traceback."""

COMPILED = (".c", ".cc", ".cpp", ".cxx", ".cu")
FED = ("Input", "Data", "DummyData", "ImageData", "HDF5Data", "MemoryData", "WindowData")


def place(variant: Any, finding: Finding, printed: str, folder: Path) -> Place | None:
    """Where what a finding is about stands; None where that is not known.

    That is the last line of the layer's own that a traceback has; else its forward or its backward,
    whichever computes the tensor; else the layer in the net, or the net.

    Args:
        variant: as the layer has it: a net in Caffe, or a port.
        finding: what is wrong.
        printed: what was printed, with a traceback if there is one.
        folder: where a relative name of a net starts.
    """
    backward = finding.tensor.startswith(GRADIENT)
    if not hasattr(variant, "spec"):
        return _of_port(variant)
    folders = [Path(each) for each in variant.path]
    file = folder / variant.spec
    framed = [
        (name, int(line))
        for name, line in FRAME.findall(printed)
        if any(each in Path(name).parents for each in folders) and Path(name).is_file()
    ]
    if framed:
        return framed[-1]
    if variant.bare:
        module, _, layer = variant.spec.rpartition(":")
        return _in_python(module, layer, folders, finding.tensor, backward)
    name = finding.tensor.removeprefix(GRADIENT)
    blocks = [each for each in _layers(_read(file)) if each.type not in FED]
    role = "bottom" if backward else "top"
    fits = [each for each in blocks if name in each.named(role)] or blocks[-1:]
    for each in fits:
        found = _of_layer(each.text, variant, folders, finding.tensor, backward)
        if found:
            return found
    return (str(file), fits[0].line if fits else 1) if file.is_file() else None


def in_net(file: Path, name: str) -> Place | None:
    """Where the layer of a name stands in a net, or the net's first line; None without the file."""
    named = rf'\bname\s*:\s*"{re.escape(name)}"'
    lines = [each.line for each in _layers(_read(file)) if re.search(named, each.text)]
    return (str(file), lines[0] if lines else 1) if file.is_file() else None


def _of_port(port: Any) -> Place | None:
    function = getattr(port, "function", port)
    code = getattr(type(function), "forward", None) or function
    try:
        file = inspect.getsourcefile(inspect.unwrap(code))
        return (file, inspect.getsourcelines(code)[1] or 1) if file else None
    except (OSError, TypeError, ValueError):
        return None


def _of_layer(
    block: str, variant: Any, folders: Sequence[Path], tensor: str, backward: bool
) -> Place | None:
    """A Python layer's class, or a compiled one's function, in the files that are the user's."""
    said = dict(re.findall(r'\b(type|module|layer)\s*:\s*"([^"\n]*)"', block))
    if said.get("type") == "Python":
        return _in_python(said.get("module", ""), said.get("layer", ""), folders, tensor, backward)
    sources = variant.sources
    names = [sources.folder / each for each in sources.load] if sources else []
    for file in [each for each in names if each.suffix in COMPILED]:
        text, type_ = _read(file), re.escape(said.get("type", ""))
        method = "Backward_cpu" if backward else "Forward_cpu"
        for pattern in (rf"\b{type_}Layer\s*<\w+>\s*::\s*{method}\b", rf"\b{type_}Layer\b"):
            if type_ and (found := re.search(pattern, text)):
                return str(file), text.count("\n", 0, found.start()) + 1
    return None


def _in_python(
    module: str, layer: str, folders: Sequence[Path], tensor: str, backward: bool
) -> Place | None:
    names = [module] if module.endswith(".py") else [f"{module.replace('.', '/')}.py"]
    names.append(Path(names[0]).name)
    file = next(
        (each for name in names for folder in folders if (each := folder / name).is_file()), None
    )
    if file is None:
        return None
    text = _read(file)
    begin = re.search(rf"^class\s+{re.escape(layer)}\b", text, re.MULTILINE)
    if begin is None:
        return str(file), 1
    method = "backward" if backward else "forward"
    line = _line(text, rf"^[ \t]+def {method}\b", begin.end()) if tensor else 0
    return str(file), line or text.count("\n", 0, begin.start()) + 1


def _line(text: str, pattern: str, start: int) -> int:
    """The line on which something stands behind a place, before the next class; 0 for none."""
    end = re.compile(r"^class\b", re.MULTILINE).search(text, start)
    found = re.compile(pattern, re.MULTILINE).search(text, start, end.start() if end else len(text))
    return text.count("\n", 0, found.start()) + 1 if found else 0


class _Layer:
    """A layer in the text of a net."""

    def __init__(self, line: int, text: str) -> None:
        self.line = line
        self.text = text

    @property
    def type(self) -> str:
        """Its type; "" where that is no text."""
        found = re.search(r'\btype\s*:\s*"([^"\n]*)"', self.text)
        return found[1] if found else ""

    def named(self, role: str) -> list[str]:
        """Its bottoms or its tops."""
        return re.findall(rf'\b{role}\s*:\s*"([^"\n]*)"', self.text)


def _layers(text: str) -> Iterator[_Layer]:
    """The layers of a net, as they stand in its text."""
    plain = re.sub(r'"(?:\\.|[^"\\\n])*"|#[^\n]*', lambda each: " " * len(each[0]), text)
    for found in re.finditer(r"\blayers?\s*:?\s*\{", plain):
        depth, end = 1, found.end()
        while depth and end < len(plain):
            depth += {"{": 1, "}": -1}.get(plain[end], 0)
            end += 1
        yield _Layer(text.count("\n", 0, found.start()) + 1, text[found.start() : end])


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8", errors="replace")
    except OSError:
        return ""
