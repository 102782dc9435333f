"""How this project came here: as a checkout of its repository, or by pip."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]


def advice(checkout: str, package: str) -> str:
    """Return what fits: advice for a checkout, which has a tox.ini, or for a package of pip's."""
    return checkout if (ROOT / "tox.ini").is_file() else package
