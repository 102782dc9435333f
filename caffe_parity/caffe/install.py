"""Install a real Caffe, and the compiler that fits it, into a cache folder: without root, once.

PyPI has no Caffe that today's Pythons can import, and Debian dropped it after release 11. So the
packages of Debian 11 (bullseye) are fetched and verified (`apt`) and unpacked side by side into one
folder. Neither the host's packages nor its apt state are touched. What is in that folder runs
through its own dynamic loader (`python_command`), so the host's libc does not matter.

The folder appears in one step: everything happens in a sibling folder, Caffe is imported there, and
only then is it renamed. An interrupted install is therefore never taken for a whole one.
`make_once` does that for the Caffe with CUDA, too (`cuda_build`).

Environment variables: PARITY_CACHE (where; otherwise the user's cache folder) and PARITY_MIRROR (a
Debian mirror; otherwise the one in the host's apt sources).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any

from caffe_parity.caffe.apt import Apt, AptError, Archive, full_disk, mirror

LAYOUT = 1  # counts the changes of what this file makes out of the same archives
ROOT = "root"
COMPLETE = "complete.json"
LOADER = "lib/x86_64-linux-gnu/ld-2.31.so"  # glibc 2.31 is bullseye's
BLAS_FOLDERS = {"reference": ("blas", "lapack"), "openblas": ("openblas-pthread",)}
GLOG_LEVEL = "GLOG_minloglevel"  # 2: errors and fatal ones; nets are logged at length otherwise
OTHER_WAY = "Or set CAFFE_PYTHON to a Python that can `import caffe`; then nothing is installed."


@dataclass(frozen=True)
class Recipe:
    """What is installed: a Debian suite, the packages asked for, and what of it is left out.

    `unneeded` are name patterns of packages that others depend on but that no one here runs.
    `omitted` are path patterns (tar's) that are not unpacked. The first of `keyrings` that exists
    holds the keys that the suite must be signed with.
    """

    suite: str
    packages: tuple[str, ...]
    unneeded: tuple[str, ...] = ()
    omitted: tuple[str, ...] = ()
    keyrings: tuple[str, ...] = (
        "/usr/share/keyrings/debian-archive-keyring.gpg",
        "/usr/share/keyrings/debian-archive-keyring.pgp",
    )

    @property
    def key(self) -> str:
        """A short name that changes with anything that changes the installed folder."""
        text = repr((LAYOUT, self.suite, self.packages, self.unneeded, self.omitted))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


BULLSEYE = Recipe(
    suite="bullseye",
    packages=(
        "python3-caffe",
        # Caffe is satisfied with either BLAS; both are wanted, to compare their rounding.
        "libblas3",
        "liblapack3",
        "libopenblas0-pthread",
        # The rest builds compiled layers against this Caffe.
        "libcaffe-dev",
        "libboost1.74-dev",
        "libgflags-dev",
        "libgoogle-glog-dev",
        "libhdf5-dev",
        "libopenblas-pthread-dev",
        "libprotobuf-dev",
        "libgtest-dev",
        "protobuf-compiler",
        "g++",
        "binutils",
    ),
    unneeded=(
        # For installing packages on a running system.
        "coreutils",
        "debconf",
        "dpkg",
        "libdb5.3",
        "libperl5.*",
        "mailcap",
        "media-types",
        "perl",
        "perl-base",
        "perl-modules-*",
        "tar",
        "ucf",
        # Data and programs behind libraries that Caffe links but that no layer reaches.
        "fonts-*",
        "gdal-data",
        "libjs-*",
        "proj-data",
        "ttf-*",
        "tzdata",
        # Wanted by others for plots (which need files at absolute paths), shells and builds.
        "cython3",
        "python-matplotlib-data",
        "python3-backcall",
        "python3-ipython",
        "python3-ipython-genutils",
        "python3-jedi",
        "python3-pandas",
        "python3-pandas-lib",
        "python3-parso",
        "python3-pexpect",
        "python3-pickleshare",
        "python3-prompt-toolkit",
        "python3-ptyprocess",
        "python3-pygments",
        "python3-traitlets",
        # Sanitizers: g++ needs them only for -fsanitize.
        "libasan6",
        "liblsan0",
        "libtsan0",
        "libubsan1",
    ),
    omitted=(
        "./usr/share/doc",
        "./usr/share/doc-base",
        "./usr/share/icons",
        "./usr/share/info",
        "./usr/share/lintian",
        "./usr/share/locale",
        "./usr/share/man",
        "./usr/lib/gcc/x86_64-linux-gnu/10/lto1",
        "./usr/lib/python3/dist-packages/numpy/*/tests",
        "./usr/lib/python3/dist-packages/scipy/*/tests",
        "./usr/lib/python3/dist-packages/skimage/*/tests",
        "./usr/lib/x86_64-linux-gnu/openblas-pthread/*.a",
    ),
)


class InstallError(Exception):
    """Caffe could not be installed; the message says why, what was expected and what to do."""

    def __init__(self, happened: str, expected: str, advice: str) -> None:
        super().__init__(
            f"Caffe could not be installed: {happened}\n"
            f"  expected: {expected}\n"
            f"  to do:    {advice}\n"
            f"            {OTHER_WAY}"
        )
        self.happened = happened
        self.advice = f"{advice} {OTHER_WAY}"


class Progress:
    """Says on a stream how far the install is: one updating line on a terminal, else few lines."""

    def __init__(self, stream: IO[str] | None = None, every: float = 10.0) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._every = every  # seconds between two plain lines of the same step
        self._step = ""
        self._due = 0.0

    def __call__(self, step: str, detail: str = "") -> None:
        """Show that `step` is going on, `detail` (such as "3 of 7") telling how far it is."""
        text = f"{step} {detail}".strip()
        if self._live:
            width = shutil.get_terminal_size().columns - 1  # a wrapped line could not be updated
            self._stream.write(f"\r{text[:width]}\x1b[K")
        elif step != self._step or time.monotonic() >= self._due:
            self._stream.write(f"{text}\n")
            self._due = time.monotonic() + self._every
        self._step = step
        self._stream.flush()

    def say(self, text: str) -> None:
        """Print a line that stays, in place of the updating one."""
        self._stream.write(f"\r{text}\x1b[K\n" if self._live else f"{text}\n")
        self._stream.flush()
        self._step = ""

    def close(self) -> None:
        """End the updating line, if there is one."""
        if self._live and self._step:
            self._stream.write("\n")
            self._stream.flush()
        self._step = ""


def cache_folder() -> Path:
    """Return the folder that holds the installs (PARITY_CACHE, or one in the user's cache)."""
    if os.environ.get("PARITY_CACHE"):
        return Path(os.environ["PARITY_CACHE"]).expanduser().absolute()
    if os.environ.get("XDG_CACHE_HOME", "").startswith("/"):  # a relative one is to be ignored
        return Path(os.environ["XDG_CACHE_HOME"]) / "caffe-parity"
    return Path("~/.cache/caffe-parity").expanduser().absolute()


def installed(recipe: Recipe = BULLSEYE) -> Path | None:
    """Return the root of the complete install of `recipe`, None if there is none.

    Only looks: it creates no folder and waits for no lock.
    """
    return complete(f"caffe-{recipe.key}")


def complete(name: str) -> Path | None:
    """Return the install called `name` in the cache folder, None if it is not there, or not whole.

    Only looks: it creates no folder and waits for no lock.
    """
    root = cache_folder() / name
    # os.path answers False, where pathlib raises, if the folder may not be entered.
    whole = os.path.isfile(root / COMPLETE) and os.path.exists(root / LOADER)
    return root if whole else None


def ensure(progress: Progress | None = None, recipe: Recipe = BULLSEYE) -> Path:
    """Return the root of the install of `recipe`, installing it first if it is not there.

    Takes a look at two files if it is there, else well under a minute, a download of about 200 MB
    and 800 MB of disk. Of several processes that ask at once, one installs and the others wait.

    Raises InstallError for everything that can go wrong. Nothing half-made is left behind then;
    after a kill -9, what is left is ignored, and removed by the next install.
    """
    progress = Progress() if progress is None else progress

    def fill(work: Path) -> dict[str, Any]:
        _, archives = unpack_packages(work, recipe, progress)
        progress("importing Caffe")
        return record_of(recipe, archives, try_caffe(python_command(work / ROOT)))

    return make_once(f"caffe-{recipe.key}", fill, recipe, progress)


def make_once(
    name: str,
    fill: Callable[[Path], dict[str, Any]],
    recipe: Recipe,
    progress: Progress,
    family: str = "",
    room: int = 1,
) -> Path:
    """Return the install called `name` in the cache folder, having `fill` make it if need be.

    Args:
        name: the folder's name; all that decides its content must be in it.
        fill: makes the folder ROOT in the folder that it is given, where it may leave other things,
            and returns what COMPLETE shall say.
        recipe: what this machine must be able to install.
        progress: told what is going on.
        family: installs of one family wait for each other.
        room: the GB of disk that it takes.

    Raises:
        InstallError: for everything that can go wrong; nothing half-made is left behind then.
    """
    root = complete(name)
    if root is not None:
        return root
    try:
        with understood(room):
            check_host(recipe)
            cache = cache_folder()
            cache.mkdir(parents=True, exist_ok=True)
            with _only_one(cache / f"{family}lock", progress):
                root = complete(name)  # by the process that we waited for
                if root is None:
                    root = _make(cache / name, fill, f"{family}partial-", progress)
                return root
    finally:
        progress.close()


def python_command(
    root: Path, blas: str = "reference", more: Sequence[Path] = ()
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the command and the environment that run the Python inside `root`.

    `blas` is "reference" or "openblas". Packages unpacked without their install scripts have no
    /etc/alternatives, so the folder of the BLAS is named on the library path instead. `more` are
    folders that are searched for libraries last.
    """
    libraries = root / "usr/lib/x86_64-linux-gnu"
    blas_folders = [libraries / folder for folder in BLAS_FOLDERS[blas]]
    path = (*blas_folders, libraries, root / "lib/x86_64-linux-gnu", root / "usr/lib", *more)
    command = (
        str(root / LOADER),
        "--inhibit-cache",  # the host's ld.so.cache leads to the host's libraries
        "--library-path",
        ":".join(map(str, path)),
        str(root / "usr/bin/python3.9"),
    )
    # An empty value counts as unset in Python. Each of these, if the host has set it, would load
    # the host's files into this Python or change how layers run.
    foreign = (
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",
        "PYTHONDEVMODE",
        "PYTHONINSPECT",
        "PYTHONOPTIMIZE",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "PYTHONWARNINGS",
    )
    environment = dict.fromkeys(foreign, "") | {
        GLOG_LEVEL: os.environ.get(GLOG_LEVEL, "2"),
        "PYTHONDONTWRITEBYTECODE": "1",  # the install stays as it was checked
        "PYTHONHOME": str(root / "usr"),
        "PYTHONNOUSERSITE": "1",
        "PYTHONUTF8": "1",
    }
    return command, environment


def check_host(recipe: Recipe = BULLSEYE) -> None:
    """Raise InstallError if this machine lacks what an install of `recipe` needs.

    That is the platform, a few programs, Debian's keys and a mirror's name; no network is used.
    """
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        raise InstallError(
            f"this is {platform.system()} on {platform.machine()}.",
            "Linux on x86-64, which the Debian packages of Caffe are made for.",
            "run the suite on such a machine (a container will do).",
        )
    missing = [name for name in ("apt-get", "dpkg-deb", "tar") if shutil.which(name) is None]
    if missing:
        raise InstallError(
            f"{' and '.join(missing)} not found on PATH.",
            "apt-get, dpkg-deb and tar; any Debian or Ubuntu has them.",
            "run on Debian or Ubuntu, or in a container of one (root is not needed).",
        )
    if not any(os.path.exists(keyring) for keyring in recipe.keyrings):
        raise InstallError(
            "the keys that Debian signs its archive with are missing.",
            recipe.keyrings[0],
            "install the package debian-archive-keyring (Debian and Ubuntu have it).",
        )
    with understood():
        mirror()


@contextlib.contextmanager
def understood(room: int = 1) -> Iterator[None]:
    """Turn what the archive or the file system refuses into an InstallError.

    `room` is how many GB of disk the install takes.
    """
    try:
        yield
    except AptError as error:
        raise InstallError(error.happened, error.expected, error.advice) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InstallError(
                f"the disk is full.\n  said:     {error}",
                f"about {room} GB free for {cache_folder()}",
                "free some, or set PARITY_CACHE to a folder on another disk.",
            ) from error
        raise InstallError(
            f"the cache folder cannot be written.\n  said:     {error}",
            f"a folder in which this user may create files: {cache_folder()}",
            "set PARITY_CACHE to such a folder.",
        ) from error


@contextlib.contextmanager
def _only_one(path: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock `path`; the system releases it however this process ends."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say("waiting for another process that is installing Caffe")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(
    final: Path, fill: Callable[[Path], dict[str, Any]], partial: str, progress: Progress
) -> Path:
    """Have `fill` make the folder elsewhere and rename it to its final name. The lock is held."""
    if final.exists():  # someone has removed a part of it: it would have been returned otherwise
        progress.say(f"removing the damaged {final}")
        shutil.rmtree(final)
    _sweep(final.parent, partial)
    started = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix=partial, dir=final.parent))
    try:
        (work / ROOT).mkdir()
        record = {**fill(work), "seconds": round(time.monotonic() - started, 1)}
        (work / ROOT / COMPLETE).write_text(json.dumps(record, indent=1) + "\n")
        os.rename(work / ROOT, final)
        progress.say(f"installed Caffe in {record['seconds']} s: {final}")
    finally:
        _sweep(final.parent, partial)
    return final


def _sweep(cache: Path, partial: str) -> None:
    """Remove unfinished installs: ours, and what processes that died have left. The lock is held.

    Programs that a killed install had started may write on for a moment, so errors are ignored
    here, and this runs both before and after an install.
    """
    for unfinished in cache.glob(f"{partial}*"):
        shutil.rmtree(unfinished, ignore_errors=True)


def unpack_packages(
    work: Path, recipe: Recipe, progress: Progress, sources: bool = False
) -> tuple[Apt, list[Archive]]:
    """Fetch the packages of `recipe` and unpack them into ROOT in `work`.

    Returns the apt that fetched them, which has source packages too if `sources`, and what was
    fetched.
    """
    progress("asking the Debian mirror what it has")
    apt = Apt(work / "apt", recipe.suite, recipe.keyrings, sources)
    apt.update()
    planned = apt.plan(recipe.packages)
    archives = [a for a in planned if not _matches(a.package, recipe.unneeded)]
    total = sum(archive.size for archive in archives)
    # Measured: 195 MB of archives unpack to 720 MB, and both are there at the same time.
    check_space(work, 5 * total)

    def watch(have: int) -> None:
        progress("fetching Caffe", f"{have // 10**6} of {total // 10**6} MB")

    folder = apt.download(archives, watch)
    _unpack(sorted(folder.glob("*.deb")), work / ROOT, recipe.omitted, progress)
    _make_links_relative(work / ROOT)
    return apt, archives


def record_of(recipe: Recipe, archives: Sequence[Archive], facts: dict[str, Any]) -> dict[str, Any]:
    """Return what COMPLETE says about an install; `facts` are Caffe's own words about itself."""
    return {
        "caffe": facts,
        "suite": recipe.suite,
        "layout": LAYOUT,
        "asked_for": recipe.packages,
        "packages": {archive.package: archive.version for archive in archives},
        "fetched_bytes": sum(archive.size for archive in archives),
    }


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def check_space(folder: Path, need: int) -> None:
    """Raise OSError (ENOSPC) if less than `need` bytes are free for `folder`."""
    free = shutil.disk_usage(folder).free
    if free < need:
        said = f"{free // 10**6} MB free, {need // 10**6} MB needed"
        raise OSError(errno.ENOSPC, said)


def _unpack(
    archives: Sequence[Path], root: Path, omitted: Sequence[str], progress: Progress
) -> None:
    """Unpack `archives` into `root`, some at a time, leaving out the paths in `omitted`."""
    pool = ThreadPoolExecutor((os.cpu_count() or 1) + 1)
    try:
        jobs = [pool.submit(_unpack_one, archive, root, omitted) for archive in archives]
        for done, job in enumerate(as_completed(jobs), 1):
            job.result()
            progress("unpacking Caffe", f"{done} of {len(jobs)} packages")
    finally:
        pool.shutdown(cancel_futures=True)


def _unpack_one(archive: Path, root: Path, omitted: Sequence[str]) -> None:
    excluded = [f"--exclude={pattern}" for pattern in omitted]
    unpack = ("tar", "-x", "--no-same-owner", "--no-same-permissions", *excluded)
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", archive],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as read:
        write = subprocess.run(
            [*unpack, "-C", root], stdin=read.stdout, capture_output=True, text=True
        )
        assert read.stdout is not None and read.stderr is not None
        read.stdout.close()  # or dpkg-deb would wait for ever for a tar that has given up
        said = f"{write.stderr}{read.stderr.read().decode(errors='replace')}".strip()
    if write.returncode == 0 and read.returncode == 0:
        archive.unlink()  # its space is needed
        return
    if full := full_disk(said):
        raise OSError(errno.ENOSPC, full)
    raise InstallError(
        f"{archive.name} could not be unpacked.\n  said:     {said}",
        "an archive that dpkg-deb and tar can read.",
        "try again.",
    )


def _make_links_relative(root: Path) -> None:
    """Turn absolute links, which would lead to the host's files, into relative ones."""
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(folder, name)
            if os.path.islink(path) and os.readlink(path).startswith("/"):
                inside = os.path.join(root, os.readlink(path).lstrip("/"))
                os.unlink(path)
                os.symlink(os.path.relpath(inside, folder), path)


# The modules besides caffe are those that workers and layers commonly want: importing them here
# writes their bytecode, which makes every later start three times as fast (1.7 s against 0.5 s).
_TRY = """
import asyncio, ctypes, fcntl, json, logging, mmap, multiprocessing.shared_memory, pdb, socket
import traceback, typing
import numpy, numpy.ctypeslib, numpy.testing, google.protobuf.text_format
import caffe, caffe.io, caffe.classifier, caffe.coord_map, caffe.net_spec, caffe.detector
import google.protobuf, sys
print(json.dumps({
    "version": caffe.__version__,
    "layer_types": sorted(caffe.layer_type_list()),
    "python": sys.version.split()[0],
    "numpy": numpy.__version__,
    "protobuf": google.protobuf.__version__,
}))
"""


def try_caffe(python: tuple[tuple[str, ...], dict[str, str]]) -> dict[str, Any]:
    """Import Caffe in `python`, a command and its environment; return what it says about itself."""
    command, variables = python
    environment = os.environ | variables | {"PYTHONDONTWRITEBYTECODE": ""}
    try:
        ran = subprocess.run(
            [*command, "-c", _TRY],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
        )
        said = ran.stderr.strip() or f"exit status {ran.returncode}"
        facts: dict[str, Any] = json.loads(ran.stdout.strip().splitlines()[-1])
        if {"Python", "EuclideanLoss", "Reduction"} <= set(facts["layer_types"]):
            return facts
        said = f"its layer types are {', '.join(facts['layer_types'])}"
    except subprocess.TimeoutExpired as error:
        said = str(error)
    except (IndexError, KeyError, ValueError):
        pass  # `said` tells it
    if full := full_disk(said):
        raise OSError(errno.ENOSPC, full)
    raise InstallError(
        f"the unpacked Caffe does not work.\n  said:     {said.splitlines()[-1]}",
        "`import caffe` in it, with the layer types Python, EuclideanLoss and Reduction.",
        "try again; if PARITY_MIRROR is set, try another Debian mirror.",
    )
