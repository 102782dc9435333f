"""What a layer's exception means: where it was raised, and what old layers trip over."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from caffe_parity.caffe.check_failures import meaning, without_check
from caffe_parity.caffe.client import CaffeCrash, CaffeError, LayerError
from caffe_parity.errors import meant

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

NO_MODULE = "returned NULL without setting an error"
"""What Caffe's caller gets where a layer's module cannot be imported, which is printed alone."""

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
    "converter found for C++ type: caffe::Blob": (
        "Caffe's lists of blobs cannot be gone through, as `for b in bottom` or `a, b = bottom` "
        "would: write bottom[0], or bottom[i] for i in range(len(bottom))"
    ),
    "can't set attribute": "a blob's data and diff are written in place: top[0].data[...] = value",
    "maximum recursion depth exceeded": (
        "has the layer its setup, reshape, forward and backward? Where one is missing, Caffe calls "
        "itself without end"
    ),
    "cannot import name": "the module that was found is another one, or an older one",
    "has no attribute": "the module does not have what the net asks for, or NumPy no longer has it",
}


def hint(text: str) -> str:
    """What to do about an error of an old layer, or ""."""
    evaluated = "<string>" in text  # no line of a file, but a text such as param_str
    for sign, words in _PYTHON_2.items():
        if sign in text and not (sign == "SyntaxError" and evaluated):
            return f"{words}; {CONVERT}"
    return next((words for sign, words in _OTHER.items() if sign in text), "")


_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+)')
_OURS = ("worker.py", "pycaffe.py")
_LIBRARY = re.compile(r"/(site|dist)-packages/|/lib\w*/python[\d.]+/|^<")


def _is_library(file: str) -> bool:
    """Whether a file is Python's own or an installed package's."""
    return bool(_LIBRARY.search(file))


def where(traceback: str) -> str:
    """`file:line: ` of the innermost frame in the layer's own files, or ""."""
    frames = [found for found in map(_FRAME.match, traceback.splitlines()) if found]
    files = [(found["file"], found["line"]) for found in frames]
    others = [each for each in files if Path(each[0]).name not in _OURS]
    own = [each for each in others if not _is_library(each[0])] or others
    return f"{Path(own[-1][0]).name}:{own[-1][1]}: " if own else ""


def told(error: CaffeError, path: Sequence[str] = (), verbose: bool = False) -> str:
    """An error in words: the layer's own lines of its traceback, what was said, and what to do.

    An exception that is raised while a layer's module is imported does not reach Caffe's caller,
    which says "returned NULL" only; but it was printed.

    Args:
        error: what Caffe said.
        path: the folders in which its Python layers are looked for.
        verbose: whether frames of Python and of packages are shown, too.
    """
    said, traceback = str(error), error.traceback if isinstance(error, LayerError) else ""
    if isinstance(error, CaffeCrash):
        said = meaning(said)
    if NO_MODULE in said:
        said, traceback = "the layer's module cannot be imported", ""
        missing = _no_such_class(error.output, path)
        if missing:
            return missing
    shown = theirs(f"{traceback}\n{without_check(error.output)}", verbose)
    parts = [said, *(line for line in shown if line not in said.splitlines())]
    advice = hint("\n".join(parts))
    return "\n".join([*parts, *([f"  to do: {advice}"] if advice else [])])


def _no_such_class(output: str, path: Sequence[str]) -> str:
    """That a module lacks the class which the net asks for, and which classes it has; or ""."""
    *_, last = ["", *filter(str.strip, output.splitlines())]
    found = re.fullmatch(
        r"AttributeError: module '([\w.]+)' has no attribute '(\w+)'", last.strip()
    )
    in_a_module = any(map(_FRAME.match, output.splitlines()))  # which asks another one for it
    if not found or in_a_module:
        return ""
    module, name = found.groups()
    files = (Path(folder, *module.split(".")).with_suffix(".py") for folder in path)
    file = next((each for each in files if each.is_file()), None)
    if file is None:
        return f"the module {module!r} has no class {name!r}"
    text = file.read_text(errors="replace")
    classes = re.findall(r"^class\s+(\w+)", text, re.MULTILINE)
    has = f"{', '.join(classes) or 'none'}{meant(name, classes)}"
    return f"{file.name} has no class {name!r}; it has {has}"


def theirs(text: str, libraries: bool = True) -> list[str]:
    """Lines of a traceback, or other output, without the frames of the worker and of pycaffe.

    Args:
        text: what was printed.
        libraries: whether the frames of Python and of packages stay; they do where no other does.
    """
    kept: list[str] = []
    left_out = ours = own = False
    for line in text.splitlines():
        frame = _FRAME.match(line)
        if frame:
            ours = Path(frame["file"]).name in _OURS
            left_out = ours or (not libraries and _is_library(frame["file"]))
            own |= not left_out
        elif not line.startswith("    "):
            ours = left_out = False
        if not left_out and line.strip() and not line.startswith("Traceback (most recent call"):
            kept.append(line)
    return kept if own or libraries else theirs(text)
