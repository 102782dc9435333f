"""What a check keeps of the tensors that came out, for its JSON file: tops and gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from caffe_parity.check.observe import Arrays, Observation
from caffe_parity.engine.random_rounding import GRADIENT
from caffe_parity.report.bits import Kept, keep


def by_caffe(seen: Observation) -> dict[str, tuple[Kept, ...]]:
    """What Caffe computed: each top over both passes; each gradient over all backwards.

    The passes are named "upstream 1" (with the first upstream gradient), "upstream 2" and so on;
    "again" is the second backward without a forward, "second" the second whole pass.
    """
    tops: dict[str, Mapping[str, Arrays]] = {
        name: {"upstream 1": seen.tops, "second": seen.second_tops} for name in seen.tops
    }
    diffs: Mapping[str, Arrays] = {
        **_numbered(seen.diffs),
        "again": seen.again,
        "second": seen.second_diffs,
    }
    kept = {name: keep({key: each[name] for key, each in tops[name].items()}) for name in tops}
    for name in seen.diffs[0]:
        kept[GRADIENT + name] = keep({key: each[name] for key, each in diffs.items()})
    return kept


def by_port(results: Sequence[Arrays]) -> dict[str, tuple[Kept, ...]]:
    """What the port computed for each upstream gradient: tops and gradients (GRADIENT + input)."""
    passes = _numbered(results)
    return {name: keep({key: each[name] for key, each in passes.items()}) for name in results[0]}


def _numbered(arrays: Sequence[Arrays]) -> dict[str, Arrays]:
    return {f"upstream {index + 1}": each for index, each in enumerate(arrays)}
