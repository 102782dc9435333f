"""One variant on one case, as a test; and the decorator that makes a test of each of them."""

from __future__ import annotations

import contextlib
import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from caffe_parity.contract import BadRequest, Case, Finding, ParityError
from caffe_parity.engine.caffe_net import CaffeNet
from caffe_parity.engine.judge import judge, variant_of
from caffe_parity.layer import BadLayer, Layer
from caffe_parity.nets import Declared, located
from caffe_parity.report import one_layer
from caffe_parity.report.annotations import harmless, in_github
from caffe_parity.report.record import Key, Record, not_compared

Test = TypeVar("Test", bound=Callable[..., Any])


class Comparison:
    """One variant of a layer on one case; what a test gets that `parametrize` decorates.

    Attributes:
        layer, variant, case: what is compared; the variant by its name.
        group: what is best run in one process has the same one: the variants of a case, which
            share its truth, or all cases of a variant that is `together`.
        record: what came out; None until it ran.
    """

    def __init__(self, layer: Layer, variant: str, case: Case, group: str = "") -> None:
        self.layer = layer
        self.variant = variant
        self.case = case
        self.together = bool(getattr(layer.variants.get(variant), "together", False))
        self.group = variant if self.together else group
        self.record: Record | None = None

    def __repr__(self) -> str:
        return "-".join(self.key)

    @property
    def key(self) -> Key:
        """The names of layer, variant and case."""
        return self.layer.name, self.variant, self.case.name

    @property
    def needs_caffe(self) -> bool:
        """Whether it runs in Caffe, here; a port does not."""
        variant = variant_of(self.layer, self.variant)
        return isinstance(variant, CaffeNet) and not variant.cannot_run()

    def compile(self) -> None:
        """Compiles what its variant loads; what goes wrong there is told by its test."""
        variant = variant_of(self.layer, self.variant)
        if isinstance(variant, CaffeNet) and not variant.cannot_run():
            with contextlib.suppress(ParityError, OSError):
                variant.made  # noqa: B018

    def check(self) -> None:
        """Runs it; the test fails unless the variant agrees with the reference.

        Each finding is a line of the failure, and begins with its code (docs/check.md). A variant
        that cannot run on this machine is skipped, with the reason.
        """
        __tracebackhide__ = True
        self.findings()
        assert self.record is not None
        if self.record.wrong:  # another case may prove it
            words = "\n".join(one_layer.failure(self.record))
            pytest.fail(harmless(words) if in_github() else words, pytrace=False)

    def findings(self) -> list[Finding]:
        """Runs it; returns what is wrong with the variant.

        The test fails, with the reason, if it cannot be run at all: there is no Caffe, or the net
        cannot be built.
        """
        __tracebackhide__ = True
        obstacle = ""
        try:
            self.record = judge(self.layer, self.variant, self.case)
        except (ParityError, OSError) as error:
            obstacle = str(error)
            self.record = not_compared(self.key, obstacle)
        if obstacle:  # told once: not also as what another error came from
            pytest.fail(f"{self} could not be compared: {obstacle}", pytrace=False)
        if self.record.verdict == "not run":
            pytest.skip(f"not run: {self.record.reason}")
        return list(self.record.findings)


def parametrize(*layers: Layer) -> Callable[[Test], Test]:
    """Runs a test for each case of each variant of these layers, as its argument `comparison`.

    The ids are LAYER-VARIANT-CASE, such as smooth_l1-caffe-python-3.

    Raises:
        BadLayer: no layers, two of one name, one without variants, or a file that is not there.
    """
    for each in layers:
        if not isinstance(each, Layer):
            raise BadLayer(f"parametrize: expected caffe_parity.Layer objects, got {each!r}")
        if not each.variants:
            raise BadLayer(
                f"layer {each.name!r}: it has no variants, so there is nothing to compare"
            )
    if not layers:
        raise BadLayer("parametrize: expected one caffe_parity.Layer or more")

    def decorated(test: Test) -> Test:
        folder = Path(inspect.getfile(inspect.unwrap(test))).resolve().parent
        all_ = [each for layer in layers for each in _comparisons(_located(layer, folder))]
        twice = [name for name, count in Counter(map(str, all_)).items() if count > 1]
        if twice:
            raise BadLayer(f"two layers or variants give the test id {twice[0]!r}: rename one")
        mark: Callable[[Test], Test] = pytest.mark.parametrize("comparison", all_, ids=str)
        return mark(test)

    return decorated


def _located(layer: Layer, folder: Path) -> Layer:
    """The layer with its nets where their files are.

    Raises:
        BadLayer: a file is not there.
    """
    variants = dict(layer.variants)
    for name, each in variants.items():
        if isinstance(each, Declared):
            try:
                variants[name] = located(each, folder)
            except BadRequest as error:
                raise BadLayer(
                    f"layer {layer.name!r}, variant {name!r}: {error} (relative paths start at the "
                    "folder of the test file)"
                ) from error
    return replace(layer, variants=variants)


def _comparisons(layer: Layer) -> Iterator[Comparison]:
    """Every case of every variant; those that share a case and a Caffe follow one another.

    A case's truth and bound are then computed once, and Caffe need not start again, as it must for
    Python layers in other folders.
    """
    by_path: dict[tuple[str, ...] | None, list[str]] = {}
    for name, variant in layer.variants.items():
        path = variant.path if isinstance(variant, CaffeNet) else None
        by_path.setdefault(path, []).append(name)
    ports = by_path.pop(None, [])
    if len(by_path) == 1:
        by_path = {key: [*names, *ports] for key, names in by_path.items()}
    elif ports:
        by_path[None] = ports
    for number, names in enumerate(by_path.values()):
        for case in layer.all_cases():
            group = f"{layer.name}-{number}-{case.name}"
            yield from (Comparison(layer, name, case, group) for name in names)
