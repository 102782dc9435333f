"""How this project came here: as a checkout of its repository, or by pip; which one is running."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAME = "caffe-parity"


def advice(checkout: str, package: str) -> str:
    """Return what fits: advice for a checkout, which has a tox.ini, or for a package of pip's."""
    return checkout if (ROOT / "tox.ini").is_file() and not _by_pip() else package


def version() -> str:
    """Return name and version, and where the code lies that runs."""
    declared = ROOT / "pyproject.toml"
    if declared.is_file():
        found = re.search(r'^version = "(.*)"$', declared.read_text("utf-8"), re.MULTILINE)
        number = found[1] if found else "of unknown version"
    else:
        number = importlib.metadata.version(NAME)
    return f"{NAME} {number} ({Path(__file__).parent})"


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


def _by_pip() -> bool:
    """Whether pip has put it here, a link to a checkout included; what a build leaves is none."""
    try:
        found = importlib.metadata.distribution(NAME)
    except importlib.metadata.PackageNotFoundError:
        return False
    return Path(str(found.locate_file(""))).resolve() != ROOT.resolve()
