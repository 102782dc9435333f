"""Turns a command line of `parity check` into a Check: reads the files, builds the net once."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from caffe_impl.variants import installed_root
from caffe_parity.caffe import compile as plugin
from caffe_parity.caffe import layer_errors, python2
from caffe_parity.caffe.client import Caffe, CaffeError
from caffe_parity.check import examine
from caffe_parity.check.observe import Plan, with_params
from caffe_parity.contract import BadRequest, Shape
from caffe_parity.engine import data, parameters, sources
from caffe_parity.engine.parameters import ARGUMENT

COMPILER_LINES = 20
"""Of what a compiler says, the lines that are shown: the rest follows from the first error."""

CHANGES = 40
"""Of the lines that --py2 converts, those that are shown."""


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


def _changes(changes: Sequence[python2.Change]) -> list[str]:
    """What --py2 did, line by line."""
    lines = [f"  --py2: {len(changes)} line{'s' * (len(changes) != 1)} converted, in a copy"]
    for each in changes[:CHANGES]:
        lines.append(f"    {each.file.name}:{each.line}: {each.old}  ->  {each.new}")
    more = len(changes) - CHANGES
    return [*lines, *([f"    and {more} more"] if more > 0 else [])]
