"""Reports for the page: of a green run, one with failures, a hang and a crash, one half not run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from caffe_parity.contract import Agreement, Bound, Expected, Finding, Shape
from caffe_parity.engine.compare import compare
from caffe_parity.report.bits import keep
from caffe_parity.report.changes import Diff
from caffe_parity.report.record import InNet, Record, Report

ENVIRONMENT: dict[str, Any] = {
    "python": "3.11.2", "numpy": "2.3", "torch": "2.13.0", "platform": "Linux-6.1-x86_64",
    "processor": "x86-64", "device": "cpu", "gpu": None, "commit": "0123abc",
    "caffe": {
        "version": "1.0.0", "python": "3.11.2", "numpy": "1.24", "source": "installed",
        "blas": ["atlas/libblas.so.3"],
    },
}  # fmt: skip

VARIANTS = ("caffe-python", "caffe-convolution", "caffe-slice-eltwise", "torch-module")
SHAPES: Sequence[Shape] = ((4, 3, 5, 6), (1, 1, 1, 1), (2, 64), (16, 8, 20, 20), (7,), (2, 3, 33))


def command(each: Record) -> str:
    """What a caller says reproduces a record."""
    return f"tox -e parity -- -k '[{each.id}]'"


def tensor(shape: Shape, factor: float = 1.0, seed: int = 0) -> Agreement:
    """A gradient of normal numbers; those of sample 0 are off by a factor, all by rounding."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal(shape)
    actual = (truth * (1 + 1e-8 * rng.standard_normal(shape))).astype(np.float32)
    actual[0] *= np.float32(factor)
    bound = np.abs(truth) * 1e-6
    tensors = {"gradient:x1": bound}
    expected = Expected({"gradient:x1": truth}, Bound(tensors, tensors))
    return compare("gradient:x1", actual, expected)


def passed(layer: str, variant: str, case: str, index: int) -> Record:
    """A result that agrees."""
    shape = SHAPES[index % len(SHAPES)]
    kinds = {"loss": tensor((1,), seed=index), "gradient:x1": tensor(shape, seed=index)}
    size = int(np.prod(shape))
    return Record(layer, variant, case, "pass", tensors=kinds, seconds=0.01, elements=size)


def failed(layer: str, variant: str, case: str, index: int) -> Record:
    """One whose gradient is wrong."""
    shape = SHAPES[index % len(SHAPES)]
    agreement = tensor(shape, factor=-1, seed=index)
    words = "dx1 has the wrong sign in some samples"
    finding = Finding("gradient:x1", words, "gradient:x1", "sign")
    return Record(
        layer, variant, case, "fail", f"dx1: {agreement.wrong} beyond the bound", (finding,),
        tensors={"loss": tensor((1,), seed=index), "gradient:x1": agreement},
        detail="dx1[0, 0, :, :]\n  9 9 9", seconds=0.02, elements=int(np.prod(shape)),
    )  # fmt: skip


def broken(layer: str, variant: str, case: str, verdict: str) -> Record:
    """A crash or a hang."""
    reason = "no answer within 60 s" if verdict == "hang" else "Check failed: num_axes() <= 4"
    said = "I1127 net.cpp:51] Initializing net\nF1127 blob.hpp:140] Check failed: num_axes() <= 4"
    found = (Finding(verdict, reason),)
    return Record(layer, variant, case, verdict, reason, found, detail=said, elements=360)


def green(cases: int = 12, layers: int = 2) -> Report:
    """A run in which everything agrees."""
    records = [
        passed(f"layer_{layer}", variant, f"case-{case}", case)
        for layer in range(layers)
        for variant in VARIANTS
        for case in range(cases)
    ]
    return Report("run", ENVIRONMENT, {"keyword": "layer"}, tuple(records))


def disagreeing(cases: int = 12, layers: int = 2, every: int = 3) -> Report:
    """One in which a case of each `every` is wrong in two variants, and one hangs, one crashes."""
    records = list(green(cases, layers).results)
    for index, each in enumerate(records):
        number = int(each.case.removeprefix("case-"))
        if each.variant in VARIANTS[:2] and number % every == 0:
            records[index] = failed(*each.key, number)
    records[cases * 2 + 1] = broken(*records[cases * 2 + 1].key, "crash")
    records[cases * 3 + 2] = broken(*records[cases * 3 + 2].key, "hang")
    return Report("run", ENVIRONMENT, {}, tuple(records), len(records) + 3)


def half(cases: int = 12) -> Report:
    """One in which half did not run, was refused or is unproven."""
    records = list(green(cases).results)
    for index, each in enumerate(records):
        if each.variant == VARIANTS[0]:
            records[index] = Record(*each.key, "not run", "no CUDA device")
        elif each.variant == VARIANTS[1]:
            reason = f"up to four axes (Check failed {index})"
            records[index] = Record(*each.key, "refused", reason)
        elif each.variant == VARIANTS[2] and each.layer == "layer_1":
            weak = Finding("unproven", "no element of dx1 has one right gradient", "gradient:x1")
            open_ = Agreement(0.0, 0.0, 1.0, 0.0, 0.0, (0,), 0, 9, 0, 0.0, False)
            tensors = {"gradient:x1": open_}
            words = weak.words
            records[index] = Record(*each.key, "unproven", words, (weak,), tensors=tensors)
    return Report("check", ENVIRONMENT, {"left_out": 2}, tuple(records), len(records))


def net() -> Report:
    """A whole net in two phases: a layer is wrong, and what lies behind it inherits that."""
    types = ("Convolution", "ReLU", "LRN", "InnerProduct", "Dropout", "SoftmaxWithLoss")
    records = []
    for phase in ("TEST", "TRAIN"):
        for index, type_ in enumerate(types):
            case, inherited = f"{type_.lower()}{index}", (0.02, 3.5, math.inf, 9e4, None, math.nan)
            there = InNet(type_, f"self.{case}", inherited[index])
            held = {
                case: tensor((4, 3, 5, 6), -1 if index == 2 else 1, index),
                f"gradient:x of {case}": tensor((4, 3, 5, 6), seed=index),
            }
            if index % 3 == 0:
                held[f"gradient:{case}[0]"] = tensor((6, 3), seed=index)
            verdict, reason = "pass", ""
            found: Sequence[Finding] = ()
            if index == 2:
                words = "596 of 600 elements are wrong; it has alpha 0.02, Caffe's LRN 0.1"
                verdict, reason, found = "fail", words, (Finding("forward", words, case, "factor"),)
            made = Record(
                "my.prototxt", phase, case, verdict, reason, found, tensors=held, in_net=there
            )
            if type_ == "Dropout" and phase == "TRAIN":
                made = replace(made, verdict="not run", reason="random numbers", tensors={})
            records.append(made)
    words = "the loss weight of loss is 1, the port adds it with 2"
    total = Finding("total", words, "loss", "loss-weight")
    records.append(Record("my.prototxt", "TRAIN", "total", "fail", words, (total,)))
    return Report("net", ENVIRONMENT, {"port": "my.py:Net"}, tuple(records))


def edited() -> Diff:
    """What an edit changed: verdicts got worse and better, other bits, other inputs, a time."""
    bits = [keep({"first": np.array([value, 2], np.float32)}) for value in (1.0, 1.0000001)]

    def computed(report: Report, after: bool) -> Report:
        made = []
        for index, each in enumerate(report.results):
            moved = after and each.variant != VARIANTS[3] and index % 2 == 0
            inputs = f"{after and index % 11 == 0:064}"
            kept = {} if each.verdict in ("crash", "hang") else {"gradient:x1": bits[moved]}
            seconds = 0.3 if after and each.variant == VARIANTS[1] else each.seconds
            made.append(replace(each, computed=kept, inputs=inputs, seconds=seconds))
        return replace(report, results=tuple(made), file="after.json" if after else "before.json")

    before, after = green(), disagreeing()
    gone = after.results[:-1]
    better = failed(*before.results[-3].key, 0)
    olds = (*before.results[:-3], better, *before.results[-2:])
    hostile = replace(before.results[0], layer="<b>", case="</script><script>alert(1)</script>")
    return Diff(
        computed(replace(before, results=olds), False),
        computed(replace(after, results=(*gone, hostile)), True),
    )


REPORTS = {"green": green, "disagreeing": disagreeing, "half": half, "net": net}
