"""Draws docs/rounding_ratios.svg from docs/rounding_ratios.json.

    python -m studies.rounding_plot

Needs matplotlib (the dependency group `plots`). A row is a variant, a column a power of two of
error/bound; the darker, the more cases. Right of 1 there would be violations.
"""

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

DOCS = Path(__file__).parent.parent / "docs"
POWERS = list(range(-24, 3))
PANELS = {"loss": "loss", "dx1": "gradient of x1 (its worst element)"}


def shares(tensor: dict[str, Any]) -> list[float]:
    """The share of cases in "exact" and below each power of two."""
    counts = {int(power): count for power, count in tensor["below_power_of_two"].items()}
    first = sum(count for power, count in counts.items() if power <= POWERS[0])
    values = [tensor["exact"], first, *(counts.get(power, 0) for power in POWERS[1:])]
    total = tensor["exact"] + sum(counts.values())
    return [value / total for value in values]


def main() -> None:
    """Reads the data and writes the picture."""
    data = json.loads((DOCS / "rounding_ratios.json").read_text())
    names = list(data["ratios"])
    figure, axes = plt.subplots(1, 2, figsize=(13, 6), sharey=True)
    for axis, (tensor, title) in zip(axes, PANELS.items(), strict=True):
        image = np.array([shares(data["ratios"][name][tensor]) for name in names])
        axis.imshow(image, aspect="auto", cmap="Greys", vmin=0, vmax=0.3)
        axis.set_title(title)
        limit = 1 + POWERS.index(0)
        axis.axvline(limit + 0.5, color="tab:red", linewidth=1.5)
        axis.text(limit + 0.4, -0.8, "bound", color="tab:red", va="bottom", ha="right")
        ticks = [0, *range(1 + POWERS.index(-20), len(POWERS) + 1, 5)]
        labels = ["exact"] + [f"$2^{{{POWERS[tick - 1]}}}$" for tick in ticks[1:]]
        axis.set_xticks(ticks, labels)
        axis.set_xlabel("error / bound, up to")
        for row, name in enumerate(names):
            largest = data["ratios"][name][tensor]["largest"]
            axis.text(len(POWERS) + 0.7, row, f"{largest:.2f}", va="center", fontsize=8)
        axis.text(len(POWERS) + 0.7, -0.8, "largest", va="bottom", fontsize=8)
    axes[0].set_yticks(range(len(names)), names)
    figure.suptitle(
        f"{data['cases_for_each']:,} random cases for each variant, {data['violations']} violations"
    )
    figure.tight_layout()
    figure.savefig(DOCS / "rounding_ratios.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
