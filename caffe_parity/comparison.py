"""One variant on one case, as a test; and the decorator that makes a test of each of them."""

from __future__ import annotations

import argparse
import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

from caffe_parity.caffe.client import Caffe, CaffeError
from caffe_parity.caffe.interpreter import NoCaffe
from caffe_parity.check import examine, output, prepare
from caffe_parity.check.findings import Finding
from caffe_parity.check.observe import Plan
from caffe_parity.contract import BadRequest
from caffe_parity.engine.sources import Net
from caffe_parity.layer import BadLayer, CaffeNet, CaffeVariant, Function, Layer, located
from caffe_parity.process import SHARED, NoneToCompareWith
from caffe_parity.report.environment import environment as used_environment

Test = TypeVar("Test", bound=Callable[..., Any])
Record = dict[str, Any]


class _Variant:
    """A variant of a layer, with what all of its cases share."""

    def __init__(self, layer: Layer, name: str, folder: Path) -> None:
        self.layer = layer
        self.name = name
        given = layer.variants[name]
        self.caffe: CaffeVariant | None = None
        self.port: Function | None = None
        if callable(given):
            self.port = given
        else:
            self.caffe = located(given, list(layer.inputs), folder)
        self._check: examine.Check | None = None
        self._refusal: BadRequest | None = None

    def running(self) -> Caffe | None:
        """The Caffe that it runs in; None for a port.

        Raises:
            NoneToCompareWith: there is none.
        """
        if self.caffe is None:
            return None
        module = self.caffe.spec.rpartition(":")[0] or self.caffe.spec
        return SHARED.running((str(Path(module).parent), *self.caffe.path))

    def check(self, caffe: Caffe | None) -> examine.Check:
        """What to check; a net is built once, and one that cannot be is not tried again.

        Raises:
            BadRequest: it cannot be carried out.
        """
        if self._refusal is not None:
            raise self._refusal
        if self._check is None:
            try:
                self._check = self._port_check() if caffe is None else self._caffe_check(caffe)
            except BadRequest as error:
                self._refusal = error
                raise
        return self._check

    def _caffe_check(self, caffe: Caffe) -> examine.Check:
        layer, variant = self.layer, self.caffe
        assert variant is not None
        shapes = {name: tuple(shape) for name, shape in layer.inputs.items()}
        bottoms = [f"{name}={','.join(map(str, shape))}" for name, shape in shapes.items()]
        options = argparse.Namespace(
            net=variant.spec,
            reference=layer.reference,
            port=None,
            bottom=[] if isinstance(variant, CaffeNet) else bottoms,
            param_str=variant.param_str,
            path=variant.path,
            load=variant.load,
            data=[f"{name}={kind}" for name, kind in layer.data.items()],
            inputs=None,
            py2=False,
            grad=None if layer.grad is None else ",".join(layer.grad),
            cases=layer.cases,
            seed=layer.seed,
        )
        return prepare.prepared(options, caffe, shapes)

    def _port_check(self) -> examine.Check:
        layer = self.layer
        plan = Plan(
            net=Net(self.name, "", ()),
            shapes={name: tuple(shape) for name, shape in layer.inputs.items()},
            outputs=(),
            gradients=layer.gradients,
            libraries=(),
            is_loss=False,
        )
        check = examine.Check(
            plan, layer.reference, self.port, layer.kinds, None, layer.cases, layer.seed
        )
        return examine.of_port_alone(check)


class Comparison:
    """One variant of a layer on one case; what a test gets that `parametrize` decorates.

    Attributes:
        layer: the layer.
        variant: the variant's name.
        case: the case's number; with the layer's seed it makes the inputs.
        record: what came out, as JSON data; None until it ran.
    """

    def __init__(self, layer: Layer, variant: _Variant, case: int) -> None:
        self.layer = layer
        self.variant = variant.name
        self.case = case
        self.record: Record | None = None
        self._variant = variant

    def __repr__(self) -> str:
        return f"{self.layer.name}-{self.variant}-{self.case}"

    @property
    def needs_caffe(self) -> bool:
        """Whether it runs in Caffe; a port does not."""
        return self._variant.caffe is not None

    def check(self) -> None:
        """Runs it; the test fails unless the variant agrees with the reference.

        Each finding is a line of the failure, and begins with its code (docs/check.md).
        """
        __tracebackhide__ = True
        lines = [f"{each.code}: {each.words}" for each in self.findings()]
        if lines:
            assert self.record is not None
            printed = self.record["output"].strip().splitlines()[-15:]
            if printed:
                lines += ["", "what was printed:", *printed]
            pytest.fail("\n".join(lines), pytrace=False)

    def findings(self) -> list[Finding]:
        """Runs it; returns what is wrong with the variant.

        The test fails, with the reason, if it cannot be run at all: there is no Caffe, or the net
        cannot be built.
        """
        __tracebackhide__ = True
        verdict = self._verdict()
        if isinstance(verdict, str):
            self.record = self.not_run(verdict)
            pytest.fail(f"{self} could not be compared: {verdict}", pytrace=False)
        self.record = self._record({**output.summary(verdict), "output": verdict.output})
        return [finding for finding, _ in verdict.found.values()]

    def _verdict(self) -> examine.Verdict | str:
        """What came out, or why nothing did."""
        try:
            caffe = self._variant.running()
            check = self._variant.check(caffe)
            return examine.run(check, caffe, lambda case: None, [self.case])
        except (BadRequest, NoneToCompareWith, NoCaffe, OSError) as error:
            return str(error)

    def not_run(self, reason: str) -> Record:
        """The record of a comparison that gave no result."""
        return self._record({"cases": 0, "agrees": False, "findings": [], "error": reason})

    def _record(self, outcome: Mapping[str, Any]) -> Record:
        variant = self._variant
        return {
            "layer": self.layer.name,
            "variant": self.variant,
            "case": self.case,
            "seed": self.layer.seed,
            "net": variant.caffe.spec if variant.caffe else None,
            "reference": _name(self.layer.reference),
            "port": _name(variant.port) if variant.port else None,
            **outcome,
        }


def _name(function: Function) -> str:
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"


def parametrize(*layers: Layer) -> Callable[[Test], Test]:
    """Runs a test for each case of each variant of these layers, as its argument `comparison`.

    The ids are LAYER-VARIANT-CASE, such as smooth_l1-caffe-python-3.

    Raises:
        BadLayer: no layers, two of one name, or a file that is not there.
    """
    for each in layers:
        if not isinstance(each, Layer):
            raise BadLayer(f"parametrize: expected caffe_parity.Layer objects, got {each!r}")
    if not layers:
        raise BadLayer("parametrize: expected one caffe_parity.Layer or more")

    def decorated(test: Test) -> Test:
        folder = Path(inspect.getfile(inspect.unwrap(test))).resolve().parent
        all_ = [each for layer in layers for each in _comparisons(layer, folder)]
        twice = [name for name, count in Counter(map(str, all_)).items() if count > 1]
        if twice:
            raise BadLayer(f"two layers or variants give the test id {twice[0]!r}: rename one")
        mark: Callable[[Test], Test] = pytest.mark.parametrize("comparison", all_, ids=str)
        return mark(test)

    return decorated


def _comparisons(layer: Layer, folder: Path) -> list[Comparison]:
    found = []
    for name in layer.variants:
        try:
            variant = _Variant(layer, name, folder)
        except BadRequest as error:
            raise BadLayer(f"layer {layer.name!r}, variant {name!r}: {error}") from error
        found += [Comparison(layer, variant, case) for case in range(layer.cases)]
    return found


def environment() -> dict[str, Any]:
    """The versions that the results of this process depend on."""
    used = SHARED.used
    try:
        if used:
            used.start()
    except (NoCaffe, CaffeError):  # it crashed, and does not start any more
        used = None
    return used_environment(caffe=used)
