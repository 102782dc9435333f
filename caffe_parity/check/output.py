"""What a check tells: the lines that are printed, and the JSON file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from caffe_parity.caffe.client import Caffe
from caffe_parity.check import examine
from caffe_parity.engine.parameters import Parameter
from caffe_parity.report.bits import as_json, number
from caffe_parity.report.environment import environment

SCHEMA = "parity-check-2"
"""The name of the format of --json; its JSON Schema is check.schema.json beside this file."""


def inputs_line(check: examine.Check) -> str:
    """The inputs and parameters, and how each is filled."""
    parts = []
    for name, shape in check.plan.shapes.items():
        what = "from the file" if check.given else str(check.kinds[name])
        note = "" if name in check.plan.gradients else ", no gradient"
        parts.append(f"{name} {tuple(shape)} {what}{note}")
    lines = [f"  inputs: {'; '.join(parts)}"]
    if check.plan.params:
        lines += [f"  params: {'; '.join(_param(check, each) for each in check.plan.params)}"]
    return "\n".join([*lines, f"  tops:   {', '.join(check.plan.outputs)}"])


def _param(check: examine.Check, param: Parameter) -> str:
    what = str(check.kinds.get(param.name, "as the net fills it"))
    if param.name in (check.given or {}):
        what = "from the file"
    note = "" if param.learned else ", no gradient (lr_mult 0)"
    return f"{param.name} {param.initial.shape} of {param.layer} {what}{note}"


def report(verdict: examine.Verdict) -> list[str]:
    """The lines that are printed: each finding, what was left out, how near to the bounds."""
    lines = []
    for code, (finding, cases) in verdict.found.items():
        lines.append(f"{code}: {finding.words}  [{len(cases)} of {verdict.cases} cases]")
    if verdict.output.strip():
        lines += ["", "what was printed:", *verdict.output.strip().splitlines()[-15:]]
    for name, count in verdict.kinks.items():
        if count:
            lines.append(
                f"note: at {count} of {verdict.elements[name]} elements of {name} several "
                "gradients are right (a kink): they were left out"
            )
    figures = ", ".join(f"{name} {value:.2g}" for name, value in verdict.largest.items())
    if figures:
        lines.append(f"largest error as a fraction of its bound: {figures}")
    total = len(verdict.found)
    what = f"disagrees: {total} finding{'s' * (total != 1)}" if total else "agrees"
    ran = f"{verdict.cases} case{'s' * (verdict.cases != 1)}"
    lines.append(f"{what}, {ran}, {verdict.seconds:.1f} s")
    return lines


def _records(verdict: examine.Verdict) -> list[dict[str, Any]]:
    """What each side did in each case."""
    return [
        {
            "variant": side,
            "case": case,
            **_judged(verdict, side, case),
            "seconds": round(each.seconds, 6),
            "fraction": None if each.fraction is None else number(each.fraction),
            "inputs": each.inputs,
            "computed": {
                name: [as_json(kept) for kept in tensors] for name, tensors in each.tensors.items()
            },
        }
        for (side, case), each in verdict.computed.items()
    ]


def _judged(verdict: examine.Verdict, side: str, case: int) -> dict[str, Any]:
    """The verdict on one side in one case, and the findings behind it."""
    codes = [
        code
        for code, (_, cases) in verdict.found.items()
        if case in cases and code.startswith("port-") == (side == "port")
    ]
    ended = next((code for code in codes if code in ("crash", "hang")), "fail")
    return {"verdict": ended if codes else "pass", "findings": codes}


def _options(options: argparse.Namespace) -> dict[str, Any]:
    """The options that say what is run, those that were given."""
    left_out = ("net", "reference", "port", "seed", "timeout", "json")
    given = {name: each for name, each in vars(options).items() if name not in left_out}
    return {name: each for name, each in given.items() if each not in (None, [], False)}


def summary(verdict: examine.Verdict) -> dict[str, Any]:
    """What a file tells of a verdict."""
    return {
        "cases": verdict.cases,
        "agrees": not verdict.found,
        "findings": [
            {"code": code, "words": finding.words, "cases": cases}
            for code, (finding, cases) in verdict.found.items()
        ],
        "kinks": verdict.kinks,
        "largest_fraction": {name: number(each) for name, each in verdict.largest.items()},
        "seconds": round(verdict.seconds, 3),
        "results": _records(verdict),
    }


def write(
    options: argparse.Namespace, check: examine.Check, verdict: examine.Verdict, caffe: Caffe
) -> None:
    """Writes the file of --json.

    Raises:
        OSError: it cannot be written.
    """
    content = {
        "schema": SCHEMA,
        "environment": environment(caffe=caffe),
        "net": options.net,
        "reference": options.reference,
        "port": options.port,
        "seed": check.seed,
        "options": _options(options),
        **summary(verdict),
    }
    Path(options.json).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
