"""How this project came here: as a checkout of its repository, or by pip; which one is running."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAME = "caffe-parity"


def advice(checkout: str, package: str) -> str:
    """Return what fits: advice for a checkout, which has a tox.ini, or for a package of pip's."""
    return checkout if (ROOT / "tox.ini").is_file() and not _by_pip() else package


def version() -> str:
    """Return name and version, and where the code lies that runs."""
    return f"{NAME} {number()} ({Path(__file__).parent})"


def number() -> str:
    """Return the version."""
    declared = ROOT / "pyproject.toml"
    if not declared.is_file():
        return importlib.metadata.version(NAME)
    found = re.search(r'^version = "(.*)"$', declared.read_text("utf-8"), re.MULTILINE)
    return found[1] if found else "of unknown version"


def other_code() -> str:
    """Return a line that says which code runs, where the current folder has another; else ""."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "caffe_parity" / "checkout.py").is_file():
            if folder.samefile(ROOT):
                return ""
            return (
                f"the code in {Path(__file__).parent} runs, not that of the checkout {folder}: "
                f"there, `python -m caffe_parity` runs the checkout's"
            )
    return ""


def program(module: str = "caffe_parity", script: str = "parity") -> str:
    """Return how a command was called, as the words that a command to paste begins with.

    That is a script on the PATH, the script's own path, or `PYTHON -m MODULE`.
    """
    called = Path(sys.argv[0])
    if called.name == "__main__.py" and called.parent.name in (module, module.rpartition(".")[2]):
        return shlex.join([_python(), "-m", module])
    if called.name != script:  # it was called by another program
        return script
    found = shutil.which(script)
    same = found and called.is_file() and Path(found).samefile(called)
    return script if same or not called.is_file() else shlex.quote(sys.argv[0])


def _python() -> str:
    """Return this Python as it was called; tox's own way to it is nobody's else."""
    if "TOX_ENV_NAME" in os.environ:
        here = Path(sys.executable)
        return str(here.relative_to(Path.cwd())) if here.is_relative_to(Path.cwd()) else str(here)
    return sys.orig_argv[0]


def _by_pip() -> bool:
    """Whether pip has put it here, a link to a checkout included; what a build leaves is none."""
    try:
        found = importlib.metadata.distribution(NAME)
    except importlib.metadata.PackageNotFoundError:
        return False
    return Path(str(found.locate_file(""))).resolve() != ROOT.resolve()
