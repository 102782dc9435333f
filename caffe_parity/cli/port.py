"""Writes a net of Caffe's as one file of plain PyTorch, and proves it against a real Caffe.

NET is a .prototxt file. The file has a module for each layer, under the layer's name, and imports
torch alone; its parameters lie beside it as .safetensors. Then each layer is compared, forward and
backward, in both phases, as `parity net` does it. A certificate (.parity.json) says what was proved
of which files; `parity net --verify` sees whether they are still those. A layer that has no
counterpart is a hole, named and never left out: --layer fills it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from caffe_parity.cli import path
from caffe_parity.cli.net import add_common, carried, request_of, selection
from caffe_parity.contract import BadRequest, Finding
from caffe_parity.progress import PROGRESS
from caffe_parity.report.record import Record, Report
from caffe_parity.terminal import say

if TYPE_CHECKING:
    from caffe_parity.whole.declared import Declared
    from caffe_parity.whole.ported import Ported

EPILOG = (
    "exit status: 0 proved, 1 the port disagrees with Caffe, 2 unproven: a hole, or it could not "
    "be carried out"
)

EXAMPLES = """\
  parity port my_model.prototxt -o my_net.py
  parity port my_model.prototxt --weights my.caffemodel -o my_net.py
  parity port train_val.prototxt --bottom data=2,3,227,227 --bottom label=2 -o my_net.py
  parity port my_model.prototxt --layer Python=my_layers.py:MyLayer -o my_net.py
  parity net --verify my_net.parity.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `parity port`."""
    parser.add_argument("net", metavar="NET", help="a .prototxt file")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE.py",
        type=path,
        help="the file to write; FILE.safetensors and FILE.parity.json beside it",
    )
    parser.add_argument(
        "--layer",
        action="append",
        default=[],
        type=_filling,
        metavar="TYPE=FILE.py:OBJECT",
        help="an nn.Module's class, or a function, for layers of a type or of a name",
    )
    add_common(parser)


def _filling(text: str) -> tuple[str, str]:
    layer, equals, spec = text.partition("=")
    file, colon, name = spec.rpartition(":")
    if not all((layer, equals, file, colon, name)) or not file.endswith(".py"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected TYPE=FILE.py:OBJECT")
    return layer, spec


def carried_out(options: argparse.Namespace) -> int:
    """Writes and proves a port; returns the exit status.

    Raises:
        ParityError, OSError: it cannot be carried out.
    """
    if options.output.suffix != ".py" or not options.output.stem.isidentifier():
        raise BadRequest(
            f"-o {options.output}: expected the name of a Python module, such as my_net.py"
        )
    return carried(options, f"porting {options.net} to {options.output}", _ported)


def _ported(options: argparse.Namespace, scratch: Path) -> tuple[Report, str]:
    """The report, and what it comes to."""
    from caffe_parity.report.environment import environment
    from caffe_parity.whole import show
    from caffe_parity.whole.certificate import certify, may_be_written
    from caffe_parity.whole.ported import ported

    may_be_written(options.output)
    began = time.perf_counter()
    request = request_of(options)
    with PROGRESS.shown():
        port = ported(request, dict(options.layer), options.output, scratch)
    say(_about(port))
    records = [_hole(request.net, name, words) for name, words in port.holes.items()]
    about, chosen = environment(), {**selection(options), "output": str(options.output)}
    early = Report("port", about, chosen, records)
    certify(options, port, early, "not proved: it was not compared")  # so that it is ours to write
    if not port.holes:
        for phase in port.phases:  # of one phase nothing is kept, which for VGG is gigabytes
            records += _compared(port, phase)
    report = Report("port", about, chosen, show.proved_in_either(records))
    for each in report.results:
        if each.reason.startswith("nothing of "):
            say([f"unproven in phase {each.variant}: {each.case}: {each.reason}"])
    words = _verdict(port, report, show.verdict(report, time.perf_counter() - began))
    certify(options, port, report, words)
    return report, words


def _compared(port: Ported, phase: str) -> list[Record]:
    """What is found in a phase; it is shown."""
    from caffe_parity.whole import show
    from caffe_parity.whole.overwritten import told_apart

    start = time.perf_counter()
    with PROGRESS.shown():
        PROGRESS.place = f"phase {phase}"
        compared = port.compared(phase)
        found = told_apart(compared, compared.judgements(), port.net, port.cases[phase])
    say(show.lines(compared, found))
    records = show.records(port.net.spec, compared, found, time.perf_counter() - start)
    return [*records, port.saved(compared)]


def _about(port: Ported) -> list[str]:
    """What was written, on which inputs it is compared, and what is missing."""
    said = [f"wrote {port.file}, {port.weights_file.name}"]
    said += [f"  {line}" for line in port.told]
    said += [f"hole: {words}" for words in port.holes.values()]
    return said + [f"to fill them: {how}" for how in [_fills(port)] if how]


def _fills(port: Ported) -> str:
    """The options that fill the holes; "" where there are none of them."""
    layers = {layer.name: layer for net in port.nets.values() for layer in net.layers}
    found = [layers[name] for name in port.holes if not _is_data(layers[name])]
    unknown = {each.type == "Python" for each in found if each.hole}
    options = ["--load LAYER.cpp --proto FORK.proto"] * (False in unknown)
    options += ["--path FOLDER"] * (True in unknown)
    options += dict.fromkeys(f"--layer {_key(each)}=FILE.py:OBJECT" for each in found)
    data = [layers[name] for name in port.holes if _is_data(layers[name])]
    options += [f"--bottom {top}=N,..." for each in data for top in each.tops]
    return " ".join(options)


def _is_data(layer: Declared) -> bool:
    """Whether a layer makes its tops of nothing, so that they can be inputs."""
    return bool(layer.tops) and not layer.bottoms


def _key(layer: Declared) -> str:
    """What --layer says for a layer: a Python layer's class, a type that has no port, or a name."""
    from caffe_parity.ports import PORTS

    if layer.type == "Python":
        return str(layer.said.plain.get("layer") or layer.name)
    return layer.name if layer.type in PORTS else layer.type


def _hole(net: str, name: str, words: str) -> Record:
    return Record(net, "", name, "unproven", f"a hole: {words}", [Finding("hole", words, name)])


def _verdict(port: Ported, report: Report, words: str) -> str:
    """The last line: proved, or what is not."""
    from caffe_parity.whole.ported import NOT_IN

    if port.holes:
        names = ", ".join(port.holes)
        how = [each for each in ("--layer", "--bottom") if f"{each} " in _fills(port)]
        return (
            f"not proved: {len(port.holes)} without a counterpart: {names}; "
            f"{' and '.join(how)} fill{'s' * (len(how) == 1)} them"
        )
    if report.status:
        return f"not proved: {words}"
    left_out = any(each.startswith(NOT_IN) for each in port.told)
    alone = f" in phase {port.phases[0]} alone" if left_out else ""
    return f"proved{alone}{words.removeprefix('agrees')}"
