"""The command line: one parser, typed requests."""

from __future__ import annotations

import argparse
from pathlib import Path


def path(text: str) -> Path:
    """A file or a folder as an option's value; "" is none, though `Path` takes it for ".".

    Raises:
        ArgumentTypeError: nothing is named.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r}: expected the name of a file or a folder")
    return Path(text)
