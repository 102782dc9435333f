"""Plants each fault of `faults.py`, and prints whether `parity net` named the right layers.

Beside it, on the same faults, a search as others do it: the port runs as a whole, and the first
blob that is further from Caffe's than one tolerance names the layer. It sees the forward alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from caffe_parity.caffe.session import SESSION
from caffe_parity.contract import Case, ParityError
from caffe_parity.engine.caffe_net import CaffeNet
from caffe_parity.layer import Layer
from caffe_parity.nets import Declared, located
from caffe_parity.report.record import Record
from caffe_parity.whole import show
from caffe_parity.whole.judged import Comparison, comparison
from studies.localise.edits import Fault
from studies.localise.faults import faults
from studies.localise.ports import DATA, NETS, PORTS


@dataclass(frozen=True)
class Answer:
    """What the tool said of a fault."""

    fault: Fault
    named: frozenset[str]
    passes: frozenset[str]
    words: str
    first: str

    @property
    def right_layers(self) -> bool:
        """Whether it named all of them, and none that is right."""
        return self.named == self.fault.layers

    @property
    def right_words(self) -> bool:
        """Whether it named the cause."""
        return self.fault.words in self.words


@cache
def _net(name: str) -> tuple[CaffeNet, Case]:
    """A net and its inputs."""
    net = located(Declared(str(NETS / f"{name}.prototxt"), False), Path())
    stand_in = Case("", {}, lambda case: {}, lambda case, extra: {})
    shapes = {k: tuple(each) for k, each in net.described(stand_in)["inputs"].items()}
    layer = Layer(name, lambda **inputs: None, shapes, data=DATA.get(name, {}), cases=1)
    return net, layer.case(0)


def compared_with(name: str, model: nn.Module, phase: str) -> tuple[Comparison, list[Record]]:
    """A net beside a port, and what `parity net` says of the two."""
    compared = comparison(*_net(name), model, phase, {}, frozenset({"accuracy"}))
    return compared, show.records(name, compared, compared.judgements(), 0.0)


def answer(fault: Fault) -> Answer:
    """What is said of one fault."""
    torch.manual_seed(0)
    model = PORTS[fault.net]()
    fault.edit(model)
    compared, records = compared_with(fault.net, model, fault.phase)
    wrong = [each for each in records if (each.wrong or each.weak) and each.case != "whole"]
    findings = [one for each in wrong for one in each.findings]
    return Answer(
        fault,
        frozenset(each.case for each in wrong),
        frozenset(each.code for each in findings),
        "\n".join(each.words for each in findings),
        first_beyond(compared),
    )


TOLERANCE = 1e-3
"""Of a blob's largest value, for the search as others do it."""


def first_beyond(compared: Comparison) -> str:
    """The layer of the first blob beyond the tolerance; "" for none."""
    for name, step in compared.net.maker.items():
        caffe, port = compared.net.values[name], compared.whole_run.get(name)
        if port is None:
            continue
        if (
            port.shape != caffe.shape
            or np.abs(port - caffe).max() > TOLERANCE * np.abs(caffe).max()
        ):
            return step.name
    return ""


def main(arguments: list[str] | None = None) -> int:
    """Prints a line for each fault; returns 0 if all were answered rightly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-k", default="", help="only those whose net and name contain this")
    options = parser.parse_args(arguments)
    chosen = [each for each in faults() if options.k in f"{each.net} {each.name}"]
    layers = words = passes = others = 0
    start = time.perf_counter()
    for fault in chosen:
        try:
            said = answer(fault)
        except ParityError as error:
            print(f"error    {fault.net}: {fault.name}: {error}")
            continue
        layers += said.right_layers
        passes += said.right_layers and fault.passes <= said.passes
        words += bool(fault.words) and said.right_layers and said.right_words
        known = {name for each in fault.layers for name in each.split(", ")}
        others += len(fault.layers) == 1 and said.first in known
        mark = "right" if said.right_layers and said.right_words else "WRONG"
        if fault.passes != said.passes:
            mark += f" ({' '.join(sorted(said.passes))} for {' '.join(sorted(fault.passes))})"
        named = "; ".join(sorted(said.named)) or "nothing"
        print(f"{mark:8} {fault.net}: {fault.name}: {named}")
        if "WRONG" in mark:
            print(f"         {said.words[:300]}")
    SESSION.close()
    seconds = time.perf_counter() - start
    print(
        f"{len(chosen)} faults: the right layers {layers}, the right passes {passes}, "
        f"the cause in words {words} of {sum(bool(each.words) for each in chosen)}, "
        f"{seconds:.0f} s; a search with one tolerance: the right layer {others}"
    )
    return 0 if layers == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
