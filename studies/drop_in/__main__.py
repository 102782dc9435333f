"""Builds Caffes with a user's own files, and checks layers in them: several minutes.

    python -m studies.drop_in

The first has a changed message of Caffe's own, a number that collides, and a layer without
STUB_GPU; the second another blob.hpp as well. Each is checked twice, the second time from the
cache. Before them one build is interrupted, and one does not compile. The cache is a new folder,
but for the installed Caffe, so that all is built.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from caffe_parity.caffe import cache, install

FORK = Path(__file__).parent / "fork"
CHECK = ("check", "net.prototxt", "--reference", "ref.py:scaled", "--load", "scaled_layer.cpp")
ALL = (*CHECK, "--proto", "fork.proto", "--cases", "2")


class Wrong(Exception):
    """Something is not as it should be."""


def parity(folder: Path, arguments: tuple[str, ...], after: float | None = None) -> tuple[int, str]:
    """The exit status and the output of a command, interrupted after so many seconds."""
    environment = {
        **os.environ,
        "PARITY_CACHE": str(folder / "cache"),
        "TMPDIR": str(folder / "tmp"),
    }
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    started = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "caffe_parity", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder / "here",
        env=environment,
    ) as process:
        if after is not None:
            time.sleep(after)
            process.send_signal(signal.SIGINT)
        said, _ = process.communicate()
    print(
        f"{said}exit status {process.returncode}, {time.monotonic() - started:.0f} s\n", flush=True
    )
    return process.returncode, said


def must(condition: bool, words: str) -> None:
    """Raises Wrong unless it is so."""
    if not condition:
        raise Wrong(words)


def blob(folder: Path) -> None:
    """Another blob.hpp, with a member and a function, which the layer then uses."""
    text = (install.ensure() / "usr/include/caffe/blob.hpp").read_text()
    text = text.replace(" protected:\n", " protected:\n  double mine_;\n", 1)
    text = text.replace(
        " public:\n", " public:\n  int Doubled() { mine_ = 2; return int(mine_); }\n", 1
    )
    (folder / "blob.hpp").write_text(text)
    source = folder / "scaled_layer.cpp"
    text = source.read_text().replace(
        "cpu_data()[i] * Factor()", "cpu_data()[i] * Factor() * bottom[0]->Doubled() / 2"
    )
    source.write_text(text)


def main() -> int:
    """0 if all is as it should be."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        here = folder / "here"
        shutil.copytree(FORK, here)
        (folder / "tmp").mkdir()
        (folder / "cache").mkdir()
        own = install.ensure()
        shutil.copytree(own, folder / "cache" / own.name, symlinks=True, copy_function=os.link)
        code, _ = parity(folder, ALL, after=60)
        left = [*(folder / "cache").glob("*unfinished*"), *(folder / "tmp").iterdir()]
        must(code == 130 and not left, f"an interrupted build left {left}")
        text = (here / "scaled_layer.cpp").read_text()
        (here / "scaled_layer.cpp").write_text(text.replace("* layer.power", "* lair.power"))
        code, said = parity(folder, ALL)
        line = "scaled_layer.cpp:8:"
        must(code == 2 and line in said and "'lair' was not declared" in said, "the wrong line")
        (here / "scaled_layer.cpp").write_text(text)
        for change in (lambda folder: None, blob):
            change(here)
            code, said = parity(folder, ALL)
            must(code == 0 and "so a Caffe is built" in said, "it was not built, or disagrees")
            code, said = parity(folder, ALL)
            again = "building a Caffe" in said or "with the files before" not in said
            must(code == 0 and not again, "it was built again")
        wrong = (here / "ref.py").read_text().replace("3 * 5", "3 * 4")
        (here / "ref.py").write_text(wrong)
        code, said = parity(folder, ALL)
        must(code == 1 and "forward-value" in said, "a wrong layer agrees")
    print(f"all as it should be; the cache {cache.folder()} is as it was")
    return 0


if __name__ == "__main__":
    sys.exit(main())
