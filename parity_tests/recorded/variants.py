"""The recorded Caffe variants: they answer from the corpus, and can be judged like running ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from caffe_parity.contract import (
    PASSES,
    TENSORS,
    Array32,
    Case,
    Expectation,
    Inputs,
    Pass,
    Result,
    Run,
    VariantFailure,
)
from parity_tests.recorded.corpus import Corpus, Recording

FIRST = next(iter(PASSES))
"""The pass that is recorded; when it was, the others had the same bits."""


@dataclass(frozen=True)
class RecordedVariant:
    """What one Caffe variant did, read from a corpus; implements `caffe_parity.contract.Variant`.

    Attributes:
        name, layer: of the variant that was recorded.
        recordings: by the name of the case.
        tensors: of the corpus, by their digests.
    """

    name: str
    layer: str
    recordings: Mapping[str, Recording]
    tensors: Mapping[str, Array32]

    def expects(self, case: Case) -> Expectation | None:
        """What it claimed when it was recorded."""
        return self.recordings[case.name].expectation

    def cannot_run(self) -> str | None:
        """Nothing keeps it from being read."""
        return None

    def run(self, case: Case, inputs: Inputs, other: Inputs, larger: Inputs) -> Run:
        """The recorded pass.

        Raises:
            VariantFailure: Caffe refused.
        """
        refusal = self.recordings[case.name].refusal
        if refusal:
            raise VariantFailure("crash", refusal)
        return Run((Pass(FIRST, PASSES[FIRST], self.result(case.name)),))

    def result(self, case: str) -> Result:
        """What Caffe computed for a case of that name, which it did not refuse."""
        keys = self.recordings[case].digests
        loss, dx1, dx2 = (self.tensors[key] if (key := keys[name]) else None for name in TENSORS)
        assert loss is not None
        return Result(loss, dx1, dx2)


def recorded_variants(corpus: Corpus) -> list[RecordedVariant]:
    """Every variant of a corpus, in the order in which they were recorded."""
    found: dict[tuple[str, str], dict[str, Recording]] = {}
    for each in corpus.recordings:
        found.setdefault((each.layer, each.variant), {})[each.case] = each
    return [
        RecordedVariant(name, layer, recordings, corpus.tensors)
        for (layer, name), recordings in found.items()
    ]
