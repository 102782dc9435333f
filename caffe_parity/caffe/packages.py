"""Packages from PyPI for the installed Caffe's Python: layers import easydict, cv2 and the like.

They lie in a folder of the cache, beside the install, which stays as it was checked. That folder is
searched last, so that nothing there replaces what Caffe itself runs on.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

from caffe_parity.caffe import cache
from caffe_parity.errors import BadRequest

if TYPE_CHECKING:
    from caffe_parity.caffe.interpreter import Interpreter

PYTHON = "3.9"
HOOK = "import os, sys\n\nsys.path.append(os.path.join(os.path.dirname(__file__), 'packages'))\n"
"""sitecustomize.py, which Python imports when it starts: the folder comes last in the path."""

_VERSIONS = (
    "import importlib.metadata as m; "
    "[print(f'{each.metadata[\"Name\"]}=={each.version}') for each in m.distributions()]"
)


def folder() -> Path:
    """The folder that is on the installed Python's path, where packages have been added."""
    return cache.folder() / f"packages-{PYTHON}"


def variables() -> dict[str, str]:
    """The environment that makes the added packages known, if there are any."""
    return {"PYTHONPATH": str(folder())} if folder().is_dir() else {}


def pip(python: Interpreter, arguments: Sequence[str]) -> list[str]:
    """The command that carries out a command of pip's for the installed Caffe's Python.

    That Python has no pip, so this one's is used.

    Raises:
        BadRequest: there is none, or it is a command that works on one's own packages only.
    """
    if PathFinder.find_spec("pip") is None:  # setuptools' own hook for pip would warn
        raise BadRequest(
            f"{sys.executable} has no pip: run `{sys.executable} -m ensurepip`, or let another pip "
            f"install with --target into a folder, which `parity check --path` takes"
        )
    site = folder() / "packages"
    own = [sys.executable, "-m", "pip"]
    if arguments[:1] == ["install"]:
        site.mkdir(parents=True, exist_ok=True)
        (folder() / "sitecustomize.py").write_text(HOOK)
        fixed = folder() / "constraints.txt"
        environment = {**os.environ, **python.environment, "PYTHONPATH": ""}
        command = [*python.command, "-c", _VERSIONS]
        fixed.write_text(subprocess.check_output(command, env=environment, text=True))
        target = ["--target", str(site), "--python-version", PYTHON, "--only-binary=:all:"]
        return [*own, "install", *target, "--constraint", str(fixed), *arguments[1:]]
    if arguments[:1] in (["list"], ["freeze"]):
        return [*own, *arguments, "--path", str(site)]
    raise BadRequest(
        f"pip {' '.join(arguments[:1])}: of pip there are install, list and freeze here; to take "
        f"packages away, remove {folder()}"
    )
