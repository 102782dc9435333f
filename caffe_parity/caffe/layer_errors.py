"""What a layer's exception means: where it was raised, and what old layers trip over."""

from __future__ import annotations

import re
from pathlib import Path

from caffe_parity.caffe.client import CaffeError, LayerError

CONVERT = "--py2 checks a converted copy"

_RENAMED = (
    ("name '{}' is not defined", "xrange range, unicode str, basestring str, long int"),
    ("name '{}' is not defined", "raw_input input, reduce functools.reduce"),
    ("'{}'", "has_key in, iteritems items, itervalues values, iterkeys keys"),
    ("No module named '{}'", "cPickle pickle, cStringIO io, StringIO io, Queue queue"),
    ("No module named '{}'", "ConfigParser configparser, urllib2 urllib.request"),
)
_DIVISION = "`/` is no integer division in Python 3: `//` is"
_PYTHON_2 = {
    "Missing parentheses in call to 'print'": "`print` is a function in Python 3",
    **{
        sign.format(old): f"`{old}` is Python 2: it is `{new}` now"
        for sign, names in _RENAMED
        for old, new in map(str.split, names.split(", "))
    },
    "'float' object cannot be interpreted as an integer": _DIVISION,
    "slice indices must be integers": _DIVISION,
    "of type int from this Python object of type float": _DIVISION,
    "TabError": "Python 3 does not let tabs and spaces be mixed",
    "SyntaxError": "Python 3 cannot read this line; is it Python 2?",
}
"""What Python 3 says of Python 2 code, and what to write instead."""

NOT_IMPLEMENTED = "Not Implemented Yet"
"""What Caffe's macro NOT_IMPLEMENTED says."""

NO_FORWARD = (
    "the layer has no forward on the CPU, only for a GPU if at all: write its Forward_cpu, or run "
    "it in a Caffe with CUDA on a machine with a GPU (docs/gpu.md)"
)
NO_BACKWARD = (
    "the layer has no backward on the CPU, or not for this bottom: --grad NAMES says which inputs "
    "get a gradient, --grad '' compares the forward alone"
)

_OTHER = {
    "already registered": (
        "Caffe has that layer type itself, or another --load file has it: give the source, --load "
        "FILE.cpp, and it takes the place of Caffe's own; or register it under another name, with "
        "REGISTER_LAYER_CREATOR(NAME, CREATOR)"
    ),
    "param_str_": f"`param_str_` is the name before Caffe 1.0: it is `param_str` now; {CONVERT}",
    "No module named": (
        "the module is not there for Caffe's Python: --path DIR adds the folder that it lies in, "
        "`parity python -m pip install NAME` a package"
    ),
    "cannot import name": "the module that was found is another one, or an older one",
    "has no attribute": "the module does not have what the net asks for, or NumPy no longer has it",
}


def hint(text: str) -> str:
    """What to do about an error of an old layer, or ""."""
    evaluated = '"<string>"' in text  # no line of a file, but a text such as param_str
    for sign, words in _PYTHON_2.items():
        if sign in text and not (sign == "SyntaxError" and evaluated):
            return f"{words}; {CONVERT}"
    return next((words for sign, words in _OTHER.items() if sign in text), "")


_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+)')
_OURS = ("worker.py", "pycaffe.py")


def where(traceback: str) -> str:
    """`file:line: ` of the innermost frame that is not the worker's own, or ""."""
    frames = [found for found in map(_FRAME.match, traceback.splitlines()) if found]
    names = [(Path(found["file"]).name, found["line"]) for found in frames]
    theirs = [each for each in names if each[0] not in _OURS]
    return f"{theirs[-1][0]}:{theirs[-1][1]}: " if theirs else ""


def told(error: CaffeError) -> str:
    """An error in words: the layer's own lines of its traceback, what was said, and what to do.

    An exception that is raised while a layer's module is imported does not reach Caffe's caller,
    which says "returned NULL" only; but it was printed.
    """
    said, traceback = str(error), error.traceback if isinstance(error, LayerError) else ""
    if "returned NULL without setting an error" in said:
        said, traceback = "the layer's module cannot be imported", ""
    shown = theirs(f"{traceback}\n{error.output}")
    parts = [said, *(line for line in shown if line not in said.splitlines())]
    advice = hint("\n".join(parts))
    return "\n".join([*parts, *([f"  to do: {advice}"] if advice else [])])


def theirs(text: str) -> list[str]:
    """Lines of a traceback, or other output, without the frames of the worker and of pycaffe."""
    kept: list[str] = []
    ours = False
    for line in text.splitlines():
        frame = _FRAME.match(line)
        if frame:
            ours = Path(frame["file"]).name in _OURS
        elif not line.startswith("    "):
            ours = False
        if not ours and line.strip() and not line.startswith("Traceback (most recent call last)"):
            kept.append(line)
    return kept
