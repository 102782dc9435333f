"""`python -m caffe_parity` is the command `parity`."""

from __future__ import annotations

from caffe_parity.cli.main import main as command
from caffe_parity.cli.supervised import supervised


def main() -> int:
    """Runs the command line; returns the exit status."""
    return supervised(command)


if __name__ == "__main__":
    raise SystemExit(main())
