"""What lies between two layers of a port, is wrong, and belongs to neither.

A part of a port begins at values of the net and ends at one. Operations at its beginning may change
such a value before the layer reads it, those at its end what the layer has made: a permutation
before a flatten, a shorter format, a hook on the gradient. If the part is right without them, they
are what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from caffe_parity.contract import Finding
from caffe_parity.whole.port import spelled
from caffe_parity.whole.recipe import (
    RAISED,
    Made,
    Recipe,
    Value,
    followed,
    hooked,
    ingredients,
    keeps,
    steps_of,
)

if TYPE_CHECKING:
    from caffe_parity.whole.judged import Comparison, Part

FINE = 2.0**-14
"""Of a value's largest element: less than that is rounding, as far as tries and cuts go."""

TRIES = 6
"""Ways in which a part may be without something that are tried."""

PASSING = frozenset(
    """
    permute transpose t adjoint movedim moveaxis swapaxes swapdims roll flip fliplr flipud rot90
    half bfloat16 float double to type type_as detach hooked
    """.split()  # noqa: SIM905
)
"""Operations that compute no layer: they order numbers anew, or change their format or gradient."""


@dataclass(frozen=True)
class Passage:
    """The way from one layer to another.

    Attributes:
        before, after: the layers, or an input of the net.
        does: what the port does there.
        recipes: of the part's tops, without that.
        is_own: whether it is what the second does with an input of the net.
    """

    before: str
    after: str
    does: str
    recipes: Mapping[str, Recipe]
    is_own: bool = False

    @property
    def name(self) -> str:
        """Of the way."""
        return f"{self.before} -> {self.after}"

    def told(self, findings: Sequence[Finding]) -> list[Finding]:
        """What was found of the part, as said of the way."""
        first, *rest = findings
        where = f"between {self.before} and {self.after} the port has {self.does}"
        return [replace(first, words=f"{where}: {first.words}"), *rest]

    def merged(self, other: Passage) -> Passage:
        """With another way from the same layer, on which the port does the same."""
        return replace(self, after=f"{self.after}, {other.after}")


def stripped(compared: Comparison, part: Part) -> Iterator[Passage]:
    """The part without what orders numbers anew, or changes their format, at one of its ends.

    Whether it is right then is not known: one of its layers may be wrong besides.
    """
    for top in part.tops:
        root = compared.first.recipes.get(top)
        nodes = steps_of(root) if root else []
        values = {name: each.clone() for name, each in compared.values.items()}
        done: dict[int, torch.Tensor] = {}
        for run in _runs(nodes):
            below = run[0].args[0]
            if not root or not _free(compared, run):
                continue
            with torch.no_grad():
                followed(root, values, compared.state(), done)
                taken = followed(below, values, compared.state(), done)
            does = _does(run, taken, done[id(run[-1])])
            other = _with(root, {id(run[-1]): below})
            at_end = all(keeps(each) for each in _behind(nodes, run[-1]))
            while isinstance(below, Made) and keeps(below):
                below = below.args[0]
            readers = [step.name for step in compared.net.steps if top in step.bottoms]
            if at_end and readers:
                after = ", ".join(dict.fromkeys(readers))
                yield Passage(compared.net.maker[top].name, after, does, {top: other})
            elif isinstance(below, Value) and below.name in compared.net.maker:
                first = [step.name for step in part.steps if below.name in step.bottoms]
                maker = compared.net.maker[below.name].name
                yield Passage(maker, ", ".join(first), does, {top: other})


def right_without(compared: Comparison, top: str) -> bool:
    """Whether the port makes a value without some of what changes it on the way."""
    root = compared.first.recipes.get(top)
    if root is None:
        return False
    values = {name: each.clone() for name, each in compared.values.items()}
    for run in _runs(steps_of(root)):
        other = _with(root, {id(run[-1]): run[0].args[0]})
        try:
            with torch.no_grad():
                made = followed(other, values, compared.state(), {})
        except (RuntimeError, IndexError):  # it need not fit without it
            continue
        if _near(made, compared.values[top]):
            return True
    return False


def _runs(nodes: Sequence[Made]) -> list[list[Made]]:
    """The operations that compute no layer, each with those that follow on it."""
    runs: list[list[Made]] = []
    for each in nodes:
        name = getattr(each.func, "__name__", "").strip("_")
        first = each.args[0] if each.args else None
        if name in PASSING and isinstance(first, Recipe):
            behind = [run for run in runs if run[-1] is first]
            if behind:
                behind[0].append(each)
            else:
                runs.append([each])
    return runs


def _behind(nodes: Sequence[Made], first: Made) -> list[Made]:
    """The operations that are made of what one makes."""
    known = {id(first)}
    found = []
    for each in nodes:
        if not known.isdisjoint(map(id, tree_leaves((each.args, each.kwargs)))):
            known.add(id(each))
            found.append(each)
    return found


def passages(compared: Comparison, part: Part) -> Iterator[Passage]:
    """The ways from and to a part that what is wrong may lie on, each with the part without it."""
    known = {top: compared.first.recipes.get(top) for top in part.tops}
    roots = {top: each for top, each in known.items() if each is not None}
    if len(roots) < len(known):
        return
    tries = iter(range(TRIES))
    for top, root in roots.items():
        for passage in _of(compared, part, top, root):
            yield replace(passage, recipes={**roots, **passage.recipes})
            if next(tries, None) is None:
                return


def _of(compared: Comparison, part: Part, top: str, root: Recipe) -> Iterator[Passage]:
    values = {name: each.clone() for name, each in compared.values.items()}
    done: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        made = followed(root, values, compared.state(), done)
    net, value = compared.net, compared.values[top]
    nodes = steps_of(root)
    readers = [step.name for step in net.steps if top in step.bottoms]
    if nodes and readers:
        for each in nodes[:-1]:
            behind = _between(nodes, each)
            if _near(done[id(each)], value) and behind and _free(compared, behind):
                after = ", ".join(dict.fromkeys(readers))
                does = _does(behind, value, made)
                yield Passage(net.maker[top].name, after, does, {top: each})
                break
    found: dict[str, list[tuple[Made, Recipe]]] = {}
    for bottom in part.bottoms:
        value = compared.values[bottom]
        for each in reversed(nodes):
            arrived = done[id(each)]
            of_it = {one.name for one in ingredients(each) if isinstance(one, Value)} == {bottom}
            same = of_it and arrived.numel() == value.numel()
            if same and _free(compared, steps_of(each)):
                given: Recipe = Value(bottom, tuple(arrived.shape))
                if not arrived.is_floating_point():
                    given = Made(torch.Tensor.to, (given, arrived.dtype), {})
                found.setdefault(bottom, []).append((each, given))
    ways = [{bottom: each} for bottom, some in found.items() for each in some]
    ways += [{bottom: some[0] for bottom, some in found.items()}] if len(found) > 1 else []
    for way in ways:
        other = _with(root, {id(each): given for each, given in way.values()})
        try:
            with torch.no_grad():
                without = followed(other, values, compared.state(), {})
        except RAISED:  # the rest needs it, as a loss does whose labels are chosen alike
            continue
        if not _near(without, compared.values[top]):
            continue
        makers = [net.maker[bottom].name if bottom in net.maker else bottom for bottom in way]
        readers = [step.name for step in part.steps if not set(way).isdisjoint(step.bottoms)]
        bottom, (each, _) = next(iter(way.items()))
        inside = [one for one in steps_of(each) if not keeps(one)] or steps_of(each)
        does = _does(inside, compared.values[bottom], done[id(each)])
        is_own = not set(way) <= set(net.maker)
        yield Passage(", ".join(makers), ", ".join(readers), does, {top: other}, is_own)


def _between(nodes: Sequence[Made], first: Made) -> list[Made]:
    """The operations behind one that its result goes on through alone; [] where others come in."""
    known = {id(each) for each in steps_of(first)}
    rest = [each for each in nodes if id(each) not in known]
    fed = all(_reads_only(each, known | {id(one) for one in rest}) for each in rest)
    changing = [each for each in rest if not keeps(each)]
    return (changing or rest) if fed else []


def _reads_only(each: Made, known: set[int]) -> bool:
    taken = tree_leaves((each.args, each.kwargs))
    recipes = [one for one in taken if isinstance(one, Recipe)]
    return bool(recipes) and all(id(one) in known for one in recipes)


def _free(compared: Comparison, some: Sequence[Made]) -> bool:
    """Whether operations lie between the modules of layers, and in none."""
    known = [compared.first.nodes.get(id(each)) for each in some]
    return not any(each.inside for each in known if each)


def _near(made: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether numbers are a value's, in its order, but for rounding."""
    if made.numel() != value.numel() or not made.is_floating_point():
        return False
    off = (made.reshape(-1).to(value) - value.reshape(-1)).abs().max()
    return bool(off <= FINE * value.abs().max())


def _with(recipe: Recipe, given: Mapping[int, Recipe]) -> Recipe:
    """A recipe with others in the place of some of its operations, by their ids."""
    done = dict(given)

    def new(each: Any) -> Any:
        return done.get(id(each), each)

    for each in steps_of(recipe):
        if id(each) not in given:
            args, kwargs = tree_map(new, (each.args, each.kwargs))
            done[id(each)] = Made(each.func, args, kwargs, each.pick)
    return done.get(id(recipe), recipe)


def _does(some: Sequence[Made], value: torch.Tensor, arrived: torch.Tensor) -> str:
    """What the port does on the way."""
    words = f"{', '.join(map(spelled, some))}, and Caffe's net nothing"
    if any(each.func is hooked for each in some):
        return f"{words}: it changes the gradient"
    flat = arrived.detach().reshape(-1).to(value)
    if torch.equal(flat, value.reshape(-1)):
        return words
    if value.ndim == 4 and torch.equal(flat, value.permute(0, 2, 3, 1).reshape(-1)):
        return f"{words}: the values arrive in another order, channels last"
    if torch.equal(flat.sort().values, value.reshape(-1).sort().values):
        return f"{words}: the values arrive in another order"
    return words
