"""Runs the Python that Caffe runs in, with all that follows: a file, -c CODE, -m MODULE.

    parity python -m pip install easydict

adds packages from PyPI for layers that import them. They come after Caffe's own, so that NumPy and
protobuf stay as they are. With CAFFE_PYTHON set it is that Python, and its own pip.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator

EXAMPLES = """\
  parity python -c 'import caffe; print(caffe.__version__)'
  parity python -m pip install easydict
"""

EPILOG = "exit status: that of Python"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds nothing: all that follows is for Python."""
    parser.usage = "parity python [-h] [OPTIONS OF PYTHON ...]"


def carried_out(options: argparse.Namespace) -> int:
    """Runs it; returns its exit status.

    Raises:
        NoCaffe, InstallError: there is none, and none can be installed.
        BadRequest: there is no pip to install with.
    """
    from caffe_parity.caffe import packages
    from caffe_parity.caffe.interpreter import find

    python = find()
    given = list(options.more)
    command, environment = [*python.command, *given], python.environment
    if given[:2] == ["-m", "pip"] and python.root is not None:
        command, environment = packages.pip(python, given[2:]), {}
    process = subprocess.Popen(command, env={**os.environ, **environment})
    with _deaf_to_ctrl_c():  # which it gets as well
        status = process.wait()
    return status if status >= 0 else 128 - status


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
