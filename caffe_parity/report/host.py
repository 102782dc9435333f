"""What a result depends on where PyTorch runs: versions, platform, processor. Knows no Caffe."""

import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from caffe_parity.checkout import ROOT


def host() -> dict[str, Any]:
    """The machine, its versions and the suite's commit as JSON data."""
    import numpy as np  # not above: parity doctor asks for the processor where these may be missing
    import torch

    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "platform": platform.platform(),
        "processor": processor(),
        "commit": _commit(),
    }


@cache
def processor() -> str:
    """The processor's name as Linux tells it, elsewhere what Python knows of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str | None:
    """The commit of the suite, with "+" when files differ from it; None outside a checkout."""
    if not (ROOT / ".git").exists():
        return None
    git = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT)]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        state = subprocess.run(
            [*git, "status", "--porcelain"], capture_output=True, text=True, env=environment
        )
    except OSError:
        return None
    if head.returncode:
        return None
    return head.stdout.strip() + ("+" if state.stdout.strip() else "")
