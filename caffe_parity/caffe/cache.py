"""The cache folder: what takes long to make lies there, each in a folder, whole or not at all.

A folder appears in one step: it is made elsewhere, and only then gets its name. Something that was
interrupted is therefore never taken for a whole one.

Environment variable: PARITY_CACHE (where; otherwise in the user's own cache folder).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = "root"


def folder() -> Path:
    """Return the cache folder, which need not be there."""
    if os.environ.get("PARITY_CACHE"):
        return Path(os.environ["PARITY_CACHE"]).expanduser().absolute()
    if os.environ.get("XDG_CACHE_HOME", "").startswith("/"):  # a relative one is to be ignored
        return Path(os.environ["XDG_CACHE_HOME"]) / "caffe-parity"
    return Path("~/.cache/caffe-parity").expanduser().absolute()


def made_once(
    name: str,
    make: Callable[[Path], object],
    is_whole: Callable[[Path], bool] = os.path.isdir,
    say: Callable[[str], None] = lambda text: None,
) -> Path:
    """Return the folder called `name` in the cache, having `make` make it if it is not there.

    Of several processes that ask at once for names that differ behind the last hyphen only, one
    makes it and the others wait. Nothing half-made is left behind; after a kill -9, what is left is
    ignored, and removed the next time.

    Args:
        name: all that decides the content must be in it.
        make: fills the empty folder ROOT in the folder that it is given, where it may leave other
            things; it may not ask for a name that it would have to wait for.
        is_whole: looks whether nobody has removed a part of it since.
        say: told, in a line, if there is something to wait for.

    Raises:
        OSError: it cannot be written; and whatever `make` raises.
    """
    final = folder() / name
    if is_whole(final):
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    family = final.parent / name.rpartition("-")[0]
    with _only_one(family.with_name(f"{family.name}.lock"), say):
        if is_whole(final):  # by the process that we waited for
            return final
        if final.exists():
            say(f"removing the damaged {final}")
            shutil.rmtree(final)
        unfinished = f"{family.name}.unfinished-"
        _sweep(final.parent, unfinished)
        try:
            work = Path(tempfile.mkdtemp(prefix=unfinished, dir=final.parent))
            (work / ROOT).mkdir()
            make(work)
            (work / ROOT).rename(final)
        finally:
            _sweep(final.parent, unfinished)
    return final


@contextlib.contextmanager
def _only_one(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock `path`; the system releases it however this process ends."""
    import fcntl  # only Unix has it, and `parity doctor` asks for the folder everywhere

    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another process that is making the same")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sweep(cache: Path, unfinished: str) -> None:
    """Remove what is unfinished: ours, and what processes that died have left. The lock is held.

    Programs that a killed process had started may write on for a moment, so errors are ignored
    here, and this runs both before and after something is made.
    """
    for each in cache.glob(f"{unfinished}*"):
        shutil.rmtree(each, ignore_errors=True)
