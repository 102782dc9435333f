"""`parity check`: the arguments, what is printed, the JSON file, the exit status."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from caffe_impl.runtime import plugin
from caffe_impl.runtime.client import Caffe, CaffeError
from caffe_impl.runtime.install import InstallError
from caffe_impl.runtime.interpreter import NoCaffe
from caffe_impl.variants import installed_root, shared_caffe
from parity_tests.bits import as_json, number
from parity_tests.check import data, examine, layer_errors, parameters, python2, sources
from parity_tests.check.observe import Plan, with_params
from parity_tests.check.parameters import ARGUMENT, Parameter
from parity_tests.check.sources import BadRequest
from parity_tests.environment import environment
from reference.contract import Shape

SCHEMA = "parity-check-2"
"""The name of the format of --json; its JSON Schema is check.schema.json beside this file."""

COMPILER_LINES = 20
"""Of what a compiler says, the lines that are shown: the rest follows from the first error."""

CHANGES = 40
"""Of the lines that --py2 converts, those that are shown."""

DESCRIPTION = """\
Compares a Caffe layer with a PyTorch function, in a real Caffe: values, gradients, and how it uses
its top diff. No tolerance is asked for: the bound comes from the reference itself.

NET is a .prototxt file, or MODULE:CLASS (FILE.py:CLASS) for a Python layer, with --bottom for each
of its bottoms. The reference gets float64 tensors as keyword arguments named like the net's inputs,
and returns the loss, or the tops of a layer that is no loss (a tensor, a tuple or a dict). Its
gradient is autograd's. If it has an argument `param`, it gets the net's parameter blobs there, a
list, and their gradients are compared as well.
"""
EPILOG = "exit status: 0 agrees, 1 disagrees (also a crash or a hang), 2 could not be carried out"


def parser() -> argparse.ArgumentParser:
    """The command line of `parity check`."""
    made = argparse.ArgumentParser(
        prog="parity check",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("net", metavar="NET")
    made.add_argument("--reference", required=True, metavar="MODULE:FUNCTION")
    made.add_argument("--port", metavar="MODULE:OBJECT", help="a function or nn.Module, float32")
    made.add_argument(
        "--bottom", action="append", default=[], metavar="NAME=SHAPE", help="such as x1=4,3,5,6"
    )
    made.add_argument("--param-str", metavar="TEXT")
    made.add_argument("--data", action="append", default=[], metavar="NAME=KIND", help=data.KINDS)
    made.add_argument("--inputs", metavar="FILE.npz", help="the inputs of the only case")
    made.add_argument("--grad", metavar="NAMES", help="the inputs that get a gradient, by commas")
    made.add_argument(
        "--path", action="append", default=[], metavar="DIR", help="the layer's folder"
    )
    made.add_argument(
        "--load", action="append", default=[], metavar="FILE", help="a compiled layer, .so or .cpp"
    )
    made.add_argument(
        "--py2", action="store_true", help="check a copy of the layer, converted from Python 2"
    )
    made.add_argument("--cases", type=int, default=8, metavar="N")
    made.add_argument("--seed", type=int, default=0, metavar="S")
    made.add_argument("--timeout", type=float, default=60.0, metavar="S", help="for one case")
    made.add_argument("--json", metavar="FILE")
    return made


def main(arguments: list[str], caffe: Caffe | None = None) -> int:
    """Runs `parity check`; returns the exit status.

    Args:
        arguments: the command line.
        caffe: where, which stays open; None for one of its own.
    """
    try:
        options = parser().parse_args(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)
    try:
        return _check(options, caffe)
    except BadRequest as error:
        message = str(error)
    except (NoCaffe, InstallError) as error:
        message = f"no Caffe to compare with.\n{error}"
    except OSError as error:
        message = str(error)
    print(f"parity check: {message}", file=sys.stderr)
    return 2


def _check(options: argparse.Namespace, given: Caffe | None) -> int:
    if options.cases < 1 or options.timeout <= 0:
        raise BadRequest("--cases and --timeout must be greater than 0")
    print(f"checking {options.net} against {options.reference}", flush=True)
    caffe = given or shared_caffe()
    caffe.timeout = options.timeout
    with contextlib.nullcontext() if given else caffe, tempfile.TemporaryDirectory() as scratch:
        check = prepared(options, caffe, scratch=Path(scratch))
        print(_inputs_line(check), flush=True)
        verdict = examine.run(check, caffe, _progress(check.cases))
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        text = "\n".join(_report(verdict))
        print(text)
        if options.json:
            _write(options, check, verdict, caffe)
    return int(bool(verdict.found))


def prepared(
    options: argparse.Namespace,
    caffe: Caffe,
    wanted: Mapping[str, Shape] | None = None,
    scratch: Path | None = None,
) -> examine.Check:
    """What a command line asks for, with the net built once to see that it can be.

    Args:
        options: of the parser; reference and port may be functions as well.
        caffe: where.
        wanted: the shapes of all inputs; None for those that the net says.
        scratch: an empty folder for the copies of --py2, which needs one.

    Raises:
        BadRequest: it cannot be carried out.
    """
    bottoms = dict(_bottom(text) for text in options.bottom)
    net = sources.net(options.net, options.path, bottoms, options.param_str)
    if options.py2 and scratch:
        net, changes = python2.converted(net, scratch)
        print("\n".join(_changes(changes)), flush=True)
    reference = sources.reference(options.reference)
    port = sources.port(options.port) if options.port else None
    libraries = tuple(_library(each, options.path, caffe) for each in options.load)
    try:
        described = caffe.request([{"op": "describe", "text": net.text}])[0]
    except CaffeError as error:
        raise BadRequest(f"{net.name}: {error}") from error
    shapes: dict[str, Shape] = {name: tuple(each) for name, each in described["inputs"].items()}
    if not shapes:
        raise BadRequest(f"{net.name} has no Input layer, so there is nothing to feed it with")
    if wanted is not None:
        shapes = _reshaped(net.name, shapes, wanted)
    given = data.load(options.inputs, shapes) if options.inputs else None
    if given:
        shapes = {name: array.shape for name, array in given.items()}
    of_params = [text for text in options.data if text.startswith(f"{ARGUMENT}[")]
    of_inputs = [text for text in options.data if text not in of_params]
    kinds = {**dict.fromkeys(shapes, data.Kind("normal")), **_kinds(of_inputs, list(shapes))}
    takes_params = parameters.taken_by(reference) and ARGUMENT not in shapes
    names = [name for name, _ in described["layers"]]
    if takes_params and len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRequest(
            f"{net.name} has two layers named {twice!r}: Caffe tells parameters apart by the "
            "layer's name, so give each one of its own"
        )
    _must_fit(reference, port, list(shapes), takes_params)
    plan = Plan(
        net=net,
        shapes=shapes,
        outputs=tuple(described["losses"] or described["outputs"]),
        gradients=_gradients(options.grad, shapes, kinds),
        libraries=libraries,
        is_loss=len(described["losses"]) == 1,
    )
    try:
        plan = with_params(caffe, plan)
    except CaffeError as error:
        told = layer_errors.told(error)
        if options.py2:  # the copies have their lines where the user's own files have them
            told = told.replace(f"{scratch}/", "").replace(f"; {layer_errors.CONVERT}", "")
        raise BadRequest(f"Caffe cannot build {net.name}: {told}") from error
    return _with_params(
        examine.Check(plan, reference, port, kinds, given, options.cases, options.seed),
        options.inputs,
        of_params,
        takes_params,
    )


def _must_fit(
    reference: Callable[..., Any],
    port: Callable[..., Any] | None,
    inputs: list[str],
    takes_params: bool,
) -> None:
    """Checks that reference and port take the inputs, and the parameters or none.

    Raises:
        BadRequest: one of them does not.
    """
    sources.must_take(reference, [*inputs, *([ARGUMENT] * takes_params)], "reference")
    if port is None:
        return
    port_takes = parameters.taken_by(port) and ARGUMENT not in inputs
    sources.must_take(port, [*inputs, *([ARGUMENT] * port_takes)], "port")
    if port_takes and not takes_params:
        raise BadRequest(f"the port takes `{ARGUMENT}`, so the reference must take it as well")
    if takes_params and not port_takes and not isinstance(port, torch.nn.Module):
        raise BadRequest(
            f"the reference takes `{ARGUMENT}`, so the port must take it as well, or be an "
            "nn.Module with parameters of its own, which are matched by order"
        )


def _with_params(
    check: examine.Check, file: str | None, kinds: Sequence[str], takes_params: bool
) -> examine.Check:
    """The check with the net's parameters where the reference takes them, else without.

    Args:
        check: with all of them.
        file: of --inputs.
        kinds: what --data says of parameters.
        takes_params: whether the reference takes them.

    Raises:
        BadRequest: there are none, or they do not fit what was asked.
    """
    params = check.plan.params
    if not takes_params:
        if kinds:
            raise BadRequest(f"--data {kinds[0]!r}: the reference has no argument `{ARGUMENT}`")
        if params:
            print(f"  params: not compared, since the reference has no argument `{ARGUMENT}`")
        return replace(check, plan=replace(check.plan, params=()))
    if not params:
        raise BadRequest(
            f"the reference takes `{ARGUMENT}`, but no layer of the net has parameter blobs"
        )
    in_file = data.load_parameters(file, params) if file else {}
    normal = {name: data.Kind("normal") for name in check.plan.learned}
    port = check.port
    if port is not None and parameters.taken_by(port):
        port = parameters.gathered(port, params)
    elif isinstance(port, torch.nn.Module):
        port = parameters.loaded(port, params)
    return replace(
        check,
        reference=parameters.gathered(check.reference, params),
        port=port,
        kinds={**check.kinds, **normal, **_kinds(kinds, [each.name for each in params])},
        given={**check.given, **in_file} if check.given else None,
    )


def _changes(changes: Sequence[python2.Change]) -> list[str]:
    """What --py2 did, line by line."""
    lines = [f"  --py2: {len(changes)} line{'s' * (len(changes) != 1)} converted, in a copy"]
    for each in changes[:CHANGES]:
        lines.append(f"    {each.file.name}:{each.line}: {each.old}  ->  {each.new}")
    more = len(changes) - CHANGES
    return [*lines, *([f"    and {more} more"] if more > 0 else [])]


def _reshaped(
    net: str, shapes: Mapping[str, Shape], wanted: Mapping[str, Shape]
) -> dict[str, Shape]:
    if set(wanted) != set(shapes):
        raise BadRequest(
            f"the inputs of {net} are {', '.join(shapes)}; those that are given are "
            f"{', '.join(wanted)}: they must be the same"
        )
    return dict(wanted)


def _bottom(text: str) -> tuple[str, Shape]:
    name, equals, rest = text.partition("=")
    try:
        shape = tuple(int(extent) for extent in rest.split(",")) if rest else ()
    except ValueError:
        shape = (0,)
    if not equals or not name or any(extent < 1 for extent in shape):
        raise BadRequest(f"--bottom {text!r}: expected NAME=SHAPE, such as x1=4,3,5,6")
    return name, shape


def _library(name: str, folders: Sequence[str], caffe: Caffe) -> str:
    """The path of a compiled layer; C++ source is compiled first.

    Raises:
        BadRequest: there is no such file, or it cannot be compiled.
    """
    file = Path(name)
    if not file.is_file():
        raise BadRequest(f"--load {name}: there is no such file")
    if file.suffix not in (".cpp", ".cc", ".cxx"):
        return str(file.resolve())
    root = installed_root(caffe)
    if root is None:
        raise BadRequest(
            f"--load {name}: only for the Caffe that is installed by `parity install-caffe` there "
            "is a compiler; for the one of CAFFE_PYTHON give the library (docs/compiled_layer.md)"
        )
    try:
        built = plugin.build_file(
            root,
            file,
            [Path(folder) for folder in folders],
            lambda: print(f"  compiling {name}", flush=True),
        )
    except plugin.PluginError as error:
        if not error.printed:
            raise BadRequest(f"--load {name}: {error}") from error
        lines = error.printed.rstrip().splitlines()
        shown = [*lines[:COMPILER_LINES], *(["[...]"] if len(lines) > COMPILER_LINES else [])]
        said = "\n".join(shown)
        raise BadRequest(f"--load {name}: the compiler refuses it\n{said}") from error
    return str(built)


def _kinds(given: Sequence[str], names: Sequence[str]) -> dict[str, data.Kind]:
    kinds = {}
    for text in given:
        name, equals, kind = text.partition("=")
        if not equals or name not in names:
            raise BadRequest(f"--data {text!r}: expected NAME=KIND, NAME one of {', '.join(names)}")
        kinds[name] = data.parse(kind)
    return kinds


def _gradients(
    names: str | None, shapes: Mapping[str, Shape], kinds: Mapping[str, data.Kind]
) -> tuple[str, ...]:
    if names is None:
        return tuple(name for name in shapes if not kinds[name].is_label)
    chosen = tuple(name for name in names.split(",") if name)
    for name in chosen:
        if name not in shapes:
            raise BadRequest(f"--grad {names}: the net's inputs are {', '.join(shapes)}")
    return chosen


def _inputs_line(check: examine.Check) -> str:
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


def _progress(cases: int) -> Callable[[int], None]:
    def show(case: int) -> None:
        if sys.stderr.isatty():
            print(f"\r  case {case + 1} of {cases}", end="", file=sys.stderr, flush=True)

    return show


def _report(verdict: examine.Verdict) -> list[str]:
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


def _write(
    options: argparse.Namespace, check: examine.Check, verdict: examine.Verdict, caffe: Caffe
) -> None:
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
