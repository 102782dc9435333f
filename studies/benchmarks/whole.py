"""How long `parity net` takes for nets of real size, and how much memory at most.

    python -m studies.benchmarks.whole [resnet50 googlenet vgg16] [--phase TEST]

The memory is that of all its processes together, Caffe's too, where each page counts once.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from studies.benchmarks.real_nets import NETS

EVERY = 0.2
"""Seconds from one look at the memory to the next."""


@dataclass
class Run:
    """What was measured; memory in bytes, `said` the last line that was printed.

    `processor` is the time of all processors: that of a machine with nothing else to do, twice, if
    two of them were busy all the time.
    """

    seconds: float = 0.0
    processor: float = 0.0
    memory: int = 0
    status: int = 0
    said: str = ""


def memory_of(pid: int) -> int:
    """Of a process and all that it has started, in bytes."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(memory_of(int(each)) for each in (task / "children").read_text().split())
    except (OSError, ValueError):  # it has ended
        pass
    return total


def measured(command: list[str], folder: Path) -> Run:
    """Runs a command in a folder, and looks at its memory meanwhile."""
    run, ended, start = Run(), threading.Event(), time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:

        def look() -> None:
            while not ended.wait(EVERY):
                run.memory = max(run.memory, memory_of(process.pid))

        watcher = threading.Thread(target=look)
        watcher.start()
        out, _ = process.communicate()
        ended.set()
        watcher.join()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    run.processor = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    run.seconds, run.status = time.perf_counter() - start, process.returncode
    run.said = out.splitlines()[-1] if out else ""
    return run


def main() -> int:
    """Prints a line for each net; returns 1 if one does not agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nets", nargs="*", default=["resnet50"], choices=NETS)
    parser.add_argument("--phase", choices=("TEST", "TRAIN"))
    options = parser.parse_args()
    status = 0
    for name in options.nets:
        with tempfile.TemporaryDirectory() as folder:
            NETS[name]().write(Path(folder) / "net.prototxt", Path(folder) / "port.py")
            command = [sys.executable, "-m", "caffe_parity", "net", "net.prototxt"]
            command += ["--port", "port.py:Net"]
            command += ["--phase", options.phase] if options.phase else []
            run = measured(command, Path(folder))
        status |= run.status
        print(
            f"{name}: {run.seconds:.0f} s, of processors {run.processor:.0f} s, "
            f"{run.memory / 1e9:.1f} GB; {run.said}",
            flush=True,
        )
    return int(status != 0)


if __name__ == "__main__":
    sys.exit(main())
