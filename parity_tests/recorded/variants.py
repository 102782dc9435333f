"""The recorded Caffe variants: they answer from the corpus, and can be judged like running ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from caffe_parity import Case, Expectation
from caffe_parity.contract import Array32, Observation, Outline, Plan, Tensors, VariantFailure
from caffe_parity.engine.plan import FIRST
from parity_tests.recorded.corpus import Corpus, Recording


@dataclass(frozen=True)
class RecordedVariant:
    """What one Caffe variant did, read from a corpus; implements `caffe_parity.contract.Variant`.

    Attributes:
        recordings: by the name of the case.
        tensors: of the corpus, by their digests.
    """

    recordings: Mapping[str, Recording]
    tensors: Mapping[str, Array32]

    def expects(self, case: Case) -> Expectation | None:
        """What it claimed when it was recorded."""
        return self.recordings[case.name].expectation

    def cannot_run(self) -> str | None:
        """Nothing keeps it from being read."""
        return None

    def outline(self, case: Case, with_params: bool) -> Outline:
        """One loss."""
        return Outline(("loss",), ("loss",))

    def observe(self, plan: Plan) -> Observation:
        """What was recorded: the first pass, whose bits the others had as well.

        Raises:
            VariantFailure: Caffe refused.
        """
        refusal = self.recordings[plan.case.name].refusal
        if refusal:
            raise VariantFailure("crash", refusal)
        return Observation({FIRST: self.computed(plan.case.name)})

    def computed(self, case: str) -> Tensors:
        """What Caffe computed for a case of that name, which it did not refuse."""
        digests = self.recordings[case].digests
        return {name: None if key is None else self.tensors[key] for name, key in digests.items()}


def recorded_variants(corpus: Corpus) -> dict[str, dict[str, RecordedVariant]]:
    """Every variant of a corpus: by layer and name, in the order in which they were recorded."""
    found: dict[str, dict[str, dict[str, Recording]]] = {}
    for each in corpus.recordings:
        found.setdefault(each.layer, {}).setdefault(each.variant, {})[each.case] = each
    return {
        layer: {name: RecordedVariant(of, corpus.tensors) for name, of in variants.items()}
        for layer, variants in found.items()
    }
