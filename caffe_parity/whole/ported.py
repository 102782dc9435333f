"""A net, the file of PyTorch that is written of it, and the two side by side."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from caffe_parity.caffe.client import Op
from caffe_parity.cli.request import (
    FEW,
    Request,
    how_to_feed,
    net_of,
    read_mean,
    stand_in,
    with_bottoms,
)
from caffe_parity.contract import BadRequest, Case, Shape, VariantFailure
from caffe_parity.engine.caffe_net import CaffeNet
from caffe_parity.engine.data import load
from caffe_parity.engine.functions import place_of
from caffe_parity.layer import Layer
from caffe_parity.report.record import Record
from caffe_parity.whole.declared import DeclaredNet, declared
from caffe_parity.whole.filling import Filling
from caffe_parity.whole.judged import Comparison, comparison
from caffe_parity.whole.matching import plain
from caffe_parity.whole.prototxt import Unknown, entries, stages_of, unknown
from caffe_parity.whole.written import Written, written

PHASES = ("TEST", "TRAIN")


@dataclass(eq=False)
class Ported:
    """A net and its port.

    Attributes:
        net: the net, in Caffe.
        file, weights_file: what was written.
        nets: by phase, what the net is.
        cases: by phase, the inputs on which it is compared.
        written: the port.
        filling: of layers that the catalogue has not.
        told: what a person should know.
    """

    net: CaffeNet
    file: Path
    weights_file: Path
    nets: Mapping[str, DeclaredNet]
    cases: Mapping[str, Case]
    written: Written
    filling: Filling
    told: Sequence[str] = ()

    @property
    def phases(self) -> list[str]:
        """Those that the net has."""
        return list(self.nets)

    @property
    def python_files(self) -> list[Path]:
        """The files of the net's own Python layers."""
        modules = self.net.described(self.cases[self.phases[0]], self.phases[0])["modules"]
        found = [
            next(
                (
                    file
                    for file in (Path(folder) / f"{each}.py" for folder in self.net.path)
                    if file.is_file()
                ),
                None,
            )
            for each in dict.fromkeys(modules)
        ]
        return [each for each in found if each]

    @property
    def holes(self) -> Mapping[str, str]:
        """By layer, why it has no counterpart."""
        return self.written.holes

    def model(self) -> Any:
        """The port with its parameters, from its files.

        Raises:
            BadRequest: it cannot be imported.
        """
        name = f"parity_port_{self.file.stem}"
        spec = importlib.util.spec_from_file_location(name, self.file)
        if spec is None or spec.loader is None:
            raise BadRequest(f"{self.file} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
            return module.load()
        except Exception as error:  # of what --layer gives
            words = f"{place_of(error)}{type(error).__name__}: {error}"
            raise BadRequest(f"{self.file} cannot be loaded: {words}") from error

    def compared(self, phase: str) -> Comparison:
        """The net beside the port in a phase.

        Raises:
            VariantFailure: Caffe crashed, hung, or a layer raised.
            BadRequest: the port raises.
        """
        modules = self.written.modules.get(phase, {})
        called = list(modules.values())
        asked = {
            name: module
            for name, module in modules.items()
            if plain(name) != module.lower() or called.count(module) > 1
        }
        return comparison(self.net, self.cases[phase], self.model(), phase, asked)

    def saved(self, compared: Comparison) -> Record:
        """Whether the parameters that were saved are the net's.

        Args:
            compared: the net in a phase.
        """
        model = self.model()
        state: Mapping[str, torch.Tensor] = model.state_dict()
        values = self.nets[compared.net.phase].params
        other = [
            f"{name} is not {param}"
            for name, param in self.written.blobs.items()
            if param in values
            if not np.array_equal(state[name].numpy(), values[param], equal_nan=True)
        ]
        verdict = "fail" if other else "pass"
        name = self.weights_file.name
        return Record(self.net.spec, compared.net.phase, name, verdict, "; ".join(other))


def ported(request: Request, layers: Mapping[str, str], output: Path, scratch: Path) -> Ported:
    """Writes the port of a net.

    Args:
        request: the net, its weights and its inputs.
        layers: by type or name of layers, FILE.py:OBJECT that computes them.
        output: the file to write.
        scratch: an empty folder.

    Raises:
        BadRequest: the net cannot be built, or its inputs are not known.
        VariantFailure, NoCaffe, InstallError: Caffe crashed, or is not there.
    """
    net = net_of(request, scratch)
    [reply] = net.request([{"op": "fields"}])
    messages = reply["messages"]
    filling = Filling(layers, output.parent)
    told: list[str] = []
    try:
        nets, cases, small, odd, net = _nets(request, net, messages, told, "")
    except (BadRequest, VariantFailure) as error:
        if NO_MODULE not in str(error):
            raise
        told.clear()
        words = "its module, or another Python layer's, is not there for Caffe (--path FOLDER)"
        nets, cases, small, odd, net = _nets(request, net, messages, told, words)
    weights_file = output.with_suffix(".safetensors")
    named = re.sub(r"[^\w./+-]", "_", Path(request.net).name)
    head = (
        f"The net of {named}.\n\nWritten by `parity port`; what was compared with Caffe "
        f"stands in\n{output.stem}.parity.json.\n"
    )
    made = written([*nets.values()], filling, head, weights_file.name)
    filling.must_be_used()
    other = {phase: case for phase, case in small.items() if case.shapes != cases[phase].shapes}
    if other and not made.holes:
        cases |= _as_well(net, nets, small, messages, odd, filling, head, weights_file.name, made)
    for phase, case in cases.items() if not made.holes else ():
        fed = " ".join(f"{k}={','.join(map(str, each))}" for k, each in case.shapes.items())
        told.append(f"compared in phase {phase} on {fed}")
    output.write_text(made.text, encoding="utf-8")
    values = {k: each for one in nets.values() for k, each in one.params.items()}
    count = sum(each.size for each in values.values())
    if count > MANY and not made.holes:
        told.append(f"{count:,} parameters: comparing them takes about {count * EACH / 1e9:.0f} GB")
    held = {name: np.ascontiguousarray(values[each]) for name, each in made.blobs.items()}
    save_file(held, weights_file)
    return Ported(net, output, weights_file, nets, cases, made, filling, told)


Nets = tuple[dict[str, DeclaredNet], dict[str, Case], dict[str, Case], Unknown, CaffeNet]


def _nets(
    request: Request,
    net: CaffeNet,
    messages: Mapping[str, Any],
    told: list[str],
    missing: str,
) -> Nets:
    """By phase the net, its inputs and the same with few samples; what this Caffe does not know.

    Args:
        request: what is asked.
        net: the net.
        messages: the fields of every message.
        told: gets what a person should know.
        missing: why its Python layers are holes: Caffe cannot import them; "" where it can.

    Raises:
        BadRequest, VariantFailure: the net cannot be built in any phase.
    """
    nets: dict[str, DeclaredNet] = {}
    cases: dict[str, Case] = {}
    small: dict[str, Case] = {}
    odd = Unknown()
    case = stand_in(request)
    if not request.proto:
        loads: list[Op] = [{"op": "load", "library": each} for each in net.loaded(case)]
        loaded = net.request(loads) if loads else []
        types = [*net.caffe.start()["layers"], *net.made.types]
        types += [kind for each in loaded for kind in each["types"]]
        odd = unknown(net.prototxt(case), messages, types, missing, bool(request.weights))
        net = replace(net, text=lambda _: odd.text)
    refusals: list[Exception] = []
    for phase in PHASES:
        shapes = _shapes(request, net, phase, told, odd)
        if shapes is None:
            continue
        first = _case(request, shapes, {})
        try:
            known = {name: each for one in nets.values() for name, each in one.params.items()}
            nets[phase] = declared(net, first, phase, messages, odd).sharing(known)
        except (BadRequest, VariantFailure) as error:
            if getattr(error, "verdict", "") == "hang":
                raise  # it may be built, given more time
            stages = stages_of(net.prototxt(case))
            if "Unknown bottom blob" in str(error) and stages and not request.stages:
                names = ", ".join(stages)
                words = f"--stage says one of the stages that rules name: {names}"
                error = BadRequest(f"{error}; {words}")
            if "Unknown bottom blob" not in str(error) and not request.bottoms:
                assumed = [each for each in told if each.endswith(OTHERS)]
                raise BadRequest("; ".join([str(error), *assumed])) from error
            refusals.append(error)
            told.append(f"{NOT_IN} {phase}, in which Caffe cannot build it: {error}")
            continue
        kinds = nets[phase].kinds
        words = f"not in {request.weights}, so as their fillers: {', '.join(nets[phase].filled)}"
        if nets[phase].filled and words not in told:
            told.append(words)
        cases[phase] = _case(request, shapes, kinds)
        small[phase] = _case(request, _few(request, shapes), kinds)
    if refusals and not nets:
        raise refusals[0]
    if not any(each.layers for each in nets.values()):
        raise BadRequest(f"{request.net}: it has no layer that computes, so nothing can be ported")
    return nets, cases, small, odd, net


def _as_well(
    net: CaffeNet,
    large: Mapping[str, DeclaredNet],
    small: Mapping[str, Case],
    messages: Mapping[str, Any],
    odd: Unknown,
    filling: Filling,
    head: str,
    weights: str,
    made: Written,
) -> Mapping[str, Case]:
    """The cases of few samples, where Caffe takes them and the port of them is the same file."""
    try:
        nets = [declared(net, case, phase, messages, odd) for phase, case in small.items()]
    except (BadRequest, VariantFailure):
        return {}
    if any(each.kinds != large[each.phase].kinds for each in nets):  # indices of samples
        return {}
    again = written(nets, filling, head, weights)
    return small if _but_shapes(again.text) == _but_shapes(made.text) else {}


def _but_shapes(text: str) -> list[str]:
    """The lines of a port but those of its docstring that tell the inputs' shapes."""
    return [line for line in text.splitlines() if not line.endswith(").")]


def _shapes(
    request: Request, net: CaffeNet, phase: str, told: list[str], odd: Unknown
) -> dict[str, Shape] | None:
    """The shapes of the inputs in a phase; None where nothing computes in it.

    Raises:
        BadRequest: they are not known.
    """
    case = stand_in(request)
    try:
        found = net.described(case, phase)
    except BadRequest as error:
        if "has no layer in phase" in str(error):
            return None
        raise
    if found["phase"] != phase:
        return None
    shapes: dict[str, Shape] = {name: tuple(each) for name, each in found["inputs"].items()}
    bottoms = dict(request.bottoms)
    together = found["together"].values()
    shapes = with_bottoms(shapes, {k: v for k, v in bottoms.items() if k in shapes}, together)
    for name, shape in shapes.items():
        if not shape and name not in found["unshaped"] and not request.inputs:
            raise BadRequest(f"{request.net}: the input {name} has no shape: --bottom {name}=N,...")
    unshaped = {name: each for name, each in found["unshaped"].items() if name not in bottoms}
    for name, (layer, _, batch) in [*unshaped.items()]:
        sample, why = _assumed(odd.about.get(layer, ""), net)
        if batch and sample:
            shapes[name] = (batch, *sample)
            told.append(f"{name} {shapes[name]}: {why}{OTHERS}")
            del unshaped[name]
    if unshaped and not request.inputs:
        holes = [f"layer {k!r} ({odd.kinds[k]}): {why}" for k, why in odd.holes.items()]
        holes = ["there will be holes, too", *holes] if holes else []
        raise BadRequest("; ".join([how_to_feed(request.net, unshaped), *holes]))
    return shapes


NOT_IN = "not in phase"
"""How what is told of a phase that is left out begins."""

OTHERS = "; --bottom says other ones"
"""How what is told of an assumed shape ends."""

MANY, EACH = 30_000_000, 85
"""Parameters of which it is told what they take, and the bytes for each that VGG-16 took."""


def with_assumed(request: Request, net: CaffeNet) -> tuple[Request, list[str]]:
    """A request with the shapes that are assumed where only a file says them; what is told of it.

    Raises:
        BadRequest, VariantFailure: the net cannot be read.
    """
    case = stand_in(request)
    unshaped = {} if request.inputs else net.described(case)["unshaped"]
    text = net.prototxt(case) if unshaped else ""
    about = {each.said("name"): str(each) for each in entries(text)}
    bottoms, told = dict(request.bottoms), []
    for name, (layer, _, batch) in unshaped.items():
        sample, why = _assumed(about.get(layer, ""), net)
        if name not in bottoms and batch and sample:
            bottoms[name] = (min(FEW, batch), *sample)
            told.append(f"{name} {bottoms[name]}: {why}{OTHERS}")
    return replace(request, bottoms=tuple(bottoms.items())), told


DATASETS = {"mnist_siamese": (2, 28, 28), "mnist": (1, 28, 28), "cifar": (3, 32, 32)}
"""By what a source is called, the shape of a sample of Caffe's own examples."""


def _assumed(about: str, net: CaffeNet) -> tuple[Shape, str]:
    """The shape of a sample where only a file says it, and why; () where nothing hints at one.

    Args:
        about: what a data layer says of itself.
        net: its net, which reads a mean file.
    """
    crop, mean = re.search(r"\bcrop_size: (\d+)", about), re.search(r'\bmean_file: "(.*?)"', about)
    sides = (int(crop[1]),) * 2 if crop else ()
    if mean and Path(mean[1]).is_file():
        channels, *whole = read_mean(net, mean[1]).shape[-3:]
        return (channels, *(sides or whole)), f"as its mean, {mean[1]}"
    source = re.search(r'\bsource: "(.*?)"', about)
    for name, (channels, *whole) in DATASETS.items():
        if source and name in source[1].lower():
            return (channels, *(sides or whole)), f"as samples of {name} are"
    gray = "force_gray: true" in about
    return ((1 if gray else 3, *sides), "3 channels are assumed") if sides else ((), "")


NO_MODULE = "the module is not there for Caffe's Python"


def _few(request: Request, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The same inputs with few samples, where the net says how many and the user does not."""
    first = next(iter(shapes.values()), ())
    fixed = {name for name, _ in request.bottoms}
    if request.inputs or fixed or not first:
        return dict(shapes)
    return {
        name: (min(FEW, first[0]), *each[1:]) if each[:1] == first[:1] else each
        for name, each in shapes.items()
    }


def _case(request: Request, shapes: Mapping[str, Shape], kinds: Mapping[str, str]) -> Case:
    said = {name: kind for name, kind in request.data if name in shapes}
    layer = Layer(
        request.net,
        reference=lambda **inputs: None,
        inputs=shapes,
        data={**{k: each for k, each in kinds.items() if k in shapes}, **said},
        seed=request.seed,
        cases=1,
    )
    if request.inputs:
        given = load(request.inputs, shapes, False)
        layer = replace(layer, inputs={name: given[name].shape for name in shapes})
        layer = layer.with_inputs(request.inputs, given)
    (case,) = layer.all_cases()
    return case
