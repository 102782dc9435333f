"""Say which Caffe is used: the user's (CAFFE_PYTHON), else one that this project installs.

PARITY_CAFFE says which of these: "cpu" (also when it is not set) or "cuda".
"""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caffe_parity.caffe import cache, cuda_build, packages
from caffe_parity.caffe import install as installer
from caffe_parity.caffe.ask import NoAnswer, ask
from caffe_parity.caffe.install import overlaid
from caffe_parity.checkout import advice
from caffe_parity.errors import ParityError


class NoCaffe(ParityError):
    """There is no Caffe to run; the message says what happened and, if known, what to do."""

    def __init__(self, happened: str, advice: str = "") -> None:
        super().__init__(f"{happened}\n  to do: {advice}" if advice else happened)
        self.happened = happened
        self.advice = advice


class NotInstalled(NoCaffe):
    """CAFFE_PYTHON is not set, and no Caffe is installed yet; an install would help."""


@dataclass(frozen=True)
class Interpreter:
    """A Python that can `import caffe`.

    `command` followed by a script (or -c and code) runs it; `environment` holds the variables to
    set on top of the present ones; `source` is "CAFFE_PYTHON", "installed", "installed-cuda", or
    "drop-in" for one that was built with a user's own files.
    """

    command: tuple[str, ...]
    environment: dict[str, str]
    source: str

    @property
    def root(self) -> Path | None:
        """The folder of a Caffe that this project has installed, with a compiler; else None."""
        if self.source == "CAFFE_PYTHON":
            return None
        return Path(self.command[-1]).parents[2]  # ROOT/usr/bin/python3.9


def find(install: bool = True) -> Interpreter:
    """Return the Caffe to use: CAFFE_PYTHON if it is set, else the installed one.

    Which one that is, PARITY_CAFFE says. Where it is not installed, `install` decides whether it is
    installed now. Once there is one, this only looks at a few files; whether Caffe can be imported
    is `verify`'s to say. The BLAS of the installed Caffe is the reference BLAS unless PARITY_BLAS
    is "openblas".

    Raises NoCaffe (NotInstalled where `install` is False and would help), or InstallError if an
    install was needed and failed.
    """
    if not hasattr(os, "memfd_create"):
        raise NoCaffe(
            f"A real Caffe is talked to on Linux only; this is {platform.system()}.",
            "compare ports with a reference here (caffe_parity.Layer), and with what a real Caffe "
            "computed (`python -m parity_tests.recorded` in a checkout); run the rest on Linux.",
        )
    chosen = os.environ.get("CAFFE_PYTHON", "")
    if chosen:
        return _chosen(chosen)
    cuda = _choice("PARITY_CAFFE", ("cpu", "cuda")) == "cuda"
    blas = _choice("PARITY_BLAS", tuple(installer.BLAS_FOLDERS))
    if cuda:
        root = cuda_build.build() if install else cuda_build.built()
        how = "run `parity install-caffe --cuda`, which builds one (7 minutes)"
    else:
        root = installer.ensure() if install else installer.installed()
        how = advice("run `tox -e parity`, which", "run `parity install-caffe`, which")
        how += " installs one (200 MB to fetch, under a minute, without root)"
    if root is None:
        raise NotInstalled(
            f"No Caffe{' with CUDA' * cuda} is installed in {cache.folder()}.",
            f"{how}, or set CAFFE_PYTHON to a Python that can `import caffe`.",
        )
    folder = root / "usr/lib/x86_64-linux-gnu" / installer.BLAS_FOLDERS[blas][0]
    if not (folder / "libblas.so.3").exists():
        raise NoCaffe(
            f"PARITY_BLAS is {blas!r}, which the installed Caffe lacks: {root}",
            "unset PARITY_BLAS, or remove that folder and run again; it is installed anew.",
        )
    if cuda:
        return Interpreter(*cuda_build.python_command(root, blas), "installed-cuda")
    command, environment = installer.python_command(root, blas)
    return Interpreter(command, environment | packages.variables(), "installed")


def with_files(installed: Interpreter, folder: Path) -> Interpreter:
    """The Caffe in `folder`, which was built with a user's files, in an installed one's Python."""
    command, environment = overlaid(installed.command, installed.environment, folder)
    return Interpreter(command, environment, "drop-in")


def _choice(variable: str, known: tuple[str, ...]) -> str:
    """Return the value of an environment variable, the first of the `known` ones if it has none."""
    value = os.environ.get(variable) or known[0]
    if value not in known:
        words = " or ".join(known)
        raise NoCaffe(f"{variable} is {value!r}.", f"set it to {words}, or unset it.")
    return value


def _chosen(name: str) -> Interpreter:
    path = shutil.which(os.path.expanduser(name))
    if path is None:
        raise NoCaffe(
            f"CAFFE_PYTHON is {name!r}, and there is no such program.",
            "set it to the path, or the name on PATH, of a Python that can `import caffe`, or unset"
            " it to use the Caffe that the project installs.",
        )
    # Absolute, because the worker may run in another folder. Links stay: a venv's Python is one.
    environment = {installer.GLOG_LEVEL: os.environ.get(installer.GLOG_LEVEL, "2")}
    return Interpreter((os.path.abspath(path),), environment, "CAFFE_PYTHON")


def verify(interpreter: Interpreter) -> dict[str, Any]:
    """Import Caffe in `interpreter`, which takes a second; return what it says about itself.

    Raises NoCaffe if that fails.
    """
    try:
        return ask(interpreter.command, interpreter.environment)
    except NoAnswer as error:
        said = str(error)
    command = " ".join(interpreter.command)
    if interpreter.source == "CAFFE_PYTHON":
        raise NoCaffe(
            f"CAFFE_PYTHON cannot `import caffe`: {command}\n  it said: {said}",
            "set CAFFE_PYTHON to a Python that can (PYTHONPATH is passed on to it), or unset it to"
            " use the Caffe that the project installs.",
        )
    raise NoCaffe(
        f"The installed Caffe no longer works: {command}\n  it said: {said}",
        f"remove {cache.folder()} and run again; it is installed anew.",
    )
