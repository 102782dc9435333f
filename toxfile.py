"""What tox does beside its own work: it finds this file by its name.

While it installs PyTorch for the main job, for the first time, another process installs Caffe. The
job waits for it, and tells what goes wrong.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tox.plugin import impl

INSTALL = [sys.executable, "-m", "caffe_parity", "install-caffe"]


@impl
def tox_on_install(tox_env: Any, arguments: Any, section: str, of_type: str) -> None:
    """Called before each installation in an environment, also where nothing is missing."""
    wanted = tox_env.name == "parity" and not tox_env.options.no_test
    if not wanted or sys.platform != "linux" or "CAFFE_PYTHON" in os.environ:
        return
    if not (tox_env.env_site_package_dir() / "torch").exists():
        nowhere = subprocess.DEVNULL
        root = Path(__file__).parent
        subprocess.Popen(INSTALL, cwd=root, stdin=nowhere, stdout=nowhere, stderr=nowhere)
