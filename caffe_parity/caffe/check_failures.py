"""What a failed CHECK of Caffe means for the nets that people write."""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches

NO_GRADIENT = re.compile(
    r"annot back-?prop(agate)?\b|an't back-?propagate|Backward to .* not implemented"
    r"|no (gradient|backward)s? |not differentiable|gradients? .*not (supported|implemented)",
    re.IGNORECASE,
)
"""Caffe was asked for the gradient of an input that has none, such as a label."""


def _unknown_type(found: re.Match[str]) -> str:
    types = found["known"].split(", ")
    plain = {each.lower(): each for each in types}
    given = found["type"].lower()
    near = [given] if given in plain else get_close_matches(given, plain, 3, 0.7)
    meant = f"; did you mean {' or '.join(plain[each] for each in near)}?" if near else ""
    return (
        f"this Caffe has no layer type {found['type']!r}{meant} "
        '(a Python layer is of type "Python"; a compiled one needs --load FILE)'
    )


def _blobs(found: re.Match[str]) -> str:
    kind, given = found["kind"].lower(), found["given"]
    least = {"Min": "at least ", "Max": "at most "}.get(found["which"], "")
    verb = "takes" if kind == "bottom" else "has"
    return f"a {found['type']} layer {verb} {least}{found['needed']} {kind}s; here it is {given}"


_SHAPES = "the shapes of a layer's bottoms do not fit one another: compare those of its inputs"

_MEANINGS: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (
        r"ended with signal SIGFPE",
        "C++ of a layer divided by 0, as Caffe's own does where a blob has no elements (a Filter "
        "that keeps no sample, a batch of none), and for a stride or a group of 0",
    ),
    (
        r"ended with signal SIGSEGV",
        "C++ of a layer used memory that is not its own: an index beyond a blob, a pointer to none",
    ),
    (
        r"Unknown bottom blob '(?P<blob>[^']*)' \(layer '(?P<layer>[^']*)'",
        "the layer {layer!r} reads {blob!r}, which no layer before it makes: compare the names, "
        "the order of the layers, and the phase of each",
    ),
    (r"Unknown layer type: (?P<type>\S+) \(known types: (?P<known>[^)]*)\)", _unknown_type),
    (
        r"Cannot use legacy accessors",
        "a layer asks for num(), channels(), height() or width(), which Caffe has for four axes at "
        "most: give it four, or write shape(0), shape(1), ... in the layer",
    ),
    (
        r"Cannot copy param \d+ weights from layer '(?P<layer>[^']*)'|"
        r"Incompatible number of blobs for layer (?P<other>\S+)",
        lambda found: (
            "the file of weights is that of another net: its layer "
            f"{found['layer'] or found['other']!r} has other parameters than the net's of that name"
        ),
    ),
    (
        r"Cannot use GPU in CPU-only Caffe",
        "this Caffe computes on the CPU, and a layer calls caffe.set_mode_gpu(): leave that out",
    ),
    (
        r"exceeds INT_MAX",
        "a blob would have more than 2^31 - 1 elements, which is more than Caffe can hold: give "
        "smaller shapes",
    ),
    (
        r"(?P<which>Exact|Min|Max)(?:Num)?(?P<kind>Bottom|Top)Blobs\(\) [<>=]= \w+\.size\(\) "
        r"\((?P<needed>\d+) vs\. (?P<given>\d+)\) (?P<type>\S+) Layer",
        _blobs,
    ),
    (
        r"top\.size\(\) == num_loss_weights \((?P<tops>\d+) vs\. (?P<weights>\d+)\)",
        "a layer with {weights} loss_weight entries has another number of tops, {tops}: write one "
        "for each top, or none; a SoftmaxWithLoss with a second top Caffe 1.0 itself refuses: "
        "leave that top out, and let a Softmax layer make it",
    ),
    (
        r"Top blob '(?P<blob>[^']*)' produced by multiple sources",
        "two layers make {blob!r}: rename one, or let them be of different phases (a layer that "
        "works in place has it as its bottom, too)",
    ),
    (
        r"axis (?P<axis>-?\d+) out of range for (?P<axes>\d+)-D Blob",
        "a layer works on axis {axis} of a bottom that has {axes} axes: give more, or another axis",
    ),
    (
        r"Number of labels must match number of predictions",
        "there must be one label for each prediction: labels (N) for predictions (N, C), "
        "(N, H, W) or (N, 1, H, W) for (N, C, H, W)",
    ),
    (
        r"(?P<needed>\d) == bottom\[0\]->num_axes\(\) \(\d+ vs\. (?P<axes>\d+)\)",
        "a layer takes {needed} axes, (N, C, H, W); its bottom has {axes}",
    ),
    (
        r"must be divisible by the product|output count must match input count",
        "a Reshape asks for another number of elements than its bottom has",
    ),
    (r"num_output_ > 0", "a layer lacks its num_output"),
    (
        r"shape\[i\] >= 0 \((?P<extent>-\d+) vs\. 0\)",
        "an extent would be {extent}: a kernel is larger than its bottom with the padding",
    ),
    (r"pad_\w_ < kernel_\w_", "the padding of a Pooling must be smaller than its kernel"),
    (
        r"Cannot share param '(?P<param>[^']*)'",
        "two layers share the parameter {param!r} and need other shapes of it",
    ),
    (
        r"Check failed: (?:data|diff)_\s*$",
        "a blob has no memory, since it has no elements or was never given a shape: look at the "
        "layer's reshape, and for a bottom that is too small",
    ),
    (
        r"Input size incompatible with inner product|Input size incompatible",
        "a layer was made for another number of inputs than it is given now",
    ),
    (
        r"channels_? % group_?|multiples of group",
        "the channels and num_output of a Convolution must be multiples of its group",
    ),
    (
        r"propagate_down param",
        "propagate_down must stand once for each bottom of the layer, or not",
    ),
    (
        r"File not found: (?P<file>\S+)",
        "the file {file}, which the net reads, is not there: get it, or name another",
    ),
    (
        r"[Ff]ailed to open|[Cc]ould not open|No such file|Unable to open",
        "a file that the net reads is not there, or cannot be read",
    ),
    (
        r"must have the same|must match|extends past|dimension mismatch|"
        r"bottom\[\w\]->(?:shape|count|num|channels|height|width)\(\w*\) == bottom\[\w\]",
        _SHAPES,
    ),
)


def meaning(text: str) -> str:
    """What the message of a failed CHECK says, in a sentence, and then that message.

    Args:
        text: `file.cpp:line] message`; it comes back as it is where nothing is known of it.
    """
    for pattern, words in _MEANINGS:
        found = re.search(pattern, text)
        if found:
            said = words.format(**found.groupdict()) if isinstance(words, str) else words(found)
            return f"{said}: {_shorter(text)}"
    return text


def _shorter(text: str) -> str:
    return re.sub(r" \(known types: [^)]*\)", "", text)


def without_check(output: str) -> str:
    """What a process printed without what glog says of a CHECK that failed, which is told apart."""
    glog = re.compile(
        r"^(WARNING: Logging before InitGoogleLogging.*|F\d{4,8} [\d:.]+\s+\d+ \S+\].*|"
        r"\*\*\* Check failure stack trace: \*\*\*)\n?",
        re.MULTILINE,
    )
    return glog.sub("", output)
