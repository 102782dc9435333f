"""Wrong counterparts: edits of their sources, and fields of a message that are ignored."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np

import caffe_parity.ports.layers as catalogue
from caffe_parity.contract import Expected, Observation, ParityError, Tensors
from caffe_parity.engine.compare import wrong
from caffe_parity.engine.functions import Evaluation, with_params
from caffe_parity.engine.judge import Planned
from caffe_parity.engine.random_rounding import as_inputs
from caffe_parity.ports import PORTS, Call, Port, Said
from studies.layers.corners import CORNERS, FOLDER
from studies.layers.example import Example, function_of, planned, seen
from studies.layers.search import all_fields

SOURCES = Path(catalogue.__file__).parent


@dataclass(frozen=True)
class Mutant:
    """A wrong edit of a file of caffe_parity/ports.

    Attributes:
        types: the layers whose corners must find it.
        file, old, new: what is edited; `old` stands there once.
        bug: what it stands for.
    """

    types: tuple[str, ...]
    file: str
    bug: str
    old: str
    new: str

    def ports(self) -> dict[str, Port]:
        """The catalogue with it.

        Raises:
            ValueError: `old` does not stand there once.
        """
        text = (SOURCES / self.file).read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"{self.old!r} stands {text.count(self.old)} times in {self.file}")
        module = ModuleType(f"caffe_parity.ports.{self.file.removesuffix('.py')}")
        module.__file__ = str(SOURCES / self.file)
        exec(compile(text.replace(self.old, self.new), module.__file__, "exec"), vars(module))  # noqa: S102
        if self.file == "layers.py":
            return {each: module.PORTS[each] for each in self.types}
        return {each: _calling(PORTS[each], module) for each in self.types}


def _calling(port: Port, module: ModuleType) -> Port:
    """The counterpart with the functions of another module in place of those of their names."""
    usual = port.calls
    assert usual is not None

    def calls(said: Said) -> Sequence[Call]:
        return [
            replace(each, function=getattr(module, each.function.__name__, each.function))
            for each in usual(said)
        ]

    return replace(port, calls=calls)


MUTANTS = tuple(
    Mutant(**{**each, "types": tuple(each["types"])})
    for each in tomllib.loads((FOLDER / "mutants.toml").read_text())["mutant"]
)


def deaf(kind: str, field: str) -> dict[str, Port]:
    """The catalogue with a counterpart that ignores a field, such as `pooling_param.pad`."""
    usual = PORTS[kind].calls
    assert usual is not None

    def calls(said: Said) -> Sequence[Call]:
        return usual(said.without(field))

    return {kind: replace(PORTS[kind], calls=calls)}


def heard(kind: str) -> Iterator[str]:
    """The fields that change what a type computes, as its corners set them."""
    silent: set[str] = set()
    for example in CORNERS[kind]:
        said = example.said
        PORTS[kind].of(said)
        silent |= set(said.changing_nothing)
    yield from sorted(all_fields(kind) - silent)


@dataclass(frozen=True)
class _Seen:
    """A corner, and what Caffe made of it."""

    ready: Planned
    caffe: Observation


@cache
def _seen(example: Example) -> _Seen:
    ready, _ = planned(example, PORTS[example.type])
    one = replace(ready, plan=replace(ready.plan, nets=ready.plan.nets[:1]))
    return _Seen(one, seen(one))


def killed(kinds: Sequence[str], ports: Mapping[str, Port]) -> Example | None:
    """The first corner that refuses wrong counterparts; None where all agree with them.

    What Caffe gives must lie beyond the bound of the right counterpart from what the wrong one
    gives in float64, in one element of one tensor.
    """
    corners = (example for kind in kinds for example in CORNERS[kind])
    return next((each for each in corners if _refuses(each, ports[each.type])), None)


def _refuses(example: Example, port: Port) -> bool:
    known = _seen(example)
    plan, asked = known.ready.plan, known.ready.question
    has = [any(each.name.startswith(kind) for each in plan.structure.params) for kind in KINDS]
    try:
        function = function_of(example, port, *has)
        called = with_params(function, plan.structure.params, "port")
        names, wanted = plan.structure.outputs, plan.differentiated
        wrong_one = Evaluation(called, "port", plan.case, names, wanted)
        for each in plan.passes:
            if each.expected is None or each.adds_up:
                continue
            upstream = None if each.upstream is None else as_inputs(each.upstream)
            results = wrong_one(as_inputs(each.inputs), upstream)
            truth = {name: value.numpy() for name, value in results.items()}
            expected = replace(asked.expected[each.expected], truth=truth)
            if _differs(known.caffe.tensors[each.name], expected):
                return True
    except (ParityError, *_RAISED):
        return True
    return False


def _differs(caffe: Tensors, expected: Expected) -> bool:
    for name, bound in expected.bound.worst.items():
        value, truth = caffe[name], expected.truth.get(name)
        if value is None or truth is None or truth.shape != bound.shape:
            return True
        if np.any(wrong(name, value, expected)):
            return True
    return False


KINDS = ("param[", "state[")
_RAISED = (RuntimeError, ValueError, TypeError, IndexError)
