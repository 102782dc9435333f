"""Commands of `parity` in this process, for tests."""

from __future__ import annotations

from caffe_parity.cli.main import main


def check(*arguments: str) -> int:
    """The exit status of `parity check`."""
    return main(["check", *arguments])
