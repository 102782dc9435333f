"""The main job, which is `tox -e parity`: `parity run` on the three layers of this suite."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from caffe_parity.checkout import program
from caffe_parity.cli.main import main
from caffe_parity.cli.supervised import supervised

TESTS = Path(__file__).with_name("test_parity.py")

if __name__ == "__main__":
    # Is tox on the user's own PATH, too, and not only in an environment that is not active?
    own = str(Path(sys.executable).parent)
    users = [each for each in os.environ.get("PATH", "").split(os.pathsep) if each != own]
    by_tox = "TOX_ENV_NAME" in os.environ and shutil.which("tox", path=os.pathsep.join(users))
    called = "tox -e parity --" if by_tox else program("parity_tests")
    run = ["run", str(TESTS), "--shared", "--called", called, *sys.argv[1:]]
    raise SystemExit(supervised(lambda: main(run)))
