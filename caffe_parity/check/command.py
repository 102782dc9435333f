"""`parity check`: the arguments, the progress, the exit status."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from caffe_impl.variants import shared_caffe
from caffe_parity.caffe.client import Caffe
from caffe_parity.caffe.install import InstallError
from caffe_parity.caffe.interpreter import NoCaffe
from caffe_parity.check import examine, output, prepare
from caffe_parity.contract import BadRequest
from caffe_parity.engine import data

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
    if options.json and not os.access(Path(options.json).absolute().parent, os.W_OK):
        raise BadRequest(f"--json {options.json}: its folder is not there, or cannot be written to")
    print(f"checking {options.net} against {options.reference}", flush=True)
    caffe = given or shared_caffe()
    caffe.timeout = options.timeout
    with contextlib.nullcontext() if given else caffe, tempfile.TemporaryDirectory() as scratch:
        check = prepare.prepared(options, caffe, scratch=Path(scratch))
        print(output.inputs_line(check), flush=True)
        verdict = examine.run(check, caffe, _progress(check.cases))
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        text = "\n".join(output.report(verdict))
        print(text)
        if options.json:
            output.write(options, check, verdict, caffe)
    return int(bool(verdict.found))


def _progress(cases: int) -> Callable[[int], None]:
    def show(case: int) -> None:
        if sys.stderr.isatty():
            print(f"\r  case {case + 1} of {cases}", end="", file=sys.stderr, flush=True)

    return show
