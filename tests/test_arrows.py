"""The house: what may import what, as the imports themselves say it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FORMULAS = ("reference", "caffe_impl", "torch_impl")
BELOW: dict[str, tuple[str, ...]] = {
    "caffe_parity": (),
    **dict.fromkeys(FORMULAS, ("caffe_parity",)),
    "parity_tests": ("caffe_parity", *FORMULAS),
    "studies": ("caffe_parity", *FORMULAS, "parity_tests"),
    "tests": ("caffe_parity", *FORMULAS, "parity_tests", "studies"),
}
"""What each package may import, beside itself: caffe_parity <- the formulas <- parity_tests <-
studies, and the tests of the tool, which may import all."""

FILES = {
    ("torch_impl/kernels.py", "caffe_impl"): (
        "the port on the kernels reads their header, as a file, so that both frameworks run the "
        "same ones"
    ),
}
"""The one exception: a file of another package that a module reads, and why it may."""


BY_NAME = ("import_module", "__import__", "run_module")


def imported(code: ast.AST) -> Iterator[str]:
    """The packages that a module imports, wherever it does so, also by a name in a string."""
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(BY_NAME):
            yield from (text.partition(".")[0] for text in map(_text, node.args) if text)


def read(code: ast.AST) -> Iterator[str]:
    """The packages whose folders stand in the paths that a module makes."""
    for node in ast.walk(code):
        joined = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
        text = _text(node.right if joined else node)  # type: ignore[attr-defined]
        if text and (joined or re.fullmatch(r"\w+(/[\w.]+)+", text)):
            yield text.partition("/")[0]


def _text(node: ast.AST) -> str | None:
    """The string that a node is, if it is one."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def forbidden(package: str, names: Iterator[str]) -> list[str]:
    """Those of the names that are packages which this one may not know."""
    return sorted({*names} & BELOW.keys() - {package, *BELOW[package]})


@pytest.mark.parametrize("package", BELOW)
def test_arrows_point_one_way(package: str) -> None:
    """No package imports one that is above it or beside it, or reads its files, but for FILES."""
    wrong, files = [], []
    modules = sorted((ROOT / package).rglob("*.py"))
    for file in (each for each in modules if not each.is_relative_to(ROOT / "tests/cases")):
        code, name = ast.parse(file.read_text("utf-8")), str(file.relative_to(ROOT))
        wrong += [(name, other) for other in forbidden(package, imported(code))]
        files += [(name, other) for other in forbidden(package, read(code))]
    assert wrong == []
    assert files == [each for each in FILES if each[0].startswith(f"{package}/")]


def test_every_package_has_its_place() -> None:
    """No folder with Python modules stands outside; the examples are a user's."""
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == set(BELOW)


@pytest.mark.parametrize(
    ("package", "text", "what"),
    [
        ("caffe_parity", "import reference.cases", ["reference"]),
        ("caffe_parity", "def f():\n    from tests import net_text", ["tests"]),
        ("caffe_parity", "if TYPE_CHECKING:\n    from torch_impl.module import x", ["torch_impl"]),
        ("caffe_parity", "importlib.import_module('parity_tests.layers')", ["parity_tests"]),
        ("reference", "import numpy, caffe_impl.variants as v", ["caffe_impl"]),
        ("caffe_impl", "from torch_impl import variants", ["torch_impl"]),
        ("torch_impl", "from reference.layers import LAYERS", ["reference"]),
        ("parity_tests", "from studies.fuzz import search", ["studies"]),
        ("studies", "from tests.net_text import net", ["tests"]),
        ("studies", "from parity_tests.layers import LAYERS", []),
        ("tests", "from studies import fuzz", []),
        ("reference", "from reference import fills\nfrom . import rounding", []),
        ("reference", "import torch\nfrom caffe_parity import Layer", []),
        ("reference", "# import studies\nsaid = 'import studies'", []),
    ],
)
def test_a_forbidden_import_is_seen(package: str, text: str, what: list[str]) -> None:
    """Wherever it stands, and under whatever name; what is allowed is not."""
    assert forbidden(package, imported(ast.parse(text))) == what


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("HERE / 'caffe_impl' / 'cuda'", ["caffe_impl"]),
        ("open('caffe_impl/cuda/kernels.hpp')", ["caffe_impl"]),
        ("HERE / 'torch_impl/cuda'", []),
        ("'copy the files of caffe_impl/cuda'", []),
    ],
)
def test_a_forbidden_file_is_seen(text: str, what: list[str]) -> None:
    """A path into another package's folder is one, words about it are none."""
    assert forbidden("torch_impl", read(ast.parse(text))) == what
