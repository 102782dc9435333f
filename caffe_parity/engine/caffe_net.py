"""Carries out a plan on a net in a real Caffe."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from caffe_parity.caffe.check_failures import NO_GRADIENT, meaning, without_check
from caffe_parity.caffe.client import (
    Caffe,
    CaffeCrash,
    CaffeError,
    CaffeHang,
    LayerError,
    NetError,
    Op,
    RequestError,
)
from caffe_parity.caffe.crash_site import located
from caffe_parity.caffe.layer_errors import (
    NO_BACKWARD,
    NO_FORWARD,
    NO_MODULE,
    NOT_IMPLEMENTED,
    hint,
    theirs,
    told,
    where,
)
from caffe_parity.caffe.session import SESSION
from caffe_parity.caffe.sources import Made, Sources
from caffe_parity.contract import (
    GRADIENT,
    PARAM,
    STATE,
    TOTAL,
    BadRequest,
    Case,
    Expectation,
    Floating,
    Observation,
    Outline,
    Parameter,
    ParityError,
    Pass,
    Plan,
    Tensors,
    VariantFailure,
    is_state,
)
from caffe_parity.engine.data import label_advice, labels_among
from caffe_parity.engine.plan import AGAIN, FIRST, ONE, OTHER, reshapes

STATISTICS = ("mean", "variance", "factor")
"""What the blobs of a BatchNorm are: sums of means and variances, and what they are divided by."""


class _Unfit(BadRequest):
    """An array does not fit the blob that it is for; of a diff, the reference's top is another."""


Libraries = Callable[[Caffe], Sequence[str]]
"""Makes the paths of the compiled layers that a net needs in that Caffe."""


@dataclass(frozen=True)
class CaffeNet:
    """A net in a real Caffe; implements `contract.Variant`.

    Attributes:
        text: makes the prototxt text for a case; its inputs are named like the case's.
        spec: what the user called it.
        path: folders with its Python layers.
        libraries: makes the paths of the compiled layers to load.
        claims: what it claims about a case that it does not simply compute.
        bare: whether it is a layer alone, around which nobody wrote a net.
        with_tops: of a layer alone, whose tops only the reference tells: makes the text with them.
        weights: the path of a .caffemodel whose parameters the net gets; "" for none.
        sources: compiled layers as the user named them, made when they are wanted.
    """

    text: Callable[[Case], str]
    spec: str = ""
    path: tuple[str, ...] = ()
    libraries: Libraries = lambda caffe: ()
    claims: Callable[[Case], Expectation | None] = lambda case: None
    bare: bool = False
    with_tops: Callable[[Sequence[str]], Callable[[Case], str]] | None = None
    weights: str = ""
    sources: Sources | None = None

    @property
    def made(self) -> Made:
        """What became of the compiled layers; raises as `Sources.made` does."""
        return self.sources.made if self.sources else Made()

    @property
    def caffe(self) -> Caffe:
        """The Caffe that it runs in: the usual one, or one that was built with the layers."""
        return SESSION.running(self.path, self.made.drop_in)

    def prototxt(self, case: Case) -> str:
        """The text for a case as its Caffe can read it."""
        text, schema = self.text(case), self.made.schema
        text = upgraded(text) if V0.search(text) else text
        return plain(text, schema) if schema else text

    def expects(self, case: Case) -> Expectation | None:
        """What it claims about a case that it does not simply compute; None for all others."""
        return self.claims(case)

    def cannot_run(self) -> str | None:
        """Why its device is not there; a Caffe that is missing is an error, never a reason."""
        return SESSION.obstacle()

    def outline(self, case: Case, with_params: bool) -> Outline:
        """What the net's text says, and, where asked for, its parameters, for which it is built.

        Raises:
            BadRequest: it is no net, or has other inputs than the case.
            VariantFailure: Caffe cannot build it.
            NoCaffe, InstallError: there is no Caffe.
        """
        said = self.described(case)
        if set(said["inputs"]) != set(case.shapes):
            raise BadRequest(
                f"the inputs of {self.spec} are {', '.join(said['inputs']) or 'none'}; those that "
                f"are given are {', '.join(case.shapes) or 'none'}: they must be the same"
            )
        return Outline(
            tops=tuple(dict.fromkeys([*said["outputs"], *said["losses"]])),
            losses=tuple(said["losses"]),
            params=tuple(self._parameters(case, said)) if with_params else (),
            in_place=frozenset(said["in_place"]),
            bare=self.bare,
            keep_statistics=tuple(said["keep_statistics"]),
            running=frozenset(said["running"]),
            undriven=frozenset(said["undriven"]),
        )

    def makes_data(self, case: Case) -> str:
        """What to do about Python layers without bottoms, which may give other tops each time."""
        parts = [
            f"{layer} makes {', '.join(tops)} out of nothing, other data in each forward if it "
            f"reads some: --bottom {tops[0]}=SHAPE makes an input of that"
            for layer, tops in self.described(case)["sources"]
        ]
        return "; ".join(parts)

    def described(self, case: Case, phase: str = "TRAIN") -> Mapping[str, Any]:
        """What Caffe's own parser says of the net's text; the worker's op "describe".

        Raises:
            BadRequest: it is no net.
            NoCaffe, InstallError: there is no Caffe.
        """
        try:
            return described(self.prototxt(case), case.names, self.made.drop_in, phase)
        except BadRequest as error:
            raise BadRequest(f"{self.spec}: {error}") from error

    def _parameters(self, case: Case, said: Mapping[str, Any]) -> Iterator[Parameter]:
        build = self.net_ops(case)
        built = self.request(build)[-1]
        saved, types = set(built["named"]), dict(said["layers"])
        owned = [(f"{PARAM}[{number}]", *each) for number, each in enumerate(built["owned"])]
        owned += [(f"{STATE}[{number}]", *each, 0) for number, each in enumerate(built["kept"])]
        reads: list[Op] = [
            {"op": "param", "layer": layer, "index": index} for _, layer, index, _ in owned
        ]
        values = self.request([*build, *reads])[len(build) :] if reads else []
        for (name, layer, index, rate), value in zip(owned, values, strict=True):
            usual, role = "normal" if rate else "", ""
            if types[layer] == "BatchNorm":
                role = STATISTICS[index]
                usual = "normal" if role == "mean" else "positive"
            kept = layer in saved
            yield Parameter(
                name,
                layer,
                index,
                bool(rate),
                value["array"],
                "" if kept else usual,
                role,
                kept,
            )

    def try_out(self, case: Case) -> int:
        """Builds the net once, to see that it can be; returns how many parameter blobs it has.

        Raises:
            BadRequest, CaffeError: it cannot be.
        """
        built = self._asked(self.net_ops(case))[-1]
        self.must_have_weights(built)
        return len(built["owned"])

    def must_have_weights(self, built: Mapping[str, Any]) -> list[str]:
        """The layers with parameters of which the file of weights has none.

        Args:
            built: the answer to the op "net".

        Raises:
            BadRequest: it has those of no layer at all.
        """
        layers = list(dict.fromkeys(layer for layer, _ in built["params"]))
        if self.weights and not built["named"]:
            raise BadRequest(
                f"--weights {self.weights}: it has parameters of no layer of the net, whose layers "
                f"with parameters are {', '.join(layers) or 'none'}: Caffe matches them by name"
            )
        return [each for each in layers if each not in built["named"]] if self.weights else []

    def observe(self, plan: Plan) -> Observation:
        """Carries out a plan; what goes wrong on its second net is kept in the observation.

        Raises:
            VariantFailure: Caffe crashed, hung, or a layer raised.
            BadRequest: the net cannot be run at all, or not with these upstream gradients.
            NoCaffe, InstallError: there is no Caffe.
        """
        seen = Observation(poisoned=True)
        for number, passes in enumerate(plan.nets):
            script = _Script(plan, passes, self.net_ops)
            try:
                try:
                    replies = self.request(script.ops)
                except _Unfit:  # the tops show what does not fit; no gradient can be asked for
                    script = _Script(plan, passes, self.net_ops, backward=False)
                    replies = self.request(script.ops)
                script.read_into(seen, replies)
            except VariantFailure as failure:
                if failure.verdict == "crash" and NO_GRADIENT.search(failure.message):
                    raise BadRequest(self._without_gradient(plan.case, failure)) from failure
                if not number:
                    raise self._explained(failure, script.ops) from failure
                seen.trouble = failure
        return seen

    def _explained(self, failure: VariantFailure, ops: Sequence[Op]) -> VariantFailure:
        """The failure, and of a layer that is NOT_IMPLEMENTED, whether it is its forward."""
        if NOT_IMPLEMENTED not in failure.message:
            return failure
        until = next(number for number, op in enumerate(ops, 1) if op["op"] == "forward")
        advice = NO_BACKWARD
        try:
            self.request([*ops[:until]])
        except VariantFailure:
            advice = NO_FORWARD
        return VariantFailure(failure.verdict, f"{failure.message} ({advice})", failure.output)

    def _without_gradient(self, case: Case, failure: VariantFailure) -> str:
        indicators = [each for each in self.described(case)["indicators"] if each in case.wanted]
        if "sequence indicators" in failure.message and indicators:
            others = ",".join(each for each in case.wanted if each not in indicators)
            return (
                f"{self.spec or 'the net'}: {', '.join(indicators)} says where a sequence begins, "
                f"and has no gradient: --grad {others or repr('')} asks for those of the others, "
                f"--data {indicators[0]}=binary fills it: {failure.message}"
            )
        labels = labels_among(case.shapes)
        label = labels[0] if labels else case.wanted[-1]  # which has most often the last place
        others = ",".join(name for name in case.wanted if name != label)
        return (
            f"{self.spec or 'the net'}: a layer has no gradient for an input that is asked for "
            f"one: {label_advice(case.shapes)}, and --grad {others or 'NAMES'} asks for those "
            f"gradients alone: {failure.message}"
        )

    def request(self, ops: list[Op]) -> list[Op]:
        """The answers of Caffe to some ops.

        Raises:
            VariantFailure: Caffe crashed, hung, or a layer raised.
            BadRequest: the net, or what is asked of it, cannot be.
            NoCaffe, InstallError: there is no Caffe.
        """
        try:
            return self._asked(ops)
        except (CaffeHang, CaffeCrash, LayerError) as error:
            raise failed(error) from error
        except RequestError as error:
            raise _Unfit(f"{self.spec or 'the net'}: {error}") from error
        except NetError as error:
            raise BadRequest(f"{self.spec or 'the net'}: {error}") from error

    def _asked(self, ops: list[Op]) -> list[Op]:
        """The answers of Caffe; where it ends, with the layer that it was at."""
        try:
            return self.caffe.request(ops)
        except CaffeCrash as crash:
            raise located(self.caffe, ops, crash) from crash

    def net_ops(self, case: Case) -> list[Op]:
        """The ops that load the compiled layers and build the net of a case.

        Raises:
            VariantFailure: a compiled layer cannot be built.
            BadRequest: one cannot be loaded, or has no layer that is in the net.
        """
        edits: Op = {"shapes": {name: case.shapes[name] for name in case.fed}}
        edits["gradients"] = list(case.wanted)
        text = self.prototxt(case)
        if case.loss_weight is not None:
            edits["loss_weight"] = case.loss_weight
        else:
            edits["outputs_as_losses"] = True
            if len(described(text, case.names, self.made.drop_in)["losses"]) == 1:
                edits["loss_weight"] = 1.0
        if self.weights:
            edits["weights"] = self.weights
        if case.sharing == "same-blob":
            edits["same"] = {case.names[1]: case.first}
        if case.sharing == "split":
            edits["append"] = second_consumer(case)
        net: Op = {"op": "net", "text": text, "edits": edits, "path": self.path}
        return [*({"op": "load", "library": each} for each in self.loaded(case)), net]

    def loaded(self, case: Case) -> Sequence[str]:
        """The paths of the compiled layers, which together have a layer of the net.

        Raises:
            VariantFailure: one cannot be built.
            BadRequest: one cannot be loaded, or nothing of the net is in them: Caffe's own layers
                would be compared in their place.
        """
        try:
            own = self.made.libraries
            libraries = tuple(own or self.libraries(self.caffe))
        except CaffeError:
            raise
        except ParityError as error:
            raise VariantFailure("crash", str(error)) from error
        self._must_be_there(self.made.types, case)
        if not libraries:
            return ()
        names = tuple(own.values()) or libraries
        found = list(map(registered, libraries, names))
        for name, (types, _) in zip(names, found, strict=True):
            if not types:
                raise BadRequest(
                    f"{name} registers no layer, so nothing of it would be "
                    "compared: expected REGISTER_LAYER_CLASS(NAME); for the class NAMELayer"
                )
        known = [each for types, _ in found for each in types]
        replaced = [each for _, types in found for each in types]
        layers = self.described(case)["layers"]
        inside = [name for name, kind in layers if replaced and kind in _MAKES_OTHERS]
        if not inside and not {kind for _, kind in layers} & set(known):
            there = ", ".join(dict.fromkeys(kind for _, kind in layers))
            raise BadRequest(
                f"{' '.join(names)} registers {', '.join(known)}, and "
                f"{self.spec} has no layer of that type, so nothing of it would be compared: its "
                f"types are {there}"
            )
        return libraries

    def _must_be_there(self, types: Sequence[str], case: Case) -> None:
        """Checks that one of the types that were built into this Caffe is in the net.

        Raises:
            BadRequest: none is.
        """
        there = dict.fromkeys(kind for _, kind in self.described(case)["layers"]) if types else {}
        if types and not {*there} & {*types, *_MAKES_OTHERS}:
            raise BadRequest(
                f"the files that Caffe was built with have {', '.join(types)}, and {self.spec} has "
                "no layer of that type, so nothing of them would be compared: its types are "
                f"{', '.join(there)}"
            )

    def replaces(self, case: Case) -> tuple[str, ...]:
        """The types of Caffe's own in whose place compiled layers are; raises as `loaded` does."""
        libraries = self.loaded(case)
        names = tuple(self.made.libraries.values()) or libraries
        return tuple(each for _, types in map(registered, libraries, names) for each in types)


_MAKES_OTHERS = ("SoftmaxWithLoss", "InfogainLoss", "LSTM", "RNN")
"""Types of Caffe's own that make layers of other types inside them."""


@lru_cache(maxsize=256)
def registered(library: str, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The layer types that a compiled layer registers, and those of Caffe's own among them.

    Raises:
        BadRequest: it cannot be loaded.
    """
    try:
        said = SESSION.running().request([{"op": "load", "library": library}])[0]
    except CaffeError as error:
        raise BadRequest(f"{name}: {told(error)}") from error
    return tuple(said["types"]), tuple(said["replaced"])


def second_consumer(case: Case) -> str:
    """What a "split" case appends: the sum of its first input, a loss of its own."""
    return f"""
layer {{
  name: "second_consumer"
  type: "Reduction"
  bottom: "{case.first}"
  top: "second_consumer"
  loss_weight: 0.5
}}
"""


@lru_cache(maxsize=256)
def described(
    text: str, fed: tuple[str, ...], built: Path | None = None, phase: str = "TRAIN"
) -> Mapping[str, Any]:
    """What Caffe's own parser says of a net's text; the worker's op "describe".

    Args:
        text: prototxt.
        fed: tops that are fed, though no Input layer makes them.
        built: the folder of the Caffe that reads it, if it was built with a user's files.
        phase: the phase that it is built in; TEST also where there is no other.

    Raises:
        BadRequest: it is no net.
    """
    op: Op = {"op": "describe", "text": text, "fed": fed, "phase": phase}
    try:
        said: Mapping[str, Any] = SESSION.running(built=built).request([op])[0]
    except NetError as error:
        advice = ""
        if 'LayerParameter" has no field named' in str(error):
            advice = (
                "; a field of a fork: --proto FILE takes the caffe.proto that has it, beside "
                "--load with the layer's source"
            )
        raise BadRequest(f"{error}{advice}") from error
    return said


V0 = re.compile(r"\blayers\s*:?\s*\{[^{}]*\blayer\s*:?\s*\{")
"""The syntax of 2013: a layer within a layer."""


@lru_cache(maxsize=256)
def upgraded(text: str) -> str:
    """A net in the syntax of 2013 in that of 2014, by Caffe's own hand; the worker's op "upgrade".

    Raises:
        BadRequest: it is no net, or of a type of layer that Caffe never had.
    """
    try:
        made: str = SESSION.running().request([{"op": "upgrade", "text": text}])[0]["text"]
    except NetError as error:
        raise BadRequest(str(error)) from error
    except CaffeCrash as error:
        raise BadRequest(f"the net in the syntax of 2013 cannot be upgraded: {error}") from error
    return made


@lru_cache(maxsize=256)
def plain(text: str, schema: Path) -> str:
    """A net with messages of a plug-in's own as one that Caffe can read; the worker's op "plain".

    Raises:
        BadRequest: it is no net.
    """
    try:
        op: Op = {"op": "plain", "text": text, "schema": str(schema)}
        made: str = SESSION.running().request([op])[0]["text"]
    except NetError as error:
        raise BadRequest(str(error)) from error
    return made


def failed(error: CaffeError) -> VariantFailure:
    """What a crash, a hang or an exception of a layer means, in words."""
    if isinstance(error, CaffeHang):
        return VariantFailure("hang", str(error), error.output)
    text, printed = str(error), error.output
    if NO_MODULE in text:
        text, printed = told(error), ""
    elif isinstance(error, LayerError):
        text = f"a layer raised: {where(error.traceback)}{text}"
        printed = "\n".join(theirs(f"{printed}\n{error.traceback}"))
    else:
        text, printed = meaning(text), without_check(printed)
    advice = hint(text + error.output)
    return VariantFailure("crash", text + (f" ({advice})" if advice else ""), printed)


class _Script:
    """The ops of one net's passes, and where what they answer with belongs."""

    def __init__(
        self,
        plan: Plan,
        passes: Sequence[Pass],
        net_ops: Callable[[Case], list[Op]],
        *,
        backward: bool = True,
    ) -> None:
        self.plan = plan
        self.backward = backward
        self.case = plan.case
        self.places = {
            each.name: {"layer": each.layer, "index": each.index} for each in plan.structure.params
        }
        self.labels = {f"{p.layer}[{p.index}]": p.name for p in plan.structure.params}
        self.ops: list[Op] = net_ops(_shaped(self.case, passes[0]))
        self.slots: dict[int, tuple[str, str]] = {}  # number of an op -> pass and tensor, or when
        for each, reshape in zip(passes, reshapes(passes), strict=True):
            if reshape:
                shapes = {name: each.inputs[name].shape for name in self.case.fed}
                self.ops.append({"op": "reshape", "shapes": shapes})
            self._pass(each)

    def _pass(self, each: Pass) -> None:
        # Before the forward, since some layers (HingeLoss) keep their gradient in a diff.
        self.ops.append({"op": "poison", "value": each.poison})
        for name, value in each.inputs.items():
            place = self.places.get(name)
            self.ops.append(
                {"op": "set_param", **place, "array": value}
                if place
                else {"op": "set", "blob": name, "array": value}
            )
        compared = each.expected is not None
        self.ops.append({"op": "forward"})
        if compared or each.name == OTHER:
            self._read(each.name, self.plan.structure.outputs)
        if each.name == FIRST:
            self._changed("forward")
        if not self.backward:
            return
        if not each.adds_up and self.places:
            self.ops.append({"op": "clear_params"})
        self._backward(each)
        if compared or each.name == OTHER:
            self._read_diffs(each.name)
        if each.again:
            self.ops.append({"op": "poison", "value": ONE})
            self._backward(each)
            self._read_diffs(AGAIN)
        if compared:
            self._changed("backward")

    def _backward(self, each: Pass) -> None:
        upstream: Mapping[str, Any] = each.upstream or {}
        if each.upstream is None and self.case.loss_weight is None:
            upstream = dict.fromkeys(self.plan.structure.driven, 1.0)
        for name, value in upstream.items():
            self.ops.append(
                {"op": "weigh", "factor": float(value)}
                if name == TOTAL
                else {"op": "fill_diff", "blob": name, "value": value}
                if isinstance(value, float)
                else {"op": "set_diff", "blob": name, "array": value}
            )
        self.ops.append({"op": "backward"})

    def _changed(self, when: str) -> None:
        self.slots[len(self.ops)] = ("", when)
        self.ops.append({"op": "changed"})

    def _read(self, name: str, tops: Sequence[str]) -> None:
        for top in tops:
            self.slots[len(self.ops)] = (name, top)
            place = self.places.get(top)
            self.ops.append(
                {"op": "param", **place}
                if place
                else {"op": "total"}
                if top == TOTAL
                else {"op": "data", "blob": top}
            )

    def _read_diffs(self, name: str) -> None:
        for each in self.plan.differentiated:
            self.slots[len(self.ops)] = (name, GRADIENT + each)
            place = self.places.get(each)
            self.ops.append(
                {"op": "param_diff", **place} if place else {"op": "diff", "blob": each}
            )

    def read_into(self, seen: Observation, replies: Sequence[Op]) -> None:
        """Puts what came back in its place."""
        tensors: dict[str, dict[str, Floating | None]] = {}
        for number, (name, tensor) in self.slots.items():
            if not name:
                for blob in replies[number]["blobs"]:
                    changed = self.labels.get(blob, blob)
                    if changed not in self.plan.structure.in_place and not is_state(changed):
                        seen.changed.setdefault(changed, tensor)
                if self.plan.structure.is_loss:
                    written = (*seen.weights, *replies[number]["diffs"])
                    seen.weights = tuple(dict.fromkeys(written))
                continue
            tensors.setdefault(name, {})[tensor] = replies[number]["array"]
        for name, found in tensors.items():
            seen.tensors[name] = self._without_pruned(name, found)

    def _without_pruned(self, name: str, found: dict[str, Floating | None]) -> Tensors:
        """Caffe prunes the backward of a layer whose loss weight is 0 (net.cpp): no gradient."""
        diffs = {key: each for key, each in found.items() if key.startswith(GRADIENT)}
        untouched = not any(np.any(each) for each in diffs.values() if each is not None)
        if self.case.loss_weight is not None and self.case.weight == 0 and untouched:
            found |= dict.fromkeys(diffs)
        return found


def _shaped(case: Case, first: Pass) -> Case:
    """The case with the shapes of a pass, for which the net is made."""
    shapes = {name: first.inputs[name].shape for name in case.fed}
    return replace(
        case, shapes={name: shapes.get(name, shapes.get(case.first, ())) for name in case.names}
    )
