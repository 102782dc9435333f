"""Install a real Caffe, and the compiler that fits it, into a cache folder: without root, once.

PyPI has no Caffe that today's Pythons can import, and Debian dropped it after release 11. So the
packages of Debian 11 (bullseye) are fetched and verified (`apt`) and unpacked side by side into one
folder. Neither the host's packages nor its apt state are touched. What is in that folder runs
through its own dynamic loader (`python_command`), so the host's libc does not matter.

The folder appears in one step (`cache`), and Caffe is imported in it before. `make_once` does that
for the Caffe with CUDA, too (`cuda_build`).

Environment variables: PARITY_CACHE (where; see `cache`) and PARITY_MIRROR (a Debian mirror;
otherwise the one in the host's apt sources).
"""

import contextlib
import errno
import hashlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from caffe_parity.caffe import cache, debian
from caffe_parity.caffe.apt import Apt, mirror
from caffe_parity.caffe.apt import InstallError as InstallError
from caffe_parity.caffe.ask import NoAnswer, ask
from caffe_parity.caffe.cache import ROOT
from caffe_parity.caffe.programs import full_disk, run
from caffe_parity.progress import Progress

LAYOUT = 1  # counts the changes of what this file makes out of the same archives
COMPLETE = "complete.json"
LOADER = "lib/x86_64-linux-gnu/ld-2.31.so"  # glibc 2.31 is bullseye's
PLOTS = "usr/share/matplotlib"
BLAS_FOLDERS = {"reference": ("blas", "lapack"), "openblas": ("openblas-pthread",)}
GLOG_LEVEL = "GLOG_minloglevel"  # 2: errors and fatal ones; nets are logged at length otherwise


@dataclass(frozen=True)
class Edition:
    """What is installed: a Debian suite, the packages asked for, and what of it is left out.

    `unneeded` are name patterns of packages that others depend on but that no one here runs.
    `omitted` are path patterns (tar's) that are not unpacked. The first of `keyrings` that exists
    holds the keys that the suite must be signed with. `room` is how many GB of disk it takes.
    """

    suite: str
    packages: tuple[str, ...]
    unneeded: tuple[str, ...] = ()
    omitted: tuple[str, ...] = ()
    keyrings: tuple[str, ...] = (
        "/usr/share/keyrings/debian-archive-keyring.gpg",
        "/usr/share/keyrings/debian-archive-keyring.pgp",
    )
    room: int = 1

    @property
    def key(self) -> str:
        """A short name that changes with anything that changes the installed folder."""
        text = repr((LAYOUT, self.suite, self.packages, self.unneeded, self.omitted))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


_LISTS = debian.DATA["bullseye"]
BULLSEYE = Edition(
    suite="bullseye",
    packages=tuple(_LISTS["packages"]),
    unneeded=tuple(_LISTS["unneeded"]),
    omitted=tuple(_LISTS["omitted"]),
)


def installed(edition: Edition = BULLSEYE) -> Path | None:
    """Return the root of the complete install of `edition`, None if there is none. Only looks."""
    return complete(f"caffe-{edition.key}")


def complete(name: str) -> Path | None:
    """Return the install called `name`, None if it is not there, or not whole. Only looks."""
    root = cache.folder() / name
    return root if _is_whole(root) else None


def _is_whole(root: Path) -> bool:
    # os.path answers False, where pathlib raises, if the folder may not be entered.
    return os.path.isfile(root / COMPLETE) and os.path.exists(root / LOADER)


def ensure(progress: Progress | None = None, edition: Edition = BULLSEYE) -> Path:
    """Return the root of the install of `edition`, installing it first if it is not there.

    Takes a look at two files if it is there, else well under a minute, a download of about 200 MB
    and 800 MB of disk. Of several processes that ask at once, one installs and the others wait.

    Raises InstallError for everything that can go wrong. Nothing half-made is left behind then;
    after a kill -9, what is left is ignored, and removed by the next install.
    """
    progress = Progress() if progress is None else progress

    def fill(work: Path) -> dict[str, Any]:
        _, packages = unpack_packages(work, edition, progress)
        progress("importing Caffe")
        return {"caffe": try_caffe(python_command(work / ROOT)), "packages": packages}

    return make_once(f"caffe-{edition.key}", edition, fill, progress)


def make_once(
    name: str, edition: Edition, fill: Callable[[Path], dict[str, Any]], progress: Progress
) -> Path:
    """Return the install called `name`, having `fill` make it if it is not there.

    Args:
        name: the folder's name in the cache; all that decides its content must be in it.
        edition: what this machine must be able to install.
        fill: makes the folder ROOT in the folder that it is given, where it may leave other things,
            and returns what COMPLETE shall say.
        progress: told what is going on.

    Raises:
        InstallError: for everything that can go wrong; nothing half-made is left behind then.
    """
    root = complete(name)  # also where nothing could be installed
    if root is not None:
        return root

    def make(work: Path) -> None:
        started = time.monotonic()
        record = fill(work)
        progress.close()
        took = {step: round(seconds, 1) for step, seconds in progress.took.items()}
        record |= {"seconds": round(time.monotonic() - started, 1), "took": took}
        (work / ROOT / COMPLETE).write_text(json.dumps(record, indent=1) + "\n")
        steps = ", ".join(f"{step} {seconds} s" for step, seconds in took.items())
        progress.say(f"installed Caffe in {record['seconds']} s: {cache.folder() / name}")
        progress.say(f"  {steps}")

    try:
        with understood(edition.room):
            check_host(edition)
            return cache.made_once(name, make, _is_whole, progress.say)
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
    foreign = ["LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONDEVMODE", "PYTHONINSPECT", "PYTHONOPTIMIZE"]
    foreign += ["PYTHONPATH", "PYTHONSTARTUP", "PYTHONWARNINGS"]
    environment = dict.fromkeys(foreign, "") | {
        GLOG_LEVEL: os.environ.get(GLOG_LEVEL, "2"),
        "PYTHONDONTWRITEBYTECODE": "1",  # the install stays as it was checked
        "PYTHONHOME": str(root / "usr"),
        "PYTHONNOUSERSITE": "1",
        "PYTHONUTF8": "1",
        # Old layers import matplotlib.pyplot, which opens windows and writes to the home folder.
        "MPLBACKEND": os.environ.get("MPLBACKEND", "Agg"),
        "MPLCONFIGDIR": str(root / PLOTS / "config"),
    }
    return command, environment


def overlaid(
    command: Sequence[str], environment: Mapping[str, str], folder: Path
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The command and environment of the installed Caffe's Python, with the Caffe in `folder`."""
    made, number = list(command), list(command).index("--library-path") + 1
    made[number] = f"{folder / 'lib'}:{made[number]}"
    more = environment.get("PYTHONPATH", "")
    path = f"{folder / 'python'}{':' if more else ''}{more}"
    return tuple(made), {**environment, "PYTHONPATH": path}


def compiler_command(
    root: Path, program: str = "g++"
) -> tuple[tuple[str, ...], dict[str, str | None]]:
    """Return the command and the variables that run the compiler in `root`, for that root.

    The host's loader starts it (its libc is never older than Debian 11's here) on the libraries in
    `root`. A variable that is None must not be set.
    """
    command = (
        str(root / f"usr/bin/{program}-10"),
        f"--sysroot={root}",
        f"-B{root}/usr/bin/",
        f"-isystem{root}/usr/include/x86_64-linux-gnu/openblas-pthread",  # cblas.h
    )
    # These would lead it to the host's files.
    foreign = ("CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH", "COMPILER_PATH")
    variables = dict.fromkeys((*foreign, "GCC_EXEC_PREFIX", "LD_PRELOAD"))
    own = {"LD_LIBRARY_PATH": str(root / "usr/lib/x86_64-linux-gnu"), "LC_ALL": "C"}
    return command, variables | own


def check_host(edition: Edition = BULLSEYE) -> None:
    """Raise InstallError if this machine lacks what an install of `edition` needs.

    That is the platform, a few programs, Debian's keys and a mirror's name; no network is used.
    """
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        raise InstallError(
            f"this is {platform.system()} on {platform.machine()}.",
            "Linux on x86-64, which the Debian packages of Caffe are made for.",
            "run the suite on such a machine (a container will do).",
        )
    needed = ("apt-get", "bash", "dpkg-deb", "tar")
    missing = [name for name in needed if shutil.which(name) is None]
    if missing:
        raise InstallError(
            f"{' and '.join(missing)} not found on PATH.",
            "apt-get, bash, dpkg-deb and tar; any Debian or Ubuntu has them.",
            "run on Debian or Ubuntu, or in a container of one (root is not needed).",
        )
    if not any(os.path.exists(keyring) for keyring in edition.keyrings):
        raise InstallError(
            "the keys that Debian signs its archive with are missing.",
            edition.keyrings[0],
            "install the package debian-archive-keyring (Debian and Ubuntu have it).",
        )
    mirror()


@contextlib.contextmanager
def understood(room: int = 1) -> Iterator[None]:
    """Turn what the file system refuses into an InstallError.

    `room` is how many GB of disk the install takes.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InstallError(
                f"the disk is full.\n  said:     {error}",
                f"about {room} GB free for {cache.folder()}",
                "free some, or set PARITY_CACHE to a folder on another disk.",
            ) from error
        raise InstallError(
            f"the cache folder cannot be written.\n  said:     {error}",
            f"a folder in which this user may create files: {cache.folder()}",
            "set PARITY_CACHE to such a folder.",
        ) from error


def unpack_packages(
    work: Path,
    edition: Edition,
    progress: Progress,
    sources: bool = False,
    there: Collection[str] = (),
) -> tuple[Apt, dict[str, str]]:
    """Fetch the packages of `edition` and unpack them into ROOT in `work`, but for those `there`.

    Returns the apt that fetched them, which has source packages too if `sources`, and the version
    of each.
    """
    progress("asking the Debian mirror what it has")
    apt = Apt(work / "apt", edition.suite, edition.keyrings, sources)
    apt.update()
    archives = [
        each
        for each in apt.plan(edition.packages)
        if each.package not in there
        and not any(fnmatchcase(each.package, pattern) for pattern in edition.unneeded)
    ]
    total = sum(archive.size for archive in archives)
    # Measured: 195 MB of archives unpack to 720 MB, and both are there at the same time.
    check_space(work, 5 * total)

    def watch(have: int) -> None:
        said = f"{have // 10**6} of {total // 10**6} MB"
        progress("fetching Caffe", said, have / total)

    folder = apt.download(archives, watch)
    _unpack(sorted(folder.glob("*.deb")), work / ROOT, edition.omitted, progress)
    _make_links_relative(work / ROOT)
    _let_plots_find_their_files(work / ROOT)
    return apt, {archive.package: archive.version for archive in archives}


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
            progress("unpacking Caffe", f"{done} of {len(jobs)} packages", done / len(jobs))
    finally:
        pool.shutdown(cancel_futures=True)


def _unpack_one(archive: Path, root: Path, omitted: Sequence[str]) -> None:
    excluded = [f"--exclude={pattern}" for pattern in omitted]
    options = ["--no-same-owner", "--no-same-permissions", *excluded, "-C", str(root)]
    pipe = 'set -o pipefail; dpkg-deb --fsys-tarfile "$0" | tar -x "$@"'
    status, said = run(["bash", "-c", pipe, str(archive), *options], root)
    if status == 0:
        archive.unlink()  # its space is needed
        return
    if full := full_disk(said):
        raise OSError(errno.ENOSPC, full)
    raise InstallError(
        f"{archive.name} could not be unpacked.\n  said:     {said.strip()}",
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


def _let_plots_find_their_files(root: Path) -> None:
    """Put links where matplotlib looks first: Debian's looks for absolute paths next."""
    data, config = root / PLOTS / "mpl-data", root / PLOTS / "config"
    package = root / "usr/lib/python3/dist-packages/matplotlib"
    if data.is_dir() and package.is_dir() and not config.is_dir():
        config.mkdir()
        (package / "mpl-data").symlink_to(os.path.relpath(data, package))
        (config / "matplotlibrc").symlink_to("../mpl-data/matplotlibrc")


# Modules that workers and layers commonly want: importing them writes their bytecode, which makes
# every later start three times as fast (1.7 s against 0.5 s).
_IMPORTS = """
import asyncio, ctypes, fcntl, json, logging, mmap, multiprocessing.shared_memory, pdb, socket
import traceback, typing, numpy.ctypeslib, numpy.testing, google.protobuf.text_format
import caffe.io, caffe.classifier, caffe.coord_map, caffe.net_spec, caffe.detector
import matplotlib.pyplot
"""


def try_caffe(python: tuple[tuple[str, ...], dict[str, str]]) -> dict[str, Any]:
    """Import Caffe in `python`, a command and its environment; return what COMPLETE says of it.

    Raises InstallError if it does not work.
    """
    command, variables = python
    try:
        facts = ask(command, variables | {"PYTHONDONTWRITEBYTECODE": ""}, _IMPORTS)
        if {"Python", "EuclideanLoss", "Reduction"} <= set(facts["layer_types"]):
            del facts["libraries"]  # which lie where this install is not going to stay
            return facts
        said = f"its layer types are {', '.join(facts['layer_types'])}"
    except NoAnswer as error:
        said = str(error)
        if full := full_disk(error.output):
            raise OSError(errno.ENOSPC, full) from error
    raise InstallError(
        f"the unpacked Caffe does not work.\n  said:     {said}",
        "`import caffe` in it, with the layer types Python, EuclideanLoss and Reduction.",
        "try again; if PARITY_MIRROR is set, try another Debian mirror.",
    )
