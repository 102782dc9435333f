"""Compares a Caffe layer with a PyTorch function, in a real Caffe: values, gradients, how the top's
diff is used. No tolerance is asked for: the bound comes from the reference itself.

NET is a .prototxt file, or MODULE:CLASS (FILE.py:CLASS) for a Python layer, with --bottom for each
of its bottoms. The reference gets float64 tensors as keyword arguments named like the net's inputs,
and returns the loss, or the tops of a layer that is no loss (a tensor, a tuple or a dict). Its
gradient is autograd's. If it has an argument `param`, it gets the net's parameter blobs there, a
list, and their gradients are compared as well. A caffe_parity.Layer as the reference brings the
cases and the bound of its own.
"""  # noqa: D205  # argparse shows it as it stands

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffe_parity.cli import add_annotations, add_page, add_told, importing, path
from caffe_parity.cli.request import NET, Check, Request, prepared
from caffe_parity.contract import BadRequest, Finding, Shape, is_state, spoken
from caffe_parity.engine.data import KINDS
from caffe_parity.guest import WATCH
from caffe_parity.progress import PROGRESS
from caffe_parity.report.record import PAGE, Report, must_be_writable
from caffe_parity.terminal import say

if TYPE_CHECKING:
    from caffe_parity.report.record import Record
    from caffe_parity.report.table import Reproduce

EXAMPLES = """\
  parity check my_layer.py:MyLossLayer --bottom x1=4,3,5,6 --bottom x2=4,3,5,6 \\
      --reference my_formula.py:loss
  parity check my.prototxt --reference my_formula.py:loss --port my_port.py:MyLoss
  parity check my_net.prototxt --load my_layer.cpp --data label=int:0,1 \\
      --reference my_formula.py:hinge --page my.html
  parity check my.prototxt --reference my_formula.py:LAYER -q
"""

EPILOG = "exit status: 0 agrees, 1 disagrees (also a crash or a hang), 2 could not be carried out"

MOST_CASES, LONGEST = 100_000, 1e9
"""What --cases and --timeout, in seconds, stay below: all else is a slip of the keyboard."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `parity check`."""
    parser.add_argument("net", metavar="NET", help="a .prototxt file, or MODULE:CLASS")
    parser.add_argument(
        "--reference",
        required=True,
        metavar="MODULE:FUNCTION",
        help="what is true: a function in PyTorch, or a caffe_parity.Layer",
    )
    parser.add_argument("--port", metavar="MODULE:OBJECT", help="a function or nn.Module, float32")
    parser.add_argument(
        "--top",
        action="append",
        default=[],
        metavar="NAME",
        help="of a Python layer; by default it gets as many as the reference returns",
    )
    parser.add_argument("--param-str", metavar="TEXT", help="of a Python layer that takes one")
    parser.add_argument("--inputs", metavar="FILE.npz", help="the inputs of the only case")
    parser.add_argument(
        "--grad", metavar="NAMES", help="the inputs that get a gradient, by commas", type=_names
    )
    parser.add_argument(
        "--allow-nonfinite",
        action="store_true",
        help="inputs may be NaN or infinite; what remains finite is compared",
    )
    parser.add_argument(
        "--py2", action="store_true", help="check a copy of the layer, converted from Python 2"
    )
    parser.add_argument("--cases", type=int, default=8, metavar="N", help="how many inputs (8)")
    parser.add_argument(
        "--budget",
        type=float,
        metavar="S",
        help="begin no further case that would end after S seconds; at least one runs",
    )
    add_shared(parser, "each tensor of each case, and a layer's whole traceback")


def add_shared(parser: argparse.ArgumentParser, told: str) -> None:
    """Adds the options that `parity net` has as well: the net, its inputs, and where it is told.

    Args:
        parser: of the command.
        told: what -v tells.
    """
    add_fed(parser)
    parser.add_argument(
        "--weights",
        metavar="FILE.caffemodel",
        help="the net's parameters, by the layers' names; else its fillers make them",
    )
    parser.add_argument(
        "--json", metavar="FILE", type=path, help="write what was found to this file, too"
    )
    add_page(parser)
    add_told(parser, told)
    add_annotations(parser)


def add_fed(parser: argparse.ArgumentParser) -> None:
    """Adds what a net is fed, and what it needs to be built."""
    parser.add_argument(
        "--bottom",
        action="append",
        default=[],
        type=bottom,
        metavar="NAME=SHAPE",
        help="such as x1=4,3,5,6; of a net, a shape in place of its own, or of a data layer's top",
    )
    parser.add_argument(
        "--data", action="append", default=[], type=kind, metavar="NAME=KIND", help=KINDS
    )
    parser.add_argument(
        "--path", action="append", default=[], metavar="DIR", help="the folder of Python layers"
    )
    parser.add_argument(
        "--load", action="append", default=[], metavar="FILE", help="a compiled layer, .so or .cpp"
    )
    parser.add_argument(
        "--proto", metavar="FILE", help="the layer's own caffe.proto, or what it adds to Caffe's"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the inputs (0)")
    parser.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="S",
        help="for one case, or one answer of Caffe, in seconds (%(default)g)",
    )


def must_be_sound(options: argparse.Namespace) -> None:
    """Checks the numbers among those options, and that the files can be written.

    Raises:
        BadRequest: not so.
    """
    if not 0 < options.timeout < LONGEST:
        raise BadRequest(
            f"--timeout {options.timeout:g}: expected a number of seconds above 0 and below "
            f"{LONGEST:g}"
        )
    if not 0 <= options.seed < 2**32:
        raise BadRequest(f"--seed {options.seed}: expected a number from 0 to 2**32 - 1")
    if options.json is not None and options.json == options.page:
        raise BadRequest(f"--json and --page name the same file, {options.page}: name two")
    must_be_writable("--json", options.json)
    must_be_writable("--page", options.page, PAGE)
    if options.summary:
        from caffe_parity.report.summary import must_be_appendable

        must_be_appendable("--summary", options.summary)


def bottom(text: str) -> tuple[str, Shape]:
    """A value of --bottom, NAME=SHAPE."""
    name, equals, rest = text.partition("=")
    try:
        shape = tuple(int(extent) for extent in rest.split(",")) if rest else ()
    except ValueError:
        shape = (0,)
    if not equals or not name or any(extent < 1 for extent in shape):
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=SHAPE, such as x1=4,3,5,6")
    return name, shape


def kind(text: str) -> tuple[str, str]:
    """A value of --data, NAME=KIND."""
    name, equals, said = text.partition("=")
    if not equals or not name or not said:
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=KIND, such as label=int:0,4")
    return name, said


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def requested(options: argparse.Namespace) -> Request:
    """The request that a command line makes.

    Raises:
        BadRequest: a number is none that can be meant.
    """
    if not 1 <= options.cases <= MOST_CASES:
        raise BadRequest(f"--cases: expected a number from 1 to {MOST_CASES}")
    if options.budget is not None and not options.budget > 0:
        raise BadRequest(f"--budget {options.budget:g}: expected a number of seconds above 0")
    texts = {"--param-str": [options.param_str or ""], "--top": options.top}
    texts["--bottom"] = [name for name, _ in options.bottom]
    for option, given in texts.items():
        try:
            "".join(given).encode()
        except UnicodeEncodeError:
            raise BadRequest(f"{option}: expected text in UTF-8") from None
    return Request(
        net=options.net,
        reference=options.reference,
        port=options.port,
        bottoms=tuple(options.bottom),
        param_str=options.param_str,
        data=tuple(options.data),
        inputs=options.inputs,
        grad=options.grad,
        path=tuple(options.path),
        load=tuple(options.load),
        proto=options.proto,
        py2=options.py2,
        verbose=bool(options.verbose),
        cases=options.cases,
        seed=options.seed,
        budget=options.budget,
        tops=tuple(options.top),
        weights=options.weights,
        allow_nonfinite=options.allow_nonfinite,
    )


def carried_out(options: argparse.Namespace) -> int:
    """Runs the check that is asked for; returns the exit status.

    Raises:
        ParityError, OSError: it cannot be carried out.
    """
    request = requested(options)
    must_be_sound(options)
    if not options.quiet:
        print(f"checking {request.net} against {request.reference}", flush=True)
    from caffe_parity.caffe.session import SESSION

    SESSION.timeout = options.timeout
    WATCH.seconds = options.timeout if sys.platform == "linux" else None
    SESSION.launch()  # it imports Caffe while this process imports PyTorch
    try:
        with tempfile.TemporaryDirectory() as scratch:
            WATCH.scratch(scratch)
            with contextlib.redirect_stdout(io.StringIO() if options.quiet else sys.stdout):
                made = _checked(options, request, Path(scratch))
    finally:
        SESSION.close()
        WATCH.seconds = None
    report, seconds, interrupt = made
    from caffe_parity.report import one_layer

    if options.quiet:
        say([f"{request.net}: {one_layer.line(report, seconds)}"])
    write_files(options, report)
    if interrupt:
        raise interrupt
    return report.status


def _checked(
    options: argparse.Namespace, request: Request, scratch: Path
) -> tuple[Report, float, KeyboardInterrupt | None]:
    """The report, the seconds that it took, and what has ended it before its end."""
    from caffe_parity.report import annotations, one_layer, table
    from caffe_parity.report.environment import environment

    with PROGRESS.shown(), importing():
        PROGRESS.place = "preparing"
        check = prepared(request, scratch)
    print("\n".join(inputs_lines(check, request)), flush=True)
    start = time.perf_counter()
    records: list[Record] = []
    interrupt = None
    try:
        with PROGRESS.shown():
            run(check, request.budget, records)
    except KeyboardInterrupt as error:
        interrupt = error
    count = len(check.layer.all_cases()) * len(check.layer.variants)
    report = Report("check", environment(), _selection(options), records, count)
    ended = any(each.verdict in ("crash", "hang") for each in records)
    if interrupt:
        print(f"interrupted: {len(records)} of {count} comparisons were made")
    elif ended:
        report = replace(report, selected=len(records))
    else:
        cases = len({each.case for each in records})
        left_out = len(check.layer.all_cases()) - cases
        selection = {**report.selection, **({"left_out": left_out} if left_out else {})}
        report = replace(report, selection=selection, selected=cases * len(check.layer.variants))
    seconds = time.perf_counter() - start
    every = table.each_tensor(records) if request.verbose else []
    say([*every, *one_layer.lines(report, seconds, verbose=request.verbose)])
    if annotations.wanted(options.annotations):
        from caffe_parity.engine.judge import variant_of
        from caffe_parity.report.place import place

        variants = {name: variant_of(check.layer, name) for name in check.layer.variants}
        annotations.write(
            report,
            lambda each: options.line,
            lambda each, found: place(variants[each.variant], found, each.detail, Path()),
        )
    return report, seconds, interrupt


def write_files(
    options: argparse.Namespace, report: Report, reproduce: Reproduce | None = None
) -> None:
    """Writes the files that were asked for.

    Args:
        options: with json, page and summary.
        report: what they are to say.
        reproduce: the command that runs a record's case again; by default the one that was given.

    Raises:
        BadRequest: one cannot be written.
    """
    line = reproduce or (lambda each: str(options.line))

    def write_page(file: Path) -> None:
        from caffe_parity.report import page

        page.write(report, line, file)

    def write_summary(file: Path) -> None:
        from caffe_parity.report import summary

        summary.append(file, summary.markdown(report, line))

    files = (options.json, options.page, options.summary)
    for file, write in zip(files, (report.write, write_page, write_summary), strict=True):
        if file:
            try:
                write(file)
            except OSError as error:
                raise BadRequest(f"cannot write {file}: {error.strerror}") from error
    if options.page and not options.quiet:
        print(f"page: {options.page}", file=sys.stderr)  # the verdict is stdout's last line


def run(
    check: Check, budget: float | None = None, records: list[Record] | None = None
) -> list[Record]:
    """The record of each variant on each case; a crash or a hang of the net ends it.

    Args:
        check: what is compared.
        budget: in seconds; a further case that would end after it is not begun. None: all run.
        records: the list that is returned; each goes there as soon as it is made.
    """
    from caffe_parity.engine.judge import judge
    from caffe_parity.engine.sides import Sides

    layer, sides = check.layer, Sides(check.layer)
    records = [] if records is None else records
    cases = layer.all_cases()
    start = time.perf_counter()
    for number, case in enumerate(cases):
        spent = time.perf_counter() - start
        if budget is not None and number and spent * (number + 1) / number > budget:
            break
        PROGRESS.place, PROGRESS.part = f"case {number + 1} of {len(cases)}", number / len(cases)
        for name in layer.variants:
            records.append(judge(layer, name, case, check.structure))
            if name == NET and records[-1].verdict in ("crash", "hang"):
                return records
        sides.watch(case, check.structure)
    notes = [*sides.notes(), *_zeros(records)]
    records[:] = [replace(each, notes=[*each.notes, *notes]) for each in records]
    return records


def _zeros(records: Sequence[Record]) -> list[Finding]:
    """A note on each tensor that is 0 wherever it was computed: no factor of it would show."""
    found = []
    for name in dict.fromkeys(name for each in records for name in each.computed):
        kept = [one for each in records for one in each.computed.get(name, ())]
        if all(each.agrees for each in records) and all(
            not one.min and not one.max for one in kept
        ):
            words = f"every element of {spoken(name)} is 0 in every case: a factor would not show"
            found.append(Finding("all-zero", words, name))
    return found


def _selection(options: argparse.Namespace) -> dict[str, Any]:
    """The options that say what is run, those that were given."""
    left_out = (
        *("command", "carried_out", "more", "given", "line", "timeout", "json", "page", "summary"),
        *("verbose", "quiet", "color", "annotations"),
    )
    given = {name: each for name, each in vars(options).items() if name not in left_out}
    return {name: each for name, each in given.items() if each not in (None, [], False)}


def inputs_lines(ready: Check, request: Request) -> list[str]:
    """The inputs and parameters, and how each is filled."""
    layer, structure = ready.layer, ready.structure
    case, *more = layer.all_cases()
    parts = []
    for name, shape in case.shapes.items():
        what = "from the file" if request.inputs else case.fill or str(layer.kinds[name])
        note = "" if name in case.gradients else ", no gradient"
        parts.append(f"{name} {tuple(shape)} {what}{note}")
    of = (
        f" (case {case.name}; {len(more)} more)"
        if more and not isinstance(layer.cases, int)
        else ""
    )
    lines = [f"  inputs: {'; '.join(parts) or 'none'}{of}"]
    params = []
    for each in structure.params:
        usual = each.usual or ("from the weights" if each.saved else "as the net fills it")
        said = dict(request.data).get(each.name, usual)
        said = "from the file" if each.name in ready.in_file else said
        note = "" if each.learned or is_state(each.name) else ", no gradient (lr_mult 0)"
        params.append(f"{each.name} {each.initial.shape} of {each.layer} {said}{note}")
    if params:
        lines.append(f"  params: {'; '.join(params)}")
    return [*lines, f"  tops:   {', '.join(structure.outputs)}"]
