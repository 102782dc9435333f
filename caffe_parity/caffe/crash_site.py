"""At which layer of a net Caffe has ended: its own words seldom name it, and a signal no word."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from caffe_parity.caffe.client import Caffe, CaffeCrash, Op
from caffe_parity.caffe.install import GLOG_LEVEL
from caffe_parity.errors import ParityError

FED = ("Input", "DummyData")
"""Layers that do nothing of their own."""

DIVIDES = ("stride", "kernel", "group", "num_output")
"""What Caffe divides by without looking, or asks to be positive without naming the layer."""

_BUILT = re.compile(r"net\.cpp:\d+\] Network initialization done")
_MADE = re.compile(r"net\.cpp:\d+\] Creating Layer (.+)")
_FORWARD = re.compile(r"\[Forward\] Layer (.+), (?:top|param) blob ")
_BACKWARD = re.compile(r"\[Backward\] Layer (.+), (?:bottom|param) blob ")
_NEEDED = re.compile(r"net\.cpp:\d+\] (.+) needs backward computation")


def located(caffe: Caffe, ops: Sequence[Op], crash: CaffeCrash) -> CaffeCrash:
    """The crash with the layer in its words, and which field of it is 0, where that is found.

    A net of several layers is run once more in a Caffe that logs each as it comes to it.

    Args:
        caffe: that ended, and starts anew.
        ops: that were asked of it.
        crash: how it ended.
    """
    text = next((op["text"] for op in ops if op["op"] == "net"), "")
    if not text or "layer '" in str(crash) or "layer type" in str(crash):
        return crash
    try:
        said, about = caffe.request([{"op": "messages", "text": text}, {"op": "fields"}])
        layers = {each.get("name", ""): each for each in said["layers"]}
        computed = [name for name, each in layers.items() if each["type"] not in FED]
        name, when = computed[0], ""
        if len(computed) > 1:
            name, when = _place(_log(caffe, ops), list(layers))
        zeros = [*_zeros(layers[name], about["messages"])]
    except (ParityError, LookupError):
        return crash
    if not zeros and len(computed) == 1:  # nothing that is not known
        return crash
    words = f"{crash}; at layer {name!r} ({layers[name]['type']}){when}"
    return CaffeCrash(": ".join([words, *zeros]), crash.output)


def _log(caffe: Caffe, ops: Sequence[Op]) -> str:
    """What Caffe logs of the same request up to its end; the last of it."""
    variables = {**caffe.interpreter.environment, GLOG_LEVEL: "0"}
    loud = replace(caffe.interpreter, environment=variables)
    asked = [
        {**op, "text": f"debug_info: true\n{op['text']}"}
        if op["op"] == "net" and "debug_info" not in op["text"]
        else op
        for op in ops
    ]
    with Caffe(loud, caffe.timeout, caffe.mode) as again:
        try:
            again.request(asked)
        except CaffeCrash as crash:
            return crash.output
    return ""


def _place(log: str, names: Sequence[str]) -> tuple[str, str]:
    """The layer that Caffe was at when its log ended, and in words, what it did; "" for none.

    What Caffe has put in between, such as a Split, is none of `names`.
    """
    known = [each for each in _found(_FORWARD, log) if each in names]
    back = [each for each in _found(_BACKWARD, log) if each in names]
    if not _BUILT.search(log) and not known and not back:
        made = [each for each in _found(_MADE, log) if each in names]
        return (made[-1] if made else ""), " as it is made"
    if not back and names and (not known or known[-1] != names[-1]):
        after = names.index(known[-1]) + 1 if known else 0
        return names[after], " in its forward"
    needed = [*_found(_NEEDED, log)]
    before = names[: names.index(back[-1])] if back else names
    left = [each for each in before if each in needed or not needed]
    return (left[-1] if left else ""), " in its backward"


def _found(pattern: re.Pattern[str], log: str) -> Iterator[str]:
    return (each[1].strip() for each in pattern.finditer(log))


def _zeros(layer: Mapping[str, Any], messages: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The fields of a layer's messages that are 0 and that Caffe divides by, in words."""
    for message, said in layer.items():
        if not message.endswith("_param") or not isinstance(said, Mapping):
            continue
        kind = messages["LayerParameter"][message]["type"]
        for name, about in messages[kind].items():
            if not name.startswith(DIVIDES) or about["type"] not in ("uint32", "int32"):
                continue
            twin = {"_h": "_w", "_w": "_h"}.get(name[-2:])
            other = name[:-2] + twin if twin else ""
            value = said.get(name, about["default"])
            if name in said and 0 in (value if about["repeated"] else [value]):
                yield f"{message}.{name} is 0"
            elif other in said and name not in said and not value:
                yield f"{message}.{other} is said without {name}, which is 0 then"
