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
import inspect
import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffe_parity.cli import add_annotations, add_page, add_told, path
from caffe_parity.cli.check import EPILOG, LONGEST, bottom, kind, write_files
from caffe_parity.cli.request import Request, inputs_of, net_of
from caffe_parity.contract import BadRequest
from caffe_parity.errors import meant
from caffe_parity.guest import WATCH
from caffe_parity.progress import PROGRESS
from caffe_parity.report import annotations as github
from caffe_parity.report.place import in_net
from caffe_parity.report.record import PAGE, Report, must_be_writable
from caffe_parity.report.table import each_tensor
from caffe_parity.terminal import say

if TYPE_CHECKING:
    import torch

    from caffe_parity.contract import Case
    from caffe_parity.engine.caffe_net import CaffeNet
    from caffe_parity.report.record import Record

__all__ = ["EPILOG"]

EXAMPLES = """\
  parity net my_model.prototxt --port my_model.py:Net --weights my.caffemodel
  parity net my_model.prototxt --port my_model.py:Net --map conv1=features.0 --phase TEST
  parity net --verify my_net.parity.json
"""

PHASES = ("TEST", "TRAIN")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `parity net`."""
    add_net(parser, required=False)
    parser.add_argument(
        "--verify",
        metavar="FILE.parity.json",
        type=path,
        help="alone: whether what a certificate of `parity port` says is still so",
    )
    parser.add_argument(
        "--phase", choices=PHASES, help="TEST or TRAIN; by default one after the other"
    )
    add_found(parser)


def add_found(parser: argparse.ArgumentParser) -> None:
    """Adds the file of weights, and where what is found is told."""
    parser.add_argument(
        "--weights", metavar="FILE.caffemodel", help="the net's parameters, else as its fillers"
    )
    parser.add_argument("--json", metavar="FILE", type=path, help="write what was found, too")
    add_page(parser)
    add_told(parser, "each tensor of each layer")
    add_annotations(parser)


def add_net(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Adds what says which net there is, which port of it, and what the net is fed."""
    parser.add_argument(
        "net", metavar="NET", nargs=None if required else "?", help="a .prototxt file"
    )
    parser.add_argument(
        "--port", required=required, metavar="MODULE:OBJECT", help="an nn.Module, or its class"
    )
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
        help="a layer that the port does without, such as accuracy",
    )
    add_fed(parser)


def add_fed(parser: argparse.ArgumentParser) -> None:
    """Adds what says what the net is fed, and what it needs to be built."""
    parser.add_argument(
        "--bottom",
        action="append",
        default=[],
        type=bottom,
        metavar="NAME=SHAPE",
        help="the shape of an input, in place of the net's own, or of a data layer's top",
    )
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        type=kind,
        metavar="NAME=KIND",
        help="what an input holds, such as label=int:0,9 (docs/check.md)",
    )
    parser.add_argument("--inputs", metavar="FILE.npz", help="the inputs")
    parser.add_argument("--path", action="append", default=[], metavar="DIR", help="Python layers")
    parser.add_argument(
        "--load", action="append", default=[], metavar="FILE", help="a compiled layer, .so or .cpp"
    )
    parser.add_argument("--proto", metavar="FILE", help="the compiled layers' own caffe.proto")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the inputs (0)")
    parser.add_argument(
        "--timeout", type=float, default=60.0, metavar="S", help="for Caffe, in seconds (60)"
    )


def _pair(text: str) -> tuple[str, str]:
    layer, equals, module = text.partition("=")
    if not equals or not layer or not module:
        raise argparse.ArgumentTypeError(f"{text!r}: expected LAYER=MODULE")
    return layer, module


def carried_out(options: argparse.Namespace) -> int:
    """Compares the net in each phase; returns the exit status.

    Raises:
        ParityError, OSError: it cannot be carried out.
    """
    if options.verify:
        return _verified(options)
    if not options.net or not options.port:
        raise BadRequest("expected a net and its --port, or --verify with a certificate alone")
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
    must_be_a_net(options)
    if options.json is not None and options.json == options.page:
        raise BadRequest(f"--json and --page name the same file, {options.page}: name two")
    must_be_writable("--json", options.json)
    must_be_writable("--page", options.page, PAGE)
    if options.summary:
        from caffe_parity.report.summary import must_be_appendable

        must_be_appendable("--summary", options.summary)
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


def request_of(options: argparse.Namespace) -> Request:
    """The request for the net alone."""
    return Request(
        options.net,
        "",
        getattr(options, "port", None),
        tuple(options.bottom),
        data=tuple(options.data),
        inputs=options.inputs,
        path=tuple(options.path),
        load=tuple(options.load),
        proto=options.proto,
        weights=options.weights,
        seed=options.seed,
    )


def _compared(options: argparse.Namespace, scratch: Path) -> tuple[Report, str]:
    """The report, and what it comes to."""
    from caffe_parity.report.environment import environment
    from caffe_parity.whole import show
    from caffe_parity.whole.judged import comparison

    model = module_of(options.port)
    request = request_of(options)
    net = net_of(request, scratch)
    case = case_of(request, net)
    records: list[Record] = []
    names: list[str] = []
    began = time.perf_counter()
    for phase in [options.phase] if options.phase else PHASES:
        start = time.perf_counter()
        with PROGRESS.shown():
            PROGRESS.place = f"phase {phase}"
            compared = comparison(
                net, case, model, phase, dict(options.map), frozenset(options.leave_out)
            )
            found = compared.judgements()
        names += [step.name for step in compared.net.steps]
        say(show.lines(compared, found))
        records += show.records(request.net, compared, found, time.perf_counter() - start)
    must_be_layers(options.leave_out, names)
    report = Report("net", environment(), selection(options), records)
    return report, show.verdict(report, time.perf_counter() - began)


def selection(options: argparse.Namespace) -> dict[str, Any]:
    """The options on which the result depends."""
    left_out = (
        *("command", "carried_out", "more", "given", "line", "timeout", "json", "page", "summary"),
        *("quiet", "verbose", "color", "annotations"),
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


def module_of(spec: str) -> torch.nn.Module:
    """The port that an option names.

    Raises:
        BadRequest: it cannot be had, or is no nn.Module.
    """
    import torch

    from caffe_parity.cli import objects

    model = objects.port(spec)
    if inspect.isfunction(model) and not any(map(_is_needed, _parameters(model))):
        model = objects.made(spec, model)
    if not isinstance(model, torch.nn.Module):
        raise BadRequest(
            f"--port {spec!r} is {type(model).__name__}: expected an nn.Module, its class, or a "
            "function without arguments that makes it; `parity check` compares functions"
        )
    return model


def _parameters(function: Any) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())


def _is_needed(parameter: inspect.Parameter) -> bool:
    """Whether a call must give it."""
    several = (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and parameter.kind not in several


def case_of(request: Request, net: CaffeNet) -> Case:
    """What the net is fed.

    Raises:
        BadRequest: they are not known, or --data names none of them.
    """
    from caffe_parity.layer import Layer

    shapes, given = inputs_of(request, net, lambda **inputs: None)
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
    layer = layer.with_inputs(request.inputs or "", given) if given else layer
    (case,) = layer.all_cases()
    return case
