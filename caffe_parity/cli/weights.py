"""Puts a net's parameters into a PyTorch port of it, as a .safetensors file.

NET is a .prototxt file; W.caffemodel its parameters, without which they are as the net's fillers
make them; the port is what `parity net` takes, and is matched to the layers in the same ways. What
PyTorch keeps in another order is put into that (LSTM's gates, BatchNorm's sums, a transposed
InnerProduct). The file holds the port's whole state_dict; it is read back and compared with Caffe's
numbers to the bit. It is written only where every parameter of either side has its counterpart.
"""  # argparse shows it as it stands

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from caffe_parity.cli import path
from caffe_parity.cli.check import add_fed
from caffe_parity.cli.net import (
    add_inputs,
    add_match,
    caffe_for,
    case_of,
    must_be_a_net,
    must_be_layers,
    request_of,
)
from caffe_parity.cli.request import net_of
from caffe_parity.contract import BadRequest
from caffe_parity.progress import PROGRESS
from caffe_parity.report.record import must_be_writable
from caffe_parity.terminal import say

if TYPE_CHECKING:
    from caffe_parity.whole.judged import Comparison

HEADER = b'"dtype"'
"""What stands near the beginning of a .safetensors file."""

EPILOG = """\
exit status: 0 it is written, 1 a parameter has no counterpart, 2 it could not be carried out
load it:     model.load_state_dict(safetensors.torch.load_file("weights.safetensors"))"""

EXAMPLES = """\
  parity weights my_model.prototxt my.caffemodel --port my_model.py:Net -o weights.safetensors
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `parity weights`."""
    parser.add_argument("net", metavar="NET", help="a .prototxt file")
    parser.add_argument(
        "weights",
        nargs="?",
        metavar="W.caffemodel",
        help="the net's parameters, else as its fillers make them",
    )
    parser.add_argument(
        "--port", required=True, metavar="MODULE:OBJECT", help="an nn.Module, or its class"
    )
    add_match(parser)
    add_inputs(parser)
    add_fed(parser)
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=path,
        metavar="FILE.safetensors",
        help="the port's state_dict",
    )


def carried_out(options: argparse.Namespace) -> int:
    """Writes the port's weights; returns the exit status.

    Raises:
        ParityError, OSError: it cannot be carried out.
    """
    must_be_a_net(options)
    must_be_writable("-o", options.output, HEADER)
    if options.output.suffix != ".safetensors":
        raise BadRequest(f"-o {options.output}: expected a name that ends in .safetensors")
    with caffe_for(options) as scratch, PROGRESS.shown():
        return _written(options, scratch)


def _written(options: argparse.Namespace, scratch: Path) -> int:
    from caffe_parity.cli import objects
    from caffe_parity.whole.judged import comparison
    from caffe_parity.whole.ported import with_assumed
    from caffe_parity.whole.transfer import missing, write

    model = objects.module(options.port)
    request = request_of(options)
    net = net_of(request, scratch)
    request, _ = with_assumed(request, net)
    case, given = case_of(request, net)
    left_out = frozenset(options.leave_out)
    compared = comparison(net, case, model, "TEST", dict(options.map), left_out, given, False)
    must_be_layers(options.leave_out, [step.name for step in compared.net.steps])
    say(_lines(options, compared))
    if said := missing(compared):
        say([f"parameters: {each}" for each in said])
        say([f"not written: {len(said)} without a counterpart"])
        return 1
    count = write(compared, model, options.output)
    size = options.output.stat().st_size
    what = f"{count} tensors, {size:,} bytes; read back, the bits are Caffe's"
    say([f"written to {options.output}: {what}"])
    return 0


def _lines(options: argparse.Namespace, compared: Comparison) -> list[str]:
    """What became of each parameter."""
    from caffe_parity.whole.transfer import table

    rows = list(table(compared))
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    said = [f"from {options.weights or 'the fillers of ' + options.net} to {options.port}"]
    said += [
        f"  {theirs.ljust(widths[0])}  {own.ljust(widths[1])}  {how}".rstrip()
        for theirs, own, how in rows
    ]
    if compared.net.others:
        names = ", ".join(compared.net.others)
        said.append(f"not in the net: {options.weights} also has parameters of {names}")
    return said
