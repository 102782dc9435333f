"""The command line of the search: `python -m studies.fuzz`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

DESCRIPTION = """\
Searches for inputs that a variant computes wrongly or that Caffe does not survive: shapes, strides,
values, loss weights, gradients asked for, sharing, and several inputs on one net. What fails is
shrunk and left in a folder that reproduces it. Ends within the budget and one last example.
"""
EPILOG = "exit status: 0 nothing found, 1 something disagrees, 2 it could not be carried out"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m studies.fuzz",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--budget", type=float, default=60.0, metavar="S", help="seconds to search (60)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="decides every example (0)"
    )
    parser.add_argument("--variant", metavar="NAME", help="only this variant, such as caffe-python")
    parser.add_argument("--layer", metavar="NAME", help="only this layer, such as tail_sum")
    parser.add_argument(
        "--net", type=Path, metavar="FILE", help="search this net, which computes --layer"
    )
    parser.add_argument(
        "--path",
        action="append",
        default=[],
        metavar="DIR",
        help="a folder with Python layers, for --net and --replay",
    )
    parser.add_argument(
        "--replay", type=Path, metavar="FOLDER", help="run what is in this folder, and nothing else"
    )
    parser.add_argument(
        "--report",
        type=Path,
        default=Path("parity-report/fuzz"),
        metavar="DIR",
        help="where failures go (parity-report/fuzz)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=20.0,
        metavar="S",
        help="seconds after which a silent Caffe counts as a hang (20)",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs the search or a replay; returns the exit status."""
    start = time.monotonic()
    options = _parser().parse_args(arguments)
    from studies.fuzz import command

    try:
        return command.carried_out(options, start)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
