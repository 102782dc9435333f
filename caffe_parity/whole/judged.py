"""Holds each part of a port against the layers that it computes, and says which are wrong.

A part is what lies between two places where the port's tensors are known to be values of the net:
most often one module, and one layer. It gets what Caffe's layers got, forward and backward, in
float64 and under random rounding, so that its error is its own; that of the layers before it, which
a run of the whole port hands on, stands beside it as what it inherits.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import hashlib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from caffe_parity.caffe.session import SESSION
from caffe_parity.contract import (
    GRADIENT,
    UNIT_ROUNDOFF,
    Agreement,
    Array32,
    BadRequest,
    Bound,
    Case,
    Expected,
    Finding,
    Floating,
)
from caffe_parity.engine.caffe_net import CaffeNet
from caffe_parity.engine.compare import compare, same_bits
from caffe_parity.engine.processes import spread, useful
from caffe_parity.engine.random_rounding import Evaluate, Source, expect, other_signs
from caffe_parity.engine.threads import one_thread
from caffe_parity.progress import PROGRESS
from caffe_parity.whole.between import Passage, passages, stripped
from caffe_parity.whole.cuts import cut
from caffe_parity.whole.golden import Golden, Step, golden
from caffe_parity.whole.matching import Matched, ends_of, losses_of, match, must_be_there, near
from caffe_parity.whole.port import (
    Call,
    Overwritten,
    Port,
    Seen,
    Tensors,
    as_wide,
    gradients,
    results_of,
    shaped,
)
from caffe_parity.whole.reasons import BIASED, Reasons
from caffe_parity.whole.recipe import (
    RAISED,
    Recipe,
    State,
    Value,
    followed,
    ingredients,
    steps_of,
    writes,
)
from caffe_parity.whole.returned import Returned
from caffe_parity.whole.rivals import computing
from caffe_parity.whole.stacked import joined, sharing, stacked
from caffe_parity.whole.values import Pairs, by_values, crosswise, in_turn, weighed
from caffe_parity.whole.weights import Weights, of_port, weights_of

UNCHOSEN = "usual-momentum"
"""The cause of what is no error of a port, since PyTorch's own default is all that is behind it."""

USUAL: float = inspect.signature(_BatchNorm).parameters["momentum"].default

KNOWN = ("setting",)
"""The causes that say what a layer of a part is in the port."""

MOST_LEFT = 1024
"""So many times less an explanation leaves open without what is wrong besides."""

HOMOGENEOUS = ("Concat", "Dropout", "Pooling", "PReLU", "ReLU")
"""The types of layers that multiply a channel by what it is multiplied by before."""

RANDOM = ("Dropout",)
"""The types of layers that draw random numbers in phase TRAIN."""

CHOOSES = ("ArgMax",)
"""The types of layers that only choose: what they are fed is Caffe's to the bit, ties as well."""
DROPS = "F.dropout does, unless it gets training=self.training"
"""Why a port may drop in phase TEST."""

LARGE = 1 << 21
"""Numbers in a net from which on its parts are judged in several processes."""


FAR = 1e-2
"""Of a value's largest element: a part that is further off has been matched wrongly, or is wrong
itself; which of the two, another match tells."""


@dataclass(frozen=True, eq=False)
class Part:
    """Some layers of the net, and what of the port computes them.

    Attributes:
        steps: the layers, in order.
        tops: the values that are compared, in order.
        bottoms: the values that they read from outside.
        calls: of the port's modules.
    """

    steps: tuple[Step, ...]
    tops: tuple[str, ...]
    bottoms: tuple[str, ...]
    calls: tuple[Call, ...]

    @property
    def name(self) -> str:
        """The layers' names."""
        return ", ".join(step.name for step in self.steps)

    @property
    def params(self) -> list[str]:
        """The parameters of these layers."""
        return list(dict.fromkeys(name for step in self.steps for name in step.params))

    def sent(self, bottom: str) -> str:
        """The key of the gradient that it sends back to one of its bottoms."""
        return f"{GRADIENT}{bottom} of {self.name}"

    @property
    def random(self) -> list[str]:
        """The tops of its layers that draw random numbers in phase TRAIN."""
        return [step.tops[0] for step in self.steps if step.type in RANDOM]


@dataclass(frozen=True, eq=False)
class Unit:
    """Parts that are judged together, since they share parameters, or no recipe of them is known.

    Attributes:
        parts: the parts.
        recipes: of their tops; None where the port has to run as a whole.
        params: the net's parameters that they take; what they are without recipes, all may be.
    """

    parts: tuple[Part, ...]
    recipes: Mapping[str, Recipe] | None = None
    params: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Judgement:
    """What was found of a part.

    Attributes:
        part: the part.
        own: by tensor, how far Caffe is from the part alone.
        inherited: by tensor, the same where the port runs as a whole: the part's own error, and
            what comes from before it.
        findings: what is wrong.
        notes: what is other than in Caffe and no error, since nobody chose it.
        left_out: why it was not compared; "" where it was.
        alone: whether nothing else is left out with it.
        blamed: where something is wrong, the layers that it may be; all, if more is not known.
        undefined: that Caffe's net itself computes something else than its layer alone, as the
            port does.
        between: what is wrong between this part and another; then the part itself is right.
        way: where and what that is.
    """

    part: Part
    own: Mapping[str, Agreement] = field(default_factory=dict)
    inherited: Mapping[str, Agreement] = field(default_factory=dict)
    findings: Sequence[Finding] = ()
    notes: Sequence[Finding] = ()
    left_out: str = ""
    alone: bool = True
    blamed: tuple[str, ...] = ()
    undefined: Finding | None = None
    between: Judgement | None = None
    way: Passage | None = None

    def joined(self, other: Judgement) -> Judgement:
        """With what another part found on the way from the same layer."""
        if not self.way or not other.way:
            return self
        way = self.way.merged(other.way)
        return replace(self, way=way, blamed=(way.name,), own={**self.own, **other.own})

    @property
    def name(self) -> str:
        """The part's, or the layers of it that are wrong."""
        return ", ".join(self.blamed) if self.findings and self.blamed else self.part.name


@dataclass(frozen=True, eq=False)
class Comparison:
    """A net in Caffe beside a port of it.

    Attributes:
        net: what Caffe computed.
        port: the model, with Caffe's weights in it or its own.
        matched: what belongs to what.
        weights: the parameters that both have.
        left_out: the layers that the port does without.
    """

    net: Golden
    port: Port
    matched: Matched
    weights: Weights
    left_out: frozenset[str] = frozenset()

    def judgements(self) -> list[Judgement]:
        """What is found of each part, in the net's order.

        Raises:
            BadRequest: the port raises.
        """
        sizes = [each.size for each in self.net.values.values()]
        processes = useful() if sum(sizes) > LARGE else 1
        with one_thread(max(sizes, default=0)):
            return self._judgements(processes)

    @property
    def computed(self) -> Mapping[str, Floating]:
        """What Caffe computed, by tensor."""
        return self._actual

    def judged_as(self, part: Part, computed: Mapping[str, Floating]) -> Judgement:
        """What would be found of a part if Caffe had computed something else.

        Args:
            part: one of the parts.
            computed: what that is, by tensor.
        """
        other = copy.copy(self)
        other.__dict__["_actual"] = {**self._actual, **computed}
        unit = next((each for each in self._units() if part in each.parts), Unit((part,)))
        judged = other._judged(unit, self._run_in_float32(unit))
        return next(each for each in judged if each.part is part)

    @cached_property
    def values(self) -> Tensors:
        """The net's, in float32."""
        return {name: torch.from_numpy(each) for name, each in self.net.values.items()}

    @property
    def first(self) -> Seen:
        """A run in float32 with Caffe's values, to see what can be compared."""
        return self._first[0]

    @cached_property
    def _first(self) -> tuple[Seen, Tensors]:
        """That run, and the state in which it leaves the port."""
        state = self._state(self.params(False), torch.float32)
        port = self.port.in_precision(torch.float32)
        return self.run(port, self.values, self.params(False), state=state), state

    @cached_property
    def looked(self) -> Seen:
        """That run once more, to see what modules read that are not matched."""
        port = self.port.in_precision(torch.float32)
        return self.run(port, self.values, self.params(False), looking=True)

    def leaky(self) -> frozenset[int]:
        """The operations that take a number which Python has of a tensor, by their number in a run.

        On other values it is another one; what takes the same is computed with tensors alone. Where
        other operations run then, what follows is not known.
        """
        given = self.net.labels | self.net.fixed
        other = {k: each if k in given else 1.375 * each for k, each in self.values.items()}
        port = self.port.in_precision(torch.float32)
        first, again = self.first.signatures, self.run(port, other, self.params(False)).signatures
        found: set[int] = set()
        for number, said in first.items():
            here = again.get(number, "")
            if here.partition(" ")[0] != said.partition(" ")[0]:
                return frozenset(found | {each for each in first if each >= number})
            found |= {number} if here != said else set()
        return frozenset(found)

    @property
    def batches(self) -> list[Step]:
        """A layer whose parameters others share, and that the port runs as one batch with them."""
        for call, (step, *_) in self.matched.steps.items():
            count = len(sharing(self.net, step)) + 1 if step.params else 1
            length = self.first.lengths.get(call, 0)
            if count > 1 and length == count * len(self.values[step.bottoms[0]]):
                return [step]
        return []

    @cached_property
    def doubts(self) -> int:
        """How much speaks against the match: what reads something else, is far off, or is left."""
        return len(self.first.wired) + len(self.far) + len(self.unmatched) + len(self.homeless)

    @cached_property
    def far(self) -> frozenset[str]:
        """The values that the port makes of Caffe's and that are others, not only rounded ones."""
        return self.beyond(FAR)

    def beyond(self, most: float) -> frozenset[str]:
        """The values that the port makes of Caffe's and that differ by more.

        Args:
            most: as a fraction of a value's largest element.
        """
        pairs = {name: (own, self.values[name]) for name, own in self.first.own.items()}
        return frozenset(
            name
            for name, (own, value) in pairs.items()
            if own.shape != value.shape
            or not bool((own - value).abs().max() <= most * value.abs().max())
        )

    def ops_like(self, wanted: Sequence[str]) -> Seen:
        """That run once more, to see which operations make values that no module gives."""
        port = self.port.in_precision(torch.float32)
        return self.run(port, self.values, self.params(False), wanted=wanted)

    @property
    def homeless(self) -> list[Step]:
        """The layers with parameters that no module holds."""
        held = {step.index for steps in self.matched.steps.values() for step in steps}
        free = [step for step in self.net.steps if step.params and step.index not in held]
        return [step for step in free if not self.weights.known.issuperset(step.params)]

    @cached_property
    def parts(self) -> list[Part]:
        """The parts, in the net's order."""
        order = [name for name in self.net.values if name in self.first.own]
        cut = {*order, *self.net.inputs}
        behind = {name: self.behind(name, cut) for name in order}
        groups: list[tuple[list[str], set[int]]] = []
        for name in order:
            tops, met = [name], {step.index for step in behind[name]}
            for other in [each for each in groups if each[1] & met]:
                tops, met = [*other[0], *tops], met | other[1]
                groups.remove(other)
            groups.append((tops, met))
        parts = []
        for tops, indices in groups:
            steps = tuple(step for step in self.net.steps if step.index in indices)
            bottoms = dict.fromkeys(each for step in steps for each in step.bottoms if each in cut)
            calls = tuple(
                call for call, some in self.matched.steps.items() if set(some) & set(steps)
            )
            parts.append(Part(steps, tuple(tops), tuple(bottoms), calls))
        return sorted(parts, key=lambda part: part.steps[-1].index if part.steps else -1)

    @property
    def unmatched(self) -> list[Step]:
        """The layers that no part computes, and that it may not do without."""
        return [step for step in self._uncomputed if step.name not in self.without]

    @cached_property
    def without(self) -> frozenset[str]:
        """What is left out of the comparison: what was asked for, and what only that reads."""
        left = {step.index: step for step in self._uncomputed}
        found = {*self.left_out} - {step.name for step in self.net.steps if step.index not in left}
        for step in reversed(left.values()):
            reads = [each.name for each in self.net.steps if set(each.bottoms) & set(step.tops)]
            if reads and found.issuperset(reads):
                found.add(step.name)
        return frozenset(found)

    @cached_property
    def _uncomputed(self) -> list[Step]:
        """The layers that no part computes."""
        known = {step.index for part in self.parts for step in part.steps}
        return [step for step in self.net.steps if step.index not in known and step.tops]

    @cached_property
    def by_itself(self) -> str:
        """What keeps the whole port from running by itself as it does when watched, or ""."""
        model = self.port.in_precision(torch.float32)
        hooks = bool(self.first.hooks)  # which PyTorch has only where there are gradients
        state = self._state(self.params(hooks), torch.float32)
        inputs = {name: self.values[name] for name in self.net.inputs}
        with torch.set_grad_enabled(hooks), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # of a Dropout
            try:
                alone = results_of(model.run(dict(inputs), state))
            except BadRequest as error:
                return str(error)
            torch.manual_seed(0)
            watched = self.run(model, None, self.params(False), masked=False).results
        pairs = [(alone[key], each) for key, each in watched.items()]
        pairs = [(as_wide(one.detach()), as_wide(other.detach())) for one, other in pairs]
        same = all(same_bits(one.numpy(), other.numpy()) for one, other in pairs)
        if not same:
            return "the port gives other bits when it is watched: it is not the same run"
        if "" in self.first.drops:
            why = f": {DROPS}" if self.net.phase == "TEST" else ""
            return f"the port drops in phase {self.net.phase}, where the net has no Dropout{why}"
        return self._backward_by_itself() or ("" if self._random else self._drawn())

    def _backward_by_itself(self) -> str:
        """What keeps the port's backward from running where nothing of Caffe's is put in, or ""."""
        steps = (each for recipe in self.first.recipes.values() for each in steps_of(recipe))
        in_place = any(getattr(each, "inplace", False) for each in self.port.modules.values())
        if not (in_place or any(map(writes, steps))):
            return ""
        params = self.params(True)
        inputs = {name: self.values[name].clone() for name in self.net.inputs}
        with torch.random.fork_rng(devices=[]):
            results = results_of(self.port.run(inputs, self._state(params, torch.float32)))
            for each in results.values():
                if not each.is_floating_point():
                    continue
                try:
                    gradients(each, [*params.values()], torch.ones_like(each))
                except Overwritten as error:
                    told = self._overwritten
                    return "" if told else self._reasons.overwriting(self.parts, str(error))
        return ""

    def _drawn(self) -> str:
        """That the port draws random numbers of its own, which no bound is for, or ""."""
        with one_thread(0):  # other threads, other bits
            once, again = self._watched(0), self._watched(1)
        for name, value in again.items():
            if not same_bits(value, once[name]):
                return (
                    f"the port draws random numbers: when it runs again its {name} is another, "
                    "and what is drawn cannot be told from rounding"
                )
        return ""

    def without_gradients(self) -> list[Finding]:
        """That the port computes some layers, or all, where nothing can be learned."""
        known = self.first.without
        left = [part for part in self.parts if known.issuperset(part.tops)]
        parts = [part for part in left if self._is_taught(part)]
        if not parts:
            return []
        names = ", ".join(part.name for part in parts) if len(left) < len(self.parts) else ""
        words = (
            f"the port computes {names or 'every layer'} without gradients, as under "
            "torch.no_grad() or torch.inference_mode(): nothing is sent back or learned there, and "
            "Caffe's net does both"
        )
        return [Finding("gradients", words, names, "no-grad")]

    def _is_taught(self, part: Part) -> bool:
        """Whether Caffe sends anything back or learns there: not where `loss_weight` is 0."""
        sent = [self._sent.get(part.sent(name)) for name in part.bottoms]
        sent += [self.net.param_diffs[name] for name in part.params if name in self.net.learned]
        return any(each is not None and each.any() for each in sent)

    @cached_property
    def _owned(self) -> Mapping[int, set[str]]:
        """By layer, its parameters, and those that it shares with others."""
        own = {step.index: set(step.params) for step in self.net.steps}
        for step in self.net.steps:
            for other in sharing(self.net, step) if step.params else ():
                own[other.index] |= set(step.params)
        return own

    @cached_property
    def _strays(self) -> dict[str, set[str]]:
        """By part, the parameters of other layers to which it sends a gradient, as found so far."""
        return {}

    @cached_property
    def _overwritten(self) -> dict[str, str]:
        """By part that writes into what its backward needs, what PyTorch says, as found so far."""
        return {}

    @cached_property
    def _reasons(self) -> Reasons:
        return Reasons(self)

    @cached_property
    def returned(self) -> Returned:
        """What the port returns."""
        return Returned(self)

    @property
    def losses_between(self) -> dict[str, frozenset[str]]:
        """The losses that no call gives, and the known values that each is made of."""
        cut = {*self.first.own, *self.net.inputs}
        found = {}
        for name in self.net.losses:
            if name not in self.first.own:
                read = {each for step in self.behind(name, cut) for each in read_by(step)}
                found[name] = frozenset(read & cut)
        return found

    def behind(self, name: str, cut: set[str]) -> list[Step]:
        """The layers between a value and those that are known before it."""
        found: dict[int, Step] = {}
        waiting = [name]
        while waiting:
            step = self.net.maker.get(waiting.pop())
            if step is None or step.index in found:
                continue
            found[step.index] = step
            waiting += [each for each in read_by(step) if each not in cut]
        return list(found.values())

    def params(self, grad: bool) -> Tensors:
        made = {name: torch.from_numpy(each) for name, each in self.net.params.items()}
        return {name: each.clone().requires_grad_(grad) for name, each in made.items()}

    def state(self) -> Tensors:
        """The port's parameters and buffers in float32, with Caffe's numbers; a copy."""
        return self._state(self.params(False), torch.float32)

    def _state(self, params: Tensors, dtype: torch.dtype) -> Tensors:
        return self.weights.state(of_port(self.port.model), params, dtype)

    def run(
        self,
        port: Port,
        values: Tensors | None,
        params: Tensors,
        masked: bool = True,
        state: Tensors | None = None,
        looking: bool = False,
        wanted: Sequence[str] = (),
    ) -> Seen:
        dtype = next(iter(params.values())).dtype if params else torch.float32
        source = self.values if values is None else values
        inputs = {name: source[name] for name in self.net.inputs}
        state = self._state(params, dtype) if state is None else state
        shapes = {name: each.shape for name, each in self.net.values.items()}
        masks = {top: torch.from_numpy(each) for top, each in self.net.masks.items()}
        layout = self.matched.layout
        known = masks if masked else None
        behind = self.net.behind
        idle = {top: bottom for top, bottom in self._idle.items() if masked}
        return port.forced(
            layout, inputs, values, shapes, state, known, looking, behind, wanted, idle
        )

    @cached_property
    def _idle(self) -> Mapping[str, str]:
        """The tops and bottoms of the Dropouts that pass everything on, as in phase TEST."""
        return {
            step.tops[0]: step.bottoms[0]
            for step in self.net.steps
            if step.type in RANDOM and self.net.phase == "TEST"
        }

    def _judgements(self, processes: int) -> list[Judgement]:
        random = self._random
        found = {part: self._left_out(part) for part in self.parts if part in random}
        found |= {
            part: Judgement(part, left_out=why, alone=False) for part, why in self._empty.items()
        }
        units = self._units()
        for judged in self._apart(units, processes):
            found |= {each.part: each for each in judged}
        rest = [part for part in self.parts if part not in found]
        if rest:
            found |= {each.part: each for each in self._judged(Unit(tuple(rest)))}
        ordered = [found[part] for part in self.parts]
        between: dict[tuple[str, str], Judgement] = {}
        for each in ordered:
            if each.between and each.between.way:
                key = each.between.way.before, each.between.way.does
                between[key] = between[key].joined(each.between) if key in between else each.between
        made = []
        for each in ordered:
            made.append(each)
            if each.between and each.between.way:
                way = each.between.way
                one = between.pop((way.before, way.does), None)
                if one and one.way:
                    made.append(replace(one, findings=one.way.told(one.findings)))
        return made

    def _units(self) -> list[Unit]:
        """The parts that can be repeated alone; what shares parameters is together."""
        together: list[tuple[set[str], list[Part]]] = []
        for part in self.parts:
            if part in self._random or part in self._empty:
                continue
            used, same = set(part.params), [part]
            for top in part.tops:
                if top in self.first.recipes:
                    used |= self._params_in(self.first.recipes[top])
            for other in [each for each in together if each[0] & used]:
                used, same = used | other[0], [*other[1], *same]
                together.remove(other)
            together.append((used, same))
        known = self.first.recipes
        units = []
        for used, parts in together:
            tops = [top for part in parts for top in part.tops]
            if all(top in known for top in tops):
                recipes = {top: known[top] for top in tops}
                units.append(Unit(tuple(parts), recipes, frozenset(used)))
        return units

    def _params_in(self, recipe: Recipe) -> set[str]:
        """The net's parameters that a recipe takes."""
        names = {each.name for each in ingredients(recipe) if isinstance(each, State)}
        return {param for name in names for param in self.weights.made_of(name)}

    def _apart(self, units: Sequence[Unit], processes: int) -> Iterator[list[Judgement]]:
        """What is found of each unit that makes the same bits alone as in a run of the port."""

        def work(number: int) -> tuple[list[Judgement], bytes]:
            return self._judged_alone(units[number])

        sizes = [sum(self._size(part) for part in unit.parts) for unit in units]
        order = sorted(range(len(units)), key=lambda number: -sizes[number])
        total, done = max(sum(sizes), 1), 0
        self.whole_run  # noqa: B018  # before the process is copied
        with contextlib.ExitStack() as stack:
            if processes > 1:
                stack.enter_context(one_thread(0))  # as in the copies: other threads, other bits
            ported = self._ported()
            digests = [self._digest(unit, ported) for unit in units]
            del ported
            if processes > 1:
                answers = stack.enter_context(spread(work, order, processes))
            else:
                answers = ((number, work(number)) for number in order)
            PROGRESS.part = 0.0
            for count, (number, (judged, digest)) in enumerate(answers, 1):
                done += sizes[number]
                PROGRESS.part = done / total
                PROGRESS.tell(f"judging parts, {count} of {len(units)}")
                if digest == digests[number]:
                    yield self._restored(units[number], judged)

    def _size(self, part: Part) -> int:
        """How many numbers a part takes and makes."""
        of_values = sum(self.net.values[name].size for name in (*part.tops, *part.bottoms))
        return of_values + sum(self.net.params[name].size for name in part.params)

    def _restored(self, unit: Unit, judged: Sequence[Judgement]) -> list[Judgement]:
        """Judgements that may have come from another process, of this one's parts."""
        return [
            replace(each, part=part, between=each.between and replace(each.between, part=part))
            for each, part in zip(judged, unit.parts, strict=True)
        ]

    def _judged_alone(self, unit: Unit) -> tuple[list[Judgement], bytes]:
        """What is found of the parts of a unit, and a digest of what they make in float32."""
        ported = self._run_in_float32(unit)
        return self._judged(unit, ported), self._digest(unit, ported)

    def _digest(self, unit: Unit, results: Mapping[str, Floating]) -> bytes:
        """A digest of what the parts of a unit make."""
        made = hashlib.blake2b()
        for name in [name for part in unit.parts for name in self._tensors(part)]:
            value = results.get(name)
            if value is not None:
                made.update(f"{name} {value.shape}".encode())
                made.update(np.ascontiguousarray(value).data)
        return made.digest()

    def _judged(
        self, unit: Unit, ported: Mapping[str, Floating] | None = None, again: bool = False
    ) -> list[Judgement]:
        """What is found of the parts of a unit.

        Args:
            unit: the parts.
            ported: what they make in float32.
            again: whether it is a try without something, which the port has.
        """
        expected, actual = self._expected(unit), self._actual
        ported = self._ported() if ported is None else ported
        inherited = self._inherited(expected)
        found = []
        for part in unit.parts:
            names = [name for name in self._tensors(part) if name in expected.truth]
            own: dict[str, Agreement] = {}
            findings = []
            for name in names:
                sides = {"": actual[name], "the port in float32: ": ported.get(name)}
                for side, value in sides.items():
                    if value is None:
                        continue
                    agreement = compare(name, value, expected)
                    if name in self._taken_out:
                        agreement = replace(agreement, proves=True)
                    if side and not own[name].agrees:
                        continue
                    if not side or not agreement.agrees:
                        own[name] = agreement
                    if not agreement.agrees:
                        findings.append(self._reasons.finding(part, name, value, expected, side))
            findings += self._frozen(part, [each.tensor for each in findings])
            findings += [*self._wired(part), *self._also(part)]
            findings += [*self._emptied(part), *self._dropped(part)]
            if not any(each.code == "forward" for each in findings):
                findings += self._ranked(unit, part)
            if error := self._overwritten.get(part.name):
                words = self._reasons.overwriting([part], error)
                findings.append(Finding("backward", words, part.tops[0], "overwritten"))
            counted = [*self._counted(part)]
            findings += [each for each in counted if each.cause != UNCHOSEN]
            notes = [each for each in counted if each.cause == UNCHOSEN]
            lost = {name: inherited[name] for name in names if name in inherited}
            way = None if again else self._passage(unit, part, findings)
            misled = None if again else self._misled(part, findings)
            if misled:
                way = Judgement(part, own, between=misled)
            if isinstance(way, Judgement):
                between = replace(way.between, own=own) if way.between else None
                found.append(replace(way, notes=notes, inherited=lost, between=between))
                continue
            findings = way or findings
            blamed = self._reasons.blamed(part, findings)
            known = findings and findings[0].cause in KNOWN
            if findings and not known and 1 < len(blamed) == len(part.steps):
                told = f"{self._reasons.together(part)}: {findings[0].words}"
                findings[0] = replace(findings[0], words=told)
            found.append(Judgement(part, own, lost, findings, notes, blamed=blamed))
        return found

    def _passage(
        self, unit: Unit, part: Part, findings: Sequence[Finding]
    ) -> Judgement | list[Finding] | None:
        """The part that is right, and what is wrong before or behind it; None for neither.

        Of what the port does with an input of the net, the findings, which say so.
        """
        told = [each for each in findings if each.cause in (*KNOWN, "shape")]
        rest = self._reasons.rest.get(part, 0.0) / MOST_LEFT
        passed = [each for each in findings if each.code in ("forward", "backward")]
        strange = [each for each in passed if each.cause not in (*KNOWN, "shape")]
        if (told and not rest and not strange) or not passed or self._reasons.settings(part):
            return None
        ways = [(each, False) for each in (() if told else passages(self, part))]
        ways += [(each, True) for each in stripped(self, part)]
        for each, beside in ways:
            recipes = {
                top: one
                for one_part in unit.parts
                for top in one_part.tops
                if (one := self.first.recipes.get(top))
            }
            if len(recipes) < sum(len(one.tops) for one in unit.parts):
                return None
            other = Unit(unit.parts, {**recipes, **each.recipes}, self._params_of(unit))
            try:
                judged = self._judged(other, self._run_in_float32(other), again=True)
            except BadRequest:  # what is left out may be needed
                continue
            right = judged[unit.parts.index(part)]
            if not right.findings and each.is_own:
                return each.told(findings)
            known = bool(beside and right.findings and right.findings[0].cause in KNOWN)
            seen = findings  # of what is on the way
            if known and told:  # which may leave less open without that
                closer = bool(rest) and self._reasons.rest.get(part, np.inf) <= rest
                seen = findings if closer else strange
                rest_of_it = [one for one in right.findings if one.code != "parameter"]
                known = closer or all(one.cause in KNOWN for one in rest_of_it)
            if not right.findings or known:
                way = replace(each, recipes={})
                goes = {
                    "forward": "it changes what goes on",
                    "backward": "it changes what is sent back",
                }
                if known:  # which is what was found of both
                    seen = [replace(one, words=goes[one.code]) for one in seen if one.code in goes]
                if not seen:
                    continue
                wrong = Judgement(part, findings=seen, blamed=(each.name,), way=way)
                return replace(right, between=wrong)
        return None

    def _params_of(self, unit: Unit) -> frozenset[str]:
        """The net's parameters that the parts of a unit take, or all of it where it has to run."""
        return unit.params if unit.recipes is not None else frozenset(self.net.params)

    def _dropped(self, part: Part) -> Iterator[Finding]:
        """That the port drops what Caffe's passes on: how often it does is nowhere compared."""
        for step in part.steps:
            for top in self.first.drops.intersection(step.tops):
                words = f"the port drops in phase TEST, where Caffe's {step.name} passes all on: "
                yield self._reasons.of(step.name, Finding("dropout", words + DROPS, top, "drops"))

    def _frozen(self, part: Part, said: Sequence[str]) -> Iterator[Finding]:
        """What the port does not learn, and whose gradient is 0 in Caffe but for rounding."""
        for name in part.params:
            moved = name in self.net.learned and np.any(self.net.param_diffs[name])
            if (
                moved
                and GRADIENT + name not in said
                and (words := self._reasons.learned(name, False))
            ):
                yield Finding("parameter", words, GRADIENT + name, "frozen")

    def _emptied(self, part: Part) -> Iterator[Finding]:
        """Another ratio of a Dropout whose mask left nothing, so that it does not show."""
        for step in part.steps:
            if step.tops[:1] and step.tops[0] in self.net.masks:
                nothing = not self.net.values[step.tops[0]].any()
                for words in self._reasons.settings(part).get(step.name, ()) if nothing else ():
                    yield Finding("dropout", words, step.tops[0], "setting")

    def _ranked(self, unit: Unit, part: Part) -> Iterator[Finding]:
        """What of an Accuracy the net's own labels do not tell: how many classes it takes.

        It is computed for labels that each just count, and for labels that each just do not.
        """
        right = computing(self.net, part.steps)
        for step in part.steps:
            if step.type != "Accuracy" or step.bottoms[1] not in part.bottoms:
                continue
            scores, label = (self.values[name] for name in step.bottoms)
            if right is None or not bool(scores.isfinite().all()):
                continue
            axis, most = step.fields["axis"], step.fields["top_k"]
            order = scores.argsort(dim=axis, descending=True, stable=True)
            ordered = scores.gather(axis, order)
            for rank in range(most, min(most + 1, order.shape[axis]) + 1):
                first, last = max(rank - 2, 0), min(rank + 1, order.shape[axis])
                around = ordered.narrow(axis, first, last - first)
                if bool((around.diff(dim=axis) == 0).any()):  # which class counts is nobody's
                    continue
                labels = order.select(axis, rank - 1).reshape(label.shape).float()
                values = {**self.values, step.bottoms[1]: labels}
                made = self._runner(unit, torch.float32)(values, self.params(False))
                wide = [{k: each.double() for k, each in some.items()} for some in (values, made)]
                params = {name: each.double() for name, each in self.params(False).items()}
                truth = right(wide[0], params)[step.tops[0]]
                own = wide[1].get(step.tops[0], truth)
                if own.numel() == truth.numel() and bool(
                    ((own.reshape(truth.shape) - truth).abs() > 8 * UNIT_ROUNDOFF).any()
                ):
                    words = (
                        f"where each label has the score that is number {rank} from the largest, "
                        f"the port's {step.tops[0]} is {float(own.mean()):g}, and Caffe's with "
                        f"top_k {most} {float(truth.mean()):g}"
                    )
                    yield self._reasons.of(
                        step.name, Finding("forward", words, step.tops[0], "setting")
                    )

    def _left_out(self, part: Part) -> Judgement:
        """What is said of a part that draws random numbers: that its settings are Caffe's."""
        said = [one for some in self._reasons.settings(part).values() for one in some]
        said += self._kept(part)
        findings = [Finding("dropout", words, part.tops[-1], "setting") for words in said]
        why = (
            "it draws random numbers in phase TRAIN, and the port does not take Caffe's mask, as "
            "an nn.Dropout or F.dropout would"
        )
        alone = all(step.type in RANDOM for step in part.steps) and part.calls
        if not alone:
            why += "; of the layer's name it would be compared"
        blamed = tuple(step.name for step in part.steps if step.type in RANDOM)
        return Judgement(part, findings=findings, left_out=why, alone=bool(alone), blamed=blamed)

    def _kept(self, part: Part) -> Iterator[str]:
        """What a Dropout that takes no mask does otherwise than Caffe's with what it keeps."""
        *before, step = part.steps
        if step.type not in RANDOM or step.tops != part.tops or step.name in self.left_out:
            return
        made, taken = self.first.own[part.tops[0]].double(), self.values[step.bottoms[0]].double()
        if made.shape != taken.shape:
            return
        ratio = float(step.fields["dropout_ratio"])
        scale, free = 1 / (1 - ratio), taken != 0
        kept = free & (made != 0)
        chance = int(free.sum()) * math.log1p(-ratio)  # that a Dropout leaves none out
        keeps_all = bool((kept == free).all())
        nothing = keeps_all and chance < math.log(UNIT_ROUNDOFF)
        # Of 1 - p, of its inverse, of what the mask is multiplied by, and of the product.
        room = 4 * UNIT_ROUNDOFF * taken.abs()
        if before:  # which round in Caffe and in the port
            room = room + 2 * self._rounding(before, step.bottoms[0])
        if nothing or not bool(((made - scale * taken).abs() <= scale * room)[kept].all()):
            nothing |= keeps_all and bool(((made - taken).abs() <= room).all())
            words = "drops nothing" if nothing else "scales what it keeps otherwise"
            yield (
                f"the port {words}: Caffe's {step.name} sets {ratio:g} of the elements to 0, and "
                f"multiplies the others by {scale:g}"
            )

    def _rounding(self, steps: Sequence[Step], top: str) -> torch.Tensor:
        """How far float32 may be from what layers make; infinitely where that is not known."""
        made = computing(self.net, steps)
        tops = {each for step in steps for each in step.tops}
        names = {each for step in steps for each in step.bottoms}.difference(tops)
        given = {f"value {name}": self.values[name].double() for name in names}
        params = [name for step in steps for name in step.params]
        given |= {
            f"param {name}": torch.from_numpy(self.net.params[name]).double() for name in params
        }
        if made is None:
            return torch.full(self.net.values[top].shape, torch.inf)

        def evaluate(inputs: Tensors) -> Tensors:
            values = {name[6:]: each for name, each in inputs.items() if name.startswith("value")}
            taken = {name[6:]: each for name, each in inputs.items() if name.startswith("param")}
            return {top: made(values, taken)[top]}

        fixed = {f"value {name}" for name in names & self.net.fixed}
        worst = expect(evaluate, given, fixed, self.net.running).bound.worst[top]
        return torch.from_numpy(np.asarray(worst, np.float64))

    @cached_property
    def _taken_out(self) -> frozenset[str]:
        """The gradients that are 0 but for rounding: a BatchNorm behind takes the parameters out.

        So it does with biases, and with what a Scale without a bias multiplies by. A bias that
        branches share cancels where a loss takes them from one another. Caffe's, too, are what is
        left of a sum that cancels, and zeros are as right as these.
        """
        found = self._cancelled
        for step in self.net.steps:
            reader = next(
                (each for each in self.net.steps if set(each.bottoms) & set(step.tops)), None
            )
            biased = step.type in BIASED and len(step.params) > 1
            if biased and reader and self._normalises(reader):
                found.add(GRADIENT + step.params[1])
            shifted = any(self.net.params[each].any() for each in step.params[1:])
            scales = step.type == "Scale" and step.params and not shifted
            if scales and self._is_normalised(step.tops[0]):
                found.add(GRADIENT + step.params[0])
        return frozenset(found)

    @property
    def _cancelled(self) -> set[str]:
        """The gradients of biases that are sums whose terms cancel but for what each rounds."""
        found = set()
        for step in self.net.steps:
            if (
                step.type not in BIASED
                or len(step.params) < 2
                or step.params[1] not in self.net.learned
            ):
                continue
            rows = []
            for each in (step, *sharing(self.net, step)):
                diff = self.net.diffs[each.tops[0]].astype(np.float64)
                axis = -1 if step.type == "InnerProduct" else step.fields["axis"]
                rows.append(np.moveaxis(diff, axis, 0).reshape(diff.shape[axis], -1))
            terms = np.concatenate(rows, 1)
            most = UNIT_ROUNDOFF * terms.shape[1] * np.abs(terms).sum(1)
            if most.any() and np.all(np.abs(terms.sum(1)) <= most):
                found.add(GRADIENT + step.params[1])
        return found

    def _normalises(self, step: Step) -> bool:
        """Whether a layer is a BatchNorm that has taken the batch's own mean off."""
        if step.type != "BatchNorm":
            return False
        made = np.moveaxis(self.net.values[step.tops[0]], 1, 0)
        means = made.reshape(len(made), -1).mean(1, dtype=np.float64)
        return bool(np.abs(means).max() < 1e-4)

    def _is_normalised(self, name: str) -> bool:
        """Whether on every way from a value a BatchNorm takes each channel's size out."""
        readers = [each for each in self.net.steps if name in each.bottoms]
        return bool(readers) and all(
            self._normalises(each)
            or (each.type in HOMOGENEOUS and all(map(self._is_normalised, each.tops)))
            for each in readers
        )

    @cached_property
    def _empty(self) -> Mapping[Part, str]:
        """The parts that compute with numbers of the port's own in place of Caffe's, and why."""
        free, homeless = set(self.weights.empty), {step.index for step in self.homeless}
        own = of_port(self.port.model)
        found = {}
        for part in self.parts:
            left = [step for step in part.steps if step.index in homeless]
            recipes = [self.first.recipes.get(top) for top in part.tops]
            taken = (one for recipe in recipes if recipe for one in ingredients(recipe))
            names = {each.name for each in taken if isinstance(each, State)}
            names = names & free if all(recipes) else free
            if not left or not names:
                continue
            ported = ", ".join(f"{name} {tuple(own[name].shape)}" for name in own if name in names)
            theirs = ", ".join(
                f"{name} {self.net.params[name].shape}" for step in left for name in step.params
            )
            found[part] = (
                f"which of the port's {ported} is which of {theirs} is not known, so that none has "
                f"Caffe's numbers; as the weight and bias of a module, or in the layers' order, "
                "they would"
            )
            norms = [step.name for step in left if step.type == "BatchNorm"]
            held = {call.module for call in self.matched.steps}
            kinds = {k for k, each in self.port.modules.items() if isinstance(each, _BatchNorm)}
            if norms and kinds <= held and len(left) > len(norms):
                found[part] = (
                    f"the port's {ported} seem to be those of {', '.join(s.name for s in left)} in "
                    "one (folded), and are the port's own numbers, not made of Caffe's; a port "
                    "whose forward folds those of its modules is compared behind the last layer"
                )
        return found

    @cached_property
    def _random(self) -> set[Part]:
        if self.net.phase != "TRAIN":
            return set()
        return {part for part in self.parts if set(part.random) - self.first.masked}

    def _tensors(self, part: Part) -> list[str]:
        """What is compared of a part; without all of its outputs its gradients are others."""
        made = {top for step in part.steps for top in step.tops}
        if self.first.without.issuperset(part.tops):  # which is said of all such parts at once
            return [*part.tops]
        if not made.intersection(self.net.outputs).issubset(part.tops):
            return [*part.tops]
        sent = [part.sent(each) for each in part.bottoms]
        learned = [each for each in part.params if each not in self._unlearned]
        return [*part.tops, *sent, *(GRADIENT + each for each in learned)]

    @cached_property
    def _unlearned(self) -> frozenset[str]:
        """The parameters of layers that the port computes without gradients, which it is told."""
        known = self.first.without
        parts = [part for part in self.parts if known.issuperset(part.tops)]
        names = (self._owned[step.index] for part in parts for step in part.steps)
        return frozenset().union(*names)

    def _expected(self, unit: Unit) -> Expected:
        """What each part makes of Caffe's values, and how far float32 may be from that."""
        given = self._given(unit, torch.float64)
        fixed = {f"value {name}" for name in self.net.fixed}
        fixed |= {name for name in given if name.startswith("diff ")}
        own = {f"param {name}" for part in unit.parts for name in part.params}
        read: dict[bool, set[str]] = {True: set(), False: set()}
        for part in unit.parts:
            read[all(step.type in CHOOSES for step in part.steps)].update(part.bottoms)
        fixed |= {f"value {name}" for name in read[True] - read[False]}
        if unit.recipes is None:  # all of the port runs, and what the others have reaches no part
            fixed |= {name for name in given if name.startswith("param ")} - own
        evaluate = partial(self._evaluated, unit, self._runner(unit, torch.float64))
        diffs = {name: each for name, each in given.items() if name.startswith("diff ")}

        def signed(source: Source) -> Evaluate:
            other = other_signs(diffs, source)
            return lambda inputs: evaluate({**inputs, **other})

        return expect(evaluate, given, fixed & set(given), self.net.running, signed=signed)

    def _run_in_float32(self, unit: Unit) -> Mapping[str, Floating]:
        """What each part makes of Caffe's values in float32."""
        run = self._runner(unit, torch.float32)
        found = self._evaluated(unit, run, self._given(unit, torch.float32))
        return {name: as_wide(each).numpy() for name, each in found.items()}

    def _given(self, unit: Unit, dtype: torch.dtype) -> Tensors:
        """What the parts of a unit are fed with: values, parameters and top diffs."""
        names, params = set(self.net.values), set(self.net.params)
        if unit.recipes is not None:
            params = set(unit.params)
            taken = (one for recipe in unit.recipes.values() for one in ingredients(recipe))
            names = {each.name for each in taken if isinstance(each, Value)}
            names |= {name for part in unit.parts for name in part.bottoms}
        given = {f"value {name}": self.values[name] for name in self.values if name in names}
        given |= {
            f"param {name}": torch.from_numpy(each)
            for name, each in self.net.params.items()
            if name in params
        }
        given |= {
            f"diff {top}": torch.from_numpy(self.net.diffs[top])
            for part in unit.parts
            for top in part.tops
        }
        return {name: each.to(dtype) for name, each in given.items()}

    def _runner(self, unit: Unit, dtype: torch.dtype) -> Callable[[Tensors, Tensors], Tensors]:
        """A function of values and parameters: what the unit's parts make, by value."""
        if unit.recipes is None:
            port = self.port.in_precision(dtype)
            return lambda values, params: self._own(port, values, params)
        recipes = unit.recipes
        taken = (one for recipe in recipes.values() for one in ingredients(recipe))
        own = of_port(self.port.model)
        own = {each.name: own[each.name] for each in taken if isinstance(each, State)}

        def run(values: Tensors, params: Tensors) -> Tensors:
            state = self.weights.state(own, params, dtype)
            done: dict[int, torch.Tensor] = {}
            try:
                return {
                    top: shaped(followed(recipe, values, state, done), self.net.values[top].shape)
                    for top, recipe in recipes.items()
                }
            except RAISED as error:  # such as of two precisions that the port mixes
                raise BadRequest(
                    f"the port cannot be evaluated: {error}; it must run in {dtype} as well, and "
                    "in copies".replace("torch.", "")
                ) from error

        return run

    def _own(self, port: Port, values: Tensors, params: Tensors) -> Tensors:
        seen = self.run(port, values, params)
        if seen.failed:
            raise BadRequest(f"{seen.failed}; it must run in float64 as well, and in copies")
        return seen.own

    def _evaluated(
        self, unit: Unit, run: Callable[[Tensors, Tensors], Tensors], given: Tensors
    ) -> Tensors:
        """The tops of every part, and what it sends back."""
        unwritten = {f"param {name}" for name in self.net.learned}  # unlike a BatchNorm's
        leaves = {
            name: (each.detach() if name in unwritten else each.detach().clone()).requires_grad_(
                each.is_floating_point()
            )
            for name, each in given.items()
            if not name.startswith("diff ")
        }
        values = {name[6:]: each for name, each in leaves.items() if name.startswith("value ")}
        params = {name[6:]: each for name, each in leaves.items() if name.startswith("param ")}
        made_by_parts = run(values, params)
        results: Tensors = {}
        misshapen: set[Part] = set()
        own = {name for part in unit.parts for name in part.params}
        own |= set(params) if unit.recipes is None else set()
        learned = [
            name
            for name in self.net.learned
            if name in self.weights.known and name in params and name in own
        ]
        totals: Tensors = {}
        for part in unit.parts:
            blobs = [values[name] for name in part.bottoms]
            sent = [torch.zeros_like(each) for each in blobs]
            for top in part.tops:
                if top not in made_by_parts:
                    raise BadRequest(
                        f"the port does not make {top} where it has gradients, or in float64: it "
                        "must do the same operations then"
                    )
                made = made_by_parts[top]
                results[top] = made.detach().clone()
                weight = given[f"diff {top}"]
                if weight.numel() != made.numel():  # which is said of the forward
                    misshapen.add(part)
                    continue
                try:
                    found = gradients(made, [*blobs, *(params[name] for name in learned)], weight)
                except Overwritten as error:
                    self._overwritten[part.name] = str(error)
                    misshapen.add(part)
                    continue
                for total, grad in zip(sent, found, strict=False):
                    if grad is not None:
                        total += grad
                for name, grad in zip(learned, found[len(sent) :], strict=True):
                    if grad is not None and not any(
                        name in self._owned[s.index] for s in part.steps
                    ):
                        if bool(grad.any()):  # it is another layer's
                            self._strays.setdefault(part.name, set()).add(name)
                    elif grad is not None:
                        totals[name] = totals[name] + grad if name in totals else grad
            if part in misshapen:
                continue
            for name, grad in zip(part.bottoms, sent, strict=True):
                if part.sent(name) in self._sent:
                    results[part.sent(name)] = grad
        judged = [part for part in unit.parts if part not in misshapen]
        own = {name for part in judged for name in part.params}
        for name in learned:
            if name in own:
                zero = torch.zeros_like(params[name])
                results[GRADIENT + name] = totals.get(name, zero)
        return results

    @cached_property
    def _sent(self) -> Mapping[str, Array32]:
        """What Caffe's layers of each part send back to each of its bottoms but labels."""
        found: dict[str, Array32] = {}
        for part in self.parts:
            for name in part.bottoms:
                pieces = [
                    step.bottom_diffs.get(position)
                    for step in part.steps
                    for position, each in enumerate(step.bottoms)
                    if each == name
                ]
                known = [each for each in pieces if each is not None]
                nothing = np.zeros(self.net.values[name].shape, np.float64)  # propagate_down: false
                total = sum(known, start=nothing).astype(np.float32)
                if name not in self.net.constant:
                    found[part.sent(name)] = total
        return found

    @cached_property
    def _actual(self) -> Mapping[str, Floating]:
        """What Caffe computed, under the keys of `_evaluated`."""
        found: dict[str, Floating] = {**self.net.values, **self._sent}
        return {**found, **{GRADIENT + name: each for name, each in self.net.param_diffs.items()}}

    def _ported(self) -> Mapping[str, Floating]:
        """The same of the port in float32, as it runs as a whole."""
        PROGRESS.tell("running the port, part by part")
        parts = tuple(
            part for part in self.parts if part not in self._random and part not in self._empty
        )
        return self._run_in_float32(Unit(parts))

    @cached_property
    def whole_run(self) -> Mapping[str, Array32]:
        """What the port makes of the inputs by itself, as far as it gets."""
        return self._watched(0)

    def _watched(self, seed: int) -> Mapping[str, Array32]:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            seen = self.run(self.port.in_precision(torch.float32), None, self.params(False))
        return {name: each.numpy() for name, each in seen.own.items()}

    def _inherited(self, expected: Expected) -> Mapping[str, Agreement]:
        """How far a run of the whole port is from Caffe, as a multiple of the parts' own bounds."""
        found = {}
        for name, each in self.whole_run.items():
            shape = self.net.values[name].shape
            if name in expected.truth and expected.truth[name].shape == shape == each.shape:
                truth = self.net.values[name].astype(np.float64)
                worst = {name: expected.bound.worst[name]}
                found[name] = compare(name, each, Expected({name: truth}, Bound(worst, worst)))
        return found

    def _wired(self, part: Part) -> Iterator[Finding]:
        """What the part's calls read in place of what Caffe's layers read."""
        for call, came, value in self._wires(part):
            other = f"{came}, not {value}" if came else f"something else than {value}"
            if call in self.first.changed:
                other += f", {', '.join(self.first.changed[call])} of it"
            elif call in self.first.mixed:
                other = f"{self.first.mixed[call]}, not {value}"
            layer = part.steps[0].name
            words = f"the port's {call} reads {other}, which Caffe's layer {layer} reads"
            if came and came.partition(" (")[0] == value:  # another layer works on it in place
                words += f": what it reads is without {self.net.maker[value].name}"
            yield self._reasons.of(layer, Finding("wiring", words, value))

    def _wires(self, part: Part) -> Iterator[tuple[Call, str, str]]:
        """By call that reads something else than its layer: what, and what the layer reads."""
        calls = {f"the port's {call}": call for call in part.calls}
        for what, came, value in self.first.wired:
            if what in calls:
                yield calls[what], came, value

    def _misled(self, part: Part, findings: Sequence[Finding]) -> Judgement | None:
        """What is wrong in front of a part that is right, where that is all; None for what is not.

        With an input of the net a port does what belongs to the layer that reads it.
        """
        wires = [*self._wires(part)]
        inside = {each.code for each in findings} != {"wiring"} or len(findings) != len(wires)
        if inside or len(wires) != 1:
            return None
        call, came, value = wires[0]
        if came or value in self.net.inputs or call not in self.first.changed:
            return None
        does = f"{', '.join(self.first.changed[call])}, and Caffe's net nothing"
        way = Passage(self.net.maker[value].name, part.steps[0].name, does, {})
        return Judgement(part, findings=findings, blamed=(way.name,), way=way)

    def _also(self, part: Part) -> Iterator[Finding]:
        """What the part sends back to values that its layers do not read."""
        read = {name for step in part.steps for name in step.bottoms} | self.net.constant
        params = self.params(False)
        for top in part.tops:
            recipe = self.first.recipes.get(top)
            taken = (
                [each.name for each in ingredients(recipe) if isinstance(each, Value)]
                if recipe
                else []
            )
            others = [name for name in dict.fromkeys(taken) if name not in read]
            if not recipe or not others:
                continue
            values = {name: self.values[name].clone() for name in taken}
            leaves = [values[name].requires_grad_() for name in others]
            made = followed(recipe, values, self._state(params, torch.float32), {})
            if made.numel() != self.net.diffs[top].size:
                continue
            try:
                grads = gradients(made, leaves, torch.from_numpy(self.net.diffs[top]))
            except Overwritten:  # which is told of the part
                continue
            for name, grad in zip(others, grads, strict=True):
                if grad is not None and bool(grad.any()):
                    words = f"the port's {top} sends a gradient back to {name}, which Caffe's "
                    words += f"{part.name} does not read"
                    yield Finding("wiring", words, name)
        for name in sorted(self._strays.get(part.name, ())):
            words = f"the port's {part.tops[-1]} sends a gradient back to {name}, which Caffe's "
            words += f"{part.name} does not learn"
            yield Finding("wiring", words, name)

    def _counted(self, part: Part) -> Iterator[Finding]:
        """What a forward makes of the statistics of a BatchNorm, where it is not what Caffe's does.

        Bounded by what rounding may do to sums over the batch, whatever their order (Higham, 2002,
        section 4.2): (m + 8) u times the mean of |x|, or of x squared, of its m elements. Float32
        has no 0.999: Caffe's fraction is off by up to u, and so is the weight of what is new.
        """
        for call in part.calls:
            step = self.matched.steps[call][0]
            once = sum(each.module == call.module for each in self.matched.steps) == 1
            if step.type == "BatchNorm" and once and set(step.params) <= self.weights.known:
                yield from self._counted_of(step, self.port.modules[call.module])
        held = {step.index for steps in self.matched.steps.values() for step in steps}
        for step in part.steps:
            known = set(step.params) <= self.weights.known
            if step.type == "BatchNorm" and step.index not in held and known:
                yield from self._counted_of(step)

    def _counted_of(self, step: Step, module: torch.nn.Module | None = None) -> Iterator[Finding]:
        old, new = ([side[name].astype(np.float64) for name in step.params] for side in self._norms)
        fraction = float(step.fields["moving_average_fraction"])
        if fraction >= 1 or not new[2].any() or not old[2].any():
            return
        x = np.moveaxis(self.net.values[step.bottoms[0]].astype(np.float64), 1, 0)
        x = x.reshape(len(x), -1)
        count = x.shape[1]
        batch = x.mean(1), x.var(1) * count / max(count - 1, 1)
        sizes = np.abs(x).mean(1), (x * x).mean(1) * count / max(count - 1, 1)
        for index, what in enumerate(("mean", "variance")):
            [name] = [
                name
                for name, each in self.weights.places.items()
                if each.params[:1] == step.params[index : index + 1]
            ][:1] or [""]
            if not name:
                continue
            own = self._first[1][name].double().numpy().reshape(-1)
            divided = len(self.weights.places[name].params) > 1
            own = own if divided else own / new[2]
            before, after = old[index] / old[2], new[index] / new[2]
            rounding = (
                (1 - fraction) * (count + 8) * sizes[index] + 8 * np.abs(before) + np.abs(after)
            ) + np.abs(batch[index])
            off = np.abs(own - after)  # of two that round, each in its own way
            if np.all(off <= 2 * UNIT_ROUNDOFF * rounding):
                continue
            worst = int(np.argmax(off / rounding))
            gap = batch[index][worst] - before[worst]
            moved = (own[worst] - before[worst]) / gap if gap else 0.0
            usual = getattr(module, "momentum", None)
            still = bool(np.all(np.abs(own - before) <= 4 * UNIT_ROUNDOFF * np.abs(before)))
            way = f"of the way to the batch's {what}"
            own_move = f"moves the port's {name} by {moved:.3g} {way}, Caffe's"
            own_move = (
                f"leaves the port's {name} as it is, and moves Caffe's" if still else own_move
            )
            words = f"a forward {own_move} by {1 - fraction:.3g}{f' {way}' if still else ''} "
            words += f"(moving_average_fraction {fraction:g})"
            if np.array_equal(before, after):  # as with use_global_stats
                words = f"a forward moves the port's {name} by {moved:.3g} {way}, and not Caffe's"
            if module is not None:
                words += f"; {type(module).__name__} has momentum {usual or 'none'}"
            unchosen = isinstance(module, _BatchNorm) and module.momentum == USUAL
            if unchosen:
                words += ", as PyTorch's have unless they are told: a training goes on otherwise"
            cause = UNCHOSEN if unchosen else "momentum"
            yield self._reasons.of(step.name, Finding("statistics", words, step.tops[0], cause))

    @property
    def _norms(self) -> tuple[Mapping[str, Array32], Mapping[str, Array32]]:
        """The net's parameters before a forward, and behind it."""
        return self.net.params, {**self.net.params, **self.net.after}


def read_by(step: Step) -> tuple[str, ...]:
    """The values of which a layer makes its own; of a Crop's second bottom it takes the shape."""
    return step.bottoms[:1] if step.type == "Crop" else step.bottoms


def _refused(found: Comparison) -> str:
    """Why the port raises on Caffe's values, for a message, as far as layers are known to be wrong.

    What lies first in the net is told first: parameters, what a module reads, and shapes.
    """
    net, seen, calls = found.net, found.first, found.matched.steps
    first = {call: steps[0] for call, steps in calls.items()}
    said: list[tuple[int, str]] = []
    misfits = {
        each.tensor: step
        for each in found.weights.findings
        for call, step in first.items()
        if each.cause == "shape" and each.tensor == call.module
    }
    shapes = {
        name: [tuple(one.shape) for one in found.port.modules[name].parameters()]
        for name in misfits
    }
    for each in found.weights.findings:
        if each.tensor in misfits:
            step = misfits[each.tensor]
            others = [
                other.name
                for other in net.steps
                if shapes[each.tensor] == [net.params[one].shape for one in other.params]
            ]
            swapped = f", as the layer {' or '.join(others)} has" if others else ""
            said.append((step.index, each.words.partition(":")[0] + swapped))
    by_words = {f"the port's {call}": step for call, step in first.items()}
    for what, came, value in seen.wired:
        if what in by_words and came:
            words = f"{what} reads {came}, not {value}, as Caffe's layer {by_words[what].name} does"
            said.append((by_words[what].index, words))
    made = {place.top for place in found.matched.layout.calls.values()}
    for name, own in seen.own.items():
        ports, theirs = tuple(own.shape), net.values[name].shape
        reader = next((c for c, step in first.items() if name in step.bottoms), None)
        if ports == theirs or name not in net.maker:
            continue
        if name in made or reader is None or reader not in seen.calls:
            words = f"the port's {name} has shape {ports}, Caffe's {theirs}"
            said.append((net.maker[name].index, words))
        else:
            words = f"the port's {reader} reads what has shape {ports}, and Caffe's layer "
            words += f"{first[reader].name} reads {name} {theirs}"
            said.append((first[reader].index, words))
    words = "; ".join(words for _, words in sorted(said)[:TOLD])
    return f"{words}; so {seen.failed}" if said else str(seen.failed)


TOLD = 3
"""Layers that a refusal names."""


def comparison(
    net: CaffeNet,
    case: Case,
    model: torch.nn.Module,
    phase: str,
    asked: Mapping[str, str],
    left_out: frozenset[str] = frozenset(),
    given: Mapping[str, Array32] | None = None,
    drawn: bool = True,
) -> Comparison:
    """A net, run in Caffe, beside a port whose modules are matched to its layers.

    Args:
        net: the net.
        case: its inputs.
        model: the port; it is copied.
        phase: "TRAIN" or "TEST", which is the port's mode as well.
        asked: layer -> module, where the names do not say it.
        left_out: the layers that the port does without.
        given: parameters and diffs in place of the net's own, as `golden` takes them.
        drawn: whether weights and statistics that nothing gives are drawn, or stay 0.

    Raises:
        VariantFailure: Caffe crashed, hung, or a layer raised.
        BadRequest: the net cannot be built, the port raises, or what is asked for is not there.
        NoCaffe, InstallError: there is no Caffe.
    """
    copied = _copied(model)
    for name, each in model.named_parameters():
        if each.is_floating_point() and each.dtype.itemsize < 4:
            said = str(each.dtype).removeprefix("torch.")
            raise BadRequest(
                f"the port's {name} is {said}, and is compared in float32, as Caffe computes: make "
                "the port in float32, and convert it once it is proved"
            )
    made = golden(net, case, phase, given, drawn)
    if sum(each.size for some in (made.values, made.params) for each in some.values()) > LARGE:
        SESSION.close()  # its memory is as large
        gc.collect()  # and what another phase has left
    port = Port(copied.train(phase == "TRAIN"), made.inputs)
    for own, each in zip(port.model.parameters(), model.parameters(), strict=True):
        own._backward_hooks = each._backward_hooks  # which a copy has not
    found = _matched(made, port, asked, left_out)
    batches = found.batches
    others = [
        _matched(each, port, asked, left_out) for step in batches for each in stacked(made, step)
    ]
    found = min([found, *others], key=lambda each: (each.first.failed is not None, each.doubts))
    recipes = found.first.recipes.items()
    values = {
        name: {each.name for each in ingredients(recipe) if isinstance(each, Value)}
        for name, recipe in recipes
    }
    one = joined(found.net, values)
    found = found if one is found.net else _matched(one, port, asked, left_out)
    _must_take_the_batch(found)
    if found.first.failed:
        told = "".join(f"; --map says {layer}={name}" for layer, name in asked.items())
        told += "".join(
            f"; it gets no {name}: name an argument of its forward so"
            for name in made.inputs
            if name not in port.inputs
        )
        raise BadRequest(_refused(found) + told)
    return cut(found)


def _copied(model: torch.nn.Module) -> torch.nn.Module:
    """A copy of a port that can be watched.

    Raises:
        BadRequest: it is TorchScript, or PyTorch cannot copy it.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise BadRequest(
            "the port is TorchScript, and nothing can be watched inside: give the nn.Module of "
            "which torch.jit has made it"
        )
    for name, each in (*model.named_parameters(), *model.named_buffers()):
        if torch.nn.parameter.is_lazy(each):
            raise BadRequest(
                f"the port's {name} has no shape before it runs: give it one, or run it once on "
                "the net's inputs"
            )
    try:
        return copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:
        raise BadRequest(f"the port cannot be copied: {error}") from error


def _matched(
    made: Golden, port: Port, asked: Mapping[str, str], left_out: frozenset[str]
) -> Comparison:
    """A net beside a port whose modules are matched to its layers.

    Raises:
        BadRequest: what is asked for is not there.
    """
    calls: list[Call] = []
    around: dict[Call, Call] = {}
    while True:  # a port that fails half-way shows what comes behind only with Caffe's values
        matched = match(made, calls, port.modules, asked, around=around)
        weights = weights_of(made, matched, port.modules, calls)
        seen = Comparison(made, port, matched, weights, left_out).first
        if not calls and seen.again:
            port.unused = seen.again
            seen = Comparison(made, port, matched, weights, left_out).first
        if len(seen.calls) <= len(calls):
            break
        calls, around = seen.calls, seen.around
    if seen.signatures and port.leaky is None and not seen.failed:
        port.leaky = Comparison(made, port, matched, weights, left_out).leaky()
        seen = Comparison(made, port, matched, weights, left_out).first
    while seen.failed and not matched.ops.keys() >= seen.ops.keys():
        matched.ops |= seen.ops  # so that all that reads a value between modules has Caffe's
        matched.partial = True
        seen = Comparison(made, port, matched, weights, left_out).first
    if seen.failed:
        return Comparison(made, port, matched, weights, left_out)
    must_be_there(asked, made, calls, port.modules)

    def build(pairs: Pairs, guess: bool) -> Comparison:
        matched = match(made, calls, port.modules, asked, pairs, guess, around)
        weights = weights_of(made, matched, port.modules, calls)
        return Comparison(made, port, matched, weights, left_out)

    told = by_values(Comparison(made, port, matched, weights, left_out), build)
    found = weighed(_ended(crosswise(in_turn(told, build))), build, _ended)
    _must_be_one_call(found)
    return found


def _ended(told: Comparison) -> Comparison:
    """With a match that says which values the port returns, and where it makes losses."""
    made, port, matched, left_out = told.net, told.port, told.matched, told.left_out
    weights, seen = told.weights, told.first
    numbers = {key: float(one.detach()) for key, one in seen.results.items() if one.numel() == 1}
    named = dict(seen.named)
    for key, one in numbers.items():
        like = [name for name, weight in made.losses.items() if _is_loss(made, name, weight, one)]
        named[key] = named[key] or (like[0] if len(like) == 1 < len(numbers) else "")
    ends = ends_of(made, seen.results, left_out, named)
    alone = [name for name, one in numbers.items() if name in made.losses and near(made, name, one)]
    is_sum = len(numbers) == 1 < len(made.losses) and not alone  # of whatever name
    weighed = [name for name in made.losses if is_sum or made.losses[name] != 1]
    matched.ends = {key: name for key, name in ends.items() if name not in weighed}
    found = Comparison(made, port, matched, weights, left_out)
    is_sum = len(numbers) == 1
    behind = {each.behind for each in found.first.numbers}
    if not behind.issuperset(found.losses_between.values()) and found.first.ops:
        matched.ops = matched.ops | found.first.ops  # a value that a later call takes was unknown
        found = Comparison(made, port, matched, weights, left_out)
    own = frozenset(float(each) for each in found.first.own.values() if each.numel() == 1)
    losses = losses_of(made, found.first.numbers, found.losses_between, is_sum, left_out, own)
    known = {*matched.ends.values(), *found.first.own}
    rest = {key: name for key, name in ends.items() if name not in known}
    known |= {each.value for each in losses.values()}
    if losses:  # and what the port calls a loss that is none of these is that one, made wrongly
        rest = {key: name for key, name in rest.items() if key == name and name not in known}
    if rest:
        matched.ends |= rest
        found = Comparison(made, port, matched, weights, left_out)
    matched.ops, matched.partial = matched.ops | found.first.ops | losses, False
    return Comparison(made, port, matched, weights, left_out)


def _must_take_the_batch(found: Comparison) -> None:
    """Checks that no module is called for a part of the batch, and for the rest again.

    Raises:
        BadRequest: one is.
    """
    for call, steps in found.matched.steps.items():
        made, value = found.first.own.get(steps[-1].tops[0]), found.values[steps[-1].tops[0]]
        same = [each for each in found.first.calls if each.module == call.module]
        times = 1 + sum(each not in found.matched.steps for each in same)
        if times == 1 or made is None or made.ndim < 2 or made.shape[1:] != value.shape[1:]:
            continue
        if len(value) == len(made) * times or (found.first.failed and len(value) > len(made) == 1):
            raise BadRequest(
                f"the port calls {call.module} for {len(made)} of {len(value)} samples, and again "
                "for the others: nothing of that is a value of the net. Call it on the whole "
                "batch, or compare a batch of 1"
            )


def _is_loss(net: Golden, name: str, weight: float, number: float) -> bool:
    """Whether a number may be a loss, or that with its weight."""
    return near(net, name, number) or near(net, name, number / weight)


def _must_be_one_call(found: Comparison) -> None:
    """Checks that what a loop over a cell makes is all outputs of a recurrent layer.

    Raises:
        BadRequest: it is not.
    """
    misfits = [each.tensor for each in found.weights.findings if each.cause == "shape"]
    held = [call.module for call in found.matched.steps if call.module not in misfits]
    left = {step.name for step in (*found.unmatched, *found.homeless)}
    for step in found.net.steps:
        call = found.matched.call_of(step)
        known = step.name not in left and call and call.module in held
        if step.type not in ("LSTM", "RNN") or known or step.name in found.left_out:
            continue
        for each in found.first.calls:
            cell = found.port.modules[each.module]
            inside = any(f"{each.module}.".startswith(f"{place}.") for place in held)
            if isinstance(cell, torch.nn.RNNCellBase) and not inside:
                raise BadRequest(
                    f"the port's {each.module} ({type(cell).__name__}) computes one step, and "
                    f"Caffe's layer {step.name} ({step.type}) all: the loop around it belongs in a "
                    "module of its own, with all parameters, which takes the sequence and cont and "
                    "gives all outputs"
                )
