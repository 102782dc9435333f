"""Ask a Caffe what it is, in a process of its own; find out which BLAS it uses."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from caffe_parity.errors import ParityError

SECONDS = 120  # importing caffe takes 1 to 2 s; a cold disk may need far longer

# Without the current folder, in which the worker does not look for modules either. Which BLAS runs
# is known only once it is loaded, so the mapped files are asked; they also tell a Caffe with CUDA,
# in which `set_mode_gpu` succeeds without a GPU as well.
_QUESTION = r"""
import json, sys
sys.path.pop(0)
{imports}
import caffe, google.protobuf, numpy
with open("/proc/self/maps") as maps:
    files = {{line.split(None, 5)[5].strip() for line in maps if line.count("/")}}
print("\n" + json.dumps({{
    "version": getattr(caffe, "__version__", "unknown"),
    "python": sys.version.split()[0],
    "numpy": numpy.__version__,
    "protobuf": google.protobuf.__version__,
    "layer_types": sorted(caffe.layer_type_list()),
    "libraries": sorted(files),
}}))
"""
_BLAS = re.compile(r"/lib(c?blas|openblas|mkl_rt|mkl_core|blis|[st]?atlas|flexiblas)[^/]*\.so")


class NoAnswer(ParityError):
    """It cannot `import caffe`; the message is the last line of what it said instead.

    Attributes:
        output: all that it said.
    """

    def __init__(self, output: str, otherwise: str) -> None:
        super().__init__((output.strip() or otherwise).splitlines()[-1])
        self.output = output


def ask(
    command: Sequence[str], environment: Mapping[str, str], imports: str = ""
) -> dict[str, Any]:
    """Return what the Caffe of a Python says about itself; that takes a second or two.

    Args:
        command: runs that Python.
        environment: the variables to set on top of the present ones.
        imports: code that it runs before.

    Raises:
        NoAnswer: it says nothing of the kind.
    """
    try:
        ran = subprocess.run(
            [*command, "-c", _QUESTION.format(imports=imports)],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise NoAnswer("", f"nothing, for {SECONDS} seconds") from None
    except OSError as error:
        raise NoAnswer("", str(error)) from error
    try:
        facts: dict[str, Any] = json.loads(ran.stdout.strip().splitlines()[-1])
        if facts["layer_types"]:
            return facts
    except (IndexError, KeyError, TypeError, ValueError):  # such as of /bin/true
        pass
    raise NoAnswer(ran.stderr, f"nothing; its exit status is {ran.returncode}")


def blas(libraries: Iterable[str]) -> list[str]:
    """Return the files that are a BLAS, of those that a Caffe has loaded.

    NumPy's and SciPy's wheels bring one of their own, which Caffe does not use.
    """
    return [
        file for file in libraries if _BLAS.search(file) and not re.search(r"(num|sci)py[./]", file)
    ]
