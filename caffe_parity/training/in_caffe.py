"""Trains a net with Caffe's own solver, and reads the parameters after each step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from caffe_parity.caffe.client import Op
from caffe_parity.caffe.session import SESSION
from caffe_parity.contract import Arrays, BadRequest, Shape
from caffe_parity.training.recipe import LOSS, Trajectory


@dataclass(frozen=True)
class CaffeTraining:
    """A net and the solver that trains it.

    Attributes:
        net: prototxt text with Input layers, learned layers and at least one loss.
        solver: text of a SolverParameter, of type SGD or Nesterov. What it says of nets, tests,
            snapshots and output is left out.
        path: folders with the net's Python layers.
        libraries: compiled layers to load.
        edits: what the worker calls edits of a net (docs/worker.md); the shapes of the inputs
            are those of the first batch.
    """

    net: str
    solver: str
    path: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    edits: Mapping[str, Any] = field(default_factory=dict)


def initial_parameters(training: CaffeTraining, batch: Arrays) -> Arrays:
    """What the net's fillers make of the parameters that the solver learns, by name.

    A filler is random: with `random_seed` in the solver's text it gives the same numbers each time.

    Args:
        training: the net and its solver.
        batch: inputs, of which only the shapes matter.

    Raises:
        CaffeError: the net or the solver cannot be built.
        NoCaffe, InstallError: there is no Caffe.
    """
    ops = _ops(training, batch)
    caffe = SESSION.running(training.path)
    learned = caffe.request(ops)[-1]["learned"]
    reads: list[Op] = [{"op": "param", "layer": layer, "index": i} for layer, i in learned]
    replies = caffe.request([*ops, *reads])[len(ops) :]
    names = [f"{layer}[{index}]" for layer, index in learned]
    return {name: reply["array"] for name, reply in zip(names, replies, strict=True)}


def train_in_caffe(
    training: CaffeTraining, initial: Arrays, batches: Sequence[Arrays]
) -> Trajectory:
    """Takes one step for each batch.

    Args:
        training: the net and its solver.
        initial: the parameters to begin with; those that do not learn may keep their fillers'.
        batches: the inputs of each step; another shape than in the step before reshapes the net.

    Raises:
        BadRequest: a batch lacks an input, or the solver learns a parameter that is not in
            `initial`.
        CaffeError: the net or the solver cannot be built, a layer raised, or the process died.
        NoCaffe, InstallError: there is no Caffe.
    """
    ops = _ops(training, batches[0])
    caffe = SESSION.running(training.path)
    _check(caffe.request(ops)[-1], initial, batches)
    places = {name: _place(name) for name in initial}
    ops += [{"op": "set_param", **places[name], "array": each} for name, each in initial.items()]
    shapes = _shapes(batches[0])
    for batch in batches:
        if _shapes(batch) != shapes:
            shapes = _shapes(batch)
            ops += [{"op": "reshape", "shapes": shapes}]
        ops += [{"op": "set", "blob": name, "array": each} for name, each in batch.items()]
        ops += [{"op": "step"}, {"op": "total"}]
        ops += [{"op": "param", **place} for place in places.values()]
    arrays = [reply["array"] for reply in caffe.request(ops) if "array" in reply]
    names = [LOSS, *initial]
    each = len(names)
    return [
        dict(zip(names, arrays[start : start + each], strict=True))
        for start in range(0, len(arrays), each)
    ]


def _ops(training: CaffeTraining, batch: Arrays) -> list[Op]:
    load: list[Op] = [{"op": "load", "library": each} for each in training.libraries]
    return [
        *load,
        {
            "op": "solver",
            "solver": training.solver,
            "text": training.net,
            "path": training.path,
            "edits": {**training.edits, "shapes": _shapes(batch)},
        },
    ]


def _shapes(batch: Arrays) -> dict[str, Shape]:
    return {name: array.shape for name, array in batch.items()}


def _place(name: str) -> Op:
    """The layer and the index of a parameter's name.

    Raises:
        BadRequest: it is not LAYER[INDEX].
    """
    layer, bracket, index = name.rpartition("[")
    if not bracket or index[-1:] != "]" or not index[:-1].isdecimal():
        raise BadRequest(f"parameter {name!r}: expected LAYER[INDEX], such as ip1[0]")
    return {"layer": layer, "index": int(index[:-1])}


def _check(built: Op, initial: Arrays, batches: Sequence[Arrays]) -> None:
    """Whether all inputs are given, and all parameters that Caffe learns.

    Raises:
        BadRequest: one is missing, or an array is not float32.
    """
    inputs = sorted(built["inputs"])
    for number, batch in enumerate(batches, 1):
        if sorted(batch) != inputs:
            given = ", ".join(batch) or "nothing"
            raise BadRequest(f"batch {number} has {given}; the net's inputs: {', '.join(inputs)}")
    learned = [f"{layer}[{index}]" for layer, index in built["learned"]]
    missing = [name for name in learned if name not in initial]
    if missing:
        raise BadRequest(
            f"Caffe's solver learns {', '.join(missing)}, which the initial parameters lack: give "
            "them there and take them in the reference, or write param { lr_mult: 0 } in the net"
        )
    for name, array in [*initial.items(), *(pair for batch in batches for pair in batch.items())]:
        if array.dtype != np.float32:
            raise BadRequest(f"{name} is {array.dtype}; Caffe holds float32: convert it first")
