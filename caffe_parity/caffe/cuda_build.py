"""Build a Caffe with CUDA from Debian's source package: without root, and without a GPU.

No package of any distribution has one any more. Debian 11's source package of Caffe still builds
with today's CUDA once a few lines are gone (`DELETED`) that use what CUDA has dropped. Everything
comes from two places, each with its own proof of origin: the source, the compiler, the libraries
and Python from Debian 11, verified by apt; CUDA's compiler and libraries from PyPI, at fixed
versions with known digests. Nothing of the host's own compilers or CUDA is used, so that every
machine builds the same thing, and what it builds runs on the libraries it was built with.

The install lies beside the normal one in the cache folder and is made in the same way (`install`):
at once or not at all. It can compile layers, too: headers, g++ and nvcc stay in it.

Environment variables: PARITY_CUDA_ARCH (the architectures of the GPUs that it shall run on, such as
"75 80 90"; otherwise 90). Code for the newest of them is kept in a form that newer GPUs can use.
PARITY_CUDA_LAYERS (a folder with the source files of layers, which become part of this Caffe: they
are copied into its source tree as a user of Caffe would copy them).
"""

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from caffe_parity.caffe import cache, debian, install, source_build
from caffe_parity.caffe.install import BULLSEYE, InstallError
from caffe_parity.caffe.source_build import MULTIARCH, PACKAGE, Tree, unpack_source
from caffe_parity.progress import Progress

DATA = debian.DATA["cuda"]
LAYOUT = 1  # counts the changes of what this file makes out of the same sources
CODE = (".cpp", ".cu")
LOG = "cuda-build.log"
ADVICE = "read the log; PARITY_CUDA_ARCH must name architectures that CUDA 13.0 knows."
TOOLKIT = "cuda/nvidia/cu13"  # where PyPI's packages of CUDA 13 put all that they have

EDITION = replace(
    BULLSEYE,
    room=5,  # measured: 2.6 for the install, 1.6 more while it is made
    packages=tuple(DATA["packages"]),
)

WHEELS: dict[str, str] = DATA["wheels"]
"""PyPI's packages of CUDA 13.0, for Linux on x86-64, each with the SHA-256 of its wheel."""

DELETED = {file: tuple(texts) for file, texts in DATA["deleted"].items()}
"""What is deleted from Caffe's source files so that CUDA 13 compiles them."""

OPTIONS: dict[str, Any] = source_build.DATA["options"] | DATA["options"]
"""Settings of Caffe's cmake that are the same on every machine."""


def architectures() -> tuple[str, ...]:
    """Return the GPU architectures to build for, in ascending order (PARITY_CUDA_ARCH).

    Raises InstallError if these are none that CUDA 13 can build for.
    """
    text = os.environ.get("PARITY_CUDA_ARCH", "").strip() or "90"
    words = re.split(r"[\s,;]+", text)
    if not all(re.fullmatch(r"\d{2,3}", word) and int(word) >= 75 for word in words):
        raise InstallError(
            f"PARITY_CUDA_ARCH is {text!r}.",
            "numbers of GPU architectures from 75 (Turing) up, such as 90 or 75 80 90.",
            "correct PARITY_CUDA_ARCH, or unset it to build for 90.",
        )
    return tuple(sorted(set(words), key=int))


def extra_layers() -> dict[str, Path]:
    """Return the source files of PARITY_CUDA_LAYERS by where they belong in Caffe's source tree.

    Raises InstallError if it names a folder without any.
    """
    folder = os.environ.get("PARITY_CUDA_LAYERS", "").strip()
    if not folder:
        return {}
    files = sorted(Path(folder).expanduser().glob("*"))
    headers = {f"include/caffe/layers/{each.name}": each for each in files if each.suffix == ".hpp"}
    sources = {f"src/caffe/layers/{each.name}": each for each in files if each.suffix in CODE}
    if not sources:
        raise InstallError(
            f"PARITY_CUDA_LAYERS is {folder!r}.",
            "a folder that holds the .cpp, .cu and .hpp files of layers, such as caffe_impl/cuda.",
            "correct PARITY_CUDA_LAYERS, or unset it to build a Caffe without further layers.",
        )
    return headers | sources


def name() -> str:
    """Return the install's name in the cache folder; it changes with all that decides its content.

    Raises InstallError as `architectures` and `extra_layers` do.
    """
    parts: tuple[object, ...] = (LAYOUT, EDITION.key, WHEELS, DELETED, OPTIONS, architectures())
    if extra := extra_layers():
        parts = (*parts, {place: file.read_bytes() for place, file in extra.items()})
    return f"caffe-cuda-{hashlib.sha256(repr(parts).encode()).hexdigest()[:12]}"


def built() -> Path | None:
    """Return the root of the complete build, None if there is none. Only looks."""
    return install.complete(name())


def build(progress: Progress | None = None) -> Path:
    """Return the root of the Caffe with CUDA, building it first if it is not there.

    That takes some minutes (measured: 7 on two cores), a download of 780 MB and 5 GB of disk. Of
    several processes that ask at once, one builds and the others wait.

    Raises InstallError for everything that can go wrong. Nothing half-made is left behind then, but
    for the log of a failed build.
    """
    progress = Progress() if progress is None else progress
    wanted = architectures()
    source_build.check_folder()

    def fill(work: Path) -> dict[str, Any]:
        install.check_space(work, EDITION.room * 10**9)
        apt, packages = install.unpack_packages(work, EDITION, progress, sources=True)
        root = work / cache.ROOT
        tree = Tree(root, work, LOG, "building Caffe with CUDA", ADVICE)
        tree.make_tools()
        progress("fetching Caffe's source")
        version = unpack_source(apt.download_source("caffe"), tree.source, tree.tools)
        delete_lines(tree.source)
        for place, file in extra_layers().items():
            shutil.copy(file, tree.source / place)
        shutil.rmtree(work / "apt")
        _fetch_toolkit(work, progress)
        tree.compile(_options(tree, wanted), progress, f"for {' '.join(wanted)}, ")
        tree.put_in_place(root / MULTIARCH, root / PACKAGE)
        shutil.copytree(tree.source / "include/caffe", root / "usr/include/caffe")
        proto = root / "usr/include/caffe/proto"
        proto.mkdir(exist_ok=True)
        shutil.copy(tree.made / "include/caffe/proto/caffe.pb.h", proto)
        progress("importing Caffe")
        facts = install.try_caffe(python_command(root))
        cuda = {"architectures": wanted, "toolkit": list(WHEELS), "source": version}
        return {"caffe": facts, "packages": packages, "cuda": cuda}

    return install.make_once(name(), EDITION, fill, progress)


def python_command(root: Path, blas: str = "reference") -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the command and the environment that run the Python of the build in `root`.

    As `install.python_command`, with CUDA's libraries in `root` and the driver's of this machine.
    """
    return install.python_command(root, blas, (root / TOOLKIT / "lib", *_driver_folder()))


def _driver_folder() -> list[Path]:
    """Return the folder of libcuda.so.1, which belongs to the driver, if this machine has one."""
    folders = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    folders += ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib/wsl/lib"]
    folders += ["/usr/local/nvidia/lib64", "/usr/local/nvidia/lib"]
    with contextlib.suppress(OSError):
        environment = os.environ | {"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
        listed = subprocess.run(["ldconfig", "-p"], env=environment, capture_output=True, text=True)
        folders += re.findall(r"libcuda\.so\.1 \(.*x86-64.* => (/.*)/libcuda", listed.stdout)
    there = [folder for folder in folders if os.path.exists(os.path.join(folder, "libcuda.so.1"))]
    return [Path(folder).absolute() for folder in there if folder][:1]


def _options(tree: Tree, wanted: Sequence[str]) -> dict[str, str]:
    """The settings of Caffe's cmake that CUDA wants."""
    places = {"tools": tree.tools, "toolkit": tree.root / TOOLKIT}
    return {
        **DATA["options"],
        "CUDA_ARCH_BIN": " ".join(wanted),
        "CUDA_ARCH_PTX": wanted[-1],
        **{option: place.format(**places) for option, place in DATA["places"].items()},
    }


def delete_lines(source: Path, deleted: Mapping[str, Sequence[str]] = DELETED) -> None:
    """Delete from the files in `source` the texts that `deleted` lists for each.

    Raises InstallError if one of them is not there exactly once: then this is another Caffe than
    the one that the list was made for. Nothing is changed in that case.
    """
    changed: dict[Path, str] = {}
    for file, texts in deleted.items():
        path = source / file
        content = path.read_text() if path.is_file() else ""
        for text in texts:
            if content.count(text) != 1:
                times = "is not there" if text not in content else "is there more than once"
                raise InstallError(
                    f"Caffe's source is not the known one: {file} has changed.\n"
                    f"  said:     the text to delete {times}: {text.strip()!r}",
                    f"Debian 11's source package of Caffe ({EDITION.suite}).",
                    "set PARITY_MIRROR to a Debian mirror; if it is one, adapt `cuda.deleted` in"
                    " caffe_parity/caffe/debian.toml.",
                )
            content = content.replace(text, "")
        changed[path] = content
    for path, content in changed.items():
        path.write_text(content)


def _fetch_toolkit(work: Path, progress: Progress) -> None:
    """Install CUDA's compiler and libraries from PyPI into the root, with this Python's own pip."""
    wanted = work / "requirements.txt"
    lines = [f"{package} --hash=sha256:{digest}\n" for package, digest in WHEELS.items()]
    wanted.write_text("".join(lines))
    target = work / cache.ROOT / TOOLKIT
    command = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--only-binary=:all:", "--require-hashes", "--no-compile"),
        *("--target", str(work / cache.ROOT / "cuda"), "--requirement", str(wanted)),
    ]
    progress("fetching CUDA from PyPI", "590 MB")
    (work / "tmp").mkdir()
    environment = os.environ | {"PIP_USER": "0", "TMPDIR": str(work / "tmp")}
    try:
        source_build.run(command, work, log=None, environment=environment)
    except InstallError as error:
        raise InstallError(
            f"CUDA's compiler and libraries could not be fetched from PyPI.\n{error.happened}",
            "a pip of this Python that can install nvidia-cuda-nvcc 13.0 and its like:"
            f" {sys.executable} -m pip",
            "check that pip is there and can reach a package index (its own settings are used).",
        ) from error
    if not (target / "bin/nvcc").exists():
        raise InstallError(
            "PyPI's packages of CUDA have no nvcc where it is expected.",
            f"{target.relative_to(work / cache.ROOT)}/bin/nvcc",
            "try again with another pip.",
        )
    for library in (target / "lib").glob("lib*.so.*"):  # the linker's names are not packaged
        link = library.with_name(library.name.partition(".so.")[0] + ".so")
        link.symlink_to(library.name)
    (target / "lib64").symlink_to("lib")
