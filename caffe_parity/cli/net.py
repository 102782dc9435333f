"""Compares every layer of a net in a real Caffe with the part of a PyTorch port that computes it.

NET is a .prototxt file; the port an nn.Module whose forward takes the net's inputs, by name or in
their order. Each layer is judged alone, forward and backward: the port's part gets what Caffe's
layer got, so that a mistake is found where it is made and not where it arrives. The port's modules
are matched to the layers by name, by --map, or by their weights, and get Caffe's parameters. No
tolerance is asked for.
"""  # argparse shows it as it stands

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffe_parity.cli import path
from caffe_parity.cli.check import EPILOG, LONGEST, add_shared, must_be_sound, write_files
from caffe_parity.cli.request import Request, inputs_of, net_of, stand_in
from caffe_parity.contract import BadRequest, VariantFailure
from caffe_parity.errors import meant
from caffe_parity.guest import WATCH
from caffe_parity.progress import PROGRESS
from caffe_parity.report import annotations as github
from caffe_parity.report.place import in_net
from caffe_parity.report.record import Report
from caffe_parity.report.table import each_tensor
from caffe_parity.terminal import say

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from caffe_parity.contract import Case
    from caffe_parity.engine.caffe_net import CaffeNet
    from caffe_parity.engine.images import Transform
    from caffe_parity.report.record import Record
    from caffe_parity.whole.judged import Comparison, Judgement

__all__ = ["EPILOG"]

EXAMPLES = """\
  parity net my_model.prototxt --port my_model.py:Net --weights my.caffemodel
  parity net my_model.prototxt --port my_model.py:Net --map conv1=features.0 --phase TEST
  parity net --verify my_net.parity.json
"""

PHASES = ("TEST", "TRAIN")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `parity net`."""
    parser.add_argument("net", metavar="NET", nargs="?", help="a .prototxt file")
    parser.add_argument("--port", metavar="MODULE:OBJECT", help="an nn.Module, or its class")
    parser.add_argument(
        "--verify",
        metavar="FILE.parity.json",
        type=path,
        help="alone: whether what a certificate of `parity port` says is still so",
    )
    add_match(parser)
    parser.add_argument(
        "--phase", choices=PHASES, help="TEST or TRAIN; by default one after the other"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        type=path,
        help="a new folder: each layer that is wrong, alone, with its inputs",
    )
    add_common(parser)


def add_match(parser: argparse.ArgumentParser) -> None:
    """Adds what says which module computes which layer."""
    parser.add_argument(
        "--map",
        action="append",
        default=[],
        type=_pair,
        metavar="LAYER=MODULE",
        help="which module computes a layer, such as conv1=features.0",
    )
    parser.add_argument(
        "--leave-out",
        action="append",
        default=[],
        metavar="LAYER",
        help="a layer, or an output, that the port does without, such as accuracy",
    )


def add_common(parser: argparse.ArgumentParser) -> None:
    """Adds the options of every command that compares a whole net."""
    add_inputs(parser)
    add_shared(parser, "each tensor of each layer")
    parser.set_defaults(timeout=600.0)  # Caffe runs a whole net, which takes longer than a layer


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Adds the files that a whole net is fed from."""
    parser.add_argument(
        "--inputs", metavar="FILE", help="the inputs, .npz; the first one, .npy or an image"
    )
    parser.add_argument(
        "--mean",
        metavar="VALUES",
        help="of an image, as in deploy code: 104,117,123, or a .npy or .binaryproto file",
    )
    parser.add_argument("--raw-scale", type=float, metavar="F", help="of an image, often 255")
    parser.add_argument(
        "--channel-swap", type=_order, metavar="ORDER", help="of an image, 2,1,0 for BGR"
    )
    parser.add_argument("--input-scale", type=float, metavar="F", help="of an image, at the end")
    parser.add_argument(
        "--stage",
        action="append",
        default=[],
        metavar="NAME",
        help="of the net's state, in both phases: what its layers' rules name, such as deploy",
    )


def _pair(text: str) -> tuple[str, str]:
    layer, equals, module = text.partition("=")
    if not equals or not layer or not module:
        raise argparse.ArgumentTypeError(f"{text!r}: expected LAYER=MODULE")
    return layer, module


def _order(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(each) for each in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected an order such as 2,1,0") from None


def _transform(options: argparse.Namespace) -> Transform | None:
    """What is asked for to be done with an image; None for what the net says.

    Raises:
        BadRequest: --mean is none, or there is no image.
    """
    from caffe_parity.engine.images import KINDS, Transform, mean_of

    names = ("mean", "raw_scale", "channel_swap", "input_scale")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if not given:
        return None
    if Path(options.inputs or "").suffix.lower() not in KINDS:
        option = "--" + next(iter(given)).replace("_", "-")
        raise BadRequest(f"{option} is about an image: expected --inputs FILE{KINDS[0]}")
    mean = given.get("mean")
    if mean is not None and Path(mean).suffix != ".binaryproto":
        given["mean"] = mean_of(mean)
    return Transform(**given)


def carried_out(options: argparse.Namespace) -> int:
    """Compares the net in each phase; returns the exit status.

    Raises:
        ParityError, OSError: it cannot be carried out.
    """
    if options.verify:
        return _verified(options)
    if not options.net or not options.port:
        raise BadRequest("expected a net and its --port, or --verify with a certificate alone")
    if options.output:
        from caffe_parity.whole.alone import must_be_new

        must_be_new(options.output)
    return carried(options, f"comparing {options.net} with {options.port}", _compared)


def _verified(options: argparse.Namespace) -> int:
    """Sees whether a certificate still holds; returns the exit status.

    Raises:
        BadRequest: it is no certificate, or something else is asked for as well.
    """
    from caffe_parity.caffe.session import SESSION
    from caffe_parity.whole.certificate import changed

    more = [name for name in selection(options) if name not in ("verify", "seed")]
    if more:
        raise BadRequest(f"--verify takes a certificate alone, not {', '.join(more)}")
    try:
        found = dict(changed(options.verify))
    finally:
        SESSION.close()
    other = {name: words for name, words in found.items() if words}
    if not options.quiet:
        say([f"{name}: {words or 'as it was'}" for name, words in found.items()])
    words = f"not as it was proved: {', '.join(other)}" if other else "holds"
    say([f"{options.verify}: {words}"])
    return 1 if other else 0


Job = Callable[[argparse.Namespace, Path], tuple[Report, str]]
"""Takes the options and an empty folder; gives the report, and what it comes to."""


def carried(options: argparse.Namespace, words: str, job: Job) -> int:
    """Carries out a job on a whole net, in a Caffe, and writes what was asked for.

    Args:
        options: of the command.
        words: what it does.
        job: does it.

    Raises:
        ParityError, OSError: it cannot be carried out.
    """
    must_be_sound(options)
    must_be_a_net(options)
    if not options.quiet:
        print(words, flush=True)
    with (
        caffe_for(options) as scratch,
        contextlib.redirect_stdout(io.StringIO() if options.quiet else sys.stdout),
    ):
        report, last = job(options, scratch)
    if options.verbose:
        say(each_tensor(report.results))
    say([f"{options.net}: {last}" if options.quiet else last])
    if github.wanted(options.annotations):
        github.write(
            report,
            lambda each: options.line,
            lambda each, found: in_net(Path(options.net), each.case),
        )
    write_files(options, report)
    return report.status


def must_be_a_net(options: argparse.Namespace) -> None:
    """Checks what of `add_net` can be checked before anything runs.

    Raises:
        BadRequest: a number is none, or the net no file of a net.
    """
    if not 0 < options.timeout < LONGEST:
        raise BadRequest(f"--timeout {options.timeout:g}: expected a number of seconds above 0")
    if not 0 <= options.seed < 2**32:
        raise BadRequest(f"--seed {options.seed}: expected a number from 0 to 2**32 - 1")
    is_layer = ":" in options.net and not Path(options.net).exists()
    if is_layer or Path(options.net).suffix == ".py":
        raise BadRequest(
            f"{options.net} is no prototxt; a layer alone is what `parity check` takes"
        )


@contextlib.contextmanager
def caffe_for(options: argparse.Namespace) -> Iterator[Path]:
    """Gives an empty folder while there is a Caffe."""
    from caffe_parity.caffe.session import SESSION

    SESSION.timeout = options.timeout
    WATCH.seconds = options.timeout if sys.platform == "linux" else None
    SESSION.launch()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            WATCH.scratch(scratch)
            yield Path(scratch)
    finally:
        SESSION.close()
        WATCH.seconds = None


def request_of(options: argparse.Namespace, port: str | None = None) -> Request:
    """The request that the options make."""
    return Request(
        net=options.net,
        reference="",
        port=port,
        bottoms=tuple(options.bottom),
        data=tuple(options.data),
        inputs=options.inputs,
        path=tuple(options.path),
        load=tuple(options.load),
        proto=options.proto,
        weights=options.weights,
        stages=tuple(options.stage),
        seed=options.seed,
        transform=_transform(options),
    )


def _compared(options: argparse.Namespace, scratch: Path) -> tuple[Report, str]:
    """The report, and what it comes to."""
    from caffe_parity.cli import objects
    from caffe_parity.report.environment import environment
    from caffe_parity.whole import show
    from caffe_parity.whole.judged import comparison
    from caffe_parity.whole.overwritten import told_apart
    from caffe_parity.whole.ported import with_assumed

    model = objects.module(options.port)
    request = request_of(options, options.port)
    net = net_of(request, scratch)
    request, told = with_assumed(request, net)
    say([f"  {each}" for each in told])
    phases = [options.phase] if options.phase else PHASES
    if options.leave_out:
        must_be_layers(options.leave_out, [*_names(net, request, phases)])
    case, _ = case_of(request, net)
    kinds = _kinds(net, case, options.phase or PHASES[-1])
    request = replace(request, data=(*((k, each) for k, each in kinds.items()), *request.data))
    usual = case_of(request, net)
    records: list[Record] = []
    began = time.perf_counter()
    for phase in phases:
        start = time.perf_counter()
        case, given = usual
        if not (options.phase or request.inputs):
            try:
                if not _is_as(net, request, phase):
                    case, given = _own_case(request, net, phase)
            except (BadRequest, VariantFailure) as error:
                if getattr(error, "verdict", "") == "hang":
                    raise  # it may be built, given more time
                say([f"not in phase {phase}, in which Caffe cannot build it: {error}"])
                continue
        with PROGRESS.shown():
            PROGRESS.place = f"phase {phase}"
            compared = comparison(
                net, case, model, phase, dict(options.map), frozenset(options.leave_out), given
            )
            found = told_apart(compared, compared.judgements(), net, case)
        say(show.lines(compared, found))
        if options.output:
            say(_written(options, compared, found, net, case))
        records += show.records(request.net, compared, found, time.perf_counter() - start)
        del compared, found  # a net of real size takes a gigabyte
    report = Report("net", environment(), selection(options), show.proved_in_either(records))
    return report, show.verdict(report, time.perf_counter() - began)


def _names(net: CaffeNet, request: Request, phases: Sequence[str]) -> Iterator[str]:
    """The layers and outputs of a net in each phase in which Caffe can build it."""
    for phase in phases:
        with contextlib.suppress(BadRequest):
            said = net.described(stand_in(request), phase)
            yield from (name for name, type_ in said["layers"] if type_ != "Input")
            yield from said["outputs"]


def _is_as(net: CaffeNet, request: Request, phase: str) -> bool:
    """Whether a net has the inputs of phase TRAIN in a phase, in their shapes."""
    described = [net.described(stand_in(request), each) for each in ("TRAIN", phase)]
    theirs, own = (each["inputs"] for each in described)
    return bool(theirs == own)


def _own_case(request: Request, net: CaffeNet, phase: str) -> tuple[Case, dict[str, Any]]:
    """What a net is fed in a phase whose inputs are others than in TRAIN.

    Raises:
        BadRequest, VariantFailure: Caffe cannot build it.
    """
    names = net.described(stand_in(request), phase)["inputs"]
    data = {name: each for name, each in request.data if name in names}
    bottoms = tuple((name, each) for name, each in request.bottoms if name in names)
    own = replace(request, data=tuple(data.items()), bottoms=bottoms)
    case, _ = case_of(own, net, phase)
    kinds = {**_kinds(net, case, phase), **data}
    return case_of(replace(own, data=tuple(kinds.items())), net, phase)


def _kinds(net: CaffeNet, case: Case, phase: str) -> dict[str, str]:
    """The inputs that are labels, masks or indices, as --data says it: of others a layer aborts."""
    from caffe_parity.whole.declared import declared
    from caffe_parity.whole.prototxt import Unknown

    [reply] = net.request([{"op": "fields"}])
    return declared(net, case, phase, reply["messages"], Unknown()).kinds


def selection(options: argparse.Namespace) -> dict[str, Any]:
    """The options on which the result depends."""
    left_out = (
        *("command", "carried_out", "more", "given", "line", "timeout", "json", "page", "summary"),
        *("quiet", "verbose", "color", "annotations", "output"),
    )
    return {
        name: each
        for name, each in vars(options).items()
        if name not in left_out and each not in (None, [], False)
    }


def must_be_layers(left_out: Sequence[str], names: Sequence[str]) -> None:
    """Checks what --leave-out names.

    Raises:
        BadRequest: the net has no such layer.
    """
    for name in left_out:
        if name not in names:
            known = ", ".join(dict.fromkeys(names))
            raise BadRequest(
                f"--leave-out {name}: the net's layers are {known}{meant(name, names)}"
            )


def _written(
    options: argparse.Namespace,
    compared: Comparison,
    found: Sequence[Judgement],
    net: CaffeNet,
    case: Case,
) -> list[str]:
    """Writes the parts that are wrong; the command for each."""
    from caffe_parity.whole import alone

    needed = [
        word
        for option in ("path", "load", "proto")
        for value in _several(getattr(options, option))
        for word in (f"--{option}", value)
    ]
    of_layer = ("forward", "backward", "parameter")
    return [
        "alone: "
        + alone.write(options.output, compared, each.part, net, case, options.port, needed)
        for each in found
        if any(finding.code in of_layer for finding in each.findings)
    ]


def _several(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def case_of(request: Request, net: CaffeNet, phase: str = "TRAIN") -> tuple[Case, dict[str, Any]]:
    """What the net is fed in a phase, and what the file has besides.

    Raises:
        BadRequest: they are not known, or --data names none of them.
    """
    from caffe_parity.layer import Layer

    shapes, given = inputs_of(request, net, lambda **inputs: None, True, phase)
    for name, said in request.data:
        if name not in shapes:
            raise BadRequest(
                f"--data {name}={said}: the net's inputs are {', '.join(shapes)}"
                f"{meant(name, shapes)}"
            )
    layer = Layer(
        request.net,
        reference=lambda **inputs: None,
        inputs=shapes,
        data=dict(request.data),
        seed=request.seed,
        cases=1,
    )
    others = {name: each for name, each in given.items() if name not in shapes}
    (case,) = layer.all_cases()
    if given:
        filled = {} if set(shapes) <= set(given) else case.arrays(case)
        (case,) = layer.with_inputs(request.inputs or "", {**filled, **given}).all_cases()
    return case, others
