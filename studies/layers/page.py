"""Writes docs/layers.md: what is proved of each layer type's counterpart.

python -m studies.layers.page [--check]
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from studies.layers.example import AGREES, IMPOSSIBLE, REFUSED, UNPROVEN
from studies.layers.search import Counted

COUNTED = Path(__file__).parent / "counted.json"


def read() -> dict[str, dict[str, Any]]:
    """What was counted, by type."""
    found: dict[str, dict[str, Any]] = json.loads(COUNTED.read_text()) if COUNTED.exists() else {}
    return found


def add(counted: Counted, seed: int) -> None:
    """Puts the counts of a type in place of those of a run before."""
    known = read()
    known[counted.kind] = {
        "agree": counted.outcomes[AGREES],
        "same bits": counted.same_bits,
        "unproven": counted.outcomes[UNPROVEN],
        "refused by Caffe": counted.outcomes[REFUSED],
        "undefined in Caffe": counted.outcomes[IMPOSSIBLE],
        "worst": float(f"{counted.worst:.2g}"),
        "seed": seed,
    }
    COUNTED.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")
