"""Imports this project's packages where a user's repository has modules of the same names.

A repository may well have a `reference.py` or a folder `parity_tests` of its own. Both must work:
this project's are imported beside them, and then `import reference` means the user's again.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent
NAMES = ("reference", "caffe_impl", "torch_impl", "parity_tests")


@contextlib.contextmanager
def own_packages() -> Iterator[None]:
    """Makes the names of this project's packages mean them, and nothing else, for a while."""
    shared = [name for name in NAMES if _is_shared(name)]
    theirs = _taken_out(shared)
    sys.path.insert(0, str(ROOT))
    try:
        yield
    finally:
        sys.path.remove(str(ROOT))
        _taken_out(shared)
        sys.modules.update(theirs)


def _is_shared(name: str) -> bool:
    """Whether the user's repository has a module of that name."""
    if name in sys.modules:
        return not _is_ours(name, getattr(sys.modules[name], "__file__", None))
    found = PathFinder.find_spec(name)
    return found is not None and not _is_ours(name, found.origin)


def _is_ours(name: str, file: str | None) -> bool:
    return file is not None and Path(file).resolve().is_relative_to((ROOT / name).resolve())


def _taken_out(names: list[str]) -> dict[str, ModuleType]:
    """Removes modules of these names, and what is in them, from those that are loaded."""
    loaded = [each for each in sys.modules if each.partition(".")[0] in names]
    return {each: sys.modules.pop(each) for each in loaded}
