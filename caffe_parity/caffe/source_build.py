"""Build Caffe from Debian's source package with its own cmake: what every such build has in common.

The Caffe with CUDA (`cuda_build`) and the one with a user's own files in it (`drop_in`) are made of
it. Nothing of the host's own compilers is used, so that every machine builds the same thing.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from caffe_parity.caffe import cache, debian, install, programs
from caffe_parity.caffe.install import InstallError
from caffe_parity.progress import Progress

DATA = debian.DATA["source"]
MULTIARCH = "usr/lib/x86_64-linux-gnu"
LIBRARY = "libcaffe.so.1.0.0"
PACKAGE = "usr/lib/python3/dist-packages/caffe"


class BuildFailed(InstallError):
    """A program of a build failed.

    Attributes:
        printed: what it said.
    """

    def __init__(self, happened: str, expected: str, advice: str, printed: str) -> None:
        super().__init__(happened, expected, advice)
        self.printed = printed


@dataclass(frozen=True)
class Tree:
    """A source tree that is built.

    Attributes:
        root: a folder of unpacked packages, with all that the build runs on.
        work: the folder of the build, with `source`, and what else it makes.
        log: the file in `work`, and in the cache folder where it failed, with what was printed.
        words: what is being done, for whoever waits.
        advice: what to do where it fails.
    """

    root: Path
    work: Path
    log: str
    words: str
    advice: str = "read the log."

    @property
    def tools(self) -> Path:
        """The folder with the build's programs."""
        return self.work / "bin"

    @property
    def source(self) -> Path:
        """Caffe's source."""
        return self.work / "source"

    @property
    def made(self) -> Path:
        """Where cmake and make put what they make."""
        return self.work / "build"

    @property
    def library(self) -> Path:
        """The built libcaffe."""
        return self.made / "lib" / LIBRARY

    def make_tools(self, *more: str) -> None:
        """Write scripts that run the build tools of `root` on their own libraries.

        Only they see those libraries: what else the build calls is the host's (sh, cp, ln).
        """
        self.tools.mkdir()
        own = {"LD_LIBRARY_PATH": str(self.root / MULTIARCH)}
        for program in (*DATA["tools"], *more):
            programs.write_script(self.tools / program, [f"{self.root}/usr/bin/{program}"], own)
        for program in ("gcc", "g++"):
            command, variables = install.compiler_command(self.root, program)
            no_path = f"-ffile-prefix-map={self.root.parent}=."  # of this machine, in what it makes
            programs.write_script(self.tools / program, [*command, no_path], variables)
        programs.write_script(self.tools / "python3", *install.python_command(self.root))

    def compile(
        self,
        options: Mapping[str, str],
        progress: Progress,
        detail: str = "",
        variables: Mapping[str, str] | None = None,
        first: Sequence[str] = (),
    ) -> None:
        """Run Caffe's cmake and make.

        Args:
            options: settings of cmake, beside those that are the same everywhere.
            progress: told how far it is.
            detail: told with it first.
            variables: further ones of the build's environment.
            first: sources, from src/caffe on, that are compiled before all others: those that may
                be wrong.

        Raises:
            BuildFailed: cmake refuses it, or the compiler.
        """
        places = {"root": self.root, "tools": self.tools, "libraries": self.root / MULTIARCH}
        every = DATA["options"] | {
            option: place.format(**places) for option, place in DATA["places"].items()
        }
        settings = [f"-D{key}={value}" for key, value in (every | options).items()]
        self.made.mkdir(exist_ok=True)
        (self.work / "tmp").mkdir(exist_ok=True)
        # Nothing of the user's environment: flags set there would end up in what is built.
        environment = {
            "PATH": f"{self.tools}:/usr/bin:/bin",
            "LC_ALL": "C",
            "HOME": str(self.work),
            "TMPDIR": str(self.work / "tmp"),
            **(variables or {}),
        }

        jobs = len(os.sched_getaffinity(0))
        doing = f"{detail}on {jobs} core{'s' * (jobs > 1)}"
        began = time.monotonic()

        def waiting(said: str) -> None:
            progress(self.words, f"{doing}, {time.monotonic() - began:.0f} s")

        def watch(said: str) -> None:
            nonlocal doing
            for percent in re.findall(r"^\[ *(\d+)%\]", said, re.MULTILINE)[-1:]:
                doing = f"{percent} %"
            waiting(said)

        log = self.work / self.log
        command = [str(self.tools / "cmake"), str(self.source), *settings]
        run(command, self.made, log, environment, waiting, self.advice)
        make = [str(self.tools / "make"), f"-j{jobs}"]
        if first:
            objects = ["-C", "src/caffe", *(f"{each}.o" for each in first)]
            run([*make, "caffeproto"], self.made, log, environment, waiting, self.advice)
            run([*make, *objects], self.made, log, environment, waiting, self.advice)
        run([*make, "pycaffe"], self.made, log, environment, watch, self.advice)

    def put_in_place(self, library: Path, package: Path) -> None:
        """Put what was built where a Python finds it.

        Args:
            library: the folder for libcaffe.
            package: the folder that Python's package `caffe` shall be.
        """
        shutil.copy(self.library, library)
        for link in ("libcaffe.so.1", "libcaffe.so"):
            (library / link).symlink_to(LIBRARY)
        ignored = shutil.ignore_patterns("*.cpp", "*.so", "test", "__pycache__")
        shutil.copytree(self.source / "python/caffe", package, ignore=ignored)
        shutil.copy(self.made / "lib/_caffe.so", package)
        for file in (library / LIBRARY, package / "_caffe.so"):
            run([str(self.tools / "strip"), "--strip-unneeded", str(file)], self.work, log=None)


def unpack_source(fetched: Path, source: Path, tools: Path) -> str:
    """Unpack the source package in `fetched` into `source`, with Debian's patches applied.

    Returns its version.
    """
    source.mkdir()
    description = next(fetched.glob("*.dsc"))
    for part in ("orig", "debian"):  # neither has a folder of its own around its files
        archive = next(fetched.glob(f"*.{part}.tar.*"))
        command = ["tar", "-x", "--no-same-owner", "-f", str(archive), "-C", str(source)]
        run(command, source, log=None)
    for patch in (source / "debian/patches/series").read_text().split():
        file = source / "debian/patches" / patch
        run([str(tools / "patch"), "-p1", "-s", "-i", str(file)], source, log=None)
    return description.stem.removeprefix("caffe_")


def check_folder() -> None:
    """Raise InstallError if the path of the cache folder is none that a build can be made in."""
    if re.search(r"[\s:;,$]", str(cache.folder())):
        raise InstallError(
            f"the path of the cache folder is {str(cache.folder())!r}.",
            "one without spaces and other signs that make and a search path cannot hold.",
            "set PARITY_CACHE to such a folder.",
        )


def run(
    command: Sequence[str],
    folder: Path,
    log: Path | None,
    environment: Mapping[str, str] | None = None,
    watch: Callable[[str], None] = lambda said: None,
    advice: str = "try again; if PARITY_MIRROR is set, try another Debian mirror.",
) -> None:
    """Run a program of a build; `watch` gets what it prints piece by piece, and `log` all of it.

    Raises BuildFailed, which quotes the first error, if it fails; the log is kept then.
    """
    status, text = programs.run(command, folder, environment, watch)
    if log is not None:
        with log.open("a") as file:
            file.write(f"$ {shlex.join(command)}\n{text}\n")
    if status == 0:
        return
    if full := programs.full_disk(text):
        raise OSError(errno.ENOSPC, full)
    kept = ""
    if log is not None:
        shutil.copy(log, cache.folder() / log.name)
        kept = f"\n  log:      {cache.folder() / log.name}"
    raise BuildFailed(
        f"{Path(command[0]).name} failed.\n  said:     {programs.first_error(text)}{kept}",
        "Debian 11's source package of Caffe, which builds.",
        advice,
        text,
    )
