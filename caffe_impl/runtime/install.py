"""Install a real Caffe, and the compiler that fits it, into a cache folder: without root, once.

PyPI has no Caffe that today's Pythons can import, and Debian dropped it after release 11. So the
archives of Debian 11 (bullseye) are fetched by the host's own ``apt-get``, which verifies each of
them against Debian's archive keys, and unpacked side by side into one folder. Neither the host's
packages nor its apt state are touched. What is in that folder runs through its own dynamic loader
(`python_command`), so the host's libc does not matter.

The folder appears in one step: everything happens in a sibling folder, Caffe is imported there, and
only then is it renamed. An interrupted install is therefore never taken for a whole one.

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
import re
import select
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
from urllib.parse import unquote

LAYOUT = 1  # counts the changes of what this file makes out of the same archives
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
    root = cache_folder() / f"caffe-{recipe.key}"
    # os.path answers False, where pathlib raises, if the folder may not be entered.
    complete = os.path.isfile(root / COMPLETE) and os.path.exists(root / LOADER)
    return root if complete else None


def ensure(progress: Progress | None = None, recipe: Recipe = BULLSEYE) -> Path:
    """Return the root of the install of `recipe`, installing it first if it is not there.

    Takes a look at two files if it is there, else well under a minute, a download of about 200 MB
    and 800 MB of disk. Of several processes that ask at once, one installs and the others wait.

    Raises InstallError for everything that can go wrong. Nothing half-made is left behind then;
    after a kill -9, what is left is ignored, and removed by the next install.
    """
    root = installed(recipe)
    if root is not None:
        return root
    progress = Progress() if progress is None else progress
    try:
        with _understood_os_errors():
            check_host(recipe)
            cache = cache_folder()
            cache.mkdir(parents=True, exist_ok=True)
            with _only_one(cache, progress):
                root = installed(recipe)  # by the process that we waited for
                return _install(cache, recipe, progress) if root is None else root
    finally:
        progress.close()


def python_command(root: Path, blas: str = "reference") -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the command and the environment that run the Python inside `root`.

    `blas` is "reference" or "openblas". Packages unpacked without their install scripts have no
    /etc/alternatives, so the folder of the BLAS is named on the library path instead.
    """
    libraries = root / "usr/lib/x86_64-linux-gnu"
    blas_folders = [libraries / folder for folder in BLAS_FOLDERS[blas]]
    path = (*blas_folders, libraries, root / "lib/x86_64-linux-gnu", root / "usr/lib")
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
    _mirror()


@contextlib.contextmanager
def _understood_os_errors() -> Iterator[None]:
    """Turn what the file system refuses into an InstallError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(str(error)) from error
        raise InstallError(
            f"the cache folder cannot be written.\n  said:     {error}",
            f"a folder in which this user may create files: {cache_folder()}",
            "set PARITY_CACHE to such a folder.",
        ) from error


@contextlib.contextmanager
def _only_one(cache: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock of the cache folder; the system releases it however this process ends."""
    with (cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say("waiting for another process that is installing Caffe")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(cache: Path, recipe: Recipe, progress: Progress) -> Path:
    """Install into a new folder in `cache` and rename it to its final name. The lock is held."""
    final = cache / f"caffe-{recipe.key}"
    if final.exists():  # someone has removed a part of it: it would have been returned otherwise
        progress.say(f"removing the damaged {final}")
        shutil.rmtree(final)
    _sweep(cache)
    started = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix="partial-", dir=cache))
    try:
        root = work / "root"
        root.mkdir()
        progress("asking the Debian mirror what it has")
        apt = _Apt(work / "apt", recipe)
        apt.update()
        archives = [a for a in apt.plan() if not _matches(a.package, recipe.unneeded)]
        total = sum(archive.size for archive in archives)
        _check_space(cache, total)
        folder = apt.download(archives, progress)
        _unpack(sorted(folder.glob("*.deb")), root, recipe.omitted, progress)
        _make_links_relative(root)
        progress("importing Caffe")
        facts = _try_caffe(root)
        shutil.rmtree(work / "apt")
        record = {
            "caffe": facts,
            "suite": recipe.suite,
            "layout": LAYOUT,
            "asked_for": recipe.packages,
            "packages": {archive.package: archive.version for archive in archives},
            "fetched_bytes": total,
            "seconds": round(time.monotonic() - started, 1),
        }
        (root / COMPLETE).write_text(json.dumps(record, indent=1) + "\n")
        os.rename(root, final)
        progress.say(f"installed Caffe in {record['seconds']} s: {final}")
    finally:
        _sweep(cache)
    return final


def _sweep(cache: Path) -> None:
    """Remove unfinished installs: ours, and what processes that died have left. The lock is held.

    Programs that a killed install had started may write on for a moment, so errors are ignored
    here, and this runs both before and after an install.
    """
    for unfinished in cache.glob("partial-*"):
        shutil.rmtree(unfinished, ignore_errors=True)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _check_space(folder: Path, fetched: int) -> None:
    # Measured: 195 MB of archives unpack to 720 MB, and both are there at the same time.
    need = 5 * fetched
    free = shutil.disk_usage(folder).free
    if free < need:
        raise _no_space(f"{free // 10**6} MB free, {need // 10**6} MB needed")


def _no_space(said: str) -> InstallError:
    return InstallError(
        f"the disk is full.\n  said:     {said}",
        f"about 1 GB free for {cache_folder()}",
        "free some, or set PARITY_CACHE to a folder on another disk.",
    )


@dataclass(frozen=True)
class _Archive:
    """One package as the mirror offers it."""

    package: str
    version: str
    size: int  # bytes to fetch


class _Apt:
    """The host's apt-get, on a state, a cache and a source list of our own in `folder`.

    The rest of the host's configuration (proxies, certificates, credentials) stays in force.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self._folder = folder
        self._recipe = recipe
        self._mirror = _mirror()
        for part in ("state/lists/partial", "cache/archives/partial", "none", "archives"):
            (folder / part).mkdir(parents=True)
        (folder / "status").touch()  # nothing counts as installed, so all dependencies are fetched
        keyring = next(path for path in recipe.keyrings if os.path.exists(path))
        (folder / "sources.list").write_text(
            f"deb [arch=amd64 lang=none target=Packages signed-by={keyring}]"
            f" {self._mirror} {recipe.suite} main\n"
        )
        self._configuration = folder / "apt.conf"
        self._configuration.write_text(_apt_configuration(folder))

    def update(self) -> None:
        """Fetch and verify the suite's list of packages."""
        self._run("update")

    def plan(self) -> list[_Archive]:
        """Return what must be fetched for the recipe's packages."""
        text = self._run("install", "--print-uris", *self._recipe.packages)
        found = re.findall(r"^'[^']+' (\S+?)_(\S+?)_\S+\.deb (\d+)", text, re.MULTILINE)
        return [_Archive(name, unquote(version), int(size)) for name, version, size in found]

    def download(self, archives: Sequence[_Archive], progress: Progress) -> Path:
        """Fetch and verify `archives`; return the folder that has them."""
        folder = self._folder / "archives"
        total = sum(archive.size for archive in archives)

        def watch() -> None:
            have = sum(_size(file) for file in folder.iterdir())
            progress("fetching Caffe", f"{have // 10**6} of {total // 10**6} MB")

        names = [f"{archive.package}={archive.version}" for archive in archives]
        self._run("download", *names, folder=folder, watch=watch)
        return folder

    def _run(
        self, *arguments: str, folder: Path | None = None, watch: Callable[[], None] | None = None
    ) -> str:
        command = ("apt-get", "-c", str(self._configuration), "-q", "-y", *arguments)
        environment = os.environ | {"LC_ALL": "C", "LANGUAGE": ""}  # its words are searched below
        chunks: list[bytes] = []  # not a file: on a full disk it would lose the very message
        process = subprocess.Popen(
            command,
            cwd=folder or self._folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        try:
            while not chunks or chunks[-1]:
                if select.select([process.stdout], [], [], 0.1)[0]:
                    chunks.append(os.read(process.stdout.fileno(), 2**16))
                if watch is not None:
                    watch()
            process.wait()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        text = b"".join(chunks).decode(errors="replace")
        if process.returncode != 0:
            raise _apt_error(text, self._mirror, self._recipe.suite)
        return text


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # apt has just renamed it
        return 0


def _apt_configuration(folder: Path) -> str:
    """Return an apt.conf, which apt reads after the host's, so that it has the last word."""
    lines = [
        f'Dir::State "{folder}/state";',
        f'Dir::State::status "{folder}/status";',
        f'Dir::Cache "{folder}/cache";',
        'Dir::Cache::pkgcache "pkgcache.bin";',
        'Dir::Cache::srcpkgcache "srcpkgcache.bin";',
        f'Dir::Etc::sourcelist "{folder}/sources.list";',
        f'Dir::Etc::sourceparts "{folder}/none";',
        f'Dir::Etc::preferences "{folder}/none/preferences";',
        f'Dir::Etc::preferencesparts "{folder}/none";',
        # Never less strict than apt's own defaults, whatever the host allows.
        'APT::Get::AllowUnauthenticated "false";',
        'Acquire::AllowInsecureRepositories "false";',
        'Acquire::AllowWeakRepositories "false";',
        'Acquire::AllowDowngradeToInsecureRepositories "false";',
        'APT::Sandbox::User "root";',  # apt's own user cannot enter a private folder
        'APT::Architecture "amd64";',
        "#clear APT::Architectures;",
        'APT::Architectures { "amd64"; };',
        'APT::Install-Recommends "false";',
        'APT::Install-Suggests "false";',
        'APT::Update::Error-Mode "any";',  # or an unreachable mirror is only a warning
        'Acquire::Languages "none";',
        'Acquire::GzipIndexes "true";',
        'Acquire::Retries "2";',
        'Acquire::http::Timeout "20";',
        'Acquire::https::Timeout "20";',
    ]
    # Commands that the host has tied to its own updates and installs.
    hooks = ("Pre-Invoke", "Post-Invoke", "Post-Invoke-Success", "Pre-Install-Pkgs")
    lines += [f"#clear {when}::{hook};" for when in ("APT::Update", "DPkg") for hook in hooks]
    return "\n".join(lines) + "\n"


def _mirror() -> str:
    """Return the address of a Debian mirror: PARITY_MIRROR, or what the host's apt uses."""
    chosen = os.environ.get("PARITY_MIRROR", "").strip()
    if chosen.startswith("/"):
        chosen = f"copy:{chosen}"
    if chosen:
        if re.fullmatch(r"[a-z+]+:[^\s\[\]]+", chosen) is None:
            raise InstallError(
                f"PARITY_MIRROR is {chosen!r}.",
                "the address of a Debian mirror, such as https://HOST/debian, or a folder.",
                "correct PARITY_MIRROR, or unset it to use the host's own mirror.",
            )
        # apt leaves archives of file: where they are; copy: is the same with a copy of ours.
        return re.sub(r"^file:", "copy:", chosen)
    mirror = _debian_of(
        _sources("indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"),
        _sources("update", "--print-uris"),
    )
    if not mirror:
        raise InstallError(
            "no Debian mirror is named in the host's apt sources.",
            "a source of Debian's own `main` there, or PARITY_MIRROR.",
            "set PARITY_MIRROR to a Debian mirror that has bullseye (https://HOST/debian).",
        )
    return re.sub(r"^file:", "copy:", mirror)


def _sources(*question: str) -> str:
    """Return what apt-get says about the host's sources; neither question needs the network."""
    return subprocess.run(
        ["apt-get", *question],
        env=os.environ | {"LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    ).stdout


def _debian_of(labels: str, addresses: str) -> str:
    """Return the source that is most likely Debian's main archive, an empty string if none is.

    `labels` are sure, but apt knows them only once it has fetched its lists, which the images of
    containers come without. A wrong guess does no harm: Debian's keys would not fit.
    """
    labelled = re.search(r"^Debian (\S+)$", labels, re.MULTILINE)
    if labelled:
        return str(labelled.group(1))
    found = re.findall(r"^'([^']+?)/*/dists/([^/']+)/main/binary-amd64/", addresses, re.MULTILINE)
    usable = [(base, suite) for base, suite in found if "security" not in base + suite]
    for base, suite in usable:
        if suite == _codename() and (base, f"{suite}-updates") in usable:
            return str(base)
    return next((str(base) for base, _ in usable if base.endswith("/debian")), "")


def _codename() -> str:
    """Return the name of the Debian release that this is, an empty string on another system."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return ""
    return release.get("VERSION_CODENAME", "") if release["ID"] == "debian" else ""


# What apt says (in the C locale) for the failures that can be told apart, most telling first.
_FULL = r"No space left|enough free space|Disk quota exceeded"
_UNVERIFIED = (
    r"Hash Sum mismatch|unexpected size|NO_PUBKEY|EXPKEYSIG|REVKEYSIG|BADSIG|is not signed|"
    r"invalid signature|couldn't be verified|could not be verified|isn't valid|"
    r"cannot be authenticated|Missing key|Splitting up"
)
_UNREACHABLE = (
    r"Could not connect|Could not resolve|Connection failed|Connection refused|timed out|"
    r"Network is unreachable|Temporary failure|Unable to connect|Could not handshake|"
    r"certificate|Connection reset|Cannot initiate|Undetermined Error|Invalid response from proxy"
)
_NO_SUITE = r"does not have a Release file|404 +Not Found|File not found"
_NO_PACKAGE = r"Unable to locate package|no installation candidate|Unable to correct problems"


def _apt_error(text: str, mirror: str, suite: str) -> InstallError:
    said = _telling_line(text)
    if re.search(_FULL, text):
        return _no_space(_line_with(_FULL, text))
    if re.search(_UNVERIFIED, text):
        return InstallError(
            f"what the mirror sent is not what Debian signed.\n  said:     {said}",
            f"`{suite}` as signed with Debian's archive keys, from {mirror}",
            "try again; if it stays, set PARITY_MIRROR to another Debian mirror, and do not"
            " trust this one.",
        )
    if re.search(_UNREACHABLE, text):
        return InstallError(
            f"the Debian mirror cannot be reached.\n  said:     {said}",
            f"an answer from {mirror}",
            "check the network and the proxy (apt's own settings are used), or set PARITY_MIRROR"
            " to a mirror that can be reached.",
        )
    if re.search(_NO_SUITE, text):
        return InstallError(
            f"the mirror does not have (all of) the suite `{suite}`.\n  said:     {said}",
            f"Debian's `{suite}` at {mirror}; old suites leave the mirrors in time.",
            f"set PARITY_MIRROR to a mirror that has `{suite}`, such as Debian's archive of old"
            " releases or a snapshot.",
        )
    if re.search(_NO_PACKAGE, text):
        return InstallError(
            f"the mirror lacks a package.\n  said:     {said}",
            f"all packages of `{suite}` main for amd64 at {mirror}",
            "set PARITY_MIRROR to a complete Debian mirror.",
        )
    return InstallError(
        f"apt-get failed.\n  said:     {said}",
        f"`{suite}` from {mirror}",
        "try again, or set PARITY_MIRROR to another Debian mirror.",
    )


def _telling_line(text: str) -> str:
    """Return the first line in which apt names an error, else its last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E:", "Err:", "W: GPG"))]
    named = [line for line in errors if line.startswith("E:")] or errors or lines[-1:]
    return named[0] if named else "nothing"


def _line_with(pattern: str, text: str) -> str:
    return next(line.strip() for line in text.splitlines() if re.search(pattern, line))


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
    if re.search(_FULL, said):
        raise _no_space(_line_with(_FULL, said))
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


def _try_caffe(root: Path) -> dict[str, Any]:
    """Import Caffe in `root` and return what it says about itself."""
    command, environment = python_command(root)
    environment = os.environ | environment | {"PYTHONDONTWRITEBYTECODE": ""}
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
    if re.search(_FULL, said):
        raise _no_space(_line_with(_FULL, said))
    raise InstallError(
        f"the unpacked Caffe does not work.\n  said:     {said.splitlines()[-1]}",
        "`import caffe` in it, with the layer types Python, EuclideanLoss and Reduction.",
        "try again; if PARITY_MIRROR is set, try another Debian mirror.",
    )
