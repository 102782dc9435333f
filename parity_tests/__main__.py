"""The main job, which is `tox -e parity`: `parity run` on the three layers of this suite."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from caffe_parity.cli.main import main
from caffe_parity.cli.supervised import supervised

TESTS = Path(__file__).with_name("test_parity.py")

if __name__ == "__main__":
    called = "tox -e parity --" if "TOX_ENV_NAME" in os.environ else "python -m parity_tests"
    run = ["run", str(TESTS), "--called", called, *sys.argv[1:]]
    raise SystemExit(supervised(lambda: main(run)))
