"""The main job, which is `tox -e parity`: `parity run` on the three layers of this suite."""

from __future__ import annotations

import sys
from pathlib import Path

from caffe_parity.cli.main import main

TESTS = Path(__file__).with_name("test_parity.py")

if __name__ == "__main__":
    raise SystemExit(main(["run", str(TESTS), "--called", "tox -e parity --", *sys.argv[1:]]))
