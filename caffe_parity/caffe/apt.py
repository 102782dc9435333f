"""Fetch packages from Debian's archive, verified, without root and beside the host's own apt.

The host's ``apt-get`` does it, with a private configuration: state, cache and source list lie in a
folder of ours, and whatever the host allows, only what Debian's archive keys vouch for is taken.
Binary packages come with all that they depend on, source packages as the files that they are.

Environment variable: PARITY_MIRROR (a Debian mirror; otherwise the one in the host's apt sources).
"""

import errno
import os
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from caffe_parity.caffe import debian, programs
from caffe_parity.errors import ParityError

DATA = debian.DATA["apt"]
OTHER_WAY = "Or set CAFFE_PYTHON to a Python that can `import caffe`; then nothing is installed."


class InstallError(ParityError):
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


@dataclass(frozen=True)
class Archive:
    """One package as the mirror offers it."""

    package: str
    version: str
    size: int  # bytes to fetch


class Apt:
    """The host's apt-get, on a state, a cache and a source list of our own.

    The rest of the host's configuration (proxies, certificates, credentials) stays in force. All
    that goes wrong is raised as InstallError, but for a full disk, which is an OSError (ENOSPC).

    Args:
        folder: where everything that apt writes goes; made here.
        suite: the name of a Debian release.
        keyrings: the first of these files that exists holds the keys that the suite must be signed
            with.
        sources: whether source packages are wanted, too; their list has another 9 MB.
    """

    def __init__(
        self, folder: Path, suite: str, keyrings: Sequence[str], sources: bool = False
    ) -> None:
        self._folder = folder
        self._suite = suite
        self._mirror = mirror()
        for part in ("state/lists/partial", "cache/archives/partial", "none", "archives"):
            (folder / part).mkdir(parents=True)
        (folder / "status").touch()  # nothing counts as installed, so all dependencies are fetched
        keyring = next(path for path in keyrings if os.path.exists(path))
        where = f"signed-by={keyring}] {self._mirror} {suite} main\n"
        lists = f"deb [arch=amd64 lang=none target=Packages {where}"
        if sources:
            lists += f"deb-src [lang=none target=Sources {where}"
        (folder / "sources.list").write_text(lists)
        self._configuration = folder / "apt.conf"
        self._configuration.write_text(DATA["configuration"].format(folder=folder))

    def update(self) -> None:
        """Fetch and verify the suite's list of packages."""
        self._run("update")

    def plan(self, packages: Sequence[str]) -> list[Archive]:
        """Return what must be fetched for `packages`, with all that they depend on."""
        text = self._run("install", "--print-uris", *packages)
        found = re.findall(r"^'[^']+' (\S+?)_(\S+?)_\S+\.deb (\d+)", text, re.MULTILINE)
        return [Archive(name, unquote(version), int(size)) for name, version, size in found]

    def download(self, archives: Sequence[Archive], watch: Callable[[int], None]) -> Path:
        """Fetch and verify `archives`; return the folder that has them.

        `watch` is called now and then with the number of bytes that are there.
        """
        folder = self._folder / "archives"
        names = [f"{archive.package}={archive.version}" for archive in archives]
        self._run(
            "download",
            *names,
            folder=folder,
            watch=lambda said: watch(sum(_size(file) for file in folder.iterdir())),
        )
        return folder

    def download_source(self, package: str) -> Path:
        """Fetch and verify a source package; return the folder that has its files, and no others.

        These are a .dsc, the original tar archive, and one with Debian's own files (debian/).
        """
        folder = self._folder / "source"
        folder.mkdir()
        self._run("source", "--download-only", package, folder=folder)
        return folder

    def _run(
        self,
        *arguments: str,
        folder: Path | None = None,
        watch: Callable[[str], None] = lambda said: None,
    ) -> str:
        command = ("apt-get", "-c", str(self._configuration), "-q", "-y", *arguments)
        environment = os.environ | {"LC_ALL": "C", "LANGUAGE": ""}  # its words are searched below
        status, text = programs.run(command, folder or self._folder, environment, watch)
        if status != 0:
            raise _error(text, self._mirror, self._suite)
        return text


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # apt has just renamed it
        return 0


def mirror() -> str:
    """Return the address of a Debian mirror: PARITY_MIRROR, or what the host's apt uses.

    Raises InstallError if there is none; no network is used.
    """
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
    found = _debian_of(
        _sources("indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"),
        _sources("update", "--print-uris"),
    )
    if not found:
        raise InstallError(
            "no Debian mirror is named in the host's apt sources.",
            "a source of Debian's own `main` there, or PARITY_MIRROR.",
            "set PARITY_MIRROR to a Debian mirror that has bullseye (https://HOST/debian).",
        )
    return re.sub(r"^file:", "copy:", found)


def _sources(*question: str) -> str:
    """Return what apt-get says about the host's sources; neither question needs the network."""
    command = ("apt-get", *question)
    return programs.run(command, Path("/"), os.environ | {"LC_ALL": "C"})[1]


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


def _error(text: str, mirror: str, suite: str) -> InstallError | OSError:
    if full := programs.full_disk(text):
        return OSError(errno.ENOSPC, full)
    failure = next(each for each in DATA["failures"] if re.search("|".join(each["signs"]), text))
    happened, expected, advice = (
        failure[part].format(mirror=mirror, suite=suite)
        for part in ("happened", "expected", "advice")
    )
    return InstallError(f"{happened}\n  said:     {_telling_line(text)}", expected, advice)


def _telling_line(text: str) -> str:
    """Return the first line in which apt names an error, else its last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E:", "Err:", "W: GPG"))]
    named = [line for line in errors if line.startswith("E:")] or errors or lines[-1:]
    return named[0] if named else "nothing"
