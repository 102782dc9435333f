"""From a request to what can be compared: the net, the reference, the inputs, and a first build.

`parity check` and `parity watch` make the same request of their options; a program makes it itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffe_parity.contract import PARAM, STATE, BadRequest, Shape
from caffe_parity.errors import meant

if TYPE_CHECKING:
    from caffe_parity.caffe.client import CaffeError
    from caffe_parity.contract import Structure
    from caffe_parity.engine.caffe_net import CaffeNet
    from caffe_parity.engine.images import Transform
    from caffe_parity.layer import Layer

NET, PORT = "caffe", "port"
"""The names of the variants of a check."""

CHANGES = 40
"""Of the lines that --py2 converts, those that are shown."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be checked.

    Attributes:
        net: FILE.prototxt, FILE.py:CLASS or MODULE:CLASS.
        reference, port: FILE.py:OBJECT or MODULE:OBJECT.
        bottoms: the shapes of a Python layer's inputs, or of inputs of a net, in place of its own.
        tops: the names of a Python layer's tops; empty for as many as the reference returns.
        data: the kinds of inputs and parameters, by name.
        inputs: a file with the inputs of the only case.
        grad: the inputs that get a gradient; None for all but labels.
        path, load: folders of Python layers, and compiled layers.
        proto: a file with messages that the compiled layers add to caffe.proto.
        weights: a .caffemodel with the net's parameters.
        stages: of the net's state, which the rules of its layers name.
        transform: what is done with an image; None for what the net says.
        allow_nonfinite: whether inputs may be NaN or infinite.
        py2: whether the layer is converted from Python 2 first.
        verbose: whether tracebacks are shown whole.
        cases, seed: how many inputs, and of which seed.
    """

    net: str
    reference: str
    port: str | None = None
    bottoms: tuple[tuple[str, Shape], ...] = ()
    param_str: str | None = None
    data: tuple[tuple[str, str], ...] = ()
    inputs: str | None = None
    grad: tuple[str, ...] | None = None
    path: tuple[str, ...] = ()
    load: tuple[str, ...] = ()
    proto: str | None = None
    py2: bool = False
    verbose: bool = False
    cases: int = 8
    seed: int = 0
    budget: float | None = None
    tops: tuple[str, ...] = ()
    weights: str | None = None
    stages: tuple[str, ...] = ()
    allow_nonfinite: bool = False
    transform: Transform | None = None


@dataclass(frozen=True)
class Check:
    """A request that can be carried out.

    Attributes:
        layer: what is compared; its variants are `NET` and, where it is asked for, `PORT`.
        structure: how the net is seen from outside.
        in_file: the inputs and parameters that the file of --inputs has.
    """

    layer: Layer
    structure: Structure
    in_file: frozenset[str] = frozenset()


SOLVER = re.compile(r"""^\s*(?:train_)?net\s*:\s*(["'].*?["'])""", re.MULTILINE)
"""What a solver's file says, and a net's not."""

FEW = 2
"""Samples with which a net is compared, if it computes the same of each batch."""


def prepared(request: Request, scratch: Path) -> Check:
    """The layer that a request describes, with the net built once to see that it can be.

    Args:
        request: what is asked.
        scratch: an empty folder for the copies of --py2.

    Raises:
        BadRequest: it cannot be carried out.
        VariantFailure, NoCaffe, InstallError: Caffe cannot build the net, or is not there.
    """
    from caffe_parity.cli import objects
    from caffe_parity.engine.functions import must_take, takes
    from caffe_parity.layer import Layer

    reference = objects.reference(request.reference)
    net = net_of(request, scratch)
    port = objects.port(request.port) if request.port else None
    variants: dict[str, Any] = {NET: net, **({PORT: port} if port is not None else {})}
    if isinstance(reference, Layer):
        _check_nothing_is_given_twice(request)
        layer = replace(reference, variants=variants)
        return _ready(layer, request, scratch)
    shapes, given = inputs_of(request, net, reference)
    wanted = [each for each in (PARAM, STATE) if takes(reference, each) and each not in shapes]
    must_take(reference, [*shapes, *wanted], "reference")
    if port is not None:
        wants = [each for each in (PARAM, STATE) if takes(port, each) and each not in shapes]
        must_take(port, [*shapes, *wants], "port")
        for each in wants:
            if each not in wanted:
                raise BadRequest(f"the port takes `{each}`, so the reference must take it as well")
    _check_names(request, shapes, wanted)
    layer = Layer(
        request.net,
        reference=reference,
        inputs=shapes,
        variants=variants,
        data=dict(request.data),
        grad=request.grad,
        cases=request.cases,
        seed=request.seed,
        allow_nonfinite=request.allow_nonfinite,
    )
    if given:
        layer = layer.with_inputs(request.inputs or "", given)
    check = _ready(layer, request, scratch, frozenset(given))
    known = [each.name for each in check.structure.params]
    extra = [name for name in given if name not in shapes and name not in known]
    if extra:
        raise BadRequest(
            f"--inputs {request.inputs} also has {', '.join(extra)}; the parameters that the "
            f"reference takes are {', '.join(known) or 'none'}"
        )
    for name, kind in request.data:
        if name not in shapes and name not in known:
            names = ", ".join(known)
            raise BadRequest(f"--data '{name}={kind}': expected NAME=KIND, NAME one of {names}")
    return check


def _ready(
    layer: Layer, request: Request, scratch: Path, in_file: frozenset[str] = frozenset()
) -> Check:
    """The check of a layer whose net can be built, and has all of its tops.

    Raises:
        BadRequest, VariantFailure: it cannot be built, or the reference not be evaluated.
    """
    from caffe_parity.engine.judge import fitted, variant_of

    net: Any = fitted(layer, variant_of(layer, NET))
    layer = replace(layer, variants={**layer.variants, NET: net})
    return Check(layer, _built(net, layer, request, scratch), in_file)


def _check_nothing_is_given_twice(request: Request) -> None:
    """Checks that a reference with cases of its own is given no others.

    Raises:
        BadRequest: it is.
    """
    own = {
        "--bottom": bool(request.bottoms),
        "--allow-nonfinite": request.allow_nonfinite,
        "--data": bool(request.data),
        "--inputs": request.inputs is not None,
        "--grad": request.grad is not None,
        "--cases": request.cases != Request.cases,
        "--seed": request.seed != Request.seed,
    }
    given = [option for option, is_given in own.items() if is_given]
    if given:
        raise BadRequest(
            f"{', '.join(given)}: {request.reference} is a layer, which brings its own cases; "
            "its reference function takes others"
        )


def _check_names(request: Request, shapes: dict[str, Shape], wanted: Sequence[str]) -> None:
    """Checks that --data and --grad name what there is.

    Raises:
        BadRequest: they do not.
    """
    for name, kind in request.data:
        argument = name.partition("[")[0]
        of_param = name.startswith((f"{PARAM}[", f"{STATE}["))
        if of_param and argument not in wanted:
            raise BadRequest(f"--data {name}={kind}: the reference has no argument `{argument}`")
        if name not in shapes and not of_param:
            known = ", ".join(shapes)
            raise BadRequest(
                f"--data '{name}={kind}': expected NAME=KIND, NAME one of {known}"
                f"{meant(name, shapes)}"
            )
    for name in request.grad or ():
        if name not in shapes:
            known = ", ".join(shapes)
            raise BadRequest(f"--grad {name}: the net's inputs are {known}{meant(name, shapes)}")


def _built(net: CaffeNet, layer: Layer, request: Request, scratch: Path) -> Structure:
    """Builds the net once, to see that it can be, and what it is.

    Raises:
        BadRequest: Caffe cannot build it.
    """
    from caffe_parity.caffe import layer_errors
    from caffe_parity.caffe.client import CaffeError
    from caffe_parity.engine.judge import seen_from_outside

    case = layer.all_cases()[0]
    try:
        owned = net.try_out(case)
    except CaffeError as error:
        told = layer_errors.told(error, net.path, request.verbose) + _about_param_str(
            net, request, error
        )
        if request.py2:  # the user's own files, whose lines are where they were
            told = told.replace(f"{scratch}/", "").replace(f"; {layer_errors.CONVERT}", "")
        raise BadRequest(f"Caffe cannot build {net.spec}: {told}") from error
    for kind in net.replaces(case):
        print(f"  {kind}: yours, in place of Caffe's own")
    for line in _about_phase_and_weight(net.described(case)):
        print(line)
    if owned and not layer.takes_params:
        print("  params: not compared, since the reference has no argument `param`")
    return seen_from_outside(layer, net, case)


def _about_phase_and_weight(said: Mapping[str, Any]) -> list[str]:
    """What of the net is another than its text says, or than is usual."""
    lines = []
    if said["phase"] == "TEST":
        lines.append("  phase: TEST, since nothing computes in phase TRAIN")
    for top, weight in said["weights"].items() if len(said["weights"]) == 1 else ():
        if weight != 1:
            lines.append(
                f"  loss_weight: {weight:g} of {top} in the net; 1, 2.5 and -0.75 take its place, "
                "so the reference gives the loss without it"
            )
    return lines


def _about_param_str(net: CaffeNet, request: Request, error: CaffeError) -> str:
    """Which text a layer got, where its set-up cannot read it."""
    traceback = getattr(error, "traceback", "")
    if not net.bare or ", in setup" not in traceback:
        return ""
    if request.param_str is not None:
        return f"\n  the layer's param_str was {request.param_str!r}"
    asks = "param_str" in traceback
    return "\n  the layer's param_str was '': --param-str TEXT gives another" if asks else ""


def net_of(request: Request, scratch: Path) -> CaffeNet:
    """The net that a request names.

    Raises:
        BadRequest: a file cannot be read, or what the layer needs is missing.
    """
    from caffe_parity.nets import Declared, located, text_of
    from caffe_parity.whole.prototxt import in_stages

    if not request.net.strip():
        raise BadRequest("NET is empty: expected a .prototxt file, or FILE.py:CLASS")
    if request.net.endswith(".py") and Path(request.net).is_file():
        text = Path(request.net).read_text(errors="replace")
        classes = re.findall(r"^class\s+(\w+)", text, re.MULTILINE)
        raise BadRequest(
            f"{request.net} is a Python file: expected FILE.py:CLASS; its classes are "
            f"{', '.join(classes) or 'none'}"
        )
    module, colon, _ = request.net.rpartition(":")
    is_layer = bool(colon) and not Path(request.net).exists()
    if is_layer and module.endswith(".py") and not Path(module).is_file():
        raise BadRequest(f"there is no file {module}")
    if not is_layer:
        solver = SOLVER.search(text_of(Path(request.net)))
        if solver:
            raise BadRequest(f"{request.net} is a solver's file: expected its net, {solver[1]}")
    for option, pairs in (("--bottom", request.bottoms), ("--data", request.data)):
        names = [name for name, _ in pairs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise BadRequest(f"{option} {twice} is given twice")
    for name in request.tops:
        if not name or name in dict(request.bottoms) or request.tops.count(name) > 1:
            raise BadRequest(f"--top {name!r}: expected a name that no bottom and no other top has")
    if not is_layer and (request.tops or request.param_str is not None):
        raise BadRequest(
            "--top and --param-str belong to a NET that is FILE.py:CLASS or MODULE:CLASS; "
            f"{request.net} says them itself"
        )
    if request.weights and not Path(request.weights).is_file():
        raise BadRequest(f"--weights {request.weights}: there is no such file")
    for folder in request.path:
        if not Path(folder).is_dir():
            raise BadRequest(f"--path {folder}: there is no such folder")
    declared = Declared(
        request.net,
        is_layer,
        request.param_str,
        request.path,
        load=request.load,
        proto=request.proto,
        tops=request.tops,
        weights=request.weights or "",
    )
    net = located(declared, Path(), lambda text: print(text, flush=True), "--")
    if net.sources:
        net.sources.made  # noqa: B018  # compiled before anything else is looked at
    if request.stages:
        text = in_stages(net.text(stand_in(request)), request.stages)
        net = replace(net, text=lambda _: text)
    return _of_python3(net, request, scratch) if request.py2 else net


def _of_python3(net: CaffeNet, request: Request, scratch: Path) -> CaffeNet:
    from caffe_parity.caffe.python2 import converted

    modules = net.described(stand_in(request))["modules"]
    path, changes = converted(modules, net.path, scratch)
    print(f"  --py2: {len(changes)} line{'s' * (len(changes) != 1)} converted, in a copy")
    for each in changes[:CHANGES]:
        print(f"    {each.file.name}:{each.line}: {each.old}  ->  {each.new}")
    if len(changes) > CHANGES:
        print(f"    and {len(changes) - CHANGES} more")
    return replace(net, path=path)


def stand_in(request: Request) -> Any:
    """A case with the shapes of the request alone, for a net's text."""
    from caffe_parity.contract import Case

    return Case("", dict(request.bottoms), lambda case: {}, lambda case, extra: {})


def inputs_of(
    request: Request,
    net: CaffeNet,
    reference: Callable[..., Any],
    one: bool = False,
    phase: str = "TRAIN",
) -> tuple[dict[str, Shape], dict[str, Any]]:
    """The shapes of the net's inputs, and the arrays of --inputs, if it is given.

    Args:
        request: the request.
        net: its net.
        reference: what is true, which may say the bottoms of a Python layer.
        one: whether the file may be an image or an .npy, for one of the inputs.
        phase: of the net.

    Raises:
        BadRequest: the net has no such inputs, their shape is not known, or the file lacks one.
    """
    from caffe_parity.engine.data import load
    from caffe_parity.engine.functions import must_take, takes
    from caffe_parity.engine.images import KINDS

    found = net.described(stand_in(request), phase)
    shapes: dict[str, Shape] = {name: tuple(shape) for name, shape in found["inputs"].items()}
    bottoms = dict(request.bottoms)
    odd = [name for name in bottoms if name not in shapes]
    if odd:
        raise BadRequest(
            f"--bottom {odd[0]}: the inputs of {request.net} are {', '.join(shapes) or 'none'}"
        )
    if net.bare and not bottoms:
        try:
            wanted = [each for each in (PARAM, STATE) if takes(reference, each)]
            must_take(reference, wanted, "reference")
        except BadRequest as error:
            raise BadRequest(
                f"{request.net}: a Python layer needs --bottom NAME=SHAPE for each bottom ({error})"
            ) from error
    shapes = with_bottoms(shapes, bottoms, found["together"].values())
    given: dict[str, Any] = {}
    if one and request.inputs and Path(request.inputs).suffix.lower() in (*KINDS, ".npy"):
        return _of_one_file(request, net, found, shapes)
    if request.inputs:
        given = load(request.inputs, shapes, request.allow_nonfinite)
        for name, shape in bottoms.items():
            if given[name].shape != shape:
                raise BadRequest(
                    f"--bottom {name}={','.join(map(str, shape))}: in {request.inputs} it has "
                    f"shape {given[name].shape}"
                )
        return {name: given[name].shape for name in shapes}, given
    unknown = {name: each for name, each in found["unshaped"].items() if name not in bottoms}
    if unknown:
        raise BadRequest(how_to_feed(request.net, unknown))
    return shapes, given


def _of_one_file(
    request: Request, net: CaffeNet, found: Mapping[str, Any], shapes: dict[str, Shape]
) -> tuple[dict[str, Shape], dict[str, Any]]:
    """The shapes, and the one input that an image or a .npy file gives: the first of the net's.

    Raises:
        BadRequest: it cannot be read, does not fit, or nothing says how an image becomes an input.
    """
    from caffe_parity.engine import images
    from caffe_parity.engine.data import of_array

    file, name = str(request.inputs), next(iter(shapes), "")
    known = dict(request.bottoms)
    unknown = {each: said for each, said in found["unshaped"].items() if each not in known}
    if unknown or not name:
        raise BadRequest(how_to_feed(request.net, unknown) if unknown else "the net has no input")
    if Path(file).suffix.lower() == ".npy":
        array = of_array(file, name)
        return {**shapes, name: array.shape}, {name: array}
    how, said = request.transform, found["transforms"].get(name)
    if how is None and said is None:
        raise BadRequest(
            f"--inputs {file}: nothing says how an image becomes {name}; {request.net} has no "
            f"transform_param, so as the deploy code has it: {images.HOW}"
        )
    if how is None and said is not None:
        mean = read_mean(net, said["mean_file"]) if said["mean_file"] else None
        how = images.of_net(said, mean)
    assert how is not None
    if isinstance(how.mean, str):
        how = replace(how, mean=read_mean(net, how.mean))
    return shapes, {name: images.image(file, shapes[name], how)}


def read_mean(net: CaffeNet, file: str) -> Any:
    """The mean in a .binaryproto file.

    Raises:
        BadRequest: there is none.
    """
    if not Path(file).is_file():
        raise BadRequest(f"the mean {file}: there is no such file; --mean names another")
    return net.request([{"op": "mean", "file": str(Path(file).resolve())}])[0]["array"]


def with_bottoms(
    shapes: Mapping[str, Shape], bottoms: Mapping[str, Shape], together: Iterable[Sequence[str]]
) -> dict[str, Shape]:
    """The inputs' shapes; --bottom says how many samples a layer's other tops have, too.

    Args:
        shapes: of all inputs, as the net says them.
        bottoms: those of --bottom.
        together: tops of one data layer.
    """
    found = {name: bottoms.get(name, shape) for name, shape in shapes.items()}
    for tops in together:
        said = [bottoms[name] for name in tops if bottoms.get(name)]
        for name in tops:
            if said and found[name] and name not in bottoms:
                found[name] = (said[0][0], *found[name][1:])
    return found


def how_to_feed(net: str, unknown: Mapping[str, Any]) -> str:
    """What to give for inputs that a net would read from files, which alone say their shapes."""
    layers = dict.fromkeys(f"{layer} ({type_})" for layer, type_, _ in unknown.values())
    options = " ".join(f"--bottom {name}={FEW},..." for name in unknown)
    return (
        f"{net}: {', '.join(layers)} reads {', '.join(unknown)} from files, which are not read "
        f"here: give shapes, {options} (such as {FEW},3,32,32), or the arrays, --inputs FILE.npz"
    )
