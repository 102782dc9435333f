"""Which way a reference decides, over all cases: a decision that always falls alike hides the rest.

A ReLU of positive numbers alone is the identity, and a layer that leaves the other side out agrees.
So the reference runs once more, each comparison, threshold and choice in it is watched, and what
went one way for every element of every case is told, with the line where it stands.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import caffe_parity
from caffe_parity.contract import Case, Finding, Structure
from caffe_parity.engine.expected import all_inputs, fed
from caffe_parity.engine.functions import tops_of, with_params
from caffe_parity.engine.random_rounding import as_inputs
from caffe_parity.engine.threads import one_thread
from caffe_parity.layer import Layer

Site = tuple[str, int]
"""A file and a line in it; ("", 0) for one that is unknown."""

aten = torch.ops.aten
_LIBRARIES = tuple(str(Path(each.__file__ or "").parent) for each in (torch, caffe_parity))


def _beside(x: torch.Tensor, threshold: Any) -> torch.Tensor:
    """Which elements are above; what lies on the edge is on neither side of it."""
    mask: torch.Tensor = (x > threshold)[x != threshold]
    return mask


def _above(threshold: float, x: torch.Tensor, *_: Any) -> torch.Tensor:
    return _beside(x, threshold)


def _argument(position: int, x: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
    """Of `threshold(x, t, value)` and `clamp_min(x, t)` the elements above the bound they name."""
    return _beside(x, more[position])


def _itself(result: torch.Tensor, *_: Any) -> torch.Tensor:
    return result


_OF_ARGUMENTS: dict[Any, Callable[..., torch.Tensor]] = {
    **{
        each: partial(_above, 0.0)
        for each in (aten.relu, aten.relu_, aten.leaky_relu, aten.elu, aten.celu, aten.abs)
    },
    aten._prelu_kernel: partial(_above, 0.0),
    aten.threshold: partial(_argument, 0),
    aten.clamp_min: partial(_argument, 0),
    aten.clamp_min_: partial(_argument, 0),
    aten.clamp_max: partial(_argument, 0),
    aten.clamp_max_: partial(_argument, 0),
    aten.maximum: partial(_argument, 0),
    aten.minimum: partial(_argument, 0),
    aten.where: _itself,
}
"""Which elements go one way, from an operation's arguments."""

_RESULTS = {each for name in ("gt", "ge", "lt", "le", "eq", "ne") for each in [getattr(aten, name)]}
"""Comparisons: their results say it."""

_BETWEEN = {aten.clamp, aten.clamp_, aten.hardtanh}
"""With a lower and an upper bound, either of which may be None."""


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tells of each decision which ways it goes."""

    def __init__(self, seen: Callable[[Site, str, torch.Tensor], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = seen

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False, as in RandomRounding."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        decides = packet in _OF_ARGUMENTS or packet in _BETWEEN or packet in _RESULTS
        if not decides:
            return func(*args, **kwargs)
        site = _site(sys._getframe(1))
        name = packet.__name__.strip("_")
        if packet in _OF_ARGUMENTS:
            self.seen(site, name, _OF_ARGUMENTS[packet](*args))
        if packet in _BETWEEN:
            for bound in (*args[1:3], kwargs.get("min"), kwargs.get("max")):
                if bound is not None:
                    self.seen(site, f"{name} at {float(bound):g}", _beside(args[0], bound))
        result = func(*args, **kwargs)
        if packet in _RESULTS:
            about_an_edge = name in ("gt", "ge", "lt", "le")
            self.seen(site, name, _beside(args[0], args[1]) if about_an_edge else result)
        return result


def _site(frame: FrameType | None) -> Site:
    """The line nearest to an operation that is neither PyTorch's nor of this package."""
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((*_LIBRARIES, "<")):
            return file, frame.f_lineno
        frame = frame.f_back
    return "", 0


@dataclass
class Sides:
    """The decisions of a layer's reference, over the cases that it was watched on.

    Attributes:
        layer: whose reference it is.
        ways: which ways each decision went, by its place and the operation.
    """

    layer: Layer
    ways: dict[tuple[Site, str], set[bool]] = field(default_factory=dict)

    def watch(self, case: Case, structure: Structure) -> None:
        """Runs the reference on a case.

        Raises:
            BadRequest: it cannot be evaluated.
        """
        params = structure.params
        inputs = {**fed(case, case.arrays(case)), **case.parameters(params, False)}
        function = with_params(self.layer.reference, params, "reference")
        tensors = all_inputs(case, as_inputs(inputs))
        with (
            one_thread(max((each.size for each in inputs.values()), default=0)),
            _Watch(self._seen),
        ):
            tops_of(function, tensors, structure.outputs, "reference")

    def _seen(self, site: Site, name: str, mask: torch.Tensor) -> None:
        if not isinstance(mask, torch.Tensor) or not mask.numel():
            return
        ways = self.ways.setdefault((site, name), set())
        if len(ways) < 2:
            ways |= {bool(each) for each in (mask.any().item(), mask.all().item())}

    def notes(self) -> list[Finding]:
        """A note on each line where decisions fall the same way for every element."""
        sites: dict[Site, list[str]] = {}
        for (site, name), ways in self.ways.items():
            if len(ways) == 1:
                sites.setdefault(site, []).append(name)
        return [
            Finding(
                "one-side",
                f"{_place(site)}: {' and '.join(names)} went the same way for every element of "
                "every case, so what the layer does the other way is not seen: give inputs that "
                "reach it, by --data or --inputs",
            )
            for site, names in sites.items()
        ]


def _place(site: Site) -> str:
    file, line = site
    if not file:
        return "in the reference"
    text = linecache.getline(file, line).strip()
    return f"{Path(file).name}:{line}" + (f" ({text})" if text else "")
