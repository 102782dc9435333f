"""Writes a net as one file of plain PyTorch: a module for each layer, in the net's order."""

from __future__ import annotations

import inspect
import keyword
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

import numpy as np
from torch import nn

from caffe_parity.contract import Shape
from caffe_parity.ports import (
    PORTS,
    Call,
    Refused,
    activations,
    arithmetic,
    convolution,
    modules,
    normalisation,
    shapes,
)
from caffe_parity.ports.catalogue import HOLE
from caffe_parity.whole.declared import BEHIND, Declared, DeclaredNet
from caffe_parity.whole.source import copied

WIDTH = 100
"""Of a line of the file."""

NO_MODULE = ("HDF5Output", "Silence")
"""The types of layers that compute nothing."""


@dataclass(frozen=True)
class Filled:
    """What stands in the place of a layer that the catalogue has no counterpart of.

    Attributes:
        code: the expression that makes the module, or that names a function.
        is_module: whether it makes a module.
        blobs: the names of its parameters, in Caffe's order.
    """

    code: str
    is_module: bool
    blobs: tuple[str, ...] = ()


@dataclass
class Written:
    """The file, and how it belongs to the net.

    Attributes:
        text: of the file.
        modules: by phase and layer, the module that computes it.
        blobs: by "MODULE.PARAMETER", the net's parameter in it, "LAYER[INDEX]".
        holes: by layer, why it has no counterpart.
    """

    text: str = ""
    modules: dict[str, dict[str, str]] = field(default_factory=dict)
    blobs: dict[str, str] = field(default_factory=dict)
    holes: dict[str, str] = field(default_factory=dict)


def written(
    nets: Sequence[DeclaredNet],
    filled: Callable[[Declared], Filled | None],
    head: str,
    weights: str,
) -> Written:
    """Writes the file.

    Args:
        nets: the net in each phase.
        filled: what stands for a layer that the catalogue has no counterpart of; None for a hole.
        head: the first paragraph of the file's docstring.
        weights: the name of the file with its parameters, which lies beside it.
    """
    return _Writer(filled).file(nets, head, weights)


class _Writer:
    def __init__(self, filled: Callable[[Declared], Filled | None]) -> None:
        self.filled = filled
        self.done = Written()
        self.definitions: list[str] = []
        self.used: set[str] = set()
        self.variables: dict[str, str] = {}
        self.names: dict[str, str] = {}  # attribute -> the layer and the code that it was made of
        self.attributes: dict[tuple[str, str], str] = {}
        self.by_mode: set[str] = set()
        self.parameters: dict[tuple[str, int], str] = {}  # of a layer -> "attribute.parameter"
        self.blobs: dict[tuple[str, int], Shape] = {}  # their shapes

    def file(self, nets: Sequence[DeclaredNet], head: str, weights: str) -> Written:
        inputs = {name: each for net in reversed(nets) for name, each in net.inputs.items()}
        self.by_mode = _by_mode(nets)
        for name in inputs:
            self.variable(name)
        bodies = [[self.layer(layer, net.phase) for layer in net.layers] for net in nets]
        body = _merged([net.phase for net in nets], bodies)
        forward = [
            *self.signature(nets, inputs),
            *textwrap.indent(self.about(nets, inputs), "    ").splitlines(),
            *(f"    {line}" for line in [*body, *self.results(nets)]),
        ]
        definitions = [f"    {line}" for each in self.definitions for line in each.splitlines()]
        lines = [
            "class Net(nn.Module):",
            '    """The net: a module for each layer, by the layer\'s name."""',
            "",
            "    def __init__(self) -> None:",
            "        super().__init__()",
            *(f"    {line}" for line in definitions),
            "",
            *(f"    {line}" if line else "" for line in forward),
        ]
        if any(net.losses for net in nets):
            lines += ["", *(f"    {line}" for line in self.total(nets))]
        also = {"Tensor", "nn", "Path"} | ({"torch"} & set(re.findall(r"\w+", "\n".join(lines))))
        imports, functions = copied({*self.used, "read_safetensors"}, also)
        self.done.text = (
            f'"""{head}"""\n\n{imports}\n\n\n{functions}\n\n\n'
            + "\n".join(lines)
            + f"\n\n\n{LOAD.format(weights=weights)}"
        )
        return self.done

    def variable(self, blob: str) -> str:
        """The name of a blob in forward."""
        if blob not in self.variables:
            self.variables[blob] = _unique(_identifier(blob), {*self.variables.values(), "self"})
        return self.variables[blob]

    def layer(self, layer: Declared, phase: str) -> tuple[str, ...]:
        """The lines that compute a layer in forward; its module is defined on the way."""
        bottoms = [self.variable(name) for name in layer.bottoms]
        for position in layer.cut:  # propagate_down: false
            bottoms[position] += ".detach()"
        tops = [self.variable(name) for name in layer.tops]
        if layer.type == "Split":
            return (f"{' = '.join(tops)} = {bottoms[0]}",)
        if layer.hole:
            return self.other(layer, bottoms, tops, layer.hole, phase)
        try:
            calls = PORTS[layer.type].of(layer.said) if layer.type in PORTS else ()
            why = "" if calls else "there is no counterpart of that type"
        except Refused as refusal:
            calls, why = (), str(refusal).partition("): ")[2].removeprefix(f"{HOLE}: ")
        if layer.type in NO_MODULE:
            return ()
        if layer.type == "Dropout" and layer.said.phase != phase:
            why = f"it says of itself that it is of phase {layer.said.phase}, also in phase {phase}"
        why = why or self.reshaped(layer)
        if why or not calls:
            return self.other(layer, bottoms, tops, why, phase)
        lines: list[str] = []
        codes: list[str] = []
        for call in calls:
            if call.function is shapes.constants:
                lines += self.constants(layer, call, tops, phase)
                continue
            code, names = self.made(layer, call)
            codes.append(code)
            suffix = "" if code == codes[0] else f"_{call.function.__name__}"
            attribute = self.attribute(layer, code, names, suffix, phase)
            given = [each for each in call.gives if not each.startswith("blob")]
            left = ", ".join(tops[_number(each)] if each else "_" for each in given)
            if len(given) == 1 and call.function in (shapes.filtered, shapes.slices):
                left = f"({left},)"
            lines += _call(f"{left} = self.{attribute}", _taken(layer, call, bottoms)).splitlines()
        return tuple(lines)

    def reshaped(self, layer: Declared) -> str:
        """Why a layer has no counterpart: a parameter that it shares in another shape."""
        self.blobs |= {(layer.name, index): shape for index, shape in enumerate(layer.blobs)}
        for index, owner in layer.shares.items():
            if self.blobs.get(owner, layer.blobs[index]) != layer.blobs[index]:
                return (
                    f"it shares {owner[0]}[{owner[1]}] {self.blobs[owner]} as "
                    f"{layer.blobs[index]} (share_mode: PERMISSIVE)"
                )
        return ""

    def constants(
        self, layer: Declared, call: Call, tops: Sequence[str], phase: str
    ) -> Iterator[str]:
        """The lines of a DummyData: a buffer for each top."""
        both = zip(call.arguments["shapes"], call.arguments["values"], strict=True)
        for number, (shape, value) in enumerate(both):
            code = f"torch.full({_shape(shape)}, {_literal(float(value))})"
            attribute = self.attribute(layer, code, (), f"_{number}" if number else "", phase)
            yield f"{tops[number]} = self.{attribute}"

    def other(
        self, layer: Declared, bottoms: list[str], tops: list[str], why: str, phase: str
    ) -> tuple[str, ...]:
        """The lines of a layer that the catalogue has no counterpart of."""
        filled = self.filled(layer)
        behind = layer.hole.startswith(BEHIND)
        if behind and filled is None and layer.type == "Python":
            why, behind = f"there is no counterpart of that type; {why}", False
        if layer.hole:  # what Caffe cannot run cannot be compared, whatever is given
            filled = None
        names: tuple[str, ...] = ()
        if filled is None:
            words = _hole(layer, why)
            if not behind:
                self.done.holes[layer.name] = words
            self.used.add("Hole")
            pieces = textwrap.wrap(words, WIDTH - 20, drop_whitespace=False)
            code = f"Hole(\n{''.join(f'    {each!r}{chr(10)}' for each in pieces)})"
        elif filled.is_module:
            self.used.add("from_file")
            code, names = filled.code, filled.blobs
        else:
            self.used |= {"from_file", "Layer"}
            code = f"Layer({filled.code})"
        attribute = self.attribute(layer, code, names, "", phase)
        left = f"{', '.join(tops)} = " if tops else ""
        return tuple(_call(f"{left}self.{attribute}", bottoms).splitlines())

    def made(self, layer: Declared, call: Call) -> tuple[str, tuple[str, ...]]:
        """The expression that makes the module of a call, and its parameters' names."""
        native = NATIVE.get(call.function)
        found = native(layer, call) if native else None
        if found:
            return found
        blobs = _blobs(call)
        if call.function.__name__.startswith("batch_norm"):
            self.used.add("BatchNorm")
            return _batch_norm(layer, layer.name in self.by_mode), ("mean", "variance", "factor")
        self.used |= {"Layer", call.function.__name__}
        parts = [call.function.__name__]
        if blobs:
            sizes = (f'"{name}": {_shape(layer.blobs[i])}' for name, i in blobs.items())
            parts.append(f"{{{', '.join(sizes)}}}")
        parts += _arguments(call)
        return f"Layer({', '.join(parts)})", tuple(blobs)

    def attribute(
        self, layer: Declared, code: str, names: Sequence[str], suffix: str, phase: str
    ) -> str:
        """The name of a module; it is defined where it is new."""
        key = layer.name + suffix, code
        owners = {layer.shares[index][0] for index in range(len(names)) if index in layer.shares}
        same = [(owner, code) for owner in owners if (owner, code) in self.attributes]
        ordered = all(index == place for index, (_, place) in layer.shares.items())
        if len(layer.shares) == len(names) and len(owners) == 1 and same and ordered:
            key = same[0]  # one module that is called again
        if key not in self.attributes:
            wanted = _identifier(layer.name + suffix)
            if wanted in self.names:
                wanted += f"_{phase.lower()}"
            attribute = _unique(wanted, self.names)
            self.names[attribute] = layer.name
            self.attributes[key] = attribute
            if code.startswith("torch."):
                self.definitions.append(
                    _call("self.register_buffer", [f'"{attribute}"', code, "persistent=False"])
                )
            else:
                self.definitions.append(_wrapped(f"self.{attribute} = {code}"))
            self.definitions += self.shared(layer, attribute, names)
        attribute = self.attributes[key]
        if not suffix and not code.startswith("torch."):
            self.done.modules.setdefault(phase, {}).setdefault(layer.name, attribute)
        return attribute

    def shared(self, layer: Declared, attribute: str, names: Sequence[str]) -> list[str]:
        """The lines that let a module share its parameters, or that freeze them."""
        lines = []
        for index, name in enumerate(names):
            owner = self.parameters.get(layer.shares.get(index, (layer.name, index)))
            own = f"{attribute}.{name}"
            if owner:
                lines.append(f"self.{own} = self.{owner}")
                self.done.blobs[own] = self.done.blobs[owner]
            else:
                self.parameters[layer.name, index] = own
                self.done.blobs[own] = f"{layer.name}[{index}]"
                if index in layer.frozen and layer.type != "BatchNorm":
                    lines.append(f"self.{own}.requires_grad_(False)  # lr_mult: 0")
        return lines

    def signature(self, nets: Sequence[DeclaredNet], inputs: Mapping[str, Shape]) -> list[str]:
        """The first lines of forward: an input that not every phase has may be None."""
        needed = [name for name in inputs if all(name in net.inputs for net in nets)]
        rest = [name for name in inputs if name not in needed]
        arguments = ["self", *(f"{self.variable(name)}: Tensor" for name in needed)]
        arguments += [f"{self.variable(name)}: Tensor | None = None" for name in rest]
        return _call("def forward", arguments, tail=" -> dict[str, Tensor]:").splitlines()

    def about(self, nets: Sequence[DeclaredNet], inputs: Mapping[str, Shape]) -> str:
        """The docstring of forward."""
        only = {
            name: f", in phase {net.phase} alone"
            for name in inputs
            for net in nets
            if not all(name in each.inputs for each in nets) and name in net.inputs
        }
        lines = ['"""The blobs that no layer reads, by name.', "", "Args:"]
        for name, shape in inputs.items():
            said = f"blob {name!r}, " if self.variable(name) != name else ""
            lines.append(f"    {self.variable(name)}: {said}{shape}{only.get(name, '')}.")
        return "\n".join([*lines, '"""'])

    def results(self, nets: Sequence[DeclaredNet]) -> list[str]:
        """The lines that return the outputs."""
        returned = []
        for net in nets:
            names = dict.fromkeys([*net.outputs, *net.losses])
            pairs = [f"{_quoted(name)}: {self.variable(name)}" for name in names]
            returned.append(_call("return ", pairs, "{}"))
        if len(set(returned)) == 1:
            return returned[0].splitlines()
        first = textwrap.indent(returned[0], "    ").splitlines()
        return [f"if {_condition(nets[0].phase)}:", *first, *returned[1].splitlines()]

    def total(self, nets: Sequence[DeclaredNet]) -> list[str]:
        """The lines of the function that adds the losses up."""
        sums = []
        for net in nets:
            terms = []
            for name, weight in net.losses.items():
                term = f"tops[{_quoted(name)}].sum()"
                terms.append(term if weight == 1 else f"{_literal(weight)} * {term}")
            sums.append(_sum(terms))
        first, *others = dict.fromkeys(sums)
        lines = ["def total(self, tops: dict[str, Tensor]) -> Tensor:"]
        lines.append('    """What a solver minimises: the losses, each with its loss_weight."""')
        if others:
            lines.append(f"    if {_condition(nets[0].phase)}:")
            lines += textwrap.indent(f"return {first}", "        ").splitlines()
            first = others[0]
        return [*lines, *textwrap.indent(f"return {first}", "    ").splitlines()]


LOAD = '''\
def load(file: str | Path = Path(__file__).parent / "{weights}") -> Net:
    """The net with its parameters."""
    net = Net()
    net.load_state_dict(read_safetensors(file))
    return net
'''


def _hole(layer: Declared, why: str) -> str:
    """What is said of a layer without a counterpart: its shapes and parameters among it."""
    read = [
        f"{name} {shape}" if shape else name
        for name, shape in zip(layer.bottoms, layer.said.bottoms, strict=True)
    ]
    parts = [f"layer {layer.name!r} ({layer.type}): {why}"]
    parts += [f"it reads {', '.join(read)}"] * bool(read)
    parts += [f"its parameters are {', '.join(map(str, layer.blobs))}"] * bool(layer.blobs)
    return "; ".join([*parts, *[layer.about] * bool(layer.about)])


def _sum(terms: Sequence[str]) -> str:
    line = " + ".join(terms) or "torch.zeros(())"
    if len(line) < WIDTH - 20:
        return line
    return "(\n    " + "\n    + ".join(terms) + "\n)"


def _condition(phase: str) -> str:
    return "self.training" if phase == "TRAIN" else "not self.training"


def _merged(phases: Sequence[str], bodies: Sequence[Sequence[tuple[str, ...]]]) -> list[str]:
    """The lines of both phases, those of one alone under a condition."""
    first, *others = bodies
    if not others:
        return [line for lines in first for line in lines]
    (second,) = others
    found: list[str] = []
    pieces = SequenceMatcher(None, first, second, autojunk=False).get_opcodes()
    for same, start, end, begin, stop in pieces:
        one = [line for lines in first[start:end] for line in lines]
        other = [line for lines in second[begin:stop] for line in lines]
        if same == "equal":
            found += one
            continue
        if one:
            found += [f"if {_condition(phases[0])}:", *(f"    {line}" for line in one)]
        if other:
            head = "else" if one else f"if {_condition(phases[1])}"
            found += [f"{head}:", *(f"    {line}" for line in other)]
    return found


def _number(name: str) -> int:
    """Of "bottom[1]", 1."""
    return int(name.partition("[")[2].rstrip("]"))


def _identifier(name: str) -> str:
    plain = re.sub(r"\W", "_", name, flags=re.ASCII) or "_"
    plain = plain if not plain[0].isdigit() else f"_{plain}"
    if plain.startswith("__"):  # Python gives such a name the class's in front
        plain = f"x{plain}"
    if keyword.iskeyword(plain) or hasattr(nn.Module, plain) or plain in RESERVED:
        plain += "_"
    return plain


RESERVED = ("total", "torch", "nn", "Tensor", *vars(nn.Module()))
"""Names that an attribute of the net cannot have."""


def _unique(wanted: str, taken: Any) -> str:
    name, number = wanted, 2
    while name in taken:
        name, number = f"{wanted}_{number}", number + 1
    return name


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _literal(value: Any) -> str:
    if isinstance(value, float):
        if not np.isfinite(value):
            return f'float("{value}")'
        short = float(str(np.float32(value)))
        return repr(short if np.float32(short) == np.float32(value) else value)
    if isinstance(value, tuple):
        inner = ", ".join(_literal(each) for each in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return _quoted(value) if isinstance(value, str) else repr(value)


def _shape(shape: Shape) -> str:
    return _literal(tuple(int(each) for each in shape))


def _arguments(call: Call) -> list[str]:
    """The plain values of a call that are not the function's own defaults."""
    known = inspect.signature(call.function).parameters
    return [
        f"{name}={_literal(value)}"
        for name, value in call.arguments.items()
        if name not in known or known[name].default != value
    ]


def _blobs(call: Call) -> dict[str, int]:
    """The names that a function has for a layer's parameters, with their numbers."""
    positional = list(inspect.signature(call.function).parameters)
    pairs = [*zip(positional, call.tensors, strict=False), *call.named.items()]
    found = {name: _number(each) for name, each in pairs if each.startswith("blob")}
    return dict(sorted(found.items(), key=lambda each: each[1]))


def _taken(layer: Declared, call: Call, bottoms: Sequence[str]) -> list[str]:
    """What a call takes in forward."""
    taken = [bottoms[_number(each)] for each in call.tensors if each.startswith("bottom")]
    if call.function is arithmetic.inner_product and not call.arguments["transpose"]:
        axis = call.arguments["axis"]
        if len(layer.said.bottoms[0]) != axis + 1:
            taken[0] += f".flatten({axis})"
    return taken + [
        f"{name}={bottoms[_number(each)]}"
        for name, each in call.named.items()
        if each.startswith("bottom")
    ]


def _call(head: str, arguments: Sequence[str], brackets: str = "()", tail: str = "") -> str:
    """A call on one line, or with its arguments on lines of their own."""
    opening, closing = brackets[0], brackets[1]
    line = f"{head}{opening}{', '.join(arguments)}{closing}{tail}"
    if len(line) <= WIDTH - 12:
        return line
    inner = "\n".join(f"    {each}," for each in arguments)
    return f"{head}{opening}\n{inner}\n{closing}{tail}"


def _wrapped(line: str) -> str:
    """A statement, wrapped behind its first bracket where it is too long."""
    if len(line) <= WIDTH - 8 or "Hole(" in line or "from_file(" in line:
        return line
    head, _, rest = line.partition("(")
    inner = textwrap.fill(
        rest[:-1],
        WIDTH - 12,
        initial_indent="    ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return f"{head}(\n{inner}\n)"


# What PyTorch has a module for, which computes the same.

Native = Callable[[Declared, Call], tuple[str, tuple[str, ...]] | None]


def _relu(layer: Declared, call: Call) -> tuple[str, tuple[str, ...]]:
    slope = call.arguments["negative_slope"]
    return (f"nn.LeakyReLU({_literal(slope)})" if slope else "nn.ReLU()"), ()


def _dropout(layer: Declared, call: Call) -> tuple[str, tuple[str, ...]]:
    ratio = layer.said.message("dropout_param")["dropout_ratio"]
    return f"nn.Dropout({_literal(ratio)})", ()


def _softmax(layer: Declared, call: Call) -> tuple[str, tuple[str, ...]]:
    return f"nn.Softmax(dim={call.arguments['axis']})", ()


def _lrn(layer: Declared, call: Call) -> tuple[str, tuple[str, ...]]:
    size, *rest = (call.arguments[name] for name in ("size", "alpha", "beta", "k"))
    alpha, beta, k = map(_literal, rest)
    return f"nn.LocalResponseNorm({size}, alpha={alpha}, beta={beta}, k={k})", ()


def _linear(layer: Declared, call: Call) -> tuple[str, tuple[str, ...]] | None:
    if call.arguments["transpose"]:
        return None
    out, into = layer.blobs[0]
    named = ("weight", "bias")[: len(layer.blobs)]
    return f"nn.Linear({into}, {out}{'' if len(named) == 2 else ', bias=False'})", named


def _convolution(transposed: bool) -> Native:
    def code(layer: Declared, call: Call) -> tuple[str, tuple[str, ...]] | None:
        said = call.arguments
        count = len(said["stride"])
        if said["axis"] != 1 or not 1 <= count <= 3 or len(layer.said.bottoms[0]) != count + 2:
            return None
        first, second, *kernel = layer.blobs[0]
        group = said["group"]
        into, out = (first, second * group) if transposed else (second * group, first)
        parts = [str(into), str(out), _several(kernel)]
        parts += [
            f"{name}={_several(said[field])}"
            for name, field, usual in (
                ("stride", "stride", 1),
                ("padding", "pad", 0),
                ("dilation", "dilation", 1),
            )
            if any(each != usual for each in said[field])
        ]
        parts += [f"groups={group}"] if group != 1 else []
        parts += ["bias=False"] if len(layer.blobs) == 1 else []
        kind = f"Conv{'Transpose' if transposed else ''}{count}d"
        return f"nn.{kind}({', '.join(parts)})", ("weight", "bias")[: len(layer.blobs)]

    return code


def _several(values: Sequence[int]) -> str:
    """One number for all axes, or a tuple."""
    return str(values[0]) if len(set(values)) == 1 else _literal(tuple(values))


def _by_mode(nets: Sequence[DeclaredNet]) -> set[str]:
    """The BatchNorms that say of each phase what they would do if they said nothing."""
    found: dict[str, list[bool]] = {}
    for net in nets:
        for layer in net.layers:
            if layer.type == "BatchNorm":
                said = layer.said.message("batch_norm_param").said("use_global_stats")
                found.setdefault(layer.name, []).append(said in (None, net.phase == "TEST"))
    return {name for name, usual in found.items() if len(usual) == len(nets) > 1 and all(usual)}


def _batch_norm(layer: Declared, by_mode: bool) -> str:
    message = layer.said.message("batch_norm_param")
    usual = inspect.signature(modules.BatchNorm.__init__).parameters
    parts = [str(layer.blobs[0][0])]
    for name in ("eps", "moving_average_fraction"):
        if np.float32(message[name]) != np.float32(usual[name].default):
            parts.append(f"{name}={_literal(message[name])}")
    if "use_global_stats" in message and not by_mode:
        parts.append(f"use_global_stats={message['use_global_stats']}")
    return f"BatchNorm({', '.join(parts)})"


NATIVE: Mapping[Callable[..., Any], Native] = {
    activations.relu: _relu,
    activations.dropout: _dropout,
    arithmetic.inner_product: _linear,
    convolution.convolution: _convolution(False),
    convolution.deconvolution: _convolution(True),
    normalisation.lrn: _lrn,
    normalisation.softmax: _softmax,
}
"""By function of the catalogue, the module of PyTorch's that does the same."""
